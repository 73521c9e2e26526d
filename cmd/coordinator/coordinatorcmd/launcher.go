package coordinatorcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/inproc"
	"github.com/surmise-ml/surmise/coordinator/launch/slurm"
	slurmfiles "github.com/surmise-ml/surmise/deploy/slurm"
	"github.com/surmise-ml/surmise/internal/bounded"
)

// LauncherOptions says what starts workers as jobs wait for them.
type LauncherOptions struct {
	Engine string // "inproc", "slurm" or "kubernetes"; "": nothing does
	Config string // file of settings; "": the defaults of launcherConfig
}

// Flags adds the flags that fill o.
func (o *LauncherOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Engine, "launcher", "", "start workers as jobs wait for them: with slurm or kubernetes, or as processes of this machine with inproc (default none)")
	flags.StringVar(&o.Config, "launcher-config", "", "JSON file of the launcher's settings (default at most 4 workers in one pool, 1 with inproc)")
}

// launcherConfig is the file of --launcher-config. Absent fields have the default stated.
type launcherConfig struct {
	Prefix      string           `json:"prefix"`      // of the names of workers; coordinators that share jobs share it, others of this engine must not (surmise)
	Coordinator string           `json:"coordinator"` // where workers reach this coordinator, host:port (where it listens)
	Worker      workerConfig     `json:"worker"`
	Pools       []poolConfig     `json:"pools"` // a job is for the first that has what it needs
	Idle        duration         `json:"idle"`  // a worker without work for so long exits (1m)
	Interval    duration         `json:"interval"`
	Patience    duration         `json:"patience"`
	MinBackoff  duration         `json:"min_backoff"`
	MaxBackoff  duration         `json:"max_backoff"`
	Slurm       slurmConfig      `json:"slurm"`
	Kubernetes  kubernetesConfig `json:"kubernetes"`
}

type workerConfig struct {
	Command []string `json:"command"` // the worker where it runs (this program's)
	Args    []string `json:"args"`    // further flags of it, as for TLS and tokens
}

type poolConfig struct {
	Name      string            `json:"name"`
	Min       int               `json:"min"`
	Max       int               `json:"max"`
	GPUs      int               `json:"gpus"`
	CPUs      int               `json:"cpus"`
	Memory    size              `json:"memory"`
	Labels    map[string]string `json:"labels"`
	DataRoots []string          `json:"data_roots"`
	Slurm     slurmJobConfig    `json:"slurm"` // in place of what slurm says
}

type slurmJobConfig struct {
	Partition    string   `json:"partition"`
	Account      string   `json:"account"`
	QOS          string   `json:"qos"`
	Reservation  string   `json:"reservation"`
	Constraint   string   `json:"constraint"`
	GRES         string   `json:"gres"`          // what a GPU is called, such as gpu:a100 (gpu)
	TimeLimit    duration `json:"time_limit"`    // (the partition's)
	SignalBefore duration `json:"signal_before"` // so long before the limit a worker takes a checkpoint and leaves (2m)
	Extra        []string `json:"extra"`         // further options of sbatch
}

type slurmConfig struct {
	slurmJobConfig
	Conf   string   `json:"conf"`   // slurm.conf of the cluster (where Slurm's commands look for it)
	Script string   `json:"script"` // file to submit in place of deploy/slurm/worker.sh
	Output string   `json:"output"` // file pattern of sbatch (DATA-DIR/slurm/%x-%a.log)
	Dir    string   `json:"dir"`    // working folder of workers (this program's)
	Env    []string `json:"env"`    // variables that workers are given, such as SURMISE_TOKEN
}

// foreign is the section of an engine that is not used, where that one's own has nothing: it was meant for another.
func (c launcherConfig) foreign(engine string) string {
	given := map[string]bool{"slurm": !reflect.DeepEqual(c.Slurm, slurmConfig{}), "kubernetes": !reflect.DeepEqual(c.Kubernetes, kubernetesConfig{})}
	for _, section := range []string{"slurm", "kubernetes"} {
		if given[section] && section != engine && !given[engine] {
			return section
		}
	}
	return ""
}

// maxLauncherConfig is far above what a sensible file has.
const maxLauncherConfig = 1 << 20

func readLauncherConfig(path string) (c launcherConfig, err error) {
	if path == "" {
		return c, nil
	}
	text, err := bounded.ReadFile(path, maxLauncherConfig)
	if err != nil {
		return c, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return c, err
	}
	if decoder.More() {
		return c, errors.New("there is more after the settings")
	}
	return c, nil
}

// printed is the folder, in the data folder, of what Slurm's workers print.
const printed = "slurm"

// launcher is what a coordinator has workers started with.
type launcher struct {
	*launch.Reconciler
	close func()
}

// open makes the reconciler, with workers that attach at address. Nothing is started yet.
func (o LauncherOptions) open(dataDir string, address net.Addr, log *slog.Logger) (l launcher, err error) {
	fail := func(err error) (launcher, error) {
		if o.Config != "" {
			return launcher{}, fmt.Errorf("--launcher %s, settings in %s: %w", o.Engine, o.Config, err)
		}
		return launcher{}, fmt.Errorf("--launcher %s: %w", o.Engine, err)
	}
	c, err := readLauncherConfig(o.Config)
	if err != nil {
		return fail(err)
	}
	if section := c.foreign(o.Engine); section != "" {
		return fail(fmt.Errorf("%q holds settings of another launcher", section))
	}
	if dataDir, err = filepath.Abs(dataDir); err != nil {
		return fail(err)
	}
	if c.Prefix == "" {
		c.Prefix = "surmise"
	}
	written := c
	if c.Coordinator == "" {
		c.Coordinator = reachable(address)
	}
	if len(c.Worker.Command) == 0 {
		if c.Worker.Command, err = ownWorker(); err != nil {
			return fail(err)
		}
	}
	program := append(slices.Clone(c.Worker.Command), "--coordinator="+c.Coordinator)
	program = append(program, c.Worker.Args...)

	var engine launch.Launcher
	l.close = func() {}
	most := 4
	switch o.Engine {
	case "inproc":
		most = 1 // it takes all cores
		local, err := inproc.New(inproc.Options{Prefix: c.Prefix, Program: program, Dir: filepath.Join(dataDir, "launched"), Logger: log})
		if err != nil {
			return fail(err)
		}
		engine, l.close = local, local.Close
	case "slurm":
		options, err := c.slurm(program, dataDir, log)
		if err != nil {
			return fail(err)
		}
		if engine, err = slurm.New(options); err != nil {
			return fail(err)
		}
	case "kubernetes":
		if engine, err = written.kubernetes(written.settings(most).Pools); err != nil {
			return fail(err)
		}
	default:
		return fail(errors.New("want slurm, kubernetes or inproc"))
	}
	if l.Reconciler, err = launch.New(c.settings(most), engine, nil, log); err != nil {
		return fail(err)
	}
	if o.Engine == "slurm" && c.Slurm.Output == "" { // now that the settings can be
		if err := os.MkdirAll(filepath.Join(dataDir, printed), 0o755); err != nil {
			return fail(fmt.Errorf("folder for what workers print: %w", err))
		}
	}
	return l, nil
}

// settings are the reconciler's; without pools there is one of at most so many workers.
func (c launcherConfig) settings(most int) launch.Settings {
	if len(c.Pools) == 0 {
		c.Pools = []poolConfig{{Name: "cpu", Max: most}}
	}
	settings := launch.Settings{
		Prefix: c.Prefix, Idle: time.Duration(c.Idle), Interval: time.Duration(c.Interval), Patience: time.Duration(c.Patience),
		MinBackoff: time.Duration(c.MinBackoff), MaxBackoff: time.Duration(c.MaxBackoff),
	}
	for _, p := range c.Pools {
		settings.Pools = append(settings.Pools, launch.Pool{Name: p.Name, Min: p.Min, Max: p.Max, Shape: launch.Shape{
			GPUs: p.GPUs, CPUs: p.CPUs, Memory: int64(p.Memory), Labels: p.Labels, DataRoots: p.DataRoots,
		}})
	}
	return settings
}

func (c launcherConfig) slurm(program []string, dataDir string, log *slog.Logger) (slurm.Options, error) {
	o := slurm.Options{
		Prefix: c.Prefix, Program: program, Script: slurmfiles.WorkerScript, Job: c.Slurm.job(), Pools: map[string]slurm.Job{},
		Output: c.Slurm.Output, Dir: c.Slurm.Dir, Env: c.Slurm.Env, Conf: c.Slurm.Conf, Logger: log,
	}
	for _, p := range c.Pools {
		o.Pools[p.Name] = p.Slurm.job()
	}
	if c.Slurm.Script != "" {
		text, err := os.ReadFile(c.Slurm.Script)
		if err != nil {
			return o, fmt.Errorf("slurm.script: %w", err)
		}
		o.Script = string(text)
	}
	if o.Output == "" {
		o.Output = filepath.Join(dataDir, printed, "%x-%a.log")
	}
	return o, nil
}

func (c slurmJobConfig) job() slurm.Job {
	return slurm.Job{
		Partition: c.Partition, Account: c.Account, QOS: c.QOS, Reservation: c.Reservation, Constraint: c.Constraint, GRES: c.GRES,
		TimeLimit: time.Duration(c.TimeLimit), SignalBefore: time.Duration(c.SignalBefore), Extra: c.Extra,
	}
}

// reachable is where workers of other machines reach a listener: one on all addresses, by the name of this machine.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	host, err := os.Hostname()
	if err != nil {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// ownWorker is the worker that came with this program.
func ownWorker() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("worker.command: %w", err)
	}
	if filepath.Base(self) == "coordinator" {
		return []string{filepath.Join(filepath.Dir(self), "worker")}, nil
	}
	return []string{self, "worker"}, nil
}

// run has workers started until ctx ends, and stops those that must not outlive the coordinator, which hears from them what
// they hand back: stopServing ends it afterwards.
func (l launcher) run(ctx context.Context, jobs launch.Demander, stopServing context.CancelFunc) {
	defer stopServing()
	l.Run(ctx, jobs)
	l.close()
}

// duration is written as "90s" or "1h30m".
type duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(text []byte) error {
	var s string
	err := json.Unmarshal(text, &s)
	if err == nil {
		var v time.Duration
		v, err = time.ParseDuration(s)
		*d = duration(v)
	}
	if err != nil {
		return fmt.Errorf("%s: want a duration such as \"90s\" or \"1h30m\"", text)
	}
	return nil
}

// size is written as "512MiB" or "16GiB", or in bytes.
type size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}, {"", 1}}

// UnmarshalJSON implements json.Unmarshaler.
func (s *size) UnmarshalJSON(text []byte) error {
	written := strings.Trim(string(text), `"`)
	for _, unit := range sizeUnits {
		number, ok := strings.CutSuffix(written, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/unit.bytes {
			break
		}
		*s = size(n * unit.bytes)
		return nil
	}
	return fmt.Errorf("%s: want a size such as \"512MiB\" or \"16GiB\"", text)
}
