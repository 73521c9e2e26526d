package masking

import "fmt"

// causal shows the first tubelets and hides the rest; nothing in it is random.
type causal struct {
	grid    Grid
	context []int // tubelets seen, one per group
}

func newCausal(context []int, g Grid) (Generator, error) {
	if g.T < 2 {
		return nil, invalid("grid.t", g.T, "causal needs at least 2 tubelets, one to see and one to predict")
	}
	if len(context) == 0 {
		context = DefaultContexts(g.T)
	}
	if len(context) > maxGroups {
		return nil, invalid("context_tubelets", len(context), "must hold at most %d mask groups", maxGroups)
	}
	for i, c := range context {
		field := fmt.Sprintf("context_tubelets[%d]", i)
		if c < 1 {
			return nil, invalid(field, c, "must be at least 1, or there is no context")
		}
		if c >= g.T {
			return nil, invalid(field, c, "must be below the clip's %d tubelets, or there is no target", g.T)
		}
	}
	return causal{grid: g, context: append([]int(nil), context...)}, nil
}

func (m causal) Groups() int { return len(m.context) }

func (m causal) Masks(uint64) ([]Mask, error) {
	masks := make([]Mask, len(m.context))
	for i, c := range m.context {
		all := make([]int32, m.grid.Tokens())
		for token := range all {
			all[token] = int32(token)
		}
		seen := c * m.grid.H * m.grid.W
		masks[i] = Mask{Context: all[:seen:seen], Target: all[seen:]}
	}
	return masks, nil
}

// nextTubelet needs no masks: block-causal attention hides the future.
type nextTubelet struct{}

func (nextTubelet) Groups() int                  { return 0 }
func (nextTubelet) Masks(uint64) ([]Mask, error) { return nil, nil }
