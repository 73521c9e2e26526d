package xla

import (
	"math"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Attention runs on [segments,length], every segment by itself. Keys beyond a segment's end are masked; queries there
// give rows that nobody reads. Letters: S segments, L length, H heads, E features of a head.

// heads splits qkv [S,L,3·H·E] into queries, keys and values, [S,L,H,E] each.
func (l *lowering) heads(qkv *hlo.Value, heads int) (q, k, v *hlo.Value) {
	f := l.f
	s, length, e := qkv.Dims[0], qkv.Dims[1], qkv.Dims[2]/3/heads
	x := f.Reshape(qkv, s, length, 3, heads, e)
	part := func(i int) *hlo.Value { return f.Reshape(f.Slice(x, 2, i, i+1), s, length, heads, e) }
	return part(0), part(1), part(2)
}

// hidden is the score of a key that a query does not see: far below all others, and a number, so that a segment without
// keys has finite probabilities.
const hidden = -1e30

// probabilities are the softmax of scaled scores, [S,H,L,L], float32.
func (l *lowering) probabilities(offsets *G.Node, block int, q, k *hlo.Value) *hlo.Value {
	f := l.f
	scores := f.Product(l.operand(q), l.operand(k), hlo.Dot{LeftBatch: []int{0, 2}, RightBatch: []int{0, 2}, LeftContract: []int{3}, RightContract: []int{3},
		Out: hlo.F32, Exact: !l.half && !l.tf32})
	scores = f.Mul(scores, f.Like(scores, 1/math.Sqrt(float64(q.Dims[3]))))
	length := scores.Dims[3]
	hide := func(seen *hlo.Value, dims ...int) {
		scores = f.Select(f.Broadcast(seen, scores.Dims, dims...), scores, f.Like(scores, hidden))
	}
	if !l.s.segments[offsets].even {
		rows := l.tables[table{kind: segmentRows, offsets: offsets}]
		hide(f.Compare(rows, hlo.GreaterEqual, f.Like(rows, 0)), 0, 3)
	}
	if block > 0 {
		square := hlo.Of(hlo.S32, length, length)
		width := f.Full(float64(block), square)
		hide(f.Compare(f.Div(f.Iota(square, 1), width), hlo.LessEqual, f.Div(f.Iota(square, 0), width)), 2, 3)
	}
	e := f.Exp(f.Sub(scores, f.Broadcast(f.MaxOf(scores, 3), scores.Dims, 0, 1, 2)))
	return f.Div(e, f.Broadcast(f.Sum(e, 3), e.Dims, 0, 1, 2))
}

func (l *lowering) attention(n *G.Node, op *graph.AttentionOp, in G.Nodes) *hlo.Value {
	f := l.f
	q, k, v := l.heads(l.inSegments(in[1], l.values[in[0]]), op.Heads)
	if out := l.fusedAttention(in, op, q, k, v); out != nil {
		return l.packed(in[1], f.Reshape(out, q.Dims[0], q.Dims[1], q.Dims[2]*q.Dims[3]))
	}
	p := l.probabilities(in[1], op.Block, q, k)
	out := l.product(n, p, v, hlo.Dot{LeftBatch: []int{0, 1}, RightBatch: []int{0, 2}, LeftContract: []int{3}, RightContract: []int{1}}) // [S,H,L,E]
	return l.packed(in[1], l.joined(out))
}

// joined brings [S,H,L,E] to [S,L,H·E].
func (l *lowering) joined(x *hlo.Value) *hlo.Value {
	d := x.Dims
	return l.f.Reshape(l.f.Transpose(x, 0, 2, 1, 3), d[0], d[2], d[1]*d[3])
}

// attentionGrad computes the probabilities anew: to keep them would take more memory than all else.
func (l *lowering) attentionGrad(n *G.Node, op *graph.AttentionGradOp, in G.Nodes) *hlo.Value {
	f := l.f
	if d := l.fusedGradient(op, in); d != nil {
		return d
	}
	v := f.Barrier(l.values[in[0]], l.values[in[2]])
	q, k, val := l.heads(l.inSegments(in[1], v[0]), op.Heads)
	dy := l.masked(in[1], v[1]) // zero beyond a segment's end: what those queries give to keys is nothing
	dy = f.Reshape(dy, q.Dims...)
	p := l.probabilities(in[1], op.Block, q, k)
	across := func(x, y *hlo.Value, contract int) *hlo.Value { // x [S,H,L,L], y [S,L,H,E] -> [S,H,L,E]
		return l.product(n, x, y, hlo.Dot{LeftBatch: []int{0, 1}, RightBatch: []int{0, 2}, LeftContract: []int{contract}, RightContract: []int{1}})
	}
	dv := across(p, dy, 2)
	dp := f.Product(l.operand(dy), l.operand(val), hlo.Dot{LeftBatch: []int{0, 2}, RightBatch: []int{0, 2}, LeftContract: []int{3}, RightContract: []int{3},
		Out: hlo.F32, Exact: !l.half && !l.tf32})
	mean := f.Sum(f.Mul(p, dp), 3)
	ds := f.Mul(f.Mul(p, f.Sub(dp, f.Broadcast(mean, dp.Dims, 0, 1, 2))), f.Like(p, 1/math.Sqrt(float64(q.Dims[3]))))
	dq, dk := across(ds, k, 3), across(ds, q, 2)
	return l.packed(in[1], f.Concat(2, l.joined(dq), l.joined(dk), l.joined(dv)))
}
