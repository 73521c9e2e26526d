package graph

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// The optimiser as operations: gradient norm, clipping, AdamW, moving average.

// Entries of the schedule, the [ScheduleLen] input that carries what changes from step to step.
const (
	LearningRate = iota // of AdamW
	WeightDecay         // of AdamW, for the tensors that decay
	EMAMomentum         // share of the old target weights that stays
	BiasCorrect1        // 1 - β1^step
	BiasCorrect2        // 1 - β2^step
	ClipNorm            // largest gradient norm; 0 or less: no clipping
	ScheduleLen
)

// SumSquaresOp is the sum of squares over all elements of all inputs. Result: [1].
type SumSquaresOp struct{ typed }

// SumSquares returns the squared L2 norm of all the tensors together, [1].
func SumSquares(xs ...*G.Node) (*G.Node, error) {
	if len(xs) == 0 {
		return nil, fmt.Errorf("SumSquares: no tensor")
	}
	return apply(&SumSquaresOp{}, xs[0], 1, xs...)
}

func (o *SumSquaresOp) InferShape(...G.DimSizer) (tensor.Shape, error) { return tensor.Shape{1}, nil }
func (o *SumSquaresOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, sumSquares[float32], sumSquares[float64])
}

func sumSquares[F Float](in []G.Value) (G.Value, error) {
	var sum float64
	for _, v := range in {
		for _, x := range floats[F](v) {
			sum += float64(x) * float64(x)
		}
	}
	return value([]F{F(sum)}, 1), nil
}

// ClipFactorOp is min(1, limit/(norm + 1e-6)) with the limit at ClipNorm of the
// schedule, or 1 if that is not positive. Inputs: squared norm [1], schedule. Result: [1].
type ClipFactorOp struct{ typed }

// ClipFactor returns what gradients are multiplied with, [1], given their squared norm [1].
func ClipFactor(sumSquares, schedule *G.Node) (*G.Node, error) {
	return apply(&ClipFactorOp{}, sumSquares, 1, sumSquares, schedule)
}

func (o *ClipFactorOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	return inferWithSchedule(in, tensor.Shape{1})
}
func (o *ClipFactorOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, clipFactor[float32], clipFactor[float64])
}

func clipFactor[F Float](in []G.Value) (G.Value, error) {
	return value([]F{F(ClipScale(float64(floats[F](in[0])[0]), float64(floats[F](in[1])[ClipNorm])))}, 1), nil
}

// ClipScale is the factor that brings a gradient of the given squared norm to at most
// limit, as torch.nn.utils.clip_grad_norm_ computes it; 1 when limit is not positive.
func ClipScale(sumSquares, limit float64) float64 {
	if limit <= 0 {
		return 1
	}
	return min(1, limit/(math.Sqrt(sumSquares)+1e-6))
}

// FirstMomentOp is β1 m + (1-β1) f g. Inputs: m, g of one shape, f [1]. Result: m's shape.
type FirstMomentOp struct {
	typed
	Beta float64
}

// SecondMomentOp is β2 v + (1-β2) (f g)². Inputs: v, g of one shape, f [1]. Result: v's shape.
type SecondMomentOp struct {
	typed
	Beta float64
}

// AdamWOp is one step of AdamW (Loshchilov and Hutter 2019), as PyTorch orders it:
// w ← w (1 - lr·decay), then w - lr/c1 · m / (sqrt(v)/sqrt(c2) + Eps).
// Inputs: w, m, v of one shape, schedule. Result: w's shape. Decays says whether the
// schedule's weight decay applies.
type AdamWOp struct {
	typed
	Eps    float64
	Decays bool
}

// EMAOp is momentum·t + (1-momentum)·w. Inputs: t, w of one shape, schedule. Result: t's shape.
type EMAOp struct{ typed }

// FirstMoment returns Adam's new first moment.
func FirstMoment(m, g, factor *G.Node, beta float64) (*G.Node, error) {
	return apply(&FirstMomentOp{Beta: beta}, m, m.Dims(), m, g, factor)
}

// SecondMoment returns Adam's new second moment.
func SecondMoment(v, g, factor *G.Node, beta float64) (*G.Node, error) {
	return apply(&SecondMomentOp{Beta: beta}, v, v.Dims(), v, g, factor)
}

// AdamW returns the new weights, from weights w and the new moments m and v.
func AdamW(w, m, v, schedule *G.Node, eps float64, decays bool) (*G.Node, error) {
	return apply(&AdamWOp{Eps: eps, Decays: decays}, w, w.Dims(), w, m, v, schedule)
}

// EMA returns the new target weights, from the old ones t and the new online weights w.
func EMA(t, w, schedule *G.Node) (*G.Node, error) {
	return apply(&EMAOp{}, t, t.Dims(), t, w, schedule)
}

func (o *FirstMomentOp) InferShape(in ...G.DimSizer) (tensor.Shape, error)  { return same(in[:2]) }
func (o *SecondMomentOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in[:2]) }
func (o *AdamWOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := same(in[:3])
	if err != nil {
		return nil, err
	}
	return inferWithSchedule(in, s)
}

func (o *EMAOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := same(in[:2])
	if err != nil {
		return nil, err
	}
	return inferWithSchedule(in, s)
}

// inferWithSchedule checks that the last input is a schedule.
func inferWithSchedule(in []G.DimSizer, out tensor.Shape) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	return out, want("schedule", s[len(s)-1], ScheduleLen)
}

func (o *FirstMomentOp) Do(in ...G.Value) (G.Value, error) {
	square := func(g float64) float64 { return g }
	return run(in,
		func(in []G.Value) (G.Value, error) { return moment[float32](in, o.Beta, square) },
		func(in []G.Value) (G.Value, error) { return moment[float64](in, o.Beta, square) })
}

func (o *SecondMomentOp) Do(in ...G.Value) (G.Value, error) {
	square := func(g float64) float64 { return g * g }
	return run(in,
		func(in []G.Value) (G.Value, error) { return moment[float32](in, o.Beta, square) },
		func(in []G.Value) (G.Value, error) { return moment[float64](in, o.Beta, square) })
}

func moment[F Float](in []G.Value, beta float64, of func(g float64) float64) (G.Value, error) {
	old, g, factor := floats[F](in[0]), floats[F](in[1]), float64(floats[F](in[2])[0])
	out := make([]F, len(old))
	for i := range out {
		out[i] = F(beta*float64(old[i]) + (1-beta)*of(factor*float64(g[i])))
	}
	return value(out, in[0].Shape()...), nil
}

func (o *AdamWOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return adamW[float32](in, o.Eps, o.Decays) },
		func(in []G.Value) (G.Value, error) { return adamW[float64](in, o.Eps, o.Decays) })
}

func adamW[F Float](in []G.Value, eps float64, decays bool) (G.Value, error) {
	w, m, v, s := floats[F](in[0]), floats[F](in[1]), floats[F](in[2]), floats[F](in[3])
	lr, c1, c2 := float64(s[LearningRate]), float64(s[BiasCorrect1]), float64(s[BiasCorrect2])
	keep := 1.0
	if decays {
		keep = 1 - lr*float64(s[WeightDecay])
	}
	out := make([]F, len(w))
	for i := range out {
		out[i] = F(float64(w[i])*keep - lr/c1*float64(m[i])/(math.Sqrt(float64(v[i]))/math.Sqrt(c2)+eps))
	}
	return value(out, in[0].Shape()...), nil
}

func (o *EMAOp) Do(in ...G.Value) (G.Value, error) { return run(in, ema[float32], ema[float64]) }

func ema[F Float](in []G.Value) (G.Value, error) {
	t, w, momentum := floats[F](in[0]), floats[F](in[1]), floats[F](in[2])[EMAMomentum]
	out := make([]F, len(t))
	for i := range out {
		out[i] = momentum*t[i] + (1-momentum)*w[i]
	}
	return value(out, in[0].Shape()...), nil
}

func (o *SumSquaresOp) String() string   { return "SumSquares" }
func (o *ClipFactorOp) String() string   { return "ClipFactor" }
func (o *FirstMomentOp) String() string  { return fmt.Sprintf("FirstMoment(%g)", o.Beta) }
func (o *SecondMomentOp) String() string { return fmt.Sprintf("SecondMoment(%g)", o.Beta) }
func (o *AdamWOp) String() string        { return fmt.Sprintf("AdamW(eps=%g,decays=%t)", o.Eps, o.Decays) }
func (o *EMAOp) String() string          { return "EMA" }
