package coordinator

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const (
	// watchBatch events are read at a time.
	watchBatch = 256
	// watchPatience is how long a watcher may take no event before it is dropped.
	watchPatience = 20 * time.Second
)

var jobEventTypes = map[queue.LogType]surmisev1.JobEventType{
	queue.LogSubmitted:       surmisev1.JobEventType_JOB_SUBMITTED,
	queue.LogLeased:          surmisev1.JobEventType_JOB_LEASED,
	queue.LogStarted:         surmisev1.JobEventType_JOB_STARTED,
	queue.LogProgress:        surmisev1.JobEventType_JOB_PROGRESS,
	queue.LogCheckpointed:    surmisev1.JobEventType_JOB_CHECKPOINTED,
	queue.LogRequeued:        surmisev1.JobEventType_JOB_REQUEUED,
	queue.LogCancelRequested: surmisev1.JobEventType_JOB_CANCEL_REQUESTED,
	queue.LogEnded:           surmisev1.JobEventType_JOB_ENDED,
	queue.LogPreempted:       surmisev1.JobEventType_JOB_PREEMPTED,
}

// WatchJob implements JobService. Events come from the store's log, so a watcher costs nothing between them and can
// resume anywhere.
func (s *Server) WatchJob(req *surmisev1.WatchJobRequest, stream grpc.ServerStreamingServer[surmisev1.WatchJobResponse]) error {
	s.observer.Watching(1)
	defer s.observer.Watching(-1)
	ctx := stream.Context()
	id := strings.TrimPrefix(req.Name, jobPrefix)
	news, forget := s.watchers.add(id) // before the first read, so that nothing falls between
	defer forget()

	job, err := s.store.Get(ctx, id)
	if err != nil {
		return jobStatus(req.Name, err)
	}
	if req.AfterRevision > job.Revision {
		return status.Errorf(codes.OutOfRange, "after_revision %d: %s is at revision %d", req.AfterRevision, req.Name, job.Revision)
	}

	send, failed := sender(s, stream)
	defer close(send)
	for after := req.AfterRevision; ; {
		entries, err := s.store.Events(ctx, id, after, watchBatch)
		if err != nil {
			return statusOf(err)
		}
		for _, entry := range entries {
			response, err := s.eventMessage(entry)
			if err != nil {
				return err
			}
			if err := sendOrDrop(ctx, s, send, failed, response, noEvent, watchAgain); err != nil {
				return err
			}
			after, job = entry.Revision, entry.Job
		}
		if len(entries) == watchBatch {
			continue
		}
		if job.State.Ended() {
			// The sender has taken the last event; it must be through with it.
			return sendOrDrop(ctx, s, send, failed, nil, noEvent, watchAgain)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return statusOf(ctx.Err())
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the coordinator stops; "+watchAgain)
		}
	}
}

// What a watcher that took nothing is told.
const (
	noEvent    = "no event"
	watchAgain = "watch again from the last revision"
)

// sender sends what comes on the channel until it is closed: a Send that waits for the watcher can only be given up by
// leaving the handler, so the handler must not be the one that waits. nil is only waited for, not sent.
func sender[M any](s *Server, stream grpc.ServerStreamingServer[M]) (chan<- *M, <-chan error) {
	send := make(chan *M)
	failed := make(chan error, 1)
	s.streams.Go(func() {
		for response := range send {
			if response == nil {
				continue
			}
			if err := stream.Send(response); err != nil {
				failed <- err
				return
			}
		}
	})
	return send, failed
}

// sendOrDrop hands a response to the sender, or gives up a watcher that takes nothing, and says how to go on.
func sendOrDrop[M any](ctx context.Context, s *Server, send chan<- *M, failed <-chan error, response *M, nothing, again string) error {
	select {
	case send <- response:
		return nil
	default:
	}
	select {
	case send <- response:
		return nil
	case err := <-failed:
		return err
	case <-ctx.Done():
		return statusOf(ctx.Err())
	case <-s.stopping:
		return status.Error(codes.Unavailable, "the coordinator stops; "+again)
	case <-s.clock.After(watchPatience):
		return status.Errorf(codes.ResourceExhausted, "took %s for %v; %s", nothing, watchPatience, again)
	}
}

func (s *Server) eventMessage(entry queue.LogEntry) (*surmisev1.WatchJobResponse, error) {
	job, err := s.message(entry.Job)
	if err != nil {
		return nil, err
	}
	return &surmisev1.WatchJobResponse{
		Revision: entry.Revision,
		Time:     timestamppb.New(entry.Time),
		Type:     jobEventTypes[entry.Type],
		Job:      job,
	}, nil
}

// watchers knows who waits for news of which job.
type watchers struct {
	mu    sync.Mutex
	byJob map[string]map[chan struct{}]bool
}

// add returns a channel that holds a token whenever there has been news, and what ends it.
func (w *watchers) add(id string) (news <-chan struct{}, forget func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(chan struct{}, 1)
	if w.byJob[id] == nil {
		w.byJob[id] = map[chan struct{}]bool{}
	}
	w.byJob[id][c] = true
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.byJob[id], c)
		if len(w.byJob[id]) == 0 {
			delete(w.byJob, id)
		}
	}
}

// notify never waits: a watcher that has not taken the last token finds all news in the log.
func (w *watchers) notify(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.byJob[id] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// notifyAll is notify for every job.
func (w *watchers) notifyAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, channels := range w.byJob {
		for c := range channels {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}
