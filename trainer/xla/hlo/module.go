// Package hlo writes programs in StableHLO (openxla.org/stablehlo), the input language of XLA compilers.
//
// A Func collects operations in order; every method adds one and returns its result. Types are checked as operations
// are added: the first mistake sticks, and Text returns it. The text is MLIR's generic form, one operation a line, which
// any MLIR tool reads without knowing the dialect.
package hlo

import (
	"fmt"
)

// Value is the result of an operation, or an argument.
type Value struct {
	Type
	id int
}

// attribute is a named constant of an operation, written as MLIR.
type attribute struct{ name, value string }

// operation is one line of the text.
type operation struct {
	name       string
	in, out    []*Value
	attributes []attribute
	regions    []*block
}

// block is a list of operations with arguments of its own: a function's body or a region of an operation.
type block struct {
	args []*Value
	ops  []*operation
}

// Func is the entry function of a module, under construction.
type Func struct {
	name    string
	body    *block
	at      *block // where operations go: the body, or a region of it
	next    int
	args    []*Value
	aliases map[int]int // argument -> result whose memory it becomes
	results []*Value
	err     error
}

// New begins a module's entry function.
func New(name string) *Func {
	b := &block{}
	return &Func{name: name, body: b, at: b, aliases: map[int]int{}}
}

// Arg adds an argument.
func (f *Func) Arg(t Type) *Value {
	v := f.value(t)
	f.args = append(f.args, v)
	return v
}

// Return ends the function.
func (f *Func) Return(results ...*Value) {
	f.results = results
	f.add("func.return", nil, results)
}

// Alias gives argument number arg's memory to a result, which must have the same type. The argument is used up.
func (f *Func) Alias(arg, result int) {
	if arg >= len(f.args) || result >= len(f.results) || !f.args[arg].Equal(f.results[result].Type) {
		f.fail("argument %d cannot become result %d", arg, result)
		return
	}
	f.aliases[arg] = result
}

// Args and Results are the types of the entry function.
func (f *Func) Args() []Type { return types(f.args) }

// Results are the types that the function returns.
func (f *Func) Results() []Type { return types(f.results) }

func types(vs []*Value) []Type {
	out := make([]Type, len(vs))
	for i, v := range vs {
		out[i] = v.Type
	}
	return out
}

// Err is the first mistake.
func (f *Func) Err() error { return f.err }

func (f *Func) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("module %s: operation %d: %s", f.name, f.next, fmt.Sprintf(format, args...))
	}
}

func (f *Func) value(t Type) *Value {
	f.next++
	return &Value{Type: t, id: f.next - 1}
}

// add appends an operation with results of the given types.
func (f *Func) add(name string, out []Type, in []*Value, attributes ...attribute) *operation {
	op := &operation{name: name, in: in, attributes: attributes}
	for _, v := range in {
		if v == nil {
			f.fail("%s: an input is missing", name)
			op.in = nil
		}
	}
	for _, t := range out {
		for _, d := range t.Dims {
			if d < 0 {
				f.fail("%s: result %v", name, t)
			}
		}
		op.out = append(op.out, f.value(t))
	}
	f.at.ops = append(f.at.ops, op)
	return op
}

// one appends an operation with one result.
func (f *Func) one(name string, out Type, in []*Value, attributes ...attribute) *Value {
	return f.add(name, []Type{out}, in, attributes...).out[0]
}

// region collects operations into a block with arguments of the given types; what do returns is what the block returns.
func (f *Func) region(args []Type, do func(args []*Value) []*Value) (*block, []Type) {
	outer := f.at
	b := &block{}
	for _, t := range args {
		b.args = append(b.args, f.value(t))
	}
	f.at = b
	results := do(b.args)
	f.add("stablehlo.return", nil, results)
	f.at = outer
	return b, types(results)
}
