package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Where artifacts lie: in a folder that workers share with the coordinator, whose paths are known by all, or in a store
// that all reach, whose keys are. A job that was stored under the one can be read under the other, where it can be reached.

// attemptDir is what the job's newest attempt publishes below: a folder, or a key of the store.
func (s *Server) attemptDir(job queue.Job) string {
	key := artifact.AttemptKey(job.ID, job.Epoch)
	if s.shared {
		return filepath.Join(s.artifactDir, filepath.FromSlash(key))
	}
	return key
}

// here is where a file of a job lies now. Jobs keep paths, while the folder of artifacts may have been moved, copied or
// reached through a link since; what lies below it has the same place there.
func (s *Server) here(id, path string) string {
	if !s.shared || !filepath.IsAbs(path) {
		return path
	}
	if _, ok := s.artifacts.Key(path); ok {
		return path
	}
	attempts := "/jobs/" + id + "/attempts/"
	at := strings.LastIndex(filepath.ToSlash(path), attempts)
	if at < 0 {
		return path
	}
	moved := filepath.Join(s.artifactDir, filepath.FromSlash(path[at:]))
	if _, ok := s.artifacts.Key(moved); !ok {
		return path
	}
	if _, err := os.Stat(moved); err != nil {
		return path
	}
	return moved
}

// artifactURL is what workers open the store with; "" when they share the folder.
func (s *Server) artifactURL() string {
	if s.shared {
		return ""
	}
	return s.artifacts.URL()
}

// published refuses what is not the attempt's own, or is not there as the worker says, and returns how jobs refer to it.
// A status means that the store cannot be asked now.
func (s *Server) published(ctx context.Context, lease *surmisev1.LeaseRef, path, digest string) (artifact.Ref, error) {
	ctx, stop := context.WithTimeout(ctx, s.lease/3) // heartbeats wait meanwhile
	defer stop()
	dir := s.attemptDir(queue.Job{ID: strings.TrimPrefix(lease.Job, jobPrefix), Epoch: lease.Epoch})
	ref := artifact.Ref{Path: filepath.Clean(path), SHA256: digest}
	if below, err := filepath.Rel(dir, path); err != nil || below == "." || !filepath.IsLocal(below) {
		return ref, fmt.Errorf("%s does not lie below %s", path, dir)
	}
	key := ref.Path
	if s.shared {
		if _, err := os.Stat(path); err != nil {
			return ref, fmt.Errorf("the coordinator does not see it: %w", err)
		}
		if digest == "" {
			return ref, nil // of a worker that gives none
		}
		key, _ = s.artifacts.Key(ref.Path)
		if _, err := s.artifacts.Manifest(ctx, artifact.Ref{Path: key, SHA256: digest}); errors.Is(err, artifact.ErrNotFound) {
			return ref, nil // of a worker that writes none; the digest is kept with the job
		}
	}
	_, err := s.artifacts.Check(ctx, artifact.Ref{Path: key, SHA256: digest})
	switch {
	case err == nil:
		return ref, nil
	case errors.Is(err, artifact.ErrNotFound) || errors.Is(err, artifact.ErrDamaged):
		return ref, fmt.Errorf("the coordinator does not see it: %w", err)
	default:
		s.log.Warn("artifacts cannot be checked", "job", lease.Job, "epoch", lease.Epoch, "path", path, "error", err)
		return ref, status.Errorf(codes.Unavailable, "the artifact store cannot be reached: %v", err)
	}
}

// artifactOf is an artifact that a job which succeeded left; nil when it left none of that name.
func (s *Server) artifactOf(job queue.Job, name string) (*surmisev1.Artifact, error) {
	result := &surmisev1.Result{}
	if err := unmarshal(job, "result", job.Result, result); err != nil {
		return nil, err
	}
	for _, a := range result.Artifacts {
		if a.Name == name {
			a.Path = s.here(job.ID, a.Path)
			return a, nil
		}
	}
	return nil, nil
}

// localFile is where this process reads an artifact that is a file, its digest just checked. It stays until release.
func (s *Server) localFile(ctx context.Context, a *surmisev1.Artifact) (path string, release func(), err error) {
	if !filepath.IsAbs(a.Path) && s.shared {
		return "", nil, fmt.Errorf("%s lies in an artifact store; start the coordinator with its --artifacts: %w", a.Path, fs.ErrNotExist)
	}
	if !filepath.IsAbs(a.Path) {
		path, release, err = s.cache.Get(ctx, s.artifacts, artifact.Ref{Path: a.Path, SHA256: a.Sha256}, nil)
		if err != nil && !errors.Is(err, artifact.ErrNotFound) && !errors.Is(err, artifact.ErrDamaged) {
			err = fmt.Errorf("%w: %w", errStoreAway, err)
		}
		return path, release, err
	}
	if a.Sha256 != "" {
		if err := artifact.VerifyFile(a.Path, a.Sha256); err != nil {
			return "", nil, err
		}
	}
	return a.Path, func() {}, nil
}
