package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/video/synth"
)

// logLine is a line that `surmise logs --json` prints.
type logLine struct {
	Epoch string
	Lines []struct{ Number, Text, Dropped string }
}

// The log of a job is followed through the death of its coordinator: every line comes once, and the end of the job ends
// the command. Read again it is the same, from files that outlive both.
func TestFollowingTheLogOfAJob(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	surmise := filepath.Join(dir, "surmise")
	if err := goBuild(root, nil, "-o", surmise, "./cmd/surmise"); err != nil {
		t.Fatal(err)
	}
	videos, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 3, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	coordinator := start(t, surmise, "coordinator", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state"), "--lease", lease)
	address := strings.TrimPrefix(coordinator.line(t), "coordinator listens on ")
	worker := start(t, surmise, "worker", "--coordinator", address, "--name", "w", "--data-root", dir, "--cache-dir", "none")
	command := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, surmise, append(args, "--coordinator", address)...)
	}
	submit := command("submit", "-f", "-")
	submit.Stdin = strings.NewReader(fmt.Sprintf(`{"train":{"data":[%q],"steps":100000000,"batch":2,"threads":1,"log_every":1,"checkpoint_every":50,
		"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}}`, videos.ClipsDir))
	name, err := submit.Output()
	if err != nil {
		t.Fatal(err)
	}
	job := strings.TrimSpace(string(name))

	follow := start(t, surmise, "logs", "-f", "--json", "--coordinator", address, job)
	var followed []string
	until := func(word string) {
		t.Helper()
		for {
			var l logLine
			line := follow.line(t)
			if err := json.Unmarshal([]byte(line), &l); err != nil || len(l.Lines) != 1 || l.Epoch != "1" {
				t.Fatalf("line %s (%v)", line, err)
			}
			if want := fmt.Sprint(len(followed) + 1); l.Lines[0].Number != want || l.Lines[0].Dropped != "" {
				t.Fatalf("line %s, want number %s", line, want)
			}
			followed = append(followed, l.Lines[0].Text)
			if strings.Contains(l.Lines[0].Text, word) {
				return
			}
		}
	}
	until("job begins")
	until("checkpoint is on disk")
	coordinator.kill(t)
	coordinator = start(t, surmise, "coordinator", "--listen", address, "--data-dir", filepath.Join(dir, "state"), "--lease", lease)
	coordinator.line(t)
	until("not attached to the coordinator") // logged while it was away
	until("attached to the coordinator")
	until("checkpoint is on disk")
	if out, err := command("cancel", job).CombinedOutput(); err != nil {
		t.Fatalf("cancel: %v\n%s", err, out)
	}
	until("job stopped")
	if rest, err := io.ReadAll(follow.out); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q (%v)", rest, err)
	}
	follow.exited(t, 0)

	out, err := command("logs", job).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(followed) {
		t.Fatalf("%d lines, %d were followed", len(lines), len(followed))
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, " "+followed[i]) {
			t.Errorf("line %d is %q, followed as %q", i+1, line, followed[i])
		}
	}
	worker.terminate(t)
	worker.exited(t, 0)
	coordinator.terminate(t)
	coordinator.exited(t, 0)
}
