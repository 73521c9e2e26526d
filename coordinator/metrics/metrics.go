// Package metrics lets a Prometheus server read what a coordinator does: its queue, its workers and what becomes of jobs.
//
//	surmise_jobs{state}                     jobs in the store, by state
//	surmise_jobs_waiting{reason}            queued jobs, by what they wait for: backoff after lost attempts, no_worker is
//	                                        attached, needs that no attached worker meets, workers_busy, or dispatch,
//	                                        which is about to happen
//	surmise_workers{state}                  attached workers: idle, busy
//	surmise_jobs_submitted_total            jobs stored
//	surmise_leases_total                    jobs given to workers
//	surmise_queue_wait_seconds              histogram: submission to first lease
//	surmise_dispatch_seconds                histogram: from when a worker is free and a new job is there to its lease
//	surmise_lease_losses_total{reason}      attempts without a result: see coordinator.Loss
//	surmise_stale_messages_total            words of workers whose lease was over
//	surmise_jobs_ended_total{state}         jobs that reached their last state
//	surmise_job_run_seconds{state}          histogram: first report of work to the end
//	surmise_watch_streams                   streams of events and log lines that are open
//
// Counters count from the start of the process; the gauges of jobs come from the store.
package metrics

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// storePatience is how long the store may take to count jobs; without an answer by then a scrape goes without.
const storePatience = 10 * time.Second

// Counter counts the jobs of a store, by their state and, of those that are queued, by their needs.
type Counter interface {
	Counts(context.Context) (map[queue.State]int, error)
	Backlogs(context.Context) ([]queue.Backlog, error)
}

// Workers are counted when a scrape asks; *coordinator.Server knows them.
type Workers interface {
	Workers(queue.Needs) (attached, able, idle int)
}

type noWorkers struct{}

func (noWorkers) Workers(queue.Needs) (attached, able, idle int) { return 0, 0, 0 }

// Metrics are those of one coordinator, whose Observer they are. Safe for concurrent use.
type Metrics struct {
	jobs     Counter
	workers  atomic.Pointer[Workers]
	provider *sdk.MeterProvider

	submitted, leases, losses, stale, ended metric.Int64Counter
	wait, run, dispatch                     metric.Float64Histogram
	watching                                metric.Int64UpDownCounter
}

// Buckets in seconds: moments when a worker is free, days behind others; a test run to a week of training; a transaction to
// a store that is away.
var (
	dispatchBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30}

	waitBuckets = []float64{0.05, 0.25, 1, 5, 30, 120, 600, 3600, 4 * 3600, 24 * 3600}
	runBuckets  = []float64{1, 10, 60, 300, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600}
)

// New makes the instruments, which a scrape of registry reads. It must be closed.
func New(jobs Counter, registry prometheus.Registerer) (*Metrics, error) {
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("making the metrics: %w", err)
	}
	m := &Metrics{jobs: jobs, provider: sdk.NewMeterProvider(sdk.WithReader(reader))}
	if err := m.register(m.provider.Meter("github.com/surmise-ml/surmise/coordinator/metrics")); err != nil {
		return nil, fmt.Errorf("making the metrics: %w", err)
	}
	return m, nil
}

// Count begins to count the workers of a coordinator.
func (m *Metrics) Count(w Workers) { m.workers.Store(&w) }

// Close ends the measuring.
func (m *Metrics) Close() error { return m.provider.Shutdown(context.Background()) }

func (m *Metrics) register(meter metric.Meter) (err error) {
	keep := func(failed error) {
		if failed != nil {
			err = failed
		}
	}
	counter := func(name, unit, about string) metric.Int64Counter {
		c, failed := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(about))
		keep(failed)
		return c
	}
	histogram := func(name, about string, buckets []float64) metric.Float64Histogram {
		h, failed := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(about), metric.WithExplicitBucketBoundaries(buckets...))
		keep(failed)
		return h
	}
	gauge := func(name, unit, about string) metric.Int64ObservableGauge {
		g, failed := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
		keep(failed)
		return g
	}
	m.submitted = counter("surmise.jobs.submitted", "{job}", "Jobs stored.")
	m.leases = counter("surmise.leases", "{lease}", "Jobs given to workers.")
	m.losses = counter("surmise.lease.losses", "{lease}", "Attempts that ended without a result, by reason.")
	m.stale = counter("surmise.stale.messages", "{message}", "Words of workers whose lease was over.")
	m.ended = counter("surmise.jobs.ended", "{job}", "Jobs that reached their last state, by it.")
	m.wait = histogram("surmise.queue.wait", "Time from a job's submission to its first lease.", waitBuckets)
	m.run = histogram("surmise.job.run", "Time from a job's first report of work to its end, by its last state.", runBuckets)
	m.dispatch = histogram("surmise.dispatch", "Time from when a worker is free and a new job is there to its lease.", dispatchBuckets)
	var failed error
	m.watching, failed = meter.Int64UpDownCounter("surmise.watch.streams", metric.WithUnit("{stream}"), metric.WithDescription("Open streams of events and log lines."))
	keep(failed)
	jobs := gauge("surmise.jobs", "{job}", "Jobs in the store, by state.")
	waiting := gauge("surmise.jobs.waiting", "{job}", "Queued jobs, by what they wait for.")
	workers := gauge("surmise.workers", "{worker}", "Attached workers, by what they do.")
	if err != nil {
		return err
	}
	// A counter that has counted nothing is 0, not absent: rates and alerts need the first step to show.
	ctx := context.Background()
	m.submitted.Add(ctx, 0)
	m.leases.Add(ctx, 0)
	m.stale.Add(ctx, 0)
	m.watching.Add(ctx, 0)
	for _, loss := range coordinator.Losses() {
		m.losses.Add(ctx, 0, by("reason", string(loss)))
	}
	for _, state := range []queue.State{queue.Succeeded, queue.Failed, queue.Cancelled} {
		m.ended.Add(ctx, 0, by("state", string(state)))
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, storePatience)
		defer cancel()
		var crew Workers = noWorkers{}
		if w := m.workers.Load(); w != nil {
			crew = *w
		}
		attached, _, idle := crew.Workers(queue.Needs{})
		o.ObserveInt64(workers, int64(idle), by("state", "idle"))
		o.ObserveInt64(workers, int64(attached-idle), by("state", "busy"))
		counts, err := m.jobs.Counts(ctx)
		if err != nil {
			return err
		}
		for _, state := range []queue.State{queue.Queued, queue.Leased, queue.Running, queue.Cancelling, queue.Succeeded, queue.Failed, queue.Cancelled} {
			o.ObserveInt64(jobs, int64(counts[state]), by("state", string(state)))
		}
		backlogs, err := m.jobs.Backlogs(ctx)
		if err != nil {
			return err
		}
		for reason, n := range waits(backlogs, crew) {
			o.ObserveInt64(waiting, int64(n), by("reason", reason))
		}
		return nil
	}, jobs, waiting, workers)
	return err
}

// waits says what queued jobs wait for: as many as there are idle workers that can serve them for dispatch, the others for
// the busy ones. An idle worker is counted for one job.
func waits(backlogs []queue.Backlog, crew Workers) map[string]int {
	out := map[string]int{"backoff": 0, "no_worker": 0, "needs": 0, "workers_busy": 0, "dispatch": 0}
	_, _, left := crew.Workers(queue.Needs{})
	for _, b := range backlogs {
		out["backoff"] += b.Delayed
		attached, able, idle := crew.Workers(b.Needs)
		switch {
		case attached == 0:
			out["no_worker"] += b.Ready
		case able == 0:
			out["needs"] += b.Ready
		default:
			next := min(b.Ready, idle, left)
			left -= next
			out["dispatch"] += next
			out["workers_busy"] += b.Ready - next
		}
	}
	return out
}

func by(key, value string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String(key, value))
}

// The rest implements coordinator.Observer.

func (m *Metrics) Submitted(jobs int) { m.submitted.Add(context.Background(), int64(jobs)) }

func (m *Metrics) Leased(waited time.Duration) {
	m.leases.Add(context.Background(), 1)
	if waited >= 0 {
		m.wait.Record(context.Background(), waited.Seconds())
	}
}

func (m *Metrics) Dispatched(took time.Duration) {
	m.dispatch.Record(context.Background(), took.Seconds())
}

func (m *Metrics) LeaseLost(why coordinator.Loss) {
	m.losses.Add(context.Background(), 1, by("reason", string(why)))
}

func (m *Metrics) Ended(job queue.Job) {
	m.ended.Add(context.Background(), 1, by("state", string(job.State)))
	if !job.Started.IsZero() {
		m.run.Record(context.Background(), max(0, job.Ended.Sub(job.Started)).Seconds(), by("state", string(job.State)))
	}
}

func (m *Metrics) Stale() { m.stale.Add(context.Background(), 1) }

func (m *Metrics) Watching(change int) { m.watching.Add(context.Background(), int64(change)) }
