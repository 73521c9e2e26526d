package metrics_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/metrics"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read gathers one metric: its values by the value of its only label, "" without one. Histograms give their counts.
func read(t *testing.T, from prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		out := map[string]float64{}
		for _, m := range f.GetMetric() {
			label := ""
			for _, l := range m.GetLabel() {
				label += l.GetValue()
			}
			switch {
			case m.Histogram != nil:
				out[label] = float64(m.Histogram.GetSampleCount())
			case m.Counter != nil:
				out[label] = m.Counter.GetValue()
			default:
				out[label] = m.Gauge.GetValue()
			}
		}
		return out
	}
	t.Fatalf("no metric %s", name)
	return nil
}

// want holds a metric to values by label; labels that are not named must be 0.
func want(t *testing.T, from prometheus.Gatherer, name string, values map[string]float64) {
	t.Helper()
	got := read(t, from, name)
	for label, v := range got {
		if v != values[label] {
			t.Errorf("%s{%s} is %g, want %g", name, label, v, values[label])
		}
	}
	for label := range values {
		if _, ok := got[label]; !ok {
			t.Errorf("%s{%s} is missing", name, label)
		}
	}
}

// A real coordinator on a real store, seen through its metrics from an empty queue to the end of a job.
func TestACoordinator(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	store, err := queue.OpenSQLite(ctx, filepath.Join(dir, "jobs.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	registry := prometheus.NewRegistry()
	m, err := metrics.New(store, registry)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	server, err := coordinator.New(coordinator.Config{Store: store, ArtifactDir: filepath.Join(dir, "artifacts"), Observer: m})
	if err != nil {
		t.Fatal(err)
	}
	m.Count(server)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := server.Ready(ctx); err == nil {
			t.Error("a coordinator that has stopped is ready")
		}
	}()
	jobs := surmisev1.NewJobServiceClient(conn)

	if err := server.Ready(ctx); err != nil {
		t.Errorf("not ready: %v", err)
	}
	want(t, registry, "surmise_jobs", map[string]float64{"QUEUED": 0, "SUCCEEDED": 0})
	want(t, registry, "surmise_lease_losses_total", map[string]float64{"expired": 0, "handed_back": 0})
	want(t, registry, "surmise_jobs_submitted_total", map[string]float64{"": 0})

	submit := func() string {
		job, err := jobs.SubmitJob(ctx, &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return job.Name
	}
	first, _ := submit(), submit()
	want(t, registry, "surmise_jobs", map[string]float64{"QUEUED": 2})
	want(t, registry, "surmise_jobs_waiting", map[string]float64{"no_worker": 2})

	stream, err := surmisev1.NewWorkerServiceClient(conn).Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	say := func(m *surmisev1.AttachRequest) {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	hear := func() *surmisev1.AttachResponse {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w"}}})
	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}})
	hear()
	lease := hear().GetLease().GetLease()
	if lease.GetJob() != first {
		t.Fatalf("leased %v", lease)
	}
	want(t, registry, "surmise_jobs", map[string]float64{"QUEUED": 1, "LEASED": 1})
	want(t, registry, "surmise_jobs_waiting", map[string]float64{"workers_busy": 1})
	want(t, registry, "surmise_workers", map[string]float64{"busy": 1})
	want(t, registry, "surmise_queue_wait_seconds", map[string]float64{"": 1})
	want(t, registry, "surmise_dispatch_seconds", map[string]float64{"": 1})

	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: lease, Sequence: 1}}})
	hear()
	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_HandedBack{HandedBack: &surmisev1.HandedBack{Lease: lease, Reason: "stops"}}})
	hear()
	want(t, registry, "surmise_lease_losses_total", map[string]float64{"handed_back": 1})
	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease, Result: &surmisev1.Result{}}}})
	if hear().GetRevoked() == nil {
		t.Fatal("a stale result is taken")
	}
	want(t, registry, "surmise_stale_messages_total", map[string]float64{"": 1})

	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}})
	lease = hear().GetLease().GetLease()
	say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease, Result: &surmisev1.Result{}}}})
	if got := hear().GetSettled(); got.GetState() != surmisev1.JobState_SUCCEEDED {
		t.Fatalf("settled %v", got)
	}
	want(t, registry, "surmise_jobs_ended_total", map[string]float64{"SUCCEEDED": 1})
	want(t, registry, "surmise_job_run_seconds", map[string]float64{"SUCCEEDED": 1})
	want(t, registry, "surmise_leases_total", map[string]float64{"": 2})
	want(t, registry, "surmise_queue_wait_seconds", map[string]float64{"": 1}) // of first leases only

	watch, err := jobs.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: first})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if lease.GetJob() == first { // ended: the stream ends by itself
		for err == nil {
			_, err = watch.Recv()
		}
	} else {
		want(t, registry, "surmise_watch_streams", map[string]float64{"": 1})
	}
}

// queued is a store with these jobs, and attached are workers.
type (
	queued   []queue.Backlog
	attached []struct {
		worker queue.Worker
		idle   bool
	}
)

func (q queued) Counts(context.Context) (map[queue.State]int, error) { return nil, nil }
func (q queued) Backlogs(context.Context) ([]queue.Backlog, error)   { return q, nil }

func (a attached) Workers(needs queue.Needs) (all, able, idle int) {
	for _, w := range a {
		all++
		if w.worker.Lacks(needs) == "" {
			able++
			if w.idle {
				idle++
			}
		}
	}
	return all, able, idle
}

// Every reason for which a job waits is counted, and an idle worker is counted for one job.
func TestReasonsToWait(t *testing.T) {
	gpu, label := queue.Needs{GPUs: 1}, queue.Needs{Labels: map[string]string{"zone": "x"}}
	jobs := queued{{Ready: 5, Delayed: 2}, {Needs: gpu, Ready: 3}, {Needs: label, Ready: 4, Delayed: 1}}
	for name, c := range map[string]struct {
		workers attached
		want    map[string]float64
	}{
		"nobody": {nil, map[string]float64{"backoff": 3, "no_worker": 12}},
		"one without a GPU": {attached{{queue.Worker{}, true}},
			map[string]float64{"backoff": 3, "needs": 7, "workers_busy": 4, "dispatch": 1}},
		"one with a GPU, and one at work": {attached{{queue.Worker{GPUs: 2}, true}, {queue.Worker{Labels: label.Labels}, false}},
			map[string]float64{"backoff": 3, "workers_busy": 11, "dispatch": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			m, err := metrics.New(jobs, registry)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			m.Count(c.workers)
			want(t, registry, "surmise_jobs_waiting", c.want)
		})
	}
}

type broken struct{}

func (broken) Backlogs(context.Context) ([]queue.Backlog, error) { return nil, errors.New("disk gone") }

func (broken) Counts(context.Context) (map[queue.State]int, error) {
	return nil, errors.New("disk gone")
}

// A store that fails leaves the counters readable by those who look at them.
func TestAStoreThatFails(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := metrics.New(broken{}, registry)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.LeaseLost(coordinator.LossExpired)
	families, _ := registry.Gather()
	for _, f := range families {
		if f.GetName() == "surmise_lease_losses_total" {
			return
		}
	}
	t.Errorf("no counters among %d families", len(families))
}
