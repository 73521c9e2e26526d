package coordinator

import (
	"context"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// listen hears of what other coordinators do to the jobs of the same store, until ctx ends. What it misses while the
// store cannot be reached it finds afterwards: every listening begins with the zero Change.
func (s *Server) listen(ctx context.Context) {
	for {
		err := s.store.Listen(ctx, func(c queue.Change) { s.heard(ctx, c) })
		if ctx.Err() != nil {
			return
		}
		s.log.Error("listen", "error", err, "retry_in", storeRetry)
		select {
		case <-ctx.Done():
			return
		case <-s.clock.After(storeRetry):
		}
	}
}

// heard does for a change of another coordinator what changed does for one of our own.
func (s *Server) heard(ctx context.Context, c queue.Change) {
	if c.Job == "" {
		s.watchers.notifyAll()
		s.logWatchers.notifyAll()
		s.workers.wakeDispatch() // the launcher looks by itself
		return
	}
	if c.Log {
		s.logWatchers.notify(c.Job)
	}
	s.watchers.notify(c.Job)
	if c.Offer {
		s.offered()
	}
	if c.Stop {
		job, err := s.store.Get(ctx, c.Job)
		if err != nil { // the worker's next heartbeat tells it as well
			s.log.Warn("hearing of a cancelled job", "job", jobPrefix+c.Job, "error", err)
			return
		}
		if job.Stop != "" {
			s.workers.send(job.Worker, cancelMessage(job))
		}
	}
}
