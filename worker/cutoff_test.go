package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// These tests have a real coordinator, real connections and real time.

// cutLease leaves a margin that a busy machine does not eat up.
const cutLease = 5 * time.Second

// cutPatience ends a test that waits for what never comes.
const cutPatience = time.Minute

// line passes on what goes between a worker and its coordinator, until it is cut: then both sides stay connected, and
// nothing arrives.
type line struct {
	net.Listener
	mu    sync.Mutex
	open  chan struct{} // closed while the line is; guarded by mu
	conns sync.WaitGroup
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{Listener: listener, open: make(chan struct{})}
	close(l.open)
	ctx, stop := context.WithCancel(context.Background())
	l.conns.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			l.conns.Go(func() { l.pass(ctx, in, out) })
			l.conns.Go(func() { l.pass(ctx, out, in) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		stop()
		l.conns.Wait()
	})
	return l
}

func (l *line) pass(ctx context.Context, from, to net.Conn) {
	defer to.Close()
	buffer := make([]byte, 1<<14)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = make(chan struct{})
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.open)
}

// stales is a coordinator.Observer that hears of words which came too late.
type stales struct{ came chan struct{} }

func (s stales) Stale() {
	select {
	case s.came <- struct{}{}:
	default:
	}
}
func (stales) Submitted(int)              {}
func (stales) Leased(time.Duration)       {}
func (stales) Dispatched(time.Duration)   {}
func (stales) LeaseLost(coordinator.Loss) {}
func (stales) Ended(queue.Job)            {}
func (stales) Watching(int)               {}

// office is a coordinator.
type office struct {
	t       *testing.T
	store   *queue.Store
	address string
	jobs    surmisev1.JobServiceClient
	stale   chan struct{}
}

func newOffice(t *testing.T) *office {
	t.Helper()
	dir := t.TempDir()
	store, err := queue.OpenSQLite(t.Context(), filepath.Join(dir, "jobs.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, store: store, stale: make(chan struct{}, 1)}
	server, err := coordinator.New(coordinator.Config{Store: store, ArtifactDir: filepath.Join(dir, "artifacts"), LeaseDuration: cutLease,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Observer: stales{came: o.stale}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.address = listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	conn, err := grpc.NewClient(o.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	o.jobs = surmisev1.NewJobServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// submit returns the id of a new job.
func (o *office) submit() string {
	o.t.Helper()
	job, err := o.jobs.SubmitJob(o.t.Context(), &surmisev1.SubmitJobRequest{
		Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}})
	if err != nil {
		o.t.Fatal(err)
	}
	return strings.TrimPrefix(job.Name, "jobs/")
}

func (o *office) job(id string) queue.Job {
	o.t.Helper()
	job, err := o.store.Get(o.t.Context(), id)
	if err != nil {
		o.t.Fatal(err)
	}
	return job
}

// wantEnd waits until a job has ended.
func (o *office) wantEnd(id string) queue.Job {
	o.t.Helper()
	watch, err := o.jobs.WatchJob(o.t.Context(), &surmisev1.WatchJobRequest{Name: "jobs/" + id})
	if err != nil {
		o.t.Fatal(err)
	}
	for {
		if _, err := watch.Recv(); errors.Is(err, io.EOF) {
			return o.job(id)
		} else if err != nil {
			o.t.Fatal(err)
		}
	}
}

// hire runs a worker of this process until the test ends.
func (o *office) hire(name, address string, runner runnerFunc) {
	o.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{Coordinator: address, Name: name, Runner: boundRunner{nil, runner}, Grace: time.Second,
			Logger: slog.New(slog.NewTextHandler(o.t.Output(), nil))})
	}()
	o.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			o.t.Errorf("worker %s: %v", name, err)
		}
	})
}

// attemptOf is what a runner tells its test.
type attemptOf struct {
	epoch int64
	a     Assignment
	goOn  chan struct{} // closed by the test
}

// finisher is a runner that finishes when it is told to.
func finisher(began chan<- attemptOf) runnerFunc {
	return func(_ *bench, ctx context.Context, a Assignment, _ Reports) (*surmisev1.Result, error) {
		at := attemptOf{a.Epoch, a, make(chan struct{})}
		began <- at
		select {
		case <-at.goOn:
			return &surmisev1.Result{Metrics: map[string]float64{"epoch": float64(a.Epoch)}}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(cutPatience):
		t.Fatalf("waited %v for %s", cutPatience, what)
		panic("unreachable")
	}
}

// stubborn publishes and finishes although its lease is over: what a worker must not do, and what then must not count.
func stubborn(ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error) {
	path := filepath.Join(a.ArtifactDir, "checkpoints", "step-00000999")
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	r.Progress(&surmisev1.Progress{Phase: "stale", Step: 999, Steps: 999})
	r.Checkpoint(&surmisev1.Checkpoint{Step: 999, Path: path})
	return &surmisev1.Result{Metrics: map[string]float64{"epoch": float64(a.Epoch)}}, nil
}

// wantUnmoved holds a job to its second attempt, which nothing of the first may have touched.
func (o *office) wantUnmoved(id, worker string) {
	o.t.Helper()
	if job := o.job(id); !job.State.Held() || job.Epoch != 2 || job.Worker != worker || job.Checkpoint.Path != "" || strings.Contains(string(job.Progress), "stale") {
		o.t.Errorf("after the words of a stale worker: %+v", job)
	}
}

// A worker whose line is dead, though still connected, stops before the coordinator gives its job away, and what it says
// once the line is mended changes nothing.
func TestAHalfOpenConnection(t *testing.T) {
	o := newOffice(t)
	wire := newLine(t, o.address)
	began, stopped := make(chan attemptOf, 1), make(chan error, 1)
	o.hire("cut", wire.Addr().String(), func(_ *bench, ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error) {
		began <- attemptOf{epoch: a.Epoch}
		<-ctx.Done()
		select {
		case <-a.Over:
			stopped <- context.Cause(ctx)
		default:
			stopped <- fmt.Errorf("stopped for %w, and its lease is not over", context.Cause(ctx))
		}
		return stubborn(ctx, a, r)
	})
	id := o.submit()
	if at := wait(t, "the first attempt", began); at.epoch != 1 {
		t.Fatalf("epoch %d", at.epoch)
	}
	wire.cut()
	if cause := wait(t, "the worker to stop", stopped); !errors.Is(cause, ErrLeaseEnds) {
		t.Errorf("stopped because of %v, want %v", cause, ErrLeaseEnds)
	}
	if job := o.job(id); !job.State.Held() || job.Epoch != 1 || !time.Now().Before(job.LeaseUntil) {
		t.Errorf("the worker stopped when its lease was over: %s at epoch %d until %v, now is %v", job.State, job.Epoch, job.LeaseUntil, time.Now())
	}
	again := make(chan attemptOf, 1)
	o.hire("other", o.address, finisher(again))
	second := wait(t, "the second attempt", again)
	if second.epoch != 2 {
		t.Fatalf("epoch %d", second.epoch)
	}
	wire.mend()
	wait(t, "the stale worker to be heard", o.stale)
	o.wantUnmoved(id, "other")
	close(second.goOn)
	if job := o.wantEnd(id); job.State != queue.Succeeded || !strings.Contains(string(job.Result), `"epoch":2`) && !strings.Contains(string(job.Result), `"epoch": 2`) {
		t.Errorf("the job ended %s with %s, want the result of epoch 2", job.State, job.Result)
	}
}

// suspendedWorker is set for the process that TestASuspendedProcess stops: the address of its coordinator.
const suspendedWorker = "SURMISE_TEST_SUSPENDED_WORKER"

// beSuspendedIfAsked makes this process the worker that a test suspends. It tells each attempt and why it stopped in a line.
func beSuspendedIfAsked() {
	address := os.Getenv(suspendedWorker)
	if address == "" {
		return
	}
	tell := json.NewEncoder(os.Stdout)
	err := Run(context.Background(), Config{Coordinator: address, Name: "suspended", Runner: boundRunner{nil,
		func(_ *bench, ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error) {
			_ = tell.Encode(a.Epoch) // or the test waits in vain
			<-ctx.Done()
			_ = tell.Encode(context.Cause(ctx).Error())
			return stubborn(ctx, a, r)
		}}})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A process that is stopped for longer than its lease and goes on stops its job, and what it says changes nothing.
func TestASuspendedProcess(t *testing.T) {
	o := newOffice(t)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), suspendedWorker+"="+o.address)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait() // killed
	})
	lines := make(chan string, 4)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	id := o.submit()
	if got := wait(t, "the first attempt", lines); got != "1" {
		t.Fatalf("epoch %s", got)
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	again := make(chan attemptOf, 1)
	o.hire("other", o.address, finisher(again))
	second := wait(t, "the second attempt", again)
	if second.epoch != 2 {
		t.Fatalf("epoch %d", second.epoch)
	}
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, "the process to stop its job", lines); !strings.Contains(got, ErrLeaseEnds.Error()) && !strings.Contains(got, ErrRevoked.Error()) {
		t.Errorf("it stopped because of %s", got)
	}
	wait(t, "the stale worker to be heard", o.stale)
	o.wantUnmoved(id, "other")
	close(second.goOn)
	if job := o.wantEnd(id); job.State != queue.Succeeded {
		t.Errorf("the job ended %s: %s", job.State, job.Reason)
	}
}
