package coordinator_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func rankRequest(id string) *surmisev1.RankContinuationsRequest {
	return &surmisev1.RankContinuationsRequest{RequestId: id, Spec: &surmisev1.RankSpec{Model: "model.safetensors",
		Sets: []*surmisev1.RankSet{{Context: "a.avi", Make: "time-direction"}}}}
}

type rankAnswer struct {
	response *surmisev1.RankContinuationsResponse
	err      error
}

// rank calls in the background.
func (s *server) rank(ctx context.Context, req *surmisev1.RankContinuationsRequest) <-chan rankAnswer {
	out := make(chan rankAnswer, 1)
	go func() {
		response, err := s.scores.RankContinuations(ctx, req)
		out <- rankAnswer{response, err}
	}()
	return out
}

const someRanking = `{"rankings":[{"context":"a.avi","make":"time-direction","frames":8,"futures":[
	{"name":"forward","energy":0.25},{"name":"backward","candidate":1,"energy":0.5,"margin":0.25}]}]}`

func TestRankContinuations(t *testing.T) {
	s := start(t, nil)
	answer := s.rank(s.ctx, rankRequest(""))
	w := s.attach("a")
	w.ready()
	lease := w.lease()
	if r := lease.Spec.GetRank(); r.GetMeasure() != "mean" || lease.ModelPath != "model.safetensors" {
		t.Errorf("lease of %v with model %q", r, lease.ModelPath)
	}
	path := publish(t, lease, "ranking.json")
	if err := os.WriteFile(path, []byte(someRanking), 0o600); err != nil {
		t.Fatal(err)
	}
	w.beat(lease.Lease, nil)
	w.done(lease.Lease, &surmisev1.Artifact{Name: "ranking", Path: path})
	got := <-answer
	if got.err != nil {
		t.Fatal(got.err)
	}
	futures := got.response.Rankings[0].Futures
	if got.response.Name != lease.Lease.Job || futures[0].Name != "forward" || futures[1].Candidate != 1 || futures[1].Margin != 0.25 {
		t.Errorf("answer %v", got.response)
	}
}

func TestRankContinuationsThatFail(t *testing.T) {
	s := start(t, nil)
	bad := rankRequest("")
	bad.Spec.Model = "jobs/nobody"
	_, err := s.scores.RankContinuations(s.ctx, bad)
	wantField(t, err, "spec.model")
	bad.Spec.Sets = nil
	_, err = s.scores.RankContinuations(s.ctx, bad)
	wantField(t, err, "spec.sets")
	_, err = s.scores.RankContinuations(s.ctx, &surmisev1.RankContinuationsRequest{})
	wantField(t, err, "spec")

	w := s.attach("a")
	w.ready()
	answer := s.rank(s.ctx, rankRequest(""))
	lease := w.lease()
	w.failed(lease.Lease, "rank.sets[0]: context: no such video", surmisev1.Blame_BLAME_JOB)
	got := <-answer
	wantCode(t, got.err, codes.FailedPrecondition)
	if got.err == nil || !strings.Contains(got.err.Error(), "no such video") {
		t.Errorf("got %v, want the job's reason", got.err)
	}
	w.settled(surmisev1.JobState_FAILED)

	w.ready() // a worker that publishes what is no ranking
	answer = s.rank(s.ctx, rankRequest(""))
	lease = w.lease()
	path := publish(t, lease, "ranking.json")
	if err := os.WriteFile(path, []byte("no JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.done(lease.Lease, &surmisev1.Artifact{Name: "ranking", Path: path})
	got = <-answer
	wantCode(t, got.err, codes.FailedPrecondition)
}

// A caller that leaves takes its job with it, unless it can come back for it.
func TestRankContinuationsOfACallerThatLeaves(t *testing.T) {
	s := start(t, nil)
	w := s.attach("a")
	w.ready()
	ctx, leave := context.WithCancel(s.ctx)
	answer := s.rank(ctx, rankRequest(""))
	lease := w.lease()
	leave()
	wantCode(t, (<-answer).err, codes.Canceled)
	if got := hear(w, (*surmisev1.AttachResponse).GetCancel); got.Lease.Job != lease.Lease.Job {
		t.Errorf("told to cancel %v", got)
	}
	w.handedBack(lease.Lease, "cancelled")
	w.settled(surmisev1.JobState_CANCELLED)

	w.ready()
	ctx, leave = context.WithCancel(s.ctx)
	answer = s.rank(ctx, rankRequest("mine"))
	lease = w.lease()
	leave()
	wantCode(t, (<-answer).err, codes.Canceled)
	answer = s.rank(s.ctx, rankRequest("mine"))
	path := publish(t, lease, "ranking.json")
	if err := os.WriteFile(path, []byte(someRanking), 0o600); err != nil {
		t.Fatal(err)
	}
	w.done(lease.Lease, &surmisev1.Artifact{Name: "ranking", Path: path})
	w.settled(surmisev1.JobState_SUCCEEDED)
	if got := <-answer; got.err != nil || got.response.Name != lease.Lease.Job {
		t.Errorf("the same request again: %v", got)
	}
}

// leavingStore has the caller leave once its job is stored.
type leavingStore struct {
	coordinator.Store
	leave context.CancelFunc
}

func (s *leavingStore) Submit(ctx context.Context, sub queue.Submission) (queue.Job, bool, error) {
	job, created, err := s.Store.Submit(ctx, sub)
	s.leave()
	<-ctx.Done()
	return job, created, err
}

// However early the caller leaves, no job stays that nobody waits for.
func TestRankContinuationsOfACallerThatLeavesAtOnce(t *testing.T) {
	var store leavingStore
	s := start(t, func(c *coordinator.Config) { store.Store, c.Store = c.Store, &store })
	var ctx context.Context
	ctx, store.leave = context.WithCancel(s.ctx)
	wantCode(t, (<-s.rank(ctx, rankRequest(""))).err, codes.Canceled)
	jobs, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{})
	if err != nil || len(jobs.Jobs) != 1 {
		t.Fatalf("jobs %v (%v), want one", jobs, err)
	}
	events := s.watch(jobs.Jobs[0].Name, 0, surmisev1.JobEventType_JOB_ENDED)
	if last := events[len(events)-1].Job.State; last != surmisev1.JobState_CANCELLED {
		t.Errorf("the job ended as %v", last)
	}
}

func TestRankContinuationsEndsWithTheCoordinator(t *testing.T) {
	s := start(t, nil)
	w := s.attach("a")
	w.ready()
	answer := s.rank(s.ctx, rankRequest("mine"))
	w.lease()
	s.down()
	wantCode(t, (<-answer).err, codes.Unavailable)
}
