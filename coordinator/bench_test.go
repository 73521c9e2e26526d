package coordinator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const (
	benchJobs    = 100_000
	benchWorkers = 1000
)

// onBoth runs a benchmark on either database, both as durable as in use; reopen opens the same jobs again.
func onBoth(b *testing.B, run func(b *testing.B, reopen func() *queue.Store)) {
	b.Run("sqlite", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "jobs.db")
		run(b, func() *queue.Store {
			store, err := queue.OpenSQLite(b.Context(), path, time.Now)
			if err != nil {
				b.Fatal(err)
			}
			return store
		})
	})
	b.Run("postgres", func(b *testing.B) {
		address := queuetest.StartPostgres(b, true).Database(b)
		run(b, func() *queue.Store {
			store, err := queue.OpenPostgres(b.Context(), address, nil)
			if err != nil {
				b.Fatal(err)
			}
			return store
		})
	})
}

// fill queues n jobs of ten owners.
func fill(b *testing.B, store *queue.Store, n int) {
	b.Helper()
	const owners = 10
	for o := range owners {
		sub := queue.SweepSubmission{ID: fmt.Sprint("s", o), Request: json.RawMessage(`{}`), Scheduling: queue.Scheduling{Owner: fmt.Sprint("owner", o)}}
		for i := range n / owners {
			sub.Children = append(sub.Children, queue.ChildSubmission{
				ID: fmt.Sprintf("j%d-%d", o, i), Spec: json.RawMessage(`{"train":{"data":["/data/clips"],"steps":600,"preset":"tiny"}}`), Values: json.RawMessage(`{}`),
			})
		}
		if _, _, err := store.SubmitSweep(b.Context(), sub); err != nil {
			b.Fatal(err)
		}
	}
}

// serve runs a coordinator on the store and returns a connection to it, and what stops both.
func serve(b *testing.B, store coordinator.Store) (*grpc.ClientConn, func()) {
	b.Helper()
	srv, err := coordinator.New(coordinator.Config{Store: store, ArtifactDir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	return conn, func() {
		stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
		conn.Close()
	}
}

// simulated is a worker that takes jobs, works on each for a while, reports it done, and asks for the next. It says how
// long each lease took from the moment it asked.
func simulated(ctx context.Context, conn *grpc.ClientConn, name string, work time.Duration, leased func(time.Duration)) error {
	stream, err := surmisev1.NewWorkerServiceClient(conn).Attach(ctx)
	if err != nil {
		return err
	}
	say := func(m *surmisev1.AttachRequest) error { return stream.Send(m) }
	if err := say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: name}}}); err != nil {
		return err
	}
	ask := &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}}
	var asked time.Time
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.Message.(type) {
		case *surmisev1.AttachResponse_Welcome, *surmisev1.AttachResponse_Settled:
			asked = time.Now()
			err = say(ask)
		case *surmisev1.AttachResponse_Lease:
			leased(time.Since(asked))
			lease := m.Lease.Lease
			if err := say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: lease}}}); err != nil {
				return err
			}
			select {
			case <-time.After(work):
			case <-ctx.Done():
				return ctx.Err()
			}
			err = say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease, Result: &surmisev1.Result{}}}})
		}
		if err != nil {
			return err
		}
	}
}

// BenchmarkDispatch: 1000 workers attached over gRPC, 100,000 jobs of ten owners queued. Every job is leased, started by a
// heartbeat and reported done, each on disk before it is answered. In "steady" a job takes 1.6 s, so that 625 workers a
// second ask for one; the time from asking to the lease is reported. In "saturated" jobs take no time: as many as go.
func BenchmarkDispatch(b *testing.B) {
	onBoth(b, func(b *testing.B, open func() *queue.Store) {
		store := open()
		defer store.Close()
		fill(b, store, benchJobs)
		for _, load := range []struct {
			name string
			work time.Duration
		}{{"steady", 1600 * time.Millisecond}, {"saturated", 0}} {
			b.Run(load.name, func(b *testing.B) {
				conn, stop := serve(b, store)
				defer stop()
				ctx, cancel := context.WithCancel(b.Context())
				var mu sync.Mutex
				var waits []time.Duration
				var count atomic.Int64
				enough := make(chan struct{})
				var begin time.Time
				b.ResetTimer()
				var workers sync.WaitGroup
				for i := range benchWorkers {
					workers.Go(func() {
						select { // spread over the time that a job takes
						case <-time.After(load.work * time.Duration(i) / benchWorkers):
						case <-ctx.Done():
							return
						}
						err := simulated(ctx, conn, fmt.Sprint("w", i), load.work, func(wait time.Duration) {
							n := int(count.Add(1))
							mu.Lock()
							defer mu.Unlock()
							if n == benchWorkers { // all are at work: count from here
								begin = time.Now()
							}
							if n > benchWorkers {
								waits = append(waits, wait)
							}
							if n == benchWorkers+b.N {
								b.StopTimer()
								close(enough)
							}
						})
						if ctx.Err() == nil {
							b.Errorf("worker %d: %v", i, err)
						}
					})
				}
				<-enough
				mu.Lock()
				took := time.Since(begin)
				slices.Sort(waits)
				at := func(share float64) float64 { return waits[int(share*float64(len(waits)-1))].Seconds() * 1000 }
				b.ReportMetric(float64(len(waits))/took.Seconds(), "dispatches/s")
				b.ReportMetric(at(0.5), "p50-ms")
				b.ReportMetric(at(0.99), "p99-ms")
				mu.Unlock()
				cancel()
				workers.Wait()
			})
		}
	})
}

// BenchmarkRestart is the time from opening a store with 100,000 queued jobs to the first answered call.
func BenchmarkRestart(b *testing.B) {
	onBoth(b, func(b *testing.B, open func() *queue.Store) {
		store := open()
		fill(b, store, benchJobs)
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			store := open()
			conn, stop := serve(b, store)
			page, err := surmisev1.NewJobServiceClient(conn).ListJobs(b.Context(), &surmisev1.ListJobsRequest{})
			if err != nil || len(page.Jobs) != 50 {
				b.Fatal(page, err)
			}
			b.StopTimer()
			stop()
			if err := store.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}
