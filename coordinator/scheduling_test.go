package coordinator_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func trainWith(sched *surmisev1.Scheduling) *surmisev1.SubmitJobRequest {
	r := train()
	r.Scheduling = sched
	return r
}

// announce attaches a worker that says this of itself and asks for a job.
func (s *server) announce(hello *surmisev1.Hello) *worker {
	s.t.Helper()
	ctx, cut := context.WithCancel(s.ctx)
	stream, err := s.workers.Attach(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cut)
	w := &worker{s.t, hello.Name, stream, cut}
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: hello}})
	hear(w, (*surmisev1.AttachResponse).GetWelcome)
	w.ready()
	return w
}

func TestWorkersGetWhatTheyCanServe(t *testing.T) {
	s := start(t, nil)
	gpu := s.submit(trainWith(&surmisev1.Scheduling{Priority: 7, Needs: &surmisev1.Needs{
		Gpus: 1, Memory: 1 << 30, DataRoots: []string{"/data"}, Labels: map[string]string{"zone": "x"}}}))
	plain := s.submit(train())
	w := s.ready("plain")
	l := w.lease()
	if l.Lease.Job != plain.Name {
		t.Fatalf("given %s, which it cannot serve", l.Lease.Job)
	}
	got := s.get(gpu.Name)
	if got.Reason != "waiting: the only worker lacks 1 GPUs" || got.QueuePosition != 1 || got.Scheduling.Priority != 7 {
		t.Errorf("waits as %v", got)
	}
	g := s.announce(&surmisev1.Hello{Name: "g", Gpus: 2, Memory: 2 << 30, DataRoots: []string{"/data"}, Labels: map[string]string{"zone": "x", "a": "b"}})
	if l := g.lease(); l.Lease.Job != gpu.Name {
		t.Errorf("the worker with a GPU is given %s", l.Lease.Job)
	}
	another := s.submit(trainWith(&surmisev1.Scheduling{Needs: &surmisev1.Needs{Gpus: 2}}))
	if want := "waiting for the only worker, which is busy (of 2 attached, 1 lack what it needs)"; another.Reason != want {
		t.Errorf("waits as %q, want %q", another.Reason, want)
	}
}

func TestHigherPriorityPreempts(t *testing.T) {
	s := start(t, nil)
	low := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	w.beat(l.Lease, &surmisev1.Progress{Phase: "training", Step: 4})
	high := s.submit(trainWith(&surmisev1.Scheduling{Priority: 1}))
	if got := hear(w, (*surmisev1.AttachResponse).GetCancel); got.Lease.Job != low.Name {
		t.Fatalf("told to stop %v", got)
	}
	path := publish(t, l, "step-00000004/model.safetensors")
	w.checkpoint(l.Lease, 4, path)
	hear(w, (*surmisev1.AttachResponse).GetCheckpointRecorded)
	w.handedBack(l.Lease, "the job was cancelled")
	w.settled(surmisev1.JobState_QUEUED)
	if got := s.get(low.Name); !strings.HasPrefix(got.Reason, "preempted: a job of higher priority waits; waiting") || got.QueuePosition != 2 {
		t.Errorf("the one that gave way: %v", got)
	}
	w.ready()
	second := w.lease()
	if second.Lease.Job != high.Name {
		t.Fatalf("given %s, want the one of higher priority", second.Lease.Job)
	}
	w.beat(second.Lease, nil)
	w.done(second.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	w.ready()
	if again := w.lease(); again.Lease.Job != low.Name || again.ResumeFrom.GetStep() != 4 {
		t.Errorf("afterwards given %v, want the first one from its checkpoint", again)
	}
	types := map[surmisev1.JobEventType]int{}
	for _, e := range s.watch(low.Name, 0, surmisev1.JobEventType_JOB_REQUEUED) {
		types[e.Type]++
	}
	if types[surmisev1.JobEventType_JOB_PREEMPTED] != 1 {
		t.Errorf("events %v", types)
	}
}

func TestDeadlineFailsTheJob(t *testing.T) {
	s := start(t, nil)
	due := timestamppb.New(s.clock.Now().Add(10 * time.Second))
	waits := s.submit(trainWith(&surmisev1.Scheduling{Priority: -1, Deadline: due}))
	runs := s.submit(trainWith(&surmisev1.Scheduling{Deadline: due}))
	w := s.ready("w")
	l := w.lease()
	w.beat(l.Lease, nil)
	s.clock.advance(10 * time.Second)
	other := s.submit(train()) // wakes the dispatcher, whatever its timers are
	if got := hear(w, (*surmisev1.AttachResponse).GetCancel); got.Lease.Job != runs.Name {
		t.Fatalf("told to stop %v", got)
	}
	w.handedBack(l.Lease, "stopped")
	w.settled(surmisev1.JobState_FAILED)
	for _, name := range []string{waits.Name, runs.Name} {
		if got := s.wantState(name, surmisev1.JobState_FAILED); got.Reason != "DEADLINE: not finished by 2030-01-01T00:00:10Z" {
			t.Errorf("%s: %q", name, got.Reason)
		}
	}
	s.wantState(other.Name, surmisev1.JobState_QUEUED)
}

func TestWaitIsEstimatedFromHowLongJobsTook(t *testing.T) {
	s := start(t, nil)
	first := s.submit(train())
	if first.WaitEstimate != nil {
		t.Errorf("estimated %v from nothing", first.WaitEstimate)
	}
	w := s.ready("w")
	l := w.lease()
	w.beat(l.Lease, nil)
	s.clock.advance(20 * time.Second)
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	s.submit(train())
	w.ready()
	w.lease()
	s.submit(train())
	if got := s.submit(train()); got.QueuePosition != 2 || got.WaitEstimate.AsDuration() != 40*time.Second {
		t.Errorf("place %d, estimate %v; want 2 jobs of 20 s", got.QueuePosition, got.WaitEstimate)
	}
	list, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{State: surmisev1.JobState_QUEUED})
	if err != nil || list.Jobs[0].WaitEstimate.AsDuration() != 40*time.Second || list.Jobs[1].WaitEstimate.AsDuration() != 20*time.Second {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestOwnersAndPlaces(t *testing.T) {
	s := start(t, nil)
	for _, owner := range []string{"ann", "ann", "bob", "ann"} {
		s.submit(trainWith(&surmisev1.Scheduling{Owner: owner}))
	}
	list, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var places []int32
	for _, job := range list.Jobs { // newest first
		places = append(places, job.QueuePosition)
		if got := s.get(job.Name); !proto.Equal(got, job) {
			t.Errorf("listed as %v\nalone %v", job, got)
		}
	}
	if !slices.Equal(places, []int32{4, 2, 3, 1}) {
		t.Errorf("places %v, want those of turns", places)
	}
}

// The coordinator that knows its callers says whose a job is.
func TestOwnerIsTheCallers(t *testing.T) {
	s := start(t, func(c *coordinator.Config) { c.Owner = func(context.Context) string { return "caller" } })
	if job := s.submit(trainWith(&surmisev1.Scheduling{Owner: "somebody-else"})); job.Scheduling.Owner != "caller" {
		t.Errorf("owner %q", job.Scheduling.Owner)
	}
	sweep := s.submitSweep(`{"train":{"data":["c"]},"scheduling":{"owner":"else","priority":3}}`)
	child := s.get(s.getSweep(sweep.Name).Children[0].Job)
	if child.Scheduling.Owner != "caller" || child.Scheduling.Priority != 3 {
		t.Errorf("a child's scheduling is %v", child.Scheduling)
	}
}

func TestBadSchedulingIsNamed(t *testing.T) {
	s := start(t, nil)
	for field, sched := range map[string]*surmisev1.Scheduling{
		"scheduling.priority":            {Priority: 1001},
		"scheduling.owner":               {Owner: "a b"},
		"scheduling.needs.gpus":          {Needs: &surmisev1.Needs{Gpus: -1}},
		"scheduling.needs.memory":        {Needs: &surmisev1.Needs{Memory: -1}},
		"scheduling.needs.data_roots[0]": {Needs: &surmisev1.Needs{DataRoots: []string{""}}},
		"scheduling.deadline":            {Deadline: &timestamppb.Timestamp{Seconds: 1 << 60}},
	} {
		_, err := s.jobs.SubmitJob(s.ctx, trainWith(sched))
		wantField(t, err, field)
	}
}

type launching struct {
	words map[int]string // by GPUs asked for
	woken *atomic.Int32
}

func (l launching) Explain(n queue.Needs) string { return l.words[n.GPUs] }
func (l launching) Wake()                        { l.woken.Add(1) }

func TestAWaitingJobHasTheWordsOfWhoeverStartsWorkers(t *testing.T) {
	l := launching{map[int]string{1: "Slurm refuses a worker of pool gpu: Invalid partition name specified"}, &atomic.Int32{}}
	s := start(t, func(cfg *coordinator.Config) { cfg.Launch = l })
	gpu := s.submit(trainWith(&surmisev1.Scheduling{Needs: &surmisev1.Needs{Gpus: 1}}))
	plain := s.submit(train())
	want := map[string]string{
		gpu.Name:   "waiting: no worker is attached; Slurm refuses a worker of pool gpu: Invalid partition name specified",
		plain.Name: "waiting: no worker is attached",
	}
	if n := l.woken.Load(); n != 2 {
		t.Errorf("woken %d times by two jobs", n)
	}
	list, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range append(list.Jobs, s.get(gpu.Name), s.get(plain.Name)) {
		if job.Reason != want[job.Name] {
			t.Errorf("%s waits as %q, want %q", job.Name, job.Reason, want[job.Name])
		}
	}
}

// The place is the order in which one worker serves: who was served waits for the others.
func TestPlacesAreTheOrderOfService(t *testing.T) {
	s := start(t, nil)
	s.submit(trainWith(&surmisev1.Scheduling{Owner: "ann"}))
	w := s.ready("w")
	l := w.lease()
	names := make([]string, 5)
	for _, owner := range []string{"ann", "ann", "bob", "bob"} {
		s.submit(trainWith(&surmisev1.Scheduling{Owner: owner}))
	}
	list, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{State: surmisev1.JobState_QUEUED})
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range list.Jobs {
		names[job.QueuePosition] = job.Name
	}
	for place, name := range names[1:] {
		w.done(l.Lease)
		w.settled(surmisev1.JobState_SUCCEEDED)
		w.ready()
		if l = w.lease(); l.Lease.Job != name {
			t.Errorf("%s is served in place %d, which was that of %s", l.Lease.Job, place+1, name)
		}
	}
}
