package graph

import (
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Float is an element type that the operations run in.
type Float interface{ float32 | float64 }

// run calls the implementation for the element type of the first floating-point input.
func run(in []G.Value, f32, f64 func([]G.Value) (G.Value, error)) (G.Value, error) {
	for _, v := range in {
		switch v.Dtype() {
		case tensor.Float32:
			return f32(in)
		case tensor.Float64:
			return f64(in)
		}
	}
	return nil, fmt.Errorf("none of the %d inputs is float32 or float64", len(in))
}

// floats returns the elements of v, row-major.
func floats[F Float](v G.Value) []F { return v.Data().([]F) }

// ints returns the elements of an int32 vector.
func ints(v G.Value) []int32 { return v.Data().([]int32) }

// value wraps x as a dense tensor of the given shape.
func value[F Float](x []F, shape ...int) G.Value {
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(x))
}

// narrow rounds sums, which are always kept in float64, to the element type.
func narrow[F Float](x []float64) []F {
	out := make([]F, len(x))
	for i, v := range x {
		out[i] = F(v)
	}
	return out
}

// segments checks offsets against the number of rows they divide and returns them.
func segments(what string, v G.Value, rows int) ([]int32, error) {
	off := ints(v)
	if len(off) < 2 || off[0] != 0 {
		return nil, fmt.Errorf("%s: want at least two offsets, the first 0; got %d beginning with %v", what, len(off), off[:min(len(off), 2)])
	}
	for s := 1; s < len(off); s++ {
		if off[s] < off[s-1] || int(off[s]) > rows {
			return nil, fmt.Errorf("%s: offset %d is %d after %d, with %d rows", what, s, off[s], off[s-1], rows)
		}
	}
	return off, nil
}
