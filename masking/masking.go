// Package masking splits the tokens of one clip into the context, which the
// encoder sees, and the target, whose representation the predictor has to
// guess. Masks are pure functions of a [Spec], a [Grid] and a seed.
//
// Letters used here: T tubelets in time, H rows and W columns of patches. One
// clip has T·H·W tokens and token (t, h, w) has index (t·H + h)·W + w.
//
// A setting yields one or more mask groups. The model is trained on each group
// of a clip by itself; the encoder and predictor run once per group.
package masking

import (
	"fmt"
	"math/rand/v2"
)

// The kinds of mask a [Spec] can name.
const (
	KindMultiBlock  = "multiblock3d" // union of random space-time blocks is the target (V-JEPA, arXiv:2404.08471, section 3.2)
	KindTube        = "tube"         // random patches, hidden over the whole clip
	KindCausal      = "causal"       // the first tubelets are seen, the rest predicted
	KindNextTubelet = "next_tubelet" // every next tubelet is predicted from all before it; attention does the hiding, no masks
)

// MaxTokens bounds the tokens of one clip, so that a hostile setting cannot
// ask for unbounded memory.
const MaxTokens = 1 << 20

// Grid is the token grid of a clip: T tubelets of H×W patches.
type Grid struct{ T, H, W int }

// Tokens is the number of tokens of one clip, T·H·W.
func (g Grid) Tokens() int { return g.T * g.H * g.W }

func (g Grid) validate() error {
	// Each side is checked before the product, which then cannot overflow.
	for _, side := range []struct {
		name string
		n    int
	}{{"grid.t", g.T}, {"grid.h", g.H}, {"grid.w", g.W}} {
		if side.n < 1 || side.n > MaxTokens {
			return invalid(side.name, side.n, "must be between 1 and %d", MaxTokens)
		}
	}
	if g.T > MaxTokens/g.H/g.W {
		return invalid("grid", g, "must hold at most %d tokens", MaxTokens)
	}
	return nil
}

// Mask holds the token indices of one mask group of one clip. Both lists are
// ascending, not empty, disjoint, and together hold every token of the clip,
// unless [Truncate] has cut them.
type Mask struct{ Context, Target []int32 }

// Generator makes the masks of clips. It is safe for concurrent use.
type Generator interface {
	// Groups is the number of masks per clip; 0 for next_tubelet.
	Groups() int
	// Masks returns one mask per group for one clip. The same seed gives the
	// same masks, and the caller owns them.
	Masks(seed uint64) ([]Mask, error)
}

// New checks the setting against the grid and returns its generator. A setting
// that can leave no context or no target is refused. Errors are of type
// [*FieldError].
func New(spec Spec, g Grid) (Generator, error) {
	if err := g.validate(); err != nil {
		return nil, err
	}
	if err := spec.onlyItsOwnFields(); err != nil {
		return nil, err
	}
	switch spec.Kind {
	case KindMultiBlock:
		return newMultiBlock(spec.Blocks, g)
	case KindTube:
		return newTube(spec.Ratio, g)
	case KindCausal:
		return newCausal(spec.ContextTubelets, g)
	case KindNextTubelet:
		if g.T < 2 {
			return nil, invalid("grid.t", g.T, "next_tubelet needs at least 2 tubelets, one to see and one to predict")
		}
		return nextTubelet{}, nil
	}
	return nil, invalid("kind", spec.Kind, "must be one of %s, %s, %s, %s", KindMultiBlock, KindTube, KindCausal, KindNextTubelet)
}

// Batch returns the masks [clips][groups] of one batch as the published
// collator draws them: for multiblock3d all clips of the batch share one block
// size per group and differ in where the blocks lie; [Generator.Masks] draws
// the size anew for every clip. For the other kinds the two are the same.
func Batch(g Generator, seed uint64, clips int) ([][]Mask, error) {
	if clips < 0 {
		return nil, invalid("clips", clips, "must not be negative")
	}
	masks := make([][]Mask, clips)
	if m, ok := g.(*multiBlock); ok {
		sizes := m.sizes(newRand(seed, 0))
		for i := range masks {
			var err error
			if masks[i], err = m.place(newRand(seed, uint64(i)+1), sizes); err != nil {
				return nil, fmt.Errorf("masks of clip %d of the batch: %w", i, err)
			}
		}
		return masks, nil
	}
	for i := range masks {
		m, err := g.Masks(newRand(seed, uint64(i)+1).Uint64())
		if err != nil {
			return nil, fmt.Errorf("masks of clip %d of the batch: %w", i, err)
		}
		masks[i] = m
	}
	return masks, nil
}

// Truncate cuts the masks [clips][groups] of a batch, group by group, to the
// shortest context and the shortest target of the batch, as the published
// collator does to get rectangular tensors. The first tokens are kept, so late
// tubelets are dropped more often. The result shares memory with batch, which
// is not changed.
func Truncate(batch [][]Mask) [][]Mask {
	cut := make([][]Mask, len(batch))
	for i := range batch {
		cut[i] = append([]Mask(nil), batch[i]...)
	}
	if len(cut) == 0 {
		return cut
	}
	for group := range cut[0] {
		context, target := len(cut[0][group].Context), len(cut[0][group].Target)
		for _, clip := range cut {
			context = min(context, len(clip[group].Context))
			target = min(target, len(clip[group].Target))
		}
		for _, clip := range cut {
			m := &clip[group]
			m.Context, m.Target = m.Context[:context:context], m.Target[:target:target]
		}
	}
	return cut
}

// newRand returns the random stream of one (seed, stream). Both go through the
// splitmix64 finaliser, because callers count seeds up by one.
func newRand(seed, stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(mix(seed), mix(stream^0x9e3779b97f4a7c15)))
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// split turns "is this token hidden" [T·H·W] into a mask.
func split(hidden []bool, hiddenCount int) Mask {
	m := Mask{
		Context: make([]int32, 0, len(hidden)-hiddenCount),
		Target:  make([]int32, 0, hiddenCount),
	}
	for i, h := range hidden {
		if h {
			m.Target = append(m.Target, int32(i))
		} else {
			m.Context = append(m.Context, int32(i))
		}
	}
	return m
}
