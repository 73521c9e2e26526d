// Package systemtest drives the programs as they are shipped: a coordinator, two workers and grpcurl, each a process of
// its own.
package systemtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/video/synth"
)

// lease is short, for the loss of a worker to be noticed soon, and long against the restart of a coordinator.
const lease = "5s"

// patience is for what should take moments; nothing here waits by the clock otherwise.
const patience = 90 * time.Second

// TestGrpcurlSession is the session of the README: submit, watch, lose a worker, score, compare; then everything stops in
// order.
func TestGrpcurlSession(t *testing.T) {
	bin := build(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	videos, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 6, Pairs: 4, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}

	coordinator := start(t, bin.coordinator, "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state"), "--lease", lease)
	address := strings.TrimPrefix(coordinator.line(t), "coordinator listens on ")
	grpc := grpcurl{t, ctx, bin.grpcurl, address}

	// The API explains itself.
	for _, service := range []string{"surmise.v1.JobService", "surmise.v1.PlausibilityService", "surmise.v1.WorkerService", "grpc.health.v1.Health"} {
		if list := grpc.list(); !strings.Contains(list, service) {
			t.Errorf("reflection lists no %s:\n%s", service, list)
		}
	}
	if health := grpc.call("grpc.health.v1.Health/Check", `{}`); !strings.Contains(health, "SERVING") {
		t.Errorf("health: %s", health)
	}

	// Bad jobs are refused by field, before any worker is there.
	grpc.refused(`{"train":{"data":["x"],"stepz":1}}`, "stepz")
	grpc.refused(`{"train":{"data":["x"],"model":{"size":60}}}`, "train.model.size", "must be a multiple of patch 8, got 60", "InvalidArgument")
	grpc.refused(`{"train":{}}`, "train.data", "BadRequest")

	workers := map[string]*process{}
	for _, name := range []string{"one", "two"} {
		workers[name] = start(t, bin.worker, "--coordinator", address, "--name", name, "--data-root", dir, "--data-dir", filepath.Join(dir, name))
	}

	// Train. The worker that has the job is killed at the job's first checkpoint.
	train := fmt.Sprintf(`{"train":{"data":[%q],"steps":600,"batch":2,"threads":1,"log_every":1,"checkpoint_every":20,
		"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}}`, videos.ClipsDir)
	trained := grpc.submit(train)
	watch := grpc.watch(trained)
	leased := watch.until(t, "JOB_LEASED")
	first := leased.Job.Worker
	checkpointed := watch.until(t, "JOB_CHECKPOINTED")
	workers[first].kill(t)
	if lost := watch.until(t, "JOB_REQUEUED"); !strings.Contains(lost.Job.Reason, "worker "+first+" was lost") {
		t.Errorf("queued again because: %s", lost.Job.Reason)
	}
	again := watch.until(t, "JOB_LEASED")
	if again.Job.Worker == first || again.Job.Epoch != "2" {
		t.Errorf("given to %q at epoch %s, want the other worker at epoch 2", again.Job.Worker, again.Job.Epoch)
	}
	next := watch.until(t, "JOB_CHECKPOINTED")
	if next.Job.LastCheckpoint.Step <= checkpointed.Job.LastCheckpoint.Step {
		t.Errorf("the first checkpoint of the second attempt is step %d, after step %d of the first: it began anew", next.Job.LastCheckpoint.Step, checkpointed.Job.LastCheckpoint.Step)
	}
	end := watch.until(t, "JOB_ENDED")
	if end.Job.State != "SUCCEEDED" {
		t.Fatalf("training ended %s: %s", end.Job.State, end.Job.Reason)
	}
	watch.end(t)

	// Score and compare.
	scored := grpc.submit(fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":8}}`, videos.PairsCSV, trained))
	watch = grpc.watch(scored)
	if end := watch.until(t, "JOB_ENDED"); end.Job.State != "SUCCEEDED" {
		t.Fatalf("scoring ended %s: %s", end.Job.State, end.Job.Reason)
	}
	watch.end(t)
	var comparison struct {
		Measure string
		Columns []string
		Rows    []struct {
			Property string
			Pairs    int
		}
		Text string
	}
	decode(t, grpc.call("surmise.v1.PlausibilityService/CompareScores", fmt.Sprintf(`{"names":[%q]}`, scored)), &comparison)
	if len(comparison.Columns) != 2 || comparison.Text == "" || comparison.Rows[len(comparison.Rows)-1].Pairs != 4 {
		t.Errorf("comparison %+v, want the model and its twin on 4 pairs", comparison)
	}
	if videos := grpc.call("surmise.v1.PlausibilityService/GetScores", fmt.Sprintf(`{"name":%q}`, scored)); strings.Count(videos, `"path"`) != 8 {
		t.Errorf("GetScores does not send 8 videos:\n%s", videos)
	}
	var list struct{ Jobs []job }
	decode(t, grpc.call("surmise.v1.JobService/ListJobs", `{"state":"SUCCEEDED"}`), &list)
	if len(list.Jobs) != 2 || list.Jobs[0].Name != scored {
		t.Errorf("jobs %+v, want the two that succeeded, newest first", list.Jobs)
	}

	// A coordinator that is killed in the middle of a job loses nothing; the worker goes on and attaches again.
	long := grpc.submit(strings.Replace(train, `"steps":600`, `"steps":100000000`, 1))
	watch = grpc.watch(long)
	before := watch.until(t, "JOB_CHECKPOINTED")
	coordinator.kill(t)
	watch.broken(t)
	coordinator = start(t, bin.coordinator, "--listen", address, "--data-dir", filepath.Join(dir, "state"), "--lease", lease)
	coordinator.line(t)
	var restarted job
	decode(t, grpc.call("surmise.v1.JobService/GetJob", fmt.Sprintf(`{"name":%q}`, long)), &restarted)
	watch = grpc.watchAfter(long, restarted.Revision)
	after := watch.until(t, "JOB_PROGRESS", "JOB_CHECKPOINTED")
	if after.Job.Epoch != before.Job.Epoch || after.Job.Worker != before.Job.Worker {
		t.Errorf("after the restart %s at epoch %s, want the same attempt, %s at epoch %s", after.Job.Worker, after.Job.Epoch, before.Job.Worker, before.Job.Epoch)
	}

	// SIGTERM of a worker hands the job back; of a coordinator, ends it.
	second := workers[after.Job.Worker]
	second.terminate(t)
	if back := watch.until(t, "JOB_REQUEUED"); !strings.Contains(back.Job.Reason, "handed back") || back.Job.State != "QUEUED" {
		t.Errorf("after SIGTERM the job is %s: %s", back.Job.State, back.Job.Reason)
	}
	second.exited(t, 0)
	if state := grpc.call("surmise.v1.JobService/CancelJob", fmt.Sprintf(`{"name":%q}`, long)); !strings.Contains(state, "CANCELLED") {
		t.Errorf("cancelling: %s", state)
	}
	watch.until(t, "JOB_ENDED")
	watch.end(t)
	coordinator.terminate(t)
	coordinator.exited(t, 0)
}

type binaries struct{ coordinator, worker, grpcurl string }

// programs is where build puts them, once for all tests.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "surmise-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	code := m.Run()
	_ = os.RemoveAll(dir) // what is left is no result
	os.Exit(code)
}

var buildOnce = sync.OnceValues(func() (b binaries, err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return b, err
	}
	b = binaries{filepath.Join(programs, "coordinator"), filepath.Join(programs, "worker"), filepath.Join(root, "bin", "tools", "grpcurl")}
	if err := goBuild(root, []string{"CGO_ENABLED=0"}, "-o", b.coordinator, "./cmd/coordinator"); err != nil {
		return b, err
	}
	if err := goBuild(root, nil, "-o", b.worker, "./cmd/worker"); err != nil {
		return b, err
	}
	if _, err := os.Stat(b.grpcurl); err != nil {
		b.grpcurl = filepath.Join(programs, "grpcurl")
		return b, goBuild(filepath.Join(root, "tools"), nil, "-o", b.grpcurl, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	}
	return b, nil
})

// build makes the programs as the Makefile does: the coordinator without cgo, grpcurl from the module that pins tools.
func build(t *testing.T) binaries {
	t.Helper()
	b, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goBuild(dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(context.Background(), "go", append([]string{"build"}, args...)...) // of no one test
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// process is a program under test.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	done chan struct{} // closed when it has ended
}

func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), program, args...), done: make(chan struct{})}
	var log bytes.Buffer
	p.cmd.Stderr = &log
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.out = w, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		_ = p.cmd.Wait() // exited looks at the state
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // gone already in good order
		<-p.done
		out.Close()
		if t.Failed() {
			t.Logf("%s %s:\n%s", filepath.Base(program), strings.Join(args, " "), &log)
		}
	})
	return p
}

// line waits for a line of standard output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%s ended without a word: %v", p.cmd.Path, err)
	}
	return strings.TrimSpace(line)
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
}

func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

func (p *process) exited(t *testing.T, code int) {
	t.Helper()
	select {
	case <-p.done:
		if got := p.cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("%s exited with %d, want %d", p.cmd.Path, got, code)
		}
	case <-time.After(patience):
		t.Errorf("%s did not stop", p.cmd.Path)
	}
}

// grpcurl calls a coordinator as a user without our programs does.
type grpcurl struct {
	t       *testing.T
	ctx     context.Context
	program string
	address string
}

func (g grpcurl) command(args ...string) *exec.Cmd {
	return exec.CommandContext(g.ctx, g.program, append([]string{"-plaintext"}, args...)...)
}

func (g grpcurl) list() string {
	g.t.Helper()
	out, err := g.command(g.address, "list").CombinedOutput()
	if err != nil {
		g.t.Fatalf("grpcurl list: %v\n%s", err, out)
	}
	return string(out)
}

func (g grpcurl) call(method, request string) string {
	g.t.Helper()
	out, err := g.command("-d", request, g.address, method).CombinedOutput()
	if err != nil {
		g.t.Fatalf("grpcurl %s: %v\n%s", method, err, out)
	}
	return string(out)
}

// submit submits a job and returns its name.
func (g grpcurl) submit(request string) string {
	g.t.Helper()
	var j job
	decode(g.t, g.call("surmise.v1.JobService/SubmitJob", request), &j)
	return j.Name
}

// refused submits a job that must be refused with words that name why.
func (g grpcurl) refused(request string, words ...string) {
	g.t.Helper()
	out, err := g.command("-d", request, g.address, "surmise.v1.JobService/SubmitJob").CombinedOutput()
	if err == nil {
		g.t.Errorf("%s was taken: %s", request, out)
	}
	for _, word := range words {
		if !strings.Contains(string(out), word) {
			g.t.Errorf("%s was refused without %q: %s", request, word, out)
		}
	}
}

// job is what the tests look at; 64-bit numbers are strings in JSON.
type job struct {
	Name, State, Reason, Worker, Epoch, Revision string
	LastCheckpoint                               struct{ Step int }
}

type jobEvent struct {
	Revision, Type string
	Job            job
}

// watching is a WatchJob under way.
type watching struct {
	cmd    *exec.Cmd
	events *json.Decoder
	log    *bytes.Buffer
}

func (g grpcurl) watch(name string) *watching { g.t.Helper(); return g.watchAfter(name, "0") }

func (g grpcurl) watchAfter(name, revision string) *watching {
	g.t.Helper()
	cmd := g.command("-d", fmt.Sprintf(`{"name":%q,"after_revision":%q}`, name, revision), g.address, "surmise.v1.JobService/WatchJob")
	out, err := cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	w := &watching{cmd, json.NewDecoder(out), &bytes.Buffer{}}
	cmd.Stderr = w.log
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	return w
}

// until reads on to the next event of one of the types.
func (w *watching) until(t *testing.T, types ...string) jobEvent {
	t.Helper()
	for {
		var e jobEvent
		if err := w.events.Decode(&e); err != nil {
			_ = w.cmd.Wait()
			t.Fatalf("the watch ended before %v: %v\n%s", types, err, w.log)
		}
		for _, want := range types {
			if e.Type == want {
				return e
			}
		}
		if e.Type == "JOB_ENDED" {
			t.Fatalf("%s ended %s before %v: %s", e.Job.Name, e.Job.State, types, e.Job.Reason)
		}
	}
}

// end demands that the stream ends by itself after the last event.
func (w *watching) end(t *testing.T) {
	t.Helper()
	var e jobEvent
	if err := w.events.Decode(&e); !errors.Is(err, io.EOF) {
		t.Errorf("after the last event: %+v, %v", e, err)
	}
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("grpcurl: %v\n%s", err, w.log)
	}
}

// broken reads to the end of a stream whose server is gone.
func (w *watching) broken(t *testing.T) {
	t.Helper()
	for {
		var e jobEvent
		if err := w.events.Decode(&e); err != nil {
			break
		}
	}
	if err := w.cmd.Wait(); err == nil {
		t.Error("grpcurl does not mind that the coordinator was killed")
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("answer %s: %v", text, err)
	}
}
