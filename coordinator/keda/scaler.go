// Package keda tells KEDA how many identical workers are worth having: an external scaler, for installations where KEDA
// rather than package launch starts them.
//
// The figure is the jobs that wait and that such a worker could do, and those that workers of the pool do now, so that one
// replica for each job is right. What a worker of the pool has is in the trigger's metadata.
package keda

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/proto/externalscaler"
)

// MetricName is the figure's name.
const MetricName = "surmise-jobs"

const (
	// DefaultInterval is how often open streams look.
	DefaultInterval = 10 * time.Second
	// most is how many jobs are counted: no pool is larger.
	most = 10_000
	// stopPatience is how long a stop waits for calls and handshakes under way.
	stopPatience = 5 * time.Second
	// patience bounds one look at the store.
	patience = 10 * time.Second
	// maxMessageBytes is far above any trigger's metadata.
	maxMessageBytes = 64 << 10
	// maxStreams is the calls that one connection may have open: one for each ScaledObject.
	maxStreams = 1000
)

// Scaler answers KEDA. Make one with New.
type Scaler struct {
	externalscaler.UnimplementedExternalScalerServer

	demand   launch.Demander
	clock    launch.Clock
	interval time.Duration
	stopping chan struct{} // closed when Serve stops: ends every stream
}

// New returns a scaler on the jobs of a store. A nil clock is the system's; interval 0 is DefaultInterval.
func New(d launch.Demander, clock launch.Clock, interval time.Duration) *Scaler {
	if clock == nil {
		clock = launch.SystemClock{}
	}
	if interval == 0 {
		interval = DefaultInterval
	}
	return &Scaler{demand: d, clock: clock, interval: interval, stopping: make(chan struct{})}
}

// Serve answers on l, which it closes, until ctx ends. It is called once.
func (s *Scaler) Serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxConcurrentStreams(maxStreams), grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(stopPatience), // a stop waits for handshakes under way
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}))
	externalscaler.RegisterExternalScalerServer(server, s)
	stop := context.AfterFunc(ctx, func() {
		close(s.stopping)
		forced := time.AfterFunc(stopPatience, server.Stop)
		defer forced.Stop()
		server.GracefulStop()
	})
	defer stop()
	log.Info("the scaler for KEDA serves", "address", l.Addr().String())
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving KEDA on %s: %w", l.Addr(), err)
	}
	return nil
}

// IsActive reports whether there is a job for the pool.
func (s *Scaler) IsActive(ctx context.Context, ref *externalscaler.ScaledObjectRef) (*externalscaler.IsActiveResponse, error) {
	n, err := s.jobs(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &externalscaler.IsActiveResponse{Result: n > 0}, nil
}

// StreamIsActive says at once whether there is a job for the pool, and again when that changes.
func (s *Scaler) StreamIsActive(ref *externalscaler.ScaledObjectRef, stream grpc.ServerStreamingServer[externalscaler.IsActiveResponse]) error {
	ctx := stream.Context()
	for said, was := false, false; ; {
		n, err := s.jobs(ctx, ref)
		if err != nil {
			return err
		}
		if is := n > 0; !said || is != was {
			if err := stream.Send(&externalscaler.IsActiveResponse{Result: is}); err != nil {
				return err
			}
			said, was = true, is
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the coordinator stops; ask again")
		case <-s.clock.After(s.interval):
		}
	}
}

// GetMetricSpec says that one worker is for one job.
func (s *Scaler) GetMetricSpec(_ context.Context, ref *externalscaler.ScaledObjectRef) (*externalscaler.GetMetricSpecResponse, error) {
	if _, err := poolOf(ref); err != nil {
		return nil, err
	}
	return &externalscaler.GetMetricSpecResponse{MetricSpecs: []*externalscaler.MetricSpec{{MetricName: MetricName, TargetSize: 1, TargetSizeFloat: 1}}}, nil
}

// GetMetrics counts the jobs for the pool.
func (s *Scaler) GetMetrics(ctx context.Context, req *externalscaler.GetMetricsRequest) (*externalscaler.GetMetricsResponse, error) {
	n, err := s.jobs(ctx, req.GetScaledObjectRef())
	if err != nil {
		return nil, err
	}
	return &externalscaler.GetMetricsResponse{MetricValues: []*externalscaler.MetricValue{{MetricName: MetricName, MetricValue: int64(n), MetricValueFloat: float64(n)}}}, nil
}

// jobs are those that wait for a worker of the pool, and those that one has.
func (s *Scaler) jobs(ctx context.Context, ref *externalscaler.ScaledObjectRef) (n int, err error) {
	pool, err := poolOf(ref)
	if err != nil {
		return 0, err
	}
	ctx, done := context.WithTimeout(ctx, patience)
	defer done()
	demand, err := s.demand.Demand(ctx, most)
	if err != nil {
		return 0, status.Errorf(codes.Unavailable, "reading what waits: %v", err)
	}
	for _, w := range demand.Waiting {
		if pool.worker.Lacks(w.Needs) == "" {
			n += w.Jobs
		}
	}
	for _, name := range demand.Busy {
		if strings.HasPrefix(name, pool.prefix) {
			n++
		}
	}
	return n, nil
}

// pool is what a trigger's metadata says of its workers.
type pool struct {
	worker queue.Worker
	prefix string // their names begin with it
}

// Keys of the metadata. All but scalerAddress, which is KEDA's, are optional.
const (
	keyGPUs      = "gpus"
	keyMemory    = "memory" // bytes
	keyLabels    = "labels" // NAME=VALUE, several apart by commas
	keyDataRoots = "dataRoots"
	keyPrefix    = "workerPrefix" // of the workers' names; default the object's name and a dash
)

// keysOfKEDA are those that KEDA reads itself and passes on.
var keysOfKEDA = []string{"scalerAddress", "unsafeSsl", "caCert", "enableTLS", "tlsCertFile", "insecureSkipVerify", "activationValue"}

func poolOf(ref *externalscaler.ScaledObjectRef) (p pool, err error) {
	p.prefix = ref.GetName() + "-"
	for key, value := range ref.GetScalerMetadata() {
		switch key {
		case keyGPUs:
			p.worker.GPUs, err = strconv.Atoi(value)
			if err == nil && p.worker.GPUs < 0 {
				err = errors.New("is negative")
			}
		case keyMemory:
			p.worker.Memory, err = strconv.ParseInt(value, 10, 64)
			if err == nil && p.worker.Memory < 0 {
				err = errors.New("is negative")
			}
		case keyLabels:
			p.worker.Labels, err = labels(value)
		case keyDataRoots:
			p.worker.DataRoots = strings.Split(value, ",")
		case keyPrefix:
			p.prefix = value
		default:
			if !slices.Contains(keysOfKEDA, key) {
				err = fmt.Errorf("is none of %s", strings.Join([]string{keyGPUs, keyMemory, keyLabels, keyDataRoots, keyPrefix}, ", "))
			}
		}
		if err != nil {
			return p, status.Errorf(codes.InvalidArgument, "metadata %s %q: %v", key, value, err)
		}
	}
	if p.prefix == "" || p.prefix == "-" {
		return p, status.Errorf(codes.InvalidArgument, "metadata %s: neither it nor the object's name says how workers' names begin", keyPrefix)
	}
	return p, nil
}

func labels(text string) (map[string]string, error) {
	out := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE", part)
		}
		out[name] = value
	}
	return out, nil
}
