// Package metrics lets a Prometheus server read what a worker does: its decoders, the files they judged, and how fast the
// job in hand trains. The figures are the worker's own, from its start on; none is kept.
//
//	surmise_decoder_starts_total             decoder processes started
//	surmise_decoder_restarts_total{reason}   of them, those lost: crashed, timed_out, too_large (memory), garbage
//	surmise_video_verdicts_total{reason}     files judged: usable, or a kind of video.Kinds
//	surmise_clips_total{frames}              clips cut for training and videos read for scoring, by where their frames
//	                                         came from: decoded, disk, memory
//	surmise_training_step_seconds            mean of the steps since the progress report before the last
//	surmise_training_data_wait_ratio         share of that time in which training waited for clips
//
// and Go's and the process's own.
package metrics

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/worker"
)

// Decoders are what is counted; *video.Pool is one.
type Decoders interface {
	Stats() video.PoolStats
}

// Metrics are those of one worker. Safe for concurrent use.
type Metrics struct {
	decoders Decoders
	provider *sdk.MeterProvider
	handler  http.Handler

	mu   sync.Mutex
	last *surmisev1.Progress // guarded by mu; of the last training job that reported; nil before
}

// New makes the instruments. It must be closed.
func New(decoders Decoders) (*Metrics, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("making the metrics: %w", err)
	}
	m := &Metrics{decoders: decoders, provider: sdk.NewMeterProvider(sdk.WithReader(reader))}
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	if err := m.register(m.provider.Meter("github.com/surmise-ml/surmise/worker/metrics")); err != nil {
		return nil, fmt.Errorf("making the metrics: %w", err)
	}
	return m, nil
}

// Close ends the measuring.
func (m *Metrics) Close() error { return m.provider.Shutdown(context.Background()) }

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler { return m.handler }

// register makes the instruments, all read when a scrape asks.
func (m *Metrics) register(meter metric.Meter) (err error) {
	counter := func(name, unit, about string) metric.Int64ObservableCounter {
		c, failed := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
		if failed != nil {
			err = failed
		}
		return c
	}
	gauge := func(name, unit, about string) metric.Float64ObservableGauge {
		g, failed := meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
		if failed != nil {
			err = failed
		}
		return g
	}
	starts := counter("surmise.decoder.starts", "{process}", "Decoder processes started.")
	restarts := counter("surmise.decoder.restarts", "{process}", "Decoder processes lost and replaced, by reason.")
	verdicts := counter("surmise.video.verdicts", "{file}", "Video files judged, by reason; usable is one.")
	clips := counter("surmise.clips", "{clip}", "Clips cut for training and videos read for scoring, by where their frames came from.")
	step := gauge("surmise.training.step", "s", "Mean time of a training step since the report before the last.")
	wait := gauge("surmise.training.data_wait", "1", "Share of the time of these steps in which training waited for clips.")
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := m.decoders.Stats()
		o.ObserveInt64(starts, s.Started)
		for reason, n := range map[string]int64{"crashed": s.Crashed, "timed_out": s.TimedOut, "too_large": s.TooLarge, "garbage": s.Garbage} {
			o.ObserveInt64(restarts, n, metric.WithAttributes(attribute.String("reason", reason)))
		}
		for kind, n := range s.Verdicts {
			reason := string(kind)
			if kind == "" {
				reason = "usable"
			}
			o.ObserveInt64(verdicts, n, metric.WithAttributes(attribute.String("reason", reason)))
		}
		for from, n := range map[string]int64{"decoded": s.ClipsDecoded, "disk": s.ClipsFromDisk, "memory": s.ClipsFromMemory} {
			o.ObserveInt64(clips, n, metric.WithAttributes(attribute.String("frames", from)))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.last != nil {
			o.ObserveFloat64(step, m.last.GetStepSeconds())
			o.ObserveFloat64(wait, m.last.GetDataWaitShare())
		}
		return nil
	}, starts, restarts, verdicts, clips, step, wait)
	return err
}

// Watch returns a Runner that runs jobs as r does and takes note of what they report.
func (m *Metrics) Watch(r worker.Runner) worker.Runner { return watched{m, r} }

type watched struct {
	m *Metrics
	r worker.Runner
}

func (w watched) Run(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	return w.r.Run(ctx, a, noted{r, w.m})
}

// noted are Reports that are taken note of on their way.
type noted struct {
	worker.Reports
	m *Metrics
}

func (n noted) Progress(p *surmisev1.Progress) {
	if p.GetStepSeconds() > 0 { // of training, past its first step
		n.m.mu.Lock()
		n.m.last = p
		n.m.mu.Unlock()
	}
	n.Reports.Progress(p)
}
