package graph

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// SwiGLUOp is SiLU(a)·b element by element, SiLU(a) = a/(1+e^-a): what stands between the linear maps of a gated MLP
// (Shazeer 2020, arXiv:2002.05202). Inputs: a [R,D], b [R,D]. Result: [R,D].
type SwiGLUOp struct{ typed }

// SwiGLU returns SiLU(a)·b, [R,D], for a and b [R,D].
func SwiGLU(a, b *G.Node) (*G.Node, error) { return apply(&SwiGLUOp{}, a, 2, a, b) }

func (o *SwiGLUOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *SwiGLUOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, swiGLU[float32], swiGLU[float64])
}

func swiGLU[F Float](in []G.Value) (G.Value, error) {
	a, b := floats[F](in[0]), floats[F](in[1])
	y := make([]F, len(a))
	for i := range a {
		y[i] = F(float64(a[i]) * logistic(float64(a[i])) * float64(b[i]))
	}
	return value(y, in[0].Shape()...), nil
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func (o *SwiGLUOp) DiffWRT(int) []bool { return []bool{true, true} }
func (o *SwiGLUOp) Grads(in G.Nodes, _, grad *G.Node, need []bool) (out G.Nodes, err error) {
	out = make(G.Nodes, 2)
	for i := range out {
		if need[i] {
			if out[i], err = apply(&SwiGLUGradOp{Of: i}, grad, 2, in[0], in[1], grad); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// SwiGLUGradOp is SwiGLU's gradient for its input Of: 0, a, or 1, b. Inputs: a [R,D], b [R,D], dy [R,D]. Result: [R,D].
// With σ the logistic function, da = dy·b·σ(a)·(1 + a·(1-σ(a))) and db = dy·a·σ(a).
type SwiGLUGradOp struct {
	typed
	Of int
}

func (o *SwiGLUGradOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in) }
func (o *SwiGLUGradOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return swiGLUGrad[float32](in, o.Of) },
		func(in []G.Value) (G.Value, error) { return swiGLUGrad[float64](in, o.Of) })
}

func swiGLUGrad[F Float](in []G.Value, of int) (G.Value, error) {
	a, b, dy := floats[F](in[0]), floats[F](in[1]), floats[F](in[2])
	out := make([]F, len(a))
	for i := range a {
		x := float64(a[i])
		g := float64(dy[i]) * logistic(x)
		if of == 0 {
			g *= float64(b[i]) * (1 + x*logistic(-x))
		} else {
			g *= x
		}
		out[i] = F(g)
	}
	return value(out, in[0].Shape()...), nil
}

func (o *SwiGLUOp) String() string     { return "SwiGLU" }
func (o *SwiGLUGradOp) String() string { return fmt.Sprintf("SwiGLUGrad(%d)", o.Of) }
