package xla_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/xlatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kinds are small models that have every operation between them, with their mask groups. Sizes are small and odd.
var kinds = map[string]struct {
	config model.Config
	groups int
}{
	"masked":           {small(model.Masked), 2},
	"next tubelet":     {small(model.NextTubelet), 1},
	"rotary and gated": {rotary(model.RoPE), 2},
	"interleaved":      {rotary(model.RoPEInterleaved), 2},
}

func small(objective string) model.Config {
	return model.Config{Objective: objective, Size: 24, Frames: 6, Patch: 8, Tubelet: 2, Dim: 24, Depth: 2, Heads: 3,
		PredDim: 16, PredDepth: 1, PredHeads: 2, MLPRatio: 2.5}.WithDefaults()
}

func rotary(positions string) model.Config {
	c := small(model.Masked)
	c.Positions, c.MLP, c.PredMLP, c.MaskToken = positions, model.SwiGLU, model.SwiGLU, model.MaskTokenFirst
	return c
}

var options = model.TrainingOptions{Exponent: 1.5, VarianceCoeff: 0.3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}

func training(t testing.TB, c model.Config, clips, groups int, o model.TrainingOptions) *model.Training {
	t.Helper()
	tr, err := model.NewTraining(c, clips, groups, o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// machine puts a program on the emulated device; everything must be closed in the end.
func machine(t testing.TB, p *graph.Program, o xla.Options) (*xla.Machine, *xlatest.Device) {
	t.Helper()
	d, err := xlatest.New()
	if err != nil {
		t.Fatal(err)
	}
	m, err := xla.New(t.Context(), p, d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, d
}

// setWeights gives a training graph weights that differ from their twins in the target encoder.
func setWeights(m graph.Buffers, tr *model.Training, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	weights := tr.Config.Init(seed)
	for _, p := range tr.Config.Params() {
		w := m.Floats(tr.Params[p.Name])
		for i, x := range weights[p.Name] {
			w[i] = x + float32(0.1*rng.NormFloat64())
		}
	}
}

// setInputs gives a step its clips, schedule and masks: the same on every machine.
func setInputs(t testing.TB, m graph.Buffers, tr *model.Training, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range m.Floats(tr.Clip) {
		m.Floats(tr.Clip)[i] = float32(rng.NormFloat64())
	}
	s := m.Floats(tr.Schedule)
	s[graph.LearningRate], s[graph.WeightDecay], s[graph.EMAMomentum] = 1e-3, 0.1, 0.9
	s[graph.BiasCorrect1], s[graph.BiasCorrect2], s[graph.ClipNorm] = 0.1, 0.001, 0.5
	context, pred := masks(tr, rng)
	if err := tr.Pack(m, context, pred); err != nil {
		t.Fatal(err)
	}
}

// masks draws any number of visible and hidden tokens.
func masks(tr *model.Training, rng *rand.Rand) (context, pred [][]int32) {
	if tr.Config.Objective != model.Masked {
		return nil, nil
	}
	n := tr.Config.Tokens()
	for range tr.Clips * tr.Groups {
		order := rng.Perm(n)
		visible := 1 + rng.IntN(n-2)
		hidden := 1 + rng.IntN(n-visible)
		context, pred = append(context, sorted(order[:visible])), append(pred, sorted(order[visible:visible+hidden]))
	}
	return context, pred
}

func sorted(x []int) (out []int32) {
	for _, v := range x {
		out = append(out, int32(v))
	}
	slices.Sort(out)
	return out
}

func updating(n *G.Node) bool {
	switch n.Op().(type) {
	case *graph.FirstMomentOp, *graph.SecondMomentOp, *graph.AdamWOp, *graph.EMAOp:
		return true
	}
	return false
}

// usedRows is how many rows of a matrix have a meaning; -1 for what is no matrix of packed rows.
func usedRows(m graph.Buffers, tr *model.Training, n *G.Node) int {
	used := -1
	rows := n.Shape()[0]
	for _, in := range tr.Program.Inputs {
		if !strings.HasSuffix(in.Name(), " offsets") || n.Dims() != 2 {
			continue
		}
		// Spaces of one capacity cannot be told apart by a matrix alone: the fewest rows are sure to count.
		off := m.Ints(in)
		if capacity := capacityOf(tr, in.Name()); capacity == rows && (used < 0 || int(off[len(off)-1]) < used) {
			used = int(off[len(off)-1])
		}
	}
	return used
}

func capacityOf(tr *model.Training, offsets string) int {
	switch offsets {
	case "context offsets", "pred offsets", "both offsets":
		return tr.Clips * tr.Groups * tr.Config.Tokens()
	}
	return 0
}

// near wants got within a share of the largest magnitude of want.
func near(t *testing.T, what string, got, want []float32, share float64) {
	t.Helper()
	if len(got) != len(want) || len(want) == 0 {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	var largest, worst float64
	for i := range want {
		largest = max(largest, math.Abs(float64(want[i])))
		if d := math.Abs(float64(got[i] - want[i])); d > worst || math.IsNaN(d) {
			worst = d
		}
	}
	if !(worst <= share*largest+1e-9) {
		t.Errorf("%s: off by %.3g, the largest value is %.3g", what, worst, largest)
	}
}

// Every operation of a training step, forward and backward, and every update, against its Do.
func TestEveryOperationAgainstItsReference(t *testing.T) {
	seen := map[string]bool{}
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			tr := training(t, k.config, 3, k.groups, options)
			roots := slices.Clone(tr.Program.Results)
			for _, u := range tr.Program.Updates {
				roots = append(roots, u.Next)
			}
			order, err := graph.Sort(roots...)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range order {
				if n.Op() == nil {
					continue
				}
				seen[fmt.Sprintf("%T", n.Op())] = true
				if !updating(n) && !slices.Contains(tr.Program.Results, n) {
					tr.Program.Results = append(tr.Program.Results, n)
				}
			}
			oracle, err := graph.NewTape(tr.Program)
			if err != nil {
				t.Fatal(err)
			}
			m, _ := machine(t, tr.Program, xla.Options{})
			for step := range uint64(2) {
				for _, m := range []graph.Machine{oracle, m} {
					if step == 0 {
						setWeights(m, tr, 10)
					}
					setInputs(t, m, tr, 10+step)
					if err := m.Run(); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range tr.Program.Results {
					got, want := m.Floats(n), oracle.Floats(n)
					if rows := usedRows(m, tr, n); rows >= 0 {
						got, want = got[:rows*n.Shape()[1]], want[:rows*n.Shape()[1]]
					}
					near(t, fmt.Sprintf("step %d: %v %v", step, n.Op(), n.Shape()), got, want, 2e-5)
				}
				for _, m := range []graph.Machine{oracle, m} {
					if err := m.Update(); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range tr.Program.State {
					if !strings.HasSuffix(n.Name(), "qkv.bias") { // the keys' third has gradient 0: AdamW makes steps of its rounding
						near(t, n.Name(), m.Floats(n), oracle.Floats(n), 5e-5)
					}
				}
			}
		})
	}
	if len(seen) < 25 {
		t.Errorf("only %d kinds of operations were compared: %v", len(seen), slices.Sorted(maps.Keys(seen)))
	}
}

// gradientsOf makes the gradients of all weights results.
func gradientsOf(tr *model.Training) (names []string) {
	names = slices.Sorted(maps.Keys(tr.Gradients))
	for _, name := range names {
		tr.Program.Results = append(tr.Program.Results, tr.Gradients[name])
	}
	return names
}

// off is the distance of two vectors as a share of the length of the second.
func off(got, want []float32) float64 {
	var size, distance float64
	for i := range want {
		size += float64(want[i]) * float64(want[i])
		distance += float64(got[i]-want[i]) * float64(got[i]-want[i])
	}
	return math.Sqrt(distance / max(size, 1e-12))
}

// In bfloat16 the loss and every gradient stay near those of float32, with attention fused or not.
func TestBF16StaysNearFP32(t *testing.T) {
	for name, k := range kinds {
		c := k.config
		c.Dim, c.PredDim = 48, 32 // heads of 16 features, which fused attention takes
		tr := training(t, c, 3, k.groups, options)
		names := gradientsOf(tr)
		exact, _ := machine(t, tr.Program, xla.Options{})
		for _, o := range []xla.Options{{Precision: xla.InBF16}, {Precision: xla.InBF16, Tuning: xla.Tuning{FusedAttention: true}}} {
			t.Run(fmt.Sprintf("%s, fused %t", name, o.FusedAttention), func(t *testing.T) {
				half, d := machine(t, tr.Program, o)
				calls := 0
				d.Watch = func(m xla.Module) {
					calls += strings.Count(m.Text, "__cudnn$fmhaSoftmax")
					if !strings.Contains(m.Text, "xbf16>") {
						t.Error("nothing is bfloat16")
					}
				}
				for _, m := range []*xla.Machine{exact, half} {
					setWeights(m, tr, 30)
					setInputs(t, m, tr, 30)
					if err := m.Run(); err != nil {
						t.Fatal(err)
					}
				}
				if o.FusedAttention != (calls > 0) {
					t.Errorf("%d calls of fused attention", calls)
				}
				wide, narrow := exact.Floats(tr.Loss)[0], half.Floats(tr.Loss)[0]
				if d := math.Abs(float64(narrow/wide) - 1); !(d < 0.01) {
					t.Errorf("the loss is %g in bf16, %g in fp32", narrow, wide)
				}
				for _, name := range names {
					if d := off(half.Floats(tr.Gradients[name]), exact.Floats(tr.Gradients[name])); !(d <= 0.06) {
						t.Errorf("gradient of %s: off by %.3g of its norm", name, d)
					}
				}
			})
		}
	}
}

// Steps that are started one by one, or several at a time, with masks that change, end in the weights that the oracle's
// steps end in.
func TestStepsAgainstTheReference(t *testing.T) {
	const steps = 5
	for name, k := range kinds {
		tr := training(t, k.config, 2, k.groups, options)
		oracle, err := graph.NewTape(tr.Program)
		if err != nil {
			t.Fatal(err)
		}
		setWeights(oracle, tr, 40)
		for i := range uint64(steps) {
			setInputs(t, oracle, tr, 40+i)
			if err := oracle.Run(); err != nil {
				t.Fatal(err)
			}
			if err := oracle.Update(); err != nil {
				t.Fatal(err)
			}
		}
		for _, together := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d together", name, together), func(t *testing.T) {
				m, d := machine(t, tr.Program, xla.Options{Tuning: xla.Tuning{Steps: together}})
				setWeights(m, tr, 40)
				for i := range uint64(steps) {
					setInputs(t, m, tr, 40+i)
					if err := m.Step(); err != nil {
						t.Fatal(err)
					}
				}
				if d.Downloads > steps {
					t.Errorf("%d downloads before anybody asked", d.Downloads)
				}
				if err := m.Wait(); err != nil {
					t.Fatal(err)
				}
				near(t, "loss", m.Floats(tr.Loss), oracle.Floats(tr.Loss), 1e-4)
				if err := m.Fetch(); err != nil {
					t.Fatal(err)
				}
				for _, n := range tr.Program.State {
					if !strings.HasSuffix(n.Name(), "qkv.bias") {
						near(t, n.Name(), m.Floats(n), oracle.Floats(n), 2e-4)
					}
				}
			})
		}
	}
}
