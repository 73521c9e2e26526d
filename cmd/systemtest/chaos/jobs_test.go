package chaos

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const (
	jobCount        = 2   // training jobs of a round that must end with a model, beside what faults submit
	steps           = 150 // of each
	checkpointEvery = 10
	workerCount     = 2
)

// training is a job that is small in everything; jobs that differ in their seed end with different weights.
func (r *round) training(seed uint64, steps int32) *surmisev1.TrainSpec {
	return &surmisev1.TrainSpec{Data: []string{r.clips}, Steps: steps, Batch: 2, Threads: 1, LogEvery: 1, CheckpointEvery: checkpointEvery, Seed: seed,
		Model: &surmisev1.ModelSpec{Size: 32, Frames: 8, Dim: 16, Depth: 1, Heads: 1, PredDim: 16, PredDepth: 1, PredHeads: 1}}
}

// client speaks to whichever coordinator answers, and does not give up before its context ends.
type client struct {
	jobs []surmisev1.JobServiceClient
}

const (
	callPatience = 5 * time.Second
	callAgain    = 100 * time.Millisecond
)

// retry calls the coordinators in turn until one gives an answer that a further try would not change.
func retry[A any](ctx context.Context, c client, first int, call func(context.Context, surmisev1.JobServiceClient) (A, error)) (A, error) {
	for i := first; ; i++ {
		one, stop := context.WithTimeout(ctx, callPatience)
		answer, err := call(one, c.jobs[i%len(c.jobs)])
		stop()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted, codes.Aborted:
			select {
			case <-time.After(callAgain):
				continue
			case <-ctx.Done():
				return answer, errors.Join(err, context.Cause(ctx))
			}
		}
		return answer, err
	}
}

// job is one job of a round, as its watcher sees it.
type job struct {
	kind string // what its outcome must be like
	name string

	mu      sync.Mutex
	step    int           // highest seen; -1 before it has a worker, beyond all steps once it has ended
	news    chan struct{} // closed and replaced when step grows
	last    *surmisev1.Job
	ended   chan struct{} // closed with the last event
	watched sync.WaitGroup
}

// submit submits a job, twice at once with the same request id, as a client does that hears no answer.
func (r *round) submit(ctx context.Context, kind string, spec *surmisev1.TrainSpec, priority int32) (*job, error) {
	request := &surmisev1.SubmitJobRequest{RequestId: fmt.Sprintf("%s-%s", r.id, kind), DisplayName: kind,
		Spec: &surmisev1.SubmitJobRequest_Train{Train: spec}, Scheduling: &surmisev1.Scheduling{Priority: priority}}
	const times = 2
	var names [times]string
	var errs [times]error
	var both sync.WaitGroup
	for i := range times {
		both.Go(func() {
			submitted, err := retry(ctx, r.client, i, func(ctx context.Context, c surmisev1.JobServiceClient) (*surmisev1.Job, error) {
				return c.SubmitJob(ctx, request)
			})
			names[i], errs[i] = submitted.GetName(), err
		})
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("submitting %s: %w", kind, err)
	}
	if names[0] != names[1] {
		return nil, fmt.Errorf("submitting %s twice with one request id made %s and %s", kind, names[0], names[1])
	}
	j := &job{kind: kind, name: names[0], step: -1, news: make(chan struct{}), ended: make(chan struct{})}
	r.mu.Lock()
	r.jobs = append(r.jobs, j)
	r.mu.Unlock()
	j.watched.Go(func() {
		if err := r.watch(ctx, j); err != nil {
			r.fault(fmt.Errorf("watching %s, %s: %w", j.name, j.kind, err))
		}
	})
	return j, nil
}

// watch follows a job to its end, through the end of any coordinator: no event comes twice, none is left out.
func (r *round) watch(ctx context.Context, j *job) error {
	var revision int64
	for at := 0; ; at++ {
		err := watchOnce(ctx, r.client.jobs[at%len(r.client.jobs)], j, &revision)
		if err == nil {
			return nil
		}
		switch status.Code(err) {
		case codes.Unavailable, codes.Canceled, codes.ResourceExhausted, codes.DeadlineExceeded:
		default:
			return err
		}
		select {
		case <-time.After(callAgain):
		case <-ctx.Done():
			return fmt.Errorf("it is %s (%s) at step %d: %w; the last word: %w", j.last.GetState(), j.last.GetReason(), j.step, context.Cause(ctx), err)
		}
	}
}

// watchOnce follows a job over one stream. It returns nil after the last event.
func watchOnce(ctx context.Context, c surmisev1.JobServiceClient, j *job, revision *int64) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := c.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: j.name, AfterRevision: *revision})
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		if event.GetRevision() != *revision+1 {
			return fmt.Errorf("event %d came after event %d", event.GetRevision(), *revision)
		}
		*revision = event.GetRevision()
		j.saw(event)
		if event.GetType() == surmisev1.JobEventType_JOB_ENDED {
			return nil
		}
	}
}

func (j *job) saw(e *surmisev1.WatchJobResponse) {
	j.mu.Lock()
	defer j.mu.Unlock()
	step := j.step
	if e.GetJob().GetEpoch() > 0 {
		step = max(step, 0, int(e.GetJob().GetLastCheckpoint().GetStep()))
	}
	if p := e.GetJob().GetProgress(); p.GetPhase() == "training" {
		step = max(step, int(p.GetStep()))
	}
	if e.GetType() == surmisev1.JobEventType_JOB_ENDED {
		step = math.MaxInt
		close(j.ended)
	}
	j.last = e.GetJob()
	if step > j.step {
		j.step = step
		close(j.news)
		j.news = make(chan struct{})
	}
}

// reach waits until a step of the job has been seen, or its end.
func (j *job) reach(ctx context.Context, step int) error {
	for {
		j.mu.Lock()
		at, news := j.step, j.news
		j.mu.Unlock()
		if at >= step {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%s, %s, did not come to step %d: %w", j.name, j.kind, step, context.Cause(ctx))
		}
	}
}

// newest is the job as its newest event has it.
func (j *job) newest() *surmisev1.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// id is its name in the store.
func (j *job) id() string { return strings.TrimPrefix(j.name, "jobs/") }

// dial connects to each coordinator.
func dial(addresses []string) (c client, close func(), err error) {
	var connections []*grpc.ClientConn
	close = func() {
		for _, conn := range connections {
			conn.Close()
		}
	}
	for _, address := range addresses {
		conn, err := grpc.NewClient(address, plaintext()...)
		if err != nil {
			close()
			return c, nil, err
		}
		connections = append(connections, conn)
		c.jobs = append(c.jobs, surmisev1.NewJobServiceClient(conn))
	}
	return c, close, nil
}
