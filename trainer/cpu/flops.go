package cpu

import "github.com/surmise-ml/surmise/trainer/graph"

// ProductFLOPs returns the floating-point operations of one run's matrix products, a
// multiplication and an addition counted as two, for the token layout in the inputs:
// the linear maps and attention of every clip, forward and backward. The rest
// (norms, GELU, softmax, optimiser) is left out, as is usual when speeds are compared.
func (m *Machine) ProductFLOPs() float64 {
	var total float64
	for _, s := range m.plan.steps {
		for b := range m.active {
			total += m.stepFLOPs(s, b)
		}
	}
	return total
}

// stepFLOPs are those of one step for clip b.
func (m *Machine) stepFLOPs(s step, b int) float64 {
	in := m.plan.children[s.node]
	switch s.node.Op().(type) {
	case *graph.LinearOp, *graph.LinearGradXOp:
		x := m.matrix(in[0])
		_, r := x.span(b)
		return 2 * float64(r) * float64(x.width) * float64(s.node.Shape()[1])
	case *graph.LinearGradWOp:
		dy, x := m.matrix(in[0]), m.matrix(in[1])
		_, r := dy.span(b)
		return 2 * float64(r) * float64(dy.width) * float64(x.width)
	case *graph.AttentionOp, *graph.AttentionGradOp:
		return m.attentionFLOPs(s, b)
	}
	return 0
}

// attentionFLOPs counts the scores that are seen: two products forward, five backward.
func (m *Machine) attentionFLOPs(s step, b int) float64 {
	in := m.plan.children[s.node]
	d := float64(m.matrix(in[0]).width / 3)
	block, products := 0, 2.0
	switch op := s.node.Op().(type) {
	case *graph.AttentionOp:
		block = op.Block
	case *graph.AttentionGradOp:
		block, products = op.Block, 5
	}
	off := m.offsets(in[1])
	of := func(o offsets) []int32 { return o.all[b*o.k:][:o.k+1] }
	if s.into != nil { // of chosen queries
		return products * 2 * chosenScores(of(off), of(m.offsets(m.plan.children[s.into][3]))) * d
	}
	return products * 2 * graph.SeenScores(of(off), block) * d
}

// chosenScores is how many pairs of a chosen query and a key there are in the segments that offsets divide; bounds divide
// the queries.
func chosenScores(offsets, bounds []int32) (pairs float64) {
	for s := range len(offsets) - 1 {
		pairs += float64(offsets[s+1]-offsets[s]) * float64(bounds[s+1]-bounds[s])
	}
	return pairs
}
