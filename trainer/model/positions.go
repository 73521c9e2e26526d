package model

import (
	"fmt"
	"maps"
	"math"
	"strings"
)

// Positions returns the sin-cos position table [T·H·W, D] for the token grid
// (t, h, w): channels for time, then height, then width, each a block of sines and a
// block of cosines with frequencies 10000^(-i/(block/2)). The kind says how wide the
// blocks are. Source: facebookresearch/jepa, src/models/utils/pos_embs.py.
func Positions(kind string, t, h, w, d int) []float32 {
	out := make([]float32, 0, t*h*w*d)
	for i := range t * h * w {
		for _, x := range Position(kind, i/(h*w), i/w%h, i%w, d) {
			out = append(out, float32(x))
		}
	}
	return out
}

// Position is one row of a position table: the d channels of token (t, h, w).
func Position(kind string, t, h, w, d int) []float64 {
	time, space := d/2, d/4
	if kind == SinCosUniform {
		time = int(math.Ceil(float64(d)/6)) * 2
		space = time // the three blocks may exceed D together: the surplus is cut
	}
	row := make([]float64, 0, time+2*space)
	return sinCos(sinCos(sinCos(row, t, time), h, space), w, space)[:d]
}

// sinCos appends the width channels of position pos: sines, then cosines.
func sinCos(row []float64, pos, width int) []float64 {
	half := width / 2
	for _, f := range []func(float64) float64{math.Sin, math.Cos} {
		for i := 0; i < half; i++ {
			row = append(row, f(float64(pos)*math.Pow(10000, -float64(i)/float64(half))))
		}
	}
	return row
}

// Grid is a token grid.
type Grid struct{ T, H, W int }

func (g Grid) tokens() int { return g.T * g.H * g.W }

// ResizePositions returns a position table [N,D] of one grid for another one, by trilinear interpolation with
// half-pixel centres and the edge rows repeated outward: what the published encoder does with a clip of another size than
// it was configured for. Source: facebookresearch/jepa, interpolate_pos_encoding of vision_transformer.py.
func ResizePositions(table []float32, from, to Grid) []float32 {
	d := len(table) / from.tokens()
	out := make([]float32, 0, to.tokens()*d)
	sum := make([]float64, d)
	for i := range to.tokens() {
		clear(sum)
		ts := neighbours(i/(to.H*to.W), to.T, from.T)
		hs := neighbours(i/to.W%to.H, to.H, from.H)
		ws := neighbours(i%to.W, to.W, from.W)
		for _, t := range ts {
			for _, h := range hs {
				for _, w := range ws {
					weight := t.weight * h.weight * w.weight
					if weight == 0 {
						continue
					}
					row := table[((t.at*from.H+h.at)*from.W+w.at)*d:][:d]
					for j, x := range row {
						sum[j] += weight * float64(x)
					}
				}
			}
		}
		for _, x := range sum {
			out = append(out, float32(x))
		}
	}
	return out
}

// neighbour is a row to take a share of.
type neighbour struct {
	at     int
	weight float64
}

// neighbours are the two rows of from between which row i of to lies.
func neighbours(i, to, from int) [2]neighbour {
	x := max(0, (float64(i)+0.5)*float64(from)/float64(to)-0.5)
	low := min(int(x), from-1)
	share := x - float64(low)
	return [2]neighbour{{low, 1 - share}, {min(low+1, from-1), share}}
}

// Resize returns the same model for clips of another number of frames and size, px, and its weights: position tables are
// resized, all else is shared with the weights given. A model of rotary positions has no tables.
func (c Config) Resize(frames, height, width int, weights map[string][]float32) (Config, map[string][]float32, error) {
	to := c
	to.Frames, to.Size, to.Height, to.Width = frames, height, 0, 0
	if height != width {
		to.Height, to.Width = height, width
		to.Size = min(height, width)
	}
	if err := to.Validate(); err != nil {
		return c, nil, fmt.Errorf("resize to %d frames of %d×%d px: %w", frames, height, width, err)
	}
	a, b := c.TokenGrid(), to.TokenGrid()
	out := maps.Clone(weights)
	for name, table := range weights {
		if strings.HasSuffix(name, "pos_embed") && a != b {
			out[name] = ResizePositions(table, a, b)
		}
	}
	return to, out, nil
}

// TokenGrid is Grid as one value.
func (c Config) TokenGrid() Grid {
	t, h, w := c.Grid()
	return Grid{t, h, w}
}
