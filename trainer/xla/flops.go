package xla

import (
	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// ProductFLOPs returns the floating-point operations of the matrix products of the newest Run or Step, a multiplication
// and an addition counted as two, for the tokens that its masks have: linear maps and attention, forward and backward.
// Padding, and what is computed twice to save memory, does not count.
func (m *Machine) ProductFLOPs() float64 {
	var total float64
	for _, n := range m.a.order {
		total += m.flopsOf(n)
	}
	return total
}

// used is how many rows of a matrix are tokens.
func (m *Machine) used(n *G.Node) float64 {
	s := m.a.rows[n]
	if len(s.offsets) == 0 {
		return float64(s.capacity)
	}
	off := m.last.Ints(s.offsets[0])
	return float64(off[len(off)-1])
}

func (m *Machine) flopsOf(n *G.Node) float64 {
	in := m.a.children[n]
	columns := func(n *G.Node) float64 { return float64(n.Shape()[1]) }
	switch op := n.Op().(type) {
	case *graph.LinearOp, *graph.LinearGradXOp:
		return 2 * m.used(in[0]) * columns(in[0]) * columns(n)
	case *graph.LinearGradWOp:
		return 2 * m.used(in[0]) * columns(in[0]) * columns(in[1])
	case *graph.AttentionOp: // two products
		return 2 * 2 * graph.SeenScores(m.last.Ints(in[1]), op.Block) * columns(n)
	case *graph.AttentionGradOp: // five, with the scores anew
		return 5 * 2 * graph.SeenScores(m.last.Ints(in[1]), op.Block) * columns(n) / 3
	}
	return 0
}
