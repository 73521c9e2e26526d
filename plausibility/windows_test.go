package plausibility

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/video"
)

func TestGoldenWindowStarts(t *testing.T) {
	var want struct {
		Frames int   `json:"frames"`
		Window int   `json:"frames_per_clip"`
		Stride int   `json:"stride"`
		Count  int   `json:"windows"`
		Starts []int `json:"window_starts"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	got := WindowStarts(want.Frames, want.Window, want.Stride)
	if len(got) != want.Count || !reflect.DeepEqual(got, want.Starts) {
		t.Errorf("windows of %d frames: %v, want %v", want.Frames, got, want.Starts)
	}
}

func TestWindowStarts(t *testing.T) {
	if got := WindowStarts(24, 8, 2); len(got) != 9 || got[8] != 16 {
		t.Errorf("24 frames, window 8, stride 2: %v, want 9 windows, the last from 16", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		frames, window, stride := rapid.IntRange(0, 50).Draw(t, "frames"), rapid.IntRange(1, 20).Draw(t, "window"), rapid.IntRange(1, 9).Draw(t, "stride")
		starts := WindowStarts(frames, window, stride)
		want := 0
		if frames >= window {
			want = (frames-window)/stride + 1
		}
		if len(starts) != want {
			t.Fatalf("%d windows, want %d", len(starts), want)
		}
		for i, from := range starts {
			if from != i*stride || from+window > frames {
				t.Fatalf("windows %v of %d frames", starts, frames)
			}
		}
	})
}

func TestReduceByHand(t *testing.T) {
	// 3 tubelets of 4 tokens; the first is context.
	errs := ContextErrors{Context: 2, Tokens: []int32{4, 5, 6, 7, 8, 9, 10, 11}, Errors: []float32{1, 2, 3, 4, 8, 0, 0, 0}}
	for _, c := range []struct {
		top            int
		surprise, peak float64
		tubelets       [2]float64
	}{
		{0, 18.0 / 8, 2.5, [2]float64{2.5, 2}},
		{1, 6, 8, [2]float64{4, 8}},
		{2, 3.75, 4, [2]float64{3.5, 4}},
		{9, 18.0 / 8, 2.5, [2]float64{2.5, 2}},
	} {
		r := reducer{spec: Spec{Window: 6, Contexts: []int{2}, TopTokens: c.top}, tubelets: 3, tubeletTokens: 4}
		got, err := r.reduce(WindowErrors{errs}, nil)
		if err != nil {
			t.Fatal(err)
		}
		g := got[0]
		if math.Abs(g.surprise-c.surprise) > 1e-12 || g.peak != c.peak || !math.IsNaN(g.tubelet[0]) || g.tubelet[1] != c.tubelets[0] || g.tubelet[2] != c.tubelets[1] {
			t.Errorf("top %d: %+v, want %+v", c.top, g, c)
		}
	}
	if errs.Errors[4] != 8 || errs.Errors[5] != 0 {
		t.Error("the model's errors were reordered")
	}
}

func TestReduceRefuses(t *testing.T) {
	nan := float32(math.NaN())
	for want, w := range map[string]WindowErrors{
		"0 contexts, the spec has 1":    {},
		"context 4 at position 0":       {{4, []int32{8}, []float32{1}}},
		"0 tokens and 0 errors":         {{2, nil, nil}},
		"1 tokens and 2 errors":         {{2, []int32{4}, []float32{1, 2}}},
		"token 12 outside the grid":     {{2, []int32{12}, []float32{1}}},
		"token -1 outside the grid":     {{2, []int32{-1}, []float32{1}}},
		"token 5 after token 6":         {{2, []int32{6, 5}, []float32{1, 1}}},
		"token 4 after token 8":         {{2, []int32{8, 4}, []float32{1, 1}}},
		"error of token 5 is NaN":       {{2, []int32{4, 5}, []float32{1, nan}}},
		"error of token 4 is -1":        {{2, []int32{4}, []float32{-1}}},
		"error of token 4 is +Inf":      {{2, []int32{4}, []float32{float32(math.Inf(1))}}},
		"2 contexts, the spec has 1":    {{2, []int32{4}, []float32{1}}, {4, []int32{8}, []float32{1}}},
		"context 0 at position 0, the ": {{0, []int32{4}, []float32{1}}},
	} {
		r := reducer{spec: Spec{Window: 6, Contexts: []int{2}}, tubelets: 3, tubeletTokens: 4}
		if _, err := r.reduce(w, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want an error with %q", w, err, want)
		}
	}
}

func TestSharedStart(t *testing.T) {
	a, b := solidClip(10, 32, 100), solidClip(10, 32, 100)
	if got := sharedStart(thumbnails(a), thumbnails(b)); got != 10 {
		t.Errorf("equal videos share %d frames, want 10", got)
	}
	for i := range b.Pix { // coding noise on all pixels
		b.Pix[i] += uint8(i % 7)
	}
	patch(b, 6, 8, 200)
	if got := sharedStart(thumbnails(a), thumbnails(b)); got != 6 {
		t.Errorf("noisy videos that part at frame 6 share %d", got)
	}
	small := solidClip(2, 5, 9) // fewer pixels than cells
	if got := sharedStart(thumbnails(small), thumbnails(small)); got != 2 {
		t.Errorf("tiny videos share %d frames, want 2", got)
	}
}

// solidClip is frames of one grey, 10 frames a second.
func solidClip(frames, size int, grey uint8) *video.Clip {
	c := &video.Clip{Frames: frames, Height: size, Width: size, Pix: make([]uint8, frames*size*size*3)}
	for i := range c.Pix {
		c.Pix[i] = grey
	}
	for f := range frames {
		c.Times = append(c.Times, float64(f)/10)
	}
	return c
}

// patch paints the top left corner of every frame from one on.
func patch(c *video.Clip, from, side int, grey uint8) {
	for f := from; f < c.Frames; f++ {
		for y := range side {
			for x := range side * 3 {
				c.Pix[(f*c.Height+y)*c.Width*3+x] = grey
			}
		}
	}
}
