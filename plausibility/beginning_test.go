package plausibility

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// A window may be scored at contexts of its own, more or fewer than the others': its errors are those that a spec with
// these contexts gives, and nobody else's change.
func TestContextsOfAWindowsOwn(t *testing.T) {
	m := modelOf(model.Masked, func(c *model.Config) { c.Frames = 12 })
	windows := apart(m.Config, randomWindows(m.Config, 4))
	of := func(contexts []int, windows ...Window) []WindowErrors {
		t.Helper()
		net, err := m.Network(Spec{Window: 12, Contexts: contexts}, 3, cpu.Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer net.Close()
		var out []WindowErrors
		for range 2 { // the second time from what the first has left behind
			if out, err = net.Surprise(t.Context(), windows); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	own := slices.Clone(windows)
	own[1].Contexts, own[2].Contexts = []int{2, 4, 6, 8, 10}, []int{8}
	got := of([]int{4, 6}, own...)
	usual := of([]int{4, 6}, windows...)
	want := []WindowErrors{usual[0], of([]int{2, 4, 6, 8, 10}, windows[1])[0], of([]int{8}, windows[2])[0], usual[3]}
	if !reflect.DeepEqual(got, want) {
		t.Error("other errors than with a spec of the same contexts")
	}
	last, err := m.CopyLast(Spec{Window: 12, Contexts: []int{4, 6}}, 3, cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	copies, err := last.Surprise(t.Context(), own)
	if err != nil || len(copies[1]) != 5 || copies[1][3].Context != 8 || len(copies[1][3].Errors) != 2*4 {
		t.Errorf("copies of the last tubelet: %v, %v", copies, err)
	}
}

// The first window is scored at every context shorter than a row's own, before the others: an event in the first frames,
// which longer contexts hold already, is seen in every row, and at one and the same place.
func TestScoreTheBeginning(t *testing.T) {
	v, videos := quadruplets(t, 1)
	for name, clip := range v.clips { // the event at frame 4 in place of 8
		if name[1] >= '2' {
			patch(clip, 4, 4, clip.Pix[0]+60)
		}
	}
	c, d := testConfig(v, videos)
	c.Spec.Contexts, c.Spec.Beginning = []int{4, 6}, true
	c.Predictor = everyContext{d, c.Spec}
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// 14 frames, window 8, stride 2: 4 windows; one context before 4 and two before 6, by tubelets of 2.
	scores := f.Sets[0].Scores[2]
	if len(scores.Surprise[0]) != 5 || len(scores.Surprise[1]) != 6 || !closeTo(f.Videos[2].WindowStart, []float64{0, 0, 0, 0.2, 0.4, 0.6}) {
		t.Fatalf("surprise %v from windows at %v s", scores.Surprise, f.Videos[2].WindowStart)
	}
	// Frame 4 is hidden after contexts 2 and 4 of the first window, and in none later. The first two of either row are these.
	for row, values := range scores.Surprise {
		for i, x := range values {
			if (x > 0) != (i < 2) {
				t.Errorf("row %d: surprise %g at place %d", row, x, i)
			}
		}
		if values[0] != scores.Surprise[0][0] || values[1] != scores.Surprise[0][1] {
			t.Errorf("row %d begins with %v, row 0 with %v", row, values[:2], scores.Surprise[0][:2])
		}
	}
	for _, a := range []string{"avg", "max", "filtered_avg", "filtered_max", "avg@6"} {
		how, err := compare.ParseAggregation(a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Sets[0].Videos(f, how)
		if err != nil || !(got[2] > 0) || got[0] != 0 {
			t.Errorf("%s: %v, %v", a, got, err)
		}
	}
	f.Sets[0].Scores[2].Surprise[0] = append(f.Sets[0].Scores[2].Surprise[0], 1)
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "surprise[0]: 6 windows, the video has 5") {
		t.Errorf("a row that is too long: %v", err)
	}
}
