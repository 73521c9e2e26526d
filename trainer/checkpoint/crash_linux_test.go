package checkpoint

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests here run this test binary again as a child that saves checkpoints and is killed, or that
// runs out of disk. childTask says what the child does, childDir where.
const (
	childTask = "SURMISE_CHECKPOINT_CHILD"
	childDir  = "SURMISE_CHECKPOINT_DIR"
)

func TestMain(m *testing.M) {
	tasks := map[string]func(dir string) error{"train": train, "full disk": fillDisk, "size limit": hitSizeLimit}
	task, ok := tasks[os.Getenv(childTask)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := task(os.Getenv(childDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(t *testing.T, task, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childTask+"="+task, childDir+"="+dir)
	return cmd
}

// train saves a checkpoint of every step for ever, from the latest on, and prints each step once it is saved.
func train(dir string) error {
	step := 0
	switch c, ok, err := Latest(dir); {
	case err != nil:
		return err
	case ok:
		step = c.Manifest.Step
	}
	for {
		step++
		m, model, optimizer := state(step)
		if _, err := Save(dir, m, model, optimizer); err != nil {
			return err
		}
		fmt.Println(step)
		if err := Prune(dir, 2); err != nil {
			return err
		}
	}
}

// Whatever the moment of the kill, the newest checkpoint that was reported as saved, or a later one, loads.
func TestKillWhileSaving(t *testing.T) {
	dir := t.TempDir()
	reported, interrupted := 0, 0
	for round := range 40 {
		cmd := child(t, "train", dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		if !lines.Scan() {
			t.Fatalf("round %d: the child saved nothing: %s", round, stderr.String())
		}
		first := lines.Text()
		// A random moment is what this test is about: nothing is waited for. A save takes some milliseconds.
		time.Sleep(time.Duration(rand.Int64N(int64(8 * time.Millisecond))))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		last := first
		for lines.Scan() {
			last = lines.Text()
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("round %d: the child ended by itself", round)
		}
		if reported, err = strconv.Atoi(last); err != nil {
			t.Fatalf("round %d: the child printed %q: %s", round, last, stderr.String())
		}
		if slices.ContainsFunc(names(t, dir), func(n string) bool { return strings.HasPrefix(n, tempPrefix) }) {
			interrupted++
		}
		c, ok, err := Latest(dir)
		if err != nil || !ok {
			t.Fatalf("round %d: nothing to resume from after step %d: %v", round, reported, err)
		}
		if err := check(c); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if c.Manifest.Step < reported {
			t.Fatalf("round %d: step %d was reported as saved, the latest is %d", round, reported, c.Manifest.Step)
		}
	}
	t.Logf("killed 40 times, %d of them while saving or removing; reached step %d", interrupted, reported)
	if interrupted == 0 {
		t.Error("no kill met a save: this run has shown nothing")
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, dir) {
		if _, err := Load(filepath.Join(dir, name)); err != nil {
			t.Errorf("left over: %v", err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	cmd := child(t, "full disk", t.TempDir())
	// Its own user and mount namespace let the child mount a tiny disk without being root, and take it away when it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("this system gives no namespace to mount a small disk in: %v", err)
	}
	if text := string(out); strings.HasPrefix(text, "mount: ") {
		t.Skipf("this system lets no small disk be mounted: %s", text)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func fillDisk(dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return saveTooMuch(dir, syscall.ENOSPC)
}

// The limit on the size of a file stands in for a full disk where none can be mounted.
func TestFileSizeLimit(t *testing.T) {
	if out, err := child(t, "size limit", t.TempDir()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func hitSizeLimit(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100_000, Max: 100_000}); err != nil {
		return err
	}
	return saveTooMuch(dir, syscall.EFBIG)
}

// saveTooMuch saves one checkpoint that fits and one that does not, and checks what is left of each.
func saveTooMuch(dir string, want error) error {
	m, model, optimizer := state(1)
	path, err := Save(dir, m, model, optimizer)
	if err != nil {
		return err
	}
	m.Step = 2
	for _, c := range []struct {
		file             string
		model, optimizer []Tensor
	}{
		{modelFile, []Tensor{{"big", []int{1 << 20}, make([]float32, 1<<20)}}, optimizer},
		{optimizerFile, model, []Tensor{{"big", []int{1 << 20}, make([]float32, 1<<20)}}},
	} {
		_, err := Save(dir, m, c.model, c.optimizer)
		if err == nil {
			return errors.New("saving more than fits: no error")
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), c.file) {
			return fmt.Errorf("got error %w, want %q naming %s", err, want.Error(), c.file)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != filepath.Base(path) }) {
			return fmt.Errorf("left behind: %v", entries)
		}
	}
	latest, _, err := Latest(dir)
	if err != nil || latest == nil || latest.Path != path {
		return fmt.Errorf("the latest is %+v, %w, want %s", latest, err, path)
	}
	// The space of the failed attempts is free again.
	_, err = Save(dir, m, model, optimizer)
	return err
}
