package cpu

import (
	"fmt"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/graph"
)

// runClip takes clip b through forward and backward pass, and adds to this thread's sums.
func (w *worker) runClip(b int) error {
	p := w.m.plan
	for _, s := range p.steps {
		if err := w.runStep(b, s); err != nil {
			return err
		}
		for _, n := range s.writes() {
			if p.result[n] {
				first, rows := w.rows(n, b)
				d := p.place[n].width
				copy(w.m.floats[n][first*d:(first+rows)*d], w.at(n, b))
			}
		}
	}
	return nil
}

// rows returns where clip b's rows of a clip node begin in the packed matrix, and how many there are.
func (w *worker) rows(n *G.Node, b int) (first, rows int) {
	pl := w.m.plan.place[n]
	if pl.offsets == nil {
		return b * pl.capacity, pl.capacity
	}
	off := w.m.ints[pl.offsets]
	k := (len(off) - 1) / w.m.plan.clips
	return int(off[b*k]), int(off[(b+1)*k] - off[b*k])
}

// at returns clip b's rows of a clip node, [rows,width].
func (w *worker) at(n *G.Node, b int) []float32 {
	pl := w.m.plan.place[n]
	_, rows := w.rows(n, b)
	last := pl.at + rows*pl.width
	return w.clip[pl.at:last:last]
}

// sum returns this thread's sum for a node.
func (w *worker) sum(n *G.Node) []float32 {
	at := w.m.plan.sumAt[n]
	last := at + n.Shape().TotalSize()
	return w.sums[at:last:last]
}

// clipOffsets returns clip b's offsets, counted from the clip's first row. The slice is the worker's, until the next call.
func (w *worker) clipOffsets(offsets *G.Node, b int) []int32 {
	off := w.m.ints[offsets]
	k := (len(off) - 1) / w.m.plan.clips
	out := w.offsets[:k+1]
	for i := range out {
		out[i] = off[b*k+i] - off[b*k]
	}
	return out
}

func (w *worker) runStep(b int, s step) error {
	m := w.m
	n, in := s.node, m.plan.children[s.node]
	switch op := n.Op().(type) {
	case *graph.PatchifyOp:
		c := in[0].Shape() // [B,C,F,Y,X]
		size := c.TotalSize() / c[0]
		kernel.Patchify(w.at(n, b), m.floats[in[0]][b*size:(b+1)*size], c[1], c[2], c[3], c[4], op.Tubelet, op.Patch)

	case *graph.LinearOp:
		d, k := in[1].Shape()[0], in[1].Shape()[1]
		y := w.at(n, b)
		rows := len(y) / d
		kernel.Gemm(false, true, rows, d, k, w.at(in[0], b), k, m.floats[in[1]], k, 0, y, d)
		if s.gelu != nil {
			kernel.BiasGELU(w.at(s.gelu, b), y, rows, d, m.floats[in[2]])
		} else {
			kernel.BiasAdd(y, rows, d, m.floats[in[2]])
		}
	case *graph.LinearGradXOp:
		d, k := in[1].Shape()[0], in[1].Shape()[1]
		dx := w.at(n, b)
		kernel.Gemm(false, false, len(dx)/k, k, d, w.at(in[0], b), d, m.floats[in[1]], k, 0, dx, k)
	case *graph.LinearGradWOp:
		d, k := n.Shape()[0], n.Shape()[1]
		dy := w.at(in[0], b)
		kernel.Gemm(true, false, d, k, len(dy)/d, dy, d, w.at(in[1], b), k, 1, w.sum(n), k)
	case *graph.ColumnSumOp:
		x, d := w.at(in[0], b), n.Shape()[0]
		kernel.ColumnSum(w.sum(n), x, len(x)/d, d)

	case *graph.GELUOp:
		kernel.GELU(w.at(n, b), w.at(in[0], b))
	case *graph.GELUGradOp:
		kernel.GELUGrad(w.at(n, b), w.at(in[0], b), w.at(in[1], b))

	case *graph.LayerNormOp:
		y, d := w.at(n, b), n.Shape()[1]
		var scale, shift []float32
		if len(in) == 3 {
			scale, shift = m.floats[in[1]], m.floats[in[2]]
		}
		kernel.LayerNorm(y, w.at(in[0], b), len(y)/d, d, scale, shift, float32(op.Eps))
	case *graph.LayerNormGradXOp:
		dx, d := w.at(n, b), n.Shape()[1]
		var scale, dscale, dshift []float32
		if len(in) == 3 {
			scale = m.floats[in[2]]
		}
		if s.norm != nil {
			dscale, dshift = w.sum(s.norm.scale), w.sum(s.norm.shift)
		}
		kernel.LayerNormGrad(dx, w.at(in[0], b), w.at(in[1], b), len(dx)/d, d, scale, float32(op.Eps), dscale, dshift)
	case *graph.LayerNormGradScaleOp:
		x, d := w.at(in[0], b), n.Shape()[0]
		kernel.LayerNormGrad(nil, x, w.at(in[1], b), len(x)/d, d, nil, float32(op.Eps), w.sum(n), nil)

	case *graph.AddOp:
		kernel.Add(w.at(n, b), w.at(in[0], b), w.at(in[1], b))
	case *graph.ScaleOp:
		kernel.Scale(w.at(n, b), w.at(in[0], b), float32(op.Factor))

	case *graph.AttentionOp:
		kernel.Attention(w.at(n, b), w.at(in[0], b), w.clipOffsets(in[1], b), op.Heads, n.Shape()[1]/op.Heads, op.Block, w.scratch)
	case *graph.AttentionGradOp:
		kernel.AttentionGrad(w.at(n, b), w.at(in[0], b), w.at(in[2], b), w.clipOffsets(in[1], b), op.Heads, n.Shape()[1]/3/op.Heads, op.Block, w.scratch)

	case *graph.GatherOp:
		d := n.Shape()[1]
		w.segmentPairs(b, in[1], in[2], in[3], func(whole, part int, idx []int32) {
			kernel.GatherRows(w.at(n, b)[part*d:], w.at(in[0], b), d, idx, whole)
		})
	case *graph.ScatterOp:
		y, d := w.at(n, b), n.Shape()[1]
		clear(y)
		w.segmentPairs(b, in[1], in[3], in[2], func(whole, part int, idx []int32) {
			kernel.ScatterAddRows(y, w.at(in[0], b)[part*d:], d, idx, whole)
		})
	case *graph.LookupOp:
		w.lookup(b, n, in)
	case *graph.LookupGradOp:
		d, dy := n.Shape()[1], w.at(in[0], b)
		first, rows := w.rows(in[0], b)
		out := w.sum(n)
		for i, id := range m.ints[in[1]][first : first+rows] {
			if v := int(id) - op.First; v >= 0 && v < op.Rows {
				kernel.Accumulate(out[v*d:(v+1)*d], dy[i*d:(i+1)*d])
			}
		}

	case *graph.LpLossOp:
		d, off := in[0].Shape()[1], w.clipOffsets(in[3], b)
		pred, target := w.at(in[0], b), w.at(in[1], b)
		var total float64
		for i, weight := range w.segmentWeights(in[2], b) {
			total += float64(weight) * op.Exponent * kernel.LpSum(pred[int(off[i])*d:int(off[i+1])*d], target[int(off[i])*d:int(off[i+1])*d], op.Exponent)
		}
		w.setScalar(n, b, total)
	case *graph.LpLossGradOp:
		d, off := in[0].Shape()[1], w.clipOffsets(in[3], b)
		pred, target, out := w.at(in[0], b), w.at(in[1], b), w.at(n, b)
		dloss := m.floats[in[4]][0]
		for i, weight := range w.segmentWeights(in[2], b) {
			first, last := int(off[i])*d, int(off[i+1])*d
			kernel.LpGrad(out[first:last], pred[first:last], target[first:last], weight*float32(op.Exponent)*dloss, op.Exponent)
		}
	case *graph.RowErrorOp:
		pred, d := w.at(in[0], b), in[0].Shape()[1]
		kernel.RowAbsError(w.at(n, b), pred, w.at(in[1], b), len(pred)/d, d)

	case *graph.VarianceHingeOp:
		x, d := w.at(in[0], b), in[0].Shape()[1]
		w.setScalar(n, b, varianceHinge(x, w.clipOffsets(in[1], b), d)/float64(m.plan.clips*d))
	case *graph.VarianceHingeGradOp:
		x, d := w.at(in[0], b), in[0].Shape()[1]
		varianceHingeGrad(w.at(n, b), x, w.clipOffsets(in[1], b), d, float64(m.floats[in[2]][0])/float64(m.plan.clips*d))

	default:
		return fmt.Errorf("operation %v has no kernel", op)
	}
	return nil
}

// segmentPairs calls do for every segment of clip b's part rows with the first row of
// the segment and of the whole one it belongs to, both counted from the clip's first
// row, and the indices of its rows.
func (w *worker) segmentPairs(b int, index, whole, part *G.Node, do func(whole, part int, idx []int32)) {
	wo, po, idx := w.m.ints[whole], w.m.ints[part], w.m.ints[index]
	kw, kp := (len(wo)-1)/w.m.plan.clips, (len(po)-1)/w.m.plan.clips
	for s := range kp {
		first, last := po[b*kp+s], po[b*kp+s+1]
		do(int(wo[b*kw+s/(kp/kw)]-wo[b*kw]), int(first-po[b*kp]), idx[first:last])
	}
}

// lookup copies table rows by id; consecutive tables are one.
func (w *worker) lookup(b int, n *G.Node, in G.Nodes) {
	y, d := w.at(n, b), n.Shape()[1]
	first, rows := w.rows(n, b)
	for i, id := range w.m.ints[in[0]][first : first+rows] {
		v := int(id)
		for _, t := range in[2:] {
			if v < t.Shape()[0] {
				copy(y[i*d:(i+1)*d], w.m.floats[t][v*d:(v+1)*d])
				break
			}
			v -= t.Shape()[0]
		}
	}
}

// segmentWeights returns the weights of clip b's segments.
func (w *worker) segmentWeights(weights *G.Node, b int) []float32 {
	all := w.m.floats[weights]
	k := len(all) / w.m.plan.clips
	return all[b*k : (b+1)*k]
}

// setScalar keeps clip b's part of a sum of scalars.
func (w *worker) setScalar(n *G.Node, b int, x float64) {
	for i, s := range w.m.plan.scalarSums {
		if s == n {
			w.m.plan.scalars[i][b] = x
		}
	}
}
