package xla

import (
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// A space is a set of packed token rows that several matrices share: a matrix and what is computed from it row by row,
// and every vector of offsets that divides those rows. On the device all of its matrices have the same number of rows,
// which is fixed when a module is compiled, at most the capacity that the graph was built for; see shape.go.
type space struct {
	capacity int     // rows in the graph
	whole    bool    // some matrix comes from outside: the device has all rows of the capacity
	offsets  G.Nodes // that divide it; none: every row counts
}

// program is a graph.Program, looked through once: what each node is.
type program struct {
	*graph.Program
	order     G.Nodes // of results and updates, every node after its inputs
	children  map[*G.Node]G.Nodes
	readers   map[*G.Node][]reader
	spaces    []*space
	rows      map[*G.Node]*space // of matrices of rows
	divides   map[*G.Node]*space // of offsets
	tables    []table            // that the host fills in; see table.go
	segments  G.Nodes            // offsets inside whose segments something is computed
	optimised []*group           // see optimizer.go
	state     []*flat            // those of the groups, then what is never updated
	uploaded  G.Nodes            // float inputs that operations read
	rotations []rotation         // of rotary positions
	figures   G.Nodes            // results of one number, in the order of Results
	large     G.Nodes            // other results
}

// reader is a node that reads another as its input number i.
type reader struct {
	node *G.Node
	i    int
}

// analyse looks through a program. An operation that is not of package graph, or rows that do not fit, are errors.
func analyse(p *graph.Program) (*program, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	a := &program{Program: p, children: map[*G.Node]G.Nodes{}, readers: map[*G.Node][]reader{}, rows: map[*G.Node]*space{}, divides: map[*G.Node]*space{}}
	roots := slices.Clone(p.Results)
	for _, u := range p.Updates {
		roots = append(roots, u.Next)
	}
	var err error
	if a.order, err = graph.Sort(roots...); err != nil {
		return nil, err
	}
	for _, n := range a.order {
		a.children[n] = graph.Children(n)
		for i, c := range a.children[n] {
			a.readers[c] = append(a.readers[c], reader{n, i})
		}
		if n.Dtype() == tensor.Float64 {
			return nil, fmt.Errorf("%v (%s) is float64; the accelerator runs float32", n, n.Name())
		}
	}
	if err := a.findSpaces(); err != nil {
		return nil, err
	}
	a.findTables()
	a.findArguments()
	if err := a.layState(); err != nil {
		return nil, err
	}
	for _, n := range p.Results {
		if n.Op() == nil || n.Dtype() != tensor.Float32 {
			return nil, fmt.Errorf("result %s is not computed, or no floats", n.Name())
		}
		if n.Shape().TotalSize() == 1 && a.rows[n] == nil {
			a.figures = append(a.figures, n)
		} else {
			a.large = append(a.large, n)
		}
	}
	return a, nil
}

// layout is how an operation's inputs and result lie in spaces.
type layout struct {
	rows    []int // inputs that are matrices of rows
	offsets int   // input that divides those rows; -1: none
	result  int   // input that divides the rows of the result; -1: those of the inputs; -2: the result has no rows
}

const (
	none     = -1
	noRows   = -2
	sameRows = -1
)

// layoutOf is the layout of an operation; ok is false for one that is not known.
func (a *program) layoutOf(n *G.Node) (l layout, ok bool) {
	switch n.Op().(type) {
	case *graph.PatchifyOp:
		return layout{nil, none, sameRows}, true
	case *graph.LinearOp, *graph.LinearGradXOp, *graph.GELUOp, *graph.LayerNormOp:
		return layout{[]int{0}, none, sameRows}, true
	case *graph.GELUGradOp, *graph.LayerNormGradXOp, *graph.RowErrorOp, *graph.SwiGLUOp:
		return layout{[]int{0, 1}, none, sameRows}, true
	case *graph.SwiGLUGradOp:
		return layout{[]int{0, 1, 2}, none, sameRows}, true
	case *graph.AttentionOp, *graph.VarianceHingeGradOp:
		return layout{[]int{0}, 1, sameRows}, true
	case *graph.AttentionGradOp:
		return layout{[]int{0, 2}, 1, sameRows}, true
	case *graph.RotateOp:
		return layout{[]int{0}, 2, sameRows}, true
	case *graph.LpLossGradOp:
		return layout{[]int{0, 1}, 3, sameRows}, true
	case *graph.GatherOp, *graph.ScatterOp:
		return layout{[]int{0}, 2, 3}, true
	case *graph.LookupOp:
		return layout{nil, none, 1}, true
	case *graph.LinearGradWOp, *graph.LayerNormGradScaleOp:
		return layout{[]int{0, 1}, none, noRows}, true
	case *graph.ColumnSumOp:
		return layout{[]int{0}, none, noRows}, true
	case *graph.LookupGradOp:
		return layout{[]int{0}, 2, noRows}, true
	case *graph.LpLossOp:
		return layout{[]int{0, 1}, 3, noRows}, true
	case *graph.VarianceHingeOp:
		return layout{[]int{0}, 1, noRows}, true
	case *graph.AddOp, *graph.ScaleOp, *graph.OnesOp:
		if slices.ContainsFunc(a.children[n], func(c *G.Node) bool { return a.rows[c] != nil }) {
			return layout{[]int{0, 1}[:len(a.children[n])], none, sameRows}, true
		}
		return layout{nil, none, noRows}, true
	case *graph.SumSquaresOp, *graph.ClipFactorOp, *graph.FirstMomentOp, *graph.SecondMomentOp, *graph.AdamWOp, *graph.EMAOp:
		return layout{nil, none, noRows}, true
	}
	return layout{}, false
}

// findSpaces gives every matrix of rows and every vector of offsets its space.
func (a *program) findSpaces() error {
	for _, n := range a.order {
		if n.Op() == nil {
			continue
		}
		l, ok := a.layoutOf(n)
		if !ok {
			return fmt.Errorf("operation %v is not known to the accelerator", n.Op())
		}
		in := a.children[n]
		var s *space
		for _, i := range l.rows {
			if a.rows[in[i]] == nil {
				if in[i].Op() != nil {
					return fmt.Errorf("%v: input %d (%v) is a whole tensor, want rows", n.Op(), i, in[i].Op())
				}
				a.rows[in[i]] = a.newSpace(in[i].Shape()[0], true)
			}
			s = a.join(s, a.rows[in[i]])
		}
		for i, c := range in {
			if a.rows[c] != nil && !slices.Contains(l.rows, i) {
				return fmt.Errorf("%v: input %d (%v) is rows, want a whole tensor", n.Op(), i, c.Op())
			}
		}
		if l.offsets >= 0 {
			s = a.join(s, a.dividedBy(in[l.offsets], s.capacity))
		}
		switch {
		case l.result == noRows:
		case l.result >= 0:
			a.rows[n] = a.join(a.dividedBy(in[l.result], n.Shape()[0]), nil)
		case s == nil: // patches
			a.rows[n] = a.newSpace(n.Shape()[0], true)
		default:
			a.rows[n] = s
		}
	}
	for _, n := range a.order {
		if s := a.rows[n]; s != nil && s.capacity != n.Shape()[0] {
			return fmt.Errorf("%v (%s) has %d rows and shares them with a matrix of %d", n.Op(), n.Name(), n.Shape()[0], s.capacity)
		}
	}
	return nil
}

func (a *program) newSpace(capacity int, whole bool) *space {
	s := &space{capacity: capacity, whole: whole}
	a.spaces = append(a.spaces, s)
	return s
}

// dividedBy is the space that offsets divide, a new one if they have not been seen.
func (a *program) dividedBy(offsets *G.Node, capacity int) *space {
	if s := a.divides[offsets]; s != nil {
		return s
	}
	s := a.newSpace(capacity, false)
	s.offsets, a.divides[offsets] = G.Nodes{offsets}, s
	return s
}

// join makes two spaces one; either may be nil. Capacities that differ are found by findSpaces.
func (a *program) join(s, t *space) *space {
	if s == nil || t == nil || s == t {
		if s == nil {
			return t
		}
		return s
	}
	s.whole = s.whole || t.whole
	s.capacity = min(s.capacity, t.capacity)
	s.offsets = append(s.offsets, t.offsets...)
	a.spaces = slices.DeleteFunc(a.spaces, func(x *space) bool { return x == t })
	for _, m := range []map[*G.Node]*space{a.rows, a.divides} {
		for n, x := range m {
			if x == t {
				m[n] = s
			}
		}
	}
	return s
}
