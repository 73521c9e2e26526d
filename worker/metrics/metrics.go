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
//	surmise_training_clips_per_second        clips trained on
//	surmise_training_steps                   optimiser steps done
//	surmise_training_loss{part}              of the newest step: total, jepa (prediction), variance
//	surmise_training_learning_rate
//	surmise_training_grad_norm               before clipping
//	surmise_collapse_effective_rank          collapse monitors of the target representations: effective rank, 1 to the
//	surmise_collapse_feature_std             features; mean standard deviation of a feature over tokens; mean cosine
//	surmise_collapse_cosine                  between tokens, near 1 when collapsed; share of their variance between clips at
//	surmise_collapse_clip_share              one place, near 0 when collapsed
//	surmise_worker_busy                      1 while a job runs
//	surmise_worker_attached                  1 while the coordinator is there
//	surmise_attempts_total{outcome}          attempts ended: done, failed (through the job), infrastructure, stopped
//
// What a training says is that of the last one that reported.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
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
	attempts metric.Int64Counter
	busy     atomic.Int64
	attached atomic.Int64 // 1 or 0

	mu   sync.Mutex
	last *surmisev1.Progress // guarded by mu; of the last training job that reported; nil before
}

// New makes the instruments, which a scrape of registry reads. It must be closed.
func New(decoders Decoders, registry prometheus.Registerer) (*Metrics, error) {
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("making the metrics: %w", err)
	}
	m := &Metrics{decoders: decoders, provider: sdk.NewMeterProvider(sdk.WithReader(reader))}
	if err := m.register(m.provider.Meter("github.com/surmise-ml/surmise/worker/metrics")); err != nil {
		return nil, fmt.Errorf("making the metrics: %w", err)
	}
	return m, nil
}

// Close ends the measuring.
func (m *Metrics) Close() error { return m.provider.Shutdown(context.Background()) }

// Linked notes whether the coordinator is there.
func (m *Metrics) Linked(attached bool) {
	if attached {
		m.attached.Store(1)
	} else {
		m.attached.Store(0)
	}
}

// Ready is nil while the coordinator is there: the worker takes jobs.
func (m *Metrics) Ready(context.Context) error {
	if m.attached.Load() == 0 {
		return errors.New("not attached to a coordinator")
	}
	return nil
}

// register makes the instruments. All but the count of attempts are read when a scrape asks.
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
	rate := gauge("surmise.training.clips_per_second", "", "Clips trained on in a second.")
	steps := gauge("surmise.training.steps", "", "Optimiser steps done.")
	loss := gauge("surmise.training.loss", "", "Loss of the newest step, whole and in its parts.")
	learning := gauge("surmise.training.learning_rate", "", "Learning rate of the newest step.")
	norm := gauge("surmise.training.grad_norm", "", "Norm of the gradients before clipping.")
	rank := gauge("surmise.collapse.effective_rank", "", "Effective rank of the target representations, 1 to the number of features.")
	std := gauge("surmise.collapse.feature_std", "", "Mean standard deviation of a target feature over tokens.")
	cosine := gauge("surmise.collapse.cosine", "", "Mean cosine between target tokens; near 1 when collapsed.")
	clipShare := gauge("surmise.collapse.clip_share", "", "Share of the variance of target tokens that lies between clips at one place; near 0 when collapsed.")
	busy := gauge("surmise.worker.busy", "", "1 while a job runs.")
	attached := gauge("surmise.worker.attached", "", "1 while the coordinator is there.")
	attempts, failed := meter.Int64Counter("surmise.attempts", metric.WithUnit("{attempt}"), metric.WithDescription("Attempts ended, by outcome."))
	if failed != nil {
		err = failed
	}
	if err != nil {
		return err
	}
	m.attempts = attempts
	for _, outcome := range []string{"done", "failed", "infrastructure", "stopped"} {
		attempts.Add(context.Background(), 0, ended(outcome)) // 0, not absent
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
		o.ObserveFloat64(busy, float64(m.busy.Load()))
		o.ObserveFloat64(attached, float64(m.attached.Load()))
		m.mu.Lock()
		last := m.last
		m.mu.Unlock()
		if last == nil {
			return nil
		}
		o.ObserveFloat64(step, last.GetStepSeconds())
		o.ObserveFloat64(wait, last.GetDataWaitShare())
		o.ObserveFloat64(rate, last.GetClipsPerSecond())
		o.ObserveFloat64(steps, float64(last.GetStep()))
		o.ObserveFloat64(learning, last.GetLearningRate())
		o.ObserveFloat64(norm, last.GetGradNorm())
		for part, v := range map[string]float64{"total": last.GetLoss(), "jepa": last.GetLossJepa(), "variance": last.GetLossVariance()} {
			o.ObserveFloat64(loss, v, metric.WithAttributes(attribute.String("part", part)))
		}
		if last.GetEffectiveRank() > 0 { // pixels have no monitors
			o.ObserveFloat64(rank, last.GetEffectiveRank())
			o.ObserveFloat64(std, last.GetFeatureStd())
			o.ObserveFloat64(cosine, last.GetCosine())
			if last.ClipShare != nil {
				o.ObserveFloat64(clipShare, last.GetClipShare())
			}
		}
		return nil
	}, starts, restarts, verdicts, clips, step, wait, rate, steps, loss, learning, norm, rank, std, cosine, clipShare, busy, attached)
	return err
}

func ended(outcome string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("outcome", outcome))
}

// Watch returns a Runner that runs jobs as r does and takes note of what they report.
func (m *Metrics) Watch(r worker.Runner) worker.Runner { return watched{m, r} }

type watched struct {
	m *Metrics
	r worker.Runner
}

func (w watched) Run(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	w.m.busy.Add(1)
	defer w.m.busy.Add(-1)
	outcome := "failed" // a panic, too
	defer func() { w.m.attempts.Add(context.Background(), 1, ended(outcome)) }()
	result, err := w.r.Run(ctx, a, noted{r, w.m})
	switch {
	case err == nil:
		outcome = "done"
	case ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)):
		outcome = "stopped"
	case worker.IsInfrastructure(err):
		outcome = "infrastructure"
	}
	return result, err
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
