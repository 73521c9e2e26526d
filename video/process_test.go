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
