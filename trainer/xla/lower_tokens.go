package xla

import (
	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Operations that move token rows: patches, gather, scatter, table look-up, rotary positions.

func (l *lowering) patchify(op *graph.PatchifyOp, in G.Nodes) *hlo.Value {
	f, c := l.f, in[0].Shape()
	b, channels, t, h, w := c[0], c[1], c[2]/op.Tubelet, c[3]/op.Patch, c[4]/op.Patch
	x := f.Reshape(l.values[in[0]], b, channels, t, op.Tubelet, h, op.Patch, w, op.Patch)
	x = f.Transpose(x, 0, 2, 4, 6, 1, 3, 5, 7)
	return f.Reshape(x, b*t*h*w, channels*op.Tubelet*op.Patch*op.Patch)
}

// there is x where a table has an entry and zero where it has none (-1). The table's sizes are the first of x.
func (l *lowering) there(table, x *hlo.Value) *hlo.Value {
	f := l.f
	dims := make([]int, table.Rank())
	for i := range dims {
		dims[i] = i
	}
	mask := f.Compare(table, hlo.GreaterEqual, f.Like(table, 0))
	return f.Select(f.Broadcast(mask, x.Dims, dims...), x, f.Like(x, 0))
}

// unlessFull is x with zeros in the padding of n's space, if it has any.
func (l *lowering) unlessFull(n *G.Node, table, x *hlo.Value) *hlo.Value {
	if l.s.full[l.a.rows[n]] {
		return x
	}
	return l.there(table, x)
}

func (l *lowering) gather(n *G.Node, t table, in G.Nodes) *hlo.Value {
	return l.unlessFull(n, l.tables[t], l.f.Rows(l.values[in[0]], l.tables[t]))
}

// scatter looks up, for every row of the result, the rows that are added into it.
func (l *lowering) scatter(t table, in G.Nodes) *hlo.Value {
	return l.f.Sum(l.there(l.tables[t], l.f.Rows(l.in(in[0]), l.tables[t])), 0)
}

func (l *lowering) lookup(n *G.Node, t table, in G.Nodes) *hlo.Value {
	var rows []*hlo.Value
	for _, c := range in[2:] {
		rows = append(rows, l.in(c))
	}
	return l.unlessFull(n, l.tables[t], l.f.Rows(l.f.Concat(0, rows...), l.tables[t]))
}

// lookupGrad adds up the rows of dy by id: a product with a matrix of zeros and ones.
func (l *lowering) lookupGrad(op *graph.LookupGradOp, t table, in G.Nodes) *hlo.Value {
	f, dy, ids := l.f, l.in(in[0]), l.tables[t]
	if op.Rows == 1 {
		mine := f.Compare(ids, hlo.Equal, f.Like(ids, float64(op.First)))
		sum := f.Sum(f.Select(f.Broadcast(mine, dy.Dims, 0), dy, f.Like(dy, 0)), 0)
		return f.Reshape(sum, 1, dy.Dims[1])
	}
	sizes := []int{op.Rows, dy.Dims[0]}
	row := f.Iota(hlo.Of(hlo.S32, sizes...), 0)
	mine := f.Compare(f.Sub(f.Broadcast(ids, sizes, 1), f.Like(row, float64(op.First))), hlo.Equal, row)
	return f.Product(f.Convert(mine, hlo.F32), dy, hlo.Dot{LeftContract: []int{1}, RightContract: []int{0}, Out: hlo.F32, Exact: true})
}

// rotation is what the factors of rotary positions depend on.
type rotation struct {
	graph.Rotation
	headDim    int
	transposed bool
}

func rotationOf(op *graph.RotateOp, in G.Nodes) rotation {
	return rotation{op.Rotation, in[0].Shape()[1] / 3 / op.Heads, op.Transposed}
}

// rotate turns the leading channels of queries and keys: y[j] = c[j]·x[j] + s[j]·x[j^1].
func (l *lowering) rotate(op *graph.RotateOp, in G.Nodes) *hlo.Value {
	f := l.f
	r := rotationOf(op, in)
	turned := graph.Rotated(r.headDim)
	x := l.in(in[0])
	ids := l.tables[table{kind: ids, index: in[1], offsets: in[2]}]
	rows, heads := x.Dims[0], op.Heads
	x = f.Reshape(x, rows, 3, heads, r.headDim)
	keep := f.Slice(x, 3, turned, r.headDim)
	turn := f.Slice(f.Slice(x, 1, 0, 2), 3, 0, turned) // queries and keys
	swapped := f.Reshape(f.Reverse(f.Reshape(turn, rows, 2, heads, turned/2, 2), 4), turn.Dims...)
	factor := func(i int) *hlo.Value { return f.Broadcast(f.Rows(l.factor[r][i], ids), turn.Dims, 0, 3) }
	turn = f.Add(f.Mul(factor(0), turn), f.Mul(factor(1), swapped))
	turn = f.Concat(1, turn, f.Slice(f.Slice(x, 1, 2, 3), 3, 0, turned))
	if turned < r.headDim {
		turn = f.Concat(3, turn, keep)
	}
	y := f.Reshape(turn, rows, 3*heads*r.headDim)
	return l.unlessFull(in[0], ids, y)
}

// inSegments lays rows [R,D] out as [segments,length,D]. Beyond a segment's end are rows of no meaning.
func (l *lowering) inSegments(offsets *G.Node, x *hlo.Value) *hlo.Value {
	f, g := l.f, l.s.segments[offsets]
	if g.even {
		s := offsets.Shape()[0] - 1
		return f.Reshape(f.Slice(x, 0, 0, s*g.length), s, g.length, x.Dims[1])
	}
	return f.Rows(x, l.tables[table{kind: segmentRows, offsets: offsets}])
}

// masked is inSegments with zeros beyond a segment's end.
func (l *lowering) masked(offsets *G.Node, x *hlo.Value) *hlo.Value {
	y := l.inSegments(offsets, x)
	if l.s.segments[offsets].even {
		return y
	}
	return l.there(l.tables[table{kind: segmentRows, offsets: offsets}], y)
}

// packed is the way back from [segments,length,D] to [R,D], padding zero.
func (l *lowering) packed(offsets *G.Node, x *hlo.Value) *hlo.Value {
	f, g := l.f, l.s.segments[offsets]
	rows := l.s.rows[l.a.divides[offsets]]
	flat := f.Reshape(x, x.Dims[0]*x.Dims[1], x.Dims[2])
	if !g.even {
		places := l.tables[table{kind: rowPlaces, offsets: offsets}]
		return l.there(places, f.Rows(flat, places))
	}
	if flat.Dims[0] == rows {
		return flat
	}
	return f.Concat(0, flat, f.Full(0, hlo.Of(x.DType, rows-flat.Dims[0], x.Dims[2])))
}
