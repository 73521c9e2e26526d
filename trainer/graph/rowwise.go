package graph

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Operations that treat every row by itself: linear maps, GELU, LayerNorm, addition.

// LinearOp is y = x wᵀ + b. Inputs: x [R,K], w [D,K], b [D]. Result: [R,D].
type LinearOp struct{ typed }

// Linear returns x wᵀ + b, [R,D], for x [R,K], w [D,K] and b [D].
func Linear(x, w, b *G.Node) (*G.Node, error) { return apply(&LinearOp{}, x, 2, x, w, b) }

func (o *LinearOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if err := want("x", s[0], -1, -1); err != nil {
		return nil, err
	}
	if err := want("w", s[1], -1, s[0][1]); err != nil {
		return nil, err
	}
	if err := want("b", s[2], s[1][0]); err != nil {
		return nil, err
	}
	return tensor.Shape{s[0][0], s[1][0]}, nil
}

func (o *LinearOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, linear[float32], linear[float64])
}

func linear[F Float](in []G.Value) (G.Value, error) {
	r, k, d := in[0].Shape()[0], in[0].Shape()[1], in[1].Shape()[0]
	x, w, b := floats[F](in[0]), floats[F](in[1]), floats[F](in[2])
	y := make([]F, r*d)
	for i := 0; i < r; i++ {
		for j := 0; j < d; j++ {
			sum := float64(b[j])
			for l := 0; l < k; l++ {
				sum += float64(x[i*k+l]) * float64(w[j*k+l])
			}
			y[i*d+j] = F(sum)
		}
	}
	return value(y, r, d), nil
}

func (o *LinearOp) DiffWRT(int) []bool { return []bool{true, true, true} }
func (o *LinearOp) Grads(in G.Nodes, _, grad *G.Node, need []bool) (out G.Nodes, err error) {
	out = make(G.Nodes, 3)
	if need[0] {
		if out[0], err = apply(&LinearGradXOp{}, grad, 2, grad, in[1]); err != nil {
			return nil, err
		}
	}
	if need[1] {
		if out[1], err = apply(&LinearGradWOp{}, grad, 2, grad, in[0]); err != nil {
			return nil, err
		}
	}
	if need[2] {
		out[2], err = apply(&ColumnSumOp{}, grad, 1, grad)
	}
	return out, err
}

// LinearGradXOp is dx = dy w. Inputs: dy [R,D], w [D,K]. Result: [R,K].
type LinearGradXOp struct{ typed }

func (o *LinearGradXOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	return tensor.Shape{s[0][0], s[1][1]}, want("w", s[1], s[0][1], -1)
}

func (o *LinearGradXOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, linearGradX[float32], linearGradX[float64])
}

func linearGradX[F Float](in []G.Value) (G.Value, error) {
	r, d, k := in[0].Shape()[0], in[0].Shape()[1], in[1].Shape()[1]
	dy, w := floats[F](in[0]), floats[F](in[1])
	dx := make([]float64, r*k)
	for i := 0; i < r; i++ {
		for j := 0; j < d; j++ {
			for l := 0; l < k; l++ {
				dx[i*k+l] += float64(dy[i*d+j]) * float64(w[j*k+l])
			}
		}
	}
	return value(narrow[F](dx), r, k), nil
}

// LinearGradWOp is dw = dyᵀ x, summed over rows. Inputs: dy [R,D], x [R,K]. Result: [D,K].
type LinearGradWOp struct{ typed }

func (o *LinearGradWOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	return tensor.Shape{s[0][1], s[1][1]}, want("x", s[1], s[0][0], -1)
}

func (o *LinearGradWOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, linearGradW[float32], linearGradW[float64])
}

func linearGradW[F Float](in []G.Value) (G.Value, error) {
	r, d, k := in[0].Shape()[0], in[0].Shape()[1], in[1].Shape()[1]
	dy, x := floats[F](in[0]), floats[F](in[1])
	dw := make([]float64, d*k)
	for i := 0; i < r; i++ {
		for j := 0; j < d; j++ {
			for l := 0; l < k; l++ {
				dw[j*k+l] += float64(dy[i*d+j]) * float64(x[i*k+l])
			}
		}
	}
	return value(narrow[F](dw), d, k), nil
}

// ColumnSumOp sums over rows. Input: x [R,D]. Result: [D].
type ColumnSumOp struct{ typed }

func (o *ColumnSumOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	return tensor.Shape{s[0][1]}, nil
}

func (o *ColumnSumOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, columnSum[float32], columnSum[float64])
}

func columnSum[F Float](in []G.Value) (G.Value, error) {
	d := in[0].Shape()[1]
	out := make([]float64, d)
	for i, x := range floats[F](in[0]) {
		out[i%d] += float64(x)
	}
	return value(narrow[F](out), d), nil
}

// GELUOp is the exact (erf) GELU of every element. Input: x [R,D]. Result: [R,D].
type GELUOp struct{ typed }

// GELU returns x Φ(x) element by element, Φ the normal distribution function, [R,D].
func GELU(x *G.Node) (*G.Node, error) { return apply(&GELUOp{}, x, 2, x) }

func (o *GELUOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *GELUOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, gelu[float32], gelu[float64])
}

func gelu[F Float](in []G.Value) (G.Value, error) {
	x := floats[F](in[0])
	y := make([]F, len(x))
	for i, v := range x {
		y[i] = F(float64(v) * normalCDF(float64(v)))
	}
	return value(y, in[0].Shape()...), nil
}

func normalCDF(x float64) float64 { return 0.5 * (1 + math.Erf(x/math.Sqrt2)) }

func (o *GELUOp) DiffWRT(int) []bool { return []bool{true} }
func (o *GELUOp) Grads(in G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	dx, err := apply(&GELUGradOp{}, grad, 2, in[0], grad)
	return G.Nodes{dx}, err
}

// GELUGradOp is dx = dy GELU'(x). Inputs: x [R,D], dy [R,D]. Result: [R,D].
type GELUGradOp struct{ typed }

func (o *GELUGradOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *GELUGradOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, geluGrad[float32], geluGrad[float64])
}

func geluGrad[F Float](in []G.Value) (G.Value, error) {
	x, dy := floats[F](in[0]), floats[F](in[1])
	dx := make([]F, len(x))
	for i, v := range x {
		u := float64(v)
		density := math.Exp(-u*u/2) / math.Sqrt(2*math.Pi)
		dx[i] = F(float64(dy[i]) * (normalCDF(u) + u*density))
	}
	return value(dx, in[0].Shape()...), nil
}

// LayerNormOp normalises every row to mean 0 and variance 1 (biased, Eps added
// under the root), then scales and shifts when it has three inputs: x [R,D],
// scale [D], shift [D]. Result: [R,D].
type LayerNormOp struct {
	typed
	Eps float64
}

// LayerNorm normalises the rows of x [R,D], then multiplies by scale [D] and adds shift [D].
func LayerNorm(x, scale, shift *G.Node, eps float64) (*G.Node, error) {
	return apply(&LayerNormOp{Eps: eps}, x, 2, x, scale, shift)
}

// Normalize is LayerNorm without scale and shift: the target normalisation of V-JEPA.
func Normalize(x *G.Node, eps float64) (*G.Node, error) {
	return apply(&LayerNormOp{Eps: eps}, x, 2, x)
}

func (o *LayerNormOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	for i, name := range []string{"scale", "shift"}[:len(s)-1] {
		if err := want(name, s[i+1], s[0][1]); err != nil {
			return nil, err
		}
	}
	return s[0].Clone(), nil
}

func (o *LayerNormOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return layerNorm[float32](in, o.Eps) },
		func(in []G.Value) (G.Value, error) { return layerNorm[float64](in, o.Eps) })
}

// normalizedRow writes the normalised row x into out and returns 1/sqrt(variance+eps).
func normalizedRow[F Float](out []float64, x []F, eps float64) float64 {
	var mean, variance float64
	for _, v := range x {
		mean += float64(v)
	}
	mean /= float64(len(x))
	for _, v := range x {
		variance += (float64(v) - mean) * (float64(v) - mean)
	}
	inv := 1 / math.Sqrt(variance/float64(len(x))+eps)
	for i, v := range x {
		out[i] = (float64(v) - mean) * inv
	}
	return inv
}

func layerNorm[F Float](in []G.Value, eps float64) (G.Value, error) {
	r, d := in[0].Shape()[0], in[0].Shape()[1]
	x := floats[F](in[0])
	y := make([]F, r*d)
	hat := make([]float64, d)
	for i := 0; i < r; i++ {
		normalizedRow(hat, x[i*d:(i+1)*d], eps)
		for j, h := range hat {
			if len(in) == 3 {
				h = h*float64(floats[F](in[1])[j]) + float64(floats[F](in[2])[j])
			}
			y[i*d+j] = F(h)
		}
	}
	return value(y, r, d), nil
}

func (o *LayerNormOp) DiffWRT(inputs int) []bool { return []bool{true, true, true}[:inputs] }
func (o *LayerNormOp) Grads(in G.Nodes, _, grad *G.Node, need []bool) (out G.Nodes, err error) {
	out = make(G.Nodes, len(in))
	if need[0] {
		args := G.Nodes{in[0], grad}
		if len(in) == 3 {
			args = append(args, in[1])
		}
		if out[0], err = apply(&LayerNormGradXOp{Eps: o.Eps}, grad, 2, args...); err != nil {
			return nil, err
		}
	}
	if len(in) == 3 && need[1] {
		if out[1], err = apply(&LayerNormGradScaleOp{Eps: o.Eps}, grad, 1, in[0], grad); err != nil {
			return nil, err
		}
	}
	if len(in) == 3 && need[2] {
		out[2], err = apply(&ColumnSumOp{}, grad, 1, grad)
	}
	return out, err
}

// LayerNormGradXOp is LayerNorm's gradient for x. Inputs: x [R,D], dy [R,D] and, if it scales, scale [D]. Result: [R,D].
type LayerNormGradXOp struct {
	typed
	Eps float64
}

func (o *LayerNormGradXOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in[:2]) }
func (o *LayerNormGradXOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return layerNormGradX[float32](in, o.Eps) },
		func(in []G.Value) (G.Value, error) { return layerNormGradX[float64](in, o.Eps) })
}

func layerNormGradX[F Float](in []G.Value, eps float64) (G.Value, error) {
	r, d := in[0].Shape()[0], in[0].Shape()[1]
	x, dy := floats[F](in[0]), floats[F](in[1])
	dx := make([]F, r*d)
	hat, dhat := make([]float64, d), make([]float64, d)
	for i := 0; i < r; i++ {
		inv := normalizedRow(hat, x[i*d:(i+1)*d], eps)
		var sum, dot float64
		for j := range hat {
			dhat[j] = float64(dy[i*d+j])
			if len(in) == 3 {
				dhat[j] *= float64(floats[F](in[2])[j])
			}
			sum += dhat[j]
			dot += dhat[j] * hat[j]
		}
		for j := range hat {
			dx[i*d+j] = F(inv * (dhat[j] - sum/float64(d) - hat[j]*dot/float64(d)))
		}
	}
	return value(dx, r, d), nil
}

// LayerNormGradScaleOp is LayerNorm's gradient for the scale. Inputs: x [R,D], dy [R,D]. Result: [D].
type LayerNormGradScaleOp struct {
	typed
	Eps float64
}

func (o *LayerNormGradScaleOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := same(in)
	if err != nil {
		return nil, err
	}
	return s[1:], nil
}

func (o *LayerNormGradScaleOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return layerNormGradScale[float32](in, o.Eps) },
		func(in []G.Value) (G.Value, error) { return layerNormGradScale[float64](in, o.Eps) })
}

func layerNormGradScale[F Float](in []G.Value, eps float64) (G.Value, error) {
	r, d := in[0].Shape()[0], in[0].Shape()[1]
	x, dy := floats[F](in[0]), floats[F](in[1])
	out, hat := make([]float64, d), make([]float64, d)
	for i := 0; i < r; i++ {
		normalizedRow(hat, x[i*d:(i+1)*d], eps)
		for j := range hat {
			out[j] += hat[j] * float64(dy[i*d+j])
		}
	}
	return value(narrow[F](out), d), nil
}

// AddOp adds two tensors of one shape.
type AddOp struct{ typed }

// Add returns a + b, element by element; a and b have one shape.
func Add(a, b *G.Node) (*G.Node, error) { return apply(&AddOp{}, a, a.Dims(), a, b) }

func (o *AddOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *AddOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, add[float32], add[float64])
}

func add[F Float](in []G.Value) (G.Value, error) {
	a, b := floats[F](in[0]), floats[F](in[1])
	y := make([]F, len(a))
	for i := range a {
		y[i] = a[i] + b[i]
	}
	return value(y, in[0].Shape()...), nil
}

func (o *AddOp) DiffWRT(int) []bool { return []bool{true, true} }
func (o *AddOp) Grads(_ G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	return G.Nodes{grad, grad}, nil
}

// ScaleOp multiplies every element by Factor.
type ScaleOp struct {
	typed
	Factor float64
}

// Scale returns factor · x, of x's shape.
func Scale(x *G.Node, factor float64) (*G.Node, error) {
	return apply(&ScaleOp{Factor: factor}, x, x.Dims(), x)
}

func (o *ScaleOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *ScaleOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return scale[float32](in, o.Factor) },
		func(in []G.Value) (G.Value, error) { return scale[float64](in, o.Factor) })
}

func scale[F Float](in []G.Value, factor float64) (G.Value, error) {
	y := make([]F, in[0].Shape().TotalSize())
	for i, v := range floats[F](in[0]) {
		y[i] = v * F(factor)
	}
	return value(y, in[0].Shape()...), nil
}

func (o *ScaleOp) DiffWRT(int) []bool { return []bool{true} }
func (o *ScaleOp) Grads(_ G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	dx, err := Scale(grad, o.Factor)
	return G.Nodes{dx}, err
}

// OnesOp is a tensor of ones in the shape of its input, whose values it does not
// read: the seed of a gradient.
type OnesOp struct{ typed }

func ones(like *G.Node) (*G.Node, error) { return apply(&OnesOp{}, like, like.Dims(), like) }

func (o *OnesOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *OnesOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, fill[float32], fill[float64])
}

func fill[F Float](in []G.Value) (G.Value, error) {
	y := make([]F, in[0].Shape().TotalSize())
	for i := range y {
		y[i] = 1
	}
	return value(y, in[0].Shape()...), nil
}

// same is the shape that all inputs share.
func same(in []G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	for i := range s[1:] {
		if !s[i+1].Eq(s[0]) {
			return nil, fmt.Errorf("input %d has shape %v, input 0 has %v", i+1, s[i+1], s[0])
		}
	}
	return s[0].Clone(), nil
}

func (o *LinearOp) String() string         { return "Linear" }
func (o *LinearGradXOp) String() string    { return "LinearGradX" }
func (o *LinearGradWOp) String() string    { return "LinearGradW" }
func (o *ColumnSumOp) String() string      { return "ColumnSum" }
func (o *GELUOp) String() string           { return "GELU" }
func (o *GELUGradOp) String() string       { return "GELUGrad" }
func (o *LayerNormOp) String() string      { return fmt.Sprintf("LayerNorm(eps=%g)", o.Eps) }
func (o *LayerNormGradXOp) String() string { return fmt.Sprintf("LayerNormGradX(eps=%g)", o.Eps) }
func (o *LayerNormGradScaleOp) String() string {
	return fmt.Sprintf("LayerNormGradScale(eps=%g)", o.Eps)
}
func (o *AddOp) String() string   { return "Add" }
func (o *ScaleOp) String() string { return fmt.Sprintf("Scale(%g)", o.Factor) }
func (o *OnesOp) String() string  { return "Ones" }
