package graph

import (
	"math"
	"math/rand/v2"
	"testing"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Each operation's gradient is checked in float64 against central differences of a
// weighted sum of its result, on Gorgonia's own tape machine.

// bench builds a graph in float64 from named inputs and evaluates it.
type bench struct {
	t      *testing.T
	rng    *rand.Rand
	g      *G.ExprGraph
	inputs G.Nodes
	values map[*G.Node]*tensor.Dense
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, rng: rand.New(rand.NewPCG(1, 2)), g: G.NewGraph(), values: map[*G.Node]*tensor.Dense{}}
}

func (b *bench) input(name string, v *tensor.Dense) *G.Node {
	n := G.NewTensor(b.g, v.Dtype(), v.Dims(), G.WithShape(v.Shape()...), G.WithName(name))
	b.inputs, b.values[n] = append(b.inputs, n), v
	return n
}

// random is a float64 input with elements from N(0,1).
func (b *bench) random(name string, shape ...int) *G.Node {
	x := make([]float64, tensor.Shape(shape).TotalSize())
	for i := range x {
		x[i] = b.rng.NormFloat64()
	}
	return b.input(name, tensor.New(tensor.WithShape(shape...), tensor.WithBacking(x)))
}

func (b *bench) ints(name string, x ...int32) *G.Node {
	return b.input(name, tensor.New(tensor.WithShape(len(x)), tensor.WithBacking(x)))
}

// eval runs the tape machine and returns the elements of the wanted nodes.
func (b *bench) eval(want ...*G.Node) [][]float64 {
	b.t.Helper()
	for n, v := range b.values {
		if err := G.Let(n, v); err != nil {
			b.t.Fatal(err)
		}
	}
	read := make([]G.Value, len(want))
	for i, n := range want {
		G.Read(n, &read[i])
	}
	m := G.NewTapeMachine(b.g)
	defer func() { _ = m.Close() }()
	if err := m.RunAll(); err != nil {
		b.t.Fatal(err)
	}
	out := make([][]float64, len(want))
	for i := range read {
		out[i] = append([]float64(nil), read[i].Data().([]float64)...)
	}
	return out
}

func must(t *testing.T) func(*G.Node, error) *G.Node {
	return func(n *G.Node, err error) *G.Node {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// project makes the scalar Σ out² + Σ out·c from a result, so that its gradient is not constant.
func project(b *bench, out *G.Node) *G.Node {
	size := out.Shape().TotalSize()
	if size == 1 {
		return out
	}
	rows, d := out.Shape()[0], size/out.Shape()[0]
	target := b.random("projection", rows, d)
	weights := b.input("projection weights", tensor.New(tensor.WithShape(1), tensor.WithBacking([]float64{0.5})))
	offsets := b.ints("projection offsets", 0, int32(rows))
	return must(b.t)(LpLoss(out, target, weights, offsets, 2))
}

func TestGradientsAgainstFiniteDifferences(t *testing.T) {
	ok := func(n *G.Node, err error) *G.Node { return must(t)(n, err) }
	for name, build := range map[string]func(b *bench) (out *G.Node, wrt G.Nodes){
		"linear": func(b *bench) (*G.Node, G.Nodes) {
			x, w, c := b.random("x", 5, 3), b.random("w", 4, 3), b.random("b", 4)
			return ok(Linear(x, w, c)), G.Nodes{x, w, c}
		},
		"gelu": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("x", 5, 3)
			return ok(GELU(x)), G.Nodes{x}
		},
		"layer norm": func(b *bench) (*G.Node, G.Nodes) {
			x, s, c := b.random("x", 4, 6), b.random("scale", 6), b.random("shift", 6)
			return ok(LayerNorm(x, s, c, 1e-6)), G.Nodes{x, s, c}
		},
		"normalize": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("x", 4, 6)
			return ok(Normalize(x, 1e-5)), G.Nodes{x}
		},
		"add and scale, one input twice": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("x", 3, 2)
			return ok(Add(x, ok(Scale(x, -1.7)))), G.Nodes{x}
		},
		"attention, full, with padding": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("qkv", 9, 12)
			return ok(Attention(x, b.ints("offsets", 0, 3, 3, 7), 2, 0)), G.Nodes{x}
		},
		"attention, block-causal": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("qkv", 10, 12)
			return ok(Attention(x, b.ints("offsets", 0, 5, 10), 2, 2)), G.Nodes{x}
		},
		"rotate, V-JEPA 2's way, with padding": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("qkv", 5, 3*2*15) // two heads of three blocks of 4 and a tail of 3
			r := Rotation{T: 3, H: 2, W: 2}
			return ok(Rotate(x, b.ints("token", 11, 0, 7, 2, 99), b.ints("offsets", 0, 3, 4), 2, r)), G.Nodes{x}
		},
		"rotate, interleaved": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("qkv", 4, 3*12)
			r := Rotation{T: 3, H: 2, W: 2, Interleaved: true}
			return ok(Rotate(x, b.ints("token", 11, 0, 7, 2), b.ints("offsets", 0, 4), 1, r)), G.Nodes{x}
		},
		"swiglu": func(b *bench) (*G.Node, G.Nodes) {
			x, y := b.random("a", 4, 3), b.random("b", 4, 3)
			return ok(SwiGLU(x, y)), G.Nodes{x, y}
		},
		"gather, two segments from each": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("x", 7, 3)
			from, to := b.ints("from", 0, 3, 7), b.ints("to", 0, 2, 3, 5, 6)
			return ok(Gather(x, b.ints("index", 2, 0, 1, 3, 3, 0, 0, 0), from, to)), G.Nodes{x}
		},
		"scatter, two segments into each": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("x", 8, 3)
			from, to := b.ints("from", 0, 2, 3, 5, 6), b.ints("to", 0, 3, 7)
			return ok(Scatter(x, b.ints("index", 2, 0, 1, 3, 3, 0, 0, 0), from, to, 8)), G.Nodes{x}
		},
		"lookup in two tables": func(b *bench) (*G.Node, G.Nodes) {
			u, v := b.random("u", 2, 3), b.random("v", 3, 3)
			return ok(Lookup(b.ints("ids", 4, 0, 0, 2, 9), b.ints("offsets", 0, 1, 4), u, v)), G.Nodes{u, v}
		},
		"loss, exponent 1": func(b *bench) (*G.Node, G.Nodes) {
			p, q := b.random("pred", 6, 3), b.random("target", 6, 3)
			return ok(LpLoss(p, q, b.random("weights", 2), b.ints("offsets", 0, 2, 5), 1)), G.Nodes{p, q}
		},
		"loss, exponent 2.5": func(b *bench) (*G.Node, G.Nodes) {
			p, q := b.random("pred", 6, 3), b.random("target", 6, 3)
			return ok(LpLoss(p, q, b.random("weights", 2), b.ints("offsets", 0, 2, 5), 2.5)), G.Nodes{p, q}
		},
		"variance hinge": func(b *bench) (*G.Node, G.Nodes) {
			x := b.random("x", 12, 5)
			return ok(VarianceHinge(ok(Scale(x, 0.8)), b.ints("offsets", 0, 3, 5, 8, 11), 2)), G.Nodes{x}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			out, wrt := build(b)
			loss := project(b, out)
			grads, err := Grad(loss, wrt...)
			if err != nil {
				t.Fatal(err)
			}
			got := b.eval(grads...)
			for k, n := range wrt {
				x := b.values[n].Data().([]float64)
				for i := range x {
					const h = 1e-5
					at := x[i]
					x[i] = at + h
					up := b.eval(loss)[0][0]
					x[i] = at - h
					down := b.eval(loss)[0][0]
					x[i] = at
					if wantGrad := (up - down) / (2 * h); math.Abs(wantGrad-got[k][i]) > 1e-6*(1+math.Abs(wantGrad)) {
						t.Errorf("%s[%d]: gradient %g, finite differences %g", n.Name(), i, got[k][i], wantGrad)
					}
				}
			}
		})
	}
}

// Values are checked against figures worked out by hand.
func TestValues(t *testing.T) {
	b := newBench(t)
	ok := must(t)
	vec := func(name string, x ...float64) *G.Node {
		return b.input(name, tensor.New(tensor.WithShape(len(x)), tensor.WithBacking(x)))
	}
	schedule := make([]float64, ScheduleLen)
	schedule[LearningRate], schedule[WeightDecay], schedule[EMAMomentum] = 0.1, 0.5, 0.9
	schedule[BiasCorrect1], schedule[BiasCorrect2], schedule[ClipNorm] = 0.1, 0.001, 2.5
	s := vec("schedule", schedule...)
	g := vec("g", 3, 4)
	factor := ok(ClipFactor(ok(SumSquares(g)), s)) // 2.5/5
	m := ok(FirstMoment(vec("m", 0, 0), g, factor, 0.9))
	v := ok(SecondMoment(vec("v", 0, 0), g, factor, 0.999))
	w := ok(AdamW(vec("w", 1, 1), m, v, s, 0, true))
	e := ok(EMA(vec("t", 2, 2), w, s))
	clip := b.input("clip", tensor.New(tensor.WithShape(1, 1, 2, 2, 4), tensor.WithBacking(tensor.Range(tensor.Float64, 0, 16))))
	patches := ok(Patchify(clip, 2, 2))
	causal := ok(Attention(b.input("qkv", tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]float64{0, 0, 1, 0, 0, 3}))), b.ints("o", 0, 2), 1, 1))
	got := b.eval(factor, m, w, e, patches, causal)
	for i, want := range [][]float64{
		{0.5}, {0.15, 0.2}, {1 - 0.05 - 0.1, 1 - 0.05 - 0.1}, {1.885, 1.885},
		{0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15}, {1, 2},
	} {
		for j := range want {
			if math.Abs(got[i][j]-want[j]) > 1e-6 {
				t.Errorf("result %d: got %v, want %v", i, got[i], want)
				break
			}
		}
	}
}

func TestRunTimeValuesAreChecked(t *testing.T) {
	x := tensor.New(tensor.WithShape(2, 1), tensor.WithBacking([]float32{1, 2}))
	off := func(v ...int32) G.Value { return tensor.New(tensor.WithShape(len(v)), tensor.WithBacking(v)) }
	for name, do := range map[string]func() (G.Value, error){
		"index beyond the segment": func() (G.Value, error) { return (&GatherOp{}).Do(x, off(2), off(0, 2), off(0, 1)) },
		"negative index":           func() (G.Value, error) { return (&GatherOp{}).Do(x, off(-1), off(0, 2), off(0, 1)) },
		"falling offsets":          func() (G.Value, error) { return (&GatherOp{}).Do(x, off(0), off(0, 2, 1), off(0, 1, 1)) },
		"offsets beyond the rows":  func() (G.Value, error) { return (&GatherOp{}).Do(x, off(0), off(0, 3), off(0, 1)) },
		"id beyond the table":      func() (G.Value, error) { return (&LookupOp{}).Do(off(2), off(0, 1), x) },
	} {
		if _, err := do(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestShapesAreChecked(t *testing.T) {
	b := newBench(t)
	x := b.random("x", 4, 6)
	single := G.NewMatrix(b.g, tensor.Float32, G.WithShape(4, 6), G.WithName("single"))
	for name, build := range map[string]func() (*G.Node, error){
		"linear":                func() (*G.Node, error) { return Linear(x, b.random("w", 3, 5), b.random("b", 3)) },
		"heads":                 func() (*G.Node, error) { return Attention(x, b.ints("o", 0, 4), 4, 0) },
		"add":                   func() (*G.Node, error) { return Add(x, b.random("y", 4, 5)) },
		"patchify":              func() (*G.Node, error) { return Patchify(b.random("c", 1, 3, 3, 4, 4), 2, 2) },
		"exponent":              func() (*G.Node, error) { return LpLoss(x, x, b.random("w", 1), b.ints("o2", 0, 4), 0.5) },
		"schedule":              func() (*G.Node, error) { return EMA(x, x, b.random("s", 2)) },
		"no tensor":             func() (*G.Node, error) { return SumSquares() },
		"a float for an index":  func() (*G.Node, error) { return Attention(x, b.random("o3", 2), 2, 0) },
		"an index for a float":  func() (*G.Node, error) { return Add(b.ints("i", 1), b.ints("j", 2)) },
		"two float types":       func() (*G.Node, error) { return Add(x, single) },
		"loss offsets as float": func() (*G.Node, error) { return LpLoss(x, x, b.random("w2", 1), b.random("o4", 2), 1) },
	} {
		if _, err := build(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	loss, err := SumSquares(x)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Grad(loss, b.random("stranger", 2)); err == nil {
		t.Error("gradient for a node the loss does not depend on: no error")
	}
}

// Two segments of 5 and 2 tokens: all pairs, and in blocks of 2 those of 2·2 + 2·4 + 1·5 and 2·2.
func TestSeenScores(t *testing.T) {
	offsets := []int32{3, 8, 10}
	for block, want := range map[int]float64{0: 29, 1: 15 + 3, 2: 17 + 4, 5: 29} {
		if got := SeenScores(offsets, block); got != want {
			t.Errorf("blocks of %d: %g pairs, want %g", block, got, want)
		}
	}
}
