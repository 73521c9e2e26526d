package graph

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// LpLossOp is Σ_s weights[s] Σ |pred - target|^Exponent over the rows and features of
// segment s. Inputs: pred [R,D], target [R,D], weights [S], offsets int32 [S+1].
// Result: [1]. V-JEPA's loss has weights 1/(groups · tokens of the group in the batch · D · Exponent).
type LpLossOp struct {
	typed
	Exponent float64
}

// LpLoss returns the weighted sum of |pred - target|^exponent, [1]; see LpLossOp.
func LpLoss(pred, target, weights, offsets *G.Node, exponent float64) (*G.Node, error) {
	return apply(&LpLossOp{Exponent: exponent}, pred, 1, pred, target, weights, offsets)
}

func (o *LpLossOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if o.Exponent < 1 {
		return nil, fmt.Errorf("exponent is %g, want at least 1", o.Exponent)
	}
	if err := want("target", s[1], s[0]...); err != nil {
		return nil, err
	}
	return tensor.Shape{1}, want("weights", s[2], s[3][0]-1)
}

func (o *LpLossOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return lpLoss[float32](in, o.Exponent) },
		func(in []G.Value) (G.Value, error) { return lpLoss[float64](in, o.Exponent) })
}

func lpLoss[F Float](in []G.Value, exponent float64) (G.Value, error) {
	d := in[0].Shape()[1]
	pred, target, weights := floats[F](in[0]), floats[F](in[1]), floats[F](in[2])
	off, err := segments("offsets", in[3], in[0].Shape()[0])
	if err != nil {
		return nil, err
	}
	var total float64
	for s, w := range weights {
		var sum float64
		for i := int(off[s]) * d; i < int(off[s+1])*d; i++ {
			sum += math.Pow(math.Abs(float64(pred[i]-target[i])), exponent)
		}
		total += float64(w) * sum
	}
	return value([]F{F(total)}, 1), nil
}

func (o *LpLossOp) DiffWRT(int) []bool { return []bool{true, true, false, false} }
func (o *LpLossOp) Grads(in G.Nodes, _, grad *G.Node, need []bool) (out G.Nodes, err error) {
	out = make(G.Nodes, 4)
	for i := range out[:2] {
		if !need[i] {
			continue
		}
		if out[i], err = apply(&LpLossGradOp{Exponent: o.Exponent}, grad, 2, in[i], in[1-i], in[2], in[3], grad); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LpLossGradOp is LpLoss's gradient for its first input. Inputs: pred [R,D], target
// [R,D], weights [S], offsets int32 [S+1], dloss [1]. Result: [R,D], padding zero;
// zero too where pred equals target.
type LpLossGradOp struct {
	typed
	Exponent float64
}

func (o *LpLossGradOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in[:2]) }
func (o *LpLossGradOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return lpLossGrad[float32](in, o.Exponent) },
		func(in []G.Value) (G.Value, error) { return lpLossGrad[float64](in, o.Exponent) })
}

func lpLossGrad[F Float](in []G.Value, exponent float64) (G.Value, error) {
	rows, d := in[0].Shape()[0], in[0].Shape()[1]
	pred, target, weights, dloss := floats[F](in[0]), floats[F](in[1]), floats[F](in[2]), floats[F](in[4])[0]
	off, err := segments("offsets", in[3], rows)
	if err != nil {
		return nil, err
	}
	out := make([]F, rows*d)
	for s, w := range weights {
		for i := int(off[s]) * d; i < int(off[s+1])*d; i++ {
			diff := float64(pred[i] - target[i])
			if diff != 0 {
				out[i] = F(math.Copysign(exponent*math.Pow(math.Abs(diff), exponent-1), diff)) * w * dloss
			}
		}
	}
	return value(out, rows, d), nil
}

// RowErrorOp is the mean over features of |pred - target|, for every token.
// Inputs: pred [R,D], target [R,D]. Result: [R,1].
type RowErrorOp struct{ typed }

// RowError returns each row's mean absolute difference, [R,1]: the surprise of one token.
func RowError(pred, target *G.Node) (*G.Node, error) {
	return apply(&RowErrorOp{}, pred, 2, pred, target)
}

func (o *RowErrorOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := same(in)
	if err != nil {
		return nil, err
	}
	return tensor.Shape{s[0], 1}, nil
}

func (o *RowErrorOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, rowError[float32], rowError[float64])
}

func rowError[F Float](in []G.Value) (G.Value, error) {
	rows, d := in[0].Shape()[0], in[0].Shape()[1]
	pred, target := floats[F](in[0]), floats[F](in[1])
	out := make([]F, rows)
	for i := range out {
		var sum float64
		for j := i * d; j < (i+1)*d; j++ {
			sum += math.Abs(float64(pred[j] - target[j]))
		}
		out[i] = F(sum / float64(d))
	}
	return value(out, rows, 1), nil
}

// VarianceHingeOp is V-JEPA's regulariser against collapse. Per segment and feature,
// the standard deviation sqrt(var + 1e-4) over tokens (unbiased variance); averaged
// over the Groups segments of a clip; result: mean over clips and features of
// max(0, 1 - std). Inputs: x [R,D], offsets int32 [B·Groups+1]. Result: [1].
// A segment with fewer than two tokens has variance 0.
type VarianceHingeOp struct {
	typed
	Groups int
}

// VarianceFloor is added to a variance before its root is taken, so that the root has a slope at 0.
const VarianceFloor = 1e-4

// VarianceHinge returns the hinge on the tokens' standard deviation, [1]; see VarianceHingeOp.
func VarianceHinge(x, offsets *G.Node, groups int) (*G.Node, error) {
	return apply(&VarianceHingeOp{Groups: groups}, x, 1, x, offsets)
}

func (o *VarianceHingeOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if o.Groups < 1 || (s[1][0]-1)%o.Groups != 0 {
		return nil, fmt.Errorf("%d segments do not divide into groups of %d", s[1][0]-1, o.Groups)
	}
	return tensor.Shape{1}, nil
}

func (o *VarianceHingeOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return varianceHinge[float32](in, o.Groups) },
		func(in []G.Value) (G.Value, error) { return varianceHinge[float64](in, o.Groups) })
}

// tokenSpread returns, per segment and feature, the mean and sqrt(var + 1e-4) over tokens, both [S,D].
func tokenSpread[F Float](x []F, off []int32, d int) (mean, std []float64) {
	s := len(off) - 1
	mean, std = make([]float64, s*d), make([]float64, s*d)
	for k := 0; k < s*d; k++ {
		first, last, j := int(off[k/d]), int(off[k/d+1]), k%d
		for i := first; i < last; i++ {
			mean[k] += float64(x[i*d+j]) / float64(last-first)
		}
		var sum float64
		for i := first; i < last; i++ {
			sum += (float64(x[i*d+j]) - mean[k]) * (float64(x[i*d+j]) - mean[k])
		}
		std[k] = math.Sqrt(sum/float64(max(1, last-first-1)) + VarianceFloor)
	}
	return mean, std
}

func varianceHinge[F Float](in []G.Value, groups int) (G.Value, error) {
	d := in[0].Shape()[1]
	off, err := segments("offsets", in[1], in[0].Shape()[0])
	if err != nil {
		return nil, err
	}
	_, std := tokenSpread(floats[F](in[0]), off, d)
	clips := (len(off) - 1) / groups
	var sum float64
	for b := 0; b < clips; b++ {
		for j := 0; j < d; j++ {
			sum += max(0, 1-groupMean(std, b, j, groups, d))
		}
	}
	return value([]F{F(sum / float64(clips*d))}, 1), nil
}

// groupMean is the mean of std [B·groups,D] over the segments of clip b, at feature j.
func groupMean(std []float64, b, j, groups, d int) float64 {
	var m float64
	for g := 0; g < groups; g++ {
		m += std[(b*groups+g)*d+j] / float64(groups)
	}
	return m
}

func (o *VarianceHingeOp) DiffWRT(int) []bool { return []bool{true, false} }
func (o *VarianceHingeOp) Grads(in G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	dx, err := apply(&VarianceHingeGradOp{Groups: o.Groups}, grad, 2, in[0], in[1], grad)
	return G.Nodes{dx, nil}, err
}

// VarianceHingeGradOp is VarianceHinge's gradient. Inputs: x [R,D], offsets int32 [S+1], dloss [1]. Result: [R,D], padding zero.
type VarianceHingeGradOp struct {
	typed
	Groups int
}

func (o *VarianceHingeGradOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) { return same(in[:1]) }
func (o *VarianceHingeGradOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return varianceHingeGrad[float32](in, o.Groups) },
		func(in []G.Value) (G.Value, error) { return varianceHingeGrad[float64](in, o.Groups) })
}

func varianceHingeGrad[F Float](in []G.Value, groups int) (G.Value, error) {
	rows, d := in[0].Shape()[0], in[0].Shape()[1]
	x, dloss := floats[F](in[0]), float64(floats[F](in[2])[0])
	off, err := segments("offsets", in[1], rows)
	if err != nil {
		return nil, err
	}
	mean, std := tokenSpread(x, off, d)
	clips := (len(off) - 1) / groups
	out := make([]F, rows*d)
	for k := range std {
		s, j := k/d, k%d
		if groupMean(std, s/groups, j, groups, d) >= 1 {
			continue
		}
		n := int(off[s+1] - off[s])
		c := -dloss / float64(clips*d*groups) / (std[k] * float64(max(1, n-1)))
		for i := int(off[s]); i < int(off[s+1]); i++ {
			out[i*d+j] = F(c * (float64(x[i*d+j]) - mean[k]))
		}
	}
	return value(out, rows, d), nil
}

func (o *LpLossOp) String() string            { return fmt.Sprintf("LpLoss(%g)", o.Exponent) }
func (o *LpLossGradOp) String() string        { return fmt.Sprintf("LpLossGrad(%g)", o.Exponent) }
func (o *RowErrorOp) String() string          { return "RowError" }
func (o *VarianceHingeOp) String() string     { return fmt.Sprintf("VarianceHinge(%d)", o.Groups) }
func (o *VarianceHingeGradOp) String() string { return fmt.Sprintf("VarianceHingeGrad(%d)", o.Groups) }
