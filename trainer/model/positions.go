package model

import "math"

// Positions returns the sin-cos position table [T·H·W, D] for the token grid
// (t, h, w): channels for time, then height, then width, each a block of sines and a
// block of cosines with frequencies 10000^(-i/(block/2)). The kind says how wide the
// blocks are. Source: facebookresearch/jepa, src/models/utils/pos_embs.py.
func Positions(kind string, t, h, w, d int) []float32 {
	time, space := d/2, d/4
	if kind == SinCosUniform {
		time = int(math.Ceil(float64(d)/6)) * 2
		space = time // the three blocks may exceed D together: the surplus is cut
	}
	out := make([]float32, t*h*w*d)
	row := make([]float64, 0, time+2*space)
	for i := 0; i < t*h*w; i++ {
		row = sinCos(row[:0], i/(h*w), time)
		row = sinCos(row, i/w%h, space)
		row = sinCos(row, i%w, space)
		for j := 0; j < d; j++ {
			out[i*d+j] = float32(row[j])
		}
	}
	return out
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
