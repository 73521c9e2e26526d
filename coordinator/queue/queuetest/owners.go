package queuetest

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

func openJobs(t *testing.T, s *suite) {
	submit := func(id string, sched queue.Scheduling, most int) error {
		_, _, err := s.Submit(t.Context(), queue.Submission{ID: id, RequestID: "r-" + id, Spec: json.RawMessage(`{}`), Scheduling: sched, MaxOpen: most})
		return err
	}
	alice := queue.Scheduling{Owner: "alice"}
	if err := errors.Join(submit("a", alice, 2), submit("b", alice, 2), submit("x", queue.Scheduling{Owner: "bob"}, 1)); err != nil {
		t.Fatal(err)
	}
	if job, err := s.Get(t.Context(), "b"); err != nil || job.Owner != "alice" {
		t.Errorf("owner %q, %v, want alice", job.Owner, err)
	}
	if err := submit("c", alice, 2); !errors.Is(err, queue.ErrTooManyOpen) {
		t.Errorf("a third job: %v", err)
	}
	if _, err := s.Get(t.Context(), "c"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("the third job was stored: %v", err)
	}
	if err := submit("a", alice, 2); err != nil {
		t.Errorf("the first again: %v", err)
	}

	sub := sweepOf("s", 2)
	sub.Scheduling, sub.MaxOpen = alice, 2
	if _, _, err := s.SubmitSweep(t.Context(), sub); !errors.Is(err, queue.ErrTooManyOpen) {
		t.Errorf("a sweep of two: %v", err)
	}
	if _, err := s.GetSweep(t.Context(), "s"); !errors.Is(err, queue.ErrNoSweep) {
		t.Errorf("the sweep was stored: %v", err)
	}
	for _, id := range []string{"a", "b"} { // what has ended does not count
		if _, _, err := s.Apply(t.Context(), id, queue.Cancel{}); err != nil {
			t.Fatal(err)
		}
	}
	s.submitSweep(t, sub)
}
