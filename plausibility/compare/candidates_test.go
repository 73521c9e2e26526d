package compare

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

// trainings are the scores of one model, trained several times: the same videos, other luck.
func trainings(first uint64, n int, right float64) []*File {
	base := madeUp(50, 40, right, "p", "q")
	var files []*File
	for i := range n {
		f := madeUp(first+uint64(i), 40, right, "p", "q")
		f.Videos, f.Data = base.Videos, base.Data
		f.Sets[0].Model.SHA256 = fmt.Sprintf("weights %d", first+uint64(i))
		files = append(files, f)
	}
	return files
}

func TestCandidatesAreMeansOverTrainings(t *testing.T) {
	good, guess := trainings(1, 5, 0.95), trainings(20, 3, 0.5)
	table, err := Candidates([]Candidate{{"good", good}, {"guess", guess}}, Options{Resamples: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(table.Seeds, []int{5, 3}) || !reflect.DeepEqual(table.Columns, []string{"good", "guess"}) {
		t.Fatalf("seeds %v of %v", table.Seeds, table.Columns)
	}
	all, _ := table.Row(All)
	for c, files := range [][]*File{good, guess} {
		var mean float64
		for k, f := range files {
			one, err := Summarize(f, Options{Resamples: 100})
			if err != nil {
				t.Fatal(err)
			}
			alone, _ := one.Row(All)
			x := alone.Cells[0].Accuracy.Value
			mean += x / float64(len(files))
			if got := all.Cells[c].Seeds[k]; got != x {
				t.Errorf("%s, training %d: %g, alone %g", table.Columns[c], k, got, x)
			}
		}
		if got := all.Cells[c].Accuracy; math.Abs(got.Value-mean) > 1e-12 || got.Low > mean || got.High < mean {
			t.Errorf("%s: %+v, want around the mean %g", table.Columns[c], got, mean)
		}
	}
	d := all.Differences[0]
	if d.Verdict != Higher || d.SignFlip.P > 0.01 || d.McNemar.P > 0.01 {
		t.Errorf("a good model against a guess: %+v", d)
	}
	if d.Both+d.First+d.Second+d.Neither+d.Mixed != all.Pairs {
		t.Errorf("pairs %+v of %d", d, all.Pairs)
	}
	warnings := strings.Join(table.Warnings, "\n")
	if !strings.Contains(warnings, "guess: 3 trainings") || strings.Contains(warnings, "good: 5 trainings") {
		t.Errorf("warnings %q", table.Warnings)
	}
	var text strings.Builder
	if err := table.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"good ×5", "guess ×3", "good, each training: "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, text.String())
		}
	}
}

// One model alone is set beside its twin, whose seeds are resampled as the model's are.
func TestOneCandidate(t *testing.T) {
	files := trainings(1, 5, 0.95)
	table, err := Candidates([]Candidate{{"good", files}}, Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(table.Columns, []string{ModelSet, TwinSet}) || !reflect.DeepEqual(table.Seeds, []int{5, 5}) {
		t.Errorf("columns %v, seeds %v", table.Columns, table.Seeds)
	}
	one, err := Candidates([]Candidate{{"good", files[:1]}}, Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	same, err := Summarize(files[0], Options{Resamples: 200})
	if err != nil || !reflect.DeepEqual(one, same) {
		t.Errorf("one training alone is not what Summarize makes of it (%v)", err)
	}
}

// Pairs on which two models part, by hand: of two trainings each, shares of 1, 1/2 and 0.
func TestPairsOfSeveralTrainings(t *testing.T) {
	of := func(right ...float64) *meanResult {
		return &meanResult{pairs: outcome{wins: []float64{sum(right)}, ties: []float64{0}}, right: right, scores: right}
	}
	d := Difference{Column: "b"}
	d.test("row", of(1, 1, 0.5, 0.5, 0, 0.5), of(1, 0.5, 0.5, 0, 0, 1), 4, Options{Resamples: 100})
	if d.Both != 1 || d.First != 2 || d.Second != 1 || d.Neither != 1 || d.Mixed != 1 || d.McNemar.P != 1 {
		t.Errorf("%+v", d)
	}
}

// Trainings that differ widen the interval: the mean of three is less sure than its groups say.
func TestTrainingsWidenTheInterval(t *testing.T) {
	files := trainings(1, 3, 0.9)
	for i := range files[2].Videos { // the third fails
		x, y := files[2].Sets[0].Scores, files[2].Sets[0].Scores
		if files[2].Videos[i].Label == 1 {
			x[i], y[i+1] = y[i+1], x[i]
		}
	}
	other := trainings(30, 3, 0.9)
	width := func(files []*File) float64 {
		table, err := Candidates([]Candidate{{"a", files}, {"b", other}}, Options{Resamples: 1000})
		if err != nil {
			t.Fatal(err)
		}
		all, _ := table.Row(All)
		return all.Cells[0].Accuracy.High - all.Cells[0].Accuracy.Low
	}
	if even, uneven := width(trainings(1, 3, 0.9)), width(files); uneven < 2*even {
		t.Errorf("trainings that agree: %g wide, one that fails: %g", even, uneven)
	}
}

func TestCandidatesRefuse(t *testing.T) {
	a, b := trainings(1, 2, 0.9), trainings(20, 2, 0.9)
	other := trainings(30, 1, 0.9)
	other[0].Spec.Stride = 4
	old := trainings(40, 1, 0.9)
	old[0].Version = 9
	for want, models := range map[string][]Candidate{
		"comparing models: no model":                      nil,
		"b: no score file":                                {{"a", a}, {"b", nil}},
		"a: files 1 and 3 are scores of the same weights": {{"a", []*File{a[0], a[1], a[0]}}, {"b", b}},
		"a and b: score files are unlike: spec.stride":    {{"a", a}, {"b", other}},
		"b, file 1: score file of another version":        {{"a", a}, {"b", old}},
	} {
		if _, err := Candidates(models, Options{Resamples: 100}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
