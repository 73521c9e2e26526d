// Package coordinatorcmd is the coordinator as a command and as a part of other commands: its flags, its files and what
// it is made of.
package coordinatorcmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/metrics"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// MinLease is the shortest lease that a heartbeat of a busy machine comes in time for.
const MinLease = time.Second

// DefaultListen is loopback: without TLS and tokens anyone who reaches the port may run jobs.
const DefaultListen = "127.0.0.1:7433"

// Options says where a coordinator listens and keeps its files.
type Options struct {
	Listen        string        // host:port; "" for DefaultListen, port 0 for any free one
	DataDir       string        // jobs.db and artifacts/ lie in it; required
	Store         string        // where jobs are kept, as queue.Open takes it; "": DataDir/jobs.db
	LeaseDuration time.Duration // 0: coordinator.DefaultLeaseDuration
	Logger        *slog.Logger  // nil: slog.Default()
	Security      SecurityOptions
	Artifacts     ArtifactOptions
	Launcher      LauncherOptions // what starts workers; its zero value: nothing does
	KEDA          string          // host:port where KEDA is told how many workers are worth having; "": nowhere
	// Serving, if set, is called with the address once connections are accepted.
	Serving func(net.Addr)
	Local   *coordinator.Local // the way in for a worker of this process; nil: none
	Monitor *daemon.Monitor    // shows how the coordinator is; nil: nobody looks
}

// A UsageError is an option, or several together, that cannot be.
type UsageError struct{ error }

func (e *UsageError) Unwrap() error { return e.error }

// Service is the coordinator's name in a monitor.
const Service = "coordinator"

// Run runs a coordinator until ctx ends, and stops it gracefully.
func Run(ctx context.Context, o Options) (err error) {
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.DataDir == "" {
		return errors.New("the coordinator needs a data folder")
	}
	if !utf8.ValidString(o.DataDir) { // paths in it are said to workers, in messages
		return &UsageError{fmt.Errorf("--data-dir %q is not UTF-8", o.DataDir)}
	}
	if o.LeaseDuration != 0 && o.LeaseDuration < MinLease {
		return &UsageError{fmt.Errorf("--lease %v: want at least %v", o.LeaseDuration, MinLease)}
	}
	if o.Launcher.Engine == "" && o.Launcher.Config != "" {
		return &UsageError{fmt.Errorf("--launcher-config %s needs --launcher", o.Launcher.Config)}
	}
	if err := o.Security.complete(); err != nil {
		return &UsageError{err}
	}
	var cfg coordinator.Config
	if err := o.Security.secure(&cfg, o.Logger); err != nil {
		return &UsageError{err}
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return cannotListen(o.Listen, err)
	}
	served := false
	defer func() {
		if !served { // nothing has been answered
			err = errors.Join(err, listener.Close())
		}
	}()
	if err := o.Security.check(listener.Addr(), o.Logger); err != nil { // before anything is made
		return &UsageError{err}
	}
	launching := launcher{}
	if o.Launcher != (LauncherOptions{}) {
		if launching, err = o.Launcher.open(o.DataDir, listener.Addr(), o.Logger); err != nil {
			return &UsageError{err}
		}
	}
	artifacts, err := o.Artifacts.open(ctx, o.Logger)
	if err != nil {
		return &UsageError{err}
	}
	if artifacts != nil {
		defer func() { err = errors.Join(err, artifacts.Close()) }()
	}
	var kedaListener net.Listener
	if o.KEDA != "" {
		if kedaListener, err = listenForKEDA(ctx, o.KEDA); err != nil {
			return &UsageError{err}
		}
		defer kedaListener.Close() // by then it is closed, unless nothing was served
	}
	if o.Store == "" {
		o.Store = filepath.Join(o.DataDir, "jobs.db")
	}
	if _, err := os.Stat(o.Store); errors.Is(err, fs.ErrNotExist) && !strings.Contains(o.Store, "://") { // as where a disk was not mounted
		o.Logger.Info("there is no job store yet: a new one is made, without jobs", "store", o.Store)
	}
	store, err := queue.Open(ctx, o.Store, time.Now)
	if err != nil {
		if ctx.Err() != nil { // told to stop while it waited for the database, which is no failure
			o.Logger.Info("coordinator stopped before it served", "opening", err)
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var observer coordinator.Observer
	count := func(metrics.Workers) {}
	if o.Monitor != nil {
		m, err := metrics.New(store, o.Monitor.Registerer())
		if err != nil {
			return err
		}
		defer func() { _ = m.Close() }() // nothing is sent at its end
		observer, count = m, m.Count
	}
	cfg.Store, cfg.ArtifactDir = store, filepath.Join(o.DataDir, "artifacts")
	cfg.Artifacts, cfg.Retention = artifacts, o.Artifacts.retention()
	cfg.LeaseDuration, cfg.Logger, cfg.Comparer = o.LeaseDuration, o.Logger, Comparer{}
	cfg.Observer, cfg.Local = observer, o.Local
	closeAudit, err := o.Security.audit(&cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAudit()) }()
	if launching.Reconciler != nil {
		cfg.Launch = launching
	}
	server, err := coordinator.New(cfg)
	if err != nil {
		return err
	}
	count(server)
	if o.Monitor != nil {
		o.Monitor.ReadyWhen(Service, server.Ready)
	}
	if kedaListener != nil {
		stop := serveKEDA(ctx, kedaListener, store, o.Logger)
		defer func() {
			if err := stop(); err != nil {
				o.Logger.Error("the scaler for KEDA", "error", err)
			}
		}()
	}
	if o.Serving != nil {
		o.Serving(listener.Addr())
	}
	served = true
	if launching.Reconciler == nil {
		return server.Serve(ctx, listener)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	launchCtx, stopLaunching := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stopLaunching()
	running.Go(func() { launching.run(launchCtx, store, stop) })
	return server.Serve(serving, listener)
}

// cannotListen says what to do about an address.
func cannotListen(address string, err error) error {
	var syntax *net.AddrError
	switch {
	case errors.As(err, &syntax):
		return &UsageError{fmt.Errorf("--listen %s: %w; want HOST:PORT", address, err)}
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listening on %s: %w; if that is a coordinator, use it, or give this one another --listen and --data-dir", address, err)
	}
	return fmt.Errorf("listening on %s: %w", address, err)
}

// Command is "coordinator". It stops gracefully when its context ends.
func Command() *cobra.Command {
	var o Options
	var metricsAddr string
	cmd := &cobra.Command{
		Use:   "coordinator",
		Short: "Take jobs over gRPC and give them to workers",
		Long: `Take jobs over gRPC and give them to the workers that attach.

Jobs are kept in DATA-DIR/jobs.db, artifacts in DATA-DIR/artifacts, which workers on other machines must see under the
same path. With --artifacts s3://BUCKET/PREFIX they are kept there instead, and workers share no disk with anyone.

With --store postgres://USER@HOST/DATABASE jobs are kept in PostgreSQL, and several coordinators may share them: a worker
or a client that loses one goes on with another. They must see the same DATA-DIR/artifacts, or have the same --artifacts,
and with it share only the logs of jobs through DATA-DIR/artifacts. The password comes from
PGPASSWORD or ~/.pgpass rather than the command line, where others could read it.

With --launcher workers are started as jobs wait for them, as processes of this machine, by Slurm or by Kubernetes, and
leave when they find no work; docs/guides/cluster-slurm.md and cluster-kubernetes.md show it.

Without more only this machine may call. --tls-cert, --tls-key and --tokens or --client-ca open it to a network;
docs/guides/security.md has the commands.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Logger = slog.Default()
			o.Serving = func(a net.Addr) { fmt.Fprintf(cmd.OutOrStdout(), "coordinator listens on %s\n", a) }
			if metricsAddr == "" {
				return Run(cmd.Context(), o)
			}
			o.Monitor = daemon.NewMonitor(Service)
			_, done, err := o.Monitor.Serve(cmd.Context(), metricsAddr, o.Logger)
			if err != nil {
				return err
			}
			defer done()
			return Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Listen, "listen", DefaultListen, "address to listen on (host:port); beyond loopback only with TLS, and tokens or client certificates")
	cmd.Flags().StringVar(&o.DataDir, "data-dir", "surmise-data", "folder of jobs and artifacts")
	StoreFlag(cmd.Flags(), &o.Store)
	cmd.Flags().DurationVar(&o.LeaseDuration, "lease", coordinator.DefaultLeaseDuration, "time after which a silent worker's job goes to another one")
	o.Launcher.Flags(cmd.Flags())
	cmd.Flags().StringVar(&o.KEDA, "keda-addr", "", "address (host:port) where KEDA's external scaler is answered, without a password (default nowhere)")
	o.Security.Flags(cmd.Flags())
	o.Artifacts.Flags(cmd.Flags())
	daemon.MetricsFlag(cmd.Flags(), &metricsAddr)
	return cmd
}

// StoreFlag is the flag that says where jobs are kept.
func StoreFlag(flags *pflag.FlagSet, store *string) {
	flags.StringVar(store, "store", "", "where jobs are kept: a path for SQLite, or postgres://USER@HOST/DATABASE (default DATA-DIR/jobs.db)")
}
