package cpu

import (
	"cmp"
	"math/rand/v2"
	"strings"
	"testing"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
)

// On features of a frozen encoder the predictor has the gradients that it has in the whole graph, when the target encoder
// there is the same network: on the oracle, and on the machine. The encoder has none, no
// moments and no average, and the machine takes less memory.
func TestFrozenEncoderGivesThePredictorTheSameGradients(t *testing.T) {
	for objective, groups := range groupsOf {
		for _, positions := range []string{"", model.RoPEInterleaved} {
			t.Run(objective+" "+positions, func(t *testing.T) {
				const clips = 3
				o := model.TrainingOptions{Exponent: 1.5, VarianceCoeff: 0.3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}
				c := smallModel(objective)
				c.Positions = cmp.Or(positions, c.Positions)
				whole, err := model.NewTraining(c, clips, groups, o)
				if err != nil {
					t.Fatal(err)
				}
				c.FrozenEncoder = true
				frozen, err := model.NewTraining(c, clips, groups, o)
				if err != nil {
					t.Fatal(err)
				}
				weights := noisy(c, 3)
				for _, p := range whole.Config.Params() {
					if name, ok := strings.CutPrefix(p.Name, model.TargetPrefix); ok {
						weights[p.Name] = weights[model.EncoderPrefix+name]
					}
				}
				rng := rand.New(rand.NewPCG(4, 4))
				pixels := make([]float32, clips*c.ClipValues())
				for i := range pixels {
					pixels[i] = float32(rng.NormFloat64())
				}
				features := encode(t, c, clips, weights, pixels)

				oracle, err := graph.NewTape(whole.Program)
				if err != nil {
					t.Fatal(err)
				}
				takeStep(t, oracle, whole, weights, pixels, nil)
				tape, err := graph.NewTape(frozen.Program)
				if err != nil {
					t.Fatal(err)
				}
				machine, err := Compile(frozen.Program, Options{Threads: 2})
				if err != nil {
					t.Fatal(err)
				}
				defer machine.Close()
				for _, m := range []graph.Machine{tape, machine} {
					takeStep(t, m, frozen, weights, pixels, features)
					checkSame(t, "loss", m.Floats(frozen.Loss), oracle.Floats(whole.Loss))
					for _, p := range c.Params() {
						switch {
						case strings.HasPrefix(p.Name, model.EncoderPrefix):
							if frozen.Gradients[p.Name] != nil || len(frozen.Moments[p.Name]) > 0 && frozen.Moments[p.Name][0] != nil {
								t.Errorf("%s has a gradient or moments", p.Name)
							}
							if frozen.Params[p.Name] != nil && objective == model.NextTubelet {
								t.Errorf("%s is in a graph that has the features", p.Name)
							}
						case frozen.Gradients[p.Name] != nil:
							// AdamW's first moment after one step is the gradient, clipped, times 1 - beta1.
							checkSame(t, p.Name, m.Floats(frozen.Moments[p.Name][0]), oracle.Floats(whole.Moments[p.Name][0]))
						}
					}
				}
				all, err := Compile(whole.Program, Options{Threads: 2})
				if err != nil {
					t.Fatal(err)
				}
				defer all.Close()
				if machine.Bytes() >= all.Bytes() {
					t.Errorf("on a frozen encoder the machine takes %d bytes, training it as well %d", machine.Bytes(), all.Bytes())
				}
			})
		}
	}
}

// noisy are fresh weights moved far enough that no gradient is zero.
func noisy(c model.Config, seed uint64) map[string][]float32 {
	rng := rand.New(rand.NewPCG(seed, 0))
	weights := c.Init(seed)
	for _, p := range c.Params() {
		for i := range weights[p.Name] {
			weights[p.Name][i] += float32(0.1 * rng.NormFloat64())
		}
	}
	return weights
}

// encode is what the encoder gives of whole clips, on the oracle.
func encode(t *testing.T, c model.Config, clips int, weights map[string][]float32, pixels []float32) []float32 {
	t.Helper()
	e, err := model.NewEmbedding(c, clips, model.TargetPrefix) // a frozen encoder's two names are one
	if err != nil {
		t.Fatal(err)
	}
	m, err := graph.NewTape(e.Program)
	if err != nil {
		t.Fatal(err)
	}
	set(m, e.Graph, weights)
	copy(m.Floats(e.Clip), pixels)
	e.Pack(m)
	if err := m.Run(); err != nil {
		t.Fatal(err)
	}
	return m.Floats(e.Tokens)
}

func set(m graph.Buffers, g *model.Graph, weights map[string][]float32) {
	for name, n := range g.Params {
		copy(m.Floats(n), weights[name])
	}
}

// takeStep takes one step with the same masks whatever the graph.
func takeStep(t *testing.T, m graph.Machine, tr *model.Training, weights map[string][]float32, pixels, features []float32) {
	t.Helper()
	set(m, tr.Graph, weights)
	for _, input := range []struct {
		n      *G.Node
		values []float32
	}{{tr.Clip, pixels}, {tr.Features, features}} {
		if input.n != nil {
			copy(m.Floats(input.n), input.values)
		}
	}
	s := m.Floats(tr.Schedule)
	s[graph.LearningRate], s[graph.EMAMomentum], s[graph.BiasCorrect1], s[graph.BiasCorrect2] = 1e-2, 1, 0.1, 0.001
	layOut(t, m, tr, rand.New(rand.NewPCG(9, 9)))
	if err := m.Run(); err != nil {
		t.Fatal(err)
	}
	if err := m.Update(); err != nil {
		t.Fatal(err)
	}
}

// checkSame holds values against those of the oracle, to a hundred-thousandth of the largest.
func checkSame(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	var largest, off float32
	for i := range want {
		largest, off = max(largest, want[i], -want[i]), max(off, got[i]-want[i], want[i]-got[i])
	}
	if largest == 0 || off > 3e-5*largest {
		t.Errorf("%s: off by %g, the largest is %g", what, off, largest)
	}
}
