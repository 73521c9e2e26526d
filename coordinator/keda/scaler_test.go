package keda

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/proto/externalscaler"
)

// jobs is a store that says what it is told to.
type jobs struct {
	mu     sync.Mutex
	demand queue.Demand
	err    error
}

func (j *jobs) Demand(context.Context, int) (queue.Demand, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.demand, j.err
}

func (j *jobs) set(d queue.Demand, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.demand, j.err = d, err
}

// ticks is a clock whose time passes when the test says so.
type ticks chan time.Time

func (ticks) Now() time.Time                         { return time.Time{} }
func (c ticks) After(time.Duration) <-chan time.Time { return c }

// serve runs a scaler and returns a client of it.
func serve(t *testing.T, j *jobs) (externalscaler.ExternalScalerClient, ticks) {
	t.Helper()
	clock := make(ticks)
	s := New(j, clock, 0)
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, slog.New(slog.DiscardHandler)) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		conn.Close()
		goleak.VerifyNone(t)
	})
	return externalscaler.NewExternalScalerClient(conn), clock
}

func ref(metadata map[string]string) *externalscaler.ScaledObjectRef {
	return &externalscaler.ScaledObjectRef{Name: "gpu", Namespace: "lab", ScalerMetadata: metadata}
}

var demand = queue.Demand{
	Waiting: []queue.Waiting{
		{Needs: queue.Needs{}, Jobs: 5},
		{Needs: queue.Needs{GPUs: 1}, Jobs: 3},
		{Needs: queue.Needs{GPUs: 1, Memory: 1 << 30, Labels: map[string]string{"zone": "x"}}, Jobs: 2},
		{Needs: queue.Needs{DataRoots: []string{"/data/a"}}, Jobs: 1},
	},
	Busy: []string{"gpu-abc", "gpu-def", "gpux-1", "cpu-1"},
}

// What is counted is what such a worker could do, and what the pool's do.
func TestMetrics(t *testing.T) {
	j := &jobs{demand: demand}
	client, _ := serve(t, j)
	for _, c := range []struct {
		metadata map[string]string
		want     float64
	}{
		{nil, 5 + 1 + 2},
		{map[string]string{"scalerAddress": "surmise:7434", "gpus": "1"}, 5 + 3 + 1 + 2},
		{map[string]string{"gpus": "1", "memory": "1073741824", "labels": "zone=x,disk=fast"}, 5 + 3 + 2 + 1 + 2},
		{map[string]string{"dataRoots": "/other"}, 5 + 2},
		{map[string]string{"dataRoots": "/other,/data"}, 5 + 1 + 2},
		{map[string]string{"workerPrefix": "cpu-"}, 5 + 1 + 1},
	} {
		got, err := client.GetMetrics(t.Context(), &externalscaler.GetMetricsRequest{ScaledObjectRef: ref(c.metadata), MetricName: MetricName})
		if err != nil {
			t.Errorf("%v: %v", c.metadata, err)
			continue
		}
		if v := got.MetricValues; len(v) != 1 || v[0].MetricName != MetricName || v[0].MetricValueFloat != c.want || v[0].MetricValue != int64(c.want) {
			t.Errorf("%v: got %v, want %v", c.metadata, v, c.want)
		}
	}
	spec, err := client.GetMetricSpec(t.Context(), ref(nil))
	if err != nil || len(spec.MetricSpecs) != 1 || spec.MetricSpecs[0].TargetSize != 1 || spec.MetricSpecs[0].TargetSizeFloat != 1 {
		t.Errorf("got %v, %v", spec, err)
	}
}

func TestBadMetadata(t *testing.T) {
	j := &jobs{demand: demand}
	client, _ := serve(t, j)
	for _, metadata := range []map[string]string{{"gpus": "two"}, {"gpus": "-1"}, {"memory": "16Gi"}, {"memory": "-1"}, {"labels": "zone"}, {"gpu": "1"}, {"workerPrefix": ""}} {
		_, err := client.IsActive(t.Context(), ref(metadata))
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", metadata, err)
		}
		for key := range metadata {
			if !strings.Contains(err.Error(), key) {
				t.Errorf("%v: %v does not name it", metadata, err)
			}
		}
	}
	if _, err := client.GetMetricSpec(t.Context(), ref(map[string]string{"gpu": "1"})); status.Code(err) != codes.InvalidArgument {
		t.Errorf("GetMetricSpec: %v", err)
	}
	j.set(queue.Demand{}, errors.New("the disk is gone"))
	if _, err := client.IsActive(t.Context(), ref(nil)); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("a store that fails: %v", err)
	}
}

// A stream says how it is, and then only what changes; it ends when the coordinator does.
func TestStream(t *testing.T) {
	j := &jobs{}
	client, clock := serve(t, j)
	stream, err := client.StreamIsActive(t.Context(), ref(nil))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want bool) {
		t.Helper()
		got, err := stream.Recv()
		if err != nil || got.Result != want {
			t.Fatalf("got %v, %v; want %v", got, err, want)
		}
	}
	expect(false)
	clock <- time.Time{} // nothing changed
	j.set(demand, nil)
	clock <- time.Time{}
	expect(true)
	j.set(queue.Demand{Busy: []string{"gpu-abc"}}, nil) // still at work
	clock <- time.Time{}
	j.set(queue.Demand{}, nil)
	clock <- time.Time{}
	expect(false)
}
