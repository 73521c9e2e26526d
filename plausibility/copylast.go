package plausibility

import (
	"math"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// CopyLast builds the control that any predictor must beat: the target of a token is
// predicted to be that of the token in its place in the last tubelet seen. Targets are
// the model's, so it works in the model's own space. See Network.
func (m *Model) CopyLast(spec Spec, batch int, o cpu.Options) (*Network, error) {
	return m.network(spec, batch, o, true)
}

// copyErrors are the errors of window b's tokens when their targets are copied from the
// last tubelet seen.
func (n *Network) copyErrors(b, group int, tokens []int32) []float32 {
	c := n.scoring.Config
	d := c.TargetDim()
	_, h, w := c.Grid()
	area := h * w // tokens of a tubelet
	targets := n.machine.Floats(n.scoring.Target)[b*c.Tokens()*d:]
	out := make([]float32, len(tokens))
	for i, token := range tokens {
		from := int(token) - area
		if c.Objective == model.Masked {
			from = (n.spec.Contexts[group]/c.Tubelet-1)*area + int(token)%area
		}
		var sum float64
		for j := range d {
			sum += math.Abs(float64(targets[from*d+j]) - float64(targets[int(token)*d+j]))
		}
		out[i] = float32(sum / float64(d))
	}
	return out
}
