package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/video/synth"
)

// From the command that submits a job to its training steps, all is one trace.
func TestOneTrace(t *testing.T) {
	memory := tracetest.NewInMemoryExporter()
	provider, propagator := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	otel.SetTracerProvider(sdk.NewTracerProvider(sdk.WithSyncer(memory)))
	otel.SetTextMapPropagator(propagation.TraceContext{})
	defer otel.SetTracerProvider(provider)
	defer otel.SetTextMapPropagator(propagator)

	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 3, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	serving, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- up(ctx, upOptions{listen: "127.0.0.1:0", dataDir: filepath.Join(dir, "state"), lease: coordinator.DefaultLeaseDuration,
			cache: workercmd.CacheOptions{Dir: "none"}}, func(a net.Addr) { serving <- a })
	}()
	to := "--coordinator=" + (<-serving).String()
	job := fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,"logEvery":1,%s}}`, made.ClipsDir, tinyModel)
	if code, _, shown := surmise(t, job, "submit", to, "-f", "-", "--wait"); code != exitOK {
		t.Error(shown)
	}
	stop()
	if err := <-ended; err != nil { // every span has ended
		t.Error(err)
	}

	byID := map[string]tracetest.SpanStub{}
	var training tracetest.SpanStub
	for _, s := range memory.GetSpans() {
		byID[s.SpanContext.SpanID().String()] = s
		if s.Name == "training" {
			training = s
		}
	}
	var path []string
	for s, ok := training, training.Name != ""; ok; s, ok = byID[s.Parent.SpanID().String()] {
		path = append(path, fmt.Sprintf("%s (%s)", s.Name, s.SpanKind))
		if s.SpanContext.TraceID() != training.SpanContext.TraceID() {
			t.Errorf("%s is in another trace", s.Name)
		}
	}
	want := []string{"training (internal)", "attempt (internal)", "dispatch (internal)", "surmise.v1.JobService/SubmitJob (server)", "surmise.v1.JobService/SubmitJob (client)"}
	if fmt.Sprint(path) != fmt.Sprint(want) {
		t.Errorf("from the steps up: %q\nwant %q", path, want)
	}
}
