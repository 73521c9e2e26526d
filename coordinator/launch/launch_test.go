package launch_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// These tests run in bubbles of fake time, with an engine in memory and a queue that the test fills.

// jobs is a queue.
type jobs struct {
	mu sync.Mutex
	d  queue.Demand
}

func (j *jobs) Demand(context.Context, int) (queue.Demand, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return queue.Demand{Waiting: slices.Clone(j.d.Waiting), Busy: slices.Clone(j.d.Busy)}, nil
}

func (j *jobs) set(busy []string, waiting ...queue.Waiting) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.d = queue.Demand{Waiting: waiting, Busy: busy}
}

func plain(n int) queue.Waiting { return queue.Waiting{Jobs: n} }

func gpus(n, jobs int) queue.Waiting {
	return queue.Waiting{Needs: queue.Needs{GPUs: n}, Jobs: jobs}
}

var twoPools = launch.Settings{Prefix: "lab", Pools: []launch.Pool{
	{Name: "cpu", Max: 4},
	{Name: "gpu", Max: 2, Shape: launch.Shape{GPUs: 1, Memory: 1 << 30, Labels: map[string]string{"zone": "x"}}},
}}

// bench is a reconciler under test.
type bench struct {
	*launchtest.Memory
	t     *testing.T
	queue *jobs
	r     *launch.Reconciler
	again func() *launch.Reconciler // one more on the same engine and queue, as after a restart or beside it
}

func inBubble(t *testing.T, s launch.Settings, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		b := &bench{Memory: launchtest.NewMemory(), t: t, queue: &jobs{}}
		b.again = func() *launch.Reconciler {
			r, err := launch.New(s, b.Launcher(s.Prefix), nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
			if err != nil {
				t.Fatal(err)
			}
			running.Go(func() { r.Run(ctx, b.queue) })
			return r
		}
		b.r = b.again()
		synctest.Wait()
		test(b)
	})
}

// after lets so much time pass.
func (b *bench) after(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func (b *bench) wantAlive(want ...string) {
	b.t.Helper()
	if got := b.Alive(); !slices.Equal(got, want) {
		b.t.Fatalf("workers %v, want %v", got, want)
	}
}

func (b *bench) wantReason(n queue.Needs, want string) {
	b.t.Helper()
	if got := b.r.Explain(n); !strings.Contains(got, want) || want == "" && got != "" {
		b.t.Fatalf("explains %q, want %q", got, want)
	}
}

func TestWorkersAreStartedAsJobsWait(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.wantAlive()
		b.queue.set(nil, plain(2), gpus(1, 1))
		b.r.Wake()
		b.after(time.Second)
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1", "lab-gpu-1-0")
		got, _ := b.Batch("lab-gpu-1")
		want := "--gpus=1 --memory=1073741824 --label=zone=x --exit-when-idle=1m0s"
		if flags := strings.Join(got.Flags(), " "); flags != want {
			t.Errorf("flags %q, want %q", flags, want)
		}
		b.after(time.Minute) // they are on their way: no more of them
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1", "lab-gpu-1-0")

		b.queue.set([]string{"lab-cpu-1-0", "lab-cpu-1-1", "elsewhere"}, plain(9))
		b.after(10 * time.Second)
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1", "lab-gpu-1-0", "lab-cpu-2-0", "lab-cpu-2-1")
		b.queue.set(b.Alive(), plain(7))
		b.after(10 * time.Second)
		b.wantReason(queue.Needs{}, "pool cpu has all 4 workers that it may have")
		b.wantReason(queue.Needs{GPUs: 8}, "no pool of workers that Memory may start has 8 GPUs")
	})
}

func TestARestartStartsNoDuplicates(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.queue.set(nil, plain(3))
		b.Hold("Resources")
		b.after(10 * time.Second)
		b.again()
		b.again()
		b.after(time.Minute)
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1", "lab-cpu-1-2")
		b.wantReason(queue.Needs{}, "3 workers of pool cpu in the queue of Memory: Resources")
	})
}

func TestCoordinatorsThatLookAtOnceStartOneBatch(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		second := b.again()
		synctest.Wait()
		b.queue.set(nil, plain(2))
		b.r.Wake()
		second.Wake()
		b.after(time.Second)
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1")
	})
}

func TestARefusalIsToldAndAskedLessAndLess(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.Refuse(errors.New("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"))
		b.queue.set(nil, plain(1))
		b.r.Wake()
		b.after(time.Second)
		b.wantReason(queue.Needs{}, "Memory refuses a worker of pool cpu: sbatch: error: Batch job submission failed: Job violates accounting/QOS policy; asked again at 2000-01-01T00:00:06Z")
		b.after(time.Hour)
		if starts, _ := b.Starts(); starts < 12 || starts > 22 {
			t.Errorf("asked %d times in an hour, want about every five minutes in the end", starts)
		}
		b.Refuse(nil)
		b.after(5*time.Minute + 10*time.Second)
		b.wantAlive("lab-cpu-1-0")
		b.wantReason(queue.Needs{}, "1 worker of pool cpu running in Memory without a job")
	})
}

func TestARefusalOfMoreLeavesThoseAtWork(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.queue.set(nil, plain(1))
		b.after(10 * time.Second)
		b.queue.set(b.Alive(), plain(5))
		b.Refuse(errors.New("quota"))
		before, _ := b.Starts()
		b.after(time.Hour)
		if starts, _ := b.Starts(); starts-before > 22 {
			t.Errorf("asked %d times in an hour while one worker works", starts-before)
		}
		b.wantReason(queue.Needs{}, "quota")
	})
}

func TestAnEngineThatDoesNotAnswer(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.Silence(errors.New("squeue: error: Unable to contact slurm controller"))
		b.queue.set(nil, plain(1))
		b.after(10 * time.Second)
		b.wantReason(queue.Needs{}, "Memory does not answer: squeue: error: Unable to contact slurm controller; asked again at")
		_, before := b.Starts()
		b.after(time.Hour)
		if _, lists := b.Starts(); lists-before > 22 {
			t.Errorf("asked %d times in an hour", lists-before)
		}
		b.Silence(nil)
		b.after(5*time.Minute + 10*time.Second)
		b.wantAlive("lab-cpu-1-0")
	})
}

func TestWorkersThatComeToNothingAreNotReplacedForEver(t *testing.T) {
	for name, end := range map[string]func(b *bench, name string){
		"failed": func(b *bench, name string) { b.End(name, true, "exit code 127") },
		"gone":   func(b *bench, name string) { b.Forget(name) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, twoPools, func(b *bench) {
				b.queue.set(nil, plain(1))
				for range 360 { // an hour
					b.after(10 * time.Second)
					for _, name := range b.Alive() {
						end(b, name)
					}
				}
				if starts, _ := b.Starts(); starts < 12 || starts > 30 {
					t.Errorf("%d workers in an hour", starts)
				}
				b.after(10 * time.Second)
				if got := b.r.Explain(queue.Needs{}); name == "failed" && !strings.Contains(got, "ended: exit code 127; another is asked for at") || name == "gone" && !strings.Contains(got, "is gone from Memory") {
					t.Errorf("explains %q", got)
				}
			})
		})
	}
}

func TestAWorkerThatWorkedIsReplacedAtOnce(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.queue.set(nil, plain(1))
		b.after(10 * time.Second)
		b.queue.set([]string{"lab-cpu-1-0"})
		b.after(10 * time.Second)
		b.End("lab-cpu-1-0", true, "NODE_FAIL")
		b.queue.set(nil, plain(1))
		b.after(10 * time.Second)
		b.wantAlive("lab-cpu-2-0")
	})
}

func TestWhatWaitsForNothingIsTakenBack(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.Hold("Priority")
		b.queue.set(nil, plain(4))
		b.after(10 * time.Second)
		b.queue.set(nil, plain(1)) // the others were cancelled
		b.after(50 * time.Second)
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1", "lab-cpu-1-2", "lab-cpu-1-3")
		b.after(30 * time.Second)
		b.wantAlive("lab-cpu-1-0")
		b.wantReason(queue.Needs{}, "1 worker of pool cpu in the queue of Memory: Priority")
	})
}

func TestSomeAreKept(t *testing.T) {
	s := launch.Settings{Prefix: "lab", Pools: []launch.Pool{{Name: "cpu", Min: 2, Max: 3}}}
	inBubble(t, s, func(b *bench) {
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1")
		if kept, _ := b.Batch("lab-cpu-1"); kept.Idle != 0 {
			t.Errorf("they exit after %v", kept.Idle)
		}
		b.queue.set(b.Alive(), plain(3))
		b.after(10 * time.Second)
		b.wantAlive("lab-cpu-1-0", "lab-cpu-1-1", "lab-cpu-2-0")
		if more, _ := b.Batch("lab-cpu-2"); more.Idle != time.Minute {
			t.Errorf("those beyond exit after %v", more.Idle)
		}
	})
}

func TestAnEngineIsLeftAloneWhenNothingIsWanted(t *testing.T) {
	inBubble(t, twoPools, func(b *bench) {
		b.after(time.Hour)
		if _, lists := b.Starts(); lists != 1 {
			t.Errorf("asked %d times, want once at the start", lists)
		}
	})
}

func TestBatchesAreBounded(t *testing.T) {
	s := launch.Settings{Prefix: "lab", Pools: []launch.Pool{{Name: "cpu", Max: 2500}}}
	inBubble(t, s, func(b *bench) {
		b.queue.set(nil, plain(5000))
		b.after(10 * time.Second)
		for name, want := range map[string]int{"lab-cpu-1": 1000, "lab-cpu-2": 1000, "lab-cpu-3": 500} {
			if got, _ := b.Batch(name); got.Count != want {
				t.Errorf("%s has %d workers, want %d", name, got.Count, want)
			}
		}
	})
}

func TestNames(t *testing.T) {
	n := launch.BatchName{Prefix: "my-lab", Pool: "gpu", Attempt: 12}
	if got, index, ok := launch.ParseWorker("my-lab", n.Worker(3)); got != n || index != 3 || !ok {
		t.Errorf("%s is read as %v, %d, %t", n.Worker(3), got, index, ok)
	}
	for _, name := range []string{"", "my-lab", "my-lab-gpu", "my-lab-gpu-12", "my-lab-gpu-0-1", "my-lab-gpu-1-01", "my-lab-gpu-1--1",
		"my-lab-g.u-1-1", "my-lab-gpu-x-1", "your-lab-gpu-1-1", "my-labgpu-1-1", "my-lab-gpu-1-99999999999999999999"} {
		if got, _, ok := launch.ParseWorker("my-lab", name); ok {
			t.Errorf("%q is read as %v", name, got)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	good := launch.Pool{Name: "cpu", Max: 1}
	for want, s := range map[string]launch.Settings{
		`prefix "Lab"`:                  {Prefix: "Lab", Pools: []launch.Pool{good}},
		"0 pools":                       {Prefix: "lab"},
		`pools[1]: name "cpu" is taken`: {Prefix: "lab", Pools: []launch.Pool{good, good}},
		"pools[0]: max 0":               {Prefix: "lab", Pools: []launch.Pool{{Name: "cpu"}}},
		"pools[0]: min 2":               {Prefix: "lab", Pools: []launch.Pool{{Name: "cpu", Min: 2, Max: 1}}},
		`pools[0]: name "a-b"`:          {Prefix: "lab", Pools: []launch.Pool{{Name: "a-b", Max: 1}}},
		"pools[0]: gpus -1":             {Prefix: "lab", Pools: []launch.Pool{{Name: "cpu", Max: 1, Shape: launch.Shape{GPUs: -1}}}},
		"idle -1s is negative":          {Prefix: "lab", Pools: []launch.Pool{good}, Idle: -time.Second},
		"max_backoff 1s is below":       {Prefix: "lab", Pools: []launch.Pool{good}, MaxBackoff: time.Second},
	} {
		if _, err := launch.New(s, launchtest.NewMemory().Launcher("lab"), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWordsAreBounded(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\x1b[31m\nc  d": "a b [31m c d", "\xff": "\uFFFD", "": "",
	} {
		if got := launch.Words(in); got != want {
			t.Errorf("Words(%q) = %q, want %q", in, got, want)
		}
	}
	if got := launch.Words(strings.Repeat("é", 1<<20)); len(got) > 510 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestConformanceOfTheEngineInMemory(t *testing.T) {
	launchtest.Conformance(t, func(*testing.T) launchtest.World {
		m := launchtest.NewMemory()
		return launchtest.World{
			Open:    func(_ *testing.T, prefix string) launch.Launcher { return m.Launcher(prefix) },
			Hold:    func(*testing.T) { m.Hold("Resources") },
			Release: func(*testing.T) { m.Release() },
			Refuse:  func(_ *testing.T, words string) { m.Refuse(errors.New(words)) },
			Accept:  func(*testing.T) { m.Refuse(nil) },
			Fail:    func(_ *testing.T, name string) { m.End(name, true, "exit code 1") },
			Forget:  func(_ *testing.T, name string) { m.Forget(name) },
		}
	})
}
