package cpu

import (
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/graph"
)

// plan is what can be decided about a program before it runs.
type plan struct {
	program  *graph.Program
	clips    int
	children map[*G.Node]G.Nodes

	once       G.Nodes     // nodes with a buffer of their own: leaves, results, sums, all of prologue and epilogue
	prologue   G.Nodes     // run once, before the clips: they depend on no clip
	steps      []step      // run for every clip, in this order
	tensorSums G.Nodes     // summed over clips: gradients of weights
	scalarSums G.Nodes     // summed over clips: losses
	scalars    [][]float64 // [len(scalarSums)][clips]
	epilogue   G.Nodes     // run once, after the sums

	place  map[*G.Node]place // of clip nodes
	sumAt  map[*G.Node]int   // of tensorSums, in a worker's sums
	result map[*G.Node]bool  // clip nodes that are results: copied out

	clipFloats, sumFloats, scratchFloats, longestOffsets int

	spaces      map[*G.Node]int // offsets -> rows of a clip at most
	indexChecks []indexCheck
}

// step is one kernel call, or a few that belong together.
type step struct {
	node *G.Node
	gelu *G.Node // of a linear map: the GELU that follows it, run with it
	norm *normGrads
}

// normGrads are the gradients of one LayerNorm, found in one pass.
type normGrads struct{ scale, shift *G.Node }

// place is where a clip node's rows lie.
type place struct {
	at       int     // in a worker's clip memory
	width    int     // floats of a row
	capacity int     // rows of a clip at most
	offsets  *G.Node // of its space; nil: every clip has capacity rows
}

// indexCheck says that an index input must stay inside a space or table.
type indexCheck struct {
	index, rows *G.Node // the index, and the offsets that say how many of it count
	whole       *G.Node // offsets of the space it points into; nil: a table
	table       int     // rows of the table
}

func (c indexCheck) check(m *Machine) error {
	idx, part := m.ints[c.index], m.ints[c.rows]
	segments := len(part) - 1
	for s := range segments {
		limit := int32(c.table)
		if c.whole != nil {
			w := m.ints[c.whole]
			k := s / (segments / (len(w) - 1))
			limit = w[k+1] - w[k]
		}
		for _, i := range idx[part[s]:part[s+1]] {
			if i < 0 || i >= limit {
				return fmt.Errorf("%s: %d in segment %d, want 0 to %d", c.index.Name(), i, s, limit-1)
			}
		}
	}
	return nil
}

// kind is how often and on what an operation runs.
type kind int

const (
	once     kind = iota // on whole buffers, once a run
	clip                 // on a clip's rows, for every clip
	sum                  // on a clip's rows, added up over clips
	updating             // part of an update
)

func newPlan(p *graph.Program) (*plan, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	pl := &plan{program: p, clips: p.Clips, children: map[*G.Node]G.Nodes{}, place: map[*G.Node]place{},
		sumAt: map[*G.Node]int{}, result: map[*G.Node]bool{}, spaces: map[*G.Node]int{}}
	roots := slices.Clone(p.Results)
	for _, u := range p.Updates {
		roots = append(roots, u.Next)
	}
	order, err := graph.Sort(roots...)
	if err != nil {
		return nil, err
	}
	kinds, err := pl.classify(order)
	if err != nil {
		return nil, err
	}
	for _, n := range p.Results {
		if kinds[n] == clip {
			pl.result[n] = true
			pl.once = append(pl.once, n)
		}
	}
	// Leaves that no operation reads (an input of an unused branch) still have memory.
	for _, n := range slices.Concat(p.Inputs, p.State) {
		if !slices.Contains(pl.once, n) {
			pl.once = append(pl.once, n)
		}
	}
	pl.schedule(order, kinds)
	pl.layOut()
	return pl, nil
}

// classify gives every node its kind, its space if it has rows, and its memory if it
// is computed once.
func (p *plan) classify(order G.Nodes) (map[*G.Node]kind, error) {
	kinds := map[*G.Node]kind{}
	afterClips := map[*G.Node]bool{} // depends on a sum
	for _, n := range order {
		in := graph.Children(n)
		p.children[n] = in
		if n.Op() == nil {
			kinds[n] = once
			p.once = append(p.once, n)
			continue
		}
		k, err := p.kindOf(n, in, kinds)
		if err != nil {
			return nil, err
		}
		kinds[n] = k
		switch k {
		case clip:
			if err := p.addSpace(n, in); err != nil {
				return nil, err
			}
		case sum:
			afterClips[n] = true
			p.once = append(p.once, n)
			if _, scalar := scalarSum(n); scalar {
				p.scalarSums = append(p.scalarSums, n)
			} else {
				p.tensorSums = append(p.tensorSums, n)
			}
		case once:
			p.once = append(p.once, n)
			if _, seed := n.Op().(*graph.OnesOp); !seed { // ones does not read its input
				for _, c := range in {
					afterClips[n] = afterClips[n] || afterClips[c]
				}
			}
			if afterClips[n] {
				p.epilogue = append(p.epilogue, n)
			} else {
				p.prologue = append(p.prologue, n)
			}
		}
		for _, c := range in {
			if k == clip && afterClips[c] {
				return nil, fmt.Errorf("%v needs a sum over clips (%v) before all clips are done", n.Op(), c.Op())
			}
		}
	}
	return kinds, nil
}

func scalarSum(n *G.Node) (G.Op, bool) {
	switch n.Op().(type) {
	case *graph.LpLossOp, *graph.VarianceHingeOp:
		return n.Op(), true
	}
	return n.Op(), false
}

func (p *plan) kindOf(n *G.Node, in G.Nodes, kinds map[*G.Node]kind) (kind, error) {
	rows := slices.ContainsFunc(in, func(c *G.Node) bool { return kinds[c] == clip })
	switch n.Op().(type) {
	case *graph.PatchifyOp, *graph.LookupOp:
		return clip, nil
	case *graph.LinearOp, *graph.LinearGradXOp, *graph.GELUOp, *graph.GELUGradOp, *graph.LayerNormOp, *graph.LayerNormGradXOp,
		*graph.AttentionOp, *graph.AttentionGradOp, *graph.GatherOp, *graph.ScatterOp, *graph.LpLossGradOp, *graph.RowErrorOp,
		*graph.VarianceHingeGradOp:
		if !rows {
			return 0, fmt.Errorf("%v on weights alone is not supported", n.Op())
		}
		return clip, nil
	case *graph.LinearGradWOp, *graph.ColumnSumOp, *graph.LayerNormGradScaleOp, *graph.LookupGradOp, *graph.LpLossOp, *graph.VarianceHingeOp:
		if !rows {
			return 0, fmt.Errorf("%v on weights alone is not supported", n.Op())
		}
		return sum, nil
	case *graph.AddOp, *graph.ScaleOp:
		if rows {
			return clip, nil
		}
		return once, nil
	case *graph.OnesOp, *graph.SumSquaresOp, *graph.ClipFactorOp:
		if rows {
			return 0, fmt.Errorf("%v over the rows of clips is not supported", n.Op())
		}
		return once, nil
	case *graph.FirstMomentOp, *graph.SecondMomentOp, *graph.AdamWOp, *graph.EMAOp:
		return updating, nil
	}
	return 0, fmt.Errorf("operation %v is not known to the CPU machine", n.Op())
}

// addSpace says which rows a clip node has, and which run-time values to check for it.
func (p *plan) addSpace(n *G.Node, in G.Nodes) error {
	s := n.Shape()
	if s[0]%p.clips != 0 {
		return fmt.Errorf("%v has %d rows, which %d clips do not share evenly", n.Op(), s[0], p.clips)
	}
	pl := place{width: s[1], capacity: s[0] / p.clips}
	segmented := func(offsets *G.Node, capacity int) error {
		if segments := offsets.Shape()[0] - 1; segments%p.clips != 0 {
			return fmt.Errorf("%v: %d segments, which %d clips do not share evenly", n.Op(), segments, p.clips)
		}
		if old, ok := p.spaces[offsets]; !ok || capacity < old {
			p.spaces[offsets] = capacity
		}
		p.longestOffsets = max(p.longestOffsets, offsets.Shape()[0])
		return nil
	}
	switch op := n.Op().(type) {
	case *graph.PatchifyOp:
	case *graph.LookupOp:
		pl.offsets = in[1]
		var rows int
		for _, t := range in[2:] {
			rows += t.Shape()[0]
		}
		p.indexChecks = append(p.indexChecks, indexCheck{index: in[0], rows: in[1], table: rows})
	case *graph.GatherOp:
		pl.offsets = in[3]
		p.indexChecks = append(p.indexChecks, indexCheck{index: in[1], rows: in[3], whole: in[2]})
	case *graph.ScatterOp:
		pl.offsets = in[3]
		p.indexChecks = append(p.indexChecks, indexCheck{index: in[1], rows: in[2], whole: in[3]})
	default:
		for _, c := range in {
			if source, ok := p.place[c]; ok {
				pl.offsets = source.offsets
				break
			}
		}
		switch op := op.(type) {
		case *graph.AttentionOp:
			p.scratchFloats = max(p.scratchFloats, kernel.AttentionScratch(pl.capacity, op.Heads, pl.width/op.Heads))
			if err := segmented(in[1], pl.capacity); err != nil {
				return err
			}
		case *graph.AttentionGradOp:
			p.scratchFloats = max(p.scratchFloats, kernel.AttentionScratch(pl.capacity, op.Heads, pl.width/3/op.Heads))
		case *graph.VarianceHingeGradOp, *graph.LpLossGradOp:
		}
	}
	p.place[n] = pl
	if pl.offsets != nil {
		return segmented(pl.offsets, pl.capacity)
	}
	return nil
}

// schedule orders the work of a clip: every operation as early as graph.Sort puts it,
// every sum right after its inputs, so that those can be forgotten.
func (p *plan) schedule(order G.Nodes, kinds map[*G.Node]kind) {
	position := map[*G.Node]int{}
	fused := p.fuse(order, kinds)
	var steps []step
	for i, n := range order {
		if kinds[n] != clip && kinds[n] != sum {
			continue
		}
		position[n] = i
		if kinds[n] == sum {
			position[n] = 0
			for _, c := range p.children[n] {
				position[n] = max(position[n], position[c])
			}
		}
		s := step{node: n, gelu: fused.gelu[n], norm: fused.norm[n]}
		if !fused.skip[n] {
			steps = append(steps, s)
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return position[a.node] - position[b.node] })
	p.steps = steps
}

// fusions says which nodes are run together with another.
type fusions struct {
	gelu map[*G.Node]*G.Node    // linear map -> its GELU
	norm map[*G.Node]*normGrads // LayerNorm's gradient for x -> those for scale and shift
	skip map[*G.Node]bool
}

func (p *plan) fuse(order G.Nodes, kinds map[*G.Node]kind) fusions {
	f := fusions{map[*G.Node]*G.Node{}, map[*G.Node]*normGrads{}, map[*G.Node]bool{}}
	scaleGrad, shiftGrad := map[*G.Node]*G.Node{}, map[*G.Node]*G.Node{} // by the output gradient they read
	for _, n := range order {
		switch n.Op().(type) {
		case *graph.GELUOp:
			if _, ok := p.children[n][0].Op().(*graph.LinearOp); ok {
				f.gelu[p.children[n][0]], f.skip[n] = n, true
			}
		case *graph.LayerNormGradScaleOp:
			scaleGrad[p.children[n][1]] = n
		case *graph.ColumnSumOp:
			shiftGrad[p.children[n][0]] = n
		}
	}
	for _, n := range order {
		if _, ok := n.Op().(*graph.LayerNormGradXOp); !ok {
			continue
		}
		dy := p.children[n][1]
		if scale, shift := scaleGrad[dy], shiftGrad[dy]; scale != nil && shift != nil {
			f.norm[n] = &normGrads{scale, shift}
			f.skip[scale], f.skip[shift] = true, true
		}
	}
	return f
}

// layOut gives every clip node a place in a worker's memory, two nodes the same one
// when their lives do not meet, and every sum its place.
func (p *plan) layOut() {
	const align = 16
	last := map[*G.Node]int{} // the last step that reads a node
	reads := func(s step) G.Nodes {
		in := slices.Clone(p.children[s.node])
		if s.gelu != nil {
			in = append(in, s.node)
		}
		return in
	}
	for i, s := range p.steps {
		for _, n := range reads(s) {
			last[n] = i
		}
		for _, n := range s.writes() {
			last[n] = max(last[n], i)
		}
	}
	free := []span{{0, int(^uint(0) >> 1)}}
	used := map[*G.Node]span{}
	for i, s := range p.steps {
		for _, n := range s.writes() {
			pl, ok := p.place[n]
			if !ok {
				continue // a sum
			}
			need := (pl.width*pl.capacity + align - 1) / align * align
			var at int
			if heir := p.inPlace(s, n, i, last, used); heir != nil {
				at = used[heir].first
				used[n] = used[heir]
				delete(used, heir)
			} else {
				at, free = take(free, need)
				used[n] = span{at, at + need}
			}
			pl.at = at
			p.place[n] = pl
			p.clipFloats = max(p.clipFloats, at+need)
		}
		for n, u := range used {
			if last[n] <= i {
				free = release(free, u)
				delete(used, n)
			}
		}
	}
	for _, n := range p.tensorSums {
		p.sumAt[n] = p.sumFloats
		p.sumFloats += (n.Shape().TotalSize() + align - 1) / align * align
	}
}

// writes are the clip nodes and sums that a step computes.
func (s step) writes() G.Nodes {
	out := G.Nodes{s.node}
	if s.gelu != nil {
		out = append(out, s.gelu)
	}
	return out
}

// inPlace returns the input whose buffer an element-by-element result can take over,
// because this step is the last to read it.
func (p *plan) inPlace(s step, n *G.Node, i int, last map[*G.Node]int, used map[*G.Node]span) *G.Node {
	var candidates G.Nodes
	in := p.children[s.node]
	switch s.node.Op().(type) {
	case *graph.AddOp:
		candidates = in
	case *graph.ScaleOp:
		candidates = in[:1]
	case *graph.GELUGradOp, *graph.LayerNormGradXOp:
		candidates = in[1:2] // dy
	}
	for _, c := range candidates {
		if _, ok := used[c]; ok && last[c] == i && !p.result[c] && p.place[c].width*p.place[c].capacity == p.place[n].width*p.place[n].capacity {
			return c
		}
	}
	return nil
}

// span is a range of floats, [first, last).
type span struct{ first, last int }

// take cuts n floats from the first free span that holds them.
func take(free []span, n int) (int, []span) {
	for i, s := range free {
		if s.last-s.first >= n {
			free[i].first += n
			return s.first, free
		}
	}
	panic("the last free span has no end")
}

// release returns a span to the free ones, joined with its neighbours.
func release(free []span, s span) []span {
	i, _ := slices.BinarySearchFunc(free, s, func(a, b span) int { return a.first - b.first })
	free = slices.Insert(free, i, s)
	out := free[:0]
	for _, f := range free {
		switch {
		case f.first == f.last:
		case len(out) > 0 && out[len(out)-1].last == f.first:
			out[len(out)-1].last = f.last
		default:
			out = append(out, f)
		}
	}
	return out
}
