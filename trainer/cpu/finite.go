package cpu

import (
	"fmt"
	"log/slog"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// FirstNonFinite repeats the last run, one clip and one operation after the other, up to the first value that is NaN or
// infinite, and says which operation made it and of which tensor: the weights that the operation reads, or the nearest
// ones below it. A state or input that holds such a value is named with operation "input". ok is false where there is
// none. The state is not changed; sums are, so no Update may follow before another Run.
func (m *Machine) FirstNonFinite() (op, tensorName string, ok bool) {
	p := m.plan
	for _, n := range p.once {
		if n.Op() == nil && n.Dtype() == tensor.Float32 && !finite(m.floats[n]) {
			return "input", n.Name(), true
		}
	}
	m.ran = false
	var found *G.Node
	err := m.all(func(w *worker) error {
		if w.index > 0 {
			return nil
		}
		clear(w.sums)
		for b := 0; b < m.active && found == nil; b++ {
			w.layOut(b)
			for i, do := range m.clip {
				do(w, b)
				if found = (atStep{m, i}).nonFinite(w, p.steps[i], b); found != nil {
					break
				}
			}
		}
		return nil
	})
	if err != nil { // the caller has an error of its own, which this was to explain
		slog.Warn("looking for the first value that is not finite", "error", err)
	}
	if found == nil {
		return "", "", false
	}
	return fmt.Sprint(found.Op()), p.below(found), true
}

// nonFinite is the node of a step whose value for clip b is not finite; nil if there is none.
func (m atStep) nonFinite(w *worker, s step, b int) *G.Node {
	nodes := s.writes()
	if s.norm != nil {
		nodes = append(nodes, s.norm.scale, s.norm.shift)
	}
	for _, n := range nodes {
		var good bool
		switch at, sum := m.plan.sumAt[n]; {
		case m.plan.place[n] != nil:
			c := m.rows(n).cells(w, b)
			good = finite(c.F) && finiteHalves(c.H)
		case sum:
			good = finite(w.sums[at : at+n.Shape().TotalSize()])
		default:
			x := m.scalar(n)[b]
			good = !math.IsNaN(x) && !math.IsInf(x, 0)
		}
		if !good {
			return n
		}
	}
	return nil
}

// below is the name of the float tensor nearest to n among what it is computed from.
func (p *plan) below(n *G.Node) string {
	seen := map[*G.Node]bool{}
	for level := (G.Nodes{n}); len(level) > 0; {
		var next G.Nodes
		for _, n := range level {
			for _, c := range p.children[n] {
				if c.Op() == nil && c.Dtype() == tensor.Float32 {
					return c.Name()
				}
				if !seen[c] {
					seen[c] = true
					next = append(next, c)
				}
			}
		}
		level = next
	}
	return n.Name()
}

// finite: x-x is 0 for a number and NaN for all else.
func finite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}

func finiteHalves(x []uint16) bool {
	for _, h := range x {
		if h&0x7f80 == 0x7f80 { // all bits of the exponent
			return false
		}
	}
	return true
}
