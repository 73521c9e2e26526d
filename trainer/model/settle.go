package model

import (
	"cmp"
	"fmt"
)

// OnEncoder returns c for a predictor on the encoder of another model, frozen. That model's encoder settles what its
// shape is: a field of c that is zero takes its value, one that says otherwise is an error that names it.
func (c Config) OnEncoder(of Config) (Config, error) {
	if of.TargetNetwork() == "" {
		return c, fmt.Errorf("it predicts %s and has no target encoder", of.Target)
	}
	const whose, instead = "frozen encoder's", "use another encoder"
	err := settle(whose, instead, []setting[int]{
		{"size", &c.Size, of.Size, 0}, {"frames", &c.Frames, of.Frames, 0}, {"patch", &c.Patch, of.Patch, 0}, {"tubelet", &c.Tubelet, of.Tubelet, 0},
		{"dim", &c.Dim, of.Dim, 0}, {"depth", &c.Depth, of.Depth, 0}, {"heads", &c.Heads, of.Heads, 0},
		{"height", &c.Height, of.Height, 0}, {"width", &c.Width, of.Width, 0},
	})
	if err == nil {
		err = settle(whose, instead, []setting[string]{{"positions", &c.Positions, of.Positions, SinCosUniform}, {"mlp", &c.MLP, of.MLP, GELU}})
	}
	if err == nil {
		err = settle(whose, instead, []setting[float64]{{"mlp_ratio", &c.MLPRatio, of.MLPRatio, 4}, {"norm_eps", &c.NormEps, of.NormEps, normEps}})
	}
	if err != nil {
		return c, err
	}
	if c.PredMLPRatio == 0 && cmp.Or(c.MLPRatio, 4) != 4 {
		c.PredMLPRatio = 4 // the encoder's is its own
	}
	c.FrozenEncoder = true
	return c, nil
}

// StartingFrom returns c for a model that begins with the weights of another one, of square frames. That model settles
// what its shape is: a field of c that is zero takes its value, one that says otherwise is an error that names it. With
// rotary positions no weight depends on size and frames, and c may have its own; a table of positions has a row for every
// token. The encoder of the result learns, also if that of the other was frozen.
func (c Config) StartingFrom(of Config) (Config, error) {
	const whose, instead = "weights'", "begin with another model"
	side, _ := of.Frame()
	for _, f := range []struct {
		name         string
		value, table int
	}{{"size", c.Size, side}, {"frames", c.Frames, of.Frames}} {
		if !of.Rotary() && f.value != 0 && f.value != f.table {
			return c, fmt.Errorf("model.%s is %d, the weights' is %d, with a table of positions for that many tokens: leave it out, or resize the model with surmise import --%[1]s %[2]d", f.name, f.value, f.table)
		}
	}
	size, frames := setting[int]{"size", &c.Size, side, 0}, setting[int]{"frames", &c.Frames, of.Frames, 0}
	if of.Rotary() {
		size.value, frames.value = cmp.Or(c.Size, size.value), cmp.Or(c.Frames, frames.value)
	}
	err := settle(whose, instead, []setting[int]{
		size, frames, {"patch", &c.Patch, of.Patch, 0}, {"tubelet", &c.Tubelet, of.Tubelet, 0},
		{"dim", &c.Dim, of.Dim, 0}, {"depth", &c.Depth, of.Depth, 0}, {"heads", &c.Heads, of.Heads, 0},
		{"pred_dim", &c.PredDim, of.PredDim, 0}, {"pred_depth", &c.PredDepth, of.PredDepth, 0}, {"pred_heads", &c.PredHeads, of.PredHeads, 0},
		{"mask_tokens", &c.MaskTokens, of.MaskTokens, 0}, {"height", &c.Height, 0, side}, {"width", &c.Width, 0, side},
	})
	if err == nil {
		err = settle(whose, instead, []setting[string]{
			{"objective", &c.Objective, of.Objective, NextTubelet}, {"positions", &c.Positions, of.Positions, SinCosUniform},
			{"target", &c.Target, of.Target, "representation"}, {"mask_token", &c.MaskToken, of.MaskToken, MaskTokenPerGroup},
			{"mlp", &c.MLP, of.MLP, GELU}, {"pred_mlp", &c.PredMLP, of.PredMLP, GELU},
		})
	}
	if err == nil {
		err = settle(whose, instead, []setting[float64]{
			{"mlp_ratio", &c.MLPRatio, of.MLPRatio, 4}, {"pred_mlp_ratio", &c.PredMLPRatio, of.PredMLPRatio, cmp.Or(of.MLPRatio, 4)},
			{"norm_eps", &c.NormEps, of.NormEps, normEps},
		})
	}
	c.FrozenEncoder = false
	return c, err
}

// setting is a field of a config and the value that another model has there; standard is what that means if it is zero.
type setting[T comparable] struct {
	name            string
	field           *T
	value, standard T
}

// settle gives every field the other model's value. One that says otherwise is an error that names it, whose value it is not,
// and what to do instead of leaving it out.
func settle[T comparable](whose, instead string, settings []setting[T]) error {
	var zero T
	for _, s := range settings {
		if value := cmp.Or(s.value, s.standard); *s.field != zero && *s.field != value {
			return fmt.Errorf("model.%s is %v, the %s is %v: leave it out, or %s", s.name, *s.field, whose, value, instead)
		}
		*s.field = s.value
	}
	return nil
}
