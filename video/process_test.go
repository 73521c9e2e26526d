package video

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// testProcess is this test binary running one test.
type testProcess struct {
	cmd *exec.Cmd
	out *bufio.Scanner
}

func startTest(t *testing.T, pattern string, env ...string) testProcess {
	t.Helper()
	p := testProcess{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern)}
	p.cmd.Env = append(os.Environ(), env...)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p testProcess) waitFor(t *testing.T, line string) {
	t.Helper()
	for p.out.Scan() {
		if strings.Contains(p.out.Text(), line) {
			return
		}
	}
	t.Fatalf("the process ended without saying %q", line)
}

func childrenOf(t *testing.T, pid int) (children []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, child)
		}
	}
	return children
}

// status reads a line of what the kernel says of a process, in KiB.
func status(t *testing.T, pid int, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d: no %s in\n%s", pid, name, text)
	return 0
}

// onlyChild is the one decoder of this process, at work or idle.
func onlyChild(t *testing.T) int {
	t.Helper()
	var pids []int
	for _, pid := range childrenOf(t, os.Getpid()) {
		if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(command), DecoderArgument) {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("decoders %v, want one", pids)
	}
	return pids[0]
}

// A decoder at work on 1920x1080 has less than 150 MB resident: code, libraries, its own, and the frames it hands over.
func TestDecoderMemory(t *testing.T) {
	const limit = 150 << 10 // KiB
	path := pattern(t, "hd.mp4", 1920, 1080, 30, 12, "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p")
	p, frames := alone(t), 0
	_, err := p.decode(t.Context(), source.Item{Path: path}, wire.Request{Step: 1, Digests: true}, func() { frames = 0 }, func(frame) error {
		if frames++; frames < 12 {
			return nil
		}
		pid := onlyChild(t)
		all, own := status(t, pid, "VmRSS"), status(t, pid, "RssAnon")
		t.Logf("%d MB resident, %d MB of them its own, %d MB shared with its parent", all>>10, own>>10, status(t, pid, "RssShmem")>>10)
		if all > limit {
			t.Errorf("%d KiB resident, want at most %d", all, limit)
		}
		return nil
	})
	if err != nil || frames != 12 {
		t.Fatalf("%d frames, %v", frames, err)
	}
}

// alone is a pool of one decoder while no other of this process runs.
func alone(t *testing.T) *Pool {
	t.Helper()
	for _, c := range decoders.takeAll() {
		c.end()
	}
	p := NewPool(PoolOptions{Size: 1})
	t.Cleanup(p.Close)
	return p
}

// FFmpeg would start as many threads per file as the machine has processors: see onethread.c.
func TestDecodesOnOneThread(t *testing.T) {
	const files = 20
	path := pattern(t, "threads.mp4", 640, 480, 15, 12, "-c:v", "libx264", "-preset", "ultrafast") // several messages of frames
	p, seen := alone(t), map[string]bool{}
	for range files {
		_, err := p.decode(t.Context(), source.Item{Path: path}, wire.Request{Step: 1}, func() {}, func(f frame) error {
			tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", onlyChild(t)))
			for _, task := range tasks {
				seen[task.Name()] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) >= files { // Go's own are a handful
		t.Errorf("%d threads have been at work on %d files", len(seen), files)
	}
}
