package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Closing Done ends a table that would take minutes, whatever is being resampled; what is done before is not affected by it.
func TestDoneEndsATable(t *testing.T) {
	f := madeUp(3, 40, 0.8, "permanence", "colour")
	open, closed := make(chan struct{}), make(chan struct{})
	close(closed)
	whole, err := Summarize(f, Options{Resamples: 300})
	if err != nil {
		t.Fatal(err)
	}
	if same, err := Summarize(f, Options{Resamples: 300, Done: open}); err != nil || !reflect.DeepEqual(same, whole) {
		t.Errorf("with a Done that stays open: another table, %v", err)
	}
	const most = 1_000_000 // half an hour of resamples
	if _, err := Summarize(f, Options{Resamples: most, Done: closed}); !errors.Is(err, ErrStopped) {
		t.Errorf("summarized: %v", err)
	}
	if _, err := Models([]*File{f, f}, []string{"a", "b"}, Options{Resamples: most, Done: closed}); !errors.Is(err, ErrStopped) {
		t.Errorf("compared: %v", err)
	}
	late := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() { close(late) })
	if _, err := Summarize(f, Options{Resamples: most, Done: late}); !errors.Is(err, ErrStopped) {
		t.Errorf("summarized until later: %v", err)
	}
}

func TestSummarizeKnownModel(t *testing.T) {
	f := madeUp(3, 60, 1, "colour_visible", "permanence_occluded", "gravity", "permanence")
	table, err := Summarize(f, Options{Resamples: 2000})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range table.Rows {
		names = append(names, r.Name)
	}
	if want := []string{"colour_visible", "permanence_occluded", "gravity", "permanence", Visible, Occluded, All}; !reflect.DeepEqual(names, want) {
		t.Fatalf("rows %v, want %v", names, want)
	}
	if visible, _ := table.Row(Visible); visible.Groups != 30 {
		t.Errorf("%d visible groups, want the 15 of colour_visible and the 15 of permanence, which has an occluded variant", visible.Groups)
	}
	all, _ := table.Row(All)
	if all.Groups != 60 || all.Pairs != 120 {
		t.Errorf("%d groups and %d pairs, want 60 and 120", all.Groups, all.Pairs)
	}
	model, twin := all.Cells[0], all.Cells[1]
	if model.Accuracy.Value != 1 || model.Verdict != AboveChance || model.GroupAccuracy.Value != 1 {
		t.Errorf("a model that is always right: %+v", model)
	}
	// Every group agrees: the interval is the exact binomial one of 60 trials, not a point.
	if want := math.Pow(0.025, 1.0/60); math.Abs(model.Accuracy.Low-want) > 1e-12 || model.Accuracy.High != 1 {
		t.Errorf("interval of a perfect model %+v, want [%g, 1]", model.Accuracy, want)
	}
	if !twin.Accuracy.Covers(0.5) || twin.Verdict != Inconclusive {
		t.Errorf("a twin that guesses: %+v", twin)
	}
	d := all.Differences[0]
	if d.Column != TwinSet || d.Verdict != Higher || d.Both+d.First+d.Second+d.Neither != 120 || d.Second+d.Neither != 0 {
		t.Errorf("model minus twin: %+v", d)
	}
	if math.Abs(d.Accuracy.Value-(model.Accuracy.Value-twin.Accuracy.Value)) > 1e-15 {
		t.Errorf("difference %g of %g and %g", d.Accuracy.Value, model.Accuracy.Value, twin.Accuracy.Value)
	}
}

// A pair of equal surprises is not told apart, and content larger than the event
// is cancelled by comparing whole groups.
func TestTiesAndGroups(t *testing.T) {
	f := madeUp(1, 1, 1, "p")
	set := &f.Sets[0]
	for i, x := range []float64{1, 1, 5, 6} { // possible, impossible, possible, impossible
		for c := range 2 {
			set.Scores[i].Surprise[c] = []float64{x, x, x}
		}
	}
	table, err := Summarize(f, Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	all, _ := table.Row(All)
	if got := all.Cells[0].Accuracy.Value; got != 0.5 {
		t.Errorf("pair accuracy %g with one tie of two pairs, want 0.5", got)
	}
	if got := all.Cells[0].GroupAccuracy.Value; got != 1 {
		t.Errorf("group accuracy %g, want 1", got)
	}
	if want := "an interval from fewer than 10 groups says little: p 1, all 1"; !slices.Contains(table.Warnings, want) {
		t.Errorf("warnings %q, want %q among them", table.Warnings, want)
	}
	if all.Cells[0].Verdict != Inconclusive {
		t.Errorf("one group gives the verdict %q", all.Cells[0].Verdict)
	}
}

// Three groups that all agree are no proof.
func TestFewGroupsAreInconclusive(t *testing.T) {
	table, err := Summarize(madeUp(1, 3, 1, "p"), Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := table.Row(All); all.Cells[0].Accuracy.Value != 1 || all.Cells[0].Verdict != Inconclusive {
		t.Errorf("three groups: %+v, want an accuracy of 1 that is inconclusive", all.Cells[0])
	}
}

func TestPairsWithoutMatching(t *testing.T) {
	f := madeUp(1, 1, 1, "p")
	if got := len(f.Pairs()); got != 2 {
		t.Errorf("a matched quadruplet has %d pairs, want 2", got)
	}
	for i := range f.Videos {
		f.Videos[i].Pair = ""
	}
	if got := len(f.Pairs()); got != 4 {
		t.Errorf("an unmatched quadruplet has %d pairs, want all 4", got)
	}
}

func TestSameSeedSameIntervals(t *testing.T) {
	f := madeUp(5, 40, 0.7, "p", "q")
	a, err := Summarize(f, Options{Resamples: 500, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Summarize(f, Options{Resamples: 500, Seed: 1})
	c, _ := Summarize(f, Options{Resamples: 500, Seed: 2})
	if !reflect.DeepEqual(a, b) {
		t.Error("two summaries with one seed differ")
	}
	if reflect.DeepEqual(a.Rows, c.Rows) {
		t.Error("another seed gives the very same intervals")
	}
}

// Of 95 % intervals about 95 % must cover the truth, also when the two pairs of a
// group always agree, where an interval that ignored groups would cover about 83 %.
func TestBootstrapCoverage(t *testing.T) {
	const trials, groups, truth = 400, 40, 0.7
	rng := rand.New(rand.NewPCG(7, 7))
	covered := 0
	for trial := range trials {
		var r namedGroups
		r.name = "coverage"
		var surprise []float64
		for g := range groups {
			event := 1.0
			if rng.Float64() >= truth {
				event = -1
			}
			i := 4 * g
			surprise = append(surprise, 2, 2+event, 3, 3+event)
			r.groups = append(r.groups, group{possible: []int{i, i + 2}, impossible: []int{i + 1, i + 3}, pairs: []Pair{{i, i + 1}, {i + 2, i + 3}}})
		}
		row, err := makeRow(r, []string{"m"}, [][][]float64{{surprise}}, [][][]float64{{surprise}}, Options{Confidence: 0.95, Resamples: 400, Seed: uint64(trial)}, true)
		if err != nil {
			t.Fatal(err)
		}
		if row.Cells[0].Accuracy.Covers(truth) {
			covered++
		}
	}
	// Percentile intervals of 40 groups cover about 93 to 95 %; 3.5 standard errors of 400 trials are 4 points.
	if share := float64(covered) / trials; share < 0.90 || share > 0.99 {
		t.Errorf("95 %% intervals covered the truth in %.1f %% of %d trials", 100*share, trials)
	}
}

// An interval contains its value and stays within bounds, whatever the data.
func TestIntervalProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := madeUp(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 12).Draw(t, "groups"), rapid.Float64Range(0, 1).Draw(t, "right"), "p_visible", "q")
		table, err := Summarize(f, Options{Resamples: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range table.Rows {
			for _, c := range r.Cells {
				for _, i := range []Interval{c.Accuracy, c.GroupAccuracy, c.AUROC} {
					if !(0 <= i.Low && i.Low <= i.Value+1e-9 && i.Value <= i.High+1e-9 && i.High <= 1) {
						t.Fatalf("%s: interval %+v", r.Name, i)
					}
				}
			}
		}
	})
}

func TestModels(t *testing.T) {
	a, b := madeUp(3, 40, 1, "p"), madeUp(3, 40, 0.5, "p")
	// The same videos in another order, from another folder.
	slices.Reverse(b.Videos)
	for s := range b.Sets {
		slices.Reverse(b.Sets[s].Scores)
	}
	for i := range b.Videos {
		b.Videos[i].Path = "elsewhere/" + b.Videos[i].Path
	}
	table, err := Models([]*File{a, b}, []string{"", ""}, Options{Resamples: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"tiny", "tiny #2"}; !reflect.DeepEqual(table.Columns, want) {
		t.Errorf("columns %v, want %v", table.Columns, want)
	}
	all, _ := table.Row(All)
	d := all.Differences[0]
	if d.Verdict != Higher || d.Second != 0 || d.First == 0 {
		t.Errorf("a perfect model against a guess: %+v", d)
	}
	if len(table.Twins) != 2 {
		t.Errorf("%d twins, want 2", len(table.Twins))
	}
	// Against itself, in another order, nothing differs.
	c := madeUp(3, 40, 1, "p")
	slices.Reverse(c.Videos)
	for s := range c.Sets {
		slices.Reverse(c.Sets[s].Scores)
	}
	same, err := Models([]*File{a, c}, []string{"x", "y"}, Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	if row, _ := same.Row(All); row.Differences[0].Accuracy.Value != 0 || row.Differences[0].Verdict != Inconclusive {
		t.Errorf("a model against itself: %+v", row.Differences[0])
	}
}

// Files of different precisions may be compared, with a warning; one that does not say is fp32.
func TestOtherPrecisionIsSaid(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"fp32", "fp32", false}, {"bf16", "bf16", false}, {"", "fp32", false}, {"fp32", "bf16", true}, {"bf16", "", true}} {
		a, b := madeUp(1, 12, 1, "p"), madeUp(1, 12, 1, "p")
		a.Precision, b.Precision = c.a, c.b
		table, err := Models([]*File{a, b}, []string{"x", "y"}, Options{Resamples: 100})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(table.Warnings, "\n"), "was scored in"); got != c.want {
			t.Errorf("%q and %q: warnings %q", c.a, c.b, table.Warnings)
		}
	}
}

func TestUnlikeFilesAreRefused(t *testing.T) {
	for want, change := range map[string]func(*File){
		"spec.window is 8 in one and 10":    func(f *File) { f.Spec.Window = 10 },
		"spec.stride":                       func(f *File) { f.Spec.Stride = 4 },
		"spec.frame_step is 1 in one and 2": func(f *File) { f.Spec.FrameStep = 2 },
		"spec.contexts":                     func(f *File) { f.Spec.Contexts = []int{2, 5} },
		"spec.top_tokens":                   func(f *File) { f.Spec.TopTokens = 4 },
		"spec.protocol is empty in one and": func(f *File) { f.Spec.Protocol, f.Spec.ProtocolVersion = "made-up", 1 },
		"spec.max_frames is 0 in one and 9": func(f *File) { f.Spec.MaxFrames = 9 },
		"spec.crop is empty in one and":     func(f *File) { f.Spec.Crop = CropWhole },
		"size_px is 64 in one and 32":       func(f *File) { f.Size = 32 },
		"decoder":                           func(f *File) { f.Decoder = "other" },
		"videos: 000-0-1.mp4": func(f *File) {
			f.Videos[0].SHA256 = "other"
			f.Data = Digest(f.Videos)
		},
	} {
		a, b := madeUp(1, 2, 1, "p"), madeUp(1, 2, 1, "p")
		change(b)
		_, err := Models([]*File{a, b}, []string{"a", "b"}, Options{Resamples: 100})
		if !errors.Is(err, ErrUnlike) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ErrUnlike with %q", err, want)
		}
	}
}

func TestTableTextAndJSON(t *testing.T) {
	f := madeUp(3, 30, 0.9, "colour_visible", "permanence_occluded")
	f.Skipped = []Skipped{{"broken.mp4", "7", "cannot be decoded"}}
	table, err := Summarize(f, Options{Resamples: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := table.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
	for _, want := range []string{"colour_visible", "untrained twin", "difference", "filtered_max", "skipped: broken.mp4: cannot be decoded", "chance is 50"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table does not say %q", want)
		}
	}
	data, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	back := new(Table)
	if err := json.Unmarshal(data, back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(table, back) {
		t.Error("the table does not survive JSON")
	}
}

func TestTextOfWholeGroups(t *testing.T) {
	text := func(f *File) string {
		t.Helper()
		table, err := Summarize(f, Options{Resamples: 100})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := table.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	f := madeUp(1, 2, 1, "p")
	for i, x := range []float64{1, 2, 5, 4.5, 3, 2.5, 1, 1.25} { // possible, impossible, …: 6.5 against 6, and 3.75 against 4
		for c := range 2 {
			f.Sets[0].Scores[i].Surprise[c] = []float64{x, x, x}
		}
	}
	_, block, ok := strings.Cut(text(f), "Whole groups")
	block, _, _ = strings.Cut(block, "Pooled over all")
	if !ok || !strings.Contains(block, "\n  p         2  50.0 [") || !strings.Contains(block, "inconclusive, difference inconclusive") {
		t.Errorf("one of two groups is right; the text says %s", block)
	}
	for i := range f.Videos { // each pair a group of its own
		f.Videos[i].Group += f.Videos[i].Pair
	}
	f.Data = Digest(f.Videos)
	if s := text(f); strings.Contains(s, "Whole groups") {
		t.Errorf("a group is a pair, and the text says both: %s", s)
	}
}

func TestTypicalIsTheMedian(t *testing.T) {
	f := madeUp(1, 3, 1, "p")
	for g, margin := range []float64{0.1, 0.2, 9, 0.3, 0.4, 0.5} { // pairs in file order
		for c := range 2 {
			f.Sets[0].Scores[2*g].Surprise[c] = []float64{1, 1, 1}
			f.Sets[0].Scores[2*g+1].Surprise[c] = []float64{1 + margin, 1 + margin, 1 + margin}
		}
	}
	typical, err := f.Typical(Aggregation{Name: "avg"}, 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(typical) != 1 || math.Abs(typical[0].Margin-0.4) > 1e-12 {
		t.Errorf("typical pair %+v, want the one with margin 0.4", typical)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	f := madeUp(1, 2, 1, "p")
	for want, o := range map[string]Options{
		"confidence: 95":     {Confidence: 95},
		"resamples: 5":       {Resamples: 5},
		"context 3 was not":  {Aggregation: Aggregation{"avg", 3}, Resamples: 100},
		`unknown name "sum"`: {Aggregation: Aggregation{Name: "sum"}, Resamples: 100},
	} {
		if _, err := Summarize(f, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func BenchmarkSummarize(b *testing.B) {
	f := madeUp(3, 325, 0.8, "a_visible", "b_visible", "c_visible", "a_occluded", "gravity")
	for b.Loop() {
		if _, err := Summarize(f, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// Under contrast_at_parting pairs are judged by one number, whole groups by another; a file without says so.
func TestContrastAtParting(t *testing.T) {
	f := madeUp(3, 12, 1, "gravity")
	a := Aggregation{Name: "contrast_at_parting"}
	if _, err := Summarize(f, Options{Aggregation: a, Resamples: 100}); err == nil || !strings.Contains(err.Error(), "has no contrast") {
		t.Errorf("without contrasts: %v", err)
	}
	for s := range f.Sets {
		for i := range f.Videos {
			label := float64(f.Videos[i].Label)
			f.Sets[s].Scores[i].Contrast = &Contrast{Pair: label, Group: -label} // pairs all wrong, groups all right
		}
	}
	table, err := Summarize(f, Options{Aggregation: a, Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	all := table.Rows[len(table.Rows)-1].Cells[0]
	if all.Accuracy.Value != 0 || all.GroupAccuracy.Value != 1 {
		t.Errorf("pairs %g, groups %g, want 0 and 1", all.Accuracy.Value, all.GroupAccuracy.Value)
	}
	f.Sets[0].Scores[0].Contrast.Group = math.NaN()
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "contrast") {
		t.Errorf("a contrast of NaN: %v", err)
	}
	if _, err := ParseAggregation("contrast_at_parting@4"); err == nil {
		t.Error("a context of contrast_at_parting is accepted")
	}
}

// The gap is told from where the other column is, in the direction that the table has.
func TestSentenceSaysWhoIsHigher(t *testing.T) {
	its := Interval{Value: 0.412, Low: 0.338, High: 0.488}
	for verdict, want := range map[string]string{
		Higher:       " Its untrained twin: 41.2 % (33.8 to 48.8); the model is 51.3 points (42.5 to 60.0) higher.",
		Lower:        " Its untrained twin: 41.2 % (33.8 to 48.8); the model is 51.3 points (42.5 to 60.0) lower.",
		Inconclusive: " Its untrained twin: 41.2 % (33.8 to 48.8); the difference of 51.3 points (42.5 to 60.0) is inconclusive.",
	} {
		difference := Interval{Value: 0.513, Low: 0.425, High: 0.6}
		if verdict == Lower {
			difference = Interval{Value: -0.513, Low: -0.6, High: -0.425}
		}
		if got := beside(ModelSet, TwinSet, its, difference, verdict); got != want {
			t.Errorf("%s: %q, want %q", verdict, got, want)
		}
	}
}

// Several trainings that agree are no certainty, and what is the same but for rounding is no difference.
func TestManyTrainingsThatAgree(t *testing.T) {
	for _, n := range []int{1, 5, 7, 9, 28, 36, 55} {
		var files []*File
		for k := range n {
			f := madeUp(3, 12, 1, "permanence")
			f.Sets[0].Model = Model{Name: "m", SHA256: fmt.Sprint(k), Seed: uint64(k)}
			for i := range f.Videos {
				f.Sets[0].Scores[i].Surprise[0][0] += 1e-6 * float64(k) // other weights, which tell the same pairs apart
			}
			files = append(files, f)
		}
		other := madeUp(3, 12, 1, "permanence")
		other.Sets[0].Model = Model{Name: "other", SHA256: "other"}
		table, err := Candidates([]Candidate{{"m", files}, {"other", []*File{other}}}, Options{Resamples: 300})
		if err != nil {
			t.Fatal(err)
		}
		row, _ := table.Row(All)
		if a, d := row.Cells[0].Accuracy, row.Differences[0]; a.Value > 1 || a.Low > 0.8 || d.Verdict != Inconclusive || d.Accuracy.Low > -0.1 || d.Accuracy.High < 0.1 {
			t.Errorf("%d trainings: accuracy %+v, difference %+v %s", n, a, d.Accuracy, d.Verdict)
		}
	}
}

// No verdict is given against the test beside it: intervals of few groups are too narrow.
func TestVerdictsHoldToTheirTests(t *testing.T) {
	verdicts, against := 0, 0
	for seed := range uint64(300) {
		table, err := Summarize(madeUp(seed, 7, 0.5, "permanence"), Options{Resamples: 200})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range table.Rows {
			for _, c := range row.Cells {
				if c.Verdict != Inconclusive && c.Chance.P >= 0.05 || c.GroupVerdict != Inconclusive && c.GroupChance.P >= 0.05 {
					against++
				}
			}
			for _, d := range row.Differences {
				if d.Verdict != Inconclusive && d.SignFlip.P >= 0.05 || d.GroupVerdict != Inconclusive && d.GroupSignFlip.P >= 0.05 {
					against++
				}
			}
		}
		if all, _ := table.Row(All); all.Cells[0].Verdict != Inconclusive {
			verdicts++
		}
	}
	if against > 0 || verdicts > 25 { // 5 % of 300 are 15
		t.Errorf("%d verdicts against their tests; of 300 models that guess %d are above or below chance", against, verdicts)
	}
}

func TestPairsAreBounded(t *testing.T) {
	f := madeUp(1, 1, 1, "p")
	base, score := f.Videos[0], f.Sets[0].Scores[0]
	f.Videos, f.Sets = nil, f.Sets[:1]
	f.Sets[0].Scores = nil
	for g := range 11 {
		for i := range 2000 {
			v := base
			v.Path, v.Group, v.Pair, v.Label, v.SHA256 = fmt.Sprint(g, i), fmt.Sprint(g), "", i%2, fmt.Sprint(g, i)
			f.Videos, f.Sets[0].Scores = append(f.Videos, v), append(f.Sets[0].Scores, score)
		}
	}
	f.Data = Digest(f.Videos)
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "11000000 pairs, at most 10000000") {
		t.Errorf("%v", err)
	}
}
