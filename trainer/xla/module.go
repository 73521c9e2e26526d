package xla

import (
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Two modules are made of a program, each for one shape.
//
// A run computes the results: state, constants, inputs and tables go in; figures [1,F] and large results come out.
//
// A step computes the results and the next state, N times over, without the host: the state is donated, so it is updated
// in place. Inputs and tables are stacked, [N,…]; figures are [N,F], large results those of the last step. Where fewer than
// N steps are wanted, their count says how many of the N have an effect. A step whose figures are not all finite changes
// nothing, and none after it does: alive, a scalar that is part of the state, is false from then on.

// arguments of a module, in order.
type arguments struct {
	state     []*flat // all of it; in a step the updated ones come first, then alive
	constants []rotation
	inputs    G.Nodes // float inputs that operations read
	tables    []table // of float32
	ints      []table // of int32: one argument has them all, end to end
}

// module is what is compiled.
type module struct {
	Module
	arguments
	steps  int
	update bool
}

func (a *program) argumentsFor(s *shape) arguments {
	args := arguments{state: a.state, constants: a.rotations, inputs: a.uploaded}
	for _, t := range a.tables {
		if s.present(t) {
			if t.kind == rowWeights {
				args.tables = append(args.tables, t)
			} else {
				args.ints = append(args.ints, t)
			}
		}
	}
	return args
}

// findArguments notes what goes to the device as it is.
func (a *program) findArguments() {
	for _, n := range a.Inputs {
		read := slices.ContainsFunc(a.readers[n], func(r reader) bool {
			switch r.node.Op().(type) {
			case *graph.LpLossOp, *graph.LpLossGradOp:
				return r.i != 2 // weights: a table has them
			}
			return true
		})
		if n.Dtype() == tensor.Float32 && read {
			a.uploaded = append(a.uploaded, n)
		}
	}
	for _, n := range a.order {
		if op, ok := n.Op().(*graph.RotateOp); ok {
			if r := rotationOf(op, a.children[n]); !slices.Contains(a.rotations, r) {
				a.rotations = append(a.rotations, r)
			}
		}
	}
}

// inputType is how an input lies on the device.
func (m *Options) inputType(n *G.Node) Type {
	if _, ok := m.Pixels[n]; ok {
		return hlo.Of(hlo.U8, n.Shape()...)
	}
	return hlo.Of(hlo.F32, n.Shape()...)
}

func (a *program) tableType(s *shape, t table) Type { return hlo.Of(hlo.F32, s.dims(a, t)...) }

// size is the elements of a table.
func (s *shape) size(a *program, t table) int { return hlo.Of(hlo.S32, s.dims(a, t)...).Elements() }

// intsType is the argument that has all tables of int32.
func (a *program) intsType(s *shape, tables []table) Type {
	n := 0
	for _, t := range tables {
		n += s.size(a, t)
	}
	return hlo.Of(hlo.S32, n)
}

// countType is how many of a module's steps have an effect.
var countType = hlo.Of(hlo.S32)

// types are those of the tables of sines and cosines.
func (r rotation) types() [2]Type {
	t := hlo.Of(hlo.F32, r.Tokens(), graph.Rotated(r.headDim))
	return [2]Type{t, t}
}

// stacked is a type with room for n of it; n itself where there is no stack.
func stacked(t Type, n int) Type {
	if n == 1 {
		return t
	}
	return hlo.Of(t.DType, slices.Concat([]int{n}, t.Dims)...)
}

// build writes a module. update: a step, repeated steps times; otherwise a run.
func (a *program) build(s *shape, o Options, update bool, steps int) (*module, error) {
	m := &module{arguments: a.argumentsFor(s), steps: steps, update: update}
	name := "run"
	if update {
		name = fmt.Sprintf("step%d", steps)
	}
	f := hlo.New(name)
	b := &builder{a: a, s: s, o: o, m: m, f: f}
	var err error
	if update {
		err = b.step()
	} else {
		err = b.run()
	}
	if err != nil {
		return nil, fmt.Errorf("lower to StableHLO: %w", err)
	}
	m.Name, m.Args, m.Results = name, f.Args(), f.Results()
	if m.Text, err = f.Text(); err != nil {
		return nil, fmt.Errorf("lower to StableHLO: %w", err)
	}
	return m, nil
}

// builder writes one module.
type builder struct {
	a *program
	s *shape
	o Options
	m *module
	f *hlo.Func
}

// values are the arguments, or what a loop carries of them.
type values struct {
	state     map[*flat]*hlo.Value
	constants []*hlo.Value // two for each rotation
	inputs    []*hlo.Value
	tables    []*hlo.Value
	ints      []*hlo.Value // one, or none
	count     []*hlo.Value // of steps that have an effect; none where there is one step
}

// args adds the arguments after those of the updated state.
func (b *builder) args(state map[*flat]*hlo.Value, steps int) values {
	v := values{state: state}
	for _, s := range b.m.state {
		if state[s] == nil {
			state[s] = b.f.Arg(s.kind())
		}
	}
	for _, r := range b.m.constants {
		for _, t := range r.types() {
			v.constants = append(v.constants, b.f.Arg(t))
		}
	}
	for _, n := range b.m.inputs {
		v.inputs = append(v.inputs, b.f.Arg(stacked(b.o.inputType(n), steps)))
	}
	for _, t := range b.m.tables {
		v.tables = append(v.tables, b.f.Arg(stacked(b.a.tableType(b.s, t), steps)))
	}
	if len(b.m.ints) > 0 {
		v.ints = append(v.ints, b.f.Arg(stacked(b.a.intsType(b.s, b.m.ints), steps)))
	}
	if steps > 1 {
		v.count = append(v.count, b.f.Arg(countType))
	}
	return v
}

// lowering begins a block with the arguments in place. at picks one of the stack; nil: there is none.
func (b *builder) lowering(v values, order G.Nodes, at *hlo.Value) *lowering {
	pick := func(x *hlo.Value) *hlo.Value {
		if at == nil {
			return x
		}
		return b.f.At(x, at)
	}
	l := &lowering{a: b.a, f: b.f, s: b.s, half: b.o.Precision == InBF16, tf32: b.o.Precision == InTF32, o: b.o,
		values: map[*G.Node]*hlo.Value{}, tables: map[table]*hlo.Value{}, factor: map[rotation][2]*hlo.Value{},
		flat: map[*group]*hlo.Value{}, kept: map[attended]forward{}}
	if l.half {
		l.narrow = b.a.findNarrow()
	}
	for _, s := range b.m.state {
		l.unpack(s, v.state[s], order)
	}
	for i, r := range b.m.constants {
		l.factor[r] = [2]*hlo.Value{v.constants[2*i], v.constants[2*i+1]}
	}
	for i, n := range b.m.inputs {
		l.values[n] = pick(v.inputs[i])
		if p, ok := b.o.Pixels[n]; ok {
			l.values[n] = l.normalise(l.values[n], p)
		}
	}
	for i, t := range b.m.tables {
		l.tables[t] = pick(v.tables[i])
	}
	if len(b.m.ints) > 0 {
		all, from := pick(v.ints[0]), 0
		for _, t := range b.m.ints {
			to := from + b.s.size(b.a, t)
			l.tables[t] = b.f.Reshape(b.f.Slice(all, 0, from, to), b.s.dims(b.a, t)...)
			from = to
		}
	}
	return l
}

// normalise is bytes [B,C,…] as numbers, by channel.
func (l *lowering) normalise(x *hlo.Value, p Pixels) *hlo.Value {
	f := l.f
	y := f.Convert(x, hlo.F32)
	return f.Add(f.Mul(y, f.Broadcast(f.Vector(p.Scale), y.Dims, 1)), f.Broadcast(f.Vector(p.Shift), y.Dims, 1))
}

// figures are the program's figures, [F].
func (b *builder) figures(l *lowering) *hlo.Value {
	if len(b.a.figures) == 0 {
		return nil
	}
	var all []*hlo.Value
	for _, n := range b.a.figures {
		all = append(all, b.f.Reshape(l.in(n), 1))
	}
	return b.f.Concat(0, all...)
}

// large are the program's other results, as the device has them: matrices of rows without unused capacity.
func (b *builder) large(l *lowering) (out []*hlo.Value) {
	for _, n := range b.a.large {
		out = append(out, l.in(n))
	}
	return out
}

func (b *builder) run() error {
	order, err := graph.Sort(b.a.Results...)
	if err != nil {
		return err
	}
	l := b.lowering(b.args(map[*flat]*hlo.Value{}, 1), order, nil)
	if err := l.run(order); err != nil {
		return err
	}
	var out []*hlo.Value
	if figures := b.figures(l); figures != nil {
		out = append(out, b.f.Reshape(figures, 1, figures.Dims[0]))
	}
	b.f.Return(append(out, b.large(l)...)...)
	return b.f.Err()
}

// updatedState is the part of the state that steps change.
func (a *program) updatedState() (out []*flat) {
	for _, s := range a.state {
		if s.updated {
			out = append(out, s)
		}
	}
	return out
}

func (b *builder) step() error {
	f := b.f
	updated := b.a.updatedState()
	state := map[*flat]*hlo.Value{}
	for _, s := range updated {
		state[s] = f.Arg(s.kind())
	}
	alive := f.Arg(hlo.Of(hlo.Bool))
	v := b.args(state, b.m.steps)
	var out []*hlo.Value
	var err error
	if b.m.steps == 1 {
		out, err = b.once(v, alive, nil, nil)
		if err == nil {
			figures := out[len(updated)+1]
			out[len(updated)+1] = f.Reshape(figures, 1, figures.Dims[0])
		}
	} else {
		out, err = b.loop(v, alive)
	}
	if err != nil {
		return err
	}
	f.Return(out...)
	b.m.Donated = map[int]int{}
	for i := range len(updated) + 1 {
		f.Alias(i, i)
		b.m.Donated[i] = i
	}
	return f.Err()
}

// once is one step: the updated state, alive, figures [F], large results. counts tells whether it has an effect; nil: it has.
func (b *builder) once(v values, alive, at, counts *hlo.Value) ([]*hlo.Value, error) {
	roots := slices.Clone(b.a.Results)
	for _, g := range b.a.optimised {
		roots = append(append(roots, g.gradients...), g.rule.factor)
	}
	order, err := graph.Sort(roots...)
	if err != nil {
		return nil, err
	}
	l := b.lowering(v, order, at)
	if err := l.run(order); err != nil {
		return nil, err
	}
	figures := b.figures(l)
	if figures == nil {
		return nil, fmt.Errorf("the program has updates and no figure to judge them by")
	}
	ok := b.f.And(alive, b.f.All(b.f.IsFinite(figures)))
	stays := ok
	if counts != nil {
		stays, ok = b.f.Select(counts, ok, alive), b.f.And(ok, counts)
	}
	next := map[*flat]*hlo.Value{}
	for _, g := range b.a.optimised {
		var old [4]*hlo.Value
		for i, s := range g.buffers {
			if s != nil {
				old[i] = v.state[s]
			}
		}
		for i, x := range l.step(g, ok, old) {
			if g.buffers[i] != nil {
				next[g.buffers[i]] = x
			}
		}
	}
	var out []*hlo.Value
	for _, s := range b.a.updatedState() {
		out = append(out, next[s])
	}
	return append(append(out, stays, figures), b.large(l)...), b.f.Err()
}

// loop repeats the step. What it needs and does not change is carried all the same: a loop sees nothing else.
func (b *builder) loop(v values, alive *hlo.Value) ([]*hlo.Value, error) {
	f := b.f
	updated := b.a.updatedState()
	var fixed []*flat
	for _, s := range b.m.state {
		if !s.updated {
			fixed = append(fixed, s)
		}
	}
	carried := []*hlo.Value{f.Full(0, hlo.Of(hlo.S32))}
	for _, s := range updated {
		carried = append(carried, v.state[s])
	}
	carried = append(carried, alive, f.Full(0, hlo.Of(hlo.F32, b.m.steps, len(b.a.figures))))
	for _, n := range b.a.large {
		carried = append(carried, f.Full(0, b.s.resultType(b.a, n)))
	}
	changing := len(carried)
	for _, s := range fixed {
		carried = append(carried, v.state[s])
	}
	carried = slices.Concat(carried, v.constants, v.inputs, v.tables, v.ints, v.count)
	var failed error
	out := f.While(carried, func(c []*hlo.Value) *hlo.Value {
		return f.Compare(c[0], hlo.Less, f.Full(float64(b.m.steps), hlo.Of(hlo.S32)))
	}, func(c []*hlo.Value) []*hlo.Value {
		in := values{state: map[*flat]*hlo.Value{}}
		for i, s := range updated {
			in.state[s] = c[1+i]
		}
		rest := c[changing:]
		for i, s := range fixed {
			in.state[s] = rest[i]
		}
		rest = rest[len(fixed):]
		in.constants, rest = rest[:len(v.constants)], rest[len(v.constants):]
		in.inputs, rest = rest[:len(v.inputs)], rest[len(v.inputs):]
		in.tables, rest = rest[:len(v.tables)], rest[len(v.tables):]
		in.ints = rest[:len(v.ints)]
		counts := f.Compare(c[0], hlo.Less, rest[len(v.ints)])
		stepped, err := b.once(in, c[1+len(updated)], c[0], counts)
		if err != nil {
			failed = err
			return c
		}
		figures := len(updated) + 1
		next := []*hlo.Value{f.Add(c[0], f.Full(1, hlo.Of(hlo.S32)))}
		next = append(next, stepped[:figures]...)
		next = append(next, f.Put(c[1+figures], stepped[figures], c[0]))
		for _, large := range stepped[figures+1:] {
			next = append(next, f.Select(counts, large, c[len(next)]))
		}
		return append(next, c[changing:]...)
	})
	return out[1:changing], failed
}

// resultType is how a large result lies on the device.
func (s *shape) resultType(a *program, n *G.Node) Type {
	dims := slices.Clone([]int(n.Shape()))
	if sp := a.rows[n]; sp != nil {
		dims[0] = s.rows[sp]
	}
	return hlo.Of(hlo.F32, dims...)
}
