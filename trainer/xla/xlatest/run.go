package xlatest

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"

	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// translator turns parsed operations into those of the Go backend.
type translator struct {
	b compute.Builder
	f compute.Function
}

type scope map[string]compute.Value

func dtype(d hlo.DType) dtypes.DType {
	return map[hlo.DType]dtypes.DType{hlo.F32: dtypes.Float32, hlo.BF16: dtypes.BFloat16, hlo.S32: dtypes.Int32,
		hlo.U8: dtypes.Uint8, hlo.Bool: dtypes.Bool}[d]
}

func shape(t hlo.Type) shapes.Shape { return shapes.Make(dtype(t.DType), t.Dims...) }

// run translates a block and returns what it returns.
func (t *translator) run(b *block, s scope) ([]compute.Value, error) {
	for _, op := range b.ops {
		in := make([]compute.Value, len(op.in))
		for i, name := range op.in {
			v, ok := s[name]
			if !ok {
				return nil, fmt.Errorf("%s reads %s, which nothing before it makes", op.name, name)
			}
			if err := t.check(v, op.inTypes[i]); err != nil {
				return nil, fmt.Errorf("%s: input %d: %w", op.name, i, err)
			}
			in[i] = v
		}
		if op.name == "func.return" || op.name == "stablehlo.return" {
			return in, nil
		}
		out, err := t.operation(op, in)
		if err != nil {
			return nil, fmt.Errorf("%s of %v: %w", op.name, op.inTypes, err)
		}
		if len(out) != len(op.out) {
			return nil, fmt.Errorf("%s: %d results, want %d", op.name, len(out), len(op.out))
		}
		for i, name := range op.out {
			if op.outTypes[i].Elements() == 0 {
				continue // a workspace: nobody reads it
			}
			if err := t.check(out[i], op.outTypes[i]); err != nil {
				return nil, fmt.Errorf("%s of %v: result %d: %w", op.name, op.inTypes, i, err)
			}
			s[name] = out[i]
		}
	}
	return nil, fmt.Errorf("a block does not return")
}

func (t *translator) check(v compute.Value, want hlo.Type) error {
	got, err := t.f.Shape(v)
	if err != nil {
		return err
	}
	if !got.Equal(shape(want)) {
		return fmt.Errorf("it is %v, the text says %v", got, want)
	}
	return nil
}

// operation translates one. Floats are computed in float32 and rounded to the type of the result.
func (t *translator) operation(op *operation, in []compute.Value) ([]compute.Value, error) {
	name := strings.TrimPrefix(op.name, "stablehlo.")
	switch name {
	case "while":
		return t.while(op, in)
	case "custom_call":
		return t.customCall(op, in)
	case "constant":
		v, err := t.constant(op.attributes["value"], op.outTypes[0])
		return []compute.Value{v}, err
	case "iota":
		v, err := t.f.Iota(shape(op.outTypes[0]), first(op.attributes["iota_dimension"]))
		return []compute.Value{v}, err
	case "convert":
		v, err := t.convert(in[0], op.outTypes[0].DType)
		return []compute.Value{v}, err
	case "optimization_barrier":
		return t.f.OptimizationBarrier(in...)
	}
	for i, it := range op.inTypes {
		if it.DType == hlo.BF16 {
			var err error
			if in[i], err = t.convert(in[i], hlo.F32); err != nil {
				return nil, err
			}
		}
	}
	v, err := t.plain(name, op, in)
	if err != nil {
		return nil, err
	}
	if op.outTypes[0].DType == hlo.BF16 {
		v, err = t.convert(v, hlo.BF16)
	}
	return []compute.Value{v}, err
}

// convert changes the element type as XLA does: to true where not zero.
func (t *translator) convert(v compute.Value, to hlo.DType) (compute.Value, error) {
	return t.f.ConvertDType(v, dtype(to))
}

func (t *translator) plain(name string, op *operation, in []compute.Value) (compute.Value, error) {
	f := t.f
	unary := map[string]func(compute.Value) (compute.Value, error){"abs": f.Abs, "exponential": f.Exp, "logistic": f.Logistic, "negate": f.Neg,
		"rsqrt": f.Rsqrt, "sign": f.Sign, "sqrt": f.Sqrt, "chlo.erf": f.Erf, "is_finite": f.IsFinite}
	if do := unary[name]; do != nil {
		return do(in[0])
	}
	binary := map[string]func(a, b compute.Value) (compute.Value, error){"add": f.Add, "subtract": f.Sub, "multiply": f.Mul, "divide": f.Div,
		"maximum": f.Max, "minimum": f.Min, "power": f.Pow}
	if op.inTypes[0].DType == hlo.Bool {
		binary["and"] = f.LogicalAnd
	}
	if do := binary[name]; do != nil {
		return do(in[0], in[1])
	}
	a := op.attributes
	switch name {
	case "compare":
		compare := map[string]func(a, b compute.Value) (compute.Value, error){"EQ": f.Equal, "LT": f.LessThan, "LE": f.LessOrEqual,
			"GT": f.GreaterThan, "GE": f.GreaterOrEqual}
		words := strings.Fields(strings.Trim(a["comparison_direction"], "#<>"))
		return compare[words[len(words)-1]](in[0], in[1])
	case "select":
		return f.Where(in[0], in[1], in[2])
	case "broadcast_in_dim":
		to := op.outTypes[0]
		if to.DType == hlo.BF16 {
			to.DType = hlo.F32
		}
		return f.BroadcastInDim(in[0], shape(to), numbers(a["broadcast_dimensions"]))
	case "reshape":
		return f.Reshape(in[0], op.outTypes[0].Dims...)
	case "transpose":
		return f.Transpose(in[0], numbers(a["permutation"])...)
	case "slice":
		return f.Slice(in[0], numbers(a["start_indices"]), numbers(a["limit_indices"]), numbers(a["strides"]))
	case "concatenate":
		return f.Concatenate(first(a["dimension"]), in...)
	case "reverse":
		return f.Reverse(in[0], numbers(a["dimensions"])...)
	case "reduce":
		with := op.regions[0].ops[0].name
		reduce := map[string]func(compute.Value, ...int) (compute.Value, error){"stablehlo.add": t.sum, "stablehlo.maximum": f.ReduceMax,
			"stablehlo.and": f.ReduceLogicalAnd}[with]
		if reduce == nil {
			return nil, fmt.Errorf("reduce with %s", with)
		}
		dims := numbers(a["dimensions"])
		if len(dims) == 0 {
			return in[0], nil
		}
		return reduce(in[0], dims...)
	case "dot_general":
		d := a["dot_dimension_numbers"]
		return f.DotGeneral(in[0], named(d, "lhs_contracting_dimensions"), named(d, "lhs_batching_dimensions"),
			in[1], named(d, "rhs_contracting_dimensions"), named(d, "rhs_batching_dimensions"), compute.DotGeneralConfig{})
	case "gather":
		d := a["dimension_numbers"]
		return f.Gather(in[0], in[1], first(d[strings.Index(d, "index_vector_dim"):]), named(d, "offset_dims"), named(d, "collapsed_slice_dims"),
			named(d, "start_index_map"), numbers(a["slice_sizes"]), false)
	case "dynamic_slice":
		return t.dynamicSlice(op, in)
	case "dynamic_update_slice":
		return t.dynamicUpdateSlice(op, in)
	}
	return nil, fmt.Errorf("not known to the emulator")
}

// sum adds up in float64. The backend would add one number after the other in float32, where devices add in a tree and
// lose next to nothing: sums of many thousand gradients would differ in the fifth digit.
func (t *translator) sum(x compute.Value, dims ...int) (compute.Value, error) {
	wide, err := t.f.ConvertDType(x, dtypes.Float64)
	if err != nil {
		return nil, err
	}
	if wide, err = t.f.ReduceSum(wide, dims...); err != nil {
		return nil, err
	}
	return t.f.ConvertDType(wide, dtypes.Float32)
}

// dynamicSlice takes x[i:i+1], which is all that is needed of it: the backend has no more than a gather.
func (t *translator) dynamicSlice(op *operation, in []compute.Value) (compute.Value, error) {
	x, take := op.inTypes[0], numbers(op.attributes["slice_sizes"])
	if len(take) != x.Rank() || take[0] != 1 || !slices.Equal(take[1:], x.Dims[1:]) || len(in) != 1+x.Rank() {
		return nil, fmt.Errorf("slices of %v", take)
	}
	at, err := t.f.Reshape(in[1], 1, 1)
	if err != nil {
		return nil, err
	}
	var offset []int
	for i := range x.Dims[1:] {
		offset = append(offset, 1+i)
	}
	return t.f.Gather(in[0], at, 1, offset, []int{0}, []int{0}, take, false)
}

// dynamicUpdateSlice puts v [1,…] at x[i:i+1].
func (t *translator) dynamicUpdateSlice(op *operation, in []compute.Value) (compute.Value, error) {
	x, v := op.inTypes[0], op.inTypes[1]
	if v.Rank() != x.Rank() || v.Dims[0] != 1 || !slices.Equal(v.Dims[1:], x.Dims[1:]) || len(in) != 2+x.Rank() {
		return nil, fmt.Errorf("puts %v into %v", v, x)
	}
	place, err := t.f.Iota(shape(x.As(hlo.S32)), 0)
	if err != nil {
		return nil, err
	}
	here, err := t.f.Equal(place, in[2])
	if err != nil {
		return nil, err
	}
	var axes []int
	for i := range x.Dims {
		axes = append(axes, i)
	}
	value, err := t.f.BroadcastInDim(in[1], shape(x), axes)
	if err != nil {
		return nil, err
	}
	return t.f.Where(here, value, in[0])
}

// while runs the loop with closures that see the carried values alone.
func (t *translator) while(op *operation, in []compute.Value) ([]compute.Value, error) {
	closures := make([]compute.Function, len(op.regions))
	for i, r := range op.regions {
		c, err := t.f.Closure()
		if err != nil {
			return nil, err
		}
		s := scope{}
		for _, a := range r.args {
			if s[a.name], err = c.Parameter(a.name, shape(a.t), nil); err != nil {
				return nil, err
			}
		}
		out, err := (&translator{t.b, c}).run(r, s)
		if err != nil {
			return nil, err
		}
		if err := c.Return(out, nil); err != nil {
			return nil, err
		}
		closures[i] = c
	}
	return t.f.While(closures[0], closures[1], in...)
}

// constant is dense<x> : type, the same number everywhere, or a list of float32.
func (t *translator) constant(value string, want hlo.Type) (compute.Value, error) {
	text, ok := strings.CutPrefix(value, "dense<")
	text, of, found := strings.Cut(text, "> : ")
	if !ok || !found || of != want.String() {
		return nil, fmt.Errorf("constant %s for %v", value, want)
	}
	if list, ok := strings.CutPrefix(text, "["); ok && want.DType == hlo.F32 {
		var xs []float32
		for _, s := range strings.Split(strings.TrimSuffix(list, "]"), ", ") {
			x, err := float(s, hlo.F32)
			if err != nil {
				return nil, err
			}
			xs = append(xs, x)
		}
		return t.f.Constant(xs, want.Dims...)
	}
	n := want.Elements()
	switch want.DType {
	case hlo.Bool:
		return t.f.Constant(fill(n, text == "true"), want.Dims...)
	case hlo.S32:
		x, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return nil, err
		}
		return t.f.Constant(fill(n, int32(x)), want.Dims...)
	case hlo.F32, hlo.BF16:
		x, err := float(text, want.DType)
		if err != nil {
			return nil, err
		}
		if want.DType == hlo.BF16 {
			return t.f.Constant(fill(n, bfloat16.FromFloat32(x)), want.Dims...)
		}
		return t.f.Constant(fill(n, x), want.Dims...)
	}
	return nil, fmt.Errorf("constant of %v", want)
}

// decimal is what MLIR reads as a floating-point number: it has a point.
var decimal = regexp.MustCompile(`^-?[0-9]+\.[0-9]*(e[-+]?[0-9]+)?$`)

func float(text string, d hlo.DType) (float32, error) {
	if hex, ok := strings.CutPrefix(text, "0x"); ok {
		bits, err := strconv.ParseUint(hex, 16, 8*d.Size())
		if d == hlo.BF16 {
			bits <<= 16
		}
		return math.Float32frombits(uint32(bits)), err
	}
	if !decimal.MatchString(text) {
		return 0, fmt.Errorf("%q is no number to MLIR", text)
	}
	x, err := strconv.ParseFloat(text, 32)
	return float32(x), err
}

func fill[T any](n int, v T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

var digits = regexp.MustCompile(`-?[0-9]+`)

// numbers reads array<i64: 1, 2>.
func numbers(s string) []int {
	_, s, _ = strings.Cut(s, ":")
	return all(s)
}

func all(s string) []int {
	out := []int{}
	for _, d := range digits.FindAllString(s, -1) {
		n, _ := strconv.Atoi(d)
		out = append(out, n)
	}
	return out
}

// first reads the first number of a text.
func first(s string) int { return all(s)[0] }

// named reads name = [1, 2] inside a text.
func named(s, name string) []int {
	_, s, _ = strings.Cut(s, name+" = [")
	s, _, _ = strings.Cut(s, "]")
	return all(s)
}

// customCall knows the fused attention of cuDNN.
func (t *translator) customCall(op *operation, in []compute.Value) ([]compute.Value, error) {
	target, err := unquote(op.attributes["call_target_name"])
	if err != nil {
		return nil, err
	}
	config, err := unquote(op.attributes["backend_config"])
	if err != nil {
		return nil, err
	}
	var c fusedConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return nil, fmt.Errorf("backend_config: %w", err)
	}
	switch target {
	case "__cudnn$fmhaSoftmax":
		return t.fused(op, c, in)
	case "__cudnn$fmhaSoftmaxBackward":
		return t.fusedBackward(op, c, in)
	}
	return nil, fmt.Errorf("custom call of %s", target)
}

// unquote reads a string of MLIR, whose escapes are two hexadecimal digits.
func unquote(s string) (string, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", fmt.Errorf("%q is no string", s)
	}
	var out strings.Builder
	for s = s[1 : len(s)-1]; s != ""; {
		if s[0] != '\\' {
			out.WriteByte(s[0])
			s = s[1:]
			continue
		}
		if len(s) < 3 {
			return "", fmt.Errorf("an escape is cut off")
		}
		b, err := strconv.ParseUint(s[1:3], 16, 8)
		if err != nil {
			return "", err
		}
		out.WriteByte(byte(b))
		s = s[3:]
	}
	return out.String(), nil
}
