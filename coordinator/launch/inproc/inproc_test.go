package inproc

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
)

// asWorker makes this test binary a worker: it runs until SIGTERM, fails on SIGUSR1 and says who it is.
const asWorker = "SURMISE_TEST_AS_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) != "" {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println(strings.Join(os.Args[1:], " "))
		if <-stop == syscall.SIGUSR1 {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir, prefix string) *Launcher {
	t.Helper()
	t.Setenv(asWorker, "1")
	l, err := New(Options{Prefix: prefix, Program: []string{os.Args[0], "worker"}, Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func pid(t *testing.T, dir, worker string) int {
	t.Helper()
	batch, i, _ := launch.ParseWorker(launchtest.Prefix, worker)
	text, err := os.ReadFile(filepath.Join(dir, batch.String(), fmt.Sprint(i)+lockSuffix))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitLine waits for a worker to be ready for signals.
func awaitLine(t *testing.T, dir, worker string) string {
	t.Helper()
	batch, i, _ := launch.ParseWorker(launchtest.Prefix, worker)
	for {
		text, _ := os.ReadFile(filepath.Join(dir, batch.String(), fmt.Sprint(i)+outSuffix)) // empty at first
		if line, _, whole := strings.Cut(string(text), "\n"); whole {
			return line
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(5 * time.Millisecond): // a file tells nobody
		}
	}
}

func TestConformance(t *testing.T) {
	launchtest.Conformance(t, func(t *testing.T) launchtest.World {
		dir := t.TempDir()
		return launchtest.World{
			Open: func(t *testing.T, prefix string) launch.Launcher { return open(t, dir, prefix) },
			Fail: func(t *testing.T, worker string) {
				awaitLine(t, dir, worker)
				if err := syscall.Kill(pid(t, dir, worker), syscall.SIGUSR1); err != nil {
					t.Fatal(err)
				}
			},
			Step: func(*testing.T) { time.Sleep(5 * time.Millisecond) }, // processes tell nobody but the one that started them
		}
	})
}

func TestAWorkerIsTold(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, launchtest.Prefix)
	if err := l.Start(t.Context(), launchtest.Batch("cpu", 1, 2)); err != nil {
		t.Fatal(err)
	}
	if got, want := awaitLine(t, dir, "lab-cpu-1-1"), "worker --label=zone=x --exit-when-idle=1m0s --name=lab-cpu-1-1"; got != want {
		t.Errorf("run as %q, want %q", got, want)
	}
}

// A coordinator that is killed leaves its workers alone, and the next one finds them.
func TestWorkersOutliveALauncherThatIsNotClosed(t *testing.T) {
	dir := t.TempDir()
	killed := open(t, dir, launchtest.Prefix)
	if err := killed.Start(t.Context(), launchtest.Batch("cpu", 1, 1)); err != nil {
		t.Fatal(err)
	}
	next := open(t, dir, launchtest.Prefix)
	got, err := next.List(t.Context())
	if err != nil || len(got) != 1 || got[0].State != launch.Running {
		t.Fatalf("listed %v, %v", got, err)
	}
	next.Close() // not its own
	if got, err := next.List(t.Context()); err != nil || got[0].State != launch.Running {
		t.Fatalf("after another launcher was closed: %v, %v", got, err)
	}
	awaitLine(t, dir, "lab-cpu-1-0")
	killed.Close()
	if got, err := next.List(t.Context()); err != nil || got[0].State != launch.Ended || got[0].Failed {
		t.Errorf("after its launcher was closed: %v, %v", got, err)
	}
	if err := killed.Start(t.Context(), launchtest.Batch("cpu", 2, 1)); err == nil {
		t.Error("a closed launcher starts workers")
	}
}

func TestAProgramThatIsNotThere(t *testing.T) {
	l, err := New(Options{Prefix: "lab", Program: []string{"/nowhere/surmise"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 { // it may be tried again
		if err := l.Start(t.Context(), launchtest.Batch("cpu", 1, 1)); err == nil || !strings.Contains(err.Error(), "/nowhere/surmise: no such file") {
			t.Errorf("got %v", err)
		}
	}
}

func TestOldBatchesAreForgotten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, launchtest.Prefix)
	for _, attempt := range []int{1, 2} {
		if err := l.Start(t.Context(), launchtest.Batch("cpu", attempt, 1)); err != nil {
			t.Fatal(err)
		}
	}
	awaitLine(t, dir, "lab-cpu-2-0")
	if err := l.Stop(t.Context(), []string{"lab-cpu-2-0"}); err != nil {
		t.Fatal(err)
	}
	for { // how it ended is noted last
		_, err := os.Stat(filepath.Join(dir, "lab-cpu-2", "0"+endSuffix))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || t.Context().Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := l.Start(t.Context(), launchtest.Batch("cpu", 200, 1)); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "lab-cpu-*"))
	if err != nil || len(left) != 2 || filepath.Base(left[0]) != "lab-cpu-1" {
		t.Errorf("left are %v (%v), want the one that lives and the new one", left, err)
	}
}
