package cpu

import (
	"math"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
)

// A step of a model that predicts pixels, on the machine and on the tape machine; and its
// loss, worked out from predictions and clip without any graph.
func TestPixelTargetsAgainstTheTape(t *testing.T) {
	for _, k := range []struct {
		objective, target string
		groups            int
	}{{model.Masked, model.Pixels, 2}, {model.NextTubelet, model.Pixels, 1}, {model.NextTubelet, model.RawPixels, 1}} {
		t.Run(k.objective+" "+k.target, func(t *testing.T) {
			c := smallModel(k.objective)
			c.Target = k.target
			tr, err := model.NewTraining(c, 3, k.groups, model.TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
			if err != nil {
				t.Fatal(err)
			}
			withGradients(tr)
			tr.Program.Results = append(tr.Program.Results, tr.Pred, tr.Target)
			oracle, err := graph.NewTape(tr.Program)
			if err != nil {
				t.Fatal(err)
			}
			machine, err := Compile(tr.Program, Options{Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer machine.Close()
			for step := range uint64(2) {
				for _, m := range []graph.Machine{oracle, machine} {
					fill(t, m, tr, 30+step)
					if err := m.Run(); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range tr.Program.Results {
					checkClose(t, n, machine.Floats(n), oracle.Floats(n), rowsUsed(machine, n), 2e-5, 1e-9)
				}
				if got, want := float64(machine.Floats(tr.Loss)[0]), pixelLoss(tr, machine); math.Abs(got-want) > 1e-5 {
					t.Errorf("loss %g, worked out from the pixels %g", got, want)
				}
				for _, m := range []graph.Machine{oracle, machine} {
					if err := m.Update(); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range tr.Program.State {
					if !strings.HasSuffix(n.Name(), "qkv.bias") {
						checkClose(t, n, machine.Floats(n), oracle.Floats(n), -1, 2e-5, 1e-9)
					}
				}
			}
		})
	}
}

// pixelLoss is the mean over groups of the mean over predicted tokens and their values of
// |prediction - (pixel - mean) / sqrt(variance + 1e-5)|, each token by itself, or |prediction - pixel| of raw ones.
func pixelLoss(tr *model.Training, m graph.Buffers) float64 {
	c := tr.Config
	_, h, w := c.Grid()
	clip, pred := m.Floats(tr.Clip), m.Floats(tr.Pred)
	d := c.TargetDim()
	sums, tokens := make([]float64, tr.Groups), make([]float64, tr.Groups)
	for k := range tr.Clips * tr.Groups {
		first, last, predicted := tr.PredictedRows(m, k)
		for row := first; row < last; row++ {
			token := int(predicted[row-first])
			var x []float64 // in the order of a weight [3,tubelet,patch,patch]
			for ch := range 3 {
				for f := range c.Tubelet {
					for py := range c.Patch {
						for px := range c.Patch {
							frame, y, column := token/(h*w)*c.Tubelet+f, token/w%h*c.Patch+py, token%w*c.Patch+px
							x = append(x, float64(clip[(((k/tr.Groups*3+ch)*c.Frames+frame)*c.Size+y)*c.Size+column]))
						}
					}
				}
			}
			var mean, variance float64
			for _, v := range x {
				mean += v / float64(d)
			}
			for _, v := range x {
				variance += (v - mean) * (v - mean) / float64(d)
			}
			if c.Target == model.RawPixels {
				mean, variance = 0, 1-1e-5
			}
			for j, v := range x {
				sums[k%tr.Groups] += math.Abs(float64(pred[row*d+j]) - (v-mean)/math.Sqrt(variance+1e-5))
			}
			tokens[k%tr.Groups]++
		}
	}
	var loss float64
	for g := range sums {
		loss += sums[g] / (tokens[g] * float64(d) * float64(tr.Groups))
	}
	return loss
}

func TestPixelTargetsInBF16StayNearFP32(t *testing.T) {
	c := smallModel(model.NextTubelet)
	c.Target = model.Pixels
	var losses []float64
	for _, p := range []Precision{FP32, BF16} {
		tr, err := model.NewTraining(c, 3, 1, model.TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
		if err != nil {
			t.Fatal(err)
		}
		machine, err := Compile(tr.Program, Options{Threads: 1, Precision: p})
		if err != nil {
			t.Fatal(err)
		}
		defer machine.Close()
		fill(t, machine, tr, 7)
		if err := machine.Run(); err != nil {
			t.Fatal(err)
		}
		losses = append(losses, float64(machine.Floats(tr.Loss)[0]))
	}
	if math.Abs(losses[0]-losses[1]) > 0.01*losses[0] || losses[0] == losses[1] {
		t.Errorf("loss %g in fp32 and %g in bf16", losses[0], losses[1])
	}
}
