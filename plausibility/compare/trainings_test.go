package compare

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// recorded gives files training configurations as checkpoints hold them, with seeds from 1 on.
func recorded(files []*File, change ...func(k int, config map[string]any)) []*File {
	for k, f := range files {
		config := map[string]any{"model": map[string]any{"dim": 32, "depth": 2}, "data": map[string]any{"data": []string{"clips"}, "cache_mib": k},
			"steps": 200, "batch": 8, "seed": k + 1, "threads": k + 1, "init": map[string]any{"from": fmt.Sprint(k), "sha256": "same"}}
		for _, c := range change {
			c(k, config)
		}
		m := &f.Sets[0].Model
		m.Step, m.Seed = 200, uint64(config["seed"].(int))
		m.Config, _ = json.Marshal(config)
	}
	return files
}

func warningsOf(t *testing.T, models ...Candidate) string {
	t.Helper()
	table, err := Candidates(models, Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(table.Warnings, "\n")
}

// Trainings of one model agree in all but the seed and what is of the machine; anything else is said.
func TestTrainingsOfOneModel(t *testing.T) {
	for name, c := range map[string]struct {
		change func(k int, config map[string]any)
		spoil  func(m *Model)
		want   string // "" where nothing is wrong
	}{
		"other seeds": {func(int, map[string]any) {}, nil, ""},
		"other steps": {func(k int, c map[string]any) { c["steps"] = 200 + k/2*20 }, nil,
			"a: files 1 and 3 are no trainings of one model: steps is 200 in one and 220 in the other"},
		"another width, and batch": {func(k int, c map[string]any) { c["model"].(map[string]any)["dim"], c["batch"] = 32+k/2, 8+k/2 }, nil,
			"batch is 8 in one and 9 in the other, and 1 more settings differ"},
		"other videos": {func(k int, c map[string]any) { c["data"].(map[string]any)["data"] = fmt.Sprint(k / 2) }, nil, "data.data is"},
		"a setting that only one has": {func(k int, c map[string]any) {
			if k == 2 {
				c["clip_norm"] = 3
			}
		}, nil, "clip_norm is empty in one and 3 in the other"},
		"one seed twice": {func(k int, c map[string]any) { c["seed"] = 1 + k/2 }, nil,
			"a: files 1 and 2 were trained with the same settings and the same seed, 1"},
		"another step": {func(int, map[string]any) {}, func(m *Model) { m.Step = 100 }, "step is 200 in one and 100 in the other"},
		"no record":    {func(int, map[string]any) {}, func(m *Model) { m.Config = nil }, "a: file 3 does not record how its model was trained"},
	} {
		files := recorded(trainings(1, 3, 0.9), c.change)
		if c.spoil != nil {
			c.spoil(&files[2].Sets[0].Model)
		}
		got := warningsOf(t, Candidate{"a", files})
		for _, sign := range []string{"no trainings of one model", "the same settings", "does not record"} {
			if c.want == "" && strings.Contains(got, sign) {
				t.Errorf("%s: %s", name, got)
			}
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: warnings %q, want %q", name, got, c.want)
		}
	}
	// A checkpoint from outside holds no seed: weights that differ are all that can be known.
	files := recorded(trainings(1, 2, 0.9), func(_ int, c map[string]any) { c["seed"] = 0 })
	for _, f := range files {
		f.Sets[0].Model.Config = json.RawMessage(`{"model":{"dim":32}}`)
	}
	if got := warningsOf(t, Candidate{"a", files}); strings.Contains(got, "seed, 0") {
		t.Errorf("seeds that are not recorded: %s", got)
	}
}

// The same scores are of the same weights, whatever the file's digest says.
func TestSameScoresAreTheSameWeights(t *testing.T) {
	a, b := trainings(1, 1, 0.9)[0], trainings(1, 1, 0.9)[0]
	b.Sets[0].Model.SHA256 = "the same in another file"
	slices.Reverse(b.Videos)
	for s := range b.Sets {
		b.Sets[s].Scores = slices.Clone(b.Sets[s].Scores)
		slices.Reverse(b.Sets[s].Scores)
	}
	_, err := Candidates([]Candidate{{"a", []*File{a, b}}}, Options{Resamples: 100})
	if err == nil || !strings.Contains(err.Error(), "files 1 and 2 are scores of the same weights") {
		t.Errorf("got %v", err)
	}
}

// One twin in all files is one twin: the interval is that of its groups, and the table says so.
func TestOneTwinOfSeveralTrainings(t *testing.T) {
	files := recorded(trainings(1, 3, 0.95))
	for _, f := range files[1:] {
		f.Sets[1].Scores = files[0].Sets[1].Scores
	}
	table, err := Candidates([]Candidate{{"good", files}}, Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	alone, err := Summarize(files[0], Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	all, _ := table.Row(All)
	one, _ := alone.Row(All)
	width := func(i Interval) float64 { return i.High - i.Low }
	got, want := all.Cells[1].Accuracy, one.Cells[1].Accuracy
	if !reflect.DeepEqual(table.Seeds, []int{3, 1}) || got.Value != want.Value || math.Abs(width(got)-width(want)) > 0.03 || all.Cells[1].Seeds != nil {
		t.Errorf("seeds %v; the twin %+v, alone %+v", table.Seeds, all.Cells[1], one.Cells[1])
	}
	if got := strings.Join(table.Warnings, "\n"); !strings.Contains(got, "good: its files have the same untrained twin; of 3 twins 1 counts") || strings.Contains(got, "untrained twin: ") {
		t.Errorf("warnings %q", got)
	}
	// Of a digest, too; two that differ are two.
	for k, f := range files {
		f.Sets[1] = Set{Name: TwinSet, Model: Model{SHA256: fmt.Sprint(k / 2)}, Scores: trainings(uint64(60+k), 1, 0.5)[0].Sets[1].Scores}
	}
	two, err := Candidates([]Candidate{{"good", files}, {"other", recorded(trainings(20, 2, 0.5))}}, Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := two.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if two.Twins[0].Seeds != 2 || two.Twins[1].Seeds != 2 || !strings.Contains(text.String(), "good, untrained twin ×2: ") {
		t.Errorf("twins %+v:\n%s", two.Twins, text.String())
	}
}

// One training of each model says nothing of the next; of one model alone nothing is claimed of trainings.
func TestSingleTrainingsAreSaid(t *testing.T) {
	a, b := recorded(trainings(1, 1, 0.9)), recorded(trainings(20, 1, 0.5))
	if got := warningsOf(t, Candidate{"a", a}, Candidate{"b", b}); !strings.Contains(got, "a, b: one training each") {
		t.Errorf("two models of one training: %s", got)
	}
	if got := warningsOf(t, Candidate{"a", a}, Candidate{"b", recorded(trainings(20, 2, 0.5))}); !strings.Contains(got, "a: one training; ") || !strings.Contains(got, "b: 2 trainings") {
		t.Errorf("one training against two: %s", got)
	}
	if got := warningsOf(t, Candidate{"a", a}); strings.Contains(got, "one training") {
		t.Errorf("one model alone: %s", got)
	}
}
