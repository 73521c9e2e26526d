package coordinator

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const (
	jobPrefix       = "jobs/"
	defaultPageSize = 50
	modelArtifact   = "model"
	scoresArtifact  = "scores"
	rankingArtifact = "ranking"
)

// SubmitJob implements JobService.
func (s *Server) SubmitJob(ctx context.Context, req *surmisev1.SubmitJobRequest) (*surmisev1.Job, error) {
	given := &surmisev1.JobSpec{}
	switch spec := req.Spec.(type) {
	case *surmisev1.SubmitJobRequest_Train:
		given.Kind = &surmisev1.JobSpec_Train{Train: spec.Train}
	case *surmisev1.SubmitJobRequest_Score:
		given.Kind = &surmisev1.JobSpec_Score{Score: spec.Score}
	case *surmisev1.SubmitJobRequest_Rank:
		given.Kind = &surmisev1.JobSpec_Rank{Rank: spec.Rank}
	}
	spec, err := jobspec.Complete(given)
	if err != nil {
		return nil, statusOf(err)
	}
	if _, err := s.modelPath(ctx, spec); err != nil {
		return nil, statusOf(err)
	}
	if req.ValidateOnly {
		return &surmisev1.Job{Spec: spec, State: surmisev1.JobState_QUEUED, DisplayName: req.DisplayName}, nil
	}

	text, err := protojson.Marshal(spec)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "writing the specification: %v", err)
	}
	job, created, err := s.store.Submit(ctx, queue.Submission{
		ID: s.newID(), RequestID: req.RequestId, DisplayName: req.DisplayName, Spec: text,
	})
	if err != nil {
		return nil, statusOf(err)
	}
	if created {
		s.changed(job, queue.Effects{Log: queue.LogSubmitted, Offer: true})
	}
	answer, err := s.describe(ctx, job)
	if err != nil {
		return nil, err
	}
	if !created && (!proto.Equal(answer.Spec, spec) || answer.DisplayName != req.DisplayName) {
		return nil, status.Errorf(codes.AlreadyExists, "request_id %q was used for %s, which is another job", req.RequestId, answer.Name)
	}
	return answer, nil
}

// GetJob implements JobService.
func (s *Server) GetJob(ctx context.Context, req *surmisev1.GetJobRequest) (*surmisev1.Job, error) {
	job, err := s.store.Get(ctx, strings.TrimPrefix(req.Name, jobPrefix))
	if err != nil {
		return nil, jobStatus(req.Name, err)
	}
	return s.describe(ctx, job)
}

// ListJobs implements JobService.
func (s *Server) ListJobs(ctx context.Context, req *surmisev1.ListJobsRequest) (*surmisev1.ListJobsResponse, error) {
	filter := queue.Filter{Limit: int(req.PageSize)}
	if filter.Limit == 0 {
		filter.Limit = defaultPageSize
	}
	if req.State != surmisev1.JobState_JOB_STATE_UNSPECIFIED {
		filter.State = queue.State(req.State.String())
	}
	if req.PageToken != "" {
		var err error
		if filter.Before, err = parsePageToken(req.PageToken, filter.State); err != nil {
			return nil, badRequest(jobspec.FieldError{Field: "page_token", Problem: err.Error()})
		}
	}

	attached, idle := s.workers.count() // before the jobs are read; see describe
	more := filter
	more.Limit++ // one beyond the page tells whether there is a next one
	jobs, err := s.store.List(ctx, more)
	if err != nil {
		return nil, statusOf(err)
	}
	response := &surmisev1.ListJobsResponse{}
	if len(jobs) > filter.Limit {
		jobs = jobs[:filter.Limit]
		response.NextPageToken = pageToken(jobs[len(jobs)-1].Sequence, filter.State)
	}
	// From the oldest on: between queued jobs of one page no other is queued, so one count serves the page.
	response.Jobs = make([]*surmisev1.Job, len(jobs))
	position := 0
	size := 0
	for i := len(jobs) - 1; i >= 0; i-- {
		job, err := message(jobs[i])
		if err != nil {
			return nil, err
		}
		if jobs[i].State == queue.Queued {
			if position++; position == 1 {
				if position, err = s.store.Position(ctx, jobs[i].Sequence); err != nil {
					return nil, statusOf(err)
				}
			}
			explainWait(job, position, attached, idle)
		}
		response.Jobs[i] = job
	}
	// A page of large jobs ends early rather than exceed what a message may hold.
	for i, job := range response.Jobs {
		size += proto.Size(job)
		if size > maxMessageBytes/2 && i > 0 {
			response.Jobs = response.Jobs[:i]
			response.NextPageToken = pageToken(jobs[i-1].Sequence, filter.State)
			break
		}
	}
	return response, nil
}

// CancelJob implements JobService.
func (s *Server) CancelJob(ctx context.Context, req *surmisev1.CancelJobRequest) (*surmisev1.Job, error) {
	job, effects, err := s.store.Apply(ctx, strings.TrimPrefix(req.Name, jobPrefix), queue.Cancel{})
	if errors.Is(err, queue.ErrEnded) {
		return nil, status.Errorf(codes.FailedPrecondition, "job %s has ended: it is %s", req.Name, job.State)
	}
	if err != nil {
		return nil, jobStatus(req.Name, err)
	}
	s.changed(job, effects)
	return s.describe(ctx, job)
}

// changed does what must follow once a job is stored.
func (s *Server) changed(job queue.Job, effects queue.Effects) {
	s.audit.changed(s.now(), job, effects.Log)
	s.observe(job, effects.Log)
	if effects.Log != "" {
		s.watchers.notify(job.ID)
	}
	if effects.Offer {
		s.workers.wakeDispatch()
	}
	if effects.StopWorker {
		s.workers.send(job.Worker, cancelMessage(job))
	}
	if effects.Log != "" && effects.Log != queue.LogProgress {
		s.log.Info("job "+strings.ToLower(string(effects.Log)), "job", jobPrefix+job.ID, "state", string(job.State),
			"epoch", job.Epoch, "worker", job.Worker, "reason", job.Reason)
	}
}

// modelPath is where the model of a scoring or ranking job lies, or the frozen encoder of a training job, with "jobs/{id}"
// resolved; "" for other jobs. A model
// that is not there yet is a jobspec.Errors.
func (s *Server) modelPath(ctx context.Context, spec *surmisev1.JobSpec) (string, error) {
	name, field := spec.GetScore().GetModel(), "score.model"
	if rank := spec.GetRank(); rank != nil {
		name, field = rank.Model, "rank.model"
	}
	if train := spec.GetTrain(); train != nil {
		name, field = train.GetEncoder().GetFrom(), "train.encoder.from"
	}
	if !strings.HasPrefix(name, jobPrefix) {
		return name, nil
	}
	fault := func(format string, args ...any) error {
		return jobspec.Errors{{Field: field, Problem: fmt.Sprintf(format, args...)}}
	}
	trained, err := s.store.Get(ctx, strings.TrimPrefix(name, jobPrefix))
	if errors.Is(err, queue.ErrNotFound) {
		return "", fault("there is no job %s", name)
	}
	if err != nil {
		return "", err
	}
	if trained.State != queue.Succeeded {
		return "", fault("%s has left no model: it is %s", name, trained.State)
	}
	path, err := artifactPath(trained, modelArtifact)
	if err != nil {
		return "", err
	}
	if path == "" {
		return "", fault("%s has left no model: it is no training job", name)
	}
	return path, nil
}

// artifactPath is where a job that succeeded left the artifact; "" when it left none of that name.
func artifactPath(job queue.Job, name string) (string, error) {
	result := &surmisev1.Result{}
	if err := unmarshal(job, "result", job.Result, result); err != nil {
		return "", err
	}
	for _, a := range result.Artifacts {
		if a.Name == name {
			return a.Path, nil
		}
	}
	return "", nil
}

// attemptDir is the folder of the job's newest attempt.
func (s *Server) attemptDir(job queue.Job) string {
	return filepath.Join(s.artifactDir, "jobs", job.ID, "attempts", strconv.FormatInt(job.Epoch, 10))
}

// describe is the job as callers see it.
func (s *Server) describe(ctx context.Context, job queue.Job) (*surmisev1.Job, error) {
	m, err := message(job)
	if err != nil {
		return nil, err
	}
	if job.State == queue.Queued {
		// Workers first: one that is idle may be given this very job before its place is read, and then counts for it.
		attached, idle := s.workers.count()
		position, err := s.store.Position(ctx, job.Sequence)
		if err != nil {
			return nil, statusOf(err)
		}
		if position == 0 { // leased since it was read
			position, attached, idle = 1, 1, 1
		}
		explainWait(m, position, attached, idle)
	}
	return m, nil
}

// explainWait says where a queued job stands and what it waits for.
func explainWait(m *surmisev1.Job, position, attached, idle int) {
	m.QueuePosition = int32(position)
	var wait string
	switch {
	case attached == 0:
		wait = "waiting: no worker is attached"
	case idle >= position:
		wait = "waiting: about to be leased"
	case attached == 1 && idle == 0:
		wait = "waiting for the only worker, which is busy"
	case attached == 1:
		wait = "waiting for the only worker"
	case idle == 0:
		wait = fmt.Sprintf("waiting for one of %d workers, which are all busy", attached)
	default:
		wait = fmt.Sprintf("waiting for one of %d workers", attached)
	}
	if m.Reason != "" {
		wait = m.Reason + "; " + wait
	}
	m.Reason = wait
}

// message is what the store knows of a job.
func message(job queue.Job) (*surmisev1.Job, error) {
	m := &surmisev1.Job{
		Name:        jobPrefix + job.ID,
		State:       surmisev1.JobState(surmisev1.JobState_value[string(job.State)]),
		Reason:      job.Reason,
		DisplayName: job.DisplayName,
		Epoch:       job.Epoch,
		Worker:      job.Worker,
		CreateTime:  timestamppb.New(job.Created),
		Revision:    job.Revision,
	}
	if !job.Started.IsZero() {
		m.StartTime = timestamppb.New(job.Started)
	}
	if !job.Ended.IsZero() {
		m.EndTime = timestamppb.New(job.Ended)
	}
	m.LastCheckpoint = checkpointMessage(job)
	if job.Spec != nil {
		m.Spec = &surmisev1.JobSpec{}
		if err := unmarshal(job, "spec", job.Spec, m.Spec); err != nil {
			return nil, err
		}
	}
	if job.Progress != nil {
		m.Progress = &surmisev1.Progress{}
		if err := unmarshal(job, "progress", job.Progress, m.Progress); err != nil {
			return nil, err
		}
	}
	if job.Result != nil {
		m.Result = &surmisev1.Result{}
		if err := unmarshal(job, "result", job.Result, m.Result); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func checkpointMessage(job queue.Job) *surmisev1.Checkpoint {
	if job.Checkpoint.Path == "" {
		return nil
	}
	return &surmisev1.Checkpoint{
		Step: int32(job.Checkpoint.Step), Path: job.Checkpoint.Path, CreateTime: timestamppb.New(job.Checkpoint.Time),
	}
}

// unmarshal reads what this program, or a newer one, stored.
func unmarshal(job queue.Job, what string, text json.RawMessage, m proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, m); err != nil {
		return status.Errorf(codes.Internal, "reading the %s of job %s: %v", what, job.ID, err)
	}
	return nil
}

// page is what a page token holds: it fits only the listing that it came from.
type page struct {
	Before int64       `json:"b"`
	State  queue.State `json:"s,omitempty"`
}

func pageToken(before int64, state queue.State) string {
	text, _ := json.Marshal(page{before, state}) // a number and a word
	return base64.RawURLEncoding.EncodeToString(text)
}

func parsePageToken(token string, state queue.State) (before int64, err error) {
	var p page
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Before < 1 {
		return 0, fmt.Errorf("%q is not a next_page_token", token)
	}
	if p.State != state {
		return 0, errors.New("belongs to a listing with another state")
	}
	return p.Before, nil
}
