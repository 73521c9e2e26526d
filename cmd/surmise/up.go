package main

import (
	"context"
	"errors"
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
	"github.com/surmise-ml/surmise/worker"
)

func newUpCommand() *cobra.Command {
	o := upOptions{takeDefault: true}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a coordinator and a worker in one process",
		Long: `Run a coordinator and a worker in one process; they talk over gRPC as two would, though not over the network.

On SIGTERM or SIGINT the worker takes a checkpoint and hands its job back, and the coordinator stops; the job goes on when
either is started again. A second signal kills.

Other workers may attach as well. To open it to a network, --tls-cert, --tls-key and --tokens or --client-ca are those of
'surmise coordinator'; the worker inside needs neither token nor certificate.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return up(cmd.Context(), o, func(a net.Addr) {
				fmt.Fprintf(cmd.OutOrStdout(), "coordinator listens on %s\n", a)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", coordinatorcmd.DefaultListen, "address to listen on (host:port); beyond loopback only with TLS, and tokens or client certificates")
	o.security.Flags(flags)
	flags.StringVar(&o.dataDir, "data-dir", "surmise-data", "folder of jobs and artifacts")
	coordinatorcmd.StoreFlag(flags, &o.store)
	flags.StringArrayVar(&o.dataRoots, "data-root", nil, "folder below which jobs may name files; repeat for more (default any)")
	flags.DurationVar(&o.lease, "lease", coordinator.DefaultLeaseDuration, "time after which a silent worker's job goes to another one")
	o.offer.Flags(flags)
	workercmd.MLflowFlag(flags, &o.mlflowURL)
	daemon.MetricsFlag(flags, &o.metricsAddr)
	o.cache.Flags(flags)
	o.cache.TrainFlags(flags)
	o.artifacts.Flags(flags)
	o.device.Flags(flags)
	return cmd
}

type upOptions struct {
	listen  string
	dataDir string
	store   string

	security coordinatorcmd.SecurityOptions

	dataRoots []string
	lease     time.Duration
	offer     workercmd.Offer
	mlflowURL string
	cache     workercmd.CacheOptions
	artifacts coordinatorcmd.ArtifactOptions
	device    workercmd.DeviceOptions

	takeDefault bool // see workercmd.Options

	metricsAddr    string
	metricsServing func(net.Addr) // nil: nobody wants to know
}

// thisProcess is the coordinator's name where connections are made inside.
const thisProcess = "passthrough:///this-process"

// up runs both until ctx ends or one of them fails. The coordinator outlives the worker, to hear what it hands back, and goes
// on by itself should another worker take its name.
func up(ctx context.Context, o upOptions, serving func(net.Addr)) error {
	coordinatorCtx, stopCoordinator := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCoordinator()
	workerCtx, stopWorker := context.WithCancelCause(ctx)
	defer stopWorker(nil)

	logger := slog.Default() // of this command, for both
	inside := coordinator.NewLocal()
	work := workercmd.Options{
		Coordinator: dial.Options{Address: thisProcess, Through: inside.Dial},
		DataRoots:   o.dataRoots, DataDir: o.dataDir, Offer: o.offer, MLflowURL: o.mlflowURL, Cache: o.cache, Device: o.device, Version: programVersion(),
		Logger: logger, TakeDefault: o.takeDefault,
	}
	if err := work.Check(); err != nil {
		return err
	}
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
	work.Monitor = monitor
	both.Go(func() error {
		err := coordinatorcmd.Run(coordinatorCtx, coordinatorcmd.Options{
			Listen: o.listen, DataDir: o.dataDir, Store: o.store, LeaseDuration: o.lease, Logger: logger,
			Security: o.security, Local: inside, Artifacts: o.artifacts,
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
			err := workercmd.Run(workerCtx, work)
			if errors.Is(err, worker.ErrReplaced) && workerCtx.Err() == nil { // one that is never taken is a fault of how this was started
				logger.Error("the worker in here serves no more jobs; the coordinator goes on, for others", "error", err)
				<-workerCtx.Done()
				return nil
			}
			return err
		case <-workerCtx.Done():
			return nil
		}
	})
	return both.Wait()
}
