package launchtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// Prefix is that of the batches that the suite starts.
const Prefix = "lab"

// World is an engine under test, without workers of its prefix. Functions that are nil are what it cannot be made to do; the
// tests that need them are skipped, by name.
type World struct {
	// Prefix is that of the batches; "": Prefix.
	Prefix string
	// Open returns one more launcher on the engine, of this prefix, as a coordinator has that starts again.
	Open func(t *testing.T, prefix string) launch.Launcher
	// Hold keeps workers that are started from now on waiting, and Release lets them all run.
	Hold, Release func(t *testing.T)
	// Refuse makes the engine refuse to start anything, with these words in its answer, until Accept.
	Refuse func(t *testing.T, words string)
	Accept func(t *testing.T)
	// Fail makes a running worker fail, for a reason that the engine will tell.
	Fail func(t *testing.T, worker string)
	// Forget makes the engine forget a worker, wherever it is.
	Forget func(t *testing.T, worker string)
	// Reuse gives the engine's own id of a worker, which it has forgotten, to the work of somebody else.
	Reuse func(t *testing.T, worker string)
	// Step is called between two looks while the suite waits for something. It lets the engine act.
	Step func(t *testing.T)
	// TogetherOnly says that workers of one batch can only be stopped together.
	TogetherOnly bool
}

// patience ends a test that waits for what never comes.
const patience = 30 * time.Second

// Conformance runs the suite. open returns an engine of its own for each test.
func Conformance(t *testing.T, open func(t *testing.T) World) {
	for name, test := range map[string]func(*testing.T, *suite){
		"a batch is started once":                        startedOnce,
		"a batch is started once by several":             startedBySeveral,
		"a launcher that starts again lists the same":    listedAgain,
		"others' workers are not listed":                 othersUnlisted,
		"workers wait, with a reason, and then run":      slowStart,
		"a refusal has the engine's words":               refused,
		"a worker that fails is told from the others":    failed,
		"workers that wait are stopped":                  stoppedWaiting,
		"workers that run are stopped":                   stoppedRunning,
		"to stop what is not there is no error":          stoppedUnknown,
		"a forgotten name may come again":                forgotten,
		"an id that was given to others is not a worker": reused,
		"a call that is cancelled ends":                  cancelled,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{World: open(t)}
			if s.Prefix == "" {
				s.Prefix = Prefix
			}
			s.Launcher = s.Open(t, s.Prefix)
			test(t, s)
		})
	}
}

type suite struct {
	launch.Launcher
	World
}

// need skips a test of what the engine cannot be made to do.
func (s *suite) need(t *testing.T, name string, able bool) {
	t.Helper()
	if !able {
		t.Skipf("this engine cannot be made to %s", name)
	}
}

// Batch is a batch of Prefix.
func Batch(pool string, attempt, count int) launch.Batch {
	return launch.Batch{
		Name:  launch.BatchName{Prefix: Prefix, Pool: pool, Attempt: attempt},
		Shape: launch.Shape{CPUs: 1, Labels: map[string]string{"zone": "x"}}, Count: count, Idle: time.Minute,
	}
}

func (s *suite) batch(pool string, attempt, count int) launch.Batch {
	b := Batch(pool, attempt, count)
	b.Name.Prefix = s.Prefix
	return b
}

func (s *suite) start(t *testing.T, b launch.Batch) {
	t.Helper()
	if err := s.Start(t.Context(), b); err != nil {
		t.Fatalf("starting %s: %v", b.Name, err)
	}
}

// list is the workers by name; a name that comes twice fails the test.
func list(t *testing.T, l launch.Launcher) map[string]launch.Worker {
	t.Helper()
	workers, err := l.List(t.Context())
	if err != nil {
		t.Fatalf("listing: %v", err)
	}
	out := map[string]launch.Worker{}
	for _, w := range workers {
		if _, twice := out[w.Name]; twice {
			t.Fatalf("%s is listed twice: %v", w.Name, workers)
		}
		if w.State != launch.Waiting && w.State != launch.Running && w.State != launch.Ended {
			t.Fatalf("%v: unknown state", w)
		}
		out[w.Name] = w
	}
	return out
}

// await lists until the workers are as wanted.
func (s *suite) await(t *testing.T, l launch.Launcher, what string, good func(map[string]launch.Worker) bool) map[string]launch.Worker {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		got := list(t, l)
		if good(got) {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s, and there is %v", what, got)
		}
		if s.Step != nil {
			s.Step(t)
		}
	}
}

// alive names the workers that have not ended, sorted.
func alive(workers map[string]launch.Worker) (names []string) {
	for name, w := range workers {
		if w.State != launch.Ended {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func all(b launch.Batch, state launch.State) func(map[string]launch.Worker) bool {
	return func(got map[string]launch.Worker) bool {
		for i := range b.Count {
			if got[b.Worker(i)].State != state {
				return false
			}
		}
		return true
	}
}

func namesOf(batches ...launch.Batch) (names []string) {
	for _, b := range batches {
		for i := range b.Count {
			names = append(names, b.Worker(i))
		}
	}
	slices.Sort(names)
	return names
}

func (s *suite) wantAlive(t *testing.T, l launch.Launcher, want ...string) {
	t.Helper()
	if got := alive(list(t, l)); !slices.Equal(got, want) {
		t.Fatalf("alive are %v, want %v", got, want)
	}
}

func startedOnce(t *testing.T, s *suite) {
	b, single := s.batch("cpu", 1, 3), s.batch("cpu", 2, 1)
	s.start(t, b)
	s.start(t, single)
	s.start(t, b)
	fewer := b
	fewer.Count = 1
	if err := s.Open(t, s.Prefix).Start(t.Context(), fewer); err != nil {
		t.Errorf("started again by another, with fewer: %v", err)
	}
	s.await(t, s, "them to run", all(b, launch.Running))
	s.await(t, s, "the single one to run", all(single, launch.Running))
	s.wantAlive(t, s, namesOf(b, single)...)
}

func startedBySeveral(t *testing.T, s *suite) {
	b := s.batch("cpu", 1, 2)
	launchers := []launch.Launcher{s.Launcher, s.Open(t, s.Prefix), s.Open(t, s.Prefix)}
	errs := make([]error, len(launchers))
	var starting sync.WaitGroup
	for i, l := range launchers {
		starting.Go(func() { errs[i] = l.Start(t.Context(), b) })
	}
	starting.Wait()
	for _, err := range errs {
		if err != nil {
			t.Errorf("one of several: %v", err)
		}
	}
	s.await(t, s, "them to run", all(b, launch.Running))
	for _, l := range launchers {
		s.wantAlive(t, l, namesOf(b)...)
	}
}

func listedAgain(t *testing.T, s *suite) {
	b := s.batch("cpu", 1, 2)
	s.start(t, b)
	before := s.await(t, s, "them to run", all(b, launch.Running))
	after := list(t, s.Open(t, s.Prefix))
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("listed %v, and after a restart %v", before, after)
	}
}

func othersUnlisted(t *testing.T, s *suite) {
	for _, prefix := range []string{s.Prefix + "-two", "other"} {
		b := s.batch("cpu", 1, 1)
		b.Name.Prefix = prefix
		l := s.Open(t, prefix)
		if err := l.Start(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		s.await(t, l, "it to run", all(b, launch.Running))
	}
	if got := list(t, s); len(got) > 0 {
		t.Errorf("listed %v of other prefixes", got)
	}
}

func slowStart(t *testing.T, s *suite) {
	s.need(t, "hold workers back", s.Hold != nil)
	s.Hold(t)
	b := s.batch("cpu", 1, 2)
	s.start(t, b)
	got := s.await(t, s, "them to wait with a reason", func(got map[string]launch.Worker) bool {
		return all(b, launch.Waiting)(got) && got[b.Worker(0)].Reason != "" && got[b.Worker(1)].Reason != ""
	})
	t.Logf("they wait as %v", got)
	s.Release(t)
	s.await(t, s, "them to run", all(b, launch.Running))
}

func refused(t *testing.T, s *suite) {
	s.need(t, "refuse", s.Refuse != nil)
	const words = "quota of the project is used up"
	s.Refuse(t, words)
	b := s.batch("cpu", 1, 2)
	if err := s.Start(t.Context(), b); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("refused: %v, want its words, %q", err, words)
	}
	s.Accept(t)
	s.wantAlive(t, s)
	s.start(t, b)
	s.await(t, s, "them to run", all(b, launch.Running))
}

func failed(t *testing.T, s *suite) {
	s.need(t, "make a worker fail", s.Fail != nil)
	b := s.batch("cpu", 1, 2)
	s.start(t, b)
	s.await(t, s, "them to run", all(b, launch.Running))
	s.Fail(t, b.Worker(0))
	got := s.await(t, s, "one to fail", func(got map[string]launch.Worker) bool { return got[b.Worker(0)].State == launch.Ended })
	if w := got[b.Worker(0)]; !w.Failed || w.Reason == "" {
		t.Errorf("%v, want it failed with a reason", w)
	}
	s.wantAlive(t, s, b.Worker(1))
	s.start(t, b) // does not come again
	s.wantAlive(t, s, b.Worker(1))
}

// stop stops the first worker of b, or all where they must be stopped together, and returns those that go on.
func (s *suite) stop(t *testing.T, b launch.Batch) (others []string) {
	t.Helper()
	names := []string{b.Worker(0)}
	if s.TogetherOnly {
		if err := s.Stop(t.Context(), names); err != nil {
			t.Fatal(err)
		}
		s.wantAlive(t, s, namesOf(b)...) // some that live are not named
		names = namesOf(b)
	} else {
		others = namesOf(b)[1:]
	}
	if err := s.Stop(t.Context(), names); err != nil {
		t.Fatal(err)
	}
	got := s.await(t, s, "it to stop", func(got map[string]launch.Worker) bool { return slices.Equal(alive(got), others) })
	if w := got[b.Worker(0)]; w.Failed {
		t.Errorf("%v, though it was stopped", w)
	}
	return others
}

func stoppedWaiting(t *testing.T, s *suite) {
	s.need(t, "hold workers back", s.Hold != nil)
	s.Hold(t)
	b := s.batch("cpu", 1, 3)
	s.start(t, b)
	others := s.stop(t, b)
	s.Release(t)
	s.await(t, s, "the others to run", func(got map[string]launch.Worker) bool {
		for _, name := range others {
			if got[name].State != launch.Running {
				return false
			}
		}
		return true
	})
	s.wantAlive(t, s, others...)
}

func stoppedRunning(t *testing.T, s *suite) {
	b := s.batch("cpu", 1, 2)
	s.start(t, b)
	s.await(t, s, "them to run", all(b, launch.Running))
	s.stop(t, b)
}

func stoppedUnknown(t *testing.T, s *suite) {
	b := s.batch("cpu", 1, 1)
	s.start(t, b)
	s.await(t, s, "it to run", all(b, launch.Running))
	for _, names := range [][]string{nil, {s.batch("cpu", 9, 1).Worker(0)}, {b.Worker(7)}, {"other-cpu-1-0"}, {"no name"}} {
		if err := s.Stop(t.Context(), names); err != nil {
			t.Errorf("stopping %v: %v", names, err)
		}
	}
	s.wantAlive(t, s, namesOf(b)...)
	for range 2 {
		if err := s.Stop(t.Context(), namesOf(b)); err != nil {
			t.Error(err)
		}
		s.await(t, s, "it to stop", func(got map[string]launch.Worker) bool { return len(alive(got)) == 0 })
	}
}

func forgotten(t *testing.T, s *suite) {
	s.need(t, "forget", s.Forget != nil)
	b := s.batch("cpu", 1, 2)
	s.start(t, b)
	s.await(t, s, "them to run", all(b, launch.Running))
	s.Forget(t, b.Worker(0))
	s.await(t, s, "one to be gone", func(got map[string]launch.Worker) bool {
		_, there := got[b.Worker(0)]
		return !there
	})
	s.Forget(t, b.Worker(1))
	s.await(t, s, "both to be gone", func(got map[string]launch.Worker) bool { return len(got) == 0 })
	s.start(t, b)
	s.await(t, s, "new ones to run", all(b, launch.Running))
}

func reused(t *testing.T, s *suite) {
	s.need(t, "give an id to others", s.Reuse != nil)
	b := s.batch("cpu", 1, 1)
	s.start(t, b)
	s.await(t, s, "it to run", all(b, launch.Running))
	s.Reuse(t, b.Worker(0))
	if got := list(t, s); len(got) > 0 {
		t.Errorf("listed %v, whose id is another's now", got)
	}
	if err := s.Stop(t.Context(), namesOf(b)); err != nil {
		t.Errorf("stopping what is gone: %v", err)
	}
	s.start(t, b)
	s.await(t, s, "a new one to run", all(b, launch.Running))
}

func cancelled(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Start(ctx, s.batch("cpu", 1, 1)); err == nil {
		t.Error("Start: no error")
	}
	if _, err := s.List(ctx); err == nil {
		t.Error("List: no error")
	}
	if err := s.Stop(ctx, []string{s.batch("cpu", 1, 1).Worker(0)}); err == nil {
		t.Error("Stop: no error")
	}
	s.wantAlive(t, s)
}
