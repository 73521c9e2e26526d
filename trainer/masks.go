package trainer

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/surmise-ml/surmise/masking"
	"github.com/surmise-ml/surmise/trainer/model"
)

// masks draws the masks of every step's batch.
type masks struct {
	cfg Config
	gen masking.Generator
}

func newMasks(cfg Config) (masks, error) {
	spec := cfg.Mask
	if cfg.Model.Objective == model.NextTubelet {
		if spec.Kind != "" && spec.Kind != masking.KindNextTubelet {
			return masks{}, fmt.Errorf("mask.kind is %q, which objective %s does not use", spec.Kind, cfg.Model.Objective)
		}
		spec = masking.Spec{Kind: masking.KindNextTubelet}
	}
	t, h, w := cfg.Model.Grid()
	gen, err := masking.New(spec, masking.Grid{T: t, H: h, W: w})
	if err != nil {
		return masks{}, fmt.Errorf("mask: %w", err)
	}
	return masks{cfg, gen}, nil
}

// groups is the number of segments that a clip has in the graph.
func (m masks) groups() int { return max(1, m.gen.Groups()) }

// batch returns the visible and hidden tokens of step's batch, [B·groups], clip-major;
// both empty for objectives without masks. Each clip's masks follow from the seed and
// its place in the run, whatever came before.
func (m masks) batch(ctx context.Context, step int) (visible, hidden [][]int32, err error) {
	if m.gen.Groups() == 0 {
		return nil, nil, nil
	}
	batch := make([][]masking.Mask, m.cfg.Batch)
	for i := range batch {
		if err := ctx.Err(); err != nil { // hundreds of blocks on a large grid take a while
			return nil, nil, err
		}
		clip := uint64(step-1)*uint64(m.cfg.Batch) + uint64(i)
		seed := rand.NewPCG(m.cfg.Seed, clip).Uint64()
		if batch[i], err = m.gen.Masks(seed); err != nil {
			return nil, nil, fmt.Errorf("masks of clip %d: %w", clip, err)
		}
	}
	if m.cfg.Truncate {
		batch = masking.Truncate(batch)
	}
	for _, clip := range batch {
		for _, mask := range clip {
			visible, hidden = append(visible, mask.Context), append(hidden, mask.Target)
		}
	}
	return visible, hidden, nil
}
