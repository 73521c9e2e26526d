// Package workercmd is the worker as a command and as a part of other commands: its flags, its name and what it is made
// of.
package workercmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/worker"
	"github.com/surmise-ml/surmise/worker/joblog"
	"github.com/surmise-ml/surmise/worker/metrics"
	"github.com/surmise-ml/surmise/worker/mlflow"
	"github.com/surmise-ml/surmise/worker/tracing"
)

// Options says whom a worker works for and what it may read.
type Options struct {
	Coordinator dial.Options  // required
	Name        string        // unique among workers; "": one that DataDir keeps from run to run
	DataRoots   []string      // the only folders below which jobs may name files; empty: any
	DataDir     string        // the worker's own files; required unless Name is set
	Offer       Offer         // what jobs may ask for
	Cache       CacheOptions  // what is kept of videos
	Device      DeviceOptions // what jobs run on
	Version     string        // of the program
	Grace       time.Duration // for the last word when stopping; 0: the worker's default
	Idle        time.Duration // Run returns when there was no job for so long; 0: never
	Logger      *slog.Logger  // nil: slog.Default()

	Monitor *daemon.Monitor // shows how the worker is; nil: nobody looks

	Artifacts ArtifactOptions // where what jobs leave is kept
	MLflowURL string          // tracking server that is told of jobs; "": none

	// TakeDefault makes the worker's logger slog's default, so that what decoders and the trainer log while a job runs is
	// kept with the job. It is for processes whose main work is the worker, and that have set slog's default before.
	TakeDefault bool
}

// Service is the worker's name in a monitor.
const Service = "worker"

// Check refuses options that cannot be, with a FlagError, before anything is made.
func (o Options) Check() error {
	if err := o.Offer.check(); err != nil {
		return err
	}
	for flag, value := range map[string]time.Duration{"exit-when-idle": o.Idle, "grace": o.Grace} {
		if value < 0 {
			return &FlagError{flag, value.String(), errors.New("want 0 or more")}
		}
	}
	if o.Name != "" && !validName.MatchString(o.Name) { // a folder is called by it
		return &FlagError{"name", o.Name, errors.New("want at most 128 letters, digits, dots, dashes and underscores, a letter or digit first")}
	}
	for flag, values := range map[string][]string{"data-dir": {o.DataDir}, "data-root": o.DataRoots} {
		for _, value := range values {
			if !utf8.ValidString(value) { // paths are said to the coordinator, in messages
				return &FlagError{flag, value, errors.New("is not UTF-8")}
			}
		}
	}
	_, err := dataRoots(o.DataRoots)
	return err
}

// Run works until ctx ends, then hands back what it holds.
func Run(ctx context.Context, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := o.Check(); err != nil {
		return err
	}
	book := joblog.New()
	o.Logger = slog.New(book.Handler(o.Logger.Handler()))
	if o.TakeDefault {
		before := slog.Default()
		slog.SetDefault(o.Logger)
		defer slog.SetDefault(before)
	}
	roots, err := dataRoots(o.DataRoots)
	if err != nil {
		return err
	}
	if len(roots) == 0 && (o.Coordinator.TokenFile != "" || os.Getenv(dial.TokenVariable) != "") { // others submit, then
		o.Logger.Warn("jobs may name any file that this worker can read, as videos, pairs or models; --data-root says which folders may be named")
	}
	threads, err := trainer.Threads(0)
	if err != nil {
		return err
	}
	if o.Name == "" {
		name, release, err := claimName(filepath.Join(o.DataDir, "workers"))
		if err != nil {
			return fmt.Errorf("naming the worker: %w", err)
		}
		defer func() { _ = release() }() // the lock goes with the process in any case
		o.Name = name
	}
	dialOptions, err := o.Coordinator.DialOptions()
	if flag := (*dial.FlagError)(nil); errors.As(err, &flag) {
		return &FlagError{flag.Flag, flag.Value, flag.Err}
	} else if err != nil {
		return err
	}
	decoders, done, err := OpenDecoders(o.Cache)
	if err != nil {
		return err
	}
	defer done()
	features, err := OpenFeatures(o.Cache)
	if err != nil {
		return err
	}
	gpus, err := o.Device.GPUs()
	if err != nil {
		return err
	}
	if err := gpus.Probe(); err != nil {
		return &FlagError{"device", o.Device.Device, err}
	}
	publisher, err := o.publisher(worker.Jobs{DataRoots: roots, Decoders: decoders, Features: features, Open: gpus.Open})
	if err != nil {
		return err
	}
	defer func() { _ = publisher.Close() }() // connections; what was published is in the store
	var runner worker.Runner = publisher
	if o.MLflowURL != "" {
		tracker, err := mlflow.New(mlflow.Options{URL: o.MLflowURL, Experiment: os.Getenv("MLFLOW_EXPERIMENT_NAME"), Token: os.Getenv("MLFLOW_TRACKING_TOKEN"),
			User: os.Getenv("MLFLOW_TRACKING_USERNAME"), Password: os.Getenv("MLFLOW_TRACKING_PASSWORD"), Logger: o.Logger})
		if err != nil {
			return &FlagError{"mlflow-url", "…", err}
		}
		runner = tracker.Watch(runner)
	}
	runner = tracing.Watch(runner, tracing.Options{Provider: otel.GetTracerProvider(), Stretch: tracing.DefaultStretch})
	var linked func(bool)
	if o.Monitor != nil {
		m, err := metrics.New(decoders, o.Monitor.Registerer())
		if err != nil {
			return err
		}
		defer func() { _ = m.Close() }() // nothing is sent at its end
		o.Monitor.ReadyWhen(Service, m.Ready)
		runner, linked = m.Watch(runner), m.Linked
	}
	return worker.Run(ctx, worker.Config{
		Coordinator: o.Coordinator.Address,
		DialOptions: dialOptions,
		Name:        o.Name,
		Labels:      o.Offer.Labels,
		GPUs:        o.Offer.GPUs,
		Memory:      o.Offer.Memory,
		Threads:     threads,
		Precisions:  precisions(),
		DataRoots:   roots,
		Version:     o.Version,
		Runner:      runner,
		Grace:       o.Grace,
		Idle:        o.Idle,
		Logger:      o.Logger,
		Linked:      linked,
		Explain:     o.Coordinator.Explain,
		JobLog:      book,
	})
}

// precisions are those that this machine has.
func precisions() []string {
	out := []string{string(cpu.FP32)}
	if _, err := cpu.BF16.Resolve(); err == nil {
		out = append(out, string(cpu.BF16))
	}
	return out
}

// A FlagError is an option that cannot be.
type FlagError struct {
	Flag  string // such as "data-root"; "" for a variable of the environment, which Err names
	Value string
	Err   error
}

func (e *FlagError) Error() string {
	if e.Flag == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("--%s %q: %v", e.Flag, e.Value, e.Err)
}
func (e *FlagError) Unwrap() error { return e.Err }

// dataRoots makes the roots absolute and refuses one that is no folder; the beginning of a URI stays as it is.
func dataRoots(roots []string) ([]string, error) {
	var out []string
	for _, root := range roots {
		if strings.Contains(root, "://") {
			out = append(out, root)
			continue
		}
		path, err := filepath.Abs(root)
		if err != nil {
			return nil, &FlagError{"data-root", root, err}
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, &FlagError{"data-root", root, err}
		}
		if !info.IsDir() {
			return nil, &FlagError{"data-root", root, errors.New("not a folder")}
		}
		out = append(out, path)
	}
	return out, nil
}

// Command is "worker". It stops in order when its context ends.
func Command(version string) *cobra.Command {
	o := Options{Version: version, TakeDefault: true}
	var metricsAddr string
	cmd := &cobra.Command{
		Use:   "worker --coordinator ADDRESS",
		Short: "Run the jobs of a coordinator",
		Long: `Run the jobs of a coordinator, one at a time.

The worker attaches over gRPC and keeps trying when the coordinator is away; a job in hand goes on meanwhile. On SIGTERM or
SIGINT it takes a checkpoint, hands the job back and exits; a second signal kills it. It must see the videos under the
paths that jobs name, and the coordinator's artifact folder under the same path, unless the coordinator has --artifacts.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if metricsAddr == "" {
				return Run(cmd.Context(), o)
			}
			o.Monitor = daemon.NewMonitor(Service)
			_, done, err := o.Monitor.Serve(cmd.Context(), metricsAddr, slog.Default())
			if err != nil {
				return err
			}
			defer done()
			return Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Coordinator.Address, "coordinator", "127.0.0.1:7433", "address of the coordinator (host:port)")
	o.Coordinator.Flags(flags)
	flags.StringVar(&o.Name, "name", "", "name among workers (default one that the data folder keeps)")
	flags.StringArrayVar(&o.DataRoots, "data-root", nil, "folder, or beginning of a URI, below which jobs may name videos; repeat for more (default any)")
	flags.StringVar(&o.DataDir, "data-dir", "surmise-data", "folder for the worker's own files: the names that workers keep when they start again, and the folders that jobs work in")
	o.Offer.Flags(flags)
	o.Cache.Flags(flags)
	o.Device.Flags(flags)
	o.Cache.TrainFlags(flags)
	o.Artifacts.Flags(flags)
	daemon.MetricsFlag(flags, &metricsAddr)
	MLflowFlag(flags, &o.MLflowURL)
	flags.DurationVar(&o.Idle, "exit-when-idle", 0, "exit once there was no job for so long, with an error if the coordinator was away then (default never)")
	flags.DurationVar(&o.Grace, "grace", 10*time.Second, "how long a stopping worker waits for the coordinator to take note")
	return cmd
}

// MLflowFlag is the flag that names a tracking server.
func MLflowFlag(flags *pflag.FlagSet, url *string) {
	flags.StringVar(url, "mlflow-url", "", "address of an MLflow tracking server that is told of jobs (default none); MLFLOW_EXPERIMENT_NAME and MLFLOW_TRACKING_TOKEN are heeded")
}
