package compare

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// placed is a file of pairs whose impossible videos part at frame 9 in (20,20) and peak
// as told: frame, row and column for each.
func placed(peaks [][3]float64) *File {
	f := &File{Version: Version, Spec: Spec{Window: 8, Stride: 2, FrameStep: 1}, Size: 32, Grid: &Grid{Tubelet: 2, Patch: 8}, Decoder: "made up", Skipped: []Skipped{},
		Sets: []Set{{Name: ModelSet}}}
	for i, p := range peaks {
		for label := 1; label >= 0; label-- {
			v := Video{Path: fmt.Sprint(i, label), Label: label, Group: fmt.Sprint(i), Property: []string{"colour", "shape"}[i%2], Pair: "1", Frames: 16,
				WindowStart: []float64{0, 2, 4, 6, 8}, TubeletStart: []float64{2, 4, 6, 8, 10, 12, 14}, Divergence: &Place{Frame: 9, Second: 9, Row: 20, Column: 20}}
			f.Videos = append(f.Videos, v)
			m := [][]float64{make([]float64, 5)}
			f.Sets[0].Scores = append(f.Sets[0].Scores, Scores{Surprise: m, Peak: m, Curve: make([]float64, 7),
				PeakAt: &Place{Frame: int(p[0]), Second: p[0], Row: p[1], Column: p[2]}})
		}
	}
	f.Data = Digest(f.Videos)
	return f
}

// With Spec.Beginning the first window also predicts what comes before its first context.
func TestTubeletsOfTheBeginning(t *testing.T) {
	f := &File{Spec: Spec{Window: 8, Stride: 4, FrameStep: 1, Contexts: []int{4, 6}}, Grid: &Grid{Tubelet: 2}}
	for beginning, want := range map[bool][]int{false: {4, 6, 8, 10}, true: {2, 4, 6, 8, 10}} {
		f.Spec.Beginning = beginning
		if got := f.tubeletFrames(&Video{Frames: 12}); !slices.Equal(got, want) {
			t.Errorf("beginning %t: tubelets begin at %v, want %v", beginning, got, want)
		}
	}
}

// What a file claims of a video's length costs nothing.
func TestTubeletsOfEndlessVideos(t *testing.T) {
	f := &File{Spec: Spec{Window: 8, Stride: 1, FrameStep: 1}, Grid: &Grid{Tubelet: 1}}
	if got := f.tubeletFrames(&Video{Frames: math.MaxInt}); got != nil {
		t.Errorf("%d tubelets", len(got))
	}
}

func TestLocalizeByHand(t *testing.T) {
	// Tubelets begin at 2, 4, … 14. Frame 9 lies in that of 8; those of 6, 8, 10 and 12 are
	// within 3 frames of it (12 - 9 = 3), those of 4 (9 - 5 = 4) and 14 are not.
	f := placed([][3]float64{{8, 20, 20}, {6, 20, 28}, {14, 4, 4}, {12, 12, 20}})
	if err := f.Validate(); err != nil {
		t.Fatal(err)
	}
	l, err := Localize(f, 3, Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range l.Rows {
		names = append(names, r.Name)
	}
	if strings.Join(names, " ") != "colour shape all" {
		t.Errorf("rows %v", names)
	}
	all := l.Rows[2]
	c := all.Cells[0]
	if all.Videos != 4 || math.Abs(all.Chance-4.0/7) > 1e-12 || c.Hits != 3 || c.HitRate.Value != 0.75 || c.Pixels != (0+8+8)/3.0 {
		t.Errorf("got %+v, want 3 of 4 hits, chance 4/7, 16/3 px", all)
	}
	if c.Frames != 2.5 { // 0, 2, 3 and 5 frames away: (2 + 3) / 2
		t.Errorf("median of %g frames", c.Frames)
	}
	if c.HitRate.Low > 0.5 || c.HitRate.High != 1 {
		t.Errorf("interval %+v of three hits in four groups", c.HitRate)
	}
	// From (20,20) to the middles of 4×4 tokens.
	var want float64
	for _, row := range []float64{4, 12, 20, 28} {
		for _, column := range []float64{4, 12, 20, 28} {
			want += math.Hypot(row-20, column-20) / 16
		}
	}
	if math.Abs(c.PixelsChance-want) > 1e-12 {
		t.Errorf("by chance %g px, want %g", c.PixelsChance, want)
	}
	if again, err := Localize(f, 3, Options{Resamples: 500}); err != nil || again.Rows[2].Cells[0] != c {
		t.Error("the same seed gave other intervals")
	}
	none, err := Localize(placed([][3]float64{{14, 4, 4}, {2, 4, 4}}), 1, Options{Resamples: 100})
	if err != nil || none.Rows[2].Cells[0].Hits != 0 || none.Rows[2].Cells[0].Pixels != 0 {
		t.Errorf("without a hit: %+v, %v", none, err)
	}
}

func TestLocalizeRefuses(t *testing.T) {
	for want, spoil := range map[string]func(*File){
		"older version":     func(f *File) { f.Grid = nil },
		"no impossible":     func(f *File) { f.Videos[1].Divergence = nil },
		"no peak_at":        func(f *File) { f.Sets[0].Scores[1].PeakAt = nil },
		"the spec makes 11": func(f *File) { f.Videos[1].Frames = 24 },
	} {
		f := placed([][3]float64{{8, 20, 20}})
		spoil(f)
		_, err := Localize(f, 0, Options{Resamples: 100})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
		if strings.HasPrefix(want, "no ") && !errors.Is(err, ErrNoPlaces) {
			t.Errorf("%v is no ErrNoPlaces", err)
		}
	}
	for want, spoil := range map[string]func(*File){
		"divergence: frame 9": func(f *File) { f.Videos[1].Divergence.Row = 33 },
		"peak_at: frame -1":   func(f *File) { f.Sets[0].Scores[0].PeakAt.Frame = -1 },
		"grid: tubelets of 9": func(f *File) { f.Grid.Tubelet = 9 },
		"maps.videos: 3":      func(f *File) { f.Maps = &MapsFile{Videos: 3} },
	} {
		f := placed([][3]float64{{8, 20, 20}})
		spoil(f)
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
