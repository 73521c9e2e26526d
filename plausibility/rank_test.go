package plausibility

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// counted is a clip whose frame f is all of grey f.
func counted(frames, size int) *video.Clip {
	c := solidClip(frames, size, 0)
	for i := range c.Pix {
		c.Pix[i] = uint8(i / (size * size * 3))
	}
	return c
}

func ranker(read func(path string) *video.Clip) (*Ranker, *changeDetector) {
	d := &changeDetector{size: 16, patch: 4, tubelet: 2, window: 8}
	return &Ranker{Predictor: d, Spec: Spec{Window: 8}, Size: 16, Patch: 4, Tubelet: 2,
		Read: func(_ context.Context, path string, _ video.ReadOptions) (*video.Clip, error) {
			if c := read(filepath.Base(path)); c != nil {
				return c, nil
			}
			return nil, errors.New("no such video")
		}}, d
}

func TestMadeFutures(t *testing.T) {
	r, _ := ranker(nil)
	r.setDefaults()
	for kind, want := range map[string]string{ // 4 frames of past, 4 of future
		TimeDirection: "5 forward [5 6 7 8] backward [3 2 1 0]",
		Speed:         "4 as it was [4 5 6 7] twice as fast [5 7 9 11] half as fast [3 4 4 5] standing still [3 3 3 3]",
	} {
		futures, from, err := r.made(RankSet{Make: kind}, &video.Clip{Frames: 12})
		got := fmt.Sprint(from)
		for _, f := range futures {
			got += fmt.Sprintf(" %s %v", f.name, f.frames)
		}
		if err != nil || got != want {
			t.Errorf("%s: %s (%v), want %s", kind, got, err, want)
		}
	}
	orders := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		clip := &video.Clip{Frames: 8, Pix: []byte(name)}
		futures, _, err := r.made(RankSet{Context: name, Make: Shuffle}, clip)
		if err != nil || len(futures) != 4 || !slices.Equal(futures[0].frames, []int{4, 5, 6, 7}) {
			t.Fatalf("shuffled: %v, %v", futures, err)
		}
		for _, f := range futures {
			orders[name+fmt.Sprint(f.frames)] = true
			sorted := slices.Clone(f.frames)
			slices.Sort(sorted)
			if !slices.Equal(sorted, []int{4, 5, 6, 7}) {
				t.Errorf("%s is %v, no order of 4 to 7", f.name, f.frames)
			}
		}
		again, _, _ := r.made(RankSet{Context: "elsewhere", Make: Shuffle}, clip)
		if fmt.Sprint(again) != fmt.Sprint(futures) {
			t.Error("the same seed gave other orders of a clip that lies elsewhere")
		}
	}
	if len(orders) != 8 {
		t.Errorf("%d different orders for two clips, want 8", len(orders))
	}
	for kind, frames := range map[string]int{TimeDirection: 8, Speed: 11, Shuffle: 7} {
		if _, _, err := r.made(RankSet{Make: kind}, &video.Clip{Frames: frames}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("has %d frames after sampling, make %s needs %d", frames, kind, frames+1)) {
			t.Errorf("%s of %d frames: %v", kind, frames, err)
		}
	}
}

// A detector of change from one tubelet to the next: standing still costs nothing, nor does
// half as fast, which repeats the frame before; twice as fast costs most.
func TestRankMade(t *testing.T) {
	r, _ := ranker(func(string) *video.Clip { return counted(32, 16) })
	got, err := r.Rank(t.Context(), RankSet{Context: "clip", Make: Speed})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, f := range got.Futures {
		names = append(names, f.Name)
		want := 0.0
		if i > 0 {
			want = f.Energy - got.Futures[i-1].Energy
		}
		if f.Margin != want || f.Energy != f.Mean {
			t.Errorf("%+v: margin should be %g", f, want)
		}
	}
	if got.Frames != 4 || got.ContextFrames != 4 || !slices.Equal(names[2:], []string{"as it was", "twice as fast"}) {
		t.Errorf("%d frames after %d: %v", got.Frames, got.ContextFrames, names)
	}
	if got.Futures[1].Energy > 1e-6 || math.Abs(got.Futures[3].Energy/got.Futures[2].Energy-2) > 1e-3 {
		t.Errorf("energies %+v: want nothing for the first two, twice as much for twice as fast", got.Futures)
	}
	s := SummarizeRankings([]Ranking{got}, true)
	if len(s) != 1 || s[0].First != 0 || s[0].Chance != 0.25 || s[0].Interval.High < 0.97 || s[0].Twin == nil {
		t.Errorf("summary %+v", s)
	}
}

// Candidates of several lengths are compared over the shortest, in every window that
// holds some of them; only their own tubelets count.
func TestRankCandidates(t *testing.T) {
	clips := map[string]*video.Clip{"past": counted(9, 16), "quiet": solidClip(9, 16, 8), "late": solidClip(12, 16, 8), "jump": solidClip(8, 16, 108)}
	patch(clips["late"], 8, 16, 200) // after what is compared
	r, d := ranker(func(name string) *video.Clip { return clips[name] })
	got, err := r.Rank(t.Context(), RankSet{Context: "past", Candidates: []string{"jump", "quiet", "late"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Frames != 8 || got.Futures[0].Candidate != 1 || got.Futures[1].Candidate != 2 || got.Futures[2].Candidate != 0 {
		t.Fatalf("%+v, want quiet, late, jump over 8 frames", got)
	}
	if got.Futures[1].Margin != 0 || got.Futures[0].Energy != got.Futures[1].Energy {
		t.Errorf("quiet and late are alike over 8 frames: %+v", got.Futures)
	}
	// 4 + 8 frames: windows from 0, 2 and 4. The jump of 100 levels is at the first of four
	// tubelets; all 48 values of a token change by it, in units of 255 and the channel's deviation.
	if !slices.Equal(d.calls, []int{9}) {
		t.Errorf("windows %v, want those of all candidates at once, 9", d.calls)
	}
	jump := got.Futures[2]
	token := 16 * (100.0 / 255) * (1/0.229 + 1/0.224 + 1/0.225)
	if math.Abs(jump.Peak-token)/token > 1e-3 || math.Abs(jump.Mean-token/4)/token > 1e-3 {
		t.Errorf("jump: mean %g and peak %g, want %g and %g", jump.Mean, jump.Peak, token/4, token)
	}
	r.Measure = PeakEnergy
	if got, err = r.Rank(t.Context(), RankSet{Context: "past", Candidates: []string{"jump", "quiet"}}); err != nil || got.Futures[1].Energy != got.Futures[1].Peak {
		t.Errorf("by peak: %+v, %v", got, err)
	}
}

func TestRankOfModels(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		m := smallModel(objective)
		net, err := m.Network(specFor(objective), 3, cpu.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		r := &Ranker{Predictor: net, Twin: net, Spec: specFor(objective), Size: 16, Patch: 8, Tubelet: 2, ContextFrames: 2, Batch: 3,
			Read: func(context.Context, string, video.ReadOptions) (*video.Clip, error) { return counted(20, 16), nil }}
		got, err := r.Rank(t.Context(), RankSet{Context: "clip", Make: Shuffle})
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range got.Futures {
			if f.Twin != f.Energy || i > 0 && f.Energy < got.Futures[i-1].Energy || !(f.Energy > 0) {
				t.Errorf("%s: %+v", objective, got.Futures)
			}
		}
		if err := net.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRankRefuses(t *testing.T) {
	clips := map[string]*video.Clip{"past": counted(9, 16), "short": counted(2, 16), "fine": counted(8, 16), "long": counted(9, 16)}
	clips["long"].More = true
	for want, c := range map[string]struct {
		change func(*Ranker)
		set    RankSet
	}{
		"context_frames: 3":                         {func(r *Ranker) { r.ContextFrames = 3 }, RankSet{Context: "past", Make: Shuffle}},
		"context_frames: 8":                         {func(r *Ranker) { r.ContextFrames = 8 }, RankSet{Context: "past", Make: Shuffle}},
		"measure: \"sum\"":                          {func(r *Ranker) { r.Measure = "sum" }, RankSet{Context: "past", Make: Shuffle}},
		"make: \"mirror\"":                          {nil, RankSet{Context: "past", Make: "mirror"}},
		"candidates: 1":                             {nil, RankSet{Context: "past", Candidates: []string{"fine"}}},
		"context: no such":                          {nil, RankSet{Context: "gone", Make: Shuffle}},
		"candidates[1]: no such":                    {nil, RankSet{Context: "past", Candidates: []string{"fine", "gone"}}},
		"the shortest has 2":                        {nil, RankSet{Context: "past", Candidates: []string{"fine", "short"}}},
		"long goes on after 9":                      {nil, RankSet{Context: "long", Candidates: []string{"fine", "fine"}}},
		"short has 2 frames after sampling, contex": {nil, RankSet{Context: "short", Candidates: []string{"fine", "fine"}}},
	} {
		r, _ := ranker(func(name string) *video.Clip { return clips[name] })
		if c.change != nil {
			c.change(r)
		}
		if _, err := r.Rank(t.Context(), c.set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// A tie is no win, whatever its place in the order; the interval is exact.
func TestSummarizeRankings(t *testing.T) {
	ranking := func(actual, other float64) Ranking {
		return Ranking{Make: TimeDirection, Futures: []RankedFuture{{Candidate: 0, Energy: actual, Twin: other}, {Candidate: 1, Energy: other, Twin: actual}}}
	}
	var all []Ranking
	for range 8 {
		all = append(all, ranking(1, 2))
	}
	all = append(all, ranking(1, 1), ranking(3, 2))
	s := SummarizeRankings(all, true)
	if len(s) != 1 || s[0].Sets != 10 || s[0].First != 8 || s[0].Chance != 0.5 || s[0].Twin.Value != 0.1 {
		t.Fatalf("summary %+v", s)
	}
	// Tables of the exact binomial interval give 44.39 % to 97.48 % for 8 of 10.
	if math.Abs(s[0].Interval.Low-0.4439) > 1e-4 || math.Abs(s[0].Interval.High-0.9748) > 1e-4 {
		t.Errorf("interval %+v", s[0].Interval)
	}
}
