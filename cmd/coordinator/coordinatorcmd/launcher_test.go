package coordinatorcmd

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/launch/slurm"
	"github.com/surmise-ml/surmise/coordinator/queue"
	slurmfiles "github.com/surmise-ml/surmise/deploy/slurm"
)

type noJobs struct{}

func (noJobs) Demand(context.Context, int) (queue.Demand, error) { return queue.Demand{}, nil }

func settings(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "launcher.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var somewhere = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7433}

func TestLauncherSettingsAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                               "unexpected EOF",
		`{} {}`:                           "more after the settings",
		`{"poolz":[]}`:                    `unknown field "poolz"`,
		`{"idle":60}`:                     `60: want a duration such as "90s"`,
		`{"pools":[{"memory":"8 GB"}]}`:   `"8 GB": want a size such as "512MiB"`,
		`{"pools":[{"memory":-1}]}`:       "-1: want a size",
		`{"pools":[{"name":"cpu"}]}`:      "pools[0]: max 0: want 1 to",
		`{"prefix":"My Lab"}`:             `prefix "My Lab": want a small letter`,
		`{"slurm":{"script":"/nothere"}}`: "slurm.script: open /nothere: no such file",
		`{"pools":[{"name":"gpu","max":1,"slurm":{"extra":["--hold"]}}]}`: `pool gpu: extra "--hold": the launcher sets this itself`,
	} {
		path := settings(t, text)
		_, err := LauncherOptions{Engine: "slurm", Config: path}.open(t.TempDir(), somewhere, slog.Default())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q and the file's name", text, err, want)
		}
	}
	if _, err := (LauncherOptions{Engine: "pbs"}).open(t.TempDir(), somewhere, slog.Default()); err == nil || err.Error() != "--launcher pbs: want slurm, kubernetes or inproc" {
		t.Errorf("got %v", err)
	}
}

// Every field of the file arrives.
func TestLauncherSettingsForSlurm(t *testing.T) {
	c, err := readLauncherConfig(settings(t, `{
		"prefix": "lab", "coordinator": "head:7433", "idle": "2m",
		"worker": {"command": ["/opt/surmise", "worker"], "args": ["--tls"]},
		"pools": [{"name": "gpu", "min": 1, "max": 8, "gpus": 2, "cpus": 16, "memory": "64GiB", "labels": {"zone": "x"}, "data_roots": ["/data"],
			"slurm": {"partition": "accelerated", "gres": "gpu:a100"}}],
		"slurm": {"partition": "batch", "account": "physics", "qos": "normal", "reservation": "r", "constraint": "c", "time_limit": "4h",
			"signal_before": "5m", "extra": ["--exclusive"], "dir": "/shared", "output": "/shared/%x.log", "env": ["SURMISE_TOKEN"]}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.slurm(c.Worker.Command, t.TempDir(), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slurm.New(o); err != nil {
		t.Error(err)
	}
	want := slurm.Job{Partition: "batch", Account: "physics", QOS: "normal", Reservation: "r", Constraint: "c", TimeLimit: 4 * time.Hour, SignalBefore: 5 * time.Minute}
	extra := o.Job.Extra
	o.Job.Extra = nil
	if o.Job.Partition != want.Partition || o.Job.Account != want.Account || o.Job.QOS != want.QOS || o.Job.Reservation != want.Reservation ||
		o.Job.Constraint != want.Constraint || o.Job.TimeLimit != want.TimeLimit || o.Job.SignalBefore != want.SignalBefore || strings.Join(extra, " ") != "--exclusive" {
		t.Errorf("job %+v, want %+v", o.Job, want)
	}
	if gpu := o.Pools["gpu"]; gpu.Partition != "accelerated" || gpu.GRES != "gpu:a100" {
		t.Errorf("pool %+v", gpu)
	}
	if o.Script != slurmfiles.WorkerScript || o.Dir != "/shared" || o.Output != "/shared/%x.log" || o.Env[0] != "SURMISE_TOKEN" {
		t.Errorf("options %+v", o)
	}
	if p := c.Pools[0]; int64(p.Memory) != 64<<30 || p.Min != 1 || p.GPUs != 2 || p.CPUs != 16 || p.Labels["zone"] != "x" {
		t.Errorf("pool %+v", p)
	}
}

func TestWhereWorkersReachTheCoordinator(t *testing.T) {
	if got := reachable(somewhere); got != "127.0.0.1:7433" {
		t.Errorf("got %s", got)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := reachable(&net.TCPAddr{IP: net.IPv6unspecified, Port: 1}), host+":1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What cannot be is said before anything is made.
func TestBadOptionsLeaveNothing(t *testing.T) {
	for want, o := range map[string]Options{
		"--launcher pbs":                {Launcher: LauncherOptions{Engine: "pbs"}},
		"time_limit":                    {Launcher: LauncherOptions{Engine: "slurm", Config: written(t, `{"slurm": {"time_limit": "1s"}}`)}},
		"pool":                          {Launcher: LauncherOptions{Engine: "slurm", Config: written(t, `{"pools": [{"name": "cpu", "max": -1}]}`)}},
		"--artifacts":                   {Artifacts: ArtifactOptions{Store: "nothing://bucket"}},
		"--keep-checkpoints":            {Artifacts: ArtifactOptions{Keep: -1}},
		"--lease -5s: want at least 1s": {LeaseDuration: -5 * time.Second},
		"--max-calls-per-second -1":     {Security: SecurityOptions{Limits: coordinator.Limits{CallsPerSecond: -1}}},
		"--tokens: ":                    {Security: SecurityOptions{TokensFile: filepath.Join(t.TempDir(), "none")}},
		"none.pem":                      {Security: SecurityOptions{TLS: auth.TLSFiles{Cert: "none.pem", Key: "none.pem"}}},
		"--keda-addr":                   {KEDA: "nonsense"},
		"would be open to the network":  {Listen: "0.0.0.0:0"},
	} {
		o.DataDir = filepath.Join(t.TempDir(), "state")
		if o.Listen == "" {
			o.Listen = "127.0.0.1:0"
		}
		var usage *UsageError
		if err := Run(t.Context(), o); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a usage error that says %q", err, want)
		}
		if _, err := os.Stat(o.DataDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q left a data folder (%v)", want, err)
		}
	}
}

func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "settings.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
