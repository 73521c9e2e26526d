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
// both empty for objectives without masks. They follow from the seed and the step, whatever
// came before: every clip's by itself or, where they are cut as published, those of a
// batch together, whose blocks then have one size.
func (m masks) batch(ctx context.Context, step int) (visible, hidden [][]int32, err error) {
	if m.gen.Groups() == 0 {
		return nil, nil, nil
	}
	var batch [][]masking.Mask
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if m.cfg.Truncate {
		if batch, err = masking.Batch(m.gen, rand.NewPCG(m.cfg.Seed, uint64(step)).Uint64(), m.cfg.Batch); err != nil {
			return nil, nil, fmt.Errorf("masks of step %d: %w", step, err)
		}
		batch = masking.Truncate(batch)
	}
	for i := len(batch); i < m.cfg.Batch; i++ {
		if err := ctx.Err(); err != nil { // hundreds of blocks on a large grid take a while
			return nil, nil, err
		}
		clip := uint64(step-1)*uint64(m.cfg.Batch) + uint64(i)
		seed := rand.NewPCG(m.cfg.Seed, clip).Uint64()
		drawn, err := m.gen.Masks(seed)
		if err != nil {
			return nil, nil, fmt.Errorf("masks of clip %d: %w", clip, err)
		}
		batch = append(batch, drawn)
	}
	for _, clip := range batch {
		for _, mask := range clip {
			visible, hidden = append(visible, mask.Context), append(hidden, mask.Target)
		}
	}
	return visible, hidden, nil
}
