package plausibility

import (
	"maps"
	"math"
	"slices"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// track collects the surprise of a video's tubelets, by their first frame, over all
// windows and contexts that predict them.
type track struct {
	tokens  int // of a tubelet, H*W
	tubelet map[int]*trackedTubelet
}

type trackedTubelet struct {
	sum    float64 // of the mean error of its (worst) tokens
	n      int
	errors []float64 // [tokens] sums
	counts []int32   // [tokens]
}

// add takes one window at one context length that begins at frame from.
func (k *track) add(c ContextErrors, tubelets []float64, from, frames int) {
	for t, x := range tubelets {
		if !math.IsNaN(x) {
			at := k.at(from + t*frames)
			at.sum += x
			at.n++
		}
	}
	for i, token := range c.Tokens {
		at := k.at(from + int(token)/k.tokens*frames)
		at.errors[int(token)%k.tokens] += float64(c.Errors[i])
		at.counts[int(token)%k.tokens]++
	}
}

func (k *track) at(frame int) *trackedTubelet {
	t := k.tubelet[frame]
	if t == nil {
		t = &trackedTubelet{errors: make([]float64, k.tokens), counts: make([]int32, k.tokens)}
		k.tubelet[frame] = t
	}
	return t
}

// frames are the first frames of the tubelets.
func (k *track) frames() []int { return slices.Sorted(maps.Keys(k.tubelet)) }

// curve is the surprise over time.
func (k *track) curve() []float64 {
	var out []float64
	for _, f := range k.frames() {
		out = append(out, k.tubelet[f].sum/float64(k.tubelet[f].n))
	}
	return out
}

// mapOf is the surprise over time and space, 0 where no token was predicted; side is H and W.
func (k *track) mapOf(side int) heat.Map {
	frames := k.frames()
	m := heat.Map{Tubelets: len(frames), Height: side, Width: side, Values: make([]float32, 0, len(frames)*k.tokens)}
	for _, f := range frames {
		t := k.tubelet[f]
		for i, e := range t.errors {
			m.Values = append(m.Values, float32(e/float64(max(1, t.counts[i]))))
		}
	}
	return m
}

// peak is the curve's largest tubelet and its worst token.
func (k *track) peak(times []float64, side, patch int) *compare.Place {
	frames, curve := k.frames(), k.curve()
	largest := 0
	for i, x := range curve {
		if x > curve[largest] {
			largest = i
		}
	}
	t := k.tubelet[frames[largest]]
	worst, value := 0, math.Inf(-1)
	for i, e := range t.errors {
		if mean := e / float64(max(1, t.counts[i])); t.counts[i] > 0 && mean > value {
			worst, value = i, mean
		}
	}
	return &compare.Place{Frame: frames[largest], Second: times[frames[largest]],
		Row: (float64(worst/side) + 0.5) * float64(patch), Column: (float64(worst%side) + 0.5) * float64(patch)}
}

// locate says where the two videos of each pair of a group part.
func locate(videos []scoredVideo, size int) {
	for i := range videos {
		for k := range videos {
			a, b := &videos[i], &videos[k]
			if a.video.Label == 1 && b.video.Label == 0 && a.video.Pair == b.video.Pair && a.video.Pair != "" {
				a.video.Divergence = divergence(a.thumbnails, b.thumbnails, a.times, size)
				b.video.Divergence = divergence(a.thumbnails, b.thumbnails, b.times, size)
			}
		}
	}
}

// divergence is the first frame in which two videos differ visibly, and the middle of the
// cells that do. nil if there is none.
func divergence(a, b [][]uint8, times []float64, size int) *compare.Place {
	shared := sharedStart(a, b)
	if shared >= len(a) || shared >= len(b) {
		return nil
	}
	var row, column, n float64
	for cell := range thumbnailCells * thumbnailCells {
		for ch := range 3 {
			if !visiblyDifferent(a[shared][cell*3+ch], b[shared][cell*3+ch]) {
				continue
			}
			y0, y1 := cellBounds(cell/thumbnailCells, size)
			x0, x1 := cellBounds(cell%thumbnailCells, size)
			row, column, n = row+float64(y0+y1)/2, column+float64(x0+x1)/2, n+1
			break
		}
	}
	return &compare.Place{Frame: shared, Second: times[shared], Row: row / n, Column: column / n}
}
