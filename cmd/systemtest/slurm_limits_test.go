package systemtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
	"github.com/surmise-ml/surmise/coordinator/launch/slurm"
	"github.com/surmise-ml/surmise/coordinator/launch/slurm/slurmtest"
	"github.com/surmise-ml/surmise/video/synth"
)

// TestSlurmTimeLimit: a job that needs a GPU is given to a worker on the node that has one, and outlasts the time limit of
// that worker. Slurm looks at time limits every 30 s, so this test takes as long.
func TestSlurmTimeLimit(t *testing.T) {
	t.Parallel()
	cluster := slurmtest.StartWith(t, slurmtest.Options{GPUs: 1})
	dir, grpc := slurmSystem(t, cluster, `"worker": {"command": [%[1]q], "args": ["--data-root=%[2]s"]},
		"pools": [{"name": "cpu", "max": 2, "cpus": 1}, {"name": "gpu", "max": 2, "gpus": 1, "cpus": 1}],
		"slurm": {"conf": %[3]q, "time_limit": "1m", "signal_before": "20s"}`, `#!/bin/sh
echo "$CUDA_VISIBLE_DEVICES" > "%[2]s/gpus"
exec %[1]s "$@"
`)
	watch := grpc.watch(grpc.submit(longTraining(dir, `"scheduling":{"needs":{"gpus":1}}`)))
	first := watch.until(t, "JOB_LEASED")
	if got := cluster.Run("squeue", "--noheader", "--states=RUNNING", "--format=%j %N %b %l"); got != "lab-gpu-1 n1 gres:gpu:1 1:00" {
		t.Errorf("Slurm runs %q, want one worker with a GPU on n1, for a minute", got)
	}
	if gpus, err := os.ReadFile(filepath.Join(dir, "gpus")); err != nil || string(gpus) != "0\n" {
		t.Errorf("the worker was given GPUs %q, %v; want the first", gpus, err)
	}
	back := watch.until(t, "JOB_REQUEUED")
	if !strings.HasPrefix(back.Job.Reason, "handed back: ") || back.Job.LastCheckpoint.Step == 0 {
		t.Errorf("at the time limit %+v, want it handed back with a checkpoint", back.Job)
	}
	watch.goesOn(t, back)
	for _, line := range strings.Split(cluster.Run("squeue", "--noheader", "--array", "--states=all", "--format=%j-%K %T"), "\n") {
		if name, state, _ := strings.Cut(line, " "); name == first.Job.Worker && state != "COMPLETED" {
			t.Errorf("the first worker is %s, want it to have left before the limit", state)
		}
	}
}

// TestSlurmNodeFailure: the node under a job fails twice. It is set down, and its worker told to stop. Then Slurm hears no
// more of it, and gives its worker's name to another, while that worker still runs.
func TestSlurmNodeFailure(t *testing.T) {
	t.Parallel()
	cluster := slurmtest.Start(t)
	dir, grpc := slurmSystem(t, cluster, `"worker": {"command": [%[1]q], "args": ["--data-root=%[2]s"]},
		"pools": [{"name": "cpu", "max": 1, "cpus": 2}], "slurm": {"conf": %[3]q}`, "")
	fail := func(worker string, how func(node string)) {
		t.Helper()
		node := cluster.Run("squeue", "--noheader", "--jobs="+workerTask(t, cluster, worker), "--format=%N")
		how(node)
		cluster.Run("scontrol", "update", "nodename="+node, "state=down", "reason=broken")
	}
	watch := grpc.watch(grpc.submit(longTraining(dir, "")))
	before := watch.until(t, "JOB_CHECKPOINTED")
	fail(before.Job.Worker, func(string) {})
	lost := watch.until(t, "JOB_REQUEUED")
	if !strings.HasPrefix(lost.Job.Reason, "handed back: ") {
		t.Errorf("when its node is set down: %s", lost.Job.Reason)
	}
	again := watch.until(t, "JOB_LEASED")
	after := watch.until(t, "JOB_CHECKPOINTED")
	if after.Job.Epoch != again.Job.Epoch || after.Job.LastCheckpoint.Step <= lost.Job.LastCheckpoint.Step {
		t.Errorf("after %+v it goes on as %+v with %+v", lost.Job, again.Job, after.Job)
	}

	fail(again.Job.Worker, cluster.KillNode)
	lost = watch.until(t, "JOB_REQUEUED")
	if !strings.Contains(lost.Job.Reason, "its worker attached again without it") {
		t.Errorf("when another has the worker's name: %s", lost.Job.Reason)
	}
	watch.goesOn(t, lost)
}

// TestSlurmAccounting: what Slurm's controller has forgotten is told from its accounts.
func TestSlurmAccounting(t *testing.T) {
	t.Parallel()
	cluster := slurmtest.StartWith(t, slurmtest.Options{Accounting: true})
	l, err := slurm.New(slurm.Options{
		Prefix: "lab", Program: []string{"/bin/sh", "-c", "exit 3"}, Script: "#!/bin/sh\nshift; exec \"$@\"\n", Dir: t.TempDir(), Output: "/dev/null", Conf: cluster.Conf,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cluster.Run("scontrol", "update", "partitionname=low", "state=DOWN")
	if err := l.Start(ctx, launchtest.Batch("cpu", 1, 1)); err != nil {
		t.Fatal(err)
	}
	if got, err := l.List(ctx); err != nil || len(got) != 1 || got[0].State != launch.Waiting {
		t.Fatalf("listed %v, %v; want a worker that waits", got, err)
	}
	cluster.Run("scontrol", "update", "partitionname=low", "state=UP")
	for cluster.Run("squeue", "--noheader", "--states=all") != "" {
		select {
		case <-time.After(100 * time.Millisecond): // Slurm tells nobody
		case <-ctx.Done():
			t.Fatalf("Slurm does not forget:\n%s", cluster.Run("squeue", "--states=all"))
		}
	}
	got, err := l.List(ctx)
	if want := "[lab-cpu-1-0 ended, failed (FAILED exit code 3:0)]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("listed %v, %v; want %s", got, err, want)
	}
}

// slurmSystem starts a coordinator that has Slurm start its workers, and makes clips. settings are its own, wrapper is what
// starts a worker, or "" for nothing but the program; in both, the program and the folder of all files can be named, and in
// the settings the cluster's slurm.conf.
func slurmSystem(t *testing.T, cluster *slurmtest.Cluster, settings, wrapper string) (dir string, g grpcurl) {
	t.Helper()
	bin := build(t)
	dir = t.TempDir()
	t.Cleanup(cluster.End) // before the folder goes, which workers write to
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	if _, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 6, Pairs: 1, Size: 32, Frames: 16}, nil); err != nil {
		t.Fatal(err)
	}
	worker := bin.worker
	if wrapper != "" {
		worker = filepath.Join(dir, "worker")
		if err := os.WriteFile(worker, fmt.Appendf(nil, wrapper, bin.worker, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "slurm.json")
	write(t, path, `{"prefix": "lab", "idle": "3s", "interval": "1s", `+fmt.Sprintf(settings, worker, dir, cluster.Conf)+"}")
	coordinator := start(t, bin.coordinator, "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state"), "--lease", lease,
		"--launcher", "slurm", "--launcher-config", path)
	return dir, grpcurl{t, ctx, bin.grpcurl, strings.TrimPrefix(coordinator.line(t), "coordinator listens on ")}
}

// longTraining is a job on the clips of slurmSystem that never ends by itself; more are further fields, or "".
func longTraining(dir, more string) string {
	if more != "" {
		more = "," + more
	}
	return fmt.Sprintf(`{"train":{"data":[%q],"steps":100000000,"batch":2,"threads":1,"log_every":200,"checkpoint_every":200,
		"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}%s}`, filepath.Join(dir, "videos", "clips"), more)
}
