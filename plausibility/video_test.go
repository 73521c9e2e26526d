package plausibility

import (
	"bytes"
	"encoding/json"
	"image"
	"image/jpeg"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video/synth"
)

// Real encoded files, from pairs.csv to the table: a detector of sudden change
// tells visible events from none, videos are matched by their true shared start,
// and a damaged file takes its group with it, by name.
func TestScoreRealVideos(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "synth")
	if _, err := synth.Generate(t.Context(), synth.Options{Dir: dir, Pairs: 16, Seed: 5, Difficulty: "easy", Properties: []string{"permanence", "colour"}}, nil); err != nil {
		t.Fatal(err)
	}
	videos, err := ReadPairs(filepath.Join(dir, "pairs.csv"), []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(videos[1].Path, []byte("not a video"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := &changeDetector{size: 64, patch: 8, tubelet: 2, window: 16}
	spec := compare.DefaultSpec(16, 2, true)
	spec.Stride = 1 // the detector sees changes from one tubelet to the next only; so each frame begins one
	f, err := Score(t.Context(), Config{Videos: videos, Folder: dir, Spec: spec, Size: 64, Patch: 8, Tubelet: 2,
		Predictor: d, Model: compare.Model{Name: "change"}, Decoder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	damaged := videos[1].Group
	if len(f.Skipped) != 4 || len(f.Videos) != 28 {
		t.Fatalf("%d scored, skipped %+v; want group %q skipped and 28 scored", len(f.Videos), f.Skipped, damaged)
	}
	for _, s := range f.Skipped {
		if s.Group != damaged || s.Reason == "" {
			t.Errorf("skipped %+v, want only group %q, with a reason", s, damaged)
		}
	}
	t.Logf("reason: %s", f.Skipped[1].Reason)

	// The impossible video of each pair begins in the world of its possible one.
	worlds := worldsOf(t, dir)
	for _, p := range f.Pairs() {
		possible, impossible := f.Videos[p.Possible], f.Videos[p.Impossible]
		if worlds[f.Location(&possible)] != worlds[f.Location(&impossible)] {
			t.Errorf("%s is paired with %s, which begins differently", possible.Path, impossible.Path)
		}
	}
	if n := len(f.Pairs()); n != 14 {
		t.Errorf("%d pairs, want 14", n)
	}
	// The mean over windows: somewhere in most videos something changes as much as in the event.
	table, err := compare.Summarize(f, compare.Options{Resamples: 200, Aggregation: compare.Aggregation{Name: "peak_avg"}})
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := table.Row(compare.All); all.Cells[0].Accuracy.Value < 0.8 {
		t.Errorf("a change detector finds %.0f %% of visible events", 100*all.Cells[0].Accuracy.Value)
	}

	events, err := ReadEvents(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	last := f.Videos[f.Pairs()[0].Impossible]
	if filepath.IsAbs(last.Path) {
		t.Errorf("the file holds %q, want the path that the pairs file names", last.Path)
	}
	if at := events[f.Location(&last)]; !(at > 0 && at < last.TubeletStart[len(last.TubeletStart)-1]) {
		t.Errorf("the event of %s happens at %g s", last.Path, at)
	}
	stills, err := Stills{Size: 64}.Frames(t.Context(), f.Location(&last), []float64{0, 1e6})
	if err != nil {
		t.Fatal(err)
	}
	for _, still := range stills {
		img, err := jpeg.Decode(bytes.NewReader(still))
		if err != nil || img.Bounds() != image.Rect(0, 0, 64, 64) {
			t.Errorf("a still is %v, %v; want 64×64", img.Bounds(), err)
		}
	}
	if len(stills) != 2 || bytes.Equal(stills[0], stills[1]) {
		t.Error("the first and the last frame are the same")
	}
}

func worldsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	worlds := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var e struct {
			Path  string          `json:"path"`
			World json.RawMessage `json:"world"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		worlds[filepath.Join(dir, e.Path)] = string(e.World)
	}
	return worlds
}

func TestReadEventsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"{\"path\":\"a\"}\nno\n":               "line 2",
		"{\"path\":\"a\",\"event_frame\":3}\n": "line 1: fps: 0",
	} {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadEvents(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
}
