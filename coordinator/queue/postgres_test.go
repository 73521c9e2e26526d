package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
)

func TestPostgresConforms(t *testing.T) {
	server := queuetest.StartPostgres(t, false)
	var mu sync.Mutex
	databases := map[string]string{} // by test, so that a second open finds the same jobs
	queuetest.Conformance(t, func(t *testing.T, now func() time.Time) coordinator.Store {
		mu.Lock()
		defer mu.Unlock()
		if databases[t.Name()] == "" {
			databases[t.Name()] = server.Database(t)
		}
		store, err := queue.OpenPostgres(t.Context(), databases[t.Name()], now)
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

// heard listens on a store and returns what it hears, and what stops it.
func heard(t *testing.T, store *queue.Store) (<-chan queue.Change, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	changes := make(chan queue.Change, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- store.Listen(ctx, func(c queue.Change) { changes <- c })
		close(changes)
	}()
	if c := <-changes; c != (queue.Change{}) {
		t.Fatalf("began with %+v", c)
	}
	return changes, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Listen: %v", err)
		}
	})
}

func TestPostgresTellsOtherCoordinatorsWhatChanged(t *testing.T) {
	address := queuetest.StartPostgres(t, false).Database(t)
	var stores [2]*queue.Store
	for i := range stores {
		var err error
		if stores[i], err = queue.OpenPostgres(t.Context(), address, nil); err != nil {
			t.Fatal(err)
		}
		defer stores[i].Close()
	}
	mine, stopMine := heard(t, stores[0])
	theirs, stopTheirs := heard(t, stores[1])
	defer stopTheirs()

	next := func() queue.Change {
		for c := range theirs {
			if c != (queue.Change{}) {
				return c
			}
		}
		t.Fatal("nothing was heard")
		return queue.Change{}
	}
	if _, _, err := stores[0].Submit(t.Context(), queue.Submission{ID: "a", Spec: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != (queue.Change{Job: "a", Offer: true}) {
		t.Errorf("after a submission: %+v", got)
	}
	leased, err := stores[0].Lease(t.Context(), []queue.Worker{{Name: "w"}}, time.Minute)
	if err != nil || len(leased) != 1 {
		t.Fatal(leased, err)
	}
	if got := next(); got != (queue.Change{Job: "a"}) {
		t.Errorf("after a lease: %+v", got)
	}
	if off := time.Since(leased[0].LeaseUntil.Add(-time.Minute)); off.Abs() > time.Hour {
		t.Errorf("the lease of a server on this machine is %v away from its clock", off)
	}
	if _, _, err := stores[0].Apply(t.Context(), "a", queue.Cancel{}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != (queue.Change{Job: "a", Stop: true}) {
		t.Errorf("after a cancellation: %+v", got)
	}
	stores[0].Logged("a")
	if got := next(); got != (queue.Change{Job: "a", Log: true}) {
		t.Errorf("after log lines: %+v", got)
	}
	stopMine()
	for c := range mine {
		if c != (queue.Change{}) {
			t.Errorf("told of its own change %+v", c)
		}
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	for address, want := range map[string]string{
		"mysql://u:secret@host/db":                                       "mysql://u:xxxxx@host/db",
		"postgres://u:secret@host:99999999/db":                           "invalid port",
		"postgres://u:secret@localhost/db?host=/nonexistent&port=1":      "/nonexistent",
		"postgres://u:secret@localhost:1/db?sslmode=disable&host=/none/": "/none/",
	} {
		store, err := queue.Open(t.Context(), address, time.Now)
		if err == nil {
			store.Close()
			t.Errorf("%s opened", address)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want %q in it, and no password", address, err, want)
		}
	}
}

// Two coordinators work on the children of a sweep while it is cancelled: none waits for another for ever, every event is
// taken or refused for what the job is, and every child ends.
func TestPostgresCoordinatorsDoNotBlockEachOther(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const children, workers = 120, 8
	address := queuetest.StartPostgres(t, false).Database(t)
	var stores [2]*queue.Store
	for i := range stores {
		var err error
		if stores[i], err = queue.OpenPostgres(ctx, address, nil); err != nil {
			t.Fatal(err)
		}
		defer stores[i].Close()
	}
	sub := queue.SweepSubmission{ID: "s", Request: []byte(`{}`)}
	for i := range children {
		sub.Children = append(sub.Children, queue.ChildSubmission{ID: fmt.Sprint("c", i), Spec: []byte(`{}`), Values: []byte(`{}`)})
	}
	if _, _, err := stores[0].SubmitSweep(ctx, sub); err != nil {
		t.Fatal(err)
	}
	half := make(chan struct{})
	var leases atomic.Int64
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			store := stores[w%len(stores)]
			for {
				jobs, err := store.Lease(ctx, []queue.Worker{{Name: fmt.Sprint("w", w)}}, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if len(jobs) == 0 {
					return
				}
				if leases.Add(1) == children/2 {
					close(half)
				}
				for _, e := range []queue.Event{
					queue.Heartbeat{Epoch: jobs[0].Epoch, For: time.Minute, Progress: []byte(`{}`)}, queue.Done{Epoch: jobs[0].Epoch, Result: []byte(`{}`)},
				} {
					if _, _, err := store.Apply(ctx, jobs[0].ID, e); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	select {
	case <-half:
	case <-ctx.Done():
		t.Error(ctx.Err())
	}
	if _, err := stores[1].CancelSweep(ctx, "s", "enough"); err != nil {
		t.Error(err)
	}
	running.Wait()
	counts, err := stores[0].CountChildren(ctx, "s")
	if err != nil || counts[queue.Succeeded]+counts[queue.Cancelled] != children || counts[queue.Succeeded] < children/2-workers {
		t.Errorf("children: %v, %v", counts, err)
	}
}

// A coordinator whose machine died between two statements of a transaction keeps a row locked until the server finds out.
// What others do to that job fails soon, and what they do to all other jobs is stored.
func TestPostgresOutlivesALockOfTheDead(t *testing.T) {
	address := queuetest.StartPostgres(t, false).Database(t)
	store, err := queue.OpenPostgres(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var jobs []queue.Job
	for i := range 10 {
		if _, _, err := store.Submit(t.Context(), queue.Submission{ID: fmt.Sprintf("job%d", i), Spec: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		leased, err := store.Lease(t.Context(), []queue.Worker{{Name: fmt.Sprintf("w%d", i)}}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, leased...)
	}
	dead, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close(context.WithoutCancel(t.Context()))
	for _, statement := range []string{"BEGIN", "SELECT 1 FROM jobs WHERE id = 'job0' FOR NO KEY UPDATE"} {
		if _, err := dead.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	errs := make([]error, len(jobs))
	var all sync.WaitGroup
	for i, j := range jobs {
		all.Go(func() {
			_, _, errs[i] = store.Apply(t.Context(), j.ID, queue.Heartbeat{Epoch: j.Epoch, For: time.Minute})
		})
	}
	all.Wait()
	for i, err := range errs {
		if locked := jobs[i].ID == "job0"; locked != (err != nil) {
			t.Errorf("heartbeat of %s: %v", jobs[i].ID, err)
		}
	}
	// Such a coordinator's own session would have been ended.
	if _, err := dead.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Apply(t.Context(), "job0", queue.Heartbeat{Epoch: jobs[0].Epoch, For: time.Minute}); err != nil {
		t.Errorf("the lock is gone: %v", err)
	}
}

// A job of higher priority leaves other coordinators time to hear of it before one here gives way.
func TestPostgresPreemptsWithPatience(t *testing.T) {
	store, err := queue.OpenPostgres(t.Context(), queuetest.StartPostgres(t, false).Database(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	workers := []queue.Worker{{Name: "w"}}
	for i := range 2 {
		sub := queue.Submission{ID: fmt.Sprint("job", i), Spec: []byte("{}"), Scheduling: queue.Scheduling{Priority: i}}
		if _, _, err := store.Submit(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			break
		}
		if _, err := store.Lease(t.Context(), workers, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	high, err := store.Get(t.Context(), "job1")
	if err != nil {
		t.Fatal(err)
	}
	for {
		moved, again, err := store.Preempt(t.Context(), workers)
		waited := time.Since(high.Created)
		switch {
		case err != nil:
			t.Fatal(err)
		case len(moved) > 0:
			if waited < time.Second || moved[0].Job.ID != "job0" || moved[0].Job.Stop != queue.StopPreempt {
				t.Errorf("%s gives way after %v", moved[0].Job.ID, waited)
			}
			return
		case again <= 0 || again > time.Second:
			t.Fatalf("after %v nothing gives way, and the next look is to be in %v", waited, again)
		}
	}
}
