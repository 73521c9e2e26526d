package model

import (
	"strings"
	"testing"
)

// The two kinds of model differ in what their predictors end in, and in nothing else.
func TestPixelModelHasTheSameEncoderAndPredictor(t *testing.T) {
	for _, objective := range []string{Masked, NextTubelet} {
		c := Config{Objective: objective}.WithDefaults()
		pixels := c
		pixels.Target = Pixels
		if pixels.TargetDim() != 3*2*8*8 || c.TargetDim() != c.Dim {
			t.Errorf("targets of %d and %d values", pixels.TargetDim(), c.TargetDim())
		}
		want, got := c.Init(5), pixels.Init(5)
		for name, x := range want {
			y, ok := got[name]
			switch {
			case strings.HasPrefix(name, TargetPrefix):
				if ok {
					t.Errorf("%s: a pixel model has no target encoder", name)
				}
			case strings.HasPrefix(name, "predictor.predictor_proj.") || strings.HasPrefix(name, "predictor.predictor_skip."):
				if len(y)*c.Dim != len(x)*pixels.TargetDim() {
					t.Errorf("%s: %d values, %d in a model of representations", name, len(y), len(x))
				}
			default:
				if len(y) != len(x) || len(x) > 0 && x[len(x)-1] != y[len(y)-1] {
					t.Errorf("%s differs", name)
				}
			}
		}
		if len(got) > len(want) {
			t.Errorf("%d tensors, %d without pixels", len(got), len(want))
		}
	}
	bad := Config{Target: "sound"}.WithDefaults()
	if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), "model.target") {
		t.Errorf("target sound: %v", err)
	}
}
