package coordinator

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/internal/bounded"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// RankContinuations implements PlausibilityService: a ranking job, submitted and waited for. See
// docs/decisions/0022.
func (s *Server) RankContinuations(ctx context.Context, req *surmisev1.RankContinuationsRequest) (*surmisev1.RankContinuationsResponse, error) {
	job, err := s.SubmitJob(ctx, &surmisev1.SubmitJobRequest{
		Spec:      &surmisev1.SubmitJobRequest_Rank{Rank: req.Spec},
		RequestId: req.RequestId,
	})
	if err != nil {
		return nil, inSpec(err)
	}
	ended, err := s.awaitEnd(ctx, strings.TrimPrefix(job.Name, jobPrefix))
	if err != nil {
		if req.RequestId == "" && ctx.Err() != nil { // nobody can ask for it again
			s.abandon(context.WithoutCancel(ctx), job.Name)
		}
		return nil, err
	}
	if ended.State != queue.Succeeded {
		return nil, status.Errorf(codes.FailedPrecondition, "%s is %s: %s", job.Name, ended.State, ended.Reason)
	}
	rankings, err := s.readRankings(ctx, ended)
	if err != nil {
		return nil, err
	}
	return &surmisev1.RankContinuationsResponse{Name: job.Name, Rankings: rankings.Rankings}, nil
}

// inSpec names fields at fault as the request has them: spec.model, not rank.model.
func inSpec(err error) error {
	var faults []jobspec.FieldError
	for _, detail := range status.Convert(err).Details() {
		bad, ok := detail.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.FieldViolations {
			field := v.Field
			if rest, ok := strings.CutPrefix(field, "rank"); ok {
				field = "spec" + rest
			}
			faults = append(faults, jobspec.FieldError{Field: field, Problem: v.Description})
		}
	}
	if len(faults) == 0 {
		return err
	}
	return badRequest(faults...)
}

// awaitEnd returns the job once it has ended.
func (s *Server) awaitEnd(ctx context.Context, id string) (queue.Job, error) {
	news, forget := s.watchers.add(id) // before the first read, so that nothing falls between
	defer forget()
	for {
		job, err := s.store.Get(ctx, id)
		if err != nil {
			return job, jobStatus(jobPrefix+id, err)
		}
		if job.State.Ended() {
			return job, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return job, status.Errorf(status.FromContextError(ctx.Err()).Code(), "%s is still %s", jobPrefix+id, job.State)
		case <-s.stopping:
			return job, status.Errorf(codes.Unavailable, "the coordinator stops; %s goes on", jobPrefix+id)
		}
	}
}

func (s *Server) abandon(ctx context.Context, name string) {
	if _, err := s.CancelJob(ctx, &surmisev1.CancelJobRequest{Name: name}); err != nil && status.Code(err) != codes.FailedPrecondition {
		s.log.Warn("cancelling a ranking job that nobody waits for", "job", name, "error", err)
	}
}

// readRankings reads the artifact of a ranking job that succeeded.
func (s *Server) readRankings(ctx context.Context, job queue.Job) (*surmisev1.Rankings, error) {
	ranking, err := s.artifactOf(job, rankingArtifact)
	if err != nil {
		return nil, err
	}
	if ranking == nil {
		return nil, status.Errorf(codes.Internal, "%s left no ranking", jobPrefix+job.ID)
	}
	var text []byte
	path, release, err := s.localFile(ctx, ranking)
	if err == nil {
		text, err = bounded.ReadFile(path, 4*maxMessageBytes) // JSON, which is longer than the message
		release()
	}
	rankings := &surmisev1.Rankings{}
	if err == nil {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, rankings)
	}
	if err != nil {
		return nil, scoreStatus(fmt.Errorf("reading the ranking of %s: %w", jobPrefix+job.ID, err))
	}
	return rankings, nil
}
