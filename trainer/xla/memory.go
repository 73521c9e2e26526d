package xla

import (
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// Needs is the device memory that a machine takes, bytes. Before a module is compiled it is an estimate: what lies
// between operations, by when each matrix is first and last used, as if every operation wrote its result to memory.
// The compiler joins operations and needs less, as a rule.
type Needs struct {
	State     int64 // weights, moments and moving averages
	Inputs    int64 // clips and tables, of all steps that are in flight
	Results   int64
	Temporary int64 // between operations, gradients included
	Code      int64
	Estimated bool // not yet the compiler's own figure
}

// Total is all of it.
func (n Needs) Total() int64 { return n.State + n.Inputs + n.Results + n.Temporary + n.Code }

func (n Needs) String() string {
	about := ""
	if n.Estimated {
		about = "about "
	}
	return fmt.Sprintf("%s%s of device memory (%s of weights and moments, %s of inputs and results, %s between operations)",
		about, gib(n.Total()), gib(n.State), gib(n.Inputs+n.Results), gib(n.Temporary+n.Code))
}

// TooLargeError says that a program does not fit on the device.
type TooLargeError struct {
	Needs     Needs
	Available int64 // bytes; 0: not known
	Clips     int   // of a batch
	Fits      int   // clips of the largest batch that would fit, by the estimate; 0: none
	Device    string
	Err       error // the device's own, if it was the device that found out
}

func (e *TooLargeError) Error() string {
	s := fmt.Sprintf("a batch of %d clips takes %s", e.Clips, e.Needs)
	if e.Available > 0 {
		s += fmt.Sprintf(", and %s has %s", e.Device, gib(e.Available))
		if e.Fits > 0 {
			s += fmt.Sprintf(": a batch of %d would fit", e.Fits)
		} else {
			s += ": not even one clip would fit"
		}
	}
	if e.Err != nil {
		s += fmt.Sprintf(": %v", e.Err)
	}
	return s
}

// Unwrap is the device's error.
func (e *TooLargeError) Unwrap() error { return e.Err }

// fits is the largest batch that memory holds, when state stays and all else goes with the clips.
func (n Needs) fits(available int64, clips int) int {
	perClip := (n.Inputs + n.Results + n.Temporary) / int64(clips)
	if perClip < 1 || available <= n.State {
		return 0
	}
	return int(min((available-n.State)/perClip, int64(clips)))
}

// estimate says what a module will take.
func (a *program) estimate(s *shape, o Options, update bool, steps int) Needs {
	need := Needs{Estimated: true}
	var trained int64
	for _, b := range a.state {
		need.State += int64(b.kind().Bytes())
	}
	for _, g := range a.optimised {
		trained += int64(g.buffers[0].kind().Bytes())
	}
	args := a.argumentsFor(s)
	for _, n := range args.inputs {
		need.Inputs += int64(o.inputType(n).Bytes())
	}
	for _, t := range args.tables {
		need.Inputs += int64(a.tableType(s, t).Bytes())
	}
	need.Inputs += int64(a.intsType(s, args.ints).Bytes())
	need.Inputs *= int64(steps * inFlight)
	for _, n := range a.large {
		need.Results += int64(s.resultType(a, n).Bytes())
	}
	roots := append(G.Nodes{}, a.Results...)
	if update {
		need.Temporary += trained // gradients end to end
		for _, g := range a.optimised {
			roots = append(roots, g.gradients...)
		}
	}
	if o.Precision == InBF16 {
		need.Temporary += need.State / 2 / 4 // weights as products read them
	}
	need.Temporary += a.peak(s, o, roots)
	return need
}

// peak is the most that lies between operations at any time.
func (a *program) peak(s *shape, o Options, roots G.Nodes) int64 {
	order, err := graph.Sort(roots...)
	if err != nil {
		return 0
	}
	var narrow map[*G.Node]bool
	if o.Precision == InBF16 {
		narrow = a.findNarrow()
	}
	bytes := func(n *G.Node) int64 {
		if n.Op() == nil || n.Dtype() != tensor.Float32 {
			return 0
		}
		size := int64(4)
		if narrow[n] {
			size = 2
		}
		cells := int64(n.Shape().TotalSize())
		if sp := a.rows[n]; sp != nil {
			cells = cells / int64(n.Shape()[0]) * int64(s.rows[sp])
		}
		return size * cells
	}
	last := map[*G.Node]int{}
	for i, n := range order {
		for _, c := range a.children[n] {
			last[c] = i
		}
	}
	var now, most int64
	for i, n := range order {
		now += bytes(n)
		most = max(most, now+a.scratch(s, o, n))
		seen := map[*G.Node]bool{}
		for _, c := range a.children[n] {
			if last[c] == i && !seen[c] {
				now -= bytes(c)
				seen[c] = true
			}
		}
	}
	return most
}

// scratch is what an operation needs beside its result: scores and probabilities of attention.
func (a *program) scratch(s *shape, o Options, n *G.Node) int64 {
	in := a.children[n]
	scores := func(heads int) int64 {
		length := int64(s.segments[in[1]].length)
		return 4 * int64(in[1].Shape()[0]-1) * int64(heads) * length * length
	}
	switch op := n.Op().(type) {
	case *graph.AttentionOp:
		if o.fusesHeads(op.Block, in[0].Shape()[1]/3/op.Heads) {
			return 0
		}
		return 2 * scores(op.Heads)
	case *graph.AttentionGradOp:
		if o.fusesHeads(op.Block, in[0].Shape()[1]/3/op.Heads) {
			return 0
		}
		return 4 * scores(op.Heads)
	}
	return 0
}
