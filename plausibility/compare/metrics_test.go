package compare

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/surmise-ml/surmise/internal/golden"
)

func TestAUROCKnownCases(t *testing.T) {
	cases := []struct {
		name                 string
		possible, impossible []float64
		want                 float64
	}{
		{"perfect", []float64{1, 2}, []float64{3, 4}, 1},
		{"reversed", []float64{3, 4}, []float64{1, 2}, 0},
		{"all tied", []float64{1, 1, 1}, []float64{1, 1}, 0.5},
		{"one tie", []float64{1, 2}, []float64{2, 3}, 0.875},
		{"by hand", []float64{1, 3, 5}, []float64{2, 4}, 0.5},
	}
	for _, c := range cases {
		if got := AUROC(c.possible, c.impossible); math.Abs(got-c.want) > 1e-15 {
			t.Errorf("%s: AUROC = %g, want %g", c.name, got, c.want)
		}
	}
}

func TestAUPRCKnownCases(t *testing.T) {
	if got := AUPRC([]float64{1, 2}, []float64{3, 4}); got != 1 {
		t.Errorf("perfect: %g, want 1", got)
	}
	// Order: impossible, possible. Points (recall, precision): (0,1) (0,0) (1,1/2).
	if got := AUPRC([]float64{2}, []float64{1}); math.Abs(got-0.25) > 1e-15 {
		t.Errorf("reversed pair: %g, want 0.25", got)
	}
}

// AUROC and its weighted form against counting every pair of videos; in the
// weighted form two draws of one group do not meet.
func TestAUROCAgainstCounting(t *testing.T) {
	type video struct {
		surprise    float64
		group, draw int
	}
	count := func(possible, impossible []video, meet func(p, q video) bool) float64 {
		var won, all float64
		for _, p := range possible {
			for _, q := range impossible {
				if !meet(p, q) {
					continue
				}
				all++
				switch {
				case p.surprise < q.surprise:
					won++
				case p.surprise == q.surprise:
					won += 0.5
				}
			}
		}
		return won / all
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "groups")
		var possible, impossible []video
		var flatPossible, flatImpossible, surprise, weight []float64
		var groups []group
		for g := range n {
			p, q := float64(rapid.IntRange(0, 6).Draw(t, "possible")), float64(rapid.IntRange(0, 6).Draw(t, "impossible")) // few values: many ties
			w := rapid.IntRange(min(1, n-1-g), 3).Draw(t, "weight")
			if n == 1 {
				w = 1
			}
			weight = append(weight, float64(w))
			for draw := range w {
				possible, impossible = append(possible, video{p, g, draw}), append(impossible, video{q, g, draw})
				flatPossible, flatImpossible = append(flatPossible, p), append(flatImpossible, q)
			}
			groups = append(groups, group{possible: []int{2 * g}, impossible: []int{2*g + 1}})
			surprise = append(surprise, p, q)
		}
		want := count(possible, impossible, func(video, video) bool { return true })
		if got := AUROC(flatPossible, flatImpossible); math.Abs(got-want) > 1e-12 {
			t.Fatalf("AUROC(%v, %v) = %g, want %g", flatPossible, flatImpossible, got, want)
		}
		want = count(possible, impossible, func(p, q video) bool { return p.group != q.group || p.draw == q.draw })
		r := judge(groups, surprise)
		if got := weightedAUROC(&r, weight); math.Abs(got-want) > 1e-12 {
			t.Fatalf("weighted AUROC = %g, want %g", got, want)
		}
	})
}

func TestSingleVideosNeedsTen(t *testing.T) {
	surprise := make([]float64, 18)
	labels := make([]int, 18)
	for i := range surprise {
		surprise[i], labels[i] = float64(i), (i+1)%2
	}
	s, err := SingleVideos(surprise, labels)
	if err != nil {
		t.Fatal(err)
	}
	if s.AbsoluteAccuracy != nil || s.Warning == "" {
		t.Errorf("9 possible videos: accuracy %v, warning %q; want none and a warning", s.AbsoluteAccuracy, s.Warning)
	}
	s, err = SingleVideos(append(surprise, 100, 101), append(labels, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	// Possible 0 2 … 16 100, threshold 100: nine below it; impossible 1 3 … 17 101, one above it.
	if s.Threshold == nil || *s.Threshold != 100 || *s.AbsoluteAccuracy != 0.5 {
		t.Errorf("10 possible videos: %+v, want threshold 100 and accuracy 0.5", s)
	}
}

// The oracle is the best over all thresholds, so no threshold beats it.
func TestBestAbsoluteIsTheBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(t, "n")
		surprise, labels := make([]float64, n), make([]int, n)
		for i := range n {
			surprise[i] = float64(rapid.IntRange(0, 8).Draw(t, "surprise"))
			labels[i] = i % 2
		}
		s, err := SingleVideos(surprise, labels)
		if err != nil {
			t.Fatal(err)
		}
		count := func(threshold float64) float64 {
			right := 0
			for i, x := range surprise {
				if labels[i] == 1 && x < threshold || labels[i] == 0 && x > threshold {
					right++
				}
			}
			return float64(right) / float64(n)
		}
		if got := count(*s.BestThreshold); got != s.BestAbsoluteAccuracy {
			t.Fatalf("best threshold %g gives %g, reported %g", *s.BestThreshold, got, s.BestAbsoluteAccuracy)
		}
		for threshold := -0.5; threshold < 9; threshold += 0.5 {
			if count(threshold) > s.BestAbsoluteAccuracy {
				t.Fatalf("threshold %g gives %g, above the reported best %g", threshold, count(threshold), s.BestAbsoluteAccuracy)
			}
		}
	})
}

func TestPublishedRefuses(t *testing.T) {
	row := []float32{1, 2}
	few, labels := [][]float32{row, row}, []int{1, 0}
	for name, c := range map[string]struct {
		losses [][]float32
		labels []int
	}{
		"too few":   {few, labels},
		"one label": {few, []int{1, 1}},
		"ragged":    {[][]float32{row, row[:1]}, labels},
		"NaN":       {[][]float32{{float32(math.NaN())}, {1}}, labels},
	} {
		if _, err := Published(c.losses, c.labels); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAggregations(t *testing.T) {
	f := &File{Spec: Spec{Window: 8, Contexts: []int{2, 4}}}
	set := &Set{Scores: []Scores{{
		Surprise: [][]float64{{1, 5, 3}, {3, 1, 8}},
		Peak:     [][]float64{{2, 6, 4}, {4, 2, 10}},
	}}}
	for text, want := range map[string]float64{
		"avg": 3.5, "max": 5.5, "filtered_avg": 5.0 / 3, "filtered_max": 3, "peak": 7, "peak_avg": 14.0 / 3,
		"avg@2": 3, "max@4": 8, "peak@2": 6,
	} {
		a, err := ParseAggregation(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := set.Videos(f, a)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(got[0]-want) > 1e-12 {
			t.Errorf("%s = %g, want %g", text, got[0], want)
		}
		if a.String() != text {
			t.Errorf("%q prints as %q", text, a)
		}
	}
	for _, text := range []string{"", "mean", "avg@", "avg@0", "avg@x", "filtered_avg@2"} {
		if _, err := ParseAggregation(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
	if _, err := set.Videos(f, Aggregation{"avg", 6}); err == nil {
		t.Error("context 6 was not scored, but no error")
	}
}

// Both videos of a pair begin with the same bounce, their largest surprise. From where they part, at 0.25 s, which lies
// in the tubelet that begins at 0.2 s, the impossible one surprises more.
func TestAggregationsOfTheParting(t *testing.T) {
	parting := &Place{Frame: 5, Second: 0.25}
	video := func(d *Place) Video {
		return Video{Path: "v.avi", TubeletStart: []float64{0.1, 0.2, 0.3, 0.4, 0.5}, Divergence: d}
	}
	f := &File{Spec: Spec{Window: 8}, Videos: []Video{video(parting), video(parting), video(nil), video(&Place{Second: 0.9}), video(&Place{Second: 0.05})}}
	possible, impossible := []float64{5, 1, 2, 2, 6}, []float64{5, 1, 4, 2, 1}
	set := &Set{}
	for _, curve := range [][]float64{possible, impossible, impossible, impossible, impossible} {
		set.Scores = append(set.Scores, Scores{Peak: [][]float64{{5}}, Curve: curve})
	}
	for name, want := range map[string][]float64{
		"peak":               {5, 5, 5, 5, 5},
		"peak_after_parting": {6, 4, 5, 1, 5}, // never parts: all; parts after the last tubelet: the last; before the first: all
		"peak_at_parting":    {2, 4, 5, 1, 5}, // not the 6 of later
	} {
		got, err := set.Videos(f, Aggregation{Name: name})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %v (%v), want %v", name, got, err, want)
		}
	}
	if at, peak := (Aggregation{Name: "peak_at_parting"}), (Aggregation{Name: "peak"}); !at.OfPairs() || peak.OfPairs() {
		t.Error("which statistics are of pairs")
	}
	set.Scores[4].Curve, f.Videos[4].TubeletStart = nil, nil
	if _, err := set.Videos(f, Aggregation{Name: "peak_at_parting"}); err == nil || !strings.Contains(err.Error(), "v.avi") {
		t.Errorf("a video without a curve: %v", err)
	}
	if _, err := ParseAggregation("peak_at_parting@2"); err == nil {
		t.Error("a context of what has none was accepted")
	}
	// Of a file whose frames all claim the same time, the frames tell.
	f = &File{Spec: Spec{Window: 12, Stride: 12}, Grid: &Grid{Tubelet: 2, Patch: 8}}
	timeless := &Video{Frames: 12, TubeletStart: make([]float64, 5), Divergence: &Place{Frame: 5}}
	if tubelet, ok := f.Parting(timeless); tubelet != 1 || !ok {
		t.Errorf("frame 5 is in tubelet %d (%v), want 1, that of frames 4 and 5 behind an unpredicted one", tubelet, ok)
	}
}

// The published code matched a quadruplet by the first frames at which videos 1 to
// 3 differ from video 0.
func TestGoldenMatchByStart(t *testing.T) {
	var want struct {
		Quadruplet struct {
			BreakingPoints [3]int    `json:"breaking_points"`
			Matches        [2][2]int `json:"matches"`
		} `json:"quadruplet"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	q := want.Quadruplet
	partner, other := q.Matches[0][1], q.Matches[1][1] // of video 0, and of the other possible video
	with0 := func(video int) int { return q.BreakingPoints[video-1] }
	if got := MatchByStart([][]int{{with0(partner), with0(other)}, {0, 0}}); !reflect.DeepEqual(got, []int{0, 1}) {
		t.Errorf("matches %v, want [0 1]", got)
	}
	if got := MatchByStart([][]int{{with0(other), with0(partner)}, {0, 0}}); !reflect.DeepEqual(got, []int{1, 0}) {
		t.Errorf("listed the other way round: matches %v, want [1 0]", got)
	}
	if got := MatchByStart([][]int{{1, 2, 3}}); got != nil {
		t.Errorf("one possible video, three impossible: %v, want no matching", got)
	}
}

// Any square matrix gives a permutation.
func TestMatchByStartIsOneToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "n")
		shared := make([][]int, n)
		for i := range shared {
			shared[i] = rapid.SliceOfN(rapid.IntRange(0, 4), n, n).Draw(t, "row")
		}
		seen := map[int]bool{}
		for _, q := range MatchByStart(shared) {
			if q < 0 || q >= n || seen[q] {
				t.Fatalf("%v matches as %v", shared, MatchByStart(shared))
			}
			seen[q] = true
		}
	})
}
