package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// storeRetry is how long dispatch waits after the store has failed.
const storeRetry = time.Second

// dispatch gives queued jobs to free workers, and takes leases back when they run out, until ctx ends. It sleeps until
// a job is queued, a worker is ready or a lease is due.
func (s *Server) dispatch(ctx context.Context) {
	for {
		began := s.clock.Now()
		wait, err := s.dispatchAll(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Error("dispatch", "error", err, "retry_in", storeRetry)
			began, wait = s.clock.Now(), storeRetry
		}
		var due <-chan time.Time
		if wait >= 0 {
			wait = min(wait, longestSleep)
			due = s.clock.After(wait - s.clock.Now().Sub(began)) // the store counted from about then
		}
		select {
		case <-ctx.Done():
			return
		case <-s.workers.wake:
		case <-due:
		}
	}
}

// longestSleep is after how long leases are looked at again though none is due by the clock: it may have been set meanwhile.
const longestSleep = 30 * time.Second

// storePatience is how long the store may take about one step of dispatch. A connection that is dead without a word must
// not hold up leases that run out.
const storePatience = 30 * time.Second

// dispatchBatch is how many workers are given jobs in one transaction.
const dispatchBatch = 256

// dispatchAll does all that can be done now and returns how long until there is something to do again; negative: nothing.
func (s *Server) dispatchAll(ctx context.Context) (next time.Duration, err error) {
	expiring, cancel := context.WithTimeout(ctx, storePatience)
	moved, next, err := s.store.ExpireDue(expiring)
	cancel()
	if err != nil {
		return 0, err
	}
	for _, m := range moved {
		if m.LeaseLost {
			s.observer.LeaseLost(LossExpired)
		}
		s.changed(m.Job, m.Effects)
	}
	for free := range slices.Chunk(s.workers.allFree(), dispatchBatch) {
		offers := make([]queue.Worker, len(free))
		byName := map[string]*session{}
		for i, w := range free {
			offers[i], byName[w.name] = w.offer, w
		}
		leasing, cancel := context.WithTimeout(ctx, storePatience)
		jobs, err := s.store.Lease(leasing, offers, s.lease)
		cancel()
		if err != nil {
			return next, err
		}
		var first error // every job is given, or its lease is lost until it runs out
		for _, job := range jobs {
			worker := byName[job.Worker]
			free := s.workers.busy(worker)
			if job.Epoch == 1 {
				both := free
				if job.Created.After(both) { // by the store's clock, which may differ
					both = job.Created
				}
				s.observer.Dispatched(max(0, s.clock.Now().Sub(both)))
			}
			s.changed(job, queue.Effects{Log: queue.LogLeased})
			if err := s.give(ctx, worker, job); err != nil && first == nil {
				first = err
			}
			if next < 0 || next > s.lease {
				next = s.lease
			}
		}
		if first != nil {
			return 0, first
		}
	}
	preempting, cancel := context.WithTimeout(ctx, storePatience)
	moved, again, err := s.store.Preempt(preempting, s.workers.busyOffers())
	cancel()
	if err != nil {
		return next, err
	}
	if again > 0 && (next < 0 || again < next) {
		next = again
	}
	for _, m := range moved {
		s.changed(m.Job, m.Effects)
	}
	return next, nil
}

// give sends a job that was just leased to its worker. A job that can never be sent fails; one whose worker has gone, or of
// which the store would not tell all, is queued again at once. Where the store refuses that too the lease runs out.
func (s *Server) give(ctx context.Context, worker *session, job queue.Job) error {
	reading, cancel := context.WithTimeout(ctx, storePatience)
	lease, fault := s.leaseMessage(reading, job)
	cancel()
	var back queue.Event
	var fields jobspec.Errors
	switch {
	case errors.As(fault, &fields) || status.Code(fault) == codes.Internal:
		s.workers.putBack(worker)
		s.workers.wakeDispatch() // there may be another job for it
		back = queue.Fail{Epoch: job.Epoch, Reason: status.Convert(statusOf(fault)).Message()}
		fault = nil // of the job, which says so
	case fault != nil: // the store's: dispatch tries again, in its time, and neither job nor worker is to blame
		s.workers.putBack(worker)
		back = queue.HandBack{Epoch: job.Epoch, Reason: "the lease could not be made"}
	case worker.send(lease):
		return nil
	default:
		back = queue.HandBack{Epoch: job.Epoch, Reason: "worker " + worker.name + " detached"}
	}
	writing, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	after, effects, err := s.store.Apply(writing, job.ID, back)
	if err == nil {
		s.changed(after, effects)
	}
	return errors.Join(fault, err)
}

func (s *Server) leaseMessage(ctx context.Context, job queue.Job) (*surmisev1.AttachResponse, error) {
	spec := &surmisev1.JobSpec{}
	if err := unmarshal(job, "spec", job.Spec, spec); err != nil {
		return nil, err
	}
	model, err := s.model(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Lease{Lease: &surmisev1.Lease{
		Lease:         leaseRef(job),
		Spec:          spec,
		Duration:      durationpb.New(s.lease),
		ArtifactDir:   s.attemptDir(job),
		ArtifactStore: s.artifactURL(),
		ResumeFrom:    s.checkpointMessage(job),
		ModelPath:     model.Path,
		ModelSha256:   model.SHA256,
		Traceparent:   s.traceDispatch(ctx, job, spec),
	}}}, nil
}

func leaseRef(job queue.Job) *surmisev1.LeaseRef {
	return &surmisev1.LeaseRef{Job: jobPrefix + job.ID, Epoch: job.Epoch}
}

func cancelMessage(job queue.Job) *surmisev1.AttachResponse {
	return &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Cancel{Cancel: &surmisev1.Cancel{Lease: leaseRef(job)}}}
}

// Drain asks an attached worker to checkpoint, hand back what it holds and take nothing more.
func (s *Server) Drain(worker, reason string) error {
	if !s.workers.send(worker, &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Drain{Drain: &surmisev1.Drain{Reason: reason}}}) {
		return status.Errorf(codes.NotFound, "worker %s is not attached", worker)
	}
	return nil
}

// session is one attached worker. Its handler owns the stream; others reach it through out.
type session struct {
	name  string
	offer queue.Worker // what it announced
	out   chan *surmisev1.AttachResponse
	gone  chan struct{} // closed when the handler must return, or has
	once  sync.Once
	why   error // set before gone is closed

	working bool      // has a job; guarded by workers.mu
	free    time.Time // when it asked for one; guarded by workers.mu
}

// outgoing messages that a worker has not taken: a handful at most in good order.
const outgoing = 64

func newSession(offer queue.Worker) *session {
	return &session{name: offer.Name, offer: offer, out: make(chan *surmisev1.AttachResponse, outgoing), gone: make(chan struct{})}
}

// end makes the handler return why. Only the first call counts.
func (w *session) end(why error) {
	w.once.Do(func() {
		w.why = why
		close(w.gone)
	})
}

// send queues a message and never waits; false when the worker is gone, or gets dropped for taking nothing.
func (w *session) send(m *surmisev1.AttachResponse) bool {
	select {
	case <-w.gone:
		return false
	default:
	}
	select {
	case w.out <- m:
		return true
	default:
		w.end(status.Errorf(codes.ResourceExhausted, "worker %s left %d messages untaken", w.name, outgoing))
		return false
	}
}

// workers knows who is attached, who asked for a job, longest waiting first, and who has one.
type workers struct {
	mu     sync.Mutex
	byName map[string]*session
	free   []*session
	wake   chan struct{} // holds a token when dispatch has something to do
}

func (ws *workers) wakeDispatch() {
	select {
	case ws.wake <- struct{}{}:
	default:
	}
}

// attach adds a session; an older one of the same worker ends, or, where there must be none, keeps the new one out.
func (ws *workers) attach(w *session, unlessAttached bool) error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if old := ws.byName[w.name]; old != nil {
		err := status.Errorf(codes.Aborted, "worker %s attached again; two workers need two names (--name)", w.name)
		if unlessAttached {
			return err
		}
		old.end(err)
		ws.removeFree(old)
	}
	ws.byName[w.name] = w
	return nil
}

func (ws *workers) detach(w *session) {
	w.end(nil)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.removeFree(w)
	if ws.byName[w.name] == w {
		delete(ws.byName, w.name)
	}
}

// ready notes that the worker asks for a job.
func (ws *workers) ready(w *session, now time.Time) {
	ws.mu.Lock()
	w.working, w.free = false, now
	ws.removeFree(w) // asking twice is asking once
	if ws.byName[w.name] == w {
		ws.free = append(ws.free, w)
	}
	ws.mu.Unlock()
	ws.wakeDispatch()
}

// allFree are the workers that asked for a job, longest waiting first.
func (ws *workers) allFree() []*session {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.Clone(ws.free)
}

// busyOffers are the workers that have a job, or are about to ask for one.
func (ws *workers) busyOffers() []queue.Worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var offers []queue.Worker
	for _, w := range ws.byName {
		if w.working {
			offers = append(offers, w.offer)
		}
	}
	return offers
}

// busy notes that the worker has a job, and tells since when it was free.
func (ws *workers) busy(w *session) time.Time {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.working = true
	ws.removeFree(w)
	return w.free
}

// putBack undoes busy.
func (ws *workers) putBack(w *session) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.working = false
	ws.removeFree(w) // it may have asked again meanwhile
	if ws.byName[w.name] == w {
		ws.free = append([]*session{w}, ws.free...)
	}
}

// send queues a message to a worker by name; false when it is not attached.
func (ws *workers) send(name string, m *surmisev1.AttachResponse) bool {
	ws.mu.Lock()
	w := ws.byName[name]
	ws.mu.Unlock()
	return w != nil && w.send(m)
}

// crew is who could serve a job.
type crew struct {
	attached int
	able     int    // of those, have what it needs
	idle     int    // of those, have no job: also one that has just attached, or is about to be given one, though it is not free
	lacks    string // with nobody able: what one of the attached lacks
}

// crew counts the workers for a job with these needs.
func (ws *workers) crew(needs queue.Needs) crew {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	c := crew{attached: len(ws.byName)}
	for _, w := range ws.byName {
		if lacks := w.offer.Lacks(needs); lacks != "" {
			if c.lacks == "" || lacks < c.lacks { // the same whatever the order of the map
				c.lacks = lacks
			}
			continue
		}
		c.able++
		if !w.working {
			c.idle++
		}
	}
	return c
}

func (ws *workers) removeFree(w *session) {
	for i, f := range ws.free {
		if f == w {
			ws.free = slices.Delete(ws.free, i, i+1)
			return
		}
	}
}
