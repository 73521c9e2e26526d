package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// plaintext are the options of the test's own connections, which come back soon after a coordinator does.
func plaintext() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}})}
}

// replayed is in every message of the old worker; nothing in the store may hold it.
const replayed = "replayed"

// replay says all that a worker can say about a lease, and returns what the coordinator answers about it to each word. While
// the coordinator is away it tries again.
func (r *round) replay(ctx context.Context, at int, lease *surmisev1.LeaseRef) (answers []*surmisev1.AttachResponse, err error) {
	for {
		if answers, err = r.replayOnce(ctx, at, lease); err == nil {
			return answers, nil
		}
		if pause(ctx, callAgain) != nil {
			return nil, fmt.Errorf("replaying epoch %d of %s: %w", lease.Epoch, lease.Job, err)
		}
	}
}

func (r *round) replayOnce(ctx context.Context, at int, lease *surmisev1.LeaseRef) (answers []*surmisev1.AttachResponse, err error) {
	conn, err := grpc.NewClient(r.addresses[at], plaintext()...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, stop := context.WithTimeout(ctx, callPatience)
	defer stop()
	stream, err := surmisev1.NewWorkerServiceClient(conn).Attach(ctx)
	if err != nil {
		return nil, err
	}
	said := []*surmisev1.AttachRequest{
		{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "ghost", Held: []*surmisev1.LeaseRef{lease}}}},
		{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: lease, Sequence: 1,
			Progress: &surmisev1.Progress{Phase: replayed, Step: 1}}}},
		{Message: &surmisev1.AttachRequest_Checkpoint{Checkpoint: &surmisev1.CheckpointPublished{Lease: lease,
			Checkpoint: &surmisev1.Checkpoint{Step: steps, Path: filepath.Join(r.state, replayed)}}}},
		{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease,
			Result: &surmisev1.Result{Metrics: map[string]float64{replayed: 1}}}}},
		{Message: &surmisev1.AttachRequest_Failed{Failed: &surmisev1.Failed{Lease: lease, Reason: replayed, Blame: surmisev1.Blame_BLAME_JOB}}},
		{Message: &surmisev1.AttachRequest_HandedBack{HandedBack: &surmisev1.HandedBack{Lease: lease, Reason: replayed}}},
	}
	for _, m := range said {
		if err := stream.Send(m); err != nil {
			_, err = stream.Recv() // has the reason
			return nil, err
		}
	}
	for len(answers) < len(said) { // hello is answered by the welcome, and by a word about the lease
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if m.GetWelcome() == nil {
			answers = append(answers, m)
		}
	}
	return answers, nil
}

// replayStale replays the lease before the newest one of a job, or while it has only had one, that of another epoch to come.
func (r *round) replayStale(ctx context.Context, j *job, at int) error {
	epoch := j.newest().GetEpoch() - 1
	if epoch < 1 {
		epoch = 1 << 40
	}
	lease := &surmisev1.LeaseRef{Job: j.name, Epoch: epoch}
	answers, err := r.replay(ctx, at, lease)
	for i, a := range answers {
		if a.GetRevoked() == nil {
			return fmt.Errorf("replaying epoch %d of %s: answer %d is %v, want revoked", epoch, j.name, i, a)
		}
	}
	return err
}

// replayEnded repeats the end of a job with another result: the worker is told that it is settled, and nothing changes.
func (r *round) replayEnded(ctx context.Context, j *job) error {
	last := j.newest()
	lease := &surmisev1.LeaseRef{Job: j.name, Epoch: last.GetEpoch()}
	answers, err := r.replay(ctx, 0, lease)
	for i, a := range answers {
		// Held and heartbeat speak of a lease that is over; what ends it is known already, and so would a checkpoint that
		// cannot be kept.
		if over := i < 2; over && a.GetRevoked() == nil || !over && a.GetSettled().GetState() != last.GetState() {
			return fmt.Errorf("replaying the end of %s, %s: answer %d is %v", j.name, last.GetState(), i, a)
		}
	}
	return err
}
