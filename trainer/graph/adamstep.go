package graph

import (
	"fmt"

	G "gorgonia.org/gorgonia"
)

// AdamStep is the updates of one weight that belong together: an AdamW step with its two moments and, if Target is not
// nil, the moving average of the new weight. A machine may make them in one pass.
type AdamStep struct {
	Weights, First, Second, Target *G.Node // states, of one shape
	Gradient                       *G.Node
	Factor                         *G.Node // that the gradient is multiplied by, a scalar
	Schedule, TargetSchedule       *G.Node // what AdamW and the moving average read; the latter nil without Target
	Beta1, Beta2, Eps              float64
	Decays                         bool // whether weight decay applies
}

// AdamSteps recognises the updates of a program as AdamW steps, in their order. Updates that are none, or a step whose
// moments or average are not those of its weight and gradient, are an error.
func AdamSteps(updates []Update) ([]AdamStep, error) {
	next := map[*G.Node]*G.Node{}    // state -> its new value
	state := map[*G.Node]*G.Node{}   // new value -> state
	average := map[*G.Node]*G.Node{} // new weights -> state that is their moving average
	for _, u := range updates {
		next[u.State], state[u.Next] = u.Next, u.State
		if _, ok := u.Next.Op().(*EMAOp); ok {
			average[Children(u.Next)[1]] = u.State
		}
	}
	var steps []AdamStep
	handled := 0
	for _, u := range updates {
		op, ok := u.Next.Op().(*AdamWOp)
		if !ok {
			continue
		}
		in := Children(u.Next) // w, m, v, schedule
		first, okFirst := in[1].Op().(*FirstMomentOp)
		second, okSecond := in[2].Op().(*SecondMomentOp)
		if in[0] != u.State || !okFirst || !okSecond || state[in[1]] == nil || state[in[2]] == nil {
			return nil, fmt.Errorf("update of %s is not an AdamW step of its own moments", u.State.Name())
		}
		moment, square := Children(in[1]), Children(in[2]) // moment, gradient, factor
		if moment[0] != state[in[1]] || square[0] != state[in[2]] {
			return nil, fmt.Errorf("update of %s is not an AdamW step of its own moments", u.State.Name())
		}
		if moment[1] != square[1] || moment[2] != square[2] {
			return nil, fmt.Errorf("update of %s: its moments are of different gradients", u.State.Name())
		}
		s := AdamStep{
			Weights: u.State, First: moment[0], Second: square[0], Target: average[u.Next], Gradient: moment[1], Factor: moment[2], Schedule: in[3],
			Beta1: first.Beta, Beta2: second.Beta, Eps: op.Eps, Decays: op.Decays,
		}
		handled += 3
		if s.Target != nil {
			ema := Children(next[s.Target]) // average, new weights, schedule
			if ema[0] != s.Target {
				return nil, fmt.Errorf("update of %s is not a moving average of its own", s.Target.Name())
			}
			s.TargetSchedule = ema[2]
			handled++
		}
		steps = append(steps, s)
	}
	if handled != len(updates) {
		return nil, fmt.Errorf("%d of %d updates are not part of an AdamW step with moving average", len(updates)-handled, len(updates))
	}
	return steps, nil
}
