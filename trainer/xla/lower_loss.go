package xla

import (
	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

func (l *lowering) lpLoss(op *graph.LpLossOp, t table, in G.Nodes) *hlo.Value {
	f := l.f
	d := f.Abs(f.Sub(l.in(in[0]), l.in(in[1])))
	if op.Exponent != 1 {
		d = f.Pow(d, f.Like(d, op.Exponent))
	}
	return f.Reshape(f.Sum(f.Mul(f.Sum(d, 1), l.tables[t]), 0), 1)
}

func (l *lowering) lpLossGrad(op *graph.LpLossGradOp, t table, in G.Nodes) *hlo.Value {
	f := l.f
	d := f.Sub(l.in(in[0]), l.in(in[1]))
	weight := f.Mul(l.tables[t], f.Broadcast(f.Reshape(l.in(in[4])), l.tables[t].Dims))
	slope := f.Sign(d)
	if op.Exponent != 1 {
		size := f.Pow(f.Abs(d), f.Like(d, op.Exponent-1))
		slope = f.Mul(slope, f.Mul(size, f.Like(d, op.Exponent)))
	}
	return f.Mul(slope, l.along(weight, d))
}

// spread is, for x [R,D] in segments: its distance from the mean over tokens, [S,L,D]; the standard deviation,
// sqrt(var + 1e-4), [S,D]; its mean over the groups of a clip, [B,D]; and tokens less one, at least 1, [S,D].
func (l *lowering) spread(x, offsets *G.Node, groups int) (centred, std, ofClip, tokens *hlo.Value) {
	f := l.f
	v := l.masked(offsets, l.in(x)) // [S,L,D]
	s, length, d := v.Dims[0], v.Dims[1], v.Dims[2]
	count := f.Full(float64(length), hlo.Of(hlo.F32, s, d))
	if !l.s.segments[offsets].even {
		n := l.tables[table{kind: lengths, offsets: offsets}]
		count = f.Broadcast(f.Convert(n, hlo.F32), []int{s, d}, 0)
	}
	one := f.Like(count, 1)
	mean := f.Div(f.Sum(v, 1), f.Max(count, one))
	centred = f.Sub(v, f.Broadcast(mean, v.Dims, 0, 2))
	if !l.s.segments[offsets].even {
		centred = l.there(l.tables[table{kind: segmentRows, offsets: offsets}], centred)
	}
	tokens = f.Max(f.Sub(count, one), one)
	variance := f.Div(f.Sum(f.Mul(centred, centred), 1), tokens)
	std = f.Sqrt(f.Add(variance, f.Like(variance, graph.VarianceFloor)))
	sum := f.Sum(f.Reshape(std, s/groups, groups, d), 1)
	return centred, std, f.Mul(sum, f.Like(sum, 1/float64(groups))), tokens
}

func (l *lowering) varianceHinge(op *graph.VarianceHingeOp, in G.Nodes) *hlo.Value {
	f := l.f
	_, _, ofClip, _ := l.spread(in[0], in[1], op.Groups)
	hinge := f.Max(f.Sub(f.Like(ofClip, 1), ofClip), f.Like(ofClip, 0))
	return f.Reshape(f.Mul(f.Sum(hinge, 0, 1), f.Full(1/float64(ofClip.Elements()), hlo.Of(hlo.F32))), 1)
}

func (l *lowering) varianceHingeGrad(op *graph.VarianceHingeGradOp, in G.Nodes) *hlo.Value {
	f := l.f
	centred, std, ofClip, tokens := l.spread(in[0], in[1], op.Groups)
	b, d := ofClip.Dims[0], ofClip.Dims[1]
	below := f.Compare(ofClip, hlo.Less, f.Like(ofClip, 1))
	below = f.Reshape(f.Broadcast(below, []int{b, op.Groups, d}, 0, 2), std.Dims...)
	loss := f.Broadcast(f.Reshape(l.in(in[2])), std.Dims)
	slope := f.Div(f.Mul(loss, f.Like(std, -1/float64(b*d*op.Groups))), f.Mul(std, tokens))
	slope = f.Select(below, slope, f.Like(slope, 0))
	return l.packed(in[1], f.Mul(centred, f.Broadcast(slope, centred.Dims, 0, 2)))
}
