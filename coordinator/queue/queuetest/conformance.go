// Package queuetest holds the tests that every store of jobs must pass.
package queuetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// Clock is a clock that the suite moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is the time it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *Clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const lease = 30 * time.Second

// Conformance runs the suite. open opens a store that the test closes, on the same jobs whenever it is called within one
// subtest, also while the first is open, and on none at its start; its leases follow now.
func Conformance(t *testing.T, open func(t *testing.T, now func() time.Time) coordinator.Store) {
	for name, test := range map[string]func(*testing.T, *suite){
		"submitted jobs are kept":                    submitted,
		"a request id makes one job":                 requestID,
		"an unknown job is not found":                notFound,
		"jobs are leased once, in order":             leasing,
		"a requeued job keeps its place":             requeued,
		"leases run out by the clock of the store":   expiry,
		"a refused event leaves no trace":            refused,
		"every field survives reopening":             reopened,
		"the log is append only and complete":        eventLog,
		"pages are newest first":                     listing,
		"text holds what a worker may say":           anyText,
		"a sweep is stored whole or not at all":      sweepSubmitted,
		"a sweep is cancelled as a whole":            sweepCancelled,
		"a child comes to a rung once":               sweepRungs,
		"higher priority is served first":            priorities,
		"an owner has so many open jobs":             openJobs,
		"owners take turns":                          fairness,
		"owners take turns on one worker":            turns,
		"a worker is given what it can serve":        needs,
		"several workers are served at once":         batch,
		"a lost job waits before it is tried again":  backoff,
		"a job fails at its deadline":                deadlines,
		"lower priority gives way":                   preemption,
		"as many give way as may be leased":          preemptionByReady,
		"how long jobs take":                         pace,
		"what waits, and who is busy":                demand,
		"what is queued, by needs":                   backlogs,
		"many workers at once never share a job":     concurrent,
		"a cancelled context stops before it stores": cancelled,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{clock: &Clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}, open: open}
			s.Store = open(t, s.clock.Now)
			test(t, s)
			if err := s.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		})
	}
}

type suite struct {
	coordinator.Store
	clock *Clock
	open  func(*testing.T, func() time.Time) coordinator.Store
}

func (s *suite) submit(t *testing.T, id string) queue.Job {
	t.Helper()
	job, created, err := s.Submit(t.Context(), queue.Submission{ID: id, DisplayName: "d", Spec: json.RawMessage(`{"train":{}}`)})
	if err != nil || !created {
		t.Fatalf("submitting %s: created %v, %v", id, created, err)
	}
	return job
}

func (s *suite) lease(t *testing.T, worker string) queue.Job {
	t.Helper()
	job, ok := s.tryLease(t, queue.Worker{Name: worker})
	if !ok {
		t.Fatalf("no job for %s", worker)
	}
	return job
}

// tryLease leases the job that a worker serves next; ok is false when there is none.
func (s *suite) tryLease(t *testing.T, w queue.Worker) (job queue.Job, ok bool) {
	t.Helper()
	jobs, err := s.Lease(t.Context(), []queue.Worker{w}, lease)
	if err != nil || len(jobs) > 1 {
		t.Fatalf("leasing to %s: %+v, %v", w.Name, jobs, err)
	}
	if len(jobs) == 0 {
		return queue.Job{}, false
	}
	return jobs[0], true
}

func (s *suite) apply(t *testing.T, id string, e queue.Event) queue.Job {
	t.Helper()
	job, _, err := s.Apply(t.Context(), id, e)
	if err != nil {
		t.Fatalf("%T on %s: %v", e, id, err)
	}
	return job
}

// same holds a job that a call returned against what the store reads back.
func (s *suite) same(t *testing.T, want queue.Job) {
	t.Helper()
	got, err := s.Get(t.Context(), want.ID)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v, %v\nwant %+v", got, err, want)
	}
}

func submitted(t *testing.T, s *suite) {
	job := s.submit(t, "a")
	if job.State != queue.Queued || job.Sequence == 0 || job.Revision != 1 || !job.Created.Equal(s.clock.Now()) {
		t.Errorf("got %+v", job)
	}
	s.same(t, job)
}

func requestID(t *testing.T, s *suite) {
	first, _, err := s.Submit(t.Context(), queue.Submission{ID: "a", RequestID: "r", Spec: json.RawMessage(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	again, created, err := s.Submit(t.Context(), queue.Submission{ID: "b", RequestID: "r", Spec: json.RawMessage(`{"x":1}`)})
	if err != nil || created || !reflect.DeepEqual(again, first) {
		t.Errorf("got %+v, created %v, %v; want the first job", again, created, err)
	}
	if _, err := s.Get(t.Context(), "b"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("the second id exists: %v", err)
	}
}

func notFound(t *testing.T, s *suite) {
	if _, err := s.Get(t.Context(), "none"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if _, _, err := s.Apply(t.Context(), "none", queue.Cancel{}); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Apply: %v", err)
	}
	if _, ok := s.tryLease(t, queue.Worker{Name: "w"}); ok {
		t.Error("leased from an empty queue")
	}
}

func leasing(t *testing.T, s *suite) {
	a, b := s.submit(t, "a"), s.submit(t, "b")
	for want, job := range map[int]queue.Job{1: a, 2: b} {
		if got, err := s.Place(t.Context(), job); err != nil || got.Position("") != want {
			t.Errorf("%s is at %+v, %v; want %d", job.ID, got, err, want)
		}
	}
	first := s.lease(t, "w")
	if first.ID != "a" || first.State != queue.Leased || first.Epoch != 1 || first.Worker != "w" || !first.LeaseUntil.Equal(s.clock.Now().Add(lease)) {
		t.Errorf("leased %+v", first)
	}
	s.same(t, first)
	if second := s.lease(t, "x"); second.ID != "b" {
		t.Errorf("leased %s second", second.ID)
	}
	if _, ok := s.tryLease(t, queue.Worker{Name: "y"}); ok {
		t.Error("leased a third of two jobs")
	}
	held, err := s.HeldBy(t.Context(), "w")
	if err != nil || len(held) != 1 || held[0].ID != "a" {
		t.Errorf("w holds %+v, %v", held, err)
	}
}

func requeued(t *testing.T, s *suite) {
	s.submit(t, "a")
	s.submit(t, "b")
	s.lease(t, "w")
	s.apply(t, "a", queue.HandBack{Epoch: 1})
	if again := s.lease(t, "x"); again.ID != "a" || again.Epoch != 2 {
		t.Errorf("leased %s at epoch %d", again.ID, again.Epoch)
	}
}

func expiry(t *testing.T, s *suite) {
	if expired, next, err := s.ExpireDue(t.Context()); len(expired) != 0 || next >= 0 || err != nil {
		t.Errorf("with no lease: %v, next %v, %v", expired, next, err)
	}
	s.submit(t, "a")
	s.submit(t, "b")
	s.lease(t, "w")
	s.clock.advance(10 * time.Second)
	s.lease(t, "x")

	if expired, next, err := s.ExpireDue(t.Context()); len(expired) != 0 || next != 20*time.Second || err != nil {
		t.Errorf("in time: %v, next %v, %v", expired, next, err)
	}
	s.clock.advance(20 * time.Second)
	expired, next, err := s.ExpireDue(t.Context())
	if err != nil || len(expired) != 1 || expired[0].Job.ID != "a" || expired[0].Job.State != queue.Queued || !expired[0].Effects.Offer || !expired[0].LeaseLost || next != 10*time.Second {
		t.Fatalf("when a is due: %+v, next %v, %v", expired, next, err)
	}
	if got, err := s.Get(t.Context(), "a"); err != nil || got.State != queue.Queued || got.Losses != 1 {
		t.Errorf("read back %+v, %v", got, err)
	}

	s.apply(t, "b", queue.Heartbeat{Epoch: 1, For: lease})
	if _, next, err := s.ExpireDue(t.Context()); next != lease || err != nil {
		t.Errorf("after renewal: next %v, %v", next, err)
	}
}

func refused(t *testing.T, s *suite) {
	s.submit(t, "a")
	before := s.lease(t, "w")
	for _, e := range []queue.Event{
		queue.Heartbeat{Epoch: 2, For: time.Hour, Progress: json.RawMessage(`{}`)},
		queue.Checkpointed{Epoch: 2, Step: 1, Path: "p"},
		queue.Done{Epoch: 2, Result: json.RawMessage(`{}`)},
		queue.Fail{Epoch: 2, Reason: "r"},
		queue.HandBack{Epoch: 2},
	} {
		job, effects, err := s.Apply(t.Context(), "a", e)
		if !errors.Is(err, queue.ErrStale) || (effects != queue.Effects{}) || !reflect.DeepEqual(job, before) {
			t.Errorf("%T: %+v, %+v, %v", e, job, effects, err)
		}
	}
	s.same(t, before)
}

func reopened(t *testing.T, s *suite) {
	s.submit(t, "a")
	s.lease(t, "w")
	s.clock.advance(time.Second)
	s.apply(t, "a", queue.Heartbeat{Epoch: 1, For: lease, Progress: json.RawMessage(`{"step":3}`)})
	held := s.apply(t, "a", queue.Checkpointed{Epoch: 1, Step: 3, Path: "/p/step-00000003"})
	s.submit(t, "b")
	s.lease(t, "w")
	s.clock.advance(time.Second)
	done := s.apply(t, "b", queue.Done{Epoch: 1, Result: json.RawMessage(`{"metrics":{"loss":1}}`)})

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Store = s.open(t, s.clock.Now)
	s.same(t, held)
	s.same(t, done)
	if held.Checkpoint != (queue.Checkpoint{Step: 3, Path: "/p/step-00000003", Time: s.clock.Now().Add(-time.Second)}) {
		t.Errorf("checkpoint %+v", held.Checkpoint)
	}
	if !done.Ended.Equal(s.clock.Now()) || !done.Started.Equal(s.clock.Now()) {
		t.Errorf("started %v, ended %v", done.Started, done.Ended)
	}
}

func eventLog(t *testing.T, s *suite) {
	s.submit(t, "a")
	s.lease(t, "w")
	s.apply(t, "a", queue.Heartbeat{Epoch: 1, For: lease})
	s.apply(t, "a", queue.Heartbeat{Epoch: 1, For: lease}) // a bare renewal is no event
	s.apply(t, "a", queue.Heartbeat{Epoch: 1, For: lease, Progress: json.RawMessage(`{"step":1}`)})
	s.apply(t, "a", queue.Checkpointed{Epoch: 1, Step: 1, Path: "p"})
	s.apply(t, "a", queue.HandBack{Epoch: 1, Reason: "drained"})
	s.lease(t, "x")
	s.clock.advance(lease)
	if _, _, err := s.ExpireDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.lease(t, "y")
	s.apply(t, "a", queue.Cancel{})
	last := s.apply(t, "a", queue.HandBack{Epoch: 3})

	want := []queue.LogType{queue.LogSubmitted, queue.LogLeased, queue.LogStarted, queue.LogProgress, queue.LogCheckpointed,
		queue.LogRequeued, queue.LogLeased, queue.LogRequeued, queue.LogLeased, queue.LogCancelRequested, queue.LogEnded}
	entries, err := s.Events(t.Context(), "a", 0, 100)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("got %d events, %v; want %d", len(entries), err, len(want))
	}
	for i, e := range entries {
		if e.Type != want[i] || e.Revision != int64(i+1) || e.Job.Revision != e.Revision || e.Job.Spec != nil || e.Time.IsZero() {
			t.Errorf("event %d: %+v; want %s", i, e, want[i])
		}
	}
	if got := string(entries[3].Job.Progress); got != `{"step":1}` {
		t.Errorf("progress in its event: %s", got)
	}
	last.Spec = nil
	if got := entries[len(entries)-1].Job; !reflect.DeepEqual(got, last) {
		t.Errorf("the last event holds %+v\nwant %+v", got, last)
	}
	rest, err := s.Events(t.Context(), "a", 5, 2)
	if err != nil || len(rest) != 2 || rest[0].Revision != 6 || rest[1].Revision != 7 {
		t.Errorf("resumed after 5: %+v, %v", rest, err)
	}
}

func listing(t *testing.T, s *suite) {
	for i := range 5 {
		s.submit(t, fmt.Sprint(i))
	}
	s.lease(t, "w")
	page, more, err := s.List(t.Context(), queue.Filter{State: queue.Queued, Page: queue.Page{Limit: 3}})
	if err != nil || !more || len(page) != 3 || page[0].ID != "4" || page[2].ID != "2" {
		t.Fatalf("first page %+v, %v", page, err)
	}
	page, more, err = s.List(t.Context(), queue.Filter{State: queue.Queued, Page: queue.Page{Before: page[2].Sequence, Limit: 3}})
	if err != nil || more || len(page) != 1 || page[0].ID != "1" {
		t.Errorf("second page %+v, %v", page, err)
	}
	if all, more, err := s.List(t.Context(), queue.Filter{Page: queue.Page{Limit: 100}}); err != nil || more || len(all) != 5 {
		t.Errorf("all: %d, more %v, %v", len(all), more, err)
	}
	// A page of large jobs ends early, with one at least; small ones come in more chunks than one.
	large := json.RawMessage(`{"x":"` + strings.Repeat("x", 1000) + `"}`)
	for i := range 60 {
		spec := json.RawMessage(`{}`)
		if i >= 50 {
			spec = large
		}
		if _, _, err := s.Submit(t.Context(), queue.Submission{ID: fmt.Sprint("page-", i), Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	filter := queue.Filter{Page: queue.Page{Limit: 40, Bytes: 3500}}
	for more := true; more; {
		if page, more, err = s.List(t.Context(), filter); err != nil || len(page) == 0 {
			t.Fatalf("pages %v, then %d, %v", got, len(page), err)
		}
		got = append(got, len(page))
		filter.Before = page[len(page)-1].Sequence
	}
	if want := []int{3, 3, 3, 40, 16}; !slices.Equal(got, want) {
		t.Errorf("pages of %v jobs, want %v", got, want)
	}
	// Small ones before large ones, which come in a chunk of their own.
	for i := range 100 {
		if _, _, err := s.Submit(t.Context(), queue.Submission{ID: fmt.Sprint("small-", i), Spec: json.RawMessage(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	filter.Page = queue.Page{Limit: 1000, Bytes: 3500}
	if page, more, err = s.List(t.Context(), filter); err != nil || !more || len(page) != 103 {
		t.Errorf("%d, more %v, %v; want all small ones and three large", len(page), more, err)
	}
	filter.Page = queue.Page{Limit: 40, Bytes: 1}
	if page, more, err = s.List(t.Context(), filter); err != nil || !more || len(page) != 1 {
		t.Errorf("with room for none: %d, more %v, %v", len(page), more, err)
	}
}

func anyText(t *testing.T, s *suite) {
	job, _, err := s.Submit(t.Context(), queue.Submission{ID: "a", DisplayName: "é\x00'; DROP TABLE jobs; --", Spec: json.RawMessage(`{"x":"\u0000"}`)})
	if err != nil {
		t.Fatal(err)
	}
	s.same(t, job)
	s.lease(t, "w")
	s.same(t, s.apply(t, "a", queue.Fail{Epoch: 1, Reason: "no file a\x00b: \"é\"\n"}))
	if _, err := s.Events(t.Context(), "a", 0, 100); err != nil {
		t.Error(err)
	}
}

func concurrent(t *testing.T, s *suite) {
	const jobs, workers = 24, 6
	for i := range jobs {
		s.submit(t, fmt.Sprint(i))
	}
	other := s.open(t, s.clock.Now) // a second coordinator on the same jobs
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	stores := []coordinator.Store{s.Store, other}
	var mu sync.Mutex
	leased := map[string]int{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for {
				jobs, err := stores[w%2].Lease(t.Context(), []queue.Worker{{Name: fmt.Sprint("w", w)}}, lease)
				if err != nil {
					t.Error(err)
				}
				if len(jobs) == 0 {
					return
				}
				job := jobs[0]
				mu.Lock()
				leased[job.ID]++
				mu.Unlock()
				if _, _, err := stores[w%2].Apply(t.Context(), job.ID, queue.Done{Epoch: job.Epoch, Result: json.RawMessage(`{}`)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(leased) != jobs {
		t.Errorf("%d jobs leased, want %d", len(leased), jobs)
	}
	for id, n := range leased {
		if n != 1 {
			t.Errorf("job %s leased %d times", id, n)
		}
	}
}

func cancelled(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Submit(ctx, queue.Submission{ID: "a", Spec: json.RawMessage(`{}`)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("stored all the same: %v", err)
	}
}
