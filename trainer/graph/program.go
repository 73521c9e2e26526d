package graph

import (
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Program is what a machine runs: a graph, and the role of the nodes that the
// outside sees.
type Program struct {
	Clips   int      // B, the clips of a batch; every space of rows has a multiple of B segments
	Inputs  G.Nodes  // set by the caller before each run
	State   G.Nodes  // kept by the machine from run to run: weights, moments
	Results G.Nodes  // computed by a run
	Updates []Update // applied to the state when the caller has seen the results
}

// Update says that a state takes the value of another node.
type Update struct{ State, Next *G.Node }

// Buffers gives access to the memory of inputs, state and results.
type Buffers interface {
	Floats(n *G.Node) []float32 // row-major; nil for an unknown node
	Ints(n *G.Node) []int32
}

// Machine runs a program. Run computes the results and leaves the state as it is;
// Update then applies the updates of that run, once. Between the two the caller can refuse
// a step, for example because the loss is not a number.
type Machine interface {
	Buffers
	Run() error
	Update() error
	Close() error
}

// Validate checks that inputs and state are leaves, each named once, and that updates fit.
func (p *Program) Validate() error {
	if p.Clips < 1 {
		return fmt.Errorf("program: %d clips, want at least 1", p.Clips)
	}
	leaves := map[*G.Node]bool{}
	for _, n := range append(append(G.Nodes{}, p.Inputs...), p.State...) {
		if n.Op() != nil {
			return fmt.Errorf("program: %s is computed, not an input or state", n.Name())
		}
		if leaves[n] {
			return fmt.Errorf("program: %s is listed twice", n.Name())
		}
		leaves[n] = true
	}
	for _, u := range p.Updates {
		if !leaves[u.State] || !u.State.Shape().Eq(u.Next.Shape()) {
			return fmt.Errorf("program: update of %s with shape %v by shape %v", u.State.Name(), u.State.Shape(), u.Next.Shape())
		}
	}
	order, err := Sort(append(append(G.Nodes{}, p.Results...), p.nexts()...)...)
	if err != nil {
		return fmt.Errorf("program: %w", err)
	}
	for _, n := range order {
		if n.Op() == nil && !leaves[n] {
			return fmt.Errorf("program: leaf %s is neither input nor state", n.Name())
		}
	}
	return nil
}

func (p *Program) nexts() G.Nodes {
	var out G.Nodes
	for _, u := range p.Updates {
		out = append(out, u.Next)
	}
	return out
}

// Tape is the oracle: it runs a program on Gorgonia's tape machine, through every
// operation's Do. The graph's floats may be float32 or float64; the buffers are
// float32 in either case, rounded on the way out.
type Tape struct {
	p      *Program
	floats map[*G.Node][]float32
	ints   map[*G.Node][]int32
	read   map[*G.Node]*G.Value
	next   map[*G.Node]*G.Value
	state  map[*G.Node]*tensor.Dense // at the graph's precision
}

// NewTape prepares a program for Gorgonia's tape machine. All of the program's graph is run.
func NewTape(p *Program) (*Tape, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	t := &Tape{p: p, floats: map[*G.Node][]float32{}, ints: map[*G.Node][]int32{},
		read: map[*G.Node]*G.Value{}, next: map[*G.Node]*G.Value{}, state: map[*G.Node]*tensor.Dense{}}
	for _, n := range append(append(append(G.Nodes{}, p.Inputs...), p.State...), p.Results...) {
		if n.Dtype() == tensor.Int32 {
			t.ints[n] = make([]int32, n.Shape().TotalSize())
		} else {
			t.floats[n] = make([]float32, n.Shape().TotalSize())
		}
	}
	for _, n := range p.Results {
		t.read[n] = new(G.Value)
		G.Read(n, t.read[n])
	}
	for _, u := range p.Updates {
		t.next[u.State] = new(G.Value)
		G.Read(u.Next, t.next[u.State])
	}
	return t, nil
}

func (t *Tape) Floats(n *G.Node) []float32 { return t.floats[n] }
func (t *Tape) Ints(n *G.Node) []int32     { return t.ints[n] }

// Run computes the results.
func (t *Tape) Run() error {
	for _, n := range append(append(G.Nodes{}, t.p.Inputs...), t.p.State...) {
		if err := G.Let(n, t.load(n)); err != nil {
			return fmt.Errorf("set %s: %w", n.Name(), err)
		}
	}
	m := G.NewTapeMachine(t.p.Inputs[0].Graph())
	defer func() { _ = m.Close() }()
	if err := m.RunAll(); err != nil {
		return fmt.Errorf("run on the tape machine: %w", err)
	}
	for n, v := range t.read {
		round(t.floats[n], *v)
	}
	return nil
}

// load is the value of an input or state at the graph's precision.
func (t *Tape) load(n *G.Node) G.Value {
	switch n.Dtype() {
	case tensor.Int32:
		return tensor.New(tensor.WithShape(n.Shape()...), tensor.WithBacking(t.ints[n]))
	case tensor.Float32:
		return tensor.New(tensor.WithShape(n.Shape()...), tensor.WithBacking(t.floats[n]))
	}
	// A float64 state that an update has written keeps its full precision.
	if s := t.state[n]; s != nil {
		return s
	}
	wide := make([]float64, len(t.floats[n]))
	for i, x := range t.floats[n] {
		wide[i] = float64(x)
	}
	return tensor.New(tensor.WithShape(n.Shape()...), tensor.WithBacking(wide))
}

func round(dst []float32, v G.Value) {
	if x, ok := v.Data().([]float32); ok {
		copy(dst, x)
		return
	}
	for i, x := range v.Data().([]float64) {
		dst[i] = float32(x)
	}
}

// Update applies the updates of the last run.
func (t *Tape) Update() error {
	for n, v := range t.next {
		if *v == nil {
			return fmt.Errorf("update %s: there is no run that was not applied", n.Name())
		}
		if d, ok := (*v).(*tensor.Dense); ok && n.Dtype() == tensor.Float64 {
			t.state[n] = d.Clone().(*tensor.Dense)
		}
		round(t.floats[n], *v)
		*v = nil
	}
	return nil
}

// Close frees nothing: the memory is Go's.
func (t *Tape) Close() error { return nil }
