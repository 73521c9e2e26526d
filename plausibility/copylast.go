package plausibility

import (
	"math"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// CopyLast builds the control that any predictor must beat: the target of a token is
// predicted to be that of the token in its place in the last tubelet seen. Targets are
// the model's, so it works in the model's own space; nothing else of the model is
// computed. See Network.
func (m *Model) CopyLast(spec Spec, batch int, o cpu.Options) (*Network, error) {
	return m.network(spec, batch, o, true)
}

// copyErrors are the errors of window b when targets are copied from the last tubelet seen.
func (n *Network) copyErrors(b int, contexts []int, encoded []*tubelet) (WindowErrors, error) {
	c := n.config
	d := c.TargetDim()
	_, h, w := c.Grid()
	area := h * w // tokens of a tubelet
	target := func(token int) []float32 { return encoded[token/area].goal[token%area*d:][:d] }
	if n.machine != nil {
		targets := n.machine.Floats(n.scoring.Target)[b*c.Tokens()*d:]
		target = func(token int) []float32 { return targets[token*d:][:d] }
	}
	copies := func(context int, tokens []int32, from func(token int) int) ContextErrors {
		out := ContextErrors{Context: context, Tokens: tokens, Errors: make([]float32, len(tokens))}
		for i, token := range tokens {
			goal := target(int(token))
			var sum float64
			for j, x := range target(from(int(token))) {
				sum += math.Abs(float64(x) - float64(goal[j]))
			}
			out.Errors[i] = float32(sum / float64(d))
		}
		return out
	}
	if c.Objective == model.NextTubelet {
		var tokens []int32
		for token := area; token < c.Tokens(); token++ {
			tokens = append(tokens, int32(token))
		}
		return WindowErrors{copies(0, tokens, func(token int) int { return token - area })}, nil
	}
	var out WindowErrors
	for _, context := range contexts {
		_, tokens, err := c.Future(context)
		if err != nil {
			return nil, err
		}
		out = append(out, copies(context, tokens, func(token int) int { return (context/c.Tubelet-1)*area + token%area }))
	}
	return out, nil
}
