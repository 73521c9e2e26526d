package trainer

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/trainer/model"
)

// A V-JEPA 2 training step, rotary positions and one mask token for all groups: targets, predictions, both losses and the
// gradient of every tensor.
func TestGoldenVJEPA2(t *testing.T) {
	var manifest struct {
		Config struct {
			goldenConfig
			Ntok int
		}
		Scalars struct {
			LossExp1 float64 `json:"loss_exp1"`
			LossExp2 float64 `json:"loss_exp2"`
		}
		WithoutGrad []string `json:"params_without_grad"`
	}
	golden.JSON(t, "vjepa2_forward.json", &manifest)
	data := golden.Tensors(t, "vjepa2_forward.safetensors")
	grads := golden.Tensors(t, "vjepa2_grads.safetensors")
	c := manifest.Config.model()
	c.Positions, c.MaskToken, c.MaskTokens = model.RoPE, model.MaskTokenFirst, manifest.Config.Ntok
	context, groups := goldenMasks(data, "masks_enc")
	pred, _ := goldenMasks(data, "masks_pred")
	for name, compile := range machines {
		for exponent, wantLoss := range map[float64]float64{1: manifest.Scalars.LossExp1, 2: manifest.Scalars.LossExp2} {
			t.Run(fmt.Sprintf("%s, exponent %g", name, exponent), func(t *testing.T) {
				tr, err := model.NewTraining(c, manifest.Config.Batch, groups, model.TrainingOptions{Exponent: exponent, Beta1: beta1, Beta2: beta2, Eps: adamEps})
				if err != nil {
					t.Fatal(err)
				}
				tr.Program.Results = append(tr.Program.Results, tr.Target, tr.Pred)
				for _, n := range tr.Gradients {
					tr.Program.Results = append(tr.Program.Results, n)
				}
				m, err := compile(tr.Program)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				setWeights(t, m, tr.Graph, data, func(n string) string { return n })
				copy(m.Floats(tr.Clip), data["clip"].F32)
				if err := tr.Pack(m, context, pred); err != nil {
					t.Fatal(err)
				}
				if err := m.Run(); err != nil {
					t.Fatal(err)
				}
				if d := furthest(m.Floats(tr.Target), data["target.ln"].F32); d > 1e-5 {
					t.Errorf("targets differ by %g", d)
				}
				for k := range pred {
					first, last, _ := tr.PredictedRows(m, k)
					dim, kp := c.Dim, len(pred[k])
					want := data[fmt.Sprintf("pred.%d", k%groups)].F32[k/groups*kp*dim:][:kp*dim]
					if d := furthest(m.Floats(tr.Pred)[first*dim:last*dim], want); d > 1e-5 {
						t.Errorf("clip %d, mask group %d: predictions differ by %g", k/groups, k%groups, d)
					}
				}
				if got := float64(m.Floats(tr.LossJEPA)[0]); math.Abs(got-wantLoss) > 1e-5 {
					t.Errorf("loss %v, want %v", got, wantLoss)
				}
				if exponent != 1 {
					return
				}
				compared := 0
				for name, n := range tr.Gradients {
					ref, ok := grads["grad."+name]
					if !ok {
						t.Errorf("%s has a gradient, the published code has none", name)
						continue
					}
					compared++
					// Both sides are float32; the second term is how far the reference is from its own float64 run (README).
					if d, allowed := furthest(m.Floats(n), ref.F32), 2e-6*largest(ref.F32)+5e-8; !(d <= allowed) {
						t.Errorf("%s: gradient differs by %.2g where the largest element is %.2g", name, d, largest(ref.F32))
					}
				}
				if compared != len(grads) {
					t.Errorf("%d gradients compared, want %d", compared, len(grads))
				}
				for _, name := range manifest.WithoutGrad {
					if slices.ContainsFunc(c.Params(), func(p model.Param) bool { return p.Name == name && p.Trained }) {
						t.Errorf("%s is trained, the published code leaves it alone", name)
					}
				}
			})
		}
	}
}
