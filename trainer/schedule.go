package trainer

import (
	"math"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// schedule fills in what the optimiser reads at a step, counted from 1:
//   - learning rate: linear from StartLR to LearningRate over WarmupSteps, then a cosine to FinalLR;
//   - weight decay: a cosine from WeightDecay to FinalWeightDecay;
//   - EMA momentum: linear from EMAStart to EMAEnd.
//
// The counter is advanced before a step, so that step 1 already warms up by one;
// the momentum alone starts from its first value. Source: facebookresearch/jepa,
// src/utils/schedulers.py and app/vjepa/train.py.
func (c Config) schedule(step int, s []float32 /* [graph.ScheduleLen] */) {
	n := float64(step)
	length := c.ScheduleScale * float64(c.Steps)
	whole := math.Trunc(length)
	warmup := float64(c.WarmupSteps)

	lr := c.StartLR + (c.LearningRate-c.StartLR)*n/max(1, warmup)
	if n >= warmup {
		lr = max(c.FinalLR, cosine(c.LearningRate, c.FinalLR, (n-warmup)/max(1, whole-warmup)))
	}
	s[graph.LearningRate] = float32(lr)
	s[graph.WeightDecay] = float32(cosine(c.WeightDecay, c.FinalWeightDecay, n/max(1, whole)))
	s[graph.EMAMomentum] = float32(c.EMAStart + (n-1)*(c.EMAEnd-c.EMAStart)/length)
	s[graph.BiasCorrect1] = float32(1 - math.Pow(beta1, n))
	s[graph.BiasCorrect2] = float32(1 - math.Pow(beta2, n))
	s[graph.ClipNorm] = 0
	if step > c.ClipAfter {
		s[graph.ClipNorm] = float32(c.ClipNorm)
	}
}

// cosine goes from one value to another as progress goes from 0 to 1.
func cosine(from, to, progress float64) float64 {
	return to + (from-to)*0.5*(1+math.Cos(math.Pi*progress))
}
