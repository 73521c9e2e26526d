package queuetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// sweepOf is a sweep with children "ID-0", "ID-1", …
func sweepOf(id string, children int) queue.SweepSubmission {
	sub := queue.SweepSubmission{ID: id, Request: json.RawMessage(`{"samples":3}`)}
	for i := range children {
		sub.Children = append(sub.Children, queue.ChildSubmission{
			ID: fmt.Sprint(id, "-", i), DisplayName: fmt.Sprint("n", i),
			Spec: json.RawMessage(`{"train":{}}`), Values: json.RawMessage(fmt.Sprintf(`{"train.seed":%d}`, i)),
		})
	}
	return sub
}

func (s *suite) submitSweep(t *testing.T, sub queue.SweepSubmission) queue.Sweep {
	t.Helper()
	sweep, created, err := s.SubmitSweep(t.Context(), sub)
	if err != nil || !created {
		t.Fatalf("submitting sweep %s: created %v, %v", sub.ID, created, err)
	}
	return sweep
}

func sweepSubmitted(t *testing.T, s *suite) {
	s.submit(t, "before")
	sub := sweepOf("s", 3)
	sub.RequestID = "r"
	sweep := s.submitSweep(t, sub)
	if got, err := s.GetSweep(t.Context(), "s"); err != nil || !reflect.DeepEqual(got, sweep) || !got.Created.Equal(s.clock.Now()) || !got.Cancelled.IsZero() {
		t.Errorf("read back %+v, %v\nwant %+v", got, err, sweep)
	}
	again := sweepOf("t", 2)
	again.RequestID = "r"
	if got, created, err := s.SubmitSweep(t.Context(), again); err != nil || created || !reflect.DeepEqual(got, sweep) {
		t.Errorf("with the same request id: %+v, created %v, %v", got, created, err)
	}
	if _, err := s.Get(t.Context(), "t-0"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("a child of the refused sweep: %v", err)
	}

	s.lease(t, "w") // the job before
	for i := range 3 {
		job := s.lease(t, "w")
		want := sub.Children[i]
		if job.ID != want.ID || job.Sweep != "s" || job.SweepIndex != i || string(job.Spec) != string(want.Spec) ||
			string(job.SweepValues) != string(want.Values) || job.DisplayName != want.DisplayName || job.RequestID != "" {
			t.Errorf("child %d leased as %+v", i, job)
		}
	}
	events, err := s.Events(t.Context(), "s-1", 0, 10)
	if err != nil || len(events) != 2 || events[0].Type != queue.LogSubmitted || events[0].Job.Sweep != "s" {
		t.Errorf("events of a child: %+v, %v", events, err)
	}

	page, err := s.Children(t.Context(), "s", 1, 1)
	if err != nil || len(page) != 1 || page[0].ID != "s-1" || page[0].Spec != nil {
		t.Errorf("children from 1: %+v, %v", page, err)
	}
	if counts, err := s.CountChildren(t.Context(), "s"); err != nil || !reflect.DeepEqual(counts, map[queue.State]int{queue.Leased: 3}) {
		t.Errorf("counts %v, %v", counts, err)
	}

	clash := sweepOf("u", 3)
	clash.Children[2].ID = "s-0"
	if _, _, err := s.SubmitSweep(t.Context(), clash); err == nil {
		t.Error("a child's id twice was taken")
	}
	if _, err := s.GetSweep(t.Context(), "u"); !errors.Is(err, queue.ErrNoSweep) {
		t.Errorf("half a sweep: %v", err)
	}
	if _, err := s.Get(t.Context(), "u-0"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("a child of half a sweep: %v", err)
	}

	second := s.submitSweep(t, sweepOf("v", 1))
	all, more, err := s.ListSweeps(t.Context(), queue.Page{Limit: 10})
	if err != nil || more || len(all) != 2 || all[0].ID != "v" || all[1].ID != "s" {
		t.Errorf("listed %+v, %v", all, err)
	}
	if rest, more, err := s.ListSweeps(t.Context(), queue.Page{Before: second.Sequence, Limit: 10}); err != nil || more || len(rest) != 1 || rest[0].ID != "s" {
		t.Errorf("second page %+v, %v", rest, err)
	}
}

func sweepCancelled(t *testing.T, s *suite) {
	if _, err := s.CancelSweep(t.Context(), "none", ""); !errors.Is(err, queue.ErrNoSweep) {
		t.Errorf("cancelling no sweep: %v", err)
	}
	s.submitSweep(t, sweepOf("s", 4))
	s.submit(t, "other")
	s.lease(t, "w")
	s.lease(t, "x")
	s.apply(t, "s-0", queue.Done{Epoch: 1, Result: json.RawMessage(`{}`)})
	s.lease(t, "w")
	s.apply(t, "s-2", queue.Cancel{})

	moved, err := s.CancelSweep(t.Context(), "s", "why")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range moved {
		got = append(got, fmt.Sprint(m.Job.ID, " ", m.Job.State, " ", m.Job.Reason, " ", m.Effects.StopWorker))
	}
	want := []string{"s-1 CANCELLING why true", "s-2 CANCELLING cancel requested true", "s-3 CANCELLED why false"}
	if !slices.Equal(got, want) {
		t.Errorf("moved %q\nwant %q", got, want)
	}
	if ended := s.apply(t, "s-1", queue.HandBack{Epoch: 1}); ended.State != queue.Cancelled || ended.Reason != "why" {
		t.Errorf("confirmed: %+v", ended)
	}
	counts, err := s.CountChildren(t.Context(), "s")
	if err != nil || !reflect.DeepEqual(counts, map[queue.State]int{queue.Succeeded: 1, queue.Cancelled: 2, queue.Cancelling: 1}) {
		t.Errorf("counts %v, %v", counts, err)
	}
	sweep, err := s.GetSweep(t.Context(), "s")
	if err != nil || !sweep.Cancelled.Equal(s.clock.Now()) {
		t.Errorf("%+v, %v", sweep, err)
	}
	s.clock.advance(lease / 2)
	if _, err := s.CancelSweep(t.Context(), "s", "again"); err != nil {
		t.Error(err)
	}
	if again, err := s.GetSweep(t.Context(), "s"); err != nil || !again.Cancelled.Equal(sweep.Cancelled) {
		t.Errorf("cancelled again: %+v, %v", again, err)
	}
	if job := s.lease(t, "y"); job.ID != "other" {
		t.Errorf("leased %s, want the job of no sweep", job.ID)
	}
}

func sweepRungs(t *testing.T, s *suite) {
	s.submitSweep(t, sweepOf("s", 3))
	reach := func(child string, rung int, value float64) ([]float64, bool) {
		t.Helper()
		job, err := s.Get(t.Context(), child)
		if err != nil {
			t.Fatal(err)
		}
		values, first, err := s.ReachRung(t.Context(), job, rung, value)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(values)
		return values, first
	}
	for _, c := range []struct {
		child string
		rung  int
		value float64
		want  []float64
		first bool
	}{
		{"s-0", 0, 1.5, []float64{1.5}, true},
		{"s-1", 0, -0.25, []float64{-0.25, 1.5}, true},
		{"s-0", 0, 9, []float64{-0.25, 1.5}, false},
		{"s-0", 1, 1e-300, []float64{1e-300}, true},
	} {
		if values, first := reach(c.child, c.rung, c.value); !slices.Equal(values, c.want) || first != c.first {
			t.Errorf("%+v: %v, first %v", c, values, first)
		}
	}
}
