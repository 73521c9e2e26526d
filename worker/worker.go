package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// An Assignment is one attempt at one job.
type Assignment struct {
	Job         string // "jobs/{id}"
	Epoch       int64
	Spec        *surmisev1.JobSpec    // complete
	ArtifactDir string                // absolute; this attempt's own, which the runner makes; with ArtifactStore a key of it
	ResumeFrom  *surmisev1.Checkpoint // newest of the attempts before; nil when there is none
	ModelPath   string                // scoring and ranking: where the model lies; training: that of the frozen encoder, or of the weights to begin with
	Traceparent string                // W3C trace context of the dispatch; "" when the job is not traced

	ArtifactStore string          // URL of where artifacts are kept; "": in ArtifactDir
	ModelSHA256   string          // what the model at ModelPath was published with; "": not known
	Over          <-chan struct{} // closed once the lease is over: nothing that is published from then on counts; nil: never
}

// Reports are what an attempt says while it runs. Calls return at once.
type Reports interface {
	Progress(*surmisev1.Progress)
	// Checkpoint publishes a checkpoint that is whole and on disk.
	Checkpoint(*surmisev1.Checkpoint)
	// Recorded is the step of the newest checkpoint that the coordinator has recorded, -1 before the first.
	// What is older may be deleted.
	Recorded() int32
}

// A Runner does the work of jobs.
type Runner interface {
	// Run works until the job is done, ctx ends or it fails. When ctx ends it saves what it can, publishes it and
	// returns context.Cause(ctx), wrapped or not. An error is the job's fault unless IsInfrastructure says otherwise.
	// The paths of a result lie below the assignment's artifact folder, whole and on disk.
	Run(ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error)
}

// JobLog holds what is logged between Begin and End, numbered from 1; *joblog.Book is one.
type JobLog interface {
	Begin()
	End()
	// News holds a token when lines wait.
	News() <-chan struct{}
	// Take takes lines that wait, oldest first, of at most so many bytes of text, or one.
	Take(bytes int) []*surmisev1.LogLine
}

// noLog holds nothing.
type noLog struct{}

func (noLog) Begin()                        {}
func (noLog) End()                          {}
func (noLog) News() <-chan struct{}         { return nil }
func (noLog) Take(int) []*surmisev1.LogLine { return nil }

// Clock tells the time and waits. Now must be monotonic, as time.Now is, and go on while the machine sleeps.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// Config says who a worker is and whom it works for. The zero value of a field has the meaning stated.
type Config struct {
	Coordinator string            // address, host:port; required
	Name        string            // unique among workers; required
	Labels      map[string]string // jobs may ask for them
	GPUs        int               // jobs may ask for so many
	Memory      int64             // bytes that jobs may ask for; 0: not said
	Threads     int               // CPU threads it may use, for people; 0: not said
	Precisions  []string          // such as "fp32", for people
	DataRoots   []string          // folders it reads videos from, which jobs may ask for; the Runner enforces them
	Version     string            // for people

	Runner Runner        // required
	Grace  time.Duration // how long a stopping worker waits for the coordinator to settle its last word; 0: 10 s
	Idle   time.Duration // Run returns once the worker has had no job for so long; 0: never
	Clock  Clock         // nil: the system's
	Logger *slog.Logger  // nil: slog.Default()
	JobLog JobLog        // what is logged about a job, for the coordinator to keep; nil: it keeps nothing
	Linked func(bool)    // told when the coordinator has welcomed the worker, and when it is away; nil: nobody is told

	// Backoff bounds the jittered wait before attaching again; 0: 200 ms to 5 s.
	MinBackoff, MaxBackoff time.Duration
	DialOptions            []grpc.DialOption // added to those of the worker: insecure credentials, keepalive
	Explain                func(error) error // adds what to do about a connection that fails; nil: nothing
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Coordinator == "":
		return c, errors.New("worker: Coordinator is empty")
	case c.Name == "":
		return c, errors.New("worker: Name is empty")
	case c.Runner == nil:
		return c, errors.New("worker: Runner is nil")
	case c.Idle < 0:
		return c, fmt.Errorf("worker: Idle %v is negative", c.Idle)
	}
	if c.Grace == 0 {
		c.Grace = 10 * time.Second
	}
	if c.MinBackoff == 0 {
		c.MinBackoff = 200 * time.Millisecond
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = 5 * time.Second
	}
	if c.Clock == nil {
		c.Clock = newSystemClock()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.JobLog == nil {
		c.JobLog = noLog{}
	}
	if c.Linked == nil {
		c.Linked = func(bool) {}
	}
	return c, nil
}

// worker is the loop's state. Only the goroutine of Run touches it, but for events and goroutines.
type worker struct {
	cfg      Config
	log      *slog.Logger
	protocol protocol

	events     chan event // what streams and attempts tell the loop
	ended      <-chan struct{}
	goroutines sync.WaitGroup

	stream  *stream                 // nil: none
	stop    context.CancelCauseFunc // of the running attempt; nil: none
	over    chan<- struct{}         // of the running attempt, until its lease is over; nil: none
	reports *reports                // of the running attempt
	jobLog  *slog.Logger            // names the running attempt
	shown   progressLog             // of the running attempt
}

// event is something that happened outside the loop.
type event interface{}

type (
	streamOpened struct {
		stream *stream
		hello  chan<- *surmisev1.AttachRequest // takes the first message
	}
	streamMessage struct {
		stream  *stream
		message *surmisev1.AttachResponse
	}
	streamClosed struct {
		stream *stream
		err    error
	}
	// refused: the coordinator will never accept this worker.
	refused struct{ err error }

	attemptProgress   struct{ progress *surmisev1.Progress }
	attemptCheckpoint struct{ checkpoint *surmisev1.Checkpoint }
	attemptFinished   struct {
		assignment Assignment
		outcome    *surmisev1.AttachRequest
	}
)

// ErrIdleAlone ends a worker that has had no job for its Idle time while the coordinator could not be reached.
var ErrIdleAlone = errors.New("no job, and no coordinator to give one")

// Run works for a coordinator until ctx ends, the coordinator drains it or it has been idle for long; it then takes a
// checkpoint, hands back what it holds, waits for that to be settled and returns nil. While the coordinator cannot be
// reached it goes on with its job and tries again. An error means that the coordinator refused it for good, or is
// ErrIdleAlone.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	conn, err := dial(cfg)
	if err != nil {
		return fmt.Errorf("worker: coordinator %q: %w", cfg.Coordinator, err)
	}
	defer conn.Close()

	// Streams and attempts outlive ctx: its end only begins an orderly stop.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &worker{
		cfg:      cfg,
		log:      cfg.Logger.With("worker", cfg.Name),
		protocol: protocol{grace: cfg.Grace, idle: cfg.Idle, hello: hello(cfg)},
		events:   make(chan event),
		ended:    inner.Done(),
	}
	defer w.goroutines.Wait()
	defer cancel()
	w.goroutines.Go(func() { w.keepAttached(inner, surmisev1.NewWorkerServiceClient(conn)) })
	return w.loop(ctx, inner)
}

func hello(cfg Config) *surmisev1.Hello {
	return &surmisev1.Hello{
		Name:       cfg.Name,
		Labels:     cfg.Labels,
		Gpus:       int32(cfg.GPUs),
		Memory:     cfg.Memory,
		Threads:    int32(cfg.Threads),
		Precisions: cfg.Precisions,
		DataRoots:  cfg.DataRoots,
		Version:    cfg.Version,
	}
}

func (w *worker) loop(ctx, inner context.Context) error {
	stopping := ctx.Done()
	for {
		now := w.cfg.Clock.Now()
		w.takeLog(w.protocol.wantsLog())
		if w.carryOut(inner, w.protocol.flush(now)) {
			w.hangUp()
			return w.protocol.farewell()
		}
		var alarm <-chan time.Time
		if at := w.protocol.wake(); !at.IsZero() {
			wait := at.Sub(now)
			if w.protocol.attempt != nil {
				wait = min(wait, clockLook)
			}
			alarm = w.cfg.Clock.After(wait)
		}
		select {
		case <-stopping:
			stopping = nil
			if a := w.protocol.attempt; a != nil {
				w.log.Info("worker stops: its job is handed back", "job", a.lease.GetJob(), "cause", context.Cause(ctx))
			} else {
				w.log.Info("worker stops", "cause", context.Cause(ctx))
			}
			w.protocol.drain()
		case <-alarm:
		case <-w.cfg.JobLog.News(): // taken above, as far as there is room
		case e := <-w.events:
			if err := w.handle(w.cfg.Clock.Now(), e); err != nil {
				if w.stop != nil {
					w.stop(err)
				}
				return err
			}
		}
	}
}

// takeLog gives lines to the protocol, of so many bytes of text.
func (w *worker) takeLog(bytes int) {
	if bytes > 0 {
		w.protocol.logged(w.cfg.JobLog.Take(bytes))
	}
}

// handle passes an event on to the protocol.
func (w *worker) handle(now time.Time, e event) error {
	switch e := e.(type) {
	case streamOpened:
		w.stream = e.stream
		w.protocol.opened(now)
		e.hello <- w.protocol.greet()
	case streamMessage:
		if e.stream == w.stream { // not one that was given up
			w.logMessage(e.message)
			w.protocol.received(now, e.message)
			w.cfg.Linked(w.protocol.link == attached)
			if m := e.message.GetCheckpointRecorded(); m != nil && w.reports != nil {
				w.reports.note(m)
			}
		}
	case streamClosed:
		if e.stream == w.stream {
			w.stream = nil
			w.protocol.closed()
			w.cfg.Linked(false)
		}
	case refused:
		return e.err
	case attemptProgress:
		if w.stop != nil { // not a word that crossed the end
			w.shown.write(w.jobLog, now, e.progress)
		}
		w.protocol.progressed(e.progress)
	case attemptCheckpoint:
		if w.stop != nil {
			w.jobLog.Info("checkpoint is on disk", "step", e.checkpoint.GetStep(), "path", e.checkpoint.GetPath())
		}
		w.protocol.checkpointed(e.checkpoint)
	case attemptFinished:
		w.stop(nil)
		w.stop, w.reports, w.over = nil, nil, nil
		w.logEnd(e)
		w.cfg.JobLog.End()
		w.takeLog(math.MaxInt) // all of it, to be sent before the end
		w.protocol.finished(now, e.outcome)
	}
	return nil
}

// carryOut does what the protocol asks for and reports whether the worker is done.
func (w *worker) carryOut(ctx context.Context, e effects) (exit bool) {
	if e.redial != nil && w.stream != nil {
		w.log.Warn("giving up the stream to the coordinator", "cause", e.redial)
		w.stream.abandon(e.redial)
		w.stream = nil
		w.cfg.Linked(false)
	}
	for _, m := range e.send {
		if !w.stream.send(m) {
			w.stream.abandon(errors.New("the coordinator does not read"))
			w.stream = nil
			w.protocol.closed()
			w.cfg.Linked(false)
			break
		}
	}
	if e.start != nil {
		w.startAttempt(ctx, e.start)
	}
	if e.over && w.over != nil {
		close(w.over)
		w.over = nil
	}
	if e.letGo {
		w.log.Error("the job does not stop: its lease is not renewed any more", "job", w.protocol.attempt.lease.GetJob(), "waited", stopPatience)
	}
	if e.stop != nil && w.stop != nil {
		w.log.Info("stopping the job", "cause", e.stop)
		w.stop(e.stop)
	}
	return e.exit
}

// hangUp ends a stream that works in order: the coordinator has read all that was sent once it ends its side.
func (w *worker) hangUp() {
	if w.stream == nil || w.protocol.link != attached || w.protocol.attempt != nil {
		return
	}
	w.stream.finish()
	patience := w.cfg.Clock.After(w.cfg.Grace)
	for {
		select {
		case e := <-w.events:
			if closed, ok := e.(streamClosed); ok && closed.stream == w.stream {
				return
			}
		case <-patience:
			return
		}
	}
}

func (w *worker) startAttempt(ctx context.Context, l *surmisev1.Lease) {
	over := make(chan struct{})
	w.over = over
	a := Assignment{
		ArtifactStore: l.GetArtifactStore(), ModelSHA256: l.GetModelSha256(), Over: over,
		Job: l.GetLease().GetJob(), Epoch: l.GetLease().GetEpoch(), Spec: l.GetSpec(),
		ArtifactDir: l.GetArtifactDir(), ResumeFrom: l.GetResumeFrom(), ModelPath: l.GetModelPath(), Traceparent: l.GetTraceparent(),
	}
	ctx, w.stop = context.WithCancelCause(ctx)
	w.reports = newReports(w)
	r := w.reports
	w.cfg.JobLog.Begin()
	w.jobLog, w.shown = w.log.With("job", a.Job, "epoch", a.Epoch), progressLog{}
	w.jobLog.Info("job begins", "resume_step", a.ResumeFrom.GetStep(), "artifacts", a.ArtifactDir)
	w.goroutines.Go(func() {
		result, err := w.runSafely(ctx, a, r)
		w.tell(attemptFinished{a, outcomeOf(ctx, l.GetLease(), result, err)})
	})
}

// tell hands an event to the loop, or drops it when the loop is over.
func (w *worker) tell(e event) {
	select {
	case w.events <- e:
	case <-w.ended:
	}
}

// A PanicError is a panic of a job, which fails the job and leaves the worker alive.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

func (w *worker) runSafely(ctx context.Context, a Assignment, r Reports) (result *surmisev1.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked := &PanicError{p, debug.Stack()}
			w.log.Error("panic in a job", "job", a.Job, "panic", p, "stack", string(panicked.Stack))
			err = panicked
		}
	}()
	return w.cfg.Runner.Run(ctx, a, r)
}

// outcomeOf words the end of an attempt: done; handed_back when it stopped because it was told to; else failed.
func outcomeOf(ctx context.Context, lease *surmisev1.LeaseRef, result *surmisev1.Result, err error) *surmisev1.AttachRequest {
	cause := context.Cause(ctx)
	switch {
	case err == nil && result == nil:
		err = errors.New("the runner returned neither a result nor an error")
	case err == nil:
		done := &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease, Result: result}}}
		if _, err = proto.Marshal(done); err == nil {
			return done
		}
		err = fmt.Errorf("the result cannot be sent: %w", err) // however often it is tried
	case cause != nil && (errors.Is(err, cause) || errors.Is(err, context.Canceled)):
		return handedBack(lease, cause)
	}
	blame := surmisev1.Blame_BLAME_JOB
	if IsInfrastructure(err) {
		blame = surmisev1.Blame_BLAME_INFRASTRUCTURE
	}
	return &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Failed{
		Failed: &surmisev1.Failed{Lease: lease, Reason: bounded(err.Error()), Blame: blame}}}
}

// reports passes an attempt's words to the loop.
type reports struct {
	w        *worker
	mu       sync.Mutex
	recorded int32 // guarded by mu
}

func newReports(w *worker) *reports { return &reports{w: w, recorded: -1} }

func (r *reports) Progress(p *surmisev1.Progress)     { r.w.tell(attemptProgress{p}) }
func (r *reports) Checkpoint(c *surmisev1.Checkpoint) { r.w.tell(attemptCheckpoint{c}) }

func (r *reports) Recorded() int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recorded
}

func (r *reports) note(m *surmisev1.CheckpointRecorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recorded = m.GetStep()
}

func (w *worker) logMessage(m *surmisev1.AttachResponse) {
	switch m := m.GetMessage().(type) {
	case *surmisev1.AttachResponse_Welcome:
		w.log.Info("attached to the coordinator", "address", w.cfg.Coordinator)
	case *surmisev1.AttachResponse_Revoked:
		w.log.Warn("lease revoked", "job", m.Revoked.GetLease().GetJob(), "epoch", m.Revoked.GetLease().GetEpoch(), "reason", m.Revoked.GetReason())
	case *surmisev1.AttachResponse_Settled:
		w.log.Info("job settled", "job", m.Settled.GetLease().GetJob(), "epoch", m.Settled.GetLease().GetEpoch(), "state", m.Settled.GetState().String())
	case *surmisev1.AttachResponse_Drain:
		w.log.Info("drained by the coordinator", "reason", m.Drain.GetReason())
	}
}

func (w *worker) logEnd(e attemptFinished) {
	log := w.log.With("job", e.assignment.Job, "epoch", e.assignment.Epoch)
	switch m := e.outcome.GetMessage().(type) {
	case *surmisev1.AttachRequest_Done:
		log.Info("job done")
	case *surmisev1.AttachRequest_Failed:
		log.Error("job failed", "reason", m.Failed.GetReason(), "blame", m.Failed.GetBlame().String())
	case *surmisev1.AttachRequest_HandedBack:
		log.Info("job stopped", "reason", m.HandedBack.GetReason())
	}
}
