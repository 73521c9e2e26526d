package coordinator_test

import (
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"github.com/surmise-ml/surmise/coordinator"
)

const submittedIn = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// The trace of a submission is stored with its job: the coordinator that gives it out may be another process.
func TestATraceOutlivesTheCoordinator(t *testing.T) {
	memory := tracetest.NewInMemoryExporter()
	traced := func(c *coordinator.Config) { c.TracerProvider = sdk.NewTracerProvider(sdk.WithSyncer(memory)) }
	s := start(t, traced)
	ctx := metadata.AppendToOutgoingContext(s.ctx, "traceparent", submittedIn)
	req := train()
	req.RequestId = "once"
	job, err := s.jobs.SubmitJob(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.jobs.SubmitJob(s.ctx, req); err != nil || again.Name != job.Name || again.Spec.Traceparent != job.Spec.Traceparent {
		t.Errorf("asked for again in another trace: %v (%v)", again, err)
	}
	s.down()
	s.up(traced)
	first := s.ready("w")
	lease := first.lease()
	if len(lease.Traceparent) != len(submittedIn) || lease.Traceparent[:36] != submittedIn[:36] {
		t.Fatalf("lease with %q, want the trace of %q", lease.Traceparent, submittedIn)
	}
	found := map[string]int{}
	for _, span := range memory.GetSpans() {
		if span.SpanContext.TraceID().String() == submittedIn[3:35] {
			found[span.Name]++
		}
	}
	if found["surmise.v1.JobService/SubmitJob"] != 1 || found["queued"] != 1 || found["dispatch"] != 1 {
		t.Errorf("spans %v", found)
	}
}

// Without tracing, nothing is stored and nothing is sent on.
func TestUntraced(t *testing.T) {
	s := start(t, nil)
	if job := s.submit(train()); job.Spec.Traceparent != "" {
		t.Errorf("stored %q", job.Spec.Traceparent)
	}
	if lease := s.ready("w").lease(); lease.Traceparent != "" {
		t.Errorf("sent %q", lease.Traceparent)
	}
}
