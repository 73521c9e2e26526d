package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/coordinator/sweep"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const (
	sweepPrefix      = "sweeps/"
	sweepChildrenMax = 1000 // a page
)

// SweepStore keeps sweeps. Their children are jobs of the Store.
type SweepStore interface {
	// SubmitSweep stores a sweep and its children, or nothing; or returns the sweep that has the same request id, with
	// created false.
	SubmitSweep(context.Context, queue.SweepSubmission) (sweep queue.Sweep, created bool, err error)
	// GetSweep returns a sweep, or queue.ErrNoSweep.
	GetSweep(ctx context.Context, id string) (queue.Sweep, error)
	// ListSweeps returns a page of sweeps, newest first, and whether there are more.
	ListSweeps(ctx context.Context, page queue.Page) (sweeps []queue.Sweep, more bool, err error)
	// Children returns the children of a sweep from the one with index first on, without their specifications.
	Children(ctx context.Context, sweep string, first, limit int) ([]queue.Job, error)
	// CountChildren says how many children are in each state.
	CountChildren(ctx context.Context, sweep string) (map[queue.State]int, error)
	// CancelSweep cancels every child that has not ended, all or none, and returns those that this changed.
	CancelSweep(ctx context.Context, id, reason string) ([]queue.Moved, error)
	// ReachRung records the value of a child at a rung, once, and returns those of all that have come to it.
	ReachRung(ctx context.Context, child queue.Job, rung int, value float64) (values []float64, first bool, err error)
}

// SubmitSweep implements SweepService.
func (s *Server) SubmitSweep(ctx context.Context, req *surmisev1.SubmitSweepRequest) (*surmisev1.Sweep, error) {
	req, err := sweep.Complete(req)
	if err != nil {
		return nil, statusOf(err)
	}
	children, err := sweep.Expand(ctx, req)
	if err != nil {
		return nil, statusOf(err)
	}
	if err := s.modelsExist(ctx, children); err != nil {
		return nil, statusOf(err)
	}
	scheduling, err := s.scheduling(ctx, req.Scheduling, req.RequestId != "")
	if err != nil {
		return nil, statusOf(err)
	}
	if req.ValidateOnly {
		return &surmisev1.Sweep{Request: req, Children: int32(len(children))}, nil
	}
	text, err := protojson.Marshal(req)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "writing the sweep: %v", err)
	}
	submission := queue.SweepSubmission{ID: s.newID(), RequestID: requestID(ctx, req.RequestId), Request: text, Scheduling: scheduling, MaxOpen: s.openJobs}
	for i, c := range children {
		if err := ctx.Err(); err != nil {
			return nil, statusOf(err)
		}
		spec, err := protojson.Marshal(c.Spec)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "writing the specification of child %d: %v", i, err)
		}
		values := map[string]json.RawMessage{}
		for path, v := range c.Values {
			values[path] = json.RawMessage(v)
		}
		valuesText, err := json.Marshal(values)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "writing the values of child %d: %v", i, err)
		}
		child := queue.ChildSubmission{ID: s.newID(), Spec: spec, Values: valuesText}
		if req.DisplayName != "" {
			child.DisplayName = fmt.Sprintf("%s #%d", req.DisplayName, i)
		}
		submission.Children = append(submission.Children, child)
	}
	stored, created, err := s.store.SubmitSweep(ctx, submission)
	if err != nil {
		return nil, submitStatus(err)
	}
	if created {
		s.offered() // nobody can watch a child whose name was never told
		s.observer.Submitted(len(children))
		s.log.Info("sweep submitted", "sweep", sweepPrefix+stored.ID, "children", len(children))
	}
	answer, err := s.describeSweep(ctx, stored)
	if err != nil {
		return nil, err
	}
	if !created && !proto.Equal(answer.Request, req) {
		return nil, status.Errorf(codes.AlreadyExists, "request_id %q was used for %s, which is another sweep", req.RequestId, answer.Name)
	}
	return answer, nil
}

// modelsExist checks the model of every child, each name once.
func (s *Server) modelsExist(ctx context.Context, children []sweep.Child) error {
	checked := map[string]bool{}
	for _, c := range children {
		name, _ := jobspec.Model(c.Spec)
		if checked[name] {
			continue
		}
		checked[name] = true
		if _, err := s.model(ctx, c.Spec); err != nil {
			return err
		}
	}
	return nil
}

// GetSweep implements SweepService.
func (s *Server) GetSweep(ctx context.Context, req *surmisev1.GetSweepRequest) (*surmisev1.GetSweepResponse, error) {
	limit := int(req.PageSize)
	if limit == 0 {
		limit = sweepChildrenMax
	}
	id := strings.TrimPrefix(req.Name, sweepPrefix)
	first := 0
	if req.PageToken != "" {
		before, err := parsePageToken(req.PageToken, queue.State(id))
		if err != nil {
			return nil, badRequest(jobspec.FieldError{Field: "page_token", Problem: err.Error()})
		}
		first = int(before)
	}
	stored, err := s.store.GetSweep(ctx, id)
	if err != nil {
		return nil, sweepStatus(req.Name, err)
	}
	answer, err := s.describeSweep(ctx, stored)
	if err != nil {
		return nil, err
	}
	if answer.Best, err = s.bestChild(ctx, id, answer.Request); err != nil {
		return nil, err
	}
	jobs, err := s.store.Children(ctx, id, first, limit)
	if err != nil {
		return nil, statusOf(err)
	}
	response := &surmisev1.GetSweepResponse{Sweep: answer}
	size := proto.Size(answer)
	for _, job := range jobs {
		row, err := childMessage(job, answer.Request)
		if err != nil {
			return nil, err
		}
		// A page of large rows ends early rather than exceed what a message may hold.
		if size += proto.Size(row); size > maxMessageBytes/2 && len(response.Children) > 0 {
			break
		}
		response.Children = append(response.Children, row)
	}
	if next := first + len(response.Children); next < int(answer.Children) {
		response.NextPageToken = pageToken(int64(next), queue.State(id))
	}
	return response, nil
}

// ListSweeps implements SweepService.
func (s *Server) ListSweeps(ctx context.Context, req *surmisev1.ListSweepsRequest) (*surmisev1.ListSweepsResponse, error) {
	page := queue.Page{Limit: int(req.PageSize), Bytes: maxMessageBytes}
	if page.Limit == 0 {
		page.Limit = defaultPageSize
	}
	if req.PageToken != "" {
		var err error
		if page.Before, err = parsePageToken(req.PageToken, sweepPrefix); err != nil {
			return nil, badRequest(jobspec.FieldError{Field: "page_token", Problem: err.Error()})
		}
	}
	sweeps, more, err := s.store.ListSweeps(ctx, page)
	if err != nil {
		return nil, statusOf(err)
	}
	response := &surmisev1.ListSweepsResponse{}
	if more {
		response.NextPageToken = pageToken(sweeps[len(sweeps)-1].Sequence, sweepPrefix)
	}
	size := 0
	for i, stored := range sweeps {
		answer, err := s.describeSweep(ctx, stored)
		if err != nil {
			return nil, err
		}
		if size += proto.Size(answer); size > maxMessageBytes/2 && i > 0 {
			response.NextPageToken = pageToken(sweeps[i-1].Sequence, sweepPrefix)
			break
		}
		response.Sweeps = append(response.Sweeps, answer)
	}
	return response, nil
}

// CancelSweep implements SweepService.
func (s *Server) CancelSweep(ctx context.Context, req *surmisev1.CancelSweepRequest) (*surmisev1.Sweep, error) {
	id := strings.TrimPrefix(req.Name, sweepPrefix)
	first, err := s.store.Children(ctx, id, 0, 1) // all have one owner
	if err != nil {
		return nil, statusOf(err)
	}
	if len(first) > 0 {
		if err := mayChange(ctx, req.Name, first[0].Owner); err != nil {
			return nil, err
		}
	}
	moved, err := s.store.CancelSweep(ctx, id, "its sweep was cancelled")
	if err != nil {
		return nil, sweepStatus(req.Name, err)
	}
	for _, m := range moved {
		s.changed(m.Job, m.Effects)
	}
	stored, err := s.store.GetSweep(ctx, id)
	if err != nil {
		return nil, sweepStatus(req.Name, err)
	}
	return s.describeSweep(ctx, stored)
}

func sweepStatus(name string, err error) error {
	if errors.Is(err, queue.ErrNoSweep) {
		return status.Errorf(codes.NotFound, "sweep %s: not found", name)
	}
	return statusOf(err)
}

// describeSweep is the sweep as callers see it, without its best child.
func (s *Server) describeSweep(ctx context.Context, stored queue.Sweep) (*surmisev1.Sweep, error) {
	m := &surmisev1.Sweep{
		Name: sweepPrefix + stored.ID, Request: &surmisev1.SubmitSweepRequest{}, CreateTime: timestamppb.New(stored.Created),
		ChildrenByState: map[string]int32{},
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(stored.Request, m.Request); err != nil {
		return nil, status.Errorf(codes.Internal, "reading sweep %s: %v", stored.ID, err)
	}
	counts, err := s.store.CountChildren(ctx, stored.ID)
	if err != nil {
		return nil, statusOf(err)
	}
	m.State = surmisev1.SweepState_SWEEP_ENDED
	if !stored.Cancelled.IsZero() {
		m.CancelTime = timestamppb.New(stored.Cancelled)
		m.State = surmisev1.SweepState_SWEEP_CANCELLED
	}
	for state, n := range counts {
		m.Children += int32(n)
		m.ChildrenByState[string(state)] = int32(n)
		if !state.Ended() {
			m.State = surmisev1.SweepState_SWEEP_RUNNING
		}
	}
	return m, nil
}

// bestChild is the child that has succeeded with the best metric; nil while there is none.
func (s *Server) bestChild(ctx context.Context, id string, req *surmisev1.SubmitSweepRequest) (best *surmisev1.SweepChild, err error) {
	if req.Metric == nil {
		return nil, nil
	}
	rules := sweep.RulesOf(req)
	for first := 0; ; {
		jobs, err := s.store.Children(ctx, id, first, sweepChildrenMax)
		if err != nil {
			return nil, statusOf(err)
		}
		for _, job := range jobs {
			first = job.SweepIndex + 1
			if job.State != queue.Succeeded {
				continue
			}
			row, err := childMessage(job, req)
			if err != nil {
				return nil, err
			}
			if row.Metric != nil && (best == nil || rules.Better(*row.Metric, *best.Metric)) {
				best = row
			}
		}
		if len(jobs) < sweepChildrenMax {
			return best, nil
		}
	}
}

// childMessage is a child's row of the table.
func childMessage(job queue.Job, req *surmisev1.SubmitSweepRequest) (*surmisev1.SweepChild, error) {
	row := &surmisev1.SweepChild{
		Job: jobPrefix + job.ID, Index: int32(job.SweepIndex), Reason: job.Reason, Values: map[string]string{},
		State: surmisev1.JobState(surmisev1.JobState_value[string(job.State)]),
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(job.SweepValues, &values); err != nil {
		return nil, status.Errorf(codes.Internal, "reading the values of job %s: %v", job.ID, err)
	}
	for path, v := range values {
		row.Values[path] = string(v)
	}
	progress, result := &surmisev1.Progress{}, &surmisev1.Result{}
	if job.Progress != nil {
		if err := unmarshal(job, "progress", job.Progress, progress); err != nil {
			return nil, err
		}
	}
	if job.Result != nil {
		if err := unmarshal(job, "result", job.Result, result); err != nil {
			return nil, err
		}
	}
	row.Step, row.Steps = progress.Step, progress.Steps
	if req.Metric != nil {
		value, ok := result.Metrics[req.Metric.Name]
		if !ok {
			value, ok = sweep.Figure(progress, req.Metric.Name)
		}
		if ok && !math.IsNaN(value) && !math.IsInf(value, 0) { // none is better or worse than those
			row.Metric = &value
		}
	}
	return row, nil
}

// sweeps is what is remembered of sweeps whose children report: nothing that the store does not know.
type sweeps struct {
	mu    sync.Mutex
	rules map[string]sweep.Rules // by sweep; they never change
	rungs map[string]int         // by child that is held: the highest rung recorded
}

// What is remembered at most, and then read from the store again.
const (
	maxRules = 1 << 10 // a request may hold a megabyte
	maxRungs = 1 << 16
)

// judge ends a child of a sweep early when the sweep's rules say so. What fails is logged and comes up again with the
// child's next report. A coordinator that is killed between recording a rung and ending the child lets it go on to the
// next rung.
func (s *Server) judge(ctx context.Context, job queue.Job, p *surmisev1.Progress) {
	why, err := s.verdict(ctx, job, p)
	if err == nil && why != "" {
		var effects queue.Effects
		if job, effects, err = s.store.Apply(ctx, job.ID, queue.Cancel{Reason: why}); err == nil {
			s.changed(job, effects)
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, queue.ErrEnded) {
		s.log.Error("judging a child of a sweep", "job", jobPrefix+job.ID, "sweep", sweepPrefix+job.Sweep, "error", err)
	}
}

// verdict says why a child is ended early; "" when it goes on.
func (s *Server) verdict(ctx context.Context, job queue.Job, p *surmisev1.Progress) (why string, err error) {
	rules, err := s.rulesOf(ctx, job.Sweep)
	if err != nil {
		return "", err
	}
	if why := rules.Collapsed(p); why != "" {
		return why, nil
	}
	rung, value, ok := rules.Rung(p)
	if !ok {
		return "", nil
	}
	s.sweeps.mu.Lock()
	before, seen := s.sweeps.rungs[job.ID]
	s.sweeps.mu.Unlock()
	if seen && before >= rung {
		return "", nil
	}
	values, first, err := s.store.ReachRung(ctx, job, rung, value)
	if err != nil {
		return "", err
	}
	s.sweeps.mu.Lock()
	if len(s.sweeps.rungs) >= maxRungs { // of children that ended through another coordinator
		clear(s.sweeps.rungs)
	}
	s.sweeps.rungs[job.ID] = rung
	s.sweeps.mu.Unlock()
	if !first || p.Steps > 0 && p.Step >= p.Steps { // what is done is kept; others are held against it
		return "", nil
	}
	return rules.Behind(rung, value, values), nil
}

func (s *Server) rulesOf(ctx context.Context, id string) (sweep.Rules, error) {
	s.sweeps.mu.Lock()
	rules, ok := s.sweeps.rules[id]
	s.sweeps.mu.Unlock()
	if ok {
		return rules, nil
	}
	stored, err := s.store.GetSweep(ctx, id)
	if err != nil {
		return sweep.Rules{}, err
	}
	request := &surmisev1.SubmitSweepRequest{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(stored.Request, request); err != nil {
		return sweep.Rules{}, fmt.Errorf("reading sweep %s: %w", id, err)
	}
	rules = sweep.RulesOf(request)
	s.sweeps.mu.Lock()
	if len(s.sweeps.rules) >= maxRules { // most of sweeps that are over
		clear(s.sweeps.rules)
	}
	s.sweeps.rules[id] = rules
	s.sweeps.mu.Unlock()
	return rules, nil
}

// forget drops what is remembered of a child that no worker holds.
func (w *sweeps) forget(child string) {
	w.mu.Lock()
	delete(w.rungs, child)
	w.mu.Unlock()
}
