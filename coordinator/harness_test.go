package coordinator_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(crowdVariable); text != "" {
		os.Exit(runCrowd(text)) // this process is the workers of a benchmark
	}
	goleak.VerifyTestMain(m)
}

// patience ends a test that waits for what never comes; no test waits for it when all is well.
const patience = 30 * time.Second

const lease = 30 * time.Second

// clock is moved by hand; leases and timers follow it.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan time.Time]time.Time
	set    chan time.Duration // the length of each timer
}

func newClock() *clock {
	return &clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), timers: map[chan time.Time]time.Time{}, set: make(chan time.Duration, 1024)}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := make(chan time.Time, 1)
	if d <= 0 {
		t <- c.now
	} else {
		c.timers[t] = c.now.Add(d)
	}
	select {
	case c.set <- d:
	default:
	}
	return t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for t, due := range c.timers {
		if !due.After(c.now) {
			t <- c.now
			delete(c.timers, t)
		}
	}
}

// server is a coordinator on loopback, and clients of it.
type server struct {
	t       testing.TB
	ctx     context.Context // of calls
	clock   *clock
	dir     string
	cfg     coordinator.Config
	srv     *coordinator.Server
	conn    *grpc.ClientConn
	jobs    surmisev1.JobServiceClient
	scores  surmisev1.PlausibilityServiceClient
	workers surmisev1.WorkerServiceClient
	down    func()
}

// start starts a coordinator on an empty store; change may alter its configuration.
func start(t testing.TB, change func(*coordinator.Config)) *server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &server{t: t, ctx: ctx, clock: newClock(), dir: t.TempDir()}
	s.up(change)
	t.Cleanup(func() { s.down() })
	return s
}

// up starts it on the store that is there.
func (s *server) up(change func(*coordinator.Config)) {
	s.t.Helper()
	store, err := queue.OpenSQLite(s.ctx, filepath.Join(s.dir, "jobs.db"), s.clock.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cfg = coordinator.Config{
		Store: store, ArtifactDir: filepath.Join(s.dir, "artifacts"), LeaseDuration: lease, Clock: s.clock,
		Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	}
	if change != nil {
		change(&s.cfg)
	}
	if s.srv, err = coordinator.New(s.cfg); err != nil {
		s.t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.srv.Serve(ctx, listener) }()
	if s.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		s.t.Fatal(err)
	}
	s.jobs = surmisev1.NewJobServiceClient(s.conn)
	s.scores = surmisev1.NewPlausibilityServiceClient(s.conn)
	s.workers = surmisev1.NewWorkerServiceClient(s.conn)
	s.down = sync.OnceFunc(func() {
		stop()
		if err := <-served; err != nil {
			s.t.Errorf("Serve: %v", err)
		}
		s.conn.Close()
		if err := store.Close(); err != nil {
			s.t.Errorf("closing the store: %v", err)
		}
	})
}

func train() *surmisev1.SubmitJobRequest {
	return &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}}
}

func score(model string) *surmisev1.SubmitJobRequest {
	return &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Score{Score: &surmisev1.ScoreSpec{Pairs: "pairs.csv", Model: model}}}
}

func (s *server) submit(req *surmisev1.SubmitJobRequest) *surmisev1.Job {
	s.t.Helper()
	job, err := s.jobs.SubmitJob(s.ctx, req)
	if err != nil {
		s.t.Fatal(err)
	}
	return job
}

func (s *server) get(name string) *surmisev1.Job {
	s.t.Helper()
	job, err := s.jobs.GetJob(s.ctx, &surmisev1.GetJobRequest{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return job
}

func (s *server) wantState(name string, want surmisev1.JobState) *surmisev1.Job {
	s.t.Helper()
	job := s.get(name)
	if job.State != want {
		s.t.Fatalf("%s is %s (%s), want %s", name, job.State, job.Reason, want)
	}
	return job
}

// watch reads events of a job until one of this type.
func (s *server) watch(name string, after int64, until surmisev1.JobEventType) []*surmisev1.WatchJobResponse {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.jobs.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: name, AfterRevision: after})
	if err != nil {
		s.t.Fatal(err)
	}
	var events []*surmisev1.WatchJobResponse
	for {
		e, err := stream.Recv()
		if err != nil {
			s.t.Fatalf("watching %s for %s: %v after %v", name, until, err, events)
		}
		events = append(events, e)
		if e.Type == until {
			if until == surmisev1.JobEventType_JOB_ENDED {
				if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
					s.t.Errorf("after the last event: %v", err)
				}
			}
			return events
		}
	}
}

// worker is a worker's side of the stream.
type worker struct {
	t      testing.TB
	name   string
	stream grpc.BidiStreamingClient[surmisev1.AttachRequest, surmisev1.AttachResponse]
	cut    context.CancelFunc
}

// attach opens a stream and says hello.
func (s *server) attach(name string, held ...*surmisev1.LeaseRef) *worker {
	s.t.Helper()
	ctx, cut := context.WithCancel(s.ctx)
	stream, err := s.workers.Attach(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	w := &worker{s.t, name, stream, cut}
	s.t.Cleanup(cut)
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: name, Held: held}}})
	if got := hear(w, (*surmisev1.AttachResponse).GetWelcome); got.LeaseDuration.AsDuration() != lease {
		s.t.Errorf("welcome %v", got)
	}
	return w
}

// ready attaches a worker that asks for a job.
func (s *server) ready(name string) *worker {
	s.t.Helper()
	w := s.attach(name)
	w.ready()
	return w
}

func (w *worker) say(m *surmisev1.AttachRequest) {
	w.t.Helper()
	if err := w.stream.Send(m); err != nil {
		w.t.Fatalf("%s sending: %v", w.name, err)
	}
}

func (w *worker) ready() {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}})
}

func (w *worker) heartbeat(l *surmisev1.LeaseRef, sequence int64, p *surmisev1.Progress) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{
		Heartbeat: &surmisev1.Heartbeat{Lease: l, Sequence: sequence, Progress: p}}})
}

// beat sends a heartbeat and takes its renewal.
func (w *worker) beat(l *surmisev1.LeaseRef, p *surmisev1.Progress) {
	w.t.Helper()
	w.heartbeat(l, 1, p)
	hear(w, (*surmisev1.AttachResponse).GetRenewed)
}

func (w *worker) checkpoint(l *surmisev1.LeaseRef, step int32, path string) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Checkpoint{
		Checkpoint: &surmisev1.CheckpointPublished{Lease: l, Checkpoint: &surmisev1.Checkpoint{Step: step, Path: path}}}})
}

func (w *worker) done(l *surmisev1.LeaseRef, artifacts ...*surmisev1.Artifact) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{
		Done: &surmisev1.Done{Lease: l, Result: &surmisev1.Result{Artifacts: artifacts, Metrics: map[string]float64{"loss": 0.5}}}}})
}

func (w *worker) failed(l *surmisev1.LeaseRef, reason string, blame surmisev1.Blame) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Failed{
		Failed: &surmisev1.Failed{Lease: l, Reason: reason, Blame: blame}}})
}

func (w *worker) handedBack(l *surmisev1.LeaseRef, reason string) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_HandedBack{
		HandedBack: &surmisev1.HandedBack{Lease: l, Reason: reason}}})
}

func (w *worker) lease() *surmisev1.Lease {
	w.t.Helper()
	return hear(w, (*surmisev1.AttachResponse).GetLease)
}

func (w *worker) settled(want surmisev1.JobState) {
	w.t.Helper()
	if got := hear(w, (*surmisev1.AttachResponse).GetSettled); got.State != want {
		w.t.Fatalf("%s: settled as %s, want %s", w.name, got.State, want)
	}
}

// ended is the error with which the stream ended.
func (w *worker) ended() error {
	for {
		if _, err := w.stream.Recv(); err != nil {
			return err
		}
	}
}

// hear takes the next message, which must be of the kind that get gets.
func hear[M any](w *worker, get func(*surmisev1.AttachResponse) *M) *M {
	w.t.Helper()
	m, err := w.stream.Recv()
	if err != nil {
		w.t.Fatalf("%s receiving: %v", w.name, err)
	}
	got := get(m)
	if got == nil {
		w.t.Fatalf("%s: unexpected %v", w.name, m)
	}
	return got
}

// publish makes a file below a lease's folder.
func publish(t testing.TB, l *surmisev1.Lease, name string) string {
	t.Helper()
	path := filepath.Join(l.ArtifactDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// wantField holds an error to INVALID_ARGUMENT and a BadRequest whose first violation is of this field.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	wantCode(t, err, codes.InvalidArgument)
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			if got := bad.FieldViolations[0]; got.Field != field || got.Description == "" {
				t.Errorf("violation %v, want of %s", got, field)
			}
			return
		}
	}
	t.Errorf("%v has no BadRequest, want one of %s", err, field)
}
