package systemtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch/slurm/slurmtest"
	"github.com/surmise-ml/surmise/video/synth"
)

// TestSlurmSweep: a coordinator with an empty cluster has Slurm start the workers of a sweep. Meanwhile the coordinator is
// killed and started again, a worker makes room for a job of higher priority, and another one is killed. Every job ends
// once, and then the workers leave.
func TestSlurmSweep(t *testing.T) {
	t.Parallel()
	cluster := slurmtest.Start(t)
	bin := build(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	videos, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 6, Pairs: 1, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(dir, "slurm.json")
	write(t, settings, fmt.Sprintf(`{"prefix": "sweep", "idle": "3s", "interval": "1s",
		"worker": {"command": [%q], "args": ["--data-root=%s"]},
		"pools": [{"name": "cpu", "max": 3, "cpus": 1}],
		"slurm": {"partition": "low", "time_limit": "30m", "signal_before": "1m", "conf": %q}}`, bin.worker, dir, cluster.Conf))
	begin := func(address string) (*process, string) {
		p := start(t, bin.coordinator, "--listen", address, "--data-dir", filepath.Join(dir, "state"), "--lease", lease,
			"--launcher", "slurm", "--launcher-config", settings)
		return p, strings.TrimPrefix(p.line(t), "coordinator listens on ")
	}
	coordinator, address := begin("127.0.0.1:0")
	grpc := grpcurl{t, ctx, bin.grpcurl, address}
	// Two of the children would never end by themselves, so that it does not matter how fast this machine is.
	var sweep struct{ Name string }
	decode(t, grpc.call("surmise.v1.SweepService/SubmitSweep", fmt.Sprintf(`{
		"train":{"data":[%q],"batch":2,"threads":1,"log_every":10,"checkpoint_every":10,
			"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}},
		"parameters":[{"path":"train.steps","grid":[100000000,20]},{"path":"train.optimizer.learning_rate","grid":[0.001,0.0005]}]}`,
		videos.ClipsDir)), &sweep)
	children := grpc.jobs()
	if len(children) != 4 {
		t.Fatalf("%d jobs, want the 4 children", len(children))
	}
	first, second := children[3].Name, children[2].Name // the long ones

	watch := grpc.watch(first)
	watch.until(t, "JOB_CHECKPOINTED")
	coordinator.kill(t)
	watch.broken(t)
	coordinator, _ = begin(address)

	// The worker of one is killed.
	watch = grpc.watch(second)
	before := watch.until(t, "JOB_CHECKPOINTED")
	cluster.Run("scancel", "--signal=KILL", "--batch", workerTask(t, cluster, before.Job.Worker))
	lost := watch.until(t, "JOB_REQUEUED")
	if !strings.Contains(lost.Job.Reason, "worker "+before.Job.Worker+" was lost") {
		t.Errorf("after the kill: %s", lost.Job.Reason)
	}
	watch.goesOn(t, lost)

	// The node of the other's is taken by somebody who has priority.
	watch = grpc.watch(first)
	before = watch.until(t, "JOB_CHECKPOINTED")
	node := cluster.Run("squeue", "--noheader", "--jobs="+workerTask(t, cluster, before.Job.Worker), "--format=%N")
	urgent := cluster.Run("sbatch", "--parsable", "--partition=high", "--nodelist="+node, "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 2")
	back := watch.until(t, "JOB_REQUEUED")
	if !strings.HasPrefix(back.Job.Reason, "handed back: ") || back.Job.LastCheckpoint.Step < before.Job.LastCheckpoint.Step {
		t.Errorf("after the preemption %+v, want it handed back", back.Job)
	}
	watch.goesOn(t, back)

	// The short ones end, and the long ones when somebody wants it: each once, with nothing left by an attempt that came later.
	for _, child := range children[:2] {
		watch := grpc.watch(child.Name)
		watch.until(t, "JOB_ENDED")
		watch.end(t)
	}
	grpc.call("surmise.v1.SweepService/CancelSweep", fmt.Sprintf(`{"name":%q}`, sweep.Name))
	for i, child := range children {
		watch := grpc.watch(child.Name)
		end := watch.until(t, "JOB_ENDED")
		watch.end(t) // nothing comes after it
		if want := []string{"SUCCEEDED", "SUCCEEDED", "CANCELLED", "CANCELLED"}[i]; end.Job.State != want {
			t.Errorf("%s ended as %+v, want %s", child.Name, end.Job, want)
		}
		attempts, err := filepath.Glob(filepath.Join(dir, "state", "artifacts", child.Name, "attempts", "*"))
		if err != nil || len(attempts) == 0 || filepath.Base(attempts[len(attempts)-1]) != end.Job.Epoch {
			t.Errorf("%s ended at epoch %s and left %v", child.Name, end.Job.Epoch, attempts)
		}
	}

	// Nobody stays for nothing, and no batch was started twice.
	for {
		if left := cluster.Run("squeue", "--noheader", "--partition=low"); left == "" {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("workers stay: %s", cluster.Run("squeue"))
		case <-time.After(100 * time.Millisecond): // Slurm tells nobody
		}
	}
	arrays := map[string]string{}
	for _, line := range strings.Split(cluster.Run("squeue", "--noheader", "--states=all", "--partition=low", "--format=%j %F"), "\n") {
		batch, array, _ := strings.Cut(line, " ")
		if first := arrays[batch]; first != "" && first != array {
			t.Errorf("batch %s is array %s and %s", batch, first, array)
		}
		arrays[batch] = array
	}
	if state := cluster.Run("squeue", "--noheader", "--states=all", "--jobs="+urgent, "--format=%T"); state != "COMPLETED" {
		t.Errorf("the urgent job is %s", state)
	}
	coordinator.terminate(t)
	coordinator.exited(t, 0)
}

// What is wrong with the cluster or the settings is told on the job, and submissions go on.
func TestSlurmSaysWhyAJobWaits(t *testing.T) {
	t.Parallel()
	cluster := slurmtest.Start(t)
	bin := build(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cluster.Run("scontrol", "update", "partitionname=low", "state=DOWN")
	settings := filepath.Join(dir, "slurm.json")
	write(t, settings, fmt.Sprintf(`{"interval": "1s", "min_backoff": "1s", "slurm": {"conf": %q}, "worker": {"command": ["/nowhere/surmise", "worker"]}, "pools": [
		{"name": "cpu", "max": 2, "cpus": 1},
		{"name": "broken", "max": 2, "cpus": 1, "labels": {"kind": "broken"}, "slurm": {"partition": "high"}},
		{"name": "gpu", "max": 2, "gpus": 1, "labels": {"kind": "gpu"}},
		{"name": "elsewhere", "max": 2, "labels": {"kind": "elsewhere"}, "slurm": {"partition": "nowhere"}}]}`, cluster.Conf))
	coordinator := start(t, bin.coordinator, "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state"),
		"--launcher", "slurm", "--launcher-config", settings)
	grpc := grpcurl{t, ctx, bin.grpcurl, strings.TrimPrefix(coordinator.line(t), "coordinator listens on ")}
	for kind, want := range map[string]string{
		"":          "1 worker of pool cpu in the queue of Slurm: PartitionDown",
		"broken":    "worker surmise-broken-1-0 ended: FAILED NonZeroExitCode; another is asked for at 2",
		"gpu":       "Slurm refuses a worker of pool gpu: sbatch: error: Invalid generic resource (gres) specification; asked again at 2",
		"elsewhere": "Slurm refuses a worker of pool elsewhere: sbatch: error: invalid partition specified: nowhere sbatch: error: Batch job submission failed: Invalid partition name specified; asked again at 2",
		"unheard":   "no pool of workers that Slurm may start has label kind=unheard",
	} {
		labels := ""
		if kind != "" {
			labels = fmt.Sprintf(`,"scheduling":{"needs":{"labels":{"kind":%q}}}`, kind)
		}
		name := grpc.submit(`{"train":{"data":["clips"]}` + labels + `}`)
		for {
			var got job
			decode(t, grpc.call("surmise.v1.JobService/GetJob", fmt.Sprintf(`{"name":%q}`, name)), &got)
			if strings.HasPrefix(got.Reason, "waiting: no worker is attached; "+want) {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("of kind %q waits as %q, want %q", kind, got.Reason, want)
			case <-time.After(50 * time.Millisecond): // a reason is no event
			}
		}
	}
	coordinator.terminate(t)
	coordinator.exited(t, 0)
}

// TestInprocLauncher: the same without a cluster.
func TestInprocLauncher(t *testing.T) {
	bin := build(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	videos, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 4, Pairs: 1, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	coordinator := start(t, bin.coordinator, "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state"), "--launcher", "inproc")
	grpc := grpcurl{t, ctx, bin.grpcurl, strings.TrimPrefix(coordinator.line(t), "coordinator listens on ")}
	for range 2 { // the second by the same worker, which has not left yet
		watch := grpc.watch(grpc.submit(fmt.Sprintf(`{"train":{"data":[%q],"steps":4,"batch":2,"threads":1,
			"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}}`, videos.ClipsDir)))
		if end := watch.until(t, "JOB_ENDED"); end.Job.State != "SUCCEEDED" {
			t.Errorf("ended as %+v", end.Job)
		}
		watch.end(t)
	}
	long := grpc.submit(fmt.Sprintf(`{"train":{"data":[%q],"steps":100000000,"batch":2,"threads":1,"checkpoint_every":20,
		"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}}`, videos.ClipsDir))
	watch := grpc.watch(long)
	watch.until(t, "JOB_CHECKPOINTED")
	coordinator.terminate(t) // its worker hands the job back first
	if back := watch.until(t, "JOB_REQUEUED"); !strings.HasPrefix(back.Job.Reason, "handed back") {
		t.Errorf("queued again: %s", back.Job.Reason)
	}
	coordinator.exited(t, 0)
	watch.broken(t)
	batches, err := filepath.Glob(filepath.Join(dir, "state", "launched", "surmise-cpu-*"))
	if err != nil || len(batches) != 1 {
		t.Errorf("started %v, want one batch", batches)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// jobs lists the jobs, newest first.
func (g grpcurl) jobs() []job {
	g.t.Helper()
	var list struct{ Jobs []job }
	decode(g.t, g.call("surmise.v1.JobService/ListJobs", `{}`), &list)
	return list.Jobs
}

// goesOn waits until another worker has a checkpoint that is further on, and ends the watch.
func (w *watching) goesOn(t *testing.T, from jobEvent) {
	t.Helper()
	again := w.until(t, "JOB_LEASED")
	next := w.until(t, "JOB_CHECKPOINTED")
	if next.Job.Epoch != again.Job.Epoch || again.Job.Epoch == from.Job.Epoch || next.Job.LastCheckpoint.Step <= from.Job.LastCheckpoint.Step {
		t.Errorf("after %+v it goes on as %+v with %+v", from.Job, again.Job, next.Job)
	}
	_ = w.cmd.Process.Kill() // it has seen enough
	_ = w.cmd.Wait()         // its error is the signal
}

// workerTask is Slurm's number of a worker that runs.
func workerTask(t *testing.T, cluster *slurmtest.Cluster, worker string) string {
	t.Helper()
	for _, line := range strings.Split(cluster.Run("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%j-%K %F_%K"), "\n") {
		if name, id, _ := strings.Cut(line, " "); name == worker {
			return id
		}
	}
	t.Fatalf("worker %s does not run", worker)
	return ""
}
