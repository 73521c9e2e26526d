package plausibility

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"slices"

	"github.com/surmise-ml/surmise/video"
)

// WindowStarts returns the first frame of every whole window of a video: 0,
// stride, 2*stride, … Frames after the last whole window are not scored, as
// published; a video shorter than a window has none.
func WindowStarts(frames, window, stride int) []int {
	var starts []int
	for from := 0; from+window <= frames; from += stride {
		starts = append(starts, from)
	}
	return starts
}

// reducer turns token errors into surprise.
type reducer struct {
	spec          Spec
	tubelets      int       // of a window
	tubeletTokens int       // tokens of one tubelet, H*W
	sorted        []float32 // scratch: one tubelet's errors
}

// contextSurprise is one window at one context length.
type contextSurprise struct {
	surprise float64   // mean over all predicted tokens, or over tubelets of their worst
	peak     float64   // largest tubelet
	tubelet  []float64 // [tubelets] mean error of the tubelet's (worst) tokens; NaN where none was predicted
}

// reduce checks one window's errors against the contexts it was to be scored at, nil for the spec's, and reduces each.
func (r *reducer) reduce(window WindowErrors, contexts []int) ([]contextSurprise, error) {
	number := len(contexts)
	if contexts == nil {
		contexts, number = r.spec.Contexts, r.spec.NumContexts()
	}
	if len(window) != number {
		return nil, fmt.Errorf("model returned %d contexts, the spec has %d", len(window), number)
	}
	out := make([]contextSurprise, len(window))
	for i, c := range window {
		want := 0
		if len(contexts) > 0 {
			want = contexts[i]
		}
		if c.Context != want {
			return nil, fmt.Errorf("model returned context %d at position %d, the spec has %d", c.Context, i, want)
		}
		s, err := r.context(c)
		if err != nil {
			return nil, fmt.Errorf("context %d: %w", c.Context, err)
		}
		out[i] = s
	}
	return out, nil
}

func (r *reducer) context(c ContextErrors) (contextSurprise, error) {
	s := contextSurprise{peak: math.Inf(-1), tubelet: make([]float64, r.tubelets)}
	if len(c.Tokens) == 0 || len(c.Tokens) != len(c.Errors) {
		return s, fmt.Errorf("model returned %d tokens and %d errors, want as many of both and at least one", len(c.Tokens), len(c.Errors))
	}
	for t := range s.tubelet {
		s.tubelet[t] = math.NaN()
	}
	var sum float64 // of all tokens
	var tubeletSum float64
	var predicted int // tubelets
	for from := 0; from < len(c.Tokens); {
		t := int(c.Tokens[from]) / r.tubeletTokens
		if c.Tokens[from] < 0 || t >= r.tubelets {
			return s, fmt.Errorf("token %d outside the grid of %d", c.Tokens[from], r.tubelets*r.tubeletTokens)
		}
		to := from
		for ; to < len(c.Tokens) && int(c.Tokens[to])/r.tubeletTokens == t; to++ {
			if to > 0 && c.Tokens[to] <= c.Tokens[to-1] {
				return s, fmt.Errorf("token %d after token %d, want ascending", c.Tokens[to], c.Tokens[to-1])
			}
			e := float64(c.Errors[to])
			if math.IsNaN(e) || math.IsInf(e, 0) || e < 0 {
				return s, fmt.Errorf("error of token %d is %g, want finite and not negative", c.Tokens[to], e)
			}
			sum += e
		}
		s.tubelet[t] = r.worst(c.Errors[from:to])
		s.peak = max(s.peak, s.tubelet[t])
		tubeletSum += s.tubelet[t]
		predicted++
		from = to
	}
	s.surprise = sum / float64(len(c.Tokens))
	if r.spec.TopTokens > 0 {
		s.surprise = tubeletSum / float64(predicted)
	}
	return s, nil
}

// worst is the mean of the TopTokens largest errors, or of all.
func (r *reducer) worst(errors []float32) float64 {
	if k := r.spec.TopTokens; k > 0 && k < len(errors) {
		r.sorted = append(r.sorted[:0], errors...)
		slices.SortFunc(r.sorted, func(a, b float32) int { return cmp.Compare(b, a) })
		errors = r.sorted[:k]
	}
	var sum float64
	for _, e := range errors {
		sum += float64(e)
	}
	return sum / float64(len(errors))
}

// Thumbnails are what videos of a group are matched by (compare.MatchByStart).
const (
	thumbnailCells = 16 // along each side
	// Of 255. Lossy coding moves the mean colour of a cell by a few levels; an event changes some cell by tens.
	thumbnailDifference = 12
)

// thumbnails returns the mean colour of each cell of each frame, [frames, cells*cells*3].
func thumbnails(c *video.Clip) [][]uint8 {
	out := make([][]uint8, c.Frames)
	for f := range out {
		out[f] = make([]uint8, 0, thumbnailCells*thumbnailCells*3)
		pix := c.Pix[f*c.Height*c.Width*3:]
		for cy := range thumbnailCells {
			y0, y1 := cellBounds(cy, c.Height)
			for cx := range thumbnailCells {
				x0, x1 := cellBounds(cx, c.Width)
				var sum [3]int
				for y := y0; y < y1; y++ {
					for x := x0; x < x1; x++ {
						for ch := range 3 {
							sum[ch] += int(pix[(y*c.Width+x)*3+ch])
						}
					}
				}
				for ch := range 3 {
					out[f] = append(out[f], uint8(sum[ch]/((y1-y0)*(x1-x0))))
				}
			}
		}
	}
	return out
}

// cellBounds are the pixels of one cell along a side; at least one.
func cellBounds(cell, pixels int) (from, to int) {
	from = min(cell*pixels/thumbnailCells, pixels-1)
	return from, max(from+1, (cell+1)*pixels/thumbnailCells)
}

// frameDigests tells frames apart to the last bit.
func frameDigests(c *video.Clip) []uint64 {
	out := make([]uint64, c.Frames)
	size := c.Height * c.Width * 3
	for f := range out {
		h := fnv.New64a()
		h.Write(c.Pix[f*size : (f+1)*size])
		out[f] = h.Sum64()
	}
	return out
}

// sharedStart is the first frame at which two videos differ visibly, or the
// length of the shorter one.
func sharedStart(a, b [][]uint8) int {
	n := min(len(a), len(b))
	for f := range n {
		for i := range a[f] {
			if visiblyDifferent(a[f][i], b[f][i]) {
				return f
			}
		}
	}
	return n
}

func visiblyDifferent(a, b uint8) bool {
	d := int(a) - int(b)
	return d > thumbnailDifference || d < -thumbnailDifference
}
