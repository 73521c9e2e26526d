package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/video/synth"
)

// What a job left comes from a store, or from the folder that is shared, and only if it is what was published.
func TestFetch(t *testing.T) {
	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 3, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	job := fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,%s}}`, made.ClipsDir, tinyModel)
	for name, artifacts := range map[string]string{"store": "file://" + filepath.Join(dir, "kept"), "shared": ""} {
		t.Run(name, func(t *testing.T) {
			state, out := filepath.Join(dir, "state-"+name), filepath.Join(dir, "out-"+name)
			args := []string{"--data-dir", state}
			if artifacts != "" {
				args = append(args, "--artifacts", artifacts)
			}
			to := "--coordinator=" + startUp(t, args...).address
			code, trained, shown := surmise(t, job, "submit", to, "-f", "-", "--wait")
			if code != exitOK {
				t.Fatal(shown)
			}
			trained = strings.TrimSpace(trained)
			fetch := func(more ...string) (int, string, string) {
				args := append([]string{"fetch", to, "--out", out}, more...)
				if artifacts != "" {
					args = append(args, "--artifacts", artifacts)
				}
				return surmise(t, "", args...)
			}
			code, printed, shown := fetch(trained)
			if code != exitOK {
				t.Fatal(shown)
			}
			model := filepath.Join(out, "step-00000003")
			if want := model + "\n" + filepath.Join(out, "verdicts.json") + "\n" + filepath.Join(out, "events") + "\n"; printed != want {
				t.Errorf("fetched %q, want %q", printed, want)
			}
			if c, err := checkpoint.Load(model); err != nil || c.Manifest.Step != 3 {
				t.Errorf("the model: %v", err)
			}
			for _, c := range []struct {
				says string
				args []string
			}{
				{"is there already", []string{trained, "model"}},
				{"has left no scores", []string{trained, "scores"}},
				{"there is no job", []string{"jobs/none"}},
			} {
				if code, _, shown := fetch(c.args...); code != exitUsage || !strings.Contains(shown, c.says) && !strings.Contains(shown, "none") {
					t.Errorf("fetch %v: exit code %d, want %d and %q:\n%s", c.args, code, exitUsage, c.says, shown)
				}
			}
			if artifacts == "" {
				return
			}
			if code, _, shown := surmise(t, "", "fetch", to, trained); code != exitUsage || !strings.Contains(shown, "give the coordinator's --artifacts") {
				t.Errorf("without the store: exit code %d\n%s", code, shown)
			}
			weights := filepath.Join(dir, "kept", trained, "attempts", "1", "checkpoints", "step-00000003", "model.safetensors")
			data, err := os.ReadFile(weights)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)-1] ^= 1
			if err := os.WriteFile(weights, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if code, _, shown := fetch(trained, "model", "--out", filepath.Join(dir, "damaged")); code != exitFailed || !strings.Contains(shown, "damaged") {
				t.Errorf("a byte flipped: exit code %d\n%s", code, shown)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "damaged")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
