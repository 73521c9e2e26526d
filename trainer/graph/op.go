package graph

import (
	"fmt"
	"hash"
	"hash/fnv"
	"slices"

	"github.com/chewxy/hm"
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Op is an operation of this package. A machine switches on its concrete type.
type Op interface {
	G.SDOp
	// Grads returns the gradient with respect to each input for which need is set
	// (nil elsewhere), as nodes of this package's operations. Only differentiable
	// inputs (DiffWRT) may be needed.
	Grads(inputs G.Nodes, output, grad *G.Node, need []bool) (G.Nodes, error)
}

// typed is the part that all operations share. It is filled in by apply, when the
// node is made, and supplies every method that does not differ between them.
type typed struct {
	self Op
	in   []hm.Type
	out  hm.Type
}

func (t *typed) Arity() int { return len(t.in) }

// Type is built anew each time, because Gorgonia recycles what it gets.
func (t *typed) Type() hm.Type {
	return hm.NewFnType(append(append([]hm.Type{}, t.in...), t.out)...)
}
func (t *typed) ReturnsPtr() bool      { return false }
func (t *typed) CallsExtern() bool     { return false }
func (t *typed) OverwritesInput() int  { return -1 }
func (t *typed) WriteHash(h hash.Hash) { _, _ = fmt.Fprint(h, t.self) }
func (t *typed) Hashcode() uint32 {
	h := fnv.New32a()
	t.WriteHash(h)
	return h.Sum32()
}

// DiffWRT says no for every input: differentiable operations say otherwise.
func (t *typed) DiffWRT(inputs int) []bool { return make([]bool, inputs) }

// Grads fails: differentiable operations define their own.
func (t *typed) Grads(G.Nodes, *G.Node, *G.Node, []bool) (G.Nodes, error) {
	return nil, fmt.Errorf("%v has no gradient", t.self)
}

// SymDiff is Gorgonia's name for Grads with every gradient that exists.
func (t *typed) SymDiff(inputs G.Nodes, output, grad *G.Node) (G.Nodes, error) {
	return t.self.Grads(inputs, output, grad, t.self.DiffWRT(len(inputs)))
}

func (t *typed) fill(self Op, in []hm.Type, out hm.Type) { t.self, t.in, t.out = self, in, out }

// fillable is a concrete operation before apply has filled it in.
type fillable interface {
	Op
	fill(self Op, in []hm.Type, out hm.Type)
}

// apply makes the node op(children...), whose result has the given number of
// dimensions and the element type of the like node.
func apply(op fillable, like *G.Node, dims int, children ...*G.Node) (*G.Node, error) {
	in := make([]hm.Type, len(children))
	indices := indexInputs(op)
	for i, c := range children {
		if c == nil {
			return nil, fmt.Errorf("%v: input %d is missing", op, i)
		}
		of := like.Dtype()
		if slices.Contains(indices, i) {
			of = tensor.Int32
		}
		if c.Dtype() != of || of == tensor.Int32 && !slices.Contains(indices, i) {
			return nil, fmt.Errorf("%v: input %d (%s) is %v", op, i, c.Name(), c.Dtype())
		}
		in[i] = typeOf(c.Dims(), of)
	}
	op.fill(op, in, typeOf(dims, like.Dtype()))
	n, err := G.ApplyOp(op, children...)
	if err != nil {
		return nil, fmt.Errorf("%v on shapes %v: %w", op, shapes(children), err)
	}
	return n, nil
}

// indexInputs lists the inputs of an operation that are int32; the others are floats of one type.
func indexInputs(op Op) []int {
	switch op.(type) {
	case *AttentionOp, *AttentionGradOp, *VarianceHingeOp, *VarianceHingeGradOp:
		return []int{1}
	case *GatherOp, *ScatterOp:
		return []int{1, 2, 3}
	case *LookupOp:
		return []int{0, 1}
	case *LookupGradOp, *RotateOp:
		return []int{1, 2}
	case *LpLossOp, *LpLossGradOp:
		return []int{3}
	}
	return nil
}

func typeOf(dims int, of tensor.Dtype) hm.Type { return G.TensorType{Dims: dims, Of: of} }

func shapes(nodes G.Nodes) []tensor.Shape {
	out := make([]tensor.Shape, len(nodes))
	for i, n := range nodes {
		out[i] = n.Shape()
	}
	return out
}

// dims returns the shapes behind Gorgonia's DimSizers.
func dims(in []G.DimSizer) ([]tensor.Shape, error) { return G.DimSizersToShapes(in) }

// want fails unless a shape has the given sizes; a size of -1 is any.
func want(what string, s tensor.Shape, sizes ...int) error {
	ok := len(s) == len(sizes)
	for i := 0; ok && i < len(sizes); i++ {
		ok = sizes[i] < 0 || s[i] == sizes[i]
	}
	if !ok {
		return fmt.Errorf("%s has shape %v, want %v (-1 is any)", what, s, sizes)
	}
	return nil
}
