package xlatest

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// fusedConfig is what the emulator reads of the configuration of cuDNN's fused attention.
type fusedConfig struct {
	Attention struct {
		Scale float64 `json:"fmha_scale"`
		Mask  string  `json:"mask_type"`
		Type  struct {
			Element    string   `json:"element_type"`
			Dimensions []string `json:"dimensions"`
		} `json:"intermediate_tensor_shape"`
		Scores *dotNumbers `json:"bmm1_dot_dimension_numbers"`
		Values *dotNumbers `json:"bmm2_dot_dimension_numbers"`
	} `json:"cudnn_fmha_backend_config"`
}

type dotNumbers struct {
	Left  []string `json:"lhs_contracting_dimensions"`
	Right []string `json:"rhs_contracting_dimensions"`
}

// attention is a fused attention in the making. Letters: B batch, T queries, S keys, N heads, H features of a head.
// Queries beyond their length give NaN: nobody may read them.
type attention struct {
	*translator
	b, t, n, h int
	scale      float64
	padded     bool
	lens       compute.Value // [B]; nil: none
	err        error
}

// must keeps the first error.
func (a *attention) must(v compute.Value, err error) compute.Value {
	if err != nil && a.err == nil {
		a.err = err
	}
	return v
}

// newAttention checks operands against what cuDNN takes: q, k, v [B,T,N,H] in bfloat16 first, lengths last.
func (t *translator) newAttention(op *operation, c fusedConfig, in []compute.Value, between int) (*attention, error) {
	q := op.inTypes[0]
	want := 3 + between
	padded := c.Attention.Mask == "PADDING"
	if padded {
		want += 2
	}
	if q.Rank() != 4 || len(in) != want || !padded && c.Attention.Mask != "NO_MASK" {
		return nil, fmt.Errorf("%d inputs, the first %v, with mask %s", len(in), q, c.Attention.Mask)
	}
	a := &attention{translator: t, b: q.Dims[0], t: q.Dims[1], n: q.Dims[2], h: q.Dims[3], scale: c.Attention.Scale, padded: padded}
	var shape []int
	for _, s := range c.Attention.Type.Dimensions {
		d, err := strconv.Atoi(s)
		if err != nil {
			return nil, err
		}
		shape = append(shape, d)
	}
	if c.Attention.Type.Element != "BF16" || !slices.Equal(shape, []int{a.b, a.n, a.t, a.t}) || a.h%8 != 0 || a.h > 128 {
		return nil, fmt.Errorf("scores %v of %s for %v", shape, c.Attention.Type.Element, q)
	}
	for i := range 3 {
		if !op.inTypes[i].Equal(q) || q.DType != hlo.BF16 {
			return nil, fmt.Errorf("input %d is %v, the first %v", i, op.inTypes[i], q)
		}
	}
	if padded {
		for _, lens := range op.inTypes[want-2:] {
			if !lens.Equal(hlo.Of(hlo.S32, a.b)) {
				return nil, fmt.Errorf("lengths are %v", lens)
			}
		}
		a.lens = in[want-2]
	}
	return a, nil
}

func (a *attention) f32(v compute.Value) compute.Value { return a.must(a.convert(v, hlo.F32)) }

func (a *attention) product(x compute.Value, xc int, xb []int, y compute.Value, yc int, yb []int) compute.Value {
	return a.must(a.f.DotGeneral(x, []int{xc}, xb, y, []int{yc}, yb, compute.DotGeneralConfig{}))
}

func (a *attention) number(v float64) compute.Value {
	return a.must(a.f.Constant([]float32{float32(v)}))
}

// inside tells of every [B,N,T,S] whether the place along an axis lies in the segment.
func (a *attention) inside(axis int) compute.Value {
	f := a.f
	s := shapes.Make(dtypes.Int32, a.b, a.n, a.t, a.t)
	place := a.must(f.Iota(s, axis))
	return a.must(f.LessThan(place, a.must(f.BroadcastInDim(a.lens, s, []int{0}))))
}

// scores are q·k scaled, [B,N,T,S], with -inf for keys beyond the length.
func (a *attention) scores(q, k compute.Value) compute.Value {
	f := a.f
	x := a.must(f.Mul(a.product(q, 3, []int{0, 2}, k, 3, []int{0, 2}), a.number(a.scale)))
	if a.padded {
		x = a.must(f.Where(a.inside(3), x, a.number(math.Inf(-1))))
	}
	return x
}

// along repeats [B,N,T] over keys.
func (a *attention) along(v compute.Value) compute.Value {
	return a.must(a.f.BroadcastInDim(v, shapes.Make(dtypes.Float32, a.b, a.n, a.t, a.t), []int{0, 1, 2}))
}

// spoil puts NaN where a place along the third axis of [B,N,T,H] is beyond the length.
func (a *attention) spoil(v compute.Value) compute.Value {
	if !a.padded {
		return v
	}
	f := a.f
	s := shapes.Make(dtypes.Int32, a.b, a.n, a.t, a.h)
	in := a.must(f.LessThan(a.must(f.Iota(s, 2)), a.must(f.BroadcastInDim(a.lens, s, []int{0}))))
	return a.must(f.Where(in, v, a.number(math.NaN())))
}

// fused is softmax(q·k)·v: [B,N,T,H], if asked for the logarithm of each query's sum of exponentials [B,N,T], and a
// workspace of no size.
func (t *translator) fused(op *operation, c fusedConfig, in []compute.Value) ([]compute.Value, error) {
	a, err := t.newAttention(op, c, in, 0)
	if err != nil {
		return nil, err
	}
	if d := c.Attention.Scores; d == nil || !slices.Equal(d.Left, []string{"3"}) || !slices.Equal(d.Right, []string{"3"}) {
		return nil, fmt.Errorf("scores are products over %+v", d)
	}
	if d := c.Attention.Values; d == nil || !slices.Equal(d.Left, []string{"3"}) || !slices.Equal(d.Right, []string{"1"}) {
		return nil, fmt.Errorf("values are products over %+v", d)
	}
	f := t.f
	x := a.scores(a.f32(in[0]), a.f32(in[1]))
	most := a.must(f.ReduceMax(x, 3))
	e := a.must(f.Exp(a.must(f.Sub(x, a.along(most)))))
	sum := a.must(f.ReduceSum(e, 3))
	stat := a.must(f.Add(most, a.must(f.Log(sum))))
	p := a.must(f.Div(e, a.along(sum)))
	y := a.spoil(a.product(p, 3, []int{0, 1}, a.f32(in[2]), 1, []int{0, 2}))
	out := []compute.Value{a.must(a.convert(y, hlo.BF16))}
	if len(op.out) == 3 {
		out = append(out, stat)
	}
	return append(out, nil), a.err
}

// fusedBackward has q, k, v, the logarithms, dy and y as inputs, and gives dq, dk and dv.
func (t *translator) fusedBackward(op *operation, c fusedConfig, in []compute.Value) ([]compute.Value, error) {
	a, err := t.newAttention(op, c, in, 3)
	if err != nil {
		return nil, err
	}
	f := t.f
	q, k, v, dy, y := a.f32(in[0]), a.f32(in[1]), a.f32(in[2]), a.f32(in[4]), a.f32(in[5])
	p := a.must(f.Exp(a.must(f.Sub(a.scores(q, k), a.along(in[3])))))
	dp := a.product(dy, 3, []int{0, 2}, v, 3, []int{0, 2})
	dot := a.must(f.ReduceSum(a.must(f.Mul(dy, y)), 3)) // [B,T,N]
	mean := a.along(a.must(f.Transpose(dot, 0, 2, 1)))
	ds := a.must(f.Mul(a.must(f.Mul(p, a.must(f.Sub(dp, mean)))), a.number(a.scale)))
	if a.padded {
		nothing := a.number(0)
		ds, p = a.must(f.Where(a.inside(2), ds, nothing)), a.must(f.Where(a.inside(2), p, nothing))
		in := a.must(f.Transpose(a.spoil(a.must(f.Transpose(dy, 0, 2, 1, 3))), 0, 2, 1, 3))
		dy = a.must(f.Where(a.must(f.Equal(in, in)), dy, nothing))
	}
	dq := a.spoil(a.product(ds, 3, []int{0, 1}, k, 1, []int{0, 2}))
	dk := a.spoil(a.product(ds, 2, []int{0, 1}, q, 1, []int{0, 2}))
	dv := a.spoil(a.product(p, 2, []int{0, 1}, dy, 1, []int{0, 2}))
	var out []compute.Value
	for _, d := range []compute.Value{dq, dk, dv} {
		out = append(out, a.must(a.convert(d, hlo.BF16)))
	}
	return append(out, nil), a.err
}
