package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/coordinator"
)

func newUpCommand() *cobra.Command {
	o := upOptions{takeDefault: true}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a coordinator and a worker in one process",
		Long: `Run a coordinator and a worker in one process; they talk over gRPC as two would.

On SIGTERM or SIGINT the worker takes a checkpoint and hands its job back, and the coordinator stops; the job goes on when
either is started again. A second signal kills.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return up(cmd.Context(), o, func(a net.Addr) {
				fmt.Fprintf(cmd.OutOrStdout(), "coordinator listens on %s\n", a)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", coordinatorcmd.DefaultListen, "address to listen on (host:port), of this machine alone; to open a coordinator to others, run 'surmise coordinator'")
	flags.BoolVar(&o.insecureListen, "insecure-listen", false, "listen beyond this machine all the same, without protection: whoever reaches the port may run jobs")
	flags.StringVar(&o.dataDir, "data-dir", "surmise-data", "folder of jobs and artifacts")
	coordinatorcmd.StoreFlag(flags, &o.store)
	flags.StringArrayVar(&o.dataRoots, "data-root", nil, "folder below which jobs may name files; repeat for more (default any)")
	flags.DurationVar(&o.lease, "lease", coordinator.DefaultLeaseDuration, "time after which a silent worker's job goes to another one")
	daemon.MetricsFlag(flags, &o.metricsAddr)
	o.cache.Flags(flags)
	o.cache.TrainFlags(flags)
	o.artifacts.Flags(flags)
	return cmd
}

type upOptions struct {
	listen  string
	dataDir string
	store   string

	insecureListen bool

	dataRoots []string
	lease     time.Duration
	cache     workercmd.CacheOptions
	artifacts coordinatorcmd.ArtifactOptions

	takeDefault bool // see workercmd.Options

	metricsAddr    string
	metricsServing func(net.Addr) // nil: nobody wants to know
}

// up runs both until ctx ends or one of them fails. The coordinator outlives the worker, to hear what it hands back.
func up(ctx context.Context, o upOptions, serving func(net.Addr)) error {
	coordinatorCtx, stopCoordinator := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCoordinator()
	workerCtx, stopWorker := context.WithCancelCause(ctx)
	defer stopWorker(nil)

	logger := slog.Default() // of this command, for both
	var both errgroup.Group
	var monitor *daemon.Monitor
	if o.metricsAddr != "" {
		monitor = daemon.NewMonitor(coordinatorcmd.Service, workercmd.Service)
		at, done, err := monitor.Serve(ctx, o.metricsAddr, logger)
		if err != nil {
			return err
		}
		defer done()
		if o.metricsServing != nil {
			both.Go(func() error {
				select {
				case <-monitor.Started():
					o.metricsServing(at)
				case <-workerCtx.Done():
				}
				return nil
			})
		}
	}
	address := make(chan net.Addr, 1)
	both.Go(func() error {
		err := coordinatorcmd.Run(coordinatorCtx, coordinatorcmd.Options{
			Listen: o.listen, DataDir: o.dataDir, Store: o.store, LeaseDuration: o.lease, Logger: logger,
			Security: coordinatorcmd.SecurityOptions{InsecureListen: o.insecureListen}, Artifacts: o.artifacts,
			Serving: func(a net.Addr) { address <- a }, Monitor: monitor,
		})
		stopWorker(err) // without a coordinator there is nothing to work for
		return err
	})
	both.Go(func() error {
		defer stopCoordinator()
		select {
		case a := <-address:
			serving(a)
			return workercmd.Run(workerCtx, workercmd.Options{
				Coordinator: dial.Options{Address: local(a)}, DataRoots: o.dataRoots, DataDir: o.dataDir, Cache: o.cache, Version: programVersion(), Logger: logger,
				Monitor: monitor, TakeDefault: o.takeDefault,
			})
		case <-workerCtx.Done():
			return nil
		}
	})
	return both.Wait()
}

// local is where a listener on this machine is reached: one on all addresses, on loopback.
func local(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
}
