package slurm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
)

func TestWhatIsSubmitted(t *testing.T) {
	c := newController()
	l := c.launcher(t, "lab")
	l.o.Pools = map[string]Job{"gpu": {Partition: "accelerated", GRES: "gpu:a100", Extra: []string{"--exclusive"}}}
	l.o.Job = Job{Partition: "low", Account: "physics", QOS: "normal", TimeLimit: 90 * time.Minute, SignalBefore: 5 * time.Minute}
	l.o.Output, l.o.Dir, l.o.Env = "/shared/%x.out", "/shared", []string{"HTTPS_PROXY"}
	b := launchtest.Batch("gpu", 3, 2)
	b.Shape = launch.Shape{GPUs: 2, CPUs: 8, Memory: 1<<30 + 1, DataRoots: []string{"/data"}}
	if err := l.Start(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want := "sbatch --parsable --hold --job-name=lab-gpu-3 --comment=surmise lab-gpu-3 --array=0-1 --nodes=1 --ntasks=1 --requeue" +
		" --open-mode=append --export=PATH,HOME,USER,LANG,TZ,HTTPS_PROXY --partition=accelerated --account=physics --qos=normal" +
		" --output=/shared/%x.out --chdir=/shared --cpus-per-task=8 --mem=1025M --gres=gpu:a100:2 --time=90 --signal=B:TERM@300" +
		" --exclusive /dev/stdin lab-gpu-3 /opt/surmise worker --coordinator=head:7433 --gpus=2 --memory=1073741825" +
		" --data-root=/data --exit-when-idle=1m0s"
	if !slices.Contains(c.ran, want) {
		t.Errorf("ran\n%s\nwant\n%s", strings.Join(c.ran, "\n"), want)
	}
	if c.jobs[0].stdin != l.o.Script {
		t.Errorf("the script is %q", c.jobs[0].stdin)
	}
	if last := c.ran[len(c.ran)-1]; last != "scontrol release 1" {
		t.Errorf("last ran %q", last)
	}
}

// A coordinator that is killed between any two commands leaves what another one can go on from.
func TestAKilledStartIsSettledByTheNextLook(t *testing.T) {
	for killedAt := range 4 {
		t.Run(fmt.Sprint(killedAt), func(t *testing.T) {
			c := newController()
			calls := 0
			c.before = func(string) {
				if calls++; calls > killedAt {
					panic("killed")
				}
			}
			b := launchtest.Batch("cpu", 1, 2)
			func() {
				defer func() { _ = recover() }()
				_ = c.launcher(t, "lab").Start(t.Context(), b)
			}()
			c.before = nil
			l := c.launcher(t, "lab")
			found, err := l.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want := 2; killedAt < 2 && len(found) != 0 || killedAt >= 2 && len(found) != want {
				t.Errorf("found %v", found)
			}
			if err := l.Start(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			for _, j := range c.jobs {
				if j.state != "RUNNING" || len(c.jobs) != 2 {
					t.Errorf("%d jobs, one of which is %+v", len(c.jobs), j)
				}
			}
		})
	}
}

func TestOfTwoArraysTheFirstStays(t *testing.T) {
	c := newController()
	a, b := c.launcher(t, "lab"), c.launcher(t, "lab")
	batch := launchtest.Batch("cpu", 1, 2)
	var interrupted bool
	c.before = func(command string) {
		if command == "sbatch" && !interrupted { // both have seen that there is none
			interrupted = true
			c.before = nil
			c.next = 4_000_000_000 // the later one has the smaller number: they began again
			if err := b.Start(t.Context(), batch); err != nil {
				t.Error(err)
			}
			c.next = 7
		}
	}
	if err := a.Start(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for _, j := range c.jobs {
		if want := map[uint32]string{4_000_000_000: "RUNNING", 7: "CANCELLED"}[j.array]; j.state != want {
			t.Errorf("task %d_%d is %s, want %s", j.array, j.index, j.state, want)
		}
	}
	for _, l := range []*Launcher{a, b} {
		if got, err := l.List(t.Context()); err != nil || len(got) != 2 || got[0].State != launch.Running {
			t.Errorf("listed %v, %v", got, err)
		}
	}
}

// Slurm keeps one line for what was cancelled of an array before it ran. Its attempt must not come again: sbatch would not
// be asked, as it is known.
func TestACancelledArrayIsRemembered(t *testing.T) {
	c := newController()
	c.foreign = []string{"4|N/A|CANCELLED|1900000000|None|lab-cpu-3|surmise lab-cpu-3"}
	got, err := c.launcher(t, "lab").List(t.Context())
	if err != nil || len(got) != 1 || got[0].Name != "lab-cpu-3-0" || got[0].State != launch.Ended || got[0].Failed {
		t.Errorf("listed %v, %v", got, err)
	}
}

func TestTheAccountingKnowsWhatSqueueForgot(t *testing.T) {
	c := newController()
	c.accounts = []fakeJob{
		{array: 1, index: 0, submitted: 1_900_000_001, name: "lab-cpu-1", state: "OUT_OF_MEMORY", exit: "0:125"},
		{array: 1, index: 0, submitted: 1_800_000_000, name: "lab-cpu-1", state: "COMPLETED", exit: "0:0"}, // of that name, long ago
		{array: 1, index: 1, submitted: 1_900_000_001, name: "lab-cpu-1", state: "CANCELLED by 1000", exit: "0:0"},
		{array: 1, index: 2, submitted: 1_900_000_001, name: "lab-cpu-1", state: "COMPLETED", exit: "0:0"},
	}
	l := c.launcher(t, "lab")
	if err := l.Start(t.Context(), launchtest.Batch("cpu", 1, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.forget("lab-cpu-1-0")
	c.forget("lab-cpu-1-1")
	for range 3 {
		got, err := l.List(t.Context())
		want := "[lab-cpu-1-0 ended, failed (OUT_OF_MEMORY exit code 0:125) lab-cpu-1-1 ended (CANCELLED)]"
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("listed %v, %v; want %s", got, err, want)
		}
	}
	asked := 0
	for _, command := range c.ran {
		if strings.HasPrefix(command, "sacct ") {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the accounting was asked %d times, want once", asked)
	}
}

func TestWithoutAccountingTheyAreGone(t *testing.T) {
	c := newController()
	l := c.launcher(t, "lab")
	for attempt := range 2 {
		b := launchtest.Batch("cpu", attempt+1, 1)
		if err := l.Start(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if _, err := l.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.forget(b.Worker(0))
		if got, err := l.List(t.Context()); err != nil || len(got) != 0 {
			t.Errorf("listed %v, %v", got, err)
		}
	}
	if n := strings.Count(strings.Join(c.ran, "\n"), "sacct "); n != 1 {
		t.Errorf("the accounting, which is disabled, was asked %d times", n)
	}
}

func TestStates(t *testing.T) {
	for state, want := range map[string]launch.Worker{
		"PENDING": {State: launch.Waiting, Reason: "Priority"}, "CONFIGURING": {State: launch.Waiting, Reason: "CONFIGURING Priority"},
		"RUNNING": {State: launch.Running}, "COMPLETING": {State: launch.Running}, "SUSPENDED": {State: launch.Running},
		"COMPLETED": {State: launch.Ended, Reason: "COMPLETED Priority"}, "TIMEOUT": {State: launch.Ended, Reason: "TIMEOUT Priority"},
		"NODE_FAIL": {State: launch.Ended, Failed: true, Reason: "NODE_FAIL Priority"}, "A_NEW_ONE": {State: launch.Running},
	} {
		want.Name = "w"
		if got := (task{state: state, reason: "Priority"}).worker("w"); got != want {
			t.Errorf("%s is %v, want %v", state, got, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Prefix: "lab", Program: []string{"surmise", "worker"}, Script: "#!/bin/sh\n"}
	for want, change := range map[string]func(*Options){
		"prefix":                   func(o *Options) { o.Prefix = "" },
		"Program is empty":         func(o *Options) { o.Program = nil },
		"does not begin with #!":   func(o *Options) { o.Script = "echo" },
		`env "A=b"`:                func(o *Options) { o.Env = []string{"A=b"} },
		`partition "a b"`:          func(o *Options) { o.Job.Partition = "a b" },
		"Slurm counts in minutes":  func(o *Options) { o.Job.TimeLimit = time.Second },
		"is not before the time":   func(o *Options) { o.Job = Job{TimeLimit: time.Minute, SignalBefore: time.Minute} },
		`pool gpu: extra "--hold"`: func(o *Options) { o.Pools = map[string]Job{"gpu": {Extra: []string{"--hold"}}} },
		"pool cpu: signal_before 10m": func(o *Options) {
			o.Job = Job{SignalBefore: 10 * time.Minute}
			o.Pools = map[string]Job{"cpu": {TimeLimit: 5 * time.Minute}} // as the two are merged
		},
		`extra "--array=0-9"`:         func(o *Options) { o.Job.Extra = []string{"--array=0-9"} },
		`extra "-J"`:                  func(o *Options) { o.Job.Extra = []string{"-J"} },
		`extra "exclusive" is not an`: func(o *Options) { o.Job.Extra = []string{"exclusive"} },
		"want one of sbatch":          func(o *Options) { o.Bin = map[string]string{"sbatch": "sbatch"} },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"PATH=/bin", "SLURM_CONF=/etc/slurm.conf", "SLURM_JOB_ID=3", "SQUEUE_FORMAT=%i", "SBATCH_ACCOUNT=physics", "LC_ALL=de_DE"})
	want := []string{"PATH=/bin", "SLURM_CONF=/etc/slurm.conf", "SBATCH_ACCOUNT=physics", "LC_ALL=C", "SLURM_TIME_FORMAT=%s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommandsAreBounded(t *testing.T) {
	run, err := newShell(map[string]string{"squeue": "/bin/sh"}, "/etc/other.conf")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run.run(t.Context(), "in", "squeue", "-c", "cat; echo out $SLURM_TIME_FORMAT $SLURM_CONF"); err != nil || string(out) != "inout %s /etc/other.conf\n" {
		t.Errorf("printed %q, %v", out, err)
	}
	if _, err := run.run(t.Context(), "", "squeue", "-c", "head -c 40000000 /dev/zero"); err == nil || !strings.Contains(err.Error(), "more than 33554432 bytes") {
		t.Errorf("after 40 MB: %v", err)
	}
	if _, err := run.run(t.Context(), "", "squeue", "-c", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1"); err == nil || err.Error() != "squeue: error: Unable to contact slurm controller" {
		t.Errorf("got %v", err)
	}
	if _, err := run.run(t.Context(), "", "sbatch-that-is-not-there"); err == nil || !strings.Contains(err.Error(), "sbatch-that-is-not-there") {
		t.Errorf("without the command: %v", err)
	}
}

func FuzzSqueue(f *testing.F) {
	f.Add([]byte("1|0|PENDING|1795672569|JobHeldUser|lab-cpu-1|surmise lab-cpu-1\n"))
	f.Add([]byte("4|N/A|CANCELLED|1795672569|None|lab-cpu-12|surmise lab-cpu-12\n3|3|N/A|x|y|z|(null)\n"))
	f.Add([]byte("1|0|RUNNING|1|a|b\nc|lab-cpu-1|surmise lab-cpu-1"))
	f.Add([]byte("x|0|RUNNING|1||lab-cpu-1|surmise lab-cpu-1\n\n||||||"))
	f.Fuzz(func(t *testing.T, out []byte) {
		tasks, err := parseSqueue("lab", out)
		if err != nil {
			if len(tasks) > 0 {
				t.Errorf("%d tasks beside %v", len(tasks), err)
			}
			return
		}
		byBatch := map[string][]task{}
		for _, task := range tasks {
			if _, ok := launch.ParseBatch("lab", task.batch); !ok || len(task.reason) > 600 {
				t.Errorf("task %+v", task)
			}
			byBatch[task.batch] = append(byBatch[task.batch], task)
		}
		for batch, tasks := range byBatch {
			workers := batchWorkers(batch, tasks)
			if len(workers) == 0 {
				t.Errorf("no worker of %v", tasks)
			}
			for _, w := range workers {
				if _, _, ok := launch.ParseWorker("lab", w.Name); !ok && !strings.HasSuffix(w.Name, fmt.Sprint(1<<31-1)) && len(w.Name) < 24 {
					t.Errorf("worker %v", w)
				}
			}
		}
	})
}

func FuzzSacct(f *testing.F) {
	f.Add([]byte("1_0|1795672569|NODE_FAIL|1:0|lab-cpu-1\n1_1|1795672569|CANCELLED by 0|0:0|lab-cpu-1\n"))
	f.Add([]byte("1_[0-4]|Unknown|PENDING|0:0|lab-cpu-1\n7|1|COMPLETED|0:0|x\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		asked := map[string]bool{"lab-cpu-1-0": true, "lab-cpu-1-1": true}
		for _, w := range parseSacct("lab", out, asked) {
			if !asked[w.Name] || w.State != launch.Ended || len(w.Reason) > 600 {
				t.Errorf("worker %v", w)
			}
		}
	})
}

// A site may change the comments of all jobs, for its accounts. The array is not ours then, and must not stay on hold.
func TestACommentOfTheSite(t *testing.T) {
	c := newController()
	l := c.launcher(t, "surmise")
	c.before = func(string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, j := range c.jobs {
			j.comment = "billing:lab7"
		}
	}
	err := l.Start(t.Context(), launch.Batch{Name: launch.BatchName{Prefix: "surmise", Pool: "cpu", Attempt: 1}, Count: 2})
	if err == nil || !strings.Contains(err.Error(), "job_submit plugin") {
		t.Errorf("got %v, want an error that says what may be wrong", err)
	}
	if len(c.jobs) != 2 {
		t.Errorf("%d tasks, want 2", len(c.jobs))
	}
	for _, j := range c.jobs {
		if j.state != "CANCELLED" {
			t.Errorf("task %d_%d is %s, want it cancelled", j.array, j.index, j.state)
		}
	}
}
