package hlo

import (
	"fmt"
	"slices"
	"strings"
)

// DType is an element type.
type DType string

// Element types, written as MLIR writes them.
const (
	F32  DType = "f32"
	BF16 DType = "bf16"
	S32  DType = "i32"
	U8   DType = "ui8"
	Bool DType = "i1" // a byte each in memory
)

// Size is an element's bytes.
func (d DType) Size() int {
	switch d {
	case F32, S32:
		return 4
	case BF16:
		return 2
	}
	return 1
}

// Float tells whether it is a floating-point type.
func (d DType) Float() bool { return d == F32 || d == BF16 }

// Type is a tensor's element type and sizes; no sizes: a scalar.
type Type struct {
	DType DType
	Dims  []int
}

// Of is the type with the given element type and sizes.
func Of(d DType, dims ...int) Type { return Type{d, dims} }

// Elements is how many there are.
func (t Type) Elements() int {
	n := 1
	for _, d := range t.Dims {
		n *= d
	}
	return n
}

// Bytes is the memory they take.
func (t Type) Bytes() int { return t.Elements() * t.DType.Size() }

// Rank is the number of dimensions.
func (t Type) Rank() int { return len(t.Dims) }

// Equal compares element types and sizes.
func (t Type) Equal(o Type) bool { return t.DType == o.DType && slices.Equal(t.Dims, o.Dims) }

// As is the same sizes with another element type.
func (t Type) As(d DType) Type { return Type{d, t.Dims} }

// String writes the type as MLIR does: tensor<2x3xf32>.
func (t Type) String() string {
	var s strings.Builder
	s.WriteString("tensor<")
	for _, d := range t.Dims {
		fmt.Fprintf(&s, "%dx", d)
	}
	s.WriteString(string(t.DType) + ">")
	return s.String()
}
