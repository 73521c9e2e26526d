package coordinator_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func TestJobFromSubmitToResult(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	if job.State != surmisev1.JobState_QUEUED || job.QueuePosition != 1 || job.Reason != "waiting: no worker is attached" {
		t.Errorf("submitted as %v", job)
	}
	if job.Spec.GetTrain().Model.GetObjective() != "next_tubelet" {
		t.Errorf("the defaults are not filled in: %v", job.Spec)
	}

	w := s.ready("w")
	l := w.lease()
	if l.Lease.Job != job.Name || l.Lease.Epoch != 1 || !proto.Equal(l.Spec, job.Spec) || l.Duration.AsDuration() != lease || l.ResumeFrom != nil {
		t.Errorf("leased %v", l)
	}
	if !filepath.IsAbs(l.ArtifactDir) || !strings.HasSuffix(l.ArtifactDir, "attempts/1") {
		t.Errorf("artifact folder %s", l.ArtifactDir)
	}
	w.heartbeat(l.Lease, 7, &surmisev1.Progress{Phase: "training", Step: 3, Steps: 600, Loss: math.NaN()})
	if r := hear(w, (*surmisev1.AttachResponse).GetRenewed); r.Sequence != 7 || r.Duration.AsDuration() != lease {
		t.Errorf("renewed %v", r)
	}
	running := s.wantState(job.Name, surmisev1.JobState_RUNNING)
	if running.Progress.Step != 3 || running.Worker != "w" || running.StartTime == nil {
		t.Errorf("running as %v", running)
	}
	checkpoint := publish(t, l, "checkpoints/step-00000100")
	w.checkpoint(l.Lease, 100, checkpoint)
	if r := hear(w, (*surmisev1.AttachResponse).GetCheckpointRecorded); r.Step != 100 {
		t.Errorf("recorded %v", r)
	}
	w.beat(l.Lease, &surmisev1.Progress{Step: 101})
	model := publish(t, l, "model.safetensors")
	w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: model})
	w.settled(surmisev1.JobState_SUCCEEDED)

	done := s.wantState(job.Name, surmisev1.JobState_SUCCEEDED)
	if done.Result.Artifacts[0].Path != model || done.Result.Metrics["loss"] != 0.5 || done.EndTime == nil || done.Worker != "" ||
		done.LastCheckpoint.Step != 100 || done.LastCheckpoint.Path != checkpoint || done.Progress.Step != 101 {
		t.Errorf("done as %v", done)
	}

	var types []string
	events := s.watch(job.Name, 0, surmisev1.JobEventType_JOB_ENDED)
	for _, e := range events {
		types = append(types, strings.TrimPrefix(e.Type.String(), "JOB_"))
		if e.Job.Spec != nil {
			t.Errorf("event %d carries the spec", e.Revision)
		}
	}
	if got := strings.Join(types, " "); got != "SUBMITTED LEASED STARTED CHECKPOINTED PROGRESS ENDED" {
		t.Errorf("events: %s", got)
	}
	if last := events[len(events)-1]; !proto.Equal(last.Job.Result, done.Result) || last.Revision != done.Revision {
		t.Errorf("last event %v", last)
	}
}

func TestLostWorkerIsReplacedAndFencedOff(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	first := w.lease()
	w.beat(first.Lease, nil)
	checkpoint := publish(t, first, "step-00000005")
	w.checkpoint(first.Lease, 5, checkpoint)
	hear(w, (*surmisev1.AttachResponse).GetCheckpointRecorded)
	w.cut()

	x := s.ready("x")
	s.clock.advance(lease)
	second := x.lease()
	if second.Lease.Job != job.Name || second.Lease.Epoch != 2 || second.ResumeFrom.GetStep() != 5 || second.ResumeFrom.GetPath() != checkpoint {
		t.Errorf("second lease %v", second)
	}
	if second.ArtifactDir == first.ArtifactDir {
		t.Error("two attempts share a folder")
	}
	x.beat(second.Lease, &surmisev1.Progress{Step: 6})
	before := s.get(job.Name)

	// The lost worker is back and knows nothing.
	w = s.attach("w", first.Lease)
	if r := hear(w, (*surmisev1.AttachResponse).GetRevoked); !proto.Equal(r.Lease, first.Lease) {
		t.Errorf("revoked %v", r)
	}
	for name, say := range map[string]func(){
		"heartbeat":   func() { w.heartbeat(first.Lease, 1, &surmisev1.Progress{Step: 99}) },
		"checkpoint":  func() { w.checkpoint(first.Lease, 99, publish(t, first, "step-00000099")) },
		"done":        func() { w.done(first.Lease) },
		"failed":      func() { w.failed(first.Lease, "r", surmisev1.Blame_BLAME_JOB) },
		"handed back": func() { w.handedBack(first.Lease, "r") },
		"not there":   func() { w.heartbeat(&surmisev1.LeaseRef{Job: "jobs/none", Epoch: 1}, 1, nil) },
		"not yet":     func() { w.done(&surmisev1.LeaseRef{Job: job.Name, Epoch: 3}) },
	} {
		say()
		hear(w, (*surmisev1.AttachResponse).GetRevoked)
		if after := s.get(job.Name); !proto.Equal(after, before) {
			t.Errorf("stale %s changed the job to %v", name, after)
		}
	}
	x.done(second.Lease)
	x.settled(surmisev1.JobState_SUCCEEDED)
}

func TestHeartbeatsKeepALease(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	for range 5 {
		s.clock.advance(lease - time.Millisecond)
		w.beat(l.Lease, nil)
	}
	s.wantState(job.Name, surmisev1.JobState_RUNNING)
}

func TestRestartLosesNothing(t *testing.T) {
	s := start(t, nil)
	running := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	w.beat(l.Lease, &surmisev1.Progress{Step: 3})
	queued := s.submit(train())
	before := s.get(running.Name)

	s.down()
	wantCode(t, w.ended(), codes.Unavailable)
	s.clock.advance(lease / 2)
	s.up(nil)

	if after := s.get(running.Name); !proto.Equal(after, before) {
		t.Errorf("running job came back as %v\nwant %v", after, before)
	}
	if after := s.wantState(queued.Name, surmisev1.JobState_QUEUED); !proto.Equal(after.Spec, queued.Spec) {
		t.Errorf("queued job came back as %v", after)
	}
	w = s.attach("w", l.Lease)
	hear(w, (*surmisev1.AttachResponse).GetRenewed)
	s.clock.advance(lease - time.Millisecond) // past the end of the lease given before the restart
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	w.ready()
	if next := w.lease(); next.Lease.Job != queued.Name {
		t.Errorf("leased %v next", next)
	}
}

func TestResultWhoseAnswerWasLostIsSettledAgain(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	before := s.get(job.Name)
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	if after := s.get(job.Name); !proto.Equal(after, before) {
		t.Errorf("the repetition changed the job to %v", after)
	}
}

func TestWorkerThatComesBackEmptyHandedFreesItsJob(t *testing.T) {
	s := start(t, nil)
	s.submit(train())
	w := s.ready("w")
	l := w.lease()
	w.beat(l.Lease, nil)
	w.cut()

	again := s.ready("w") // no lease held; the clock stands still
	if l := again.lease(); l.Lease.Epoch != 2 {
		t.Errorf("leased %v", l)
	}
}

// A worker that asks whether its name is taken replaces nobody.
func TestUnlessAttached(t *testing.T) {
	s := start(t, nil)
	older := s.ready("w")
	hello := &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w", UnlessAttached: true}}}
	asks := func() (*surmisev1.AttachResponse, error) {
		ctx, cut := context.WithCancel(s.ctx)
		defer cut()
		stream, err := s.workers.Attach(ctx)
		if err == nil {
			err = stream.Send(hello)
		}
		if err != nil {
			t.Fatal(err)
		}
		return stream.Recv()
	}
	_, err := asks()
	wantCode(t, err, codes.Aborted)
	s.submit(train())
	l := older.lease()
	older.done(l.Lease)
	older.settled(surmisev1.JobState_SUCCEEDED)
	if err := older.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := older.ended(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if m, err := asks(); err != nil || m.GetWelcome() == nil {
		t.Errorf("where no other is attached: %v, %v", m, err)
	}
}

func TestNewerStreamOfAWorkerReplacesTheOlder(t *testing.T) {
	s := start(t, nil)
	older := s.ready("w")
	s.attach("w")
	wantCode(t, older.ended(), codes.Aborted)
	s.submit(train())
	if l := s.ready("x").lease(); l.Lease.Epoch != 1 {
		t.Errorf("the job went through the older stream: %v", l)
	}
}

func TestCancel(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		s := start(t, nil)
		job := s.submit(train())
		for range 2 { // twice is once
			got, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: job.Name})
			if err != nil || got.State != surmisev1.JobState_CANCELLED || got.EndTime == nil {
				t.Fatalf("got %v, %v", got, err)
			}
		}
	})
	t.Run("running", func(t *testing.T) {
		s := start(t, nil)
		job := s.submit(train())
		w := s.ready("w")
		l := w.lease()
		w.beat(l.Lease, nil)
		got, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: job.Name})
		if err != nil || got.State != surmisev1.JobState_CANCELLING {
			t.Fatalf("got %v, %v", got, err)
		}
		if c := hear(w, (*surmisev1.AttachResponse).GetCancel); !proto.Equal(c.Lease, l.Lease) {
			t.Errorf("worker told %v", c)
		}
		w.handedBack(l.Lease, "cancelled")
		w.settled(surmisev1.JobState_CANCELLED)
	})
	t.Run("running, and the word is lost", func(t *testing.T) {
		s := start(t, nil)
		job := s.submit(train())
		w := s.ready("w")
		l := w.lease()
		w.cut()
		wantCode(t, w.ended(), codes.Canceled)
		if _, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: job.Name}); err != nil {
			t.Fatal(err)
		}
		w = s.attach("w", l.Lease)
		hear(w, (*surmisev1.AttachResponse).GetRenewed)
		hear(w, (*surmisev1.AttachResponse).GetCancel)
	})
	t.Run("running, and the worker is lost", func(t *testing.T) {
		s := start(t, nil)
		job := s.submit(train())
		w := s.ready("w")
		w.lease()
		if _, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: job.Name}); err != nil {
			t.Fatal(err)
		}
		s.clock.advance(lease)
		s.watch(job.Name, 0, surmisev1.JobEventType_JOB_ENDED)
		s.wantState(job.Name, surmisev1.JobState_CANCELLED)
	})
	t.Run("ended", func(t *testing.T) {
		s := start(t, nil)
		job := s.submit(train())
		w := s.ready("w")
		l := w.lease()
		w.done(l.Lease)
		w.settled(surmisev1.JobState_SUCCEEDED)
		_, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: job.Name})
		wantCode(t, err, codes.FailedPrecondition)
		if want := "job " + job.Name + " has ended: it is SUCCEEDED"; status.Convert(err).Message() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	})
}

// A worker counts as busy when it has a job, not when it has not asked for one yet.
func TestASubmitToAnIdleWorkerWaitsForNobody(t *testing.T) {
	s := start(t, nil)
	w := s.attach("w") // has not asked for a job yet
	if job := s.submit(train()); job.Reason != "waiting: about to be leased" {
		t.Errorf("the worker is about to ask, and the job is %s", job.Reason)
	}
	w.ready()
	l := w.lease()
	if job := s.submit(train()); job.Reason != "waiting for the only worker, which is busy" {
		t.Errorf("the worker is busy, and the job is %s", job.Reason)
	}
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
}

// slowStore lets a test stand between the dispatcher's choice of a worker and the lease.
type slowStore struct {
	coordinator.Store
	leasing chan struct{} // holds a token while or after Lease is under way
	goOn    chan struct{} // closed: Lease waits no more
}

func (f slowStore) Lease(ctx context.Context, workers []queue.Worker, lease time.Duration) ([]queue.Job, error) {
	select {
	case f.leasing <- struct{}{}:
	default:
	}
	select {
	case <-f.goOn:
	case <-ctx.Done():
	}
	return f.Store.Lease(ctx, workers, lease)
}

func TestASubmitWhileTheDispatcherLeasesWaitsForNobody(t *testing.T) {
	slow := slowStore{leasing: make(chan struct{}, 1), goOn: make(chan struct{})}
	s := start(t, func(c *coordinator.Config) {
		slow.Store = c.Store
		c.Store = slow
	})
	w := s.ready("w")
	<-slow.leasing
	if job := s.submit(train()); job.Reason != "waiting: about to be leased" {
		t.Errorf("the only worker is idle, and the job is %s", job.Reason)
	}
	close(slow.goOn)
	w.lease()
}

func TestHowAttemptsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(*worker, *surmisev1.Lease)
		state surmisev1.JobState
		says  string
	}{
		"the job's fault": {func(w *worker, l *surmisev1.Lease) {
			w.failed(l.Lease, "clips/a.mp4: no video", surmisev1.Blame_BLAME_JOB)
		}, surmisev1.JobState_FAILED, "clips/a.mp4: no video"},
		"the machine's fault": {func(w *worker, l *surmisev1.Lease) {
			w.failed(l.Lease, "disk full", surmisev1.Blame_BLAME_INFRASTRUCTURE)
		}, surmisev1.JobState_QUEUED, "disk full; waiting"},
		"drained": {func(w *worker, l *surmisev1.Lease) { w.handedBack(l.Lease, "drained") }, surmisev1.JobState_QUEUED, "handed back: drained"},
		"an artifact outside of its folder": {func(w *worker, l *surmisev1.Lease) {
			w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: "/etc/passwd"})
		}, surmisev1.JobState_QUEUED, "artifact model: /etc/passwd does not lie below"},
		"an artifact that climbs out": {func(w *worker, l *surmisev1.Lease) {
			w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: l.ArtifactDir + "/../../x"})
		}, surmisev1.JobState_QUEUED, "does not lie below"},
		"an artifact that is not there": {func(w *worker, l *surmisev1.Lease) {
			w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: filepath.Join(l.ArtifactDir, "none")})
		}, surmisev1.JobState_QUEUED, "none: no such file"},
		"a checkpoint outside of its folder": {func(w *worker, l *surmisev1.Lease) {
			w.checkpoint(l.Lease, 1, "step-00000001")
		}, surmisev1.JobState_QUEUED, "does not lie below"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil)
			job := s.submit(train())
			w := s.ready("w")
			c.end(w, w.lease())
			w.settled(c.state)
			if got := s.wantState(job.Name, c.state); !strings.Contains(got.Reason, c.says) {
				t.Errorf("reason %q, want %q", got.Reason, c.says)
			}
		})
	}
}

func TestJobThatLosesItsWorkersIsGivenUp(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.attach("w")
	for i := range queue.MaxLosses {
		s.clock.advance(queue.Backoff(i)) // nothing is leased before
		w.ready()
		l := w.lease()
		w.failed(l.Lease, "out of memory", surmisev1.Blame_BLAME_INFRASTRUCTURE)
		if i < queue.MaxLosses-1 {
			w.settled(surmisev1.JobState_QUEUED)
		}
	}
	w.settled(surmisev1.JobState_FAILED)
	if got := s.get(job.Name).Reason; !strings.Contains(got, "10 lost attempts") || !strings.Contains(got, "out of memory") {
		t.Errorf("reason %q", got)
	}
}

// trained is a job that left a model, and the worker that did it.
func (s *server) trained(name string) (*worker, *surmisev1.Job) {
	s.t.Helper()
	job := s.submit(train())
	w := s.ready(name)
	l := w.lease()
	w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: publish(s.t, l, "m.safetensors")})
	w.settled(surmisev1.JobState_SUCCEEDED)
	return w, job
}

func TestScoringJobWhoseModelIsGoneFails(t *testing.T) {
	gone := make(chan struct{})
	s := start(t, func(c *coordinator.Config) { c.Store = forgetfulStore{c.Store, gone} })
	w, trained := s.trained("w")
	scored := s.submit(score(trained.Name))
	next := s.submit(train())
	close(gone)
	w.ready()
	if l := w.lease(); l.Lease.Job != next.Name {
		t.Errorf("leased %v", l)
	}
	if got := s.get(scored.Name); got.State != surmisev1.JobState_FAILED || !strings.Contains(got.Reason, "score.model") {
		t.Errorf("the scoring job is %v", got)
	}
}

// A job whose lease cannot be made, since the store does not answer, is handed back: nobody lost an attempt.
func TestLeaseThatCannotBeMadeIsHandedBack(t *testing.T) {
	fails := make(chan string, 1)
	s := start(t, func(c *coordinator.Config) { c.Store = failingStore{c.Store, fails} })
	w, trained := s.trained("w")
	scored := s.submit(score(trained.Name))
	fails <- strings.TrimPrefix(trained.Name, "jobs/")
	w.ready()
	for d := range s.clock.set {
		if d == time.Second { // dispatch waits before it tries again, if nothing wakes it
			break
		}
	}
	s.clock.advance(time.Second) // far less than a lease takes to run out
	if l := w.lease(); l.Lease.Job != scored.Name || l.Lease.Epoch != 2 {
		t.Errorf("leased %v", l)
	}
}

// failingStore fails to show a job that fails names, once.
type failingStore struct {
	coordinator.Store
	fails chan string
}

func (f failingStore) Get(ctx context.Context, id string) (queue.Job, error) {
	select {
	case job := <-f.fails:
		if job == id {
			return queue.Job{}, errors.New("no route to the database")
		}
		f.fails <- job
	default:
	}
	return f.Store.Get(ctx, id)
}

// forgetfulStore shows results no more once gone is closed.
type forgetfulStore struct {
	coordinator.Store
	gone chan struct{}
}

func (f forgetfulStore) Get(ctx context.Context, id string) (queue.Job, error) {
	job, err := f.Store.Get(ctx, id)
	select {
	case <-f.gone:
		if job.Result != nil {
			job.Result = []byte("{}")
		}
	default:
	}
	return job, err
}

func TestDrain(t *testing.T) {
	s := start(t, nil)
	w := s.attach("w")
	if err := s.srv.Drain("w", "maintenance"); err != nil {
		t.Fatal(err)
	}
	if d := hear(w, (*surmisev1.AttachResponse).GetDrain); d.Reason != "maintenance" {
		t.Errorf("told %v", d)
	}
	if err := s.srv.Drain("nobody", ""); err == nil {
		t.Error("drained a worker that is not attached")
	}
}

func TestTwoWorkersShareAQueue(t *testing.T) {
	s := start(t, nil)
	w, x := s.ready("w"), s.ready("x")
	a, b := s.submit(train()), s.submit(train())
	c := s.submit(train())
	if c.QueuePosition < 1 {
		t.Errorf("third of two is at %d", c.QueuePosition)
	}
	got := []string{w.lease().Lease.Job, x.lease().Lease.Job}
	slices.Sort(got)
	want := []string{a.Name, b.Name}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("leased %v, want %v", got, want)
	}
	if c = s.get(c.Name); c.QueuePosition != 1 || c.Reason != "waiting for one of 2 workers, which are all busy" {
		t.Errorf("third waits as %v", c)
	}
}

func TestWorkerThatBreaksTheRulesIsSentAway(t *testing.T) {
	hello := &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w"}}}
	for name, c := range map[string]struct {
		say   []*surmisev1.AttachRequest
		field string
	}{
		"nothing said":     {[]*surmisev1.AttachRequest{{}}, "message"},
		"no hello":         {[]*surmisev1.AttachRequest{{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}}}, "message"},
		"hello twice":      {[]*surmisev1.AttachRequest{hello, hello}, "message"},
		"no name":          {[]*surmisev1.AttachRequest{{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{}}}}, "hello.name"},
		"no lease":         {[]*surmisev1.AttachRequest{hello, {Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{}}}}, "heartbeat.lease"},
		"done, not what":   {[]*surmisev1.AttachRequest{hello, {Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: &surmisev1.LeaseRef{Job: "jobs/a", Epoch: 1}}}}}, "done.result"},
		"failed, not why":  {[]*surmisev1.AttachRequest{hello, {Message: &surmisev1.AttachRequest_Failed{Failed: &surmisev1.Failed{Lease: &surmisev1.LeaseRef{Job: "jobs/a", Epoch: 1}, Blame: 1}}}}, "failed.reason"},
		"no such job name": {[]*surmisev1.AttachRequest{hello, {Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: &surmisev1.LeaseRef{Job: "../a", Epoch: 1}}}}}, "heartbeat.lease.job"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil)
			stream, err := s.workers.Attach(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			w := &worker{t: t, name: "w", stream: stream}
			for _, m := range c.say {
				w.say(m)
			}
			wantField(t, w.ended(), c.field)
		})
	}
}

func TestBadRequestsNameTheField(t *testing.T) {
	s := start(t, nil)
	trained := s.submit(train())
	submit := func(change func(*surmisev1.TrainSpec)) *surmisev1.SubmitJobRequest {
		req := train()
		change(req.GetTrain())
		return req
	}
	for _, c := range []struct {
		field string
		req   *surmisev1.SubmitJobRequest
	}{
		{"spec", &surmisev1.SubmitJobRequest{}},
		{"train.data", submit(func(t *surmisev1.TrainSpec) { t.Data = nil })},
		{"train.steps", submit(func(t *surmisev1.TrainSpec) { t.Steps = -1 })},
		{"train.model.size", submit(func(t *surmisev1.TrainSpec) { t.Model = &surmisev1.ModelSpec{Patch: 7} })},
		{"request_id", &surmisev1.SubmitJobRequest{Spec: train().Spec, RequestId: "a b"}},
		{"score.pairs", &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Score{Score: &surmisev1.ScoreSpec{Model: "m"}}}},
		{"score.model", score("jobs/none")},
		{"score.model", score(trained.Name)}, // not finished
	} {
		_, err := s.jobs.SubmitJob(s.ctx, c.req)
		wantField(t, err, c.field)
	}
	_, err := s.jobs.GetJob(s.ctx, &surmisev1.GetJobRequest{Name: "a"})
	wantField(t, err, "name")
	_, err = s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{PageSize: -1})
	wantField(t, err, "page_size")
	_, err = s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{State: 99})
	wantField(t, err, "state")
	_, err = s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{PageToken: "x"})
	wantField(t, err, "page_token")
	stream, err := s.jobs.WatchJob(s.ctx, &surmisev1.WatchJobRequest{Name: trained.Name, AfterRevision: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantField(t, err, "after_revision")

	_, err = s.jobs.GetJob(s.ctx, &surmisev1.GetJobRequest{Name: "jobs/none"})
	wantCode(t, err, codes.NotFound)
	if got := status.Convert(err).Message(); got != "job jobs/none: not found" {
		t.Errorf("got %q", got)
	}
	_, err = s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: "jobs/none"})
	wantCode(t, err, codes.NotFound)
	if list, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{}); err != nil || len(list.Jobs) != 1 {
		t.Errorf("bad requests left jobs behind: %v, %v", list, err)
	}
}

func TestValidateOnlyStoresNothing(t *testing.T) {
	s := start(t, nil)
	req := train()
	req.ValidateOnly = true
	job := s.submit(req)
	if job.Name != "" || job.Spec.GetTrain().Steps != 600 {
		t.Errorf("got %v", job)
	}
	req.Scheduling = &surmisev1.Scheduling{Priority: 3}
	if job := s.submit(req); job.GetScheduling().GetPriority() != 3 {
		t.Errorf("got %v, want the priority too", job)
	}
	req.Scheduling.Deadline = &timestamppb.Timestamp{Nanos: -1}
	_, err := s.jobs.SubmitJob(s.ctx, req)
	wantField(t, err, "scheduling.deadline")
	req.Scheduling.Deadline = timestamppb.New(s.clock.Now().Add(-time.Second))
	_, err = s.jobs.SubmitJob(s.ctx, req)
	wantField(t, err, "scheduling.deadline")
	if list, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{}); err != nil || len(list.Jobs) != 0 {
		t.Errorf("stored %v, %v", list, err)
	}
}

func TestRequestIDMakesOneJob(t *testing.T) {
	s := start(t, nil)
	req := train()
	req.RequestId = "once"
	first := s.submit(req)
	if again := s.submit(req); again.Name != first.Name {
		t.Errorf("two jobs: %s, %s", first.Name, again.Name)
	}
	req.GetTrain().Steps = 7
	_, err := s.jobs.SubmitJob(s.ctx, req)
	wantCode(t, err, codes.AlreadyExists)
}

func TestPaging(t *testing.T) {
	s := start(t, nil)
	var want []string
	for range 5 {
		want = append([]string{s.submit(train()).Name}, want...)
	}
	if _, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: want[2]}); err != nil {
		t.Fatal(err)
	}
	collect := func(state surmisev1.JobState) (names []string, positions []int32) {
		req := &surmisev1.ListJobsRequest{PageSize: 2, State: state}
		for {
			page, err := s.jobs.ListJobs(s.ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Jobs) > 2 {
				t.Fatalf("a page of %d", len(page.Jobs))
			}
			for _, job := range page.Jobs {
				names, positions = append(names, job.Name), append(positions, job.QueuePosition)
			}
			if page.NextPageToken == "" {
				return names, positions
			}
			req.PageToken = page.NextPageToken
		}
	}
	names, positions := collect(surmisev1.JobState_JOB_STATE_UNSPECIFIED)
	if !slices.Equal(names, want) || !slices.Equal(positions, []int32{4, 3, 0, 2, 1}) {
		t.Errorf("listed %v at %v, want %v", names, positions, want)
	}
	if names, _ := collect(surmisev1.JobState_CANCELLED); !slices.Equal(names, want[2:3]) {
		t.Errorf("cancelled: %v", names)
	}
	queued, _ := collect(surmisev1.JobState_QUEUED)
	if !slices.Equal(queued, []string{want[0], want[1], want[3], want[4]}) {
		t.Errorf("queued: %v", queued)
	}

	page, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{PageSize: 1, State: surmisev1.JobState_QUEUED})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{PageToken: page.NextPageToken})
	wantField(t, err, "page_token")
}

func TestPageOfLargeJobsFitsAMessage(t *testing.T) {
	s := start(t, nil)
	req := train()
	for range 250 {
		req.GetTrain().Data = append(req.GetTrain().Data, strings.Repeat("d", 4000))
	}
	for range 4 { // 1 MB each
		s.submit(req)
	}
	seen := 0
	list := &surmisev1.ListJobsRequest{}
	for {
		page, err := s.jobs.ListJobs(s.ctx, list)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.Jobs)
		if list.PageToken = page.NextPageToken; list.PageToken == "" {
			break
		}
	}
	if seen != 4 {
		t.Errorf("%d jobs on all pages, want 4", seen)
	}
}

func TestWatchResumes(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	w.beat(l.Lease, nil)
	seen := s.watch(job.Name, 0, surmisev1.JobEventType_JOB_STARTED)
	after := seen[len(seen)-1].Revision
	if after != 3 {
		t.Errorf("started at revision %d", after)
	}
	w.beat(l.Lease, &surmisev1.Progress{Step: 1})

	watched := make(chan []*surmisev1.WatchJobResponse)
	go func() {
		defer close(watched) // should watch fail the test
		watched <- s.watch(job.Name, after, surmisev1.JobEventType_JOB_ENDED)
	}()
	w.beat(l.Lease, &surmisev1.Progress{Step: 2})
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	events := <-watched
	if len(events) != 3 || events[0].Job.Progress.Step != 1 || events[1].Job.Progress.Step != 2 || events[2].Job.State != surmisev1.JobState_SUCCEEDED {
		t.Errorf("resumed with %v", events)
	}
	for i, e := range events {
		if e.Revision != after+int64(i)+1 {
			t.Errorf("event %d has revision %d", i, e.Revision)
		}
	}

	for revision, want := range map[int64]codes.Code{6: codes.OK, 7: codes.OutOfRange} {
		stream, err := s.jobs.WatchJob(s.ctx, &surmisev1.WatchJobRequest{Name: job.Name, AfterRevision: revision})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := stream.Recv(); errors.Is(err, io.EOF) != (want == codes.OK) || want != codes.OK && status.Code(err) != want {
			t.Errorf("after %d: %v, %v", revision, e, err)
		}
	}
}

// watchPatience is the coordinator's.
const watchPatience = 20 * time.Second

// stuckStream is a watcher that takes nothing.
type stuckStream struct {
	grpc.ServerStreamingServer[surmisev1.WatchJobResponse]
	ctx context.Context
}

func (w stuckStream) Context() context.Context { return w.ctx }

func (w stuckStream) Send(*surmisev1.WatchJobResponse) error {
	<-w.ctx.Done()
	return w.ctx.Err()
}

func TestSlowWatcherIsDropped(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	w.beat(w.lease().Lease, nil)

	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel() // as gRPC does when the handler returns
	dropped := make(chan error)
	go func() {
		dropped <- s.srv.WatchJob(&surmisev1.WatchJobRequest{Name: job.Name}, stuckStream{ctx: ctx})
	}()
	for {
		select {
		case d := <-s.clock.set:
			if d == watchPatience {
				s.clock.advance(d)
			}
		case err := <-dropped:
			wantCode(t, err, codes.ResourceExhausted)
			s.get(job.Name) // nobody waited for it
			return
		case <-s.ctx.Done():
			t.Fatal("still waiting for a watcher that takes nothing")
		}
	}
}

func TestStoppingEndsStreams(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.attach("w")
	stream, err := s.jobs.WatchJob(s.ctx, &surmisev1.WatchJobRequest{Name: job.Name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	s.down()
	wantCode(t, w.ended(), codes.Unavailable)
	_, err = stream.Recv()
	wantCode(t, err, codes.Unavailable)
}

// comparer stands for the reading of score files.
type comparer struct{ panics bool }

func (c comparer) Compare(_ context.Context, files []coordinator.ScoreFile, reference *coordinator.ScoreFile, req *surmisev1.CompareScoresRequest) (*surmisev1.CompareScoresResponse, error) {
	if c.panics {
		panic("as asked")
	}
	if len(files) == 2 {
		return nil, errors.New("score files are unlike")
	}
	columns := []string{files[0].Source, files[0].Path}
	if reference != nil {
		columns = append(columns, reference.Source, reference.Path)
	}
	return &surmisev1.CompareScoresResponse{Measure: req.Measure, Columns: columns}, nil
}

func (comparer) Scores(_ context.Context, path string, each func(*surmisev1.GetScoresResponse) error) error {
	return errors.Join(each(&surmisev1.GetScoresResponse{Path: path}), each(&surmisev1.GetScoresResponse{Path: path}))
}

func TestScoring(t *testing.T) {
	s := start(t, func(c *coordinator.Config) { c.Comparer = comparer{} })
	w := s.ready("w")
	trained := s.submit(train())
	l := w.lease()
	model := publish(t, l, "model.safetensors")
	w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: model})
	w.settled(surmisev1.JobState_SUCCEEDED)

	var names []string
	for range 2 {
		scored := s.submit(score(trained.Name))
		w.ready()
		l = w.lease()
		if l.ModelPath != model || l.Spec.GetScore().Model != trained.Name {
			t.Errorf("leased with the model at %q: %v", l.ModelPath, l.Spec)
		}
		_, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{scored.Name}})
		wantCode(t, err, codes.FailedPrecondition) // not finished
		w.done(l.Lease, &surmisev1.Artifact{Name: "scores", Path: publish(t, l, "scores.json")})
		w.settled(surmisev1.JobState_SUCCEEDED)
		names = append(names, scored.Name)
	}

	got, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: names[:1], Measure: "max@4"})
	if err != nil || got.Measure != "max@4" || got.Columns[0] != names[0] || filepath.Base(got.Columns[1]) != "scores.json" {
		t.Errorf("compared as %v, %v", got, err)
	}
	got, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: names[:1], Reference: names[1]})
	if err != nil || len(got.Columns) != 4 || got.Columns[2] != names[1] || got.Columns[3] == got.Columns[1] {
		t.Errorf("compared by a reference as %v, %v", got, err)
	}
	_, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: names[:1], Reference: trained.Name})
	wantCode(t, err, codes.FailedPrecondition) // no scoring job
	_, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: names[:1], Reference: "scores.json"})
	wantField(t, err, "reference")
	stream, err := s.scores.GetScores(s.ctx, &surmisev1.GetScoresRequest{Name: names[0]})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if video, err := stream.Recv(); err != nil || filepath.Base(video.Path) != "scores.json" {
			t.Errorf("got %v, %v", video, err)
		}
	}
	_, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: names})
	wantCode(t, err, codes.FailedPrecondition) // the comparer refused
	_, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{trained.Name}})
	wantCode(t, err, codes.FailedPrecondition) // no scoring job
	_, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{})
	wantField(t, err, "names")
	_, err = s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: names[:1], Measure: "Best!"})
	wantField(t, err, "measure")
}

// untilLeft compares until the caller has left.
type untilLeft struct {
	coordinator.Comparer
	begun chan struct{}
}

func (c untilLeft) Compare(ctx context.Context, _ []coordinator.ScoreFile, _ *coordinator.ScoreFile, _ *surmisev1.CompareScoresRequest) (*surmisev1.CompareScoresResponse, error) {
	c.begun <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// One comparison is made at a time: who waits is told so, and is next once the one before has left.
func TestComparisonsWaitForOneAnother(t *testing.T) {
	c := untilLeft{begun: make(chan struct{}, 2)}
	s := start(t, func(cfg *coordinator.Config) { cfg.Comparer = c })
	w := s.ready("w")
	job := s.submit(score("m.safetensors"))
	l := w.lease()
	w.done(l.Lease, &surmisev1.Artifact{Name: "scores", Path: publish(t, l, "scores.json")})
	w.settled(surmisev1.JobState_SUCCEEDED)
	request := &surmisev1.CompareScoresRequest{Names: []string{job.Name}}
	call := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := s.scores.CompareScores(ctx, request)
			ended <- err
		}()
		return ended
	}

	first, leave := context.WithCancel(s.ctx)
	firstEnded := call(first)
	<-c.begun
	short, stop := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer stop()
	_, err := s.scores.CompareScores(short, request)
	wantCode(t, err, codes.DeadlineExceeded)
	second, leaveToo := context.WithCancel(s.ctx)
	secondEnded := call(second)
	leave()
	wantCode(t, <-firstEnded, codes.Canceled)
	<-c.begun
	leaveToo()
	wantCode(t, <-secondEnded, codes.Canceled)
}

func TestPanicBecomesInternal(t *testing.T) {
	s := start(t, func(c *coordinator.Config) { c.Comparer = comparer{panics: true} })
	w := s.ready("w")
	job := s.submit(score("m.safetensors"))
	l := w.lease()
	w.done(l.Lease, &surmisev1.Artifact{Name: "scores", Path: publish(t, l, "scores.json")})
	w.settled(surmisev1.JobState_SUCCEEDED)
	_, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{job.Name}})
	wantCode(t, err, codes.Internal)
	s.get(job.Name) // still serving
}

func TestWithoutComparer(t *testing.T) {
	s := start(t, nil)
	_, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{"jobs/a"}})
	wantCode(t, err, codes.Unimplemented)
}

// brokenStore fails every change when broken.
type brokenStore struct {
	coordinator.Store
	broken chan struct{} // closed: broken
}

func (b brokenStore) Apply(ctx context.Context, id string, e queue.Event) (queue.Job, queue.Effects, error) {
	select {
	case <-b.broken:
		return queue.Job{}, queue.Effects{}, errors.New("disk full")
	default:
		return b.Store.Apply(ctx, id, e)
	}
}

func TestStoreThatFailsIsUnavailable(t *testing.T) {
	broken := make(chan struct{})
	s := start(t, func(c *coordinator.Config) { c.Store = brokenStore{c.Store, broken} })
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	close(broken)
	_, err := s.jobs.CancelJob(s.ctx, &surmisev1.CancelJobRequest{Name: job.Name})
	wantCode(t, err, codes.Unavailable)
	w.done(l.Lease) // must not be answered as settled
	wantCode(t, w.ended(), codes.Unavailable)
	s.wantState(job.Name, surmisev1.JobState_LEASED)
}

func TestHealthAndReflection(t *testing.T) {
	s := start(t, nil)
	health, err := healthv1.NewHealthClient(s.conn).Check(s.ctx, &healthv1.HealthCheckRequest{Service: "surmise.v1.JobService"})
	if err != nil || health.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", health, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(s.conn).ServerReflectionInfo(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().Service {
		names = append(names, service.Name)
	}
	for _, want := range []string{"surmise.v1.JobService", "surmise.v1.PlausibilityService", "surmise.v1.WorkerService"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, not %s", names, want)
		}
	}
}

func TestConfigFaultsNameTheField(t *testing.T) {
	for field, cfg := range map[string]coordinator.Config{
		"Store":         {ArtifactDir: "a"},
		"ArtifactDir":   {Store: brokenStore{}},
		"LeaseDuration": {Store: brokenStore{}, ArtifactDir: "a", LeaseDuration: -1},
	} {
		if _, err := coordinator.New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := os.Stat("a"); err == nil {
		t.Error("New made a folder")
	}
}

// A worker that leaves in order, because it was idle for long, may be given a job at that moment.
func TestAJobThatCrossedTheLeaveOfItsWorkerIsGivenToAnother(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("leaves")
	w.lease() // not taken up
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := w.ended(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	got := s.wantState(job.Name, surmisev1.JobState_QUEUED)
	if !strings.HasPrefix(got.Reason, "handed back: its worker left before it came") {
		t.Errorf("waits as %q", got.Reason)
	}
	other := s.ready("stays")
	if l := other.lease(); l.Lease.Job != job.Name || l.Lease.Epoch != 2 {
		t.Errorf("given %v", l.Lease)
	}
}

// fullStore cannot store anything while full is set.
type fullStore struct {
	coordinator.Store
	full atomic.Bool
}

func (s *fullStore) Writable(ctx context.Context) error {
	if s.full.Load() {
		return errors.New("database or disk is full")
	}
	return s.Store.Writable(ctx)
}

// The health service says what readiness says: whether jobs can be taken.
func TestHealthFollowsTheStore(t *testing.T) {
	var store fullStore
	s := start(t, func(c *coordinator.Config) { store.Store, c.Store = c.Store, &store })
	watch, err := healthv1.NewHealthClient(s.conn).Watch(s.ctx, &healthv1.HealthCheckRequest{Service: "surmise.v1.JobService"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []healthv1.HealthCheckResponse_ServingStatus{healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING, healthv1.HealthCheckResponse_SERVING} {
		full := i == 1
		store.full.Store(full)
		if err := s.srv.Ready(s.ctx); (err != nil) != full {
			t.Errorf("ready %v with a full disk %v", err, full)
		}
		done := make(chan struct{})
		go func() { // the next look may not be waited for yet
			for {
				select {
				case <-done:
					return
				case d := <-s.clock.set:
					s.clock.advance(d)
				}
			}
		}()
		s.clock.advance(time.Minute)
		got, err := watch.Recv()
		close(done)
		if err != nil || got.Status != want {
			t.Fatalf("health %v, %v, want %v", got, err, want)
		}
	}
}

// An error travels in headers, of which clients take little: a request with many faults names the first.
func TestManyFaultsMakeAShortError(t *testing.T) {
	s := start(t, nil)
	rank := &surmisev1.RankSpec{Model: "m"}
	for range 100_000 {
		rank.Sets = append(rank.Sets, &surmisev1.RankSet{Make: "x"})
	}
	_, err := s.jobs.SubmitJob(s.ctx, &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Rank{Rank: rank}})
	wantField(t, err, "rank.sets")
	if size := inHeaders(t, err); size > 8<<10 || !strings.HasSuffix(err.Error(), "more") {
		t.Errorf("%d bytes: %v", size, err)
	}
}

// inHeaders is what an error takes on the wire: its message in percent-encoding, at most, and its status in base64.
func inHeaders(t *testing.T, err error) int {
	t.Helper()
	st, ok := status.FromError(err)
	if !ok {
		t.Fatalf("no status: %v", err)
	}
	details, err := proto.Marshal(st.Proto())
	if err != nil {
		t.Fatal(err)
	}
	return len(url.PathEscape(st.Message())) + base64.RawStdEncoding.EncodedLen(len(details))
}

func TestALongValueMakesAShortError(t *testing.T) {
	s := start(t, nil)
	req := score("m.safetensors")
	req.GetScore().Pairs, req.GetScore().Dataset, req.GetScore().Root = strings.Repeat("ü", 2048), "grasp", "r"
	_, err := s.jobs.SubmitJob(s.ctx, req)
	wantField(t, err, "score.pairs")
	if size := inHeaders(t, err); size > 8<<10 || !utf8.ValidString(err.Error()) {
		t.Errorf("%d bytes: %v", size, err)
	}
	req = score("m.safetensors")
	req.Scheduling = &surmisev1.Scheduling{Needs: &surmisev1.Needs{Labels: map[string]string{strings.Repeat("k%", 1<<20): "v"}}}
	_, err = s.jobs.SubmitJob(s.ctx, req)
	wantCode(t, err, codes.InvalidArgument)
	if size := inHeaders(t, err); size > 8<<10 {
		t.Errorf("a field of a long name: %d bytes", size)
	}
}

// A request that is made again after an upgrade is the same one, though there are defaults now that its job was stored without.
func TestRequestIDOutlivesNewDefaults(t *testing.T) {
	s := start(t, nil)
	_, _, err := s.cfg.Store.Submit(s.ctx, queue.Submission{ID: "old", RequestID: "once",
		Spec: []byte(`{"score":{"pairs":"pairs.csv","model":"m.safetensors","stride":2,"precision":"auto","device":"auto"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	req := score("m.safetensors")
	req.RequestId = "once"
	if again := s.submit(req); again.Name != "jobs/old" {
		t.Errorf("another job: %s", again.Name)
	}
	req.GetScore().Stride = 4
	_, err = s.jobs.SubmitJob(s.ctx, req)
	wantCode(t, err, codes.AlreadyExists)
}
