package xla

import (
	"fmt"
	"math"
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// lowering turns a program's operations into StableHLO, for one shape. It is used for one block of the module: a
// function's body, or that of a loop.
type lowering struct {
	a      *program
	f      *hlo.Func
	s      *shape
	half   bool    // products and what lies between them in bfloat16
	tf32   bool    // products of float32 may round their operands
	o      Options // the machine's
	narrow map[*G.Node]bool
	values map[*G.Node]*hlo.Value
	tables map[table]*hlo.Value
	factor map[rotation][2]*hlo.Value // of rotary positions
	flat   map[*group]*hlo.Value      // gradients of a group of weights, end to end
	kept   map[attended]forward       // what fused attention left for its gradient
}

// rows is how many rows a matrix has on the device.
func (l *lowering) rows(n *G.Node) int { return l.s.rows[l.a.rows[n]] }

// run lowers nodes in order.
func (l *lowering) run(order G.Nodes) error {
	for _, n := range order {
		if l.values[n] != nil || n.Op() == nil {
			continue
		}
		v := l.node(n, l.a.children[n])
		if v == nil {
			return fmt.Errorf("operation %v is not known to the accelerator", n.Op())
		}
		if l.narrow[n] {
			v = l.f.Convert(v, hlo.BF16)
		}
		l.values[n] = v
		if err := l.f.Err(); err != nil {
			return fmt.Errorf("%v of %v: %w", n.Op(), n.Shape(), err)
		}
	}
	return nil
}

// in is the value of a node in float32, which all is computed in that is no product.
func (l *lowering) in(n *G.Node) *hlo.Value { return l.f.Convert(l.values[n], hlo.F32) }

// operand is a value as products read it.
func (l *lowering) operand(v *hlo.Value) *hlo.Value {
	if l.half {
		return l.f.Convert(v, hlo.BF16)
	}
	return l.f.Convert(v, hlo.F32)
}

// product multiplies operands; the result is what n is kept in.
func (l *lowering) product(n *G.Node, x, y *hlo.Value, d hlo.Dot) *hlo.Value {
	d.Out, d.Exact = hlo.F32, !l.half && !l.tf32
	if l.narrow[n] {
		d.Out = hlo.BF16
	}
	return l.f.Product(l.operand(x), l.operand(y), d)
}

// node lowers one operation; nil if it is not known.
func (l *lowering) node(n *G.Node, in G.Nodes) *hlo.Value {
	f := l.f
	switch op := n.Op().(type) {
	case *graph.LinearOp:
		y := l.product(n, l.values[in[0]], l.values[in[1]], hlo.Dot{LeftContract: []int{1}, RightContract: []int{1}})
		return f.Add(y, f.Broadcast(f.Convert(l.values[in[2]], y.DType), y.Dims, 1))
	case *graph.LinearGradXOp:
		return l.product(n, l.values[in[0]], l.values[in[1]], hlo.Dot{LeftContract: []int{1}, RightContract: []int{0}})
	case *graph.LinearGradWOp:
		return l.product(n, l.values[in[0]], l.values[in[1]], hlo.Dot{LeftContract: []int{0}, RightContract: []int{0}})
	case *graph.ColumnSumOp:
		return f.Sum(l.in(in[0]), 0)
	case *graph.GELUOp:
		x := l.in(in[0])
		return f.Mul(x, l.normalCDF(x))
	case *graph.GELUGradOp:
		x, dy := l.again(in[0], in[1])
		density := f.Mul(f.Exp(f.Mul(f.Mul(x, x), f.Like(x, -0.5))), f.Like(x, 1/math.Sqrt(2*math.Pi)))
		return f.Mul(dy, f.Add(l.normalCDF(x), f.Mul(x, density)))
	case *graph.SwiGLUOp:
		a, b := l.in(in[0]), l.in(in[1])
		return f.Mul(f.Mul(a, f.Logistic(a)), b)
	case *graph.SwiGLUGradOp:
		return l.swiGLUGrad(op, in)
	case *graph.LayerNormOp:
		return l.layerNorm(op, in)
	case *graph.LayerNormGradXOp:
		return l.layerNormGradX(op, in)
	case *graph.LayerNormGradScaleOp:
		hat, _ := l.normalized(l.in(in[0]), op.Eps)
		return f.Sum(f.Mul(hat, l.in(in[1])), 0)
	case *graph.AddOp:
		return f.Add(l.in(in[0]), l.in(in[1]))
	case *graph.ScaleOp:
		x := l.in(in[0])
		return f.Mul(x, f.Like(x, op.Factor))
	case *graph.OnesOp:
		return f.Full(1, l.in(in[0]).Type)
	case *graph.AttentionOp:
		return l.attention(n, op, in)
	case *graph.AttentionGradOp:
		return l.attentionGrad(n, op, in)
	case *graph.RotateOp:
		return l.rotate(op, in)
	case *graph.PatchifyOp:
		return l.patchify(op, in)
	case *graph.GatherOp:
		return l.gather(n, tablesOf(n, in)[0], in)
	case *graph.ScatterOp:
		return l.scatter(tablesOf(n, in)[0], in)
	case *graph.LookupOp:
		return l.lookup(n, tablesOf(n, in)[0], in)
	case *graph.LookupGradOp:
		return l.lookupGrad(op, tablesOf(n, in)[0], in)
	case *graph.LpLossOp:
		return l.lpLoss(op, tablesOf(n, in)[0], in)
	case *graph.LpLossGradOp:
		return l.lpLossGrad(op, tablesOf(n, in)[0], in)
	case *graph.RowErrorOp:
		return f.Reshape(l.rowMean(f.Abs(f.Sub(l.in(in[0]), l.in(in[1])))), l.rows(n), 1)
	case *graph.VarianceHingeOp:
		return l.varianceHinge(op, in)
	case *graph.VarianceHingeGradOp:
		return l.varianceHingeGrad(op, in)
	case *graph.SumSquaresOp:
		return l.sumSquares(in)
	case *graph.ClipFactorOp:
		return l.clipFactor(in)
	}
	return nil
}

// again is x and dy for a gradient that computes anew what the forward pass has computed from x. Without the barrier the
// compiler would find that out, and keep the forward pass's result in memory until now.
func (l *lowering) again(x, dy *G.Node) (_, _ *hlo.Value) {
	v := l.f.Barrier(l.values[x], l.values[dy])
	return l.f.Convert(v[0], hlo.F32), l.f.Convert(v[1], hlo.F32)
}

// normalCDF is the normal distribution function.
func (l *lowering) normalCDF(x *hlo.Value) *hlo.Value {
	f := l.f
	return f.Mul(f.Add(f.Erf(f.Mul(x, f.Like(x, math.Sqrt2/2))), f.Like(x, 1)), f.Like(x, 0.5))
}

func (l *lowering) swiGLUGrad(op *graph.SwiGLUGradOp, in G.Nodes) *hlo.Value {
	f := l.f
	a, b, dy := l.in(in[0]), l.in(in[1]), l.in(in[2])
	g := f.Mul(dy, f.Logistic(a))
	if op.Of == 1 {
		return f.Mul(g, a)
	}
	return f.Mul(f.Mul(g, b), f.Add(f.Like(a, 1), f.Mul(a, f.Logistic(f.Neg(a)))))
}

// rowMean is the mean of every row, [R], of x [R,D].
func (l *lowering) rowMean(x *hlo.Value) *hlo.Value {
	sum := l.f.Sum(x, 1)
	return l.f.Mul(sum, l.f.Like(sum, 1/float64(x.Dims[1])))
}

// along repeats a number for each row over the row.
func (l *lowering) along(v, like *hlo.Value) *hlo.Value { return l.f.Broadcast(v, like.Dims, 0) }

// normalized is x with rows of mean 0 and variance 1, and 1/sqrt(variance+eps) of each row.
func (l *lowering) normalized(x *hlo.Value, eps float64) (hat, inverse *hlo.Value) {
	f := l.f
	x = f.Sub(x, l.along(l.rowMean(x), x))
	variance := l.rowMean(f.Mul(x, x))
	inverse = f.Rsqrt(f.Add(variance, f.Like(variance, eps)))
	return f.Mul(x, l.along(inverse, x)), inverse
}

func (l *lowering) layerNorm(op *graph.LayerNormOp, in G.Nodes) *hlo.Value {
	f := l.f
	y, _ := l.normalized(l.in(in[0]), op.Eps)
	if len(in) == 3 {
		y = f.Add(f.Mul(y, f.Broadcast(l.in(in[1]), y.Dims, 1)), f.Broadcast(l.in(in[2]), y.Dims, 1))
	}
	return y
}

func (l *lowering) layerNormGradX(op *graph.LayerNormGradXOp, in G.Nodes) *hlo.Value {
	f := l.f
	hat, inverse := l.normalized(l.in(in[0]), op.Eps)
	d := l.in(in[1])
	if len(in) == 3 {
		d = f.Mul(d, f.Broadcast(l.in(in[2]), d.Dims, 1))
	}
	mean, dot := l.rowMean(d), l.rowMean(f.Mul(d, hat))
	return f.Mul(l.along(inverse, d), f.Sub(f.Sub(d, l.along(mean, d)), f.Mul(hat, l.along(dot, d))))
}

// sumSquares adds up groups of gradients that the optimiser has end to end anyway.
func (l *lowering) sumSquares(in G.Nodes) *hlo.Value {
	f := l.f
	var parts []*hlo.Value
	left := slices.Clone(in)
	for _, g := range l.a.optimised {
		if containsAll(left, g.gradients) {
			parts = append(parts, l.flatGradients(g))
			left = slices.DeleteFunc(left, func(n *G.Node) bool { return slices.Contains(g.gradients, n) })
		}
	}
	for _, n := range left {
		parts = append(parts, f.Reshape(l.in(n), n.Shape().TotalSize()))
	}
	total := f.Full(0, hlo.Of(hlo.F32))
	for _, p := range parts {
		total = f.Add(total, f.Sum(f.Mul(p, p), 0))
	}
	return f.Reshape(total, 1)
}

func containsAll(all, some G.Nodes) bool {
	for _, n := range some {
		if !slices.Contains(all, n) {
			return false
		}
	}
	return len(some) > 0
}

func (l *lowering) clipFactor(in G.Nodes) *hlo.Value {
	f := l.f
	limit := f.Slice(l.in(in[1]), 0, graph.ClipNorm, graph.ClipNorm+1)
	norm := f.Add(f.Sqrt(l.in(in[0])), f.Like(limit, 1e-6))
	one := f.Like(limit, 1)
	return f.Select(f.Compare(limit, hlo.LessEqual, f.Like(limit, 0)), one, f.Min(one, f.Div(limit, norm)))
}

// findNarrow decides which matrices are bfloat16: what products write and read, and what lies between. The residual
// stream, its gradient, sums and all that leaves the machine stay float32.
func (a *program) findNarrow() map[*G.Node]bool {
	narrow := map[*G.Node]bool{}
	for n := range a.rows {
		switch n.Op().(type) {
		case *graph.PatchifyOp, *graph.LayerNormOp, *graph.LinearOp, *graph.LinearGradXOp, *graph.GatherOp, *graph.RotateOp, *graph.SwiGLUOp,
			*graph.SwiGLUGradOp, *graph.AttentionOp, *graph.AttentionGradOp, *graph.GELUOp, *graph.GELUGradOp:
			narrow[n] = !slices.Contains(a.Results, n) && !slices.ContainsFunc(a.readers[n], func(r reader) bool { return !readsNarrow(r) })
		}
	}
	return narrow
}

func readsNarrow(r reader) bool {
	switch r.node.Op().(type) {
	case *graph.LinearOp, *graph.LinearGradXOp, *graph.LinearGradWOp, *graph.AttentionOp, *graph.AttentionGradOp, *graph.ColumnSumOp,
		*graph.GatherOp, *graph.RotateOp, *graph.SwiGLUOp, *graph.SwiGLUGradOp, *graph.GELUOp, *graph.GELUGradOp:
		return true
	case *graph.LayerNormGradXOp, *graph.LayerNormGradScaleOp:
		return r.i == 1 // dy
	}
	return false
}
