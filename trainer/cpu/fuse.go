package cpu

import (
	"cmp"
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// step is one operation for a clip, or a few that are run together.
type step struct {
	node *G.Node
	// A product or a norm's gradient that only one other operation reads is finished by that operation: into is the
	// other's node, and beside its second input. Attention of which a gather reads some rows computes those alone: into is
	// the gather. Otherwise into is nil.
	into, beside *G.Node
	gelu         *G.Node // of a linear map: the GELU that follows it, run with it
	value        *G.Node // of a gradient finished by a GELU's: that GELU, found again in the memory of its input
	norm         *normGrads
	again        bool // the node was run before; its result was given up meanwhile
}

// normGrads are the gradients of one LayerNorm, found in one pass.
type normGrads struct{ scale, shift *G.Node }

// result is the node that the step's own output becomes.
func (s step) result() *G.Node {
	if s.into != nil {
		return s.into
	}
	return s.node
}

// writes are the clip nodes and sums that a step computes, those of norm aside.
func (s step) writes() G.Nodes {
	out := G.Nodes{s.result()}
	if s.gelu != nil {
		out = append(out, s.gelu)
	}
	if s.value != nil {
		out = append(out, s.value)
	}
	return out
}

// reads are the nodes that a step needs.
func (p *plan) reads(s step) G.Nodes {
	in := slices.Clone(p.children[s.node])
	if s.beside != nil {
		in = append(in, s.beside)
	}
	return in
}

// fusions says which nodes are run together with another.
type fusions struct {
	gelu         map[*G.Node]*G.Node    // linear map -> its GELU
	into, beside map[*G.Node]*G.Node    // inner node -> the node it is finished by, and that node's other input
	value        map[*G.Node]*G.Node    // inner node finished by a GELU's gradient -> that GELU
	norm         map[*G.Node]*normGrads // LayerNorm's gradient for x -> those for scale and shift
	skip         map[*G.Node]bool       // run with another node
}

func (p *plan) fuse(order G.Nodes) fusions {
	f := fusions{gelu: map[*G.Node]*G.Node{}, into: map[*G.Node]*G.Node{}, beside: map[*G.Node]*G.Node{},
		value: map[*G.Node]*G.Node{}, norm: map[*G.Node]*normGrads{}, skip: map[*G.Node]bool{}}
	p.fuseNorms(order, f)
	uses, geluOf := map[*G.Node]int{}, map[*G.Node]*G.Node{}
	for _, n := range order {
		for _, c := range p.children[n] {
			uses[c]++
		}
		if _, ok := n.Op().(*graph.GELUOp); ok {
			geluOf[p.children[n][0]] = n
		}
	}
	// inner tells whether c is read by n alone, so that n can finish it.
	inner := func(c *G.Node) bool { return uses[c] == 1 && !p.result[c] && f.into[c] == nil && f.gelu[c] == nil }
	fuse := func(c, n, beside *G.Node) { f.into[c], f.beside[c], f.skip[n] = n, beside, true }
	for _, n := range order {
		in := p.children[n]
		switch n.Op().(type) {
		case *graph.GatherOp: // x, index, from, to
			attention, ok := in[0].Op().(*graph.AttentionOp)
			if ok && attention.Block == 0 && inner(in[0]) && p.children[in[0]][1] == in[2] && in[2].Shape().Eq(in[3].Shape()) {
				fuse(in[0], n, nil)
			}
		case *graph.GELUOp:
			if _, ok := in[0].Op().(*graph.LinearOp); ok && f.gelu[in[0]] == nil && f.into[in[0]] == nil {
				f.gelu[in[0]], f.skip[n] = n, true
			}
		case *graph.GELUGradOp: // z, dy
			// The kernel leaves GELU(z) where z was: nothing else may read z.
			_, ok := in[1].Op().(*graph.LinearGradXOp)
			if gelu := geluOf[in[0]]; ok && inner(in[1]) && in[0] != in[1] && f.gelu[in[0]] == gelu && gelu != nil && uses[in[0]] == 2 && !p.result[in[0]] {
				fuse(in[1], n, in[0])
				f.value[in[1]] = gelu
			}
		case *graph.AddOp:
			for i := len(in) - 1; i >= 0 && p.place[n] != nil; i-- {
				other := in[1-i]
				switch in[i].Op().(type) {
				case *graph.LinearOp, *graph.LayerNormGradXOp:
					if inner(in[i]) && other != in[i] {
						fuse(in[i], n, other)
						i = 0
					}
				}
			}
		}
	}
	return f
}

// fuseNorms finds the gradients of a norm's scale and shift that are taken of the same x and dy as that of x.
func (p *plan) fuseNorms(order G.Nodes, f fusions) {
	type norm struct {
		x, dy *G.Node
		eps   float64
	}
	scaleGrad := map[norm]*G.Node{}
	shiftGrad := map[*G.Node]*G.Node{} // by dy; a bias added to the norm's output has the same one
	for _, n := range order {
		in := p.children[n]
		switch op := n.Op().(type) {
		case *graph.LayerNormGradScaleOp:
			scaleGrad[norm{in[0], in[1], op.Eps}] = n
		case *graph.ColumnSumOp:
			shiftGrad[in[0]] = n
		}
	}
	for _, n := range order {
		op, ok := n.Op().(*graph.LayerNormGradXOp)
		if !ok {
			continue
		}
		x, dy := p.children[n][0], p.children[n][1]
		scale, shift := scaleGrad[norm{x, dy, op.Eps}], shiftGrad[dy]
		if scale == nil || shift == nil {
			continue
		}
		f.norm[n] = &normGrads{scale, shift}
		f.skip[scale], f.skip[shift] = true, true
		delete(shiftGrad, dy) // two norms whose outputs are added share dy: it is summed once
	}
}

// schedule orders the work of a clip: every operation as early as graph.Sort puts it, what is finished by another in
// that one's place, every sum right after its inputs, so that those can be forgotten, and sums that read a GELU right
// after its gradient has brought it back.
func (p *plan) schedule(order G.Nodes, kinds map[*G.Node]kind, f fusions) {
	type rank struct{ at, after int }
	position := map[*G.Node]rank{}
	at, back := map[*G.Node]int{}, map[*G.Node]int{}
	for i, n := range order {
		at[n] = i
	}
	for inner, gelu := range f.value {
		back[gelu] = at[f.into[inner]]
	}
	for _, n := range order {
		if kinds[n] != clip && kinds[n] != sum {
			continue
		}
		position[n] = rank{at[n], 0}
		if into := f.into[n]; into != nil {
			position[n] = rank{at[into], 0}
			position[into] = position[n]
		}
		if kinds[n] == sum {
			position[n] = rank{}
			for _, c := range p.children[n] {
				r := position[c]
				if b, ok := back[c]; ok {
					r = rank{b, 1}
				}
				if cmp.Or(r.at-position[n].at, r.after-position[n].after) > 0 {
					position[n] = r
				}
			}
		}
		if !f.skip[n] {
			p.steps = append(p.steps, step{node: n, into: f.into[n], beside: f.beside[n], gelu: f.gelu[n], value: f.value[n], norm: f.norm[n]})
		}
	}
	slices.SortStableFunc(p.steps, func(a, b step) int {
		x, y := position[a.node], position[b.node]
		return cmp.Or(x.at-y.at, x.after-y.after)
	})
	p.runNormsAgain()
}

// longGap is how many steps a norm's result lies unread before it is given up and computed again: about as many as a
// transformer block has.
const longGap = 8

// runNormsAgain gives up the results of norms between the forward and the backward pass: a norm costs far less than the
// memory that keeping it takes. What it is computed from is kept for its own gradient.
func (p *plan) runNormsAgain() {
	uses := map[*G.Node][]int{}
	for i, s := range p.steps {
		for _, n := range p.reads(s) {
			uses[n] = append(uses[n], i)
		}
	}
	before := map[int][]step{}
	for i, s := range p.steps {
		if _, ok := s.node.Op().(*graph.LayerNormOp); !ok || p.result[s.node] {
			continue
		}
		x := p.children[s.node][0]
		switch x.Op().(type) {
		case *graph.LayerNormOp, *graph.GELUOp: // not kept either
			continue
		}
		written := i
		for _, next := range uses[s.node] {
			if next-written >= longGap && uses[x][len(uses[x])-1] >= next {
				before[next] = append(before[next], step{node: s.node, again: true})
			}
			written = next
		}
	}
	var steps []step
	for i, s := range p.steps {
		steps = append(append(steps, before[i]...), s)
	}
	p.steps = steps
}

// narrowClipNodes decides which matrices are bfloat16: those that a kernel can write so, and that nothing reads which
// wants float32. The residual stream, its gradient and all that leaves the machine stay float32.
func (p *plan) narrowClipNodes(f fusions) {
	if !p.half {
		return
	}
	even := func(n *G.Node) bool { return p.place[n].width%2 == 0 }
	writes := func(n *G.Node) bool {
		switch op := n.Op().(type) {
		case *graph.PatchifyOp, *graph.LayerNormOp, *graph.GatherOp, *graph.RotateOp, *graph.SwiGLUOp, *graph.SwiGLUGradOp:
			return true
		case *graph.LinearOp, *graph.LinearGradXOp:
			return f.into[n] == nil && p.packFor(n).half
		case *graph.AttentionOp:
			return p.place[n].width/op.Heads%2 == 0
		case *graph.AttentionGradOp:
			return p.place[n].width/3/op.Heads%2 == 0
		case *graph.GELUOp:
			return f.skip[n]
		case *graph.GELUGradOp:
			return f.skip[n] && p.packFor(p.children[n][1]).half // of the product that is finished into it
		}
		return false
	}
	reads := func(reader *G.Node, i int) bool {
		switch reader.Op().(type) {
		case *graph.LinearOp, *graph.LinearGradXOp, *graph.LinearGradWOp, *graph.AttentionOp, *graph.AttentionGradOp,
			*graph.ColumnSumOp, *graph.GatherOp, *graph.RotateOp, *graph.SwiGLUOp, *graph.SwiGLUGradOp:
			return true
		case *graph.LayerNormGradXOp, *graph.LayerNormGradScaleOp:
			return i == 1 // dy
		case *graph.GELUOp, *graph.GELUGradOp:
			return f.skip[reader] && i == 0 // the second input of a gradient is finished into it
		}
		return false
	}
	for n, pl := range p.place {
		pl.half = writes(n) && even(n) && !p.result[n]
	}
	for reader, in := range p.children {
		for i, c := range in {
			if p.place[c] != nil && !reads(reader, i) && f.into[c] != reader {
				p.place[c].half = false
			}
		}
	}
	// What one kernel reads and writes in one kind.
	var alike [][2]*G.Node
	for n, in := range p.children {
		switch n.Op().(type) {
		case *graph.AttentionOp, *graph.GELUOp, *graph.GELUGradOp, *graph.GatherOp, *graph.RotateOp:
			alike = append(alike, [2]*G.Node{n, in[0]})
		case *graph.SwiGLUOp, *graph.SwiGLUGradOp:
			for _, c := range in {
				alike = append(alike, [2]*G.Node{n, c})
			}
		case *graph.AttentionGradOp:
			alike = append(alike, [2]*G.Node{n, in[0]}, [2]*G.Node{n, in[2]})
		}
	}
	for changed := true; changed; {
		changed = false
		for _, pair := range alike {
			a, b := p.place[pair[0]], p.place[pair[1]]
			if a.half != b.half {
				a.half, b.half, changed = false, false, true
			}
		}
	}
}
