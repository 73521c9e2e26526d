package coordinator

import (
	"context"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"

	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// The trace of a job begins with the call that submits it, whose context is stored with the job, so that it goes on
// through restarts and attempts:
//
//	SubmitJob (client, server) → queued → dispatch → attempt (of the worker) → steps
const tracerName = "github.com/surmise-ml/surmise/coordinator"

var traceContext propagation.TraceContext

// traceCalls makes spans of calls that end. Streams last as long as who holds them, and health is asked all the time.
func traceCalls(provider trace.TracerProvider) stats.Handler {
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider),
		otelgrpc.WithPropagators(traceContext),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool {
			switch info.FullMethodName {
			case surmisev1.WorkerService_Attach_FullMethodName, surmisev1.JobService_WatchJob_FullMethodName, surmisev1.LogService_ReadJobLog_FullMethodName:
				return false
			}
			return strings.HasPrefix(info.FullMethodName, "/surmise.")
		}))
}

// traceparent is the W3C form of the span in ctx; "" when there is none that is kept.
func traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	traceContext.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// traceDispatch adds to a job's trace that it was queued and is given out, and returns the context of the latter.
func (s *Server) traceDispatch(ctx context.Context, job queue.Job, spec *surmisev1.JobSpec) string {
	if spec.Traceparent == "" {
		return ""
	}
	ctx = traceContext.Extract(ctx, propagation.MapCarrier{"traceparent": spec.Traceparent})
	about := trace.WithAttributes(
		attribute.String("surmise.job", jobPrefix+job.ID), attribute.Int64("surmise.epoch", job.Epoch), attribute.String("surmise.worker", job.Worker))
	leased := job.LeaseUntil.Add(-s.lease) // by the store's clock
	if job.Epoch == 1 && !leased.Before(job.Created) {
		_, queued := s.tracer.Start(ctx, "queued", about, trace.WithTimestamp(job.Created))
		queued.End(trace.WithTimestamp(leased))
	}
	ctx, span := s.tracer.Start(ctx, "dispatch", about)
	defer span.End()
	return traceparent(ctx)
}
