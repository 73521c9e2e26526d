package xla

import (
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// State lies on the device in a few flat buffers: weights that the optimiser treats alike form a group, with one buffer
// for the weights, one for each moment and one for their moving average. A step of a whole group is then a handful of
// operations, and the module takes and returns tens of buffers in place of thousands.

// group is weights that one AdamW step updates together.
type group struct {
	weights, gradients, first, second, targets G.Nodes // targets: none, or one for each of the weights
	rule                                       rule
	buffers                                    [4]*flat // weights, first, second, targets; the last may be nil
}

// rule is what weights of a group have in common.
type rule struct {
	factor, schedule  *G.Node
	beta1, beta2, eps float64
	decays, averaged  bool
	emaSchedule       *G.Node
}

// flat is a buffer of state.
type flat struct {
	nodes   G.Nodes
	at      map[*G.Node]int // where a tensor begins
	size    int
	updated bool
}

// alignment of tensors in a flat buffer, elements: that of memory for products.
const alignment = 32

func newFlat(nodes G.Nodes, updated bool) *flat {
	b := &flat{nodes: nodes, at: map[*G.Node]int{}, updated: updated}
	for _, n := range nodes {
		b.at[n] = b.size
		b.size += roundUp(n.Shape().TotalSize(), alignment)
	}
	return b
}

func (b *flat) kind() hlo.Type { return hlo.Of(hlo.F32, b.size) }

// layState groups the updates of a program and lays its state out.
func (a *program) layState() error {
	steps, err := graph.AdamSteps(a.Updates)
	if err != nil {
		return err
	}
	for _, s := range steps {
		g := a.groupOf(rule{factor: s.Factor, schedule: s.Schedule, beta1: s.Beta1, beta2: s.Beta2, eps: s.Eps, decays: s.Decays,
			averaged: s.Target != nil, emaSchedule: s.TargetSchedule})
		g.weights, g.gradients = append(g.weights, s.Weights), append(g.gradients, s.Gradient)
		g.first, g.second = append(g.first, s.First), append(g.second, s.Second)
		if s.Target != nil {
			g.targets = append(g.targets, s.Target)
		}
	}
	var updated G.Nodes
	for _, g := range a.optimised {
		for i, nodes := range []G.Nodes{g.weights, g.first, g.second, g.targets} {
			if len(nodes) > 0 {
				g.buffers[i] = newFlat(nodes, true)
				a.state = append(a.state, g.buffers[i])
				updated = append(updated, nodes...)
			}
		}
	}
	var rest G.Nodes
	for _, n := range a.State {
		if !slices.Contains(updated, n) {
			rest = append(rest, n)
		}
	}
	if len(rest) > 0 {
		a.state = append(a.state, newFlat(rest, false))
	}
	return nil
}

func (a *program) groupOf(r rule) *group {
	for _, g := range a.optimised {
		if g.rule == r {
			return g
		}
	}
	g := &group{rule: r}
	a.optimised = append(a.optimised, g)
	return g
}

// unpack gives the tensors of a flat buffer that are in order their values.
func (l *lowering) unpack(b *flat, v *hlo.Value, order G.Nodes) {
	for _, n := range b.nodes {
		if !slices.Contains(order, n) {
			continue
		}
		at := b.at[n]
		l.values[n] = l.f.Reshape(l.f.Slice(v, 0, at, at+n.Shape().TotalSize()), n.Shape()...)
	}
}

// flatGradients are the gradients of a group, end to end as its buffers are.
func (l *lowering) flatGradients(g *group) *hlo.Value {
	if v := l.flat[g]; v != nil {
		return v
	}
	var parts []*hlo.Value
	for _, n := range g.gradients {
		size := n.Shape().TotalSize()
		parts = append(parts, l.f.Reshape(l.in(n), size))
		if gap := roundUp(size, alignment) - size; gap > 0 {
			parts = append(parts, l.f.Full(0, hlo.Of(hlo.F32, gap)))
		}
	}
	l.flat[g] = l.f.Concat(0, parts...)
	return l.flat[g]
}

// step is AdamW on a whole group (see graph.AdamWOp), from its buffers to their next values. ok, a scalar, says whether
// the step is taken.
func (l *lowering) step(g *group, ok *hlo.Value, old [4]*hlo.Value) (next [4]*hlo.Value) {
	f, r := l.f, g.rule
	flat := old[0].Dims
	all := func(scalar *hlo.Value) *hlo.Value { return f.Broadcast(f.Reshape(scalar), flat) }
	entry := func(schedule *G.Node, i int) *hlo.Value { return f.Slice(l.in(schedule), 0, i, i+1) }
	weigh := func(x *hlo.Value, a float64, y *hlo.Value, b float64) *hlo.Value {
		return f.Add(f.Mul(x, f.Like(x, a)), f.Mul(y, f.Like(y, b)))
	}
	grad := f.Mul(l.flatGradients(g), all(l.in(r.factor)))
	m := weigh(old[1], r.beta1, grad, 1-r.beta1)
	v := weigh(old[2], r.beta2, f.Mul(grad, grad), 1-r.beta2)

	lr := entry(r.schedule, graph.LearningRate)
	scale := f.Div(lr, entry(r.schedule, graph.BiasCorrect1))
	root := f.Sqrt(entry(r.schedule, graph.BiasCorrect2))
	w := old[0]
	if r.decays {
		keep := f.Sub(f.Like(lr, 1), f.Mul(lr, entry(r.schedule, graph.WeightDecay)))
		w = f.Mul(w, all(keep))
	}
	w = f.Sub(w, f.Div(f.Mul(m, all(scale)), f.Add(f.Div(f.Sqrt(v), all(root)), f.Like(v, r.eps))))
	next = [4]*hlo.Value{w, m, v}
	if r.averaged {
		momentum := entry(r.emaSchedule, graph.EMAMomentum)
		rest := f.Sub(f.Like(momentum, 1), momentum)
		next[3] = f.Add(f.Mul(old[3], all(momentum)), f.Mul(w, all(rest)))
	}
	for i := range next {
		if next[i] != nil {
			next[i] = f.Select(ok, next[i], old[i])
		}
	}
	return next
}
