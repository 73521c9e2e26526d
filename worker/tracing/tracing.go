// Package tracing makes spans of what a worker does: one for each attempt at a job, in the trace that the job was
// submitted in, and below it one for each stretch of a phase, such as some training steps.
package tracing

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

// DefaultStretch is long enough that a day of training makes some ten thousand spans.
const DefaultStretch = 10 * time.Second

// Options says how spans are made.
type Options struct {
	Provider trace.TracerProvider // required
	// Stretch is the least time that a span of steps covers: reports in between make none. 0: every report makes one.
	Stretch time.Duration
	Now     func() time.Time // nil: time.Now
}

// Watch returns a Runner that runs jobs as r does, in spans.
func Watch(r worker.Runner, o Options) worker.Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	return traced{r, o, o.Provider.Tracer("github.com/surmise-ml/surmise/worker/tracing")}
}

type traced struct {
	r      worker.Runner
	o      Options
	tracer trace.Tracer
}

func (t traced) Run(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": a.Traceparent})
	ctx, span := t.tracer.Start(ctx, "attempt", trace.WithTimestamp(t.o.Now()), trace.WithAttributes(
		attribute.String("surmise.job", a.Job), attribute.Int64("surmise.epoch", a.Epoch), attribute.Int("surmise.resume_step", int(a.ResumeFrom.GetStep()))))
	steps := &stretches{t: t, ctx: ctx, span: span, Reports: r, from: t.o.Now()}
	defer func() { span.End(trace.WithTimestamp(t.o.Now())) }()
	defer steps.end()
	result, err := t.r.Run(ctx, a, steps)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	return result, err
}

// stretches are Reports that become spans on their way.
type stretches struct {
	worker.Reports
	t    traced
	ctx  context.Context
	span trace.Span // of the attempt

	mu    sync.Mutex
	from  time.Time           // when the stretch began
	first int32               // steps done by then
	last  *surmisev1.Progress // newest report of it; nil: none
}

func (s *stretches) Progress(p *surmisev1.Progress) {
	s.Reports.Progress(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.t.o.Now()
	if s.last != nil && s.last.GetPhase() != p.GetPhase() {
		s.close(now)
	}
	s.last = p
	if now.Sub(s.from) >= s.t.o.Stretch || p.GetSteps() > 0 && p.GetStep() == p.GetSteps() {
		s.close(now)
	}
}

// close makes a span of the stretch. s.mu is held.
func (s *stretches) close(now time.Time) {
	p := s.last
	if p == nil {
		return
	}
	first := s.first
	if first > p.GetStep() { // another phase counts anew
		first = 0
	}
	figures := []attribute.KeyValue{attribute.Int("surmise.steps_from", int(first)), attribute.Int("surmise.steps_to", int(p.GetStep()))}
	if p.GetStepSeconds() > 0 {
		figures = append(figures, attribute.Float64("surmise.loss", p.GetLoss()), attribute.Float64("surmise.clips_per_second", p.GetClipsPerSecond()),
			attribute.Float64("surmise.data_wait_share", p.GetDataWaitShare()))
	}
	_, span := s.t.tracer.Start(s.ctx, p.GetPhase(), trace.WithTimestamp(s.from), trace.WithAttributes(figures...))
	span.End(trace.WithTimestamp(now))
	s.from, s.first, s.last = now, p.GetStep(), nil
}

func (s *stretches) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close(s.t.o.Now())
}

func (s *stretches) Checkpoint(c *surmisev1.Checkpoint) {
	s.span.AddEvent("checkpoint", trace.WithTimestamp(s.t.o.Now()), trace.WithAttributes(attribute.Int("surmise.step", int(c.GetStep()))))
	s.Reports.Checkpoint(c)
}
