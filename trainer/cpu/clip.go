package cpu

import (
	"fmt"
	"unsafe"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/graph"
)

// A call does one operation for clip b with worker w's buffers. Shapes and buffers are
// resolved when the machine is compiled; a call allocates nothing.
type call func(w *worker, b int)

// rows is a clip node's matrix [rows,width] in a worker's memory.
type rows struct {
	buffer, width, capacity int
	half                    bool
	offsets                 offsets
}

// offsets are those of a space, with k segments to a clip; all nil: capacity rows for every clip.
type offsets struct {
	all []int32
	k   int
}

// span returns where clip b's rows begin in the packed matrix of all clips, and their number.
func (r rows) span(b int) (first, n int) {
	if r.offsets.all == nil {
		return b * r.capacity, r.capacity
	}
	first = int(r.offsets.all[b*r.offsets.k])
	return first, int(r.offsets.all[(b+1)*r.offsets.k]) - first
}

// of returns clip b's rows, [n,width]; the matrix is float32.
func (r rows) of(w *worker, b int) []float32 {
	_, n := r.span(b)
	at := w.at[r.buffer]
	last := at + n*r.width
	return w.clip[at:last:last]
}

// cells returns clip b's rows, [n,width], of either kind.
func (r rows) cells(w *worker, b int) kernel.Cells {
	if !r.half {
		return kernel.Cells{F: r.of(w, b)}
	}
	_, n := r.span(b)
	at := w.at[r.buffer]
	return kernel.Cells{H: halves(w.clip[at:at+(n*r.width+1)/2], n*r.width)}
}

// halves is the memory of floats as n bfloat16.
func halves(floats []float32, n int) []uint16 {
	if n == 0 {
		return []uint16{}
	}
	return unsafe.Slice((*uint16)(unsafe.Pointer(&floats[0])), n)
}

// operand returns clip b's rows in the kind that a product wants, rounded into the worker's memory where they are not:
// a product has two operands, slot says which.
func (r rows) operand(w *worker, b int, half bool, slot int) kernel.Cells {
	c := r.cells(w, b)
	if c.Half() == half {
		return c
	}
	h := w.narrow[slot][:len(c.F)]
	kernel.Narrow(h, c.F)
	return kernel.Cells{H: h}
}

// from returns clip b's offsets counted from the clip's first row, in the worker's scratch.
func (o offsets) from(w *worker, b int) []int32 { return o.into(w.offsets, b) }

func (o offsets) into(out []int32, b int) []int32 {
	out = out[:o.k+1]
	for i := range out {
		out[i] = o.all[b*o.k+i] - o.all[b*o.k]
	}
	return out
}

// total is a worker's sum for a node.
type total struct{ at, size int }

func (t total) of(w *worker) []float32 { return w.sums[t.at : t.at+t.size : t.at+t.size] }

// atStep resolves what one step reads and writes.
type atStep struct {
	*Machine
	step int
}

func (m atStep) rows(n *G.Node) rows {
	r := m.matrix(n)
	r.buffer = m.plan.place[n].life(m.step).buffer
	return r
}

// matrix is a clip node's, whatever its memory.
func (m *Machine) matrix(n *G.Node) rows {
	p := m.plan.place[n]
	r := rows{buffer: -1, width: p.width, capacity: p.capacity, half: p.half}
	if p.offsets != nil {
		r.offsets = m.offsets(p.offsets)
	}
	return r
}

// panelsOf is the memory of the panels that a product reads.
func (m *Machine) panelsOf(n *G.Node) []float32 { return m.panels[m.plan.panelsOf(n).at:] }

func (m *Machine) offsets(n *G.Node) offsets {
	return offsets{m.ints[n], (len(m.ints[n]) - 1) / m.plan.clips}
}

func (m *Machine) total(n *G.Node) total { return total{m.plan.sumAt[n], n.Shape().TotalSize()} }

// perClip is the part of a float input [clips·k] that clip b owns.
func (m *Machine) perClip(x []float32, b int) []float32 {
	k := len(x) / m.plan.clips
	return x[b*k : (b+1)*k]
}

// scalar returns where clips leave their parts of a scalar sum, [clips].
func (m *Machine) scalar(n *G.Node) []float64 {
	for i, s := range m.plan.scalarSums {
		if s == n {
			return m.plan.scalars[i]
		}
	}
	return nil
}

// calls resolves the plan's steps, and the copies of clip nodes that are results.
func (m *Machine) calls() ([]call, error) {
	var out []call
	for i, s := range m.plan.steps {
		at := atStep{m, i}
		c, err := at.call(s)
		if err != nil {
			return nil, err
		}
		for _, n := range s.writes() {
			if m.plan.result[n] {
				c = at.thenCopy(c, n)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// thenCopy is a call and a copy of clip node n to the results.
func (m atStep) thenCopy(c call, n *G.Node) call {
	from, to := m.rows(n), m.floats[n]
	return func(w *worker, b int) {
		c(w, b)
		first, _ := from.span(b)
		copy(to[first*from.width:], from.of(w, b))
	}
}

// call resolves one step.
func (m atStep) call(s step) (call, error) {
	n, in := s.node, m.plan.children[s.node]
	var y rows
	if m.plan.place[s.result()] != nil {
		y = m.rows(s.result())
	}
	switch op := n.Op().(type) {
	case *graph.PatchifyOp:
		c, clips := in[0].Shape(), m.floats[in[0]] // [B,C,F,Y,X]
		if c[1]*c[3]*c[4] == 1 {                   // rows already: an input that another program has computed
			return func(w *worker, b int) {
				if out := y.cells(w, b); out.Half() {
					kernel.Narrow(out.H, m.perClip(clips, b))
				} else {
					copy(out.F, m.perClip(clips, b))
				}
			}, nil
		}
		return func(w *worker, b int) {
			kernel.Patchify(y.cells(w, b), m.perClip(clips, b), c[1], c[2], c[3], c[4], op.Tubelet, op.Patch, w.scratch)
		}, nil

	case *graph.LinearOp:
		x, panels, bias := m.rows(in[0]), m.panelsOf(n), m.floats[in[2]]
		half, width := m.plan.panelsOf(n).half, n.Shape()[1]
		product := func(w *worker, b int, finish kernel.Finish, to, beside kernel.Cells) {
			_, r := x.span(b)
			kernel.Product(finish, to, x.operand(w, b, half, 0), r, width, x.width, panels, bias, beside)
		}
		switch {
		case s.gelu != nil:
			z := m.rows(s.gelu)
			return func(w *worker, b int) { product(w, b, kernel.WithGELU, z.cells(w, b), y.cells(w, b)) }, nil
		case s.into != nil:
			beside := m.rows(s.beside)
			return func(w *worker, b int) { product(w, b, kernel.WithResidual, y.cells(w, b), beside.cells(w, b)) }, nil
		}
		return func(w *worker, b int) { product(w, b, kernel.WithBias, y.cells(w, b), kernel.Cells{}) }, nil
	case *graph.LinearGradXOp:
		dy, panels := m.rows(in[0]), m.panelsOf(n)
		half := m.plan.panelsOf(n).half
		finish, beside := kernel.Plain, rows{}
		if s.into != nil { // leaves s.value where it found s.beside
			finish, beside = kernel.WithGELUGrad, m.rows(s.beside)
		}
		return func(w *worker, b int) {
			_, r := dy.span(b)
			var z kernel.Cells
			if s.into != nil {
				z = beside.cells(w, b)
			}
			kernel.Product(finish, y.cells(w, b), dy.operand(w, b, half, 0), r, y.width, dy.width, panels, nil, z)
		}, nil
	case *graph.LinearGradWOp:
		dy, x, sum, half := m.rows(in[0]), m.rows(in[1]), m.total(n), m.plan.half
		return func(w *worker, b int) {
			_, r := dy.span(b)
			kernel.ProductSum(sum.of(w), dy.operand(w, b, half, 0), x.operand(w, b, half, 1), dy.width, x.width, r, w.scratch)
		}, nil
	case *graph.ColumnSumOp:
		x, sum := m.rows(in[0]), m.total(n)
		return func(w *worker, b int) {
			_, r := x.span(b)
			kernel.ColumnSum(sum.of(w), x.cells(w, b), r, x.width)
		}, nil

	case *graph.GELUOp:
		x := m.rows(in[0])
		return func(w *worker, b int) { kernel.GELU(y.of(w, b), x.of(w, b)) }, nil
	case *graph.GELUGradOp:
		x, dy := m.rows(in[0]), m.rows(in[1])
		return func(w *worker, b int) { kernel.GELUGrad(y.of(w, b), x.of(w, b), dy.of(w, b)) }, nil

	case *graph.LayerNormOp:
		x := m.rows(in[0])
		var scale, shift []float32
		if len(in) == 3 {
			scale, shift = m.floats[in[1]], m.floats[in[2]]
		}
		return func(w *worker, b int) {
			_, r := x.span(b)
			kernel.LayerNorm(y.cells(w, b), x.of(w, b), r, x.width, scale, shift, float32(op.Eps))
		}, nil
	case *graph.LayerNormGradXOp:
		x, dy := m.rows(in[0]), m.rows(in[1])
		var scale []float32
		if len(in) == 3 {
			scale = m.floats[in[2]]
		}
		var base rows
		if s.into != nil {
			base = m.rows(s.beside)
		}
		var dscale, dshift total
		if s.norm != nil {
			dscale, dshift = m.total(s.norm.scale), m.total(s.norm.shift)
		}
		return func(w *worker, b int) {
			_, r := x.span(b)
			var from, ds, db []float32
			if s.into != nil {
				from = base.of(w, b)
			}
			if s.norm != nil {
				ds, db = dscale.of(w), dshift.of(w)
			}
			kernel.LayerNormGrad(y.of(w, b), from, x.of(w, b), dy.cells(w, b), r, x.width, scale, float32(op.Eps), ds, db)
		}, nil
	case *graph.LayerNormGradScaleOp:
		x, dy, sum := m.rows(in[0]), m.rows(in[1]), m.total(n)
		return func(w *worker, b int) {
			_, r := x.span(b)
			kernel.LayerNormGrad(nil, nil, x.of(w, b), dy.cells(w, b), r, x.width, nil, float32(op.Eps), sum.of(w), nil)
		}, nil

	case *graph.AddOp:
		x, z := m.rows(in[0]), m.rows(in[1])
		return func(w *worker, b int) { kernel.Add(y.of(w, b), x.of(w, b), z.of(w, b)) }, nil
	case *graph.ScaleOp:
		x := m.rows(in[0])
		return func(w *worker, b int) { kernel.Scale(y.of(w, b), x.of(w, b), float32(op.Factor)) }, nil

	case *graph.AttentionOp:
		qkv, off := m.rows(in[0]), m.offsets(in[1])
		if s.into != nil {
			gather := m.plan.children[s.into]
			queries, bounds := m.ints[gather[1]], m.offsets(gather[3])
			return func(w *worker, b int) {
				first, n := y.span(b)
				kernel.AttentionOf(y.cells(w, b), qkv.cells(w, b), off.from(w, b), bounds.into(w.bounds, b), queries[first:first+n],
					op.Heads, y.width/op.Heads, w.scratch)
			}, nil
		}
		return func(w *worker, b int) {
			kernel.Attention(y.cells(w, b), qkv.cells(w, b), off.from(w, b), op.Heads, y.width/op.Heads, op.Block, w.scratch)
		}, nil
	case *graph.AttentionGradOp:
		qkv, off, dy := m.rows(in[0]), m.offsets(in[1]), m.rows(in[2])
		return func(w *worker, b int) {
			kernel.AttentionGrad(y.cells(w, b), qkv.cells(w, b), dy.cells(w, b), off.from(w, b), op.Heads, dy.width/op.Heads, op.Block, w.scratch)
		}, nil

	case *graph.RotateOp:
		x, tokens := m.rows(in[0]), m.ints[in[1]]
		headDim := y.width / 3 / op.Heads
		t := m.rotationOf(op, headDim)
		return func(w *worker, b int) {
			first, r := y.span(b)
			kernel.Rotate(y.cells(w, b), x.cells(w, b), tokens[first:first+r], t.c, t.s, op.Heads, headDim, graph.Rotated(headDim))
		}, nil
	case *graph.SwiGLUOp:
		x, z := m.rows(in[0]), m.rows(in[1])
		return func(w *worker, b int) {
			_, r := y.span(b)
			kernel.SwiGLU(y.cells(w, b), x.cells(w, b), z.cells(w, b), r*y.width)
		}, nil
	case *graph.SwiGLUGradOp:
		x, z, dy := m.rows(in[0]), m.rows(in[1]), m.rows(in[2])
		return func(w *worker, b int) {
			_, r := y.span(b)
			kernel.SwiGLUGrad(y.cells(w, b), x.cells(w, b), z.cells(w, b), dy.cells(w, b), op.Of, r*y.width)
		}, nil

	case *graph.GatherOp:
		x, pairs := m.rows(in[0]), m.pairs(in[1], in[2], in[3])
		return func(w *worker, b int) {
			out, from := y.cells(w, b), x.cells(w, b)
			for s := range pairs.part.k {
				whole, part, index := pairs.segment(b, s)
				if out.Half() {
					kernel.GatherRows(out.H[part*y.width:], from.H, y.width, index, whole)
				} else {
					kernel.GatherRows(out.F[part*y.width:], from.F, y.width, index, whole)
				}
			}
		}, nil
	case *graph.ScatterOp:
		x, pairs := m.rows(in[0]), m.pairs(in[1], in[3], in[2])
		return func(w *worker, b int) {
			out, from := y.of(w, b), x.of(w, b)
			clear(out)
			for s := range pairs.part.k {
				whole, part, index := pairs.segment(b, s)
				kernel.ScatterAddRows(out, from[part*y.width:], y.width, index, whole)
			}
		}, nil
	case *graph.LookupOp:
		ids := m.ints[in[0]]
		tables := make([][]float32, len(in)-2)
		for i := range tables {
			tables[i] = m.floats[in[i+2]]
		}
		return func(w *worker, b int) {
			first, r := y.span(b)
			lookup(y.of(w, b), ids[first:first+r], tables, y.width)
		}, nil
	case *graph.LookupGradOp:
		dy, ids, sum := m.rows(in[0]), m.ints[in[1]], m.total(n)
		return func(w *worker, b int) {
			first, r := dy.span(b)
			lookupGrad(sum.of(w), dy.of(w, b), ids[first:first+r], op.First, dy.width)
		}, nil

	case *graph.LpLossOp:
		pred, target, weights, off, parts := m.rows(in[0]), m.rows(in[1]), m.floats[in[2]], m.offsets(in[3]), m.scalar(n)
		return func(w *worker, b int) {
			p, q, o := pred.of(w, b), target.of(w, b), off.from(w, b)
			parts[b] = 0
			for s, weight := range m.perClip(weights, b) {
				first, last := int(o[s])*pred.width, int(o[s+1])*pred.width
				parts[b] += float64(weight) * op.Exponent * kernel.LpSum(p[first:last], q[first:last], op.Exponent)
			}
		}, nil
	case *graph.LpLossGradOp:
		pred, target, weights, off, dloss := m.rows(in[0]), m.rows(in[1]), m.floats[in[2]], m.offsets(in[3]), m.floats[in[4]]
		return func(w *worker, b int) {
			out, p, q, o := y.of(w, b), pred.of(w, b), target.of(w, b), off.from(w, b)
			for s, weight := range m.perClip(weights, b) {
				first, last := int(o[s])*pred.width, int(o[s+1])*pred.width
				kernel.LpGrad(out[first:last], p[first:last], q[first:last], weight*float32(op.Exponent)*dloss[0], op.Exponent)
			}
		}, nil
	case *graph.RowErrorOp:
		pred, target := m.rows(in[0]), m.rows(in[1])
		return func(w *worker, b int) {
			_, r := pred.span(b)
			kernel.RowAbsError(y.of(w, b), pred.of(w, b), target.of(w, b), r, pred.width)
		}, nil

	case *graph.VarianceHingeOp:
		x, off, parts := m.rows(in[0]), m.offsets(in[1]), m.scalar(n)
		return func(w *worker, b int) {
			parts[b] = varianceHinge(x.of(w, b), off.from(w, b), x.width) / float64(m.plan.clips*x.width)
		}, nil
	case *graph.VarianceHingeGradOp:
		x, off, dloss := m.rows(in[0]), m.offsets(in[1]), m.floats[in[2]]
		return func(w *worker, b int) {
			varianceHingeGrad(y.of(w, b), x.of(w, b), off.from(w, b), x.width, float64(dloss[0])/float64(m.plan.clips*x.width))
		}, nil
	}
	return nil, fmt.Errorf("operation %v has no kernel", n.Op())
}

// rotation is the factors that rotary positions multiply with, [tokens of the grid, rotated channels] each.
type rotation struct {
	graph.Rotation
	headDim    int
	transposed bool
	c, s       []float32
}

// rotationOf computes a rotation's factors, once for all blocks that share them. A grid of 16×16×16 with heads of 64
// features takes 2 MB.
func (m *Machine) rotationOf(op *graph.RotateOp, headDim int) *rotation {
	for _, r := range m.rotations {
		if r.Rotation == op.Rotation && r.headDim == headDim && r.transposed == op.Transposed {
			return r
		}
	}
	r := &rotation{Rotation: op.Rotation, headDim: headDim, transposed: op.Transposed}
	c, s := op.Tables(headDim)
	r.c, r.s = make([]float32, len(c)), make([]float32, len(s))
	for i := range c {
		r.c[i], r.s[i] = float32(c[i]), float32(s[i])
	}
	m.rotations = append(m.rotations, r)
	return r
}

// pairs are the segments of a part and the segments of the whole that they index into.
type pairs struct {
	index       []int32
	whole, part offsets
}

func (m *Machine) pairs(index, whole, part *G.Node) pairs {
	return pairs{m.ints[index], m.offsets(whole), m.offsets(part)}
}

// segment returns, for segment s of clip b's part, the first row of the whole's segment
// and of its own, counted from the clip's first row, and its indices.
func (p pairs) segment(b, s int) (whole, part int, index []int32) {
	first, last := p.part.all[b*p.part.k+s], p.part.all[b*p.part.k+s+1]
	owner := s / (p.part.k / p.whole.k)
	return int(p.whole.all[b*p.whole.k+owner] - p.whole.all[b*p.whole.k]), int(first - p.part.all[b*p.part.k]), p.index[first:last]
}

// lookup sets row i of y [len(ids),d] to row ids[i] of the tables laid end to end.
func lookup(y []float32, ids []int32, tables [][]float32, d int) {
	for i, id := range ids {
		at := int(id) * d
		for _, t := range tables {
			if at < len(t) {
				copy(y[i*d:(i+1)*d], t[at:])
				break
			}
			at -= len(t)
		}
	}
}

// lookupGrad adds row i of dy [len(ids),d] to row ids[i]-first of sum, if it has one.
func lookupGrad(sum, dy []float32, ids []int32, first, d int) {
	for i, id := range ids {
		if at := (int(id) - first) * d; at >= 0 && at < len(sum) {
			kernel.Accumulate(sum[at:at+d], dy[i*d:(i+1)*d])
		}
	}
}
