package systemtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/surmise-ml/surmise/video/synth"
)

// TestMPI trains one model in two processes that mpirun starts: the losses are those of one process, one that is killed
// ends the other too, and the run goes on from the last checkpoint.
func TestMPI(t *testing.T) {
	if _, err := exec.LookPath("mpirun"); err != nil {
		t.Skipf("no MPI here, deploy/setup.sh installs it: %v", err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "surmise-mpi")
	if err := goBuild(root, nil, "-tags", "mpi", "-o", program, "./cmd/surmise"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	videos, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 6, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	job := func(steps, batch int) string {
		path := filepath.Join(dir, fmt.Sprintf("job-%d-%d.json", steps, batch))
		text := fmt.Sprintf(`{"train":{"data":[%q],"steps":%d,"batch":%d,"threads":1,"log_every":1,"checkpoint_every":5,
			"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}}`, videos.ClipsDir, steps, batch)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	together := func(job, out string) *exec.Cmd {
		c := exec.CommandContext(ctx, "mpirun", "--oversubscribe", "-n", "2", program, "train", "--mpi", "--cache-dir", "none", "-f", job, "--out", out)
		c.Env = append(os.Environ(), "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
		c.WaitDelay = patience
		return c
	}
	losses := func(c *exec.Cmd) map[int]float64 {
		t.Helper()
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", c.Args, err, out)
		}
		return lossesIn(t, string(out))
	}

	short := job(6, 4)
	want := losses(exec.CommandContext(ctx, program, "train", "--cache-dir", "none", "-f", short, "--out", filepath.Join(dir, "alone")))
	got := losses(together(short, filepath.Join(dir, "together")))
	if len(want) != 6 || len(got) != 6 {
		t.Fatalf("losses of %d and %d steps, want 6 each, from the first process alone", len(want), len(got))
	}
	for step, loss := range got {
		if math.Abs(loss-want[step]) > 1e-3*want[step] {
			t.Errorf("step %d: loss %g in two processes, %g in one", step, loss, want[step])
		}
	}

	out, err := together(job(6, 3), filepath.Join(dir, "uneven")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "batch is 3, which 2 processes do not share evenly") {
		t.Errorf("an uneven batch: %v\n%s", err, out)
	}

	// The second process is killed at a step that no checkpoint follows soon.
	long, run := job(4000, 4), filepath.Join(dir, "run")
	c := together(long, run)
	text, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(text)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "training 8/") {
	}
	victims := childrenOf(t, c.Process.Pid)
	if len(victims) != 2 {
		t.Fatalf("mpirun has the processes %v, want 2", victims)
	}
	ends := make([]unix.PollFd, len(victims)) // each is ready when its process has ended
	for i, pid := range victims {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		ends[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	if err := syscall.Kill(victims[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, text)
	if err := c.Wait(); err == nil {
		t.Error("a run whose process was killed ends well")
	}
	for i, pid := range victims { // one that was killed takes a moment to end
		if n, err := unix.Poll(ends[i:i+1], 30_000); n != 1 {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			t.Errorf("process %d is still there (%v): %s", pid, err, stat)
		}
	}
	c = together(long, run)
	if text, err = c.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	first := ""
	for lines = bufio.NewScanner(text); first == "" && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "training ") {
			first = lines.Text()
		}
	}
	if step, err := strconv.Atoi(strings.TrimPrefix(strings.SplitN(first, "/", 2)[0], "training ")); err != nil || step < 6 {
		t.Errorf("the run goes on with %q, want it after the checkpoint of step 5", first)
	}
	// One signal to mpirun reaches both, which agree on a step to stop after.
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(text)
	if err := c.Wait(); err == nil || !strings.Contains(string(rest), "checkpoint at step") {
		t.Errorf("interrupted: %v, want a checkpoint:\n%s", err, rest)
	}
}

var lossLine = regexp.MustCompile(`training (\d+)/\d+\s+loss ([0-9.e+-]+)`)

func lossesIn(t *testing.T, text string) map[int]float64 {
	t.Helper()
	found := map[int]float64{}
	for _, m := range lossLine.FindAllStringSubmatch(text, -1) {
		step, _ := strconv.Atoi(m[1])
		loss, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		found[step] = loss
	}
	return found
}

// childrenOf lists the processes that a process has started, oldest first.
func childrenOf(t *testing.T, parent int) (pids []int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
