package hlo

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

func (f *Func) unary(name string, x *Value) *Value { return f.one(name, x.Type, []*Value{x}) }

// Element-wise functions of one tensor.

func (f *Func) Abs(x *Value) *Value      { return f.unary("stablehlo.abs", x) }
func (f *Func) Exp(x *Value) *Value      { return f.unary("stablehlo.exponential", x) }
func (f *Func) Logistic(x *Value) *Value { return f.unary("stablehlo.logistic", x) }
func (f *Func) Neg(x *Value) *Value      { return f.unary("stablehlo.negate", x) }
func (f *Func) Rsqrt(x *Value) *Value    { return f.unary("stablehlo.rsqrt", x) }
func (f *Func) Sign(x *Value) *Value     { return f.unary("stablehlo.sign", x) }
func (f *Func) Sqrt(x *Value) *Value     { return f.unary("stablehlo.sqrt", x) }

// Erf is the error function. It belongs to the CHLO dialect, which compilers of StableHLO know as well.
func (f *Func) Erf(x *Value) *Value { return f.unary("chlo.erf", x) }

// IsFinite is true where x is neither NaN nor infinite.
func (f *Func) IsFinite(x *Value) *Value {
	return f.one("stablehlo.is_finite", x.As(Bool), []*Value{x})
}

// Convert changes the element type; x itself if it has that type.
func (f *Func) Convert(x *Value, d DType) *Value {
	if x.DType == d {
		return x
	}
	return f.one("stablehlo.convert", x.As(d), []*Value{x})
}

func (f *Func) binary(name string, x, y *Value) *Value {
	if !x.Equal(y.Type) {
		f.fail("%s of %v and %v", name, x.Type, y.Type)
	}
	return f.one(name, x.Type, []*Value{x, y})
}

// Element-wise functions of two tensors of one type.

func (f *Func) Add(x, y *Value) *Value { return f.binary("stablehlo.add", x, y) }
func (f *Func) Sub(x, y *Value) *Value { return f.binary("stablehlo.subtract", x, y) }
func (f *Func) Mul(x, y *Value) *Value { return f.binary("stablehlo.multiply", x, y) }
func (f *Func) Div(x, y *Value) *Value { return f.binary("stablehlo.divide", x, y) }
func (f *Func) Max(x, y *Value) *Value { return f.binary("stablehlo.maximum", x, y) }
func (f *Func) Min(x, y *Value) *Value { return f.binary("stablehlo.minimum", x, y) }
func (f *Func) Pow(x, y *Value) *Value { return f.binary("stablehlo.power", x, y) }
func (f *Func) And(x, y *Value) *Value { return f.binary("stablehlo.and", x, y) }

// Direction of a comparison.
type Direction string

// What Compare asks of its first input with regard to the second.
const (
	Equal        Direction = "EQ"
	Less         Direction = "LT"
	LessEqual    Direction = "LE"
	Greater      Direction = "GT"
	GreaterEqual Direction = "GE"
)

// Compare compares two tensors of one type element by element.
func (f *Func) Compare(x *Value, d Direction, y *Value) *Value {
	if !x.Equal(y.Type) {
		f.fail("compare %v with %v", x.Type, y.Type)
	}
	kind := "SIGNED"
	if x.DType.Float() {
		kind = "FLOAT"
	}
	return f.one("stablehlo.compare", x.As(Bool), []*Value{x, y},
		attribute{"comparison_direction", "#stablehlo<comparison_direction " + string(d) + ">"},
		attribute{"compare_type", "#stablehlo<comparison_type " + kind + ">"})
}

// Select takes x where the condition holds and y elsewhere. The condition has their sizes or is a scalar.
func (f *Func) Select(condition, x, y *Value) *Value {
	if !x.Equal(y.Type) || condition.DType != Bool || condition.Rank() > 0 && !slices.Equal(condition.Dims, x.Dims) {
		f.fail("select by %v of %v and %v", condition.Type, x.Type, y.Type)
	}
	return f.one("stablehlo.select", x.Type, []*Value{condition, x, y})
}

// Full is a tensor with the same number everywhere.
func (f *Func) Full(v float64, t Type) *Value {
	return f.one("stablehlo.constant", t, nil, attribute{"value", "dense<" + literal(v, t.DType) + "> : " + t.String()})
}

// Like is a tensor of x's type with the same number everywhere.
func (f *Func) Like(x *Value, v float64) *Value { return f.Full(v, x.Type) }

// literal writes a number as MLIR reads it, exactly.
func literal(v float64, d DType) string {
	switch d {
	case Bool:
		return strconv.FormatBool(v != 0)
	case S32, U8:
		return strconv.FormatInt(int64(v), 10)
	}
	bits := math.Float32bits(float32(v))
	if math.IsInf(v, 0) || math.IsNaN(v) {
		if d == BF16 {
			return fmt.Sprintf("0x%04X", bits>>16)
		}
		return fmt.Sprintf("0x%08X", bits)
	}
	s := strconv.FormatFloat(float64(float32(v)), 'e', -1, 32)
	if mantissa, exponent, _ := strings.Cut(s, "e"); !strings.Contains(mantissa, ".") {
		s = mantissa + ".0e" + exponent
	}
	return s
}

// Iota counts up along one dimension.
func (f *Func) Iota(t Type, dim int) *Value {
	if dim < 0 || dim >= t.Rank() {
		f.fail("iota of %v along dimension %d", t, dim)
	}
	return f.one("stablehlo.iota", t, nil, attribute{"iota_dimension", fmt.Sprintf("%d : i64", dim)})
}

func sizes(x []int) string {
	if len(x) == 0 {
		return "array<i64>"
	}
	return "array<i64: " + list(x) + ">"
}

func list(x []int) string {
	s := make([]string, len(x))
	for i, v := range x {
		s[i] = strconv.Itoa(v)
	}
	return strings.Join(s, ", ")
}

// Broadcast repeats x: dimension i of x becomes dimension dims[i] of the result, and must have its size.
func (f *Func) Broadcast(x *Value, to []int, dims ...int) *Value {
	ok := len(dims) == x.Rank()
	for i := 0; ok && i < len(dims); i++ {
		ok = dims[i] >= 0 && dims[i] < len(to) && to[dims[i]] == x.Dims[i] && (i == 0 || dims[i] > dims[i-1])
	}
	if !ok {
		f.fail("broadcast %v to %v along %v", x.Type, to, dims)
	}
	return f.one("stablehlo.broadcast_in_dim", Type{x.DType, to}, []*Value{x}, attribute{"broadcast_dimensions", sizes(dims)})
}

// Reshape lays the same elements out in other sizes; x itself if it has them.
func (f *Func) Reshape(x *Value, to ...int) *Value {
	if slices.Equal(x.Dims, to) {
		return x
	}
	t := Type{x.DType, to}
	if t.Elements() != x.Elements() {
		f.fail("reshape %v to %v", x.Type, t)
	}
	return f.one("stablehlo.reshape", t, []*Value{x})
}

// Transpose reorders dimensions: dimension i of the result is dimension order[i] of x.
func (f *Func) Transpose(x *Value, order ...int) *Value {
	to := make([]int, len(order))
	seen := make([]bool, x.Rank())
	for i, d := range order {
		if len(order) != x.Rank() || d < 0 || d >= x.Rank() || seen[d] {
			f.fail("transpose %v by %v", x.Type, order)
			return x
		}
		to[i], seen[d] = x.Dims[d], true
	}
	return f.one("stablehlo.transpose", Type{x.DType, to}, []*Value{x}, attribute{"permutation", sizes(order)})
}

// Slice takes the elements from first up to last along one dimension; x itself if that is all of them.
func (f *Func) Slice(x *Value, dim, first, last int) *Value {
	if dim < 0 || dim >= x.Rank() || first < 0 || first > last || last > x.Dims[dim] {
		f.fail("slice %v: %d to %d of dimension %d", x.Type, first, last, dim)
		return x
	}
	if first == 0 && last == x.Dims[dim] {
		return x
	}
	from, to, step, out := make([]int, x.Rank()), slices.Clone(x.Dims), make([]int, x.Rank()), slices.Clone(x.Dims)
	from[dim], to[dim], out[dim] = first, last, last-first
	for i := range step {
		step[i] = 1
	}
	return f.one("stablehlo.slice", Type{x.DType, out}, []*Value{x},
		attribute{"start_indices", sizes(from)}, attribute{"limit_indices", sizes(to)}, attribute{"strides", sizes(step)})
}

// Concat joins tensors along one dimension; a single one is returned as it is.
func (f *Func) Concat(dim int, xs ...*Value) *Value {
	if len(xs) == 1 {
		return xs[0]
	}
	if len(xs) == 0 || dim < 0 || dim >= xs[0].Rank() {
		f.fail("concatenate %d tensors along dimension %d", len(xs), dim)
		return nil
	}
	to := slices.Clone(xs[0].Dims)
	for _, x := range xs[1:] {
		same := slices.Clone(x.Dims)
		if len(same) == len(to) {
			to[dim] += same[dim]
			same[dim] = to[dim]
		}
		if x.DType != xs[0].DType || !slices.Equal(same, to) {
			f.fail("concatenate %v and %v along dimension %d", xs[0].Type, x.Type, dim)
		}
	}
	return f.one("stablehlo.concatenate", Type{xs[0].DType, to}, xs, attribute{"dimension", fmt.Sprintf("%d : i64", dim)})
}

// Reverse turns one dimension round.
func (f *Func) Reverse(x *Value, dim int) *Value {
	return f.one("stablehlo.reverse", x.Type, []*Value{x}, attribute{"dimensions", sizes([]int{dim})})
}

// Sum adds up along dimensions, which vanish.
func (f *Func) Sum(x *Value, dims ...int) *Value { return f.reduce("stablehlo.add", 0, x, dims) }

// MaxOf is the largest element along dimensions, which vanish.
func (f *Func) MaxOf(x *Value, dims ...int) *Value {
	return f.reduce("stablehlo.maximum", math.Inf(-1), x, dims)
}

// All tells whether every element is true.
func (f *Func) All(x *Value) *Value {
	dims := make([]int, x.Rank())
	for i := range dims {
		dims[i] = i
	}
	return f.reduce("stablehlo.and", 1, x, dims)
}

func (f *Func) reduce(with string, zero float64, x *Value, dims []int) *Value {
	var to []int
	for i, d := range x.Dims {
		if !slices.Contains(dims, i) {
			to = append(to, d)
		}
	}
	if len(to)+len(dims) != x.Rank() {
		f.fail("reduce %v along %v", x.Type, dims)
	}
	scalar := Type{DType: x.DType}
	initial := f.Full(zero, scalar)
	op := f.add("stablehlo.reduce", []Type{{x.DType, to}}, []*Value{x, initial}, attribute{"dimensions", sizes(dims)})
	region, _ := f.region([]Type{scalar, scalar}, func(args []*Value) []*Value {
		return []*Value{f.one(with, scalar, args)}
	})
	op.regions = []*block{region}
	return op.out[0]
}

// Dot says which dimensions of two tensors a product runs over.
type Dot struct {
	LeftBatch, RightBatch       []int // in both and in the result
	LeftContract, RightContract []int // summed over
	Out                         DType // of the result; sums are float32 at least
	Exact                       bool  // multiply float32 as float32; false: the device may round operands to fewer bits
}

// Product is the generalised matrix product. The result's dimensions are the batch, then the rest of x, then the rest of y.
func (f *Func) Product(x, y *Value, d Dot) *Value {
	var to []int
	ok := x.DType == y.DType && len(d.LeftBatch) == len(d.RightBatch) && len(d.LeftContract) == len(d.RightContract)
	for i := 0; ok && i < len(d.LeftBatch); i++ {
		ok = x.Dims[d.LeftBatch[i]] == y.Dims[d.RightBatch[i]]
		to = append(to, x.Dims[d.LeftBatch[i]])
	}
	for i := 0; ok && i < len(d.LeftContract); i++ {
		ok = x.Dims[d.LeftContract[i]] == y.Dims[d.RightContract[i]]
	}
	if !ok {
		f.fail("product of %v and %v over %+v", x.Type, y.Type, d)
		return x
	}
	rest := func(v *Value, batch, contract []int) {
		for i, n := range v.Dims {
			if !slices.Contains(batch, i) && !slices.Contains(contract, i) {
				to = append(to, n)
			}
		}
	}
	rest(x, d.LeftBatch, d.LeftContract)
	rest(y, d.RightBatch, d.RightContract)
	precision := "DEFAULT"
	if d.Exact {
		precision = "HIGHEST"
	}
	p := "#stablehlo<precision " + precision + ">"
	return f.one("stablehlo.dot_general", Type{d.Out, to}, []*Value{x, y},
		attribute{"dot_dimension_numbers", fmt.Sprintf("#stablehlo.dot<lhs_batching_dimensions = [%s], rhs_batching_dimensions = [%s], "+
			"lhs_contracting_dimensions = [%s], rhs_contracting_dimensions = [%s]>",
			list(d.LeftBatch), list(d.RightBatch), list(d.LeftContract), list(d.RightContract))},
		attribute{"precision_config", "[" + p + ", " + p + "]"})
}

// Rows takes rows of x [R,...]: row i of the result is row index[i], which must lie in x; an index outside it is moved to
// the nearest row. index is int32 of any sizes, which stand in the result in place of R.
func (f *Func) Rows(x, index *Value) *Value {
	if x.Rank() < 1 || index.DType != S32 {
		f.fail("rows %v of %v", index.Type, x.Type)
		return x
	}
	take := slices.Clone(x.Dims)
	take[0] = 1
	var offset []int
	for i := range x.Dims[1:] {
		offset = append(offset, index.Rank()+i)
	}
	at := f.Reshape(index, slices.Concat(index.Dims, []int{1})...)
	return f.one("stablehlo.gather", Type{x.DType, slices.Concat(index.Dims, x.Dims[1:])}, []*Value{x, at},
		attribute{"dimension_numbers", fmt.Sprintf("#stablehlo.gather<offset_dims = [%s], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = %d>",
			list(offset), index.Rank())},
		attribute{"slice_sizes", sizes(take)}, attribute{"indices_are_sorted", "false"})
}

// At is x[i], for x [N,...] and a scalar int32 i.
func (f *Func) At(x, i *Value) *Value {
	if x.Rank() < 1 || i.Rank() != 0 || i.DType != S32 {
		f.fail("element %v of %v", i.Type, x.Type)
		return x
	}
	take := slices.Clone(x.Dims)
	take[0] = 1
	in := []*Value{x, i}
	for range x.Dims[1:] {
		in = append(in, f.Full(0, i.Type))
	}
	y := f.one("stablehlo.dynamic_slice", Type{x.DType, take}, in, attribute{"slice_sizes", sizes(take)})
	return f.Reshape(y, x.Dims[1:]...)
}

// Put is x with v at x[i], for x [N,...], v [...] and a scalar int32 i.
func (f *Func) Put(x, v, i *Value) *Value {
	if x.Rank() != v.Rank()+1 || !slices.Equal(x.Dims[1:], v.Dims) || x.DType != v.DType {
		f.fail("put %v into %v", v.Type, x.Type)
		return x
	}
	in := []*Value{x, f.Reshape(v, slices.Concat([]int{1}, v.Dims)...), i}
	for range v.Dims {
		in = append(in, f.Full(0, i.Type))
	}
	return f.one("stablehlo.dynamic_update_slice", x.Type, in)
}

// While repeats body as long as condition holds. Both see the carried values and nothing else from outside.
func (f *Func) While(carried []*Value, condition func([]*Value) *Value, body func([]*Value) []*Value) []*Value {
	in := types(carried)
	op := f.add("stablehlo.while", in, carried)
	test, _ := f.region(in, func(args []*Value) []*Value { return []*Value{condition(args)} })
	loop, out := f.region(in, body)
	if !slices.EqualFunc(in, out, Type.Equal) {
		f.fail("while carries %v and its body returns %v", in, out)
	}
	op.regions = []*block{test, loop}
	return op.out
}

// Call is a call of a function of the compiler's runtime.
type Call struct {
	Target        string
	Config        string  // for the function, as it wants it
	ResultLayouts [][]int // of each result, dimensions from minor to major; nil: row-major
}

// Custom calls a function of the compiler's runtime.
func (f *Func) Custom(c Call, in []*Value, out ...Type) []*Value {
	layouts := func(ts []Type, given [][]int) string {
		all := make([]string, len(ts))
		for i, t := range ts {
			order := make([]int, t.Rank())
			for j := range order {
				order[j] = t.Rank() - 1 - j
			}
			if given != nil && given[i] != nil {
				order = given[i]
			}
			all[i] = fmt.Sprintf("dense<[%s]> : tensor<%dxindex>", list(order), len(order))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	return f.add("stablehlo.custom_call", out, in,
		attribute{"call_target_name", quote(c.Target)},
		attribute{"has_side_effect", "false"},
		attribute{"api_version", "2 : i32"}, // STATUS_RETURNING
		attribute{"backend_config", quote(c.Config)},
		attribute{"operand_layouts", layouts(types(in), nil)},
		attribute{"result_layouts", layouts(out, c.ResultLayouts)}).out
}

// Barrier returns its inputs, and keeps the compiler from sharing or moving work across it: what is computed from the
// results is computed after all of the inputs are there, even if the same has been computed from the inputs before.
func (f *Func) Barrier(in ...*Value) []*Value {
	return f.add("stablehlo.optimization_barrier", types(in), in).out
}

// Vector is a constant [N] of float32.
func (f *Func) Vector(v []float32) *Value {
	t := Of(F32, len(v))
	text := make([]string, len(v))
	for i, x := range v {
		text[i] = literal(float64(x), F32)
	}
	return f.one("stablehlo.constant", t, nil, attribute{"value", "dense<[" + strings.Join(text, ", ") + "]> : " + t.String()})
}
