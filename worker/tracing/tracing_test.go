package tracing

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

type script struct {
	run func(worker.Reports) error
}

func (s script) Run(_ context.Context, _ worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	return nil, s.run(r)
}

type silent struct{}

func (silent) Progress(*surmisev1.Progress)     {}
func (silent) Checkpoint(*surmisev1.Checkpoint) {}
func (silent) Recorded() int32                  { return -1 }

func intOf(s tracetest.SpanStub, key string) int64 {
	for _, a := range s.Attributes {
		if string(a.Key) == key {
			return a.Value.AsInt64()
		}
	}
	return -1
}

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// An attempt is a span in the trace of its dispatch, its stretches are spans below it, with no gap between them and no
// more of them than asked for.
func TestSpansOfAnAttempt(t *testing.T) {
	memory := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(memory))
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	broken := errors.New("no number")
	r := Watch(script{func(r worker.Reports) error {
		report := func(phase string, step, steps int32) {
			now = now.Add(time.Second)
			r.Progress(&surmisev1.Progress{Phase: phase, Step: step, Steps: steps, StepSeconds: 0.1, Loss: 0.5})
		}
		report("indexing", 1, 3)
		report("indexing", 3, 3)
		for step := range int32(25) {
			report("training", step+1, 100)
		}
		r.Checkpoint(&surmisev1.Checkpoint{Step: 25})
		return broken
	}}, Options{Provider: provider, Stretch: 10 * time.Second, Now: func() time.Time { return now }})
	if _, err := r.Run(t.Context(), worker.Assignment{Job: "jobs/a", Epoch: 2, Traceparent: parent}, silent{}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	spans := memory.GetSpans()
	attempt := spans[len(spans)-1]
	if attempt.Name != "attempt" || attempt.SpanContext.TraceID().String() != parent[3:35] || attempt.Parent.SpanID().String() != parent[36:52] {
		t.Errorf("attempt %+v", attempt)
	}
	if attempt.Status.Code != codes.Error || len(attempt.Events) != 2 || attempt.Events[0].Name != "checkpoint" {
		t.Errorf("status %+v, events %+v", attempt.Status, attempt.Events)
	}
	if got := attribute.NewSet(attempt.Attributes...); intOf(attempt, "surmise.epoch") != 2 {
		t.Errorf("attributes %v", got)
	}
	var got []string
	from := attempt.StartTime
	for _, s := range spans[:len(spans)-1] {
		if s.Parent.SpanID() != attempt.SpanContext.SpanID() || !s.StartTime.Equal(from) {
			t.Errorf("%s begins at %v below %v, want %v below the attempt", s.Name, s.StartTime, s.Parent.SpanID(), from)
		}
		from = s.EndTime
		got = append(got, s.Name)
		if s.Name == "training" && intOf(s, "surmise.steps_to")-intOf(s, "surmise.steps_from") > 10 {
			t.Errorf("a stretch from %d to %d", intOf(s, "surmise.steps_from"), intOf(s, "surmise.steps_to"))
		}
	}
	if len(got) != 4 || got[0] != "indexing" || got[1] != "training" || !from.Equal(attempt.EndTime) {
		t.Errorf("stretches %v up to %v", got, from)
	}
	if last := spans[len(spans)-2]; intOf(last, "surmise.steps_to") != 25 {
		t.Errorf("the last stretch ends with step %d", intOf(last, "surmise.steps_to"))
	}
}

// A job that is not traced, or whose context is garbage, runs all the same.
func TestWithoutATrace(t *testing.T) {
	for _, from := range []string{"", "garbage"} {
		memory := tracetest.NewInMemoryExporter()
		r := Watch(script{func(r worker.Reports) error { r.Progress(&surmisev1.Progress{Phase: "scoring"}); return nil }},
			Options{Provider: sdk.NewTracerProvider(sdk.WithSyncer(memory))})
		if _, err := r.Run(t.Context(), worker.Assignment{Traceparent: from}, silent{}); err != nil {
			t.Error(err)
		}
		if spans := memory.GetSpans(); len(spans) != 2 || spans[1].Parent.IsValid() {
			t.Errorf("%q: spans %+v", from, spans)
		}
	}
}
