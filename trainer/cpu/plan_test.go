package cpu

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"pgregory.net/rapid"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
)

// odd builds graphs that no model has: norms whose outputs are added, one tensor read
// by many, results taken from the middle.
type odd struct {
	t               rapid.TB
	g               *G.ExprGraph
	p               *graph.Program
	clips, capacity int // rows of a clip at most
	width           int
	offsets         *G.Node // of the one space
	params          G.Nodes
	ids             map[*G.Node]int // index input -> rows it may name
}

func newOdd(t rapid.TB, clips, capacity, width int) *odd {
	o := &odd{t: t, g: G.NewGraph(), p: &graph.Program{Clips: clips}, clips: clips, capacity: capacity, width: width, ids: map[*G.Node]int{}}
	o.offsets = o.input("offsets", tensor.Int32, clips+1)
	return o
}

func (o *odd) input(name string, of tensor.Dtype, shape ...int) *G.Node {
	n := G.NewTensor(o.g, of, len(shape), G.WithShape(shape...), G.WithName(name))
	o.p.Inputs = append(o.p.Inputs, n)
	return n
}

func (o *odd) param(shape ...int) *G.Node {
	n := G.NewTensor(o.g, tensor.Float32, len(shape), G.WithShape(shape...), G.WithName(fmt.Sprintf("param %d", len(o.params))))
	o.params, o.p.State = append(o.params, n), append(o.p.State, n)
	return n
}

func (o *odd) node(n *G.Node, err error) *G.Node {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
	return n
}

// rows is a matrix [clips·capacity,width] read from a table.
func (o *odd) rows() *G.Node {
	ids := o.input(fmt.Sprintf("ids %d", len(o.ids)), tensor.Int32, o.clips*o.capacity)
	o.ids[ids] = 4
	return o.node(graph.Lookup(ids, o.offsets, o.param(4, o.width)))
}

func (o *odd) linear(x *G.Node, width int) *G.Node {
	return o.node(graph.Linear(x, o.param(width, x.Shape()[1]), o.param(width)))
}

func (o *odd) norm(x *G.Node) *G.Node {
	return o.node(graph.LayerNorm(x, o.param(o.width), o.param(o.width), 1e-3))
}

// train ends the graph with a loss against some rows and the gradient of every parameter.
func (o *odd) train(x *G.Node) {
	weights := o.input("weights", tensor.Float32, o.clips)
	loss := o.node(graph.LpLoss(x, o.rows(), weights, o.offsets, 2))
	var below G.Nodes // the parameters that the loss depends on
	order, err := graph.Sort(loss)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, n := range o.params {
		if slices.Contains(order, n) {
			below = append(below, n)
		}
	}
	grads, err := graph.Grad(loss, below...)
	if err != nil {
		o.t.Fatal(err)
	}
	o.p.Results = append(append(o.p.Results, loss), grads...)
}

// set fills a machine's inputs and state, the same for a seed.
func (o *odd) set(m graph.Buffers, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	off := m.Ints(o.offsets)
	for b := range o.clips {
		off[b+1] = off[b] + int32(rng.IntN(o.capacity+1))
	}
	for _, n := range slices.Concat(o.p.Inputs, o.p.State) {
		if n == o.offsets {
			continue
		}
		for i := range m.Ints(n) {
			m.Ints(n)[i] = int32(rng.IntN(o.ids[n]))
		}
		for i := range m.Floats(n) {
			m.Floats(n)[i] = float32(rng.NormFloat64())
		}
	}
}

// compare runs the program on the oracle and on the CPU and wants the same results.
func (o *odd) compare() {
	o.t.Helper()
	oracle, err := graph.NewTape(o.p)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, threads := range []int{1, 2} {
		m, err := Compile(o.p, Options{Threads: threads})
		if err != nil {
			o.t.Fatal(err)
		}
		defer m.Close()
		for seed := range uint64(2) {
			for _, x := range []graph.Machine{oracle, m} {
				o.set(x, seed)
				if err := x.Run(); err != nil {
					o.t.Fatal(err)
				}
			}
			var most float64 // deep chains leave gradients that are rounding beside the others
			for _, n := range o.p.Results {
				for _, x := range oracle.Floats(n) {
					most = max(most, math.Abs(float64(x)))
				}
			}
			for _, n := range o.p.Results {
				checkClose(o.t, n, m.Floats(n), oracle.Floats(n), rowsUsed(m, n), 1e-3, 1e-5*most)
			}
		}
	}
}

// Whatever the graph, the CPU computes what the operations' Do computes, and no two
// nodes that are needed at once share memory.
func TestAnyGraph(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOdd(t, rapid.IntRange(1, 3).Draw(t, "clips"), rapid.IntRange(1, 4).Draw(t, "capacity"), 4)
		pool := G.Nodes{o.rows()}
		pick := func() *G.Node { return pool[rapid.IntRange(0, len(pool)-1).Draw(t, "node")] }
		for range rapid.IntRange(2, 12).Draw(t, "operations") {
			var n *G.Node
			switch rapid.SampledFrom([]string{"rows", "linear", "linear gelu", "gelu", "norm", "normalize", "add", "scale", "attention", "attention of some", "rotate", "swiglu"}).Draw(t, "op") {
			case "rows":
				n = o.rows()
			case "linear":
				n = o.linear(pick(), o.width)
			case "linear gelu":
				n = o.node(graph.GELU(o.linear(pick(), o.width)))
			case "gelu":
				n = o.node(graph.GELU(pick()))
			case "norm":
				n = o.norm(pick())
			case "normalize":
				n = o.node(graph.Normalize(pick(), 1e-3))
			case "add":
				n = o.node(graph.Add(pick(), pick()))
			case "scale":
				n = o.node(graph.Scale(pick(), -0.5))
			case "swiglu":
				n = o.node(graph.SwiGLU(pick(), pick()))
			case "rotate":
				grid := graph.Rotation{T: 2, H: 1, W: 2, Interleaved: rapid.Bool().Draw(t, "interleaved")}
				tokens := o.input(fmt.Sprintf("tokens %d", len(o.ids)), tensor.Int32, o.clips*o.capacity)
				o.ids[tokens] = grid.Tokens()
				wide := o.node(graph.Rotate(o.linear(pick(), 3*2*7), tokens, o.offsets, 2, grid))
				n = o.linear(o.node(graph.Attention(wide, o.offsets, 2, 0)), o.width)
			case "attention of some":
				index := o.input(fmt.Sprintf("queries %d", len(o.ids)), tensor.Int32, o.clips*o.capacity)
				o.ids[index] = 1 // the first row of its segment, the one that each has
				n = o.node(graph.Gather(o.node(graph.Attention(o.linear(pick(), 3*o.width), o.offsets, 2, 0)), index, o.offsets, o.offsets))
			case "attention":
				n = o.node(graph.Attention(o.linear(pick(), 3*o.width), o.offsets, 2, rapid.IntRange(0, 2).Draw(t, "block")))
			}
			pool = append(pool, n)
			if rapid.Bool().Draw(t, "result") && !slices.Contains(o.p.Results, n) {
				o.p.Results = append(o.p.Results, n)
			}
		}
		sum := pool[len(pool)-1]
		for range rapid.IntRange(0, 3).Draw(t, "sums") {
			sum = o.node(graph.Add(sum, pick()))
		}
		o.train(sum)
		o.compare()

		pl, err := newPlan(o.p, FP32)
		if err != nil {
			t.Fatal(err)
		}
		checkLives(t, pl)
	})
}

// checkLives lays a plan's buffers out for full spaces and for others, walks through its steps and keeps what lies where:
// a step finds what it reads where a step before has left it, and writes over its own inputs element by element only.
func checkLives(t rapid.TB, pl *plan) {
	t.Helper()
	for _, rows := range []func(rowCount) int{
		func(r rowCount) int { return r.capacity },
		func(r rowCount) int { return (r.capacity + 1) / 2 },
		func(r rowCount) int { return r.capacity / 3 },
	} {
		checkLayout(t, pl, rows)
	}
}

func checkLayout(t rapid.TB, pl *plan, rows func(rowCount) int) {
	t.Helper()
	at := make([]int, len(pl.layout.buffers))
	used, _ := pl.layout.run(at, nil, rows)
	where := func(n *G.Node, step int) span {
		i := pl.place[n].life(step).buffer
		b := pl.layout.buffers[i]
		floats := b.width * rows(b.rows)
		if b.half {
			floats = (floats + 1) / 2
		}
		return span{at[i], at[i] + floats}
	}
	overlap := func(a, b span) bool { return a.first < b.last && b.first < a.last }
	left := map[*G.Node]span{} // where a step has left a matrix that nothing was written over since
	for i, s := range pl.steps {
		read := pl.reads(s)
		if s.norm != nil {
			read = slices.Concat(read, pl.children[s.norm.scale], pl.children[s.norm.shift])
		}
		for _, n := range read {
			if pl.place[n] == nil {
				continue
			}
			if got, ok := left[n]; !ok || got != where(n, i) {
				t.Fatalf("step %d, %v: %v is gone, or was left in %v and is looked for in %v", i, s.node.Op(), n.Op(), got, where(n, i))
			}
		}
		written := map[*G.Node]span{}
		for _, n := range s.writes() {
			if pl.place[n] == nil {
				continue // a sum
			}
			mine := where(n, i)
			if mine.last > used {
				t.Fatalf("step %d: %v ends at %d of %d floats", i, n.Op(), mine.last, used)
			}
			for other, o := range written {
				if overlap(mine, o) {
					t.Fatalf("step %d: %v and %v are written over each other", i, n.Op(), other.Op())
				}
			}
			for _, other := range read {
				if o, ok := left[other]; ok && overlap(mine, o) && mine != o {
					t.Fatalf("step %d: %v is written over a part of its input %v", i, n.Op(), other.Op())
				}
			}
			written[n] = mine
		}
		if s.value != nil && written[s.value] != where(s.beside, i) {
			t.Fatalf("step %d: %v is not where its input was", i, s.value.Op())
		}
		maps.DeleteFunc(left, func(_ *G.Node, o span) bool {
			for _, mine := range written {
				if overlap(mine, o) {
					return true
				}
			}
			return false
		})
		maps.Copy(left, written)
	}
}

// Between the forward and the backward pass no result of a norm or a GELU is kept: that is nearly half of what a block
// would keep.
func TestNormsAndGELUsAreNotKept(t *testing.T) {
	deep := smallModel(model.Masked)
	deep.Depth, deep.PredDepth = 4, 4
	tr, err := model.NewTraining(deep, 2, 2, model.TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	pl, err := newPlan(tr.Program, FP32)
	if err != nil {
		t.Fatal(err)
	}
	checkLives(t, pl)
	kept, twice := 0, 0
	for n, p := range pl.place {
		switch n.Op().(type) {
		case *graph.LayerNormOp, *graph.GELUOp:
			for _, l := range p.lives {
				if l.last-l.first > longGap {
					kept++
				}
			}
			if len(p.lives) == 2 {
				twice++
			}
		}
	}
	if kept > 0 {
		t.Errorf("%d results of norms and GELUs are kept for the backward pass", kept)
	}
	if want := 3 * (deep.Depth + deep.PredDepth); twice < want { // two norms and a GELU to a block
		t.Errorf("%d results of norms and GELUs are computed twice, want at least %d", twice, want)
	}
}

// Two norms whose outputs are added have the same output gradient, and so the same
// gradient of the shift: it is summed once, and each scale's from its own input.
func TestNormsThatShareAnOutputGradient(t *testing.T) {
	o := newOdd(t, 2, 3, 4)
	a, b := o.norm(o.rows()), o.norm(o.rows())
	o.train(o.node(graph.Add(o.node(graph.Add(a, b)), o.linear(o.rows(), o.width))))
	o.compare()
}

// Programs that the machine could only run wrongly are refused when it is compiled.
func TestUnsoundPrograms(t *testing.T) {
	for want, build := range map[string]func(o *odd){
		"want rows of clips": func(o *odd) {
			o.p.Results = G.Nodes{o.node(graph.Add(o.rows(), o.input("matrix", tensor.Float32, o.clips*o.capacity, o.width)))}
		},
		"want a whole tensor": func(o *odd) {
			o.p.Results = G.Nodes{o.node(graph.SumSquares(o.rows()))}
		},
		"before all clips are done": func(o *odd) {
			x := o.rows()
			first := o.node(graph.LpLoss(x, x, o.input("weights", tensor.Float32, o.clips), o.offsets, 1))
			one := o.input("one weight", tensor.Float32, o.clips)
			if o.clips != 1 {
				o.t.Fatal("the sum must have the shape of the weights")
			}
			o.p.Results = G.Nodes{o.node(graph.LpLoss(x, x, o.node(graph.Add(first, one)), o.offsets, 1))}
		},
		"is part of an update": func(o *odd) {
			m, g, f := o.param(2), o.input("g", tensor.Float32, 2), o.input("f", tensor.Float32, 1)
			o.p.Results = G.Nodes{o.node(graph.Scale(o.node(graph.FirstMoment(m, g, f, 0.9)), 2))}
		},
		"is float64": func(o *odd) {
			o.p.Results = G.Nodes{o.node(graph.Scale(o.input("wide", tensor.Float64, 2), 2))}
		},
		"segments, want 2 for each": func(o *odd) {
			o.p.Results = G.Nodes{o.node(graph.VarianceHinge(o.rows(), o.input("halves", tensor.Int32, 4*o.clips+1), 2))}
		},
	} {
		o := newOdd(t, 1, 3, 4)
		build(o)
		if m, err := Compile(o.p, Options{Threads: 1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
			if m != nil {
				_ = m.Close()
			}
		}
	}
}

// Two spaces whose rows are read side by side must agree, clip by clip, when they are run.
func TestSpacesMustAgree(t *testing.T) {
	o := newOdd(t, 2, 3, 4)
	other := o.input("other offsets", tensor.Int32, 3)
	ids := o.input("other ids", tensor.Int32, 6)
	x := o.node(graph.Add(o.rows(), o.node(graph.Lookup(ids, other, o.param(4, 4)))))
	o.p.Results = G.Nodes{x}
	m, err := Compile(o.p, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	copy(m.Ints(o.offsets), []int32{0, 2, 5})
	copy(m.Ints(other), []int32{0, 2, 5})
	if err := m.Run(); err != nil {
		t.Errorf("spaces that agree: %v", err)
	}
	copy(m.Ints(other), []int32{0, 3, 5})
	if err := m.Run(); err == nil || !strings.Contains(err.Error(), "other offsets") {
		t.Errorf("got %v, want an error that names the offsets", err)
	}
}

func TestUpdateAppliesARunOnce(t *testing.T) {
	tr := training(t, model.Masked, 2, 2)
	oracle, err := graph.NewTape(tr.Program)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := Compile(tr.Program, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	for _, m := range []graph.Machine{oracle, machine} {
		fill(t, m, tr, 3)
		if err := m.Update(); err == nil {
			t.Errorf("%T: an update before any run was accepted", m)
		}
		if err := m.Run(); err != nil {
			t.Fatal(err)
		}
		if err := m.Update(); err != nil {
			t.Fatal(err)
		}
		if err := m.Update(); err == nil {
			t.Errorf("%T: a second update of one run was accepted", m)
		}
	}
}

// checkClose wants two results within share of their largest element, or slack.
func checkClose(t rapid.TB, n *G.Node, got, want []float32, rows int, share, slack float64) {
	t.Helper()
	if rows >= 0 {
		d := n.Shape()[1]
		got, want = got[:rows*d], want[:rows*d]
	}
	var most, worst float64
	for i := range want {
		most = max(most, math.Abs(float64(want[i])))
		if d := math.Abs(float64(got[i] - want[i])); d > worst || math.IsNaN(d) {
			worst = d
		}
	}
	if !(worst <= share*most+slack) {
		t.Errorf("%v %s %v: differs by %.2g where the largest element is %.2g", n.Op(), n.Name(), n.Shape(), worst, most)
	}
}

// In the predictor's last block only hidden tokens ask, and no others are computed.
func TestScoringAsksForHiddenTokens(t *testing.T) {
	s, err := model.NewTubeletScoring(model.Config{Objective: model.Masked, Size: 16, PredDepth: 2}.WithDefaults(), 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	pl, err := newPlan(s.Program, FP32)
	if err != nil {
		t.Fatal(err)
	}
	chosen := 0
	for _, s := range pl.steps {
		if _, ok := s.node.Op().(*graph.AttentionOp); ok && s.into != nil {
			chosen++
		}
	}
	if chosen != 1 {
		t.Errorf("%d attention steps for chosen queries, want 1", chosen)
	}
}
