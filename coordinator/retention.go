package coordinator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// DefaultKeep is how many checkpoints of a job stay unless told otherwise: one to go on from, one in case that is damaged.
const DefaultKeep = 2

const (
	// tidyRetry is how long tidying waits after the artifact store has failed.
	tidyRetry = time.Minute
	// tidyAtStart is how many of the newest jobs are looked at when the coordinator starts: a coordinator that was killed
	// may have owed them.
	tidyAtStart = 200
	tidyBytes   = 64 << 20 // of what they hold
)

// tidier knows of which jobs something may have become superfluous.
type tidier struct {
	mu      sync.Mutex
	pending map[string]bool
	wake    chan struct{} // holds a token when something is pending
}

func newTidier() *tidier { return &tidier{pending: map[string]bool{}, wake: make(chan struct{}, 1)} }

func (t *tidier) add(id string) {
	t.mu.Lock()
	t.pending[id] = true
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tidier) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id := range t.pending {
		ids = append(ids, id)
	}
	clear(t.pending)
	return ids
}

// tidyAfter notes a job if what has just happened may have left something behind.
func (s *Server) tidyAfter(job queue.Job, log queue.LogType) {
	if log == queue.LogCheckpointed || job.State.Ended() && log == queue.LogEnded && mayHaveLeft(job) {
		s.tidier.add(job.ID)
	}
}

// mayHaveLeft is false for a job that did all it did in one go.
func mayHaveLeft(job queue.Job) bool {
	return job.Epoch > 1 || job.Checkpoint.Path != "" || job.Epoch == 1 && job.State != queue.Succeeded
}

// tidy removes what of jobs nobody needs any more, until ctx ends.
func (s *Server) tidy(ctx context.Context) {
	s.tidyOwed(ctx)
	var failed []string
	var again <-chan time.Time // for those
	for {
		for _, id := range s.tidier.take() {
			switch err := s.tidyJob(ctx, id); {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, queue.ErrNotFound): // another coordinator's, or one of before the database was begun anew
				s.log.Warn("old artifacts stay: their job is not known here", "job", jobPrefix+id)
			default:
				s.log.Warn("old artifacts stay for now", "job", jobPrefix+id, "error", err, "retry_in", tidyRetry)
				if failed = append(failed, id); again == nil {
					again = s.clock.After(tidyRetry)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.tidier.wake:
		case <-again:
			for _, id := range failed {
				s.tidier.add(id)
			}
			failed, again = nil, nil
		}
	}
}

// tidyOwed notes the jobs that an earlier coordinator may not have come to.
func (s *Server) tidyOwed(ctx context.Context) {
	ids, err := s.artifacts.Untidy(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("looking for artifacts whose deletion was interrupted", "error", err)
	}
	jobs, _, err := s.store.List(ctx, queue.Filter{Page: queue.Page{Limit: tidyAtStart, Bytes: tidyBytes}})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("looking for jobs with old artifacts", "error", err)
	}
	for _, id := range ids {
		s.tidier.add(id)
	}
	for _, job := range jobs {
		if mayHaveLeft(job) {
			s.tidier.add(job.ID)
		}
	}
}

func (s *Server) tidyJob(ctx context.Context, id string) error {
	job, err := s.store.Get(ctx, id) // before anything is listed: what comes later is newer, and stays
	if err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	tidied := artifact.Job{ID: id, Ended: job.State.Ended(), InPlace: s.shared}
	var paths []string // of what the job refers to
	if recorded := s.checkpointMessage(job); recorded != nil {
		paths = append(paths, recorded.Path)
	}
	if job.Result != nil {
		result := &surmisev1.Result{}
		if err := unmarshal(job, "result", job.Result, result); err != nil {
			return err
		}
		for _, a := range result.Artifacts {
			paths = append(paths, s.here(id, a.Path))
		}
	}
	for i, path := range paths {
		key, ok := s.keyOf(path)
		if !ok { // which of what is here it means cannot be told
			s.log.Info("old artifacts stay: the job refers to a file that does not lie in the folder of artifacts", "job", jobPrefix+id, "path", path)
			return nil
		}
		if i == 0 && job.Checkpoint.Path != "" {
			tidied.Recorded = key
		} else {
			tidied.Referenced = append(tidied.Referenced, key)
		}
	}
	removed, err := s.artifacts.Tidy(ctx, tidied, s.retention)
	if removed > 0 {
		s.log.Info("old artifacts removed", "job", jobPrefix+id, "objects", removed)
	}
	return err
}

// keyOf is the key of what a job refers to: a key, or a file of the folder. ok is false for a file elsewhere.
func (s *Server) keyOf(path string) (key string, ok bool) {
	if !filepath.IsAbs(path) {
		return path, true
	}
	return s.artifacts.Key(path)
}
