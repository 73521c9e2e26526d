package coordinator

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/coordinator/auth"
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
	if _, err := s.model(ctx, spec); err != nil {
		return nil, statusOf(err)
	}
	scheduling, err := s.scheduling(ctx, req.Scheduling, req.RequestId != "")
	if err != nil {
		return nil, statusOf(err)
	}
	if req.ValidateOnly {
		return &surmisev1.Job{Spec: spec, State: surmisev1.JobState_QUEUED, DisplayName: req.DisplayName, Scheduling: schedulingMessage(scheduling)}, nil
	}
	spec.Traceparent = traceparent(ctx)
	text, err := protojson.Marshal(spec)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "writing the specification: %v", err)
	}
	job, created, err := s.store.Submit(ctx, queue.Submission{
		ID: s.newID(), RequestID: requestID(ctx, req.RequestId), DisplayName: req.DisplayName, Spec: text,
		Scheduling: scheduling, MaxOpen: s.openJobs,
	})
	if err != nil {
		return nil, submitStatus(err)
	}
	if created {
		s.changed(job, queue.Effects{Log: queue.LogSubmitted, Offer: true})
	}
	answer, err := s.describe(context.WithoutCancel(ctx), job) // it is stored: who has left must still learn its name
	if err != nil {
		return nil, err
	}
	spec.Traceparent = answer.GetSpec().GetTraceparent() // a job asked for again is the same in another trace
	if !created && (!proto.Equal(asNow(answer.Spec), spec) || answer.DisplayName != queue.Printable(req.DisplayName) ||
		!proto.Equal(answer.Scheduling, schedulingMessage(scheduling))) {
		return nil, status.Errorf(codes.AlreadyExists, "request_id %q was used for %s, which is another job", req.RequestId, answer.Name)
	}
	return answer, nil
}

// asNow is a stored specification with the defaults that came after it was stored, as a request for it has them today.
func asNow(stored *surmisev1.JobSpec) *surmisev1.JobSpec {
	complete, err := jobspec.Complete(stored)
	if err != nil { // a rule came after it
		return stored
	}
	complete.Traceparent = stored.GetTraceparent()
	return complete
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
	filter := queue.Filter{Page: queue.Page{Limit: int(req.PageSize), Bytes: maxMessageBytes}}
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

	workers := map[string]crew{} // by what they must have; counted before the jobs are read, see describe
	workers[""] = s.workers.crew(queue.Needs{})
	jobs, more, err := s.store.List(ctx, filter)
	if err != nil {
		return nil, statusOf(err)
	}
	response := &surmisev1.ListJobsResponse{}
	if more {
		response.NextPageToken = pageToken(jobs[len(jobs)-1].Sequence, filter.State)
	}
	mean, held, err := s.store.Pace(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	// From the oldest on: between queued jobs of one page no other is queued, so one count for each priority serves the page.
	places := map[int]queue.Place{}
	response.Jobs = make([]*surmisev1.Job, len(jobs))
	size := 0
	for i := len(jobs) - 1; i >= 0; i-- {
		job, err := s.message(jobs[i])
		if err != nil {
			return nil, err
		}
		if jobs[i].State == queue.Queued {
			place, ok := places[jobs[i].Priority]
			if !ok {
				if place, err = s.store.Place(ctx, jobs[i]); err != nil {
					return nil, statusOf(err)
				}
				places[jobs[i].Priority] = place
			}
			needs := fmt.Sprint(jobs[i].Needs)
			if jobs[i].Needs.None() {
				needs = ""
			}
			if _, ok := workers[needs]; !ok {
				workers[needs] = s.workers.crew(jobs[i].Needs)
			}
			explainWait(job, jobs[i], place.Position(jobs[i].Owner), workers[needs], mean, held)
			s.explainLaunch(job, jobs[i], workers[needs])
			place.Pass(jobs[i].Owner)
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
	id := strings.TrimPrefix(req.Name, jobPrefix)
	asked, err := s.store.Get(ctx, id)
	if err != nil {
		return nil, jobStatus(req.Name, err)
	}
	if err := mayChange(ctx, req.Name, asked.Owner); err != nil {
		return nil, err
	}
	job, effects, err := s.store.Apply(ctx, id, queue.Cancel{})
	if errors.Is(err, queue.ErrEnded) {
		return nil, status.Errorf(codes.FailedPrecondition, "job %s has ended: it is %s", req.Name, job.State)
	}
	if err != nil {
		return nil, jobStatus(req.Name, err)
	}
	s.changed(job, effects)
	return s.describe(ctx, job)
}

// offered has those look who give jobs to workers, and start workers for them.
func (s *Server) offered() {
	s.workers.wakeDispatch()
	if s.launch != nil {
		s.launch.Wake()
	}
}

// changed does what must follow once a job is stored.
func (s *Server) changed(job queue.Job, effects queue.Effects) {
	s.audit.changed(s.clock.Now(), job, effects.Log)
	s.observe(job, effects.Log)
	s.tidyAfter(job, effects.Log)
	if effects.Log != "" {
		s.watchers.notify(job.ID)
	}
	if effects.Offer {
		s.offered()
	}
	if effects.StopWorker {
		s.workers.send(job.Worker, cancelMessage(job))
	}
	if job.Sweep != "" && !job.State.Held() {
		s.sweeps.forget(job.ID)
	}
	if effects.Log != "" && effects.Log != queue.LogProgress {
		s.log.Info("job "+strings.ToLower(string(effects.Log)), "job", jobPrefix+job.ID, "state", string(job.State),
			"epoch", job.Epoch, "worker", job.Worker, "reason", job.Reason)
	}
}

// model is where the model that a job reads lies, with "jobs/{id}" resolved; "" for jobs that read none. A model that is
// not there yet is a jobspec.Errors.
func (s *Server) model(ctx context.Context, spec *surmisev1.JobSpec) (artifact.Ref, error) {
	name, field := jobspec.Model(spec)
	if !strings.HasPrefix(name, jobPrefix) {
		return artifact.Ref{Path: name}, nil
	}
	fault := func(format string, args ...any) error {
		return jobspec.Errors{{Field: field, Problem: fmt.Sprintf(format, args...)}}
	}
	trained, err := s.store.Get(ctx, strings.TrimPrefix(name, jobPrefix))
	if errors.Is(err, queue.ErrNotFound) {
		return artifact.Ref{}, fault("there is no job %s", name)
	}
	if err != nil {
		return artifact.Ref{}, err
	}
	if trained.State != queue.Succeeded {
		if c := s.checkpointMessage(trained); c != nil {
			return artifact.Ref{}, fault("%s has left no model: it is %s; its checkpoint of step %d is %s", name, trained.State, c.Step, c.Path)
		}
		return artifact.Ref{}, fault("%s has left no model: it is %s", name, trained.State)
	}
	model, err := s.artifactOf(trained, modelArtifact)
	if err != nil {
		return artifact.Ref{}, err
	}
	if model == nil {
		return artifact.Ref{}, fault("%s has left no model: it is no training job", name)
	}
	return artifact.Ref{Path: model.Path, SHA256: model.Sha256}, nil
}

// describe is the job as callers see it.
func (s *Server) describe(ctx context.Context, job queue.Job) (*surmisev1.Job, error) {
	m, err := s.message(job)
	if err != nil {
		return nil, err
	}
	if job.State == queue.Queued {
		// Workers first: one that is idle may be given this very job before its place is read, and then counts for it.
		workers := s.workers.crew(job.Needs)
		place, err := s.store.Place(ctx, job)
		if err != nil {
			return nil, statusOf(err)
		}
		mean, held, err := s.store.Pace(ctx)
		if err != nil {
			return nil, statusOf(err)
		}
		if place.Owners[job.Owner].Queued == 0 { // leased since it was read
			place, workers = queue.Place{}, crew{attached: 1, able: 1, idle: 1}
		}
		explainWait(m, job, place.Position(job.Owner), workers, mean, held)
		s.explainLaunch(m, job, workers)
	}
	return m, nil
}

// explainWait says where a queued job stands, what it waits for and how long that may take: jobs took mean on average, 0
// for not known, and held of them are under way.
func explainWait(m *surmisev1.Job, job queue.Job, position int, workers crew, mean time.Duration, held int) {
	m.QueuePosition = int32(position)
	var wait string
	switch {
	case !job.NotBefore.IsZero():
		wait = fmt.Sprintf("waiting until %s, after %d lost attempts", job.NotBefore.Format(time.RFC3339), job.Losses)
	case workers.attached == 0:
		wait = "waiting: no worker is attached"
	case workers.able == 0 && workers.attached == 1:
		wait = "waiting: the only worker lacks " + workers.lacks
	case workers.able == 0:
		wait = fmt.Sprintf("waiting: none of %d workers has what it needs; one lacks %s", workers.attached, workers.lacks)
	case workers.idle >= position:
		wait = "waiting: about to be leased"
	case workers.able == 1 && workers.idle == 0:
		wait = "waiting for the only worker, which is busy"
	case workers.able == 1:
		wait = "waiting for the only worker"
	case workers.idle == 0:
		wait = fmt.Sprintf("waiting for one of %d workers, which are all busy", workers.able)
	default:
		wait = fmt.Sprintf("waiting for one of %d workers", workers.able)
	}
	if workers.able > 0 && workers.able < workers.attached {
		wait += fmt.Sprintf(" (of %d attached, %d lack what it needs)", workers.attached, workers.attached-workers.able)
	}
	if m.Reason != "" {
		wait = m.Reason + "; " + wait
	}
	m.Reason = wait
	if ahead := position - workers.idle; mean > 0 && workers.able > 0 {
		// Workers of other coordinators are known by the jobs they hold.
		rounds := float64(max(0, ahead)) / float64(max(workers.able, held))
		m.WaitEstimate = durationpb.New(time.Duration(min(float64(mean)*rounds, longestEstimate)))
	}
}

// longestEstimate is what a wait is said to take at most, in nanoseconds: about a hundred years, which a Duration holds.
const longestEstimate = float64(100 * 365 * 24 * time.Hour)

// explainLaunch adds how it stands with workers that are started for a job that waits for one, in the words of the engine
// that starts them.
func (s *Server) explainLaunch(m *surmisev1.Job, job queue.Job, workers crew) {
	if s.launch == nil || workers.idle > 0 || !job.NotBefore.IsZero() {
		return
	}
	if why := s.launch.Explain(job.Needs); why != "" {
		m.Reason += "; " + why
	}
}

// scheduling is what a request asks for, as the queue takes it. again is set for one that may have been made before, and finds
// its job after the deadline too.
func (s *Server) scheduling(ctx context.Context, m *surmisev1.Scheduling, again bool) (queue.Scheduling, error) {
	sched := queue.Scheduling{
		Owner: m.GetOwner(), Priority: int(m.GetPriority()),
		Needs: queue.Needs{
			GPUs: int(m.GetNeeds().GetGpus()), Memory: m.GetNeeds().GetMemory(),
			DataRoots: m.GetNeeds().GetDataRoots(), Labels: m.GetNeeds().GetLabels(),
		},
	}
	if err := s.priority.check(auth.FromContext(ctx), sched.Priority); err != nil {
		return sched, err
	}
	if s.owner != nil {
		sched.Owner = s.owner(ctx)
	}
	if d := m.GetDeadline(); d != nil {
		if err := d.CheckValid(); err != nil {
			return sched, jobspec.Errors{{Field: "scheduling.deadline", Problem: err.Error()}}
		}
		sched.Deadline = d.AsTime().Truncate(time.Microsecond)
		if sched.Deadline.IsZero() { // which would stand for none
			return sched, jobspec.Errors{{Field: "scheduling.deadline", Problem: "the first moment of the year 1 is no deadline; leave it out for none"}}
		}
		if now := s.clock.Now().UTC(); !again && !sched.Deadline.After(now) {
			return sched, jobspec.Errors{{Field: "scheduling.deadline", Problem: fmt.Sprintf("%s is over, it is %s", sched.Deadline.Format(time.RFC3339), now.Format(time.RFC3339))}}
		}
	}
	return sched.Normal(), nil
}

// schedulingMessage is nil for a job that is served in its turn by any worker.
func schedulingMessage(sched queue.Scheduling) *surmisev1.Scheduling {
	if sched.Owner == "" && sched.Priority == 0 && sched.Needs.None() && sched.Deadline.IsZero() {
		return nil
	}
	m := &surmisev1.Scheduling{Owner: sched.Owner, Priority: int32(sched.Priority)}
	if n := sched.Needs; !n.None() {
		m.Needs = &surmisev1.Needs{Gpus: int32(n.GPUs), Memory: n.Memory, DataRoots: n.DataRoots, Labels: n.Labels}
	}
	if !sched.Deadline.IsZero() {
		m.Deadline = timestamppb.New(sched.Deadline)
	}
	return m
}

// message is what the store knows of a job.
func (s *Server) message(job queue.Job) (*surmisev1.Job, error) {
	m := &surmisev1.Job{
		Name:        jobPrefix + job.ID,
		State:       surmisev1.JobState(surmisev1.JobState_value[string(job.State)]),
		Reason:      job.Reason,
		DisplayName: job.DisplayName,
		Epoch:       job.Epoch,
		Worker:      job.Worker,
		CreateTime:  timestamppb.New(job.Created),
		Revision:    job.Revision,
		Scheduling:  schedulingMessage(job.Scheduling),
	}
	if job.Sweep != "" {
		m.Sweep = sweepPrefix + job.Sweep
	}
	if !job.Started.IsZero() {
		m.StartTime = timestamppb.New(job.Started)
	}
	if !job.Ended.IsZero() {
		m.EndTime = timestamppb.New(job.Ended)
	}
	m.LastCheckpoint = s.checkpointMessage(job)
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
		for _, a := range m.Result.Artifacts {
			a.Path = s.here(job.ID, a.Path)
		}
	}
	return m, nil
}

func (s *Server) checkpointMessage(job queue.Job) *surmisev1.Checkpoint {
	if job.Checkpoint.Path == "" {
		return nil
	}
	ref := artifact.ParseRef(job.Checkpoint.Path)
	return &surmisev1.Checkpoint{
		Step: int32(job.Checkpoint.Step), Path: s.here(job.ID, ref.Path), Sha256: ref.SHA256, CreateTime: timestamppb.New(job.Checkpoint.Time),
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
		return 0, errors.New("belongs to another listing")
	}
	return p.Before, nil
}
