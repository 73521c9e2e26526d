package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/internal/osfault"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// CompareScores implements PlausibilityService.
func (s *Server) CompareScores(ctx context.Context, req *surmisev1.CompareScoresRequest) (*surmisev1.CompareScoresResponse, error) {
	var files []ScoreFile
	for _, name := range req.Names {
		file, release, err := s.scoreFile(ctx, name)
		if err != nil {
			return nil, err
		}
		defer release()
		files = append(files, file)
	}
	var reference *ScoreFile
	all := files
	if req.Reference != "" {
		file, release, err := s.scoreFile(ctx, req.Reference)
		if err != nil {
			return nil, err
		}
		defer release()
		reference, all = &file, append(slices.Clone(files), file)
	}
	if err := checkSizes(all); err != nil {
		return nil, err
	}
	// One comparison at a time: each holds its files in memory.
	select {
	case s.comparing <- struct{}{}:
		defer func() { <-s.comparing }()
	case <-s.stopping:
		return nil, status.Error(codes.Unavailable, "the coordinator stops")
	case <-ctx.Done():
		return nil, status.Error(status.FromContextError(ctx.Err()).Code(), "waited for another comparison to end: one is made at a time")
	}
	response, err := s.comparer.Compare(ctx, files, reference, req)
	return response, scoreStatus(err)
}

// comparedBytes is what the files of one comparison may hold together: they are in memory at once.
const comparedBytes = 1 << 30

func checkSizes(files []ScoreFile) error {
	var total int64
	for _, f := range files {
		info, err := os.Stat(f.Path)
		if err != nil {
			return scoreStatus(err)
		}
		total += info.Size()
	}
	if total > comparedBytes {
		return status.Errorf(codes.ResourceExhausted, "the scores of these %d jobs hold %d bytes, at most %d are compared at once; `surmise compare` on their files has no such limit",
			len(files), total, int64(comparedBytes))
	}
	return nil
}

// GetScores implements PlausibilityService.
func (s *Server) GetScores(req *surmisev1.GetScoresRequest, stream grpc.ServerStreamingServer[surmisev1.GetScoresResponse]) error {
	file, release, err := s.scoreFile(stream.Context(), req.Name)
	if err != nil {
		return err
	}
	defer release()
	return scoreStatus(s.comparer.Scores(stream.Context(), file.Path, stream.Send))
}

// scoreFile finds the scores of a job that succeeded. The file stays until release.
func (s *Server) scoreFile(ctx context.Context, name string) (file ScoreFile, release func(), err error) {
	if s.comparer == nil {
		return file, nil, status.Error(codes.Unimplemented, "this coordinator was built without comparison of scores")
	}
	job, err := s.store.Get(ctx, strings.TrimPrefix(name, jobPrefix))
	if err != nil {
		return file, nil, jobStatus(name, err)
	}
	if job.State != queue.Succeeded {
		return file, nil, status.Errorf(codes.FailedPrecondition, "%s has no scores: it is %s", name, job.State)
	}
	scores, err := s.artifactOf(job, scoresArtifact)
	if err != nil {
		return file, nil, err
	}
	if scores == nil {
		return file, nil, status.Errorf(codes.FailedPrecondition, "%s has no scores: it is no scoring job", name)
	}
	path, release, err := s.localFile(ctx, scores)
	if err != nil {
		return file, nil, scoreStatus(fmt.Errorf("the scores of %s: %w", name, err))
	}
	return ScoreFile{Source: name, Path: path}, release, nil
}

// errStoreAway: what is asked for is kept, and cannot be had now.
var errStoreAway = errors.New("the artifact store cannot be reached")

// scoreStatus is for errors of the Comparer: scores that cannot be read or compared are no fault of the request's form. Where
// the store or the machine is at fault the same call may succeed later.
func scoreStatus(err error) error {
	if errors.Is(err, errStoreAway) || osfault.OfMachine(err) {
		return statusOf(err)
	}
	if _, ok := status.FromError(err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return statusOf(err)
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}
