package cpu

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rotaryGated is a kind of small model: masked, with rotary positions and gated MLPs, as V-JEPA 2 can be configured.
const rotaryGated = "masked, rotary and gated"

// groupsOf are the small models, with the mask groups that they are tested with.
var groupsOf = map[string]int{model.Masked: 2, model.NextTubelet: 1, rotaryGated: 2}

// smallModel is a model whose sizes are no multiples of a vector or a cache line.
func smallModel(objective string) model.Config {
	if objective == rotaryGated {
		c := smallModel(model.Masked)
		c.Positions, c.MLP, c.PredMLP, c.MaskToken = model.RoPE, model.SwiGLU, model.SwiGLU, model.MaskTokenFirst
		return c
	}
	return model.Config{Objective: objective, Size: 24, Frames: 6, Patch: 8, Tubelet: 2, Dim: 24, Depth: 2, Heads: 3,
		PredDim: 16, PredDepth: 2, PredHeads: 2, MLPRatio: 2.5}.WithDefaults()
}

// fill sets weights, clips and masks of a training graph, the same on every machine.
func fill(t testing.TB, m graph.Buffers, tr *model.Training, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	weights := tr.Config.Init(seed)
	for _, p := range tr.Config.Params() {
		w := m.Floats(tr.Params[p.Name])
		for i, x := range weights[p.Name] {
			w[i] = x + float32(0.1*rng.NormFloat64())
		}
	}
	for i := range m.Floats(tr.Clip) {
		m.Floats(tr.Clip)[i] = float32(rng.NormFloat64())
	}
	s := m.Floats(tr.Schedule)
	s[graph.LearningRate], s[graph.WeightDecay], s[graph.EMAMomentum] = 1e-3, 0.1, 0.9
	s[graph.BiasCorrect1], s[graph.BiasCorrect2], s[graph.ClipNorm] = 0.1, 0.001, 0.5
	layOut(t, m, tr, rng)
}

// layOut draws masks of any number of tokens.
func layOut(t testing.TB, m graph.Buffers, tr *model.Training, rng *rand.Rand) {
	t.Helper()
	var context, pred [][]int32
	if tr.Config.Objective == model.Masked {
		n := tr.Config.Tokens()
		for range tr.Clips * tr.Groups {
			order := rng.Perm(n)
			visible := 1 + rng.IntN(n-2)
			hidden := 1 + rng.IntN(n-visible)
			context, pred = append(context, sorted(order[:visible])), append(pred, sorted(order[visible:visible+hidden]))
		}
	}
	if err := tr.Pack(m, context, pred); err != nil {
		t.Fatal(err)
	}
}

func sorted(x []int) []int32 {
	var out []int32
	for _, v := range x {
		out = append(out, int32(v))
	}
	slices.Sort(out)
	return out
}

// training builds a small training graph whose every computed node is a result.
func training(t testing.TB, objective string, clips, groups int) *model.Training {
	t.Helper()
	return trainingOf(t, smallModel(objective), clips, groups)
}

func trainingOf(t testing.TB, c model.Config, clips, groups int) *model.Training {
	t.Helper()
	tr, err := model.NewTraining(c, clips, groups,
		model.TrainingOptions{Exponent: 1.5, VarianceCoeff: 0.3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// Every operation of a training step, forward, backward and update, against its Do.
func TestEveryOperationAgainstItsReference(t *testing.T) {
	for objective, groups := range groupsOf {
		for _, threads := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d threads", objective, threads), func(t *testing.T) {
				tr := training(t, objective, 4, groups)
				order, err := graph.Sort(slices.Concat(tr.Program.Results, nexts(tr.Program))...)
				if err != nil {
					t.Fatal(err)
				}
				kinds := map[string]bool{}
				for _, n := range order {
					if n.Op() != nil && !updates(n) && !slices.Contains(tr.Program.Results, n) {
						tr.Program.Results = append(tr.Program.Results, n)
						kinds[fmt.Sprintf("%T", n.Op())] = true
					}
				}
				if len(kinds) < 20 {
					t.Errorf("only %d kinds of operations are compared", len(kinds))
				}
				oracle, err := graph.NewTape(tr.Program)
				if err != nil {
					t.Fatal(err)
				}
				machine, err := Compile(tr.Program, Options{Threads: threads})
				if err != nil {
					t.Fatal(err)
				}
				defer machine.Close()
				for step := range uint64(2) { // the second with whatever the first left in the buffers
					for _, m := range []graph.Machine{oracle, machine} {
						fill(t, m, tr, 10+step)
						if err := m.Run(); err != nil {
							t.Fatal(err)
						}
					}
					for _, n := range tr.Program.Results {
						checkClose(t, n, machine.Floats(n), oracle.Floats(n), rowsUsed(machine, n), 2e-5, 1e-9)
					}
					for _, m := range []graph.Machine{oracle, machine} {
						if err := m.Update(); err != nil {
							t.Fatal(err)
						}
					}
					for _, n := range tr.Program.State {
						if strings.HasSuffix(n.Name(), "qkv.bias") {
							continue // the keys' third has gradient 0: AdamW makes steps of its rounding
						}
						checkClose(t, n, machine.Floats(n), oracle.Floats(n), -1, 2e-5, 1e-9)
					}
				}
			})
		}
	}
}

// withGradients makes the gradients of all weights results, and nothing else, so that operations run fused as in training.
func withGradients(tr *model.Training) (names []string) {
	names = slices.Sorted(maps.Keys(tr.Gradients))
	for _, name := range names {
		tr.Program.Results = append(tr.Program.Results, tr.Gradients[name])
	}
	return names
}

// A step as it is trained, with operations run together, against the oracle.
func TestFusedStepAgainstItsReference(t *testing.T) {
	for objective, groups := range groupsOf {
		t.Run(objective, func(t *testing.T) {
			tr := training(t, objective, 4, groups)
			withGradients(tr)
			oracle, err := graph.NewTape(tr.Program)
			if err != nil {
				t.Fatal(err)
			}
			machine, err := Compile(tr.Program, Options{Threads: 2, Profile: true})
			if err != nil {
				t.Fatal(err)
			}
			defer machine.Close()
			fused := map[string]int{}
			for _, s := range machine.plan.steps {
				if s.into != nil {
					fused[fmt.Sprintf("%T into %T", s.node.Op(), s.into.Op())]++
				}
			}
			// two blocks in three encoders and predictors: each block has two of each
			for _, want := range []string{"*graph.LinearOp into *graph.AddOp", "*graph.LinearGradXOp into *graph.GELUGradOp", "*graph.LayerNormGradXOp into *graph.AddOp"} {
				if gated := objective == rotaryGated && want == "*graph.LinearGradXOp into *graph.GELUGradOp"; !gated && fused[want] < 4 {
					t.Errorf("%d times %s, want at least 4: %v", fused[want], want, fused)
				}
			}
			for step := range uint64(3) {
				for _, m := range []graph.Machine{oracle, machine} {
					fill(t, m, tr, 20+step)
					if err := m.Run(); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range tr.Program.Results {
					checkClose(t, n, machine.Floats(n), oracle.Floats(n), rowsUsed(machine, n), 2e-5, 1e-9)
				}
				for _, m := range []graph.Machine{oracle, machine} {
					if err := m.Update(); err != nil {
						t.Fatal(err)
					}
				}
			}
			var share float64
			for _, o := range machine.Operations() {
				share += o.Share
			}
			if math.Abs(share-1) > 1e-9 {
				t.Errorf("the operations add up to %g of the time", share)
			}
		})
	}
}

// In bfloat16 the loss and every gradient stay near those of float32. (Where the processor lacks it, it is emulated.)
func TestBF16StaysNearFP32(t *testing.T) {
	models := map[string]model.Config{}
	for objective := range groupsOf {
		models[objective] = smallModel(objective)
	}
	// Products whose inner extent is odd stay in float32, between matrices that do not.
	odd := smallModel(model.Masked)
	odd.MLPRatio = 15.5 / 16
	models["hidden features odd"] = odd
	odd = smallModel(rotaryGated)
	odd.Dim, odd.Heads = 21, 3
	models["features odd"] = odd
	for name, c := range models {
		t.Run(name, func(t *testing.T) {
			tr := trainingOf(t, c, 4, groupsOf[c.Objective])
			names := withGradients(tr)
			var machines []*Machine
			for _, precision := range []Precision{FP32, BF16} {
				m, err := Compile(tr.Program, Options{Threads: 2, Precision: precision})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				fill(t, m, tr, 30)
				if err := m.Run(); err != nil {
					t.Fatal(err)
				}
				machines = append(machines, m)
			}
			narrow := 0
			for _, pl := range machines[1].plan.place {
				if pl.half {
					narrow++
				}
			}
			if _, usual := groupsOf[name]; usual && narrow < len(machines[1].plan.place)/4 {
				t.Errorf("%d of %d matrices are bfloat16", narrow, len(machines[1].plan.place))
			}
			wide, half := machines[0].Floats(tr.Loss)[0], machines[1].Floats(tr.Loss)[0]
			if d := math.Abs(float64(half/wide) - 1); !(d < 0.01) {
				t.Errorf("the loss is %g in bf16, %g in fp32", half, wide)
			}
			for _, name := range names {
				a, b := machines[0].Floats(tr.Gradients[name]), machines[1].Floats(tr.Gradients[name])
				var size, off float64
				for i := range a {
					size += float64(a[i]) * float64(a[i])
					off += float64(a[i]-b[i]) * float64(a[i]-b[i])
				}
				if limit := 0.05; !(math.Sqrt(off) <= limit*math.Sqrt(size)+1e-7) {
					t.Errorf("gradient of %s: off by %.3g of its norm %.3g", name, math.Sqrt(off/size), math.Sqrt(size))
				}
			}
		})
	}
}

// Where a value stops being a number is found again, operation and tensor, and the state is as it was.
func TestFirstNonFinite(t *testing.T) {
	for _, precision := range []Precision{FP32, BF16} {
		tr := training(t, model.Masked, 3, 2)
		m, err := Compile(tr.Program, Options{Threads: 2, Precision: precision})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		run := func() {
			t.Helper()
			if err := m.Run(); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, m, tr, 5)
		run()
		if op, name, ok := m.FirstNonFinite(); ok {
			t.Errorf("all is finite, but %s of %s is named", op, name)
		}
		const name = "encoder.blocks.1.mlp.fc1.weight"
		w := m.Floats(tr.Params[name])
		before := slices.Clone(w)
		for i := range w {
			w[i] = 3e38
		}
		run()
		if op, tensor, ok := m.FirstNonFinite(); !ok || op != "Linear" || tensor != name {
			t.Errorf("%s: weights that overflow: got %q of %q (%t), want Linear of %s", precision, op, tensor, ok, name)
		}
		copy(m.Floats(tr.Params[name]), before)
		m.Floats(tr.Clip)[7] = float32(math.NaN())
		run()
		if op, tensor, ok := m.FirstNonFinite(); !ok || op != "input" || tensor != "clip" {
			t.Errorf("%s: NaN in a clip: got %q of %q (%t)", precision, op, tensor, ok)
		}
	}
}

func nexts(p *graph.Program) G.Nodes {
	var out G.Nodes
	for _, u := range p.Updates {
		out = append(out, u.Next)
	}
	return out
}

func updates(n *G.Node) bool {
	switch n.Op().(type) {
	case *graph.FirstMomentOp, *graph.SecondMomentOp, *graph.AdamWOp, *graph.EMAOp:
		return true
	}
	return false
}

// rowsUsed is the number of rows of a packed matrix that are no padding; -1: all.
func rowsUsed(m *Machine, n *G.Node) int {
	pl, ok := m.plan.place[n]
	if !ok || pl.offsets == nil {
		return -1
	}
	off := m.ints[pl.offsets]
	return int(off[len(off)-1])
}

// The same bits from run to run, and the same losses whatever the number of threads.
func TestRunsRepeatThemselves(t *testing.T) {
	tr := training(t, model.Masked, 5, 2)
	run := func(threads int) (sums []float32) {
		m, err := Compile(tr.Program, Options{Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		fill(t, m, tr, 3)
		for range 3 {
			if err := m.Run(); err != nil {
				t.Fatal(err)
			}
			if err := m.Update(); err != nil {
				t.Fatal(err)
			}
		}
		sums = append(sums, m.Floats(tr.Loss)...)
		for _, n := range tr.Program.State {
			sums = append(sums, m.Floats(n)...)
		}
		return sums
	}
	for _, threads := range []int{1, 2, 4} {
		if !slices.Equal(run(threads), run(threads)) {
			t.Errorf("%d threads: two runs differ", threads)
		}
	}
}

func TestStepsDoNotAllocate(t *testing.T) {
	tr := training(t, model.Masked, 4, 2)
	m, err := Compile(tr.Program, Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fill(t, m, tr, 3)
	step := func() {
		if err := m.Run(); err != nil {
			t.Fatal(err)
		}
		if err := m.Update(); err != nil {
			t.Fatal(err)
		}
	}
	step()
	// The runtime itself allocates now and then, where a goroutine waits on a channel; a step that allocates
	// does so every time.
	least := math.Inf(1)
	for tries := 0; tries < 5 && least > 0; tries++ {
		least = min(least, testing.AllocsPerRun(5, step))
	}
	if least > 0 {
		t.Errorf("%g allocations a step, want none", least)
	}
	// Nor does a step touch memory that it has not touched before. The runtime does now and then.
	fewest := int64(math.MaxInt64)
	for tries := 0; tries < 20 && fewest > 0; tries++ {
		before, ok := pageFaults()
		if !ok {
			t.Log("page faults are not counted on this system")
			return
		}
		step()
		after, _ := pageFaults()
		fewest = min(fewest, after-before)
	}
	if fewest > 0 {
		t.Errorf("%d page faults a step, want none", fewest)
	}
}

// Layouts that would lead a kernel outside its buffers are refused.
func TestLayoutsAreChecked(t *testing.T) {
	tr := training(t, model.Masked, 2, 2)
	m, err := Compile(tr.Program, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, n := range tr.Program.Inputs {
		if n.Dtype() != tensor.Int32 {
			continue
		}
		for _, bad := range []int32{-1, math.MaxInt32, 1 << 20} {
			fill(t, m, tr, 3)
			x := m.Ints(n)
			if strings.HasSuffix(n.Name(), "offsets") {
				x[len(x)-1] = bad
			} else {
				x[0] = bad
			}
			if err := m.Run(); err == nil {
				t.Errorf("%s with %d: no error", n.Name(), bad)
			}
			if err := m.Update(); err == nil {
				t.Errorf("%s with %d: an update after a failed run was accepted", n.Name(), bad)
			}
		}
	}
	fill(t, m, tr, 3)
	if err := m.Run(); err != nil {
		t.Errorf("a sound layout after the bad ones: %v", err)
	}
}

// Weights that the caller keeps are read where they are, give the same result, and take no memory of the machine.
func TestWeightsOfTheCaller(t *testing.T) {
	e, err := model.NewEmbedding(smallModel(rotaryGated), 2, model.TargetPrefix)
	if err != nil {
		t.Fatal(err)
	}
	init := e.Config.Init(1)
	outside := map[*G.Node][]float32{}
	for name, n := range e.Params {
		outside[n] = init[name]
	}
	var results [][]float32
	var bytes []int
	for _, weights := range []map[*G.Node][]float32{nil, outside} {
		m, err := Compile(e.Program, Options{Threads: 2, Weights: weights})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for name, n := range e.Params {
			if weights == nil {
				copy(m.Floats(n), init[name])
			}
		}
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range m.Floats(e.Clip) {
			m.Floats(e.Clip)[i] = float32(rng.NormFloat64())
		}
		e.Pack(m)
		if err := m.Prepare(); err != nil {
			t.Fatal(err)
		}
		if err := m.Run(); err != nil {
			t.Fatal(err)
		}
		results, bytes = append(results, slices.Clone(m.Floats(e.Tokens))), append(bytes, m.Bytes())
	}
	if !slices.Equal(results[0], results[1]) {
		t.Error("weights that the caller keeps give another result")
	}
	var values int
	for _, w := range outside {
		values += len(w)
	}
	if saved := bytes[0] - bytes[1]; saved < 4*values {
		t.Errorf("weights of %d bytes outside save %d bytes", 4*values, saved)
	}

	tr := training(t, model.Masked, 2, 1)
	n := tr.Params["encoder.norm.weight"]
	if _, err := Compile(tr.Program, Options{Threads: 1, Weights: map[*G.Node][]float32{n: make([]float32, n.Shape().TotalSize())}}); err == nil || !strings.Contains(err.Error(), "encoder.norm.weight") {
		t.Errorf("weights that are updated: got %v, want an error that names them", err)
	}
	n = e.Params["target_encoder.norm.weight"]
	if _, err := Compile(e.Program, Options{Threads: 1, Weights: map[*G.Node][]float32{n: {1}}}); err == nil || !strings.Contains(err.Error(), "target_encoder.norm.weight") {
		t.Errorf("too few weights: got %v, want an error that names them", err)
	}
}

func TestImpossibleSettings(t *testing.T) {
	tr := training(t, model.NextTubelet, 2, 1)
	if _, err := Compile(tr.Program, Options{Threads: -1}); err == nil || !strings.Contains(err.Error(), "threads") {
		t.Errorf("-1 threads: got %v, want an error that names them", err)
	}
	var tooLarge *MemoryError
	if _, err := Compile(tr.Program, Options{Threads: 2, Memory: 1000}); !errors.As(err, &tooLarge) || tooLarge.Available != 1000 || tooLarge.Threads != 2 {
		t.Errorf("1000 bytes: got %v, want a MemoryError", err)
	}
	m, err := Compile(tr.Program, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if need := tooLarge.Shared + 2*tooLarge.PerThread; need < int64(m.Bytes()) || need > 2*int64(m.Bytes())+4096 {
		t.Errorf("the estimate is %d bytes, the machine took %d", need, m.Bytes())
	}
	if want := min(2, runtime.GOMAXPROCS(0)); len(m.workers) != want {
		t.Errorf("%d threads by default, want %d", len(m.workers), want)
	}
	if err := m.SetClips(1); err == nil {
		t.Error("part of a batch of a training graph was accepted: its loss weights are the whole batch's")
	}
}

// What machines have taken and not touched yet is not there for others; what they have touched is counted by the system.
func TestMemoryIsPromisedOnce(t *testing.T) {
	c := model.Config{Size: 64, Frames: 16, Dim: 128, Depth: 4, Heads: 2, PredDim: 128, PredDepth: 3, PredHeads: 2}.WithDefaults()
	s, err := model.NewScoring(c, 4, 1)
	if err != nil {
		t.Fatal(err)
	}
	before := waiting.untouched()
	m, err := Compile(s.Program, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all := int64(m.Bytes())
	if all < 4<<20 {
		t.Fatalf("a machine of %d bytes is too small to tell", all)
	}
	untouched := waiting.untouched() - before
	if !m.memory.tells() {
		t.Skip("the system does not say what of a machine's memory is touched")
	}
	if untouched > all+1<<16 || untouched < all/2 {
		t.Errorf("a machine of %d bytes has %d untouched", all, untouched)
	}
	var weights int64
	for _, n := range s.Params {
		w := m.Floats(n)
		for i := range w {
			w[i] = 0.01
		}
		weights += 4 * int64(len(w))
	}
	if got := waiting.untouched() - before; got > untouched-weights*8/10 {
		t.Errorf("with weights of %d bytes filled in, %d of %d are untouched", weights, got, untouched)
	}
	if err := s.Pack(m, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Run(); err != nil {
		t.Fatal(err)
	}
	if got := waiting.untouched() - before; got != 0 {
		t.Errorf("once it has run, %d bytes are still promised", got)
	}
	idle, err := Compile(s.Program, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Close(); err != nil {
		t.Fatal(err)
	}
	if got := waiting.untouched() - before; got != 0 {
		t.Errorf("with the other one closed, %d bytes are promised", got)
	}
}

// The products of a next-tubelet model's forward pass, counted by hand.
func TestProductFLOPs(t *testing.T) {
	c := model.Config{Size: 16, Frames: 4, Dim: 16, Depth: 1, Heads: 1, PredDim: 8, PredDepth: 1, PredHeads: 1}.WithDefaults()
	s, err := model.NewScoring(c, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Compile(s.Program, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := s.Pack(m, nil, nil); err != nil {
		t.Fatal(err)
	}
	const n, area, d, p, patch = 8, 4, 16, 8, 3 * 2 * 8 * 8 // tokens of a clip, of a tubelet, features
	encoder := 2.*n*patch*d + 2*n*(3*d*d+d*d+8*d*d) + 2*2*(n/area*area*area)*d
	causal := float64(area*area + area*2*area)
	predictor := 2.*n*d*p + 2*n*12*p*p + 2*2*causal*p + 2*area*(p*d+d*d)
	if got, want := m.ProductFLOPs(), 2*(2*encoder+predictor); got != want {
		t.Errorf("%g operations, want %g", got, want)
	}
}
