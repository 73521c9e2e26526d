package queuetest

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

func (s *suite) submitFor(t *testing.T, id string, sched queue.Scheduling) queue.Job {
	t.Helper()
	job, _, err := s.Submit(t.Context(), queue.Submission{ID: id, Spec: json.RawMessage(`{}`), Scheduling: sched})
	if err != nil {
		t.Fatalf("submitting %s: %v", id, err)
	}
	s.same(t, job)
	return job
}

// order leases until nothing is left and returns the ids; nothing comes back in between.
func (s *suite) order(t *testing.T, w queue.Worker) (ids []string) {
	t.Helper()
	for {
		job, ok := s.tryLease(t, w)
		if !ok {
			return ids
		}
		ids = append(ids, job.ID)
	}
}

func priorities(t *testing.T, s *suite) {
	s.submitFor(t, "low", queue.Scheduling{Priority: -queue.MaxPriority})
	s.submitFor(t, "first", queue.Scheduling{})
	s.submitFor(t, "high", queue.Scheduling{Priority: 2})
	s.submitFor(t, "second", queue.Scheduling{})
	s.submitFor(t, "top", queue.Scheduling{Priority: queue.MaxPriority})
	if got, want := s.order(t, queue.Worker{Name: "w"}), []string{"top", "high", "first", "second", "low"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
}

func fairness(t *testing.T, s *suite) {
	for i := range 4 {
		s.submitFor(t, fmt.Sprint("a", i), queue.Scheduling{Owner: "ann"})
	}
	b := s.submitFor(t, "b0", queue.Scheduling{Owner: "bob/%"})
	s.submitFor(t, "b1", queue.Scheduling{Owner: "bob/%", Needs: queue.Needs{GPUs: 1}})
	c := s.submitFor(t, "c0", queue.Scheduling{Owner: "cy", Priority: -1})

	if place, err := s.Place(t.Context(), b); err != nil || place.Position(b.Owner) != 2 {
		t.Errorf("bob's first is at %+v, %v; want second", place, err)
	}
	if place, err := s.Place(t.Context(), c); err != nil || place.Position(c.Owner) != 7 {
		t.Errorf("the one of low priority is at %+v, %v; want after the six others", place, err)
	}
	if got, want := s.order(t, queue.Worker{Name: "w", GPUs: 1}), []string{"a0", "b0", "a1", "b1", "a2", "a3", "c0"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
}

// turns: on one worker, which holds no job when it asks, owners are served in turn, whoever submitted first.
func turns(t *testing.T, s *suite) {
	for i := range 3 {
		s.submitFor(t, fmt.Sprint("a", i), queue.Scheduling{Owner: "ann"})
	}
	for i := range 2 {
		s.submitFor(t, fmt.Sprint("b", i), queue.Scheduling{Owner: "bob"})
	}
	var got []string
	for {
		job, ok := s.tryLease(t, queue.Worker{Name: "w"})
		if !ok {
			break
		}
		got = append(got, job.ID)
		s.apply(t, job.ID, queue.Done{Epoch: job.Epoch, Result: json.RawMessage(`{}`)})
	}
	if want := []string{"a0", "b0", "a1", "b1", "a2"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
}

func needs(t *testing.T, s *suite) {
	long := strings.Repeat("x", 500)
	var roots []string
	for i := range 16 {
		roots = append(roots, fmt.Sprint("/", i, long))
	}
	s.submitFor(t, "roots", queue.Scheduling{Needs: queue.Needs{DataRoots: roots, Labels: map[string]string{"zone": "x"}}})
	s.submitFor(t, "gpu", queue.Scheduling{Needs: queue.Needs{GPUs: 1}})
	s.submitFor(t, "any", queue.Scheduling{})
	for _, c := range []struct {
		worker queue.Worker
		want   string
	}{
		{queue.Worker{Name: "plain", DataRoots: []string{"/d"}}, "any"},
		{queue.Worker{Name: "plain", DataRoots: []string{"/d"}}, ""},
		{queue.Worker{Name: "zone", Labels: map[string]string{"zone": "x"}}, "roots"},
		{queue.Worker{Name: "gpu", GPUs: 4}, "gpu"},
	} {
		if job, _ := s.tryLease(t, c.worker); job.ID != c.want {
			t.Errorf("%s is given %q, want %q", c.worker.Name, job.ID, c.want)
		}
	}
}

func batch(t *testing.T, s *suite) {
	s.submitFor(t, "gpu", queue.Scheduling{Needs: queue.Needs{GPUs: 1}})
	s.submitFor(t, "a", queue.Scheduling{})
	s.submitFor(t, "b", queue.Scheduling{})
	jobs, err := s.Lease(t.Context(), []queue.Worker{{Name: "w"}, {Name: "x"}, {Name: "y"}, {Name: "g", GPUs: 1}}, lease)
	var got []string
	for _, job := range jobs {
		got = append(got, job.Worker+" "+job.ID)
		s.same(t, job)
	}
	if want := []string{"w a", "x b", "g gpu"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("leased %q, %v; want %q", got, err, want)
	}
}

func backoff(t *testing.T, s *suite) {
	s.submit(t, "a")
	lose := func() {
		t.Helper()
		job := s.lease(t, "w")
		s.same(t, s.apply(t, "a", queue.Fail{Epoch: job.Epoch, Reason: "disk", Infrastructure: true}))
	}
	lose() // the first is tried again at once
	lose()
	if job, ok := s.tryLease(t, queue.Worker{Name: "w"}); ok {
		t.Errorf("leased %+v before its time", job)
	}
	s.submit(t, "b")
	if job := s.lease(t, "x"); job.ID != "b" {
		t.Errorf("leased %s; one that waits must not hold up others", job.ID)
	}
	s.apply(t, "b", queue.Done{Epoch: 1, Result: json.RawMessage(`{}`)})
	if _, next, err := s.ExpireDue(t.Context()); err != nil || next != queue.Backoff(2) {
		t.Errorf("next due in %v, %v; want %v", next, err, queue.Backoff(2))
	}
	s.clock.advance(queue.Backoff(2))
	if job := s.lease(t, "w"); job.ID != "a" {
		t.Errorf("leased %s", job.ID)
	}
}

func deadlines(t *testing.T, s *suite) {
	due := s.clock.Now().Add(10 * time.Second)
	s.submitFor(t, "runs", queue.Scheduling{Deadline: due})
	s.submitFor(t, "waits", queue.Scheduling{Deadline: due})
	s.lease(t, "w")
	if _, next, err := s.ExpireDue(t.Context()); err != nil || next != 10*time.Second {
		t.Errorf("next due in %v, %v", next, err)
	}
	s.clock.advance(10 * time.Second)
	moved, next, err := s.ExpireDue(t.Context())
	if err != nil || len(moved) != 2 || moved[0].Job.State != queue.Cancelling || !moved[0].Effects.StopWorker || moved[0].LeaseLost || moved[1].LeaseLost || moved[1].Job.State != queue.Failed {
		t.Fatalf("moved %+v, %v", moved, err)
	}
	if next != lease-10*time.Second {
		t.Errorf("next due in %v, want the end of the lease", next)
	}
	if again, _, err := s.ExpireDue(t.Context()); err != nil || len(again) != 0 {
		t.Errorf("moved again %+v, %v", again, err)
	}
	ended := s.apply(t, "runs", queue.HandBack{Epoch: 1})
	s.same(t, ended)
	if ended.State != queue.Failed || !strings.HasPrefix(ended.Reason, "DEADLINE") {
		t.Errorf("ended %+v", ended)
	}
}

func preemption(t *testing.T, s *suite) {
	gpu, plain, away := queue.Worker{Name: "gpu", GPUs: 1}, queue.Worker{Name: "plain"}, queue.Worker{Name: "away", GPUs: 1}
	s.submitFor(t, "on-gpu", queue.Scheduling{Priority: 1})
	s.submitFor(t, "on-plain", queue.Scheduling{Priority: -5})
	s.submitFor(t, "elsewhere", queue.Scheduling{Priority: -9})
	for _, w := range []queue.Worker{gpu, plain, away} {
		s.tryLease(t, w)
	}
	preempt := func() []string {
		t.Helper()
		moved, _, err := s.Preempt(t.Context(), []queue.Worker{gpu, plain}) // away is attached to another coordinator
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, m := range moved {
			if !m.Effects.StopWorker || m.Job.Stop != queue.StopPreempt || m.Job.State != queue.Leased {
				t.Errorf("moved %+v", m)
			}
			ids = append(ids, m.Job.ID)
		}
		return ids
	}
	s.submitFor(t, "equal", queue.Scheduling{Priority: -9})
	if got := preempt(); got != nil {
		t.Errorf("%v gave way to a job of no higher priority", got)
	}
	s.submitFor(t, "needs-gpu", queue.Scheduling{Priority: 5, Needs: queue.Needs{GPUs: 1}})
	if got := preempt(); !slices.Equal(got, []string{"on-gpu"}) {
		t.Errorf("%v gave way, want the only one whose worker has a GPU", got)
	}
	if got := preempt(); got != nil {
		t.Errorf("%v gave way as well, though one is about to", got)
	}
	s.submitFor(t, "urgent", queue.Scheduling{Priority: 2})
	if got := preempt(); !slices.Equal(got, []string{"on-plain"}) {
		t.Errorf("%v gave way, want the other one", got)
	}
	s.same(t, s.apply(t, "on-gpu", queue.HandBack{Epoch: 1}))
	if job, _ := s.tryLease(t, gpu); job.ID != "needs-gpu" {
		t.Errorf("the worker that came free is given %q", job.ID)
	}
}

// preemptionByReady: of a class of which some jobs wait after a lost attempt, only those that may be leased move others.
func preemptionByReady(t *testing.T, s *suite) {
	workers := []queue.Worker{{Name: "one"}, {Name: "two"}, {Name: "three"}}
	for i := range 2 {
		id := fmt.Sprint("lost", i)
		s.submitFor(t, id, queue.Scheduling{Priority: 5})
		for range 2 { // it waits now
			job, _ := s.tryLease(t, workers[0])
			s.apply(t, id, queue.Fail{Epoch: job.Epoch, Reason: "disk", Infrastructure: true})
		}
	}
	for i, w := range workers {
		s.submit(t, fmt.Sprint("runs", i))
		s.tryLease(t, w)
	}
	s.submitFor(t, "ready", queue.Scheduling{Priority: 5})
	if moved, _, err := s.Preempt(t.Context(), workers); err != nil || len(moved) != 1 {
		t.Errorf("%d jobs gave way to one, %v", len(moved), err)
	}
}

func pace(t *testing.T, s *suite) {
	if mean, held, err := s.Pace(t.Context()); mean != 0 || held != 0 || err != nil {
		t.Errorf("with no job: %v, %d, %v", mean, held, err)
	}
	for i, took := range []time.Duration{2 * time.Second, 4 * time.Second} {
		id := fmt.Sprint(i)
		s.submit(t, id)
		s.lease(t, "w")
		s.apply(t, id, queue.Heartbeat{Epoch: 1, For: lease})
		s.clock.advance(took)
		s.apply(t, id, queue.Done{Epoch: 1, Result: json.RawMessage(`{}`)})
	}
	s.submit(t, "runs")
	s.lease(t, "w")
	if mean, held, err := s.Pace(t.Context()); mean != 3*time.Second || held != 1 || err != nil {
		t.Errorf("got %v, %d, %v; want 3s, 1", mean, held, err)
	}
}

func demand(t *testing.T, s *suite) {
	want := func(want queue.Demand) {
		t.Helper()
		got, err := s.Demand(t.Context(), 3)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	want(queue.Demand{})
	gpu := queue.Needs{GPUs: 1, Labels: map[string]string{"zone": "x"}}
	s.submit(t, "lost")
	for range 2 { // it waits now
		job := s.lease(t, "w")
		s.apply(t, "lost", queue.Fail{Epoch: job.Epoch, Reason: "disk", Infrastructure: true})
	}
	want(queue.Demand{})
	for i := range 5 {
		s.submit(t, fmt.Sprint("plain", i))
	}
	s.lease(t, "w2")
	s.lease(t, "w1")
	s.submitFor(t, "gpu", queue.Scheduling{Needs: gpu, Priority: 1})
	s.submitFor(t, "gpu of another", queue.Scheduling{Needs: gpu, Owner: "b"})
	want(queue.Demand{Busy: []string{"w1", "w2"}, Waiting: []queue.Waiting{{Needs: gpu, Jobs: 2}, {Jobs: 3}}})
	s.clock.advance(queue.Backoff(2))
	want(queue.Demand{Busy: []string{"w1", "w2"}, Waiting: []queue.Waiting{{Needs: gpu, Jobs: 2}, {Jobs: 3}}}) // 4, of which 3 count

	// More ask at once than a store has connections.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var together errgroup.Group
	for range 64 {
		together.Go(func() error {
			_, err := s.Demand(ctx, 3)
			return err
		})
	}
	if err := together.Wait(); err != nil {
		t.Error(err)
	}
}

func backlogs(t *testing.T, s *suite) {
	counter, ok := s.Store.(interface {
		Backlogs(context.Context) ([]queue.Backlog, error)
	})
	if !ok {
		t.Fatalf("a %T counts no backlogs", s.Store)
	}
	want := func(want ...queue.Backlog) {
		t.Helper()
		got, err := counter.Backlogs(t.Context())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	want()
	gpu := queue.Needs{GPUs: 1, Labels: map[string]string{"zone": "x"}}
	s.submit(t, "lost")
	for range 2 { // it waits now
		job := s.lease(t, "w")
		s.apply(t, "lost", queue.Fail{Epoch: job.Epoch, Reason: "disk", Infrastructure: true})
	}
	s.submitFor(t, "gpu", queue.Scheduling{Needs: gpu, Priority: 1})
	s.submitFor(t, "gpu of another", queue.Scheduling{Needs: gpu, Owner: "b"})
	s.submit(t, "plain")
	s.submit(t, "held")
	s.lease(t, "w")
	want(queue.Backlog{Ready: 1, Delayed: 1}, queue.Backlog{Needs: gpu, Ready: 2})
	s.clock.advance(queue.Backoff(2))
	want(queue.Backlog{Ready: 2}, queue.Backlog{Needs: gpu, Ready: 2})
}
