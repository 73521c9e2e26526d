package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

type attachStream = grpc.BidiStreamingServer[surmisev1.AttachRequest, surmisev1.AttachResponse]

// Attach implements WorkerService. This goroutine alone sends and acts; another only receives, so that the stream can be
// left while nothing comes.
func (s *Server) Attach(stream attachStream) error {
	ctx := stream.Context()
	in := make(chan *surmisev1.AttachRequest)
	closed := make(chan error, 1)
	s.streams.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				closed <- err
				return
			}
			select {
			case in <- m:
			case <-ctx.Done(): // the handler has returned
				return
			}
		}
	})

	w := newSession(queue.Worker{}) // nobody's until hello
	for {
		select {
		case m := <-in:
			if w.name == "" {
				hello := m.GetHello()
				if hello == nil {
					return badRequest(jobspec.FieldError{Field: "message", Problem: "the first one must be hello"})
				}
				w = newSession(queue.Worker{
					Name: hello.Name, GPUs: int(hello.Gpus), Memory: hello.Memory, DataRoots: hello.DataRoots, Labels: hello.Labels})
				w.working = len(hello.Held) > 0
				if err := s.workers.attach(w, hello.UnlessAttached); err != nil {
					return err
				}
				defer s.workers.detach(w)
				s.audit.attached(s.clock.Now(), auth.FromContext(ctx), peerAddr(ctx), w.name)
				s.log.Info("worker attached", "worker", w.name, "version", hello.Version, "threads", hello.Threads, "held", len(hello.Held))
				defer s.log.Info("worker detached", "worker", w.name)
				if err := s.welcome(stream, w, hello); err != nil {
					return err
				}
				continue
			}
			if err := s.hear(stream, w, m); err != nil {
				return err
			}
		case m := <-w.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-w.gone:
			return w.why
		case err := <-closed:
			if errors.Is(err, io.EOF) {
				return s.left(ctx, w)
			}
			return err
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the coordinator stops; attach again")
		}
	}
}

// welcome settles what the worker held before: leases it names go on if they are current, and jobs that the store
// believes it holds, but it does not name, are taken back at once rather than when their leases run out.
func (s *Server) welcome(stream attachStream, w *session, hello *surmisev1.Hello) error {
	ctx := stream.Context()
	err := stream.Send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Welcome{
		Welcome: &surmisev1.Welcome{LeaseDuration: durationpb.New(s.lease)}}})
	if err != nil {
		return err
	}
	named := map[string]int64{}
	for _, ref := range hello.Held {
		named[ref.Job] = ref.Epoch
		if err := s.heartbeat(stream, &surmisev1.Heartbeat{Lease: ref}); err != nil {
			return err
		}
	}
	held, err := s.store.HeldBy(ctx, w.name)
	if err != nil {
		return statusOf(err)
	}
	for _, job := range held {
		if named[jobPrefix+job.ID] == job.Epoch {
			continue
		}
		const reason = "its worker attached again without it"
		var lost queue.Event = queue.Fail{Epoch: job.Epoch, Reason: reason, Infrastructure: true}
		if job.State == queue.Leased {
			lost = queue.HandBack{Epoch: job.Epoch, Reason: reason} // the lease never arrived
		}
		job, effects, err := s.store.Apply(ctx, job.ID, lost)
		if err != nil && !errors.Is(err, queue.ErrStale) {
			return statusOf(err)
		}
		if err == nil {
			s.observer.LeaseLost(LossReattached)
		}
		s.changed(job, effects)
	}
	return nil
}

// leftPatience is how long the store may take about a worker that has left.
const leftPatience = 10 * time.Second

// left takes back a job that crossed the leave of its worker: one that ends its stream in order holds none, and one that
// breaks comes again.
func (s *Server) left(ctx context.Context, w *session) error {
	if w.name == "" {
		return nil // it never said who it is
	}
	s.workers.detach(w) // from here on it is given nothing
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftPatience)
	defer cancel()
	held, err := s.store.HeldBy(ctx, w.name)
	if err != nil {
		return statusOf(err)
	}
	for _, job := range held {
		if job.State != queue.Leased {
			continue
		}
		job, effects, err := s.store.Apply(ctx, job.ID, queue.HandBack{Epoch: job.Epoch, Reason: "its worker left before it came"})
		if err != nil && !errors.Is(err, queue.ErrStale) {
			return statusOf(err)
		}
		s.changed(job, effects)
	}
	return nil
}

// hear acts on one message of an attached worker. A stale one is answered with revoked and changes nothing.
func (s *Server) hear(stream attachStream, w *session, m *surmisev1.AttachRequest) error {
	switch m := m.Message.(type) {
	case *surmisev1.AttachRequest_Ready:
		s.workers.ready(w, s.clock.Now())
		return nil
	case *surmisev1.AttachRequest_Heartbeat:
		return s.heartbeat(stream, m.Heartbeat)
	case *surmisev1.AttachRequest_Checkpoint:
		return s.checkpoint(stream, m.Checkpoint)
	case *surmisev1.AttachRequest_Done:
		return s.done(stream, m.Done)
	case *surmisev1.AttachRequest_Failed:
		return s.settle(stream, m.Failed.Lease, queue.Fail{
			Epoch: m.Failed.Lease.Epoch, Reason: m.Failed.Reason,
			Infrastructure: m.Failed.Blame == surmisev1.Blame_BLAME_INFRASTRUCTURE,
		})
	case *surmisev1.AttachRequest_HandedBack:
		return s.settle(stream, m.HandedBack.Lease, queue.HandBack{Epoch: m.HandedBack.Lease.Epoch, Reason: m.HandedBack.Reason})
	default:
		return badRequest(jobspec.FieldError{Field: "message", Problem: "only the first one may be hello"})
	}
}

func (s *Server) heartbeat(stream attachStream, h *surmisev1.Heartbeat) error {
	progress, err := marshal("heartbeat.progress", h.Progress)
	if err != nil {
		return err
	}
	job, ok, err := s.apply(stream, h.Lease, queue.Heartbeat{Epoch: h.Lease.Epoch, For: s.lease, Progress: progress})
	if err != nil || !ok {
		return err
	}
	s.keepLog(h)
	if h.Progress != nil && job.Sweep != "" && job.State == queue.Running {
		s.judge(stream.Context(), job, h.Progress)
	}
	err = stream.Send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Renewed{Renewed: &surmisev1.LeaseRenewed{
		Lease: h.Lease, Sequence: h.Sequence, Duration: durationpb.New(s.lease)}}})
	if err == nil && (job.State == queue.Cancelling || job.Stop != "") {
		err = stream.Send(cancelMessage(job)) // again: the first one may have been lost with a stream
	}
	return err
}

func (s *Server) checkpoint(stream attachStream, c *surmisev1.CheckpointPublished) error {
	ref, err := s.published(stream.Context(), c.Lease, c.Checkpoint.Path, c.Checkpoint.Sha256)
	if err != nil {
		return s.misplaced(stream, c.Lease, err)
	}
	_, ok, err := s.apply(stream, c.Lease, queue.Checkpointed{Epoch: c.Lease.Epoch, Step: int(c.Checkpoint.Step), Path: ref.String()})
	if err != nil || !ok {
		return err
	}
	return stream.Send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_CheckpointRecorded{
		CheckpointRecorded: &surmisev1.CheckpointRecorded{Lease: c.Lease, Step: c.Checkpoint.Step}}})
}

func (s *Server) done(stream attachStream, d *surmisev1.Done) error {
	for _, a := range d.Result.Artifacts {
		if _, err := s.published(stream.Context(), d.Lease, a.Path, a.Sha256); err != nil {
			return s.misplaced(stream, d.Lease, fmt.Errorf("artifact %s: %w", a.Name, err))
		}
	}
	result, err := marshal("done.result", d.Result)
	if err != nil {
		return err
	}
	progress, err := marshal("done.progress", d.Progress)
	if err != nil {
		return err
	}
	return s.settle(stream, d.Lease, queue.Done{Epoch: d.Lease.Epoch, Result: result, Progress: progress})
}

// misplaced ends an attempt whose worker published what cannot be kept. Another worker may do better. A status is for the
// worker to try again with.
func (s *Server) misplaced(stream attachStream, lease *surmisev1.LeaseRef, why error) error {
	if status.Code(why) == codes.Unavailable {
		return status.Error(codes.Unavailable, why.Error())
	}
	return s.settle(stream, lease, queue.Fail{Epoch: lease.Epoch, Reason: "publishing: " + why.Error(), Infrastructure: true})
}

// settle applies an event that ends an attempt and tells the worker that it is durable.
func (s *Server) settle(stream attachStream, lease *surmisev1.LeaseRef, e queue.Event) error {
	job, ok, err := s.apply(stream, lease, e)
	if err != nil || !ok {
		return err
	}
	return stream.Send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Settled{Settled: &surmisev1.Settled{
		Lease: lease, State: surmisev1.JobState(surmisev1.JobState_value[string(job.State)])}}})
}

// apply stores an event of a worker; ok is false when it was stale, which the worker has been told.
func (s *Server) apply(stream attachStream, lease *surmisev1.LeaseRef, e queue.Event) (job queue.Job, ok bool, err error) {
	job, effects, err := s.store.Apply(stream.Context(), strings.TrimPrefix(lease.Job, jobPrefix), e)
	switch {
	case errors.Is(err, queue.ErrStale) || errors.Is(err, queue.ErrNotFound):
		s.observer.Stale()
		if job.State.Ended() && mayHaveLeft(job) {
			s.tidier.add(job.ID) // it may have published after the end
		}
		s.log.Warn("stale worker", "job", lease.Job, "epoch", lease.Epoch, "event", fmt.Sprintf("%T", e), "error", err)
		return job, false, stream.Send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Revoked{
			Revoked: &surmisev1.LeaseRevoked{Lease: lease, Reason: err.Error()}}})
	case err != nil:
		return job, false, statusOf(err)
	}
	if loss, lost := lossOf(e); lost && effects.Log != "" { // not a word repeated
		s.observer.LeaseLost(loss)
	}
	s.changed(job, effects)
	return job, true, nil
}

// marshal writes a worker's optional message for the store; absent stays nil. One that has no JSON, such as a duration
// whose seconds and nanos differ in sign, is the worker's fault.
func marshal[M interface {
	proto.Message
	comparable
}](field string, m M) (json.RawMessage, error) {
	var absent M
	if m == absent {
		return nil, nil
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, badRequest(jobspec.FieldError{Field: field, Problem: "cannot be stored: " + err.Error()})
	}
	return text, nil
}
