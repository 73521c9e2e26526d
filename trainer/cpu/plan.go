package cpu

import (
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// plan is what can be decided about a program before it runs.
type plan struct {
	program  *graph.Program
	clips    int
	half     bool // products are of bfloat16
	children map[*G.Node]G.Nodes

	once       G.Nodes     // nodes with a buffer of their own: leaves, results, sums, all of prologue and epilogue
	prologue   G.Nodes     // run once, before the clips: they depend on no clip
	steps      []step      // run for every clip, in this order
	tensorSums G.Nodes     // summed over clips: gradients of weights
	scalarSums G.Nodes     // summed over clips: losses
	scalars    [][]float64 // [len(scalarSums)][clips]
	epilogue   G.Nodes     // run once, after the sums
	packs      []pack      // weights laid out for products, once a step

	// For machines with peers: tensorSums in buckets, and how many of these are complete after each step.
	buckets       []bucket
	completeAfter []int

	place  map[*G.Node]*place // of clip nodes
	layout layout             // of a clip's buffers in a worker's memory
	sumAt  map[*G.Node]int    // of tensorSums, in a worker's sums
	result map[*G.Node]bool   // clip nodes that are results: copied out

	sumFloats, packFloats, scratchFloats, longestOffsets int
	narrowCells, weightCells                             int // bfloat16 copies that a worker makes: of an operand, of weights

	// What is checked of the int32 inputs before every run.
	spaces      map[*G.Node]int // offsets -> rows of a clip at most
	agreements  []agreement
	indexChecks []indexCheck
}

// place is the matrix of a clip node.
type place struct {
	lives    []life  // nodes that are run together with another have none
	width    int     // elements of a row
	capacity int     // rows of a clip at most
	offsets  *G.Node // of its space; nil: every clip has capacity rows
	half     bool    // bfloat16
}

// life is a matrix in a buffer of the layout, from the step that writes it to the last that reads it. One that is
// computed twice has two.
type life struct{ first, last, buffer int }

// life is the one that the matrix is in when a step runs.
func (p *place) life(step int) *life {
	i := len(p.lives) - 1
	for i > 0 && p.lives[i].first > step {
		i--
	}
	return &p.lives[i]
}

// agreement says that two spaces give every clip the same rows, because an operation
// reads one beside the other.
type agreement struct {
	a, b     *G.Node // offsets; b nil: every clip has capacity rows
	capacity int
}

func (g agreement) check(m *Machine) error {
	a := m.offsets(g.a)
	for clip := range m.plan.clips {
		last, want, with := int(a.all[(clip+1)*a.k]), (clip+1)*g.capacity, "a full clip"
		if g.b != nil {
			b := m.offsets(g.b)
			want, with = int(b.all[(clip+1)*b.k]), g.b.Name()
		}
		if last != want {
			return fmt.Errorf("%s: clip %d ends at row %d, by %s at row %d", g.a.Name(), clip, last, with, want)
		}
	}
	return nil
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

func newPlan(p *graph.Program, precision Precision) (*plan, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	pl := &plan{program: p, clips: p.Clips, half: precision == BF16, children: map[*G.Node]G.Nodes{}, place: map[*G.Node]*place{},
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
		switch kinds[n] {
		case clip:
			pl.result[n] = true
			pl.once = append(pl.once, n)
		case updating:
			return nil, fmt.Errorf("result %v is part of an update", n.Op())
		}
	}
	// Leaves that no operation reads (an input of an unused branch) still have memory.
	for _, n := range slices.Concat(p.Inputs, p.State) {
		if !slices.Contains(pl.once, n) {
			pl.once = append(pl.once, n)
		}
	}
	f := pl.fuse(order)
	pl.schedule(order, kinds, f)
	pl.narrowClipNodes(f)
	pl.layOut()
	pl.pack()
	pl.scratch()
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
		if n.Dtype() == tensor.Float64 {
			return nil, fmt.Errorf("%v (%s) is float64; the CPU machine runs float32", n, n.Name())
		}
		if n.Op() == nil {
			kinds[n] = once
			p.once = append(p.once, n)
			continue
		}
		k, err := kindOf(n, in, kinds)
		if err != nil {
			return nil, err
		}
		kinds[n] = k
		if err := p.checkInputs(n, in, kinds); err != nil {
			return nil, err
		}
		switch k {
		case clip:
			if err := p.addSpace(n, in); err != nil {
				return nil, err
			}
		case sum:
			afterClips[n] = true
			p.once = append(p.once, n)
			if scalarSum(n) {
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
			if (k == clip || k == sum) && afterClips[c] {
				return nil, fmt.Errorf("%v needs a sum over clips (%v) before all clips are done", n.Op(), c.Op())
			}
		}
	}
	return kinds, nil
}

func scalarSum(n *G.Node) bool {
	switch n.Op().(type) {
	case *graph.LpLossOp, *graph.VarianceHingeOp:
		return true
	}
	return false
}

func kindOf(n *G.Node, in G.Nodes, kinds map[*G.Node]kind) (kind, error) {
	switch n.Op().(type) {
	case *graph.PatchifyOp, *graph.LookupOp, *graph.LinearOp, *graph.LinearGradXOp, *graph.GELUOp, *graph.GELUGradOp,
		*graph.LayerNormOp, *graph.LayerNormGradXOp, *graph.AttentionOp, *graph.AttentionGradOp, *graph.GatherOp, *graph.ScatterOp,
		*graph.RotateOp, *graph.SwiGLUOp, *graph.SwiGLUGradOp, *graph.LpLossGradOp, *graph.RowErrorOp, *graph.VarianceHingeGradOp:
		return clip, nil
	case *graph.LinearGradWOp, *graph.ColumnSumOp, *graph.LayerNormGradScaleOp, *graph.LookupGradOp, *graph.LpLossOp, *graph.VarianceHingeOp:
		return sum, nil
	case *graph.AddOp, *graph.ScaleOp:
		if slices.ContainsFunc(in, func(c *G.Node) bool { return kinds[c] == clip }) {
			return clip, nil
		}
		return once, nil
	case *graph.OnesOp, *graph.SumSquaresOp, *graph.ClipFactorOp:
		return once, nil
	case *graph.FirstMomentOp, *graph.SecondMomentOp, *graph.AdamWOp, *graph.EMAOp:
		return updating, nil
	}
	return 0, fmt.Errorf("operation %v is not known to the CPU machine", n.Op())
}

// roles returns which inputs of an operation on clips are rows of clips (all others
// are whole buffers), and which input holds the offsets that divide those rows; -1: none.
func roles(op G.Op) (rows []int, offsets int) {
	switch op.(type) {
	case *graph.LinearOp, *graph.LinearGradXOp, *graph.GELUOp, *graph.LayerNormOp, *graph.ColumnSumOp, *graph.ScaleOp:
		return []int{0}, -1
	case *graph.LinearGradWOp, *graph.GELUGradOp, *graph.LayerNormGradXOp, *graph.LayerNormGradScaleOp, *graph.AddOp, *graph.RowErrorOp,
		*graph.SwiGLUOp:
		return []int{0, 1}, -1
	case *graph.SwiGLUGradOp:
		return []int{0, 1, 2}, -1
	case *graph.AttentionOp, *graph.VarianceHingeOp, *graph.VarianceHingeGradOp:
		return []int{0}, 1
	case *graph.AttentionGradOp:
		return []int{0, 2}, 1
	case *graph.GatherOp, *graph.ScatterOp, *graph.LookupGradOp, *graph.RotateOp:
		return []int{0}, 2
	case *graph.LpLossOp, *graph.LpLossGradOp:
		return []int{0, 1}, 3
	}
	return nil, -1
}

// checkInputs refuses an operation whose inputs are not what its kernel reads, and
// notes which spaces must agree when it runs.
func (p *plan) checkInputs(n *G.Node, in G.Nodes, kinds map[*G.Node]kind) error {
	var rows []int
	offsets := -1
	if k := kinds[n]; k == clip || k == sum {
		rows, offsets = roles(n.Op())
	}
	for i, c := range in {
		switch isRows := kinds[c] == clip; {
		case kinds[c] == updating && kinds[n] != updating:
			return fmt.Errorf("%v: input %d (%v) is part of an update", n.Op(), i, c.Op())
		case isRows && !slices.Contains(rows, i):
			return fmt.Errorf("%v: input %d (%v) is rows of clips, want a whole tensor", n.Op(), i, c.Op())
		case !isRows && slices.Contains(rows, i):
			return fmt.Errorf("%v: input %d (%s) is a whole tensor, want rows of clips", n.Op(), i, c.Name())
		}
	}
	if len(rows) == 0 {
		return nil
	}
	space := p.place[in[rows[0]]]
	for _, i := range rows[1:] {
		other := p.place[in[i]]
		if other.capacity != space.capacity {
			return fmt.Errorf("%v: inputs of %d and %d rows to a clip", n.Op(), space.capacity, other.capacity)
		}
		p.agree(space.offsets, other.offsets, space.capacity)
	}
	if offsets >= 0 {
		p.agree(in[offsets], space.offsets, space.capacity)
		if err := p.segmented(n, in[offsets], space.capacity); err != nil {
			return err
		}
	}
	switch op := n.Op().(type) {
	case *graph.VarianceHingeOp:
		return p.checkGroups(n, in[1], op.Groups)
	case *graph.VarianceHingeGradOp:
		return p.checkGroups(n, in[1], op.Groups)
	}
	return nil
}

func (p *plan) checkGroups(n, offsets *G.Node, groups int) error {
	if segments := offsets.Shape()[0] - 1; segments != groups*p.clips {
		return fmt.Errorf("%v: %d segments, want %d for each of %d clips", n.Op(), segments, groups, p.clips)
	}
	return nil
}

// agree notes that the spaces of two offsets must give every clip the same rows; nil:
// capacity rows each.
func (p *plan) agree(a, b *G.Node, capacity int) {
	if a == nil {
		a, b = b, a
	}
	if g := (agreement{a, b, capacity}); a != b && !slices.Contains(p.agreements, g) {
		p.agreements = append(p.agreements, g)
	}
}

// segmented notes that offsets divide up to capacity rows of every clip.
func (p *plan) segmented(n, offsets *G.Node, capacity int) error {
	if segments := offsets.Shape()[0] - 1; segments%p.clips != 0 {
		return fmt.Errorf("%v: %d segments, which %d clips do not share evenly", n.Op(), segments, p.clips)
	}
	if old, ok := p.spaces[offsets]; !ok || capacity < old {
		p.spaces[offsets] = capacity
	}
	p.longestOffsets = max(p.longestOffsets, offsets.Shape()[0])
	return nil
}

// addSpace says which rows a clip node has, and which indices to check for it.
func (p *plan) addSpace(n *G.Node, in G.Nodes) error {
	s := n.Shape()
	if s[0]%p.clips != 0 {
		return fmt.Errorf("%v has %d rows, which %d clips do not share evenly", n.Op(), s[0], p.clips)
	}
	pl := &place{width: s[1], capacity: s[0] / p.clips}
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
		if rotate, ok := op.(*graph.RotateOp); ok {
			check := indexCheck{index: in[1], rows: in[2], table: rotate.Rotation.Tokens()}
			if !slices.Contains(p.indexChecks, check) { // every block turns by the same tokens
				p.indexChecks = append(p.indexChecks, check)
			}
		}
		rows, _ := roles(op)
		pl.offsets = p.place[in[rows[0]]].offsets
	}
	p.place[n] = pl
	if pl.offsets != nil {
		return p.segmented(n, pl.offsets, pl.capacity)
	}
	return nil
}
