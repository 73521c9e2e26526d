package coordinator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
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

// serve runs a coordinator on the store and returns its address, and what stops it.
func serve(b *testing.B, store coordinator.Store) (address string, stop func()) {
	b.Helper()
	srv, err := coordinator.New(coordinator.Config{Store: store, ArtifactDir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, listener) }()
	return listener.Addr().String(), func() {
		cancel()
		if err := <-served; err != nil {
			b.Error(err)
		}
	}
}

// counted runs a crowd until n answers of a kind have come since every worker had a job, and returns how long each took.
func counted(b *testing.B, store coordinator.Store, c crowd, what string, n int) (took []time.Duration) {
	b.Helper()
	var stop func()
	c.Address, stop = serve(b, store)
	defer stop()
	working, enough := 0, make(chan struct{})
	var from spent
	var wall time.Duration
	leave := c.start(b, func(said string, t time.Duration) {
		switch {
		case said == saidLeased && working < c.Workers:
			if working++; working == c.Workers {
				from = resetSpent()
			}
		case working == c.Workers && said == what && len(took) < n:
			if took = append(took, t); len(took) == n {
				wall = time.Since(from.wall)
				close(enough)
			}
		}
	})
	<-enough
	dispatches := 0
	if what == saidLeased {
		dispatches = n
	}
	from.report(b, dispatches)
	b.ReportMetric(float64(n)/wall.Seconds(), what+"/s")
	leave()
	slices.Sort(took)
	return took
}

// quantiles reports how long half, and 99 of 100, answers took at most.
func quantiles(b *testing.B, sorted []time.Duration) {
	at := func(share float64) float64 { return sorted[int(share*float64(len(sorted)-1))].Seconds() * 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}

// BenchmarkDispatch: 1000 workers attached over connections of their own, 100,000 jobs of ten owners queued. Every job is
// leased, started by a heartbeat, and reported done, each on disk before it is answered. In "steady" a job takes 1.8 s, so
// that 550 workers a second ask for one, and there is a heartbeat every second; the time from asking to the lease is
// reported. In "saturated" jobs take no time: as many as go.
func BenchmarkDispatch(b *testing.B) {
	onBoth(b, func(b *testing.B, open func() *queue.Store) {
		store := open()
		defer store.Close()
		fill(b, store, benchJobs)
		b.Run("steady", func(b *testing.B) {
			quantiles(b, counted(b, store, crowd{Workers: benchWorkers, Work: 1800 * time.Millisecond, Beat: time.Second}, saidLeased, b.N))
		})
		b.Run("saturated", func(b *testing.B) {
			counted(b, store, crowd{Workers: benchWorkers}, saidLeased, b.N)
		})
	})
}

// BenchmarkHeartbeats: 1000 workers at work, each with a heartbeat every second, and nothing else to do.
func BenchmarkHeartbeats(b *testing.B) {
	onBoth(b, func(b *testing.B, open func() *queue.Store) {
		store := open()
		defer store.Close()
		fill(b, store, benchWorkers)
		quantiles(b, counted(b, store, crowd{Workers: benchWorkers, Work: -1, Beat: time.Second}, saidRenewed, b.N))
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
			address, stop := serve(b, store)
			conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				b.Fatal(err)
			}
			page, err := surmisev1.NewJobServiceClient(conn).ListJobs(b.Context(), &surmisev1.ListJobsRequest{})
			if err != nil || len(page.Jobs) != 50 {
				b.Fatal(page, err)
			}
			b.StopTimer()
			conn.Close()
			stop()
			if err := store.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}
