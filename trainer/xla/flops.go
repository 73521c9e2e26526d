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
		return 2 * 2 * m.scores(in[1], op.Block) * columns(n)
	case *graph.AttentionGradOp: // five, with the scores anew
		return 5 * 2 * m.scores(in[1], op.Block) * columns(n) / 3
	}
	return 0
}

// scores is how many pairs of a query and a key that it sees there are.
func (m *Machine) scores(offsets *G.Node, block int) (total float64) {
	off := m.last.Ints(offsets)
	for k := range len(off) - 1 {
		n := int(off[k+1] - off[k])
		if block == 0 {
			total += float64(n) * float64(n)
			continue
		}
		for first := 0; first < n; first += block {
			last := min(n, first+block)
			total += float64(last-first) * float64(last)
		}
	}
	return total
}
