package masking

import "fmt"

// Spec is a mask setting: plain data, as a job file carries it. A field that
// its kind does not use must be left zero.
type Spec struct {
	// Kind is one of multiblock3d, tube, causal, next_tubelet.
	Kind string `json:"kind"`
	// Blocks is for multiblock3d: one mask group per element, 1 to 16. Empty
	// means [DefaultBlocks].
	Blocks []BlockSpec `json:"blocks,omitempty"`
	// Ratio is for tube: the share of patch positions that is hidden, in (0,1).
	// 0 means 0.9. As published, ⌊H·W·(1−ratio)⌋ positions are kept.
	Ratio float64 `json:"ratio,omitempty"`
	// ContextTubelets is for causal: one mask group per element C, 1 ≤ C < T:
	// the first C tubelets are seen, the rest is predicted. Empty means
	// [DefaultContexts].
	ContextTubelets []int `json:"context_tubelets,omitempty"`
}

// BlockSpec is one multiblock3d mask group. Names and meaning are those of
// V-JEPA's configuration files.
type BlockSpec struct {
	// NumBlocks is how many blocks are placed, 1 to 256; their union is the target.
	NumBlocks int `json:"num_blocks"`
	// SpatialScale is the range of a block's share of the H·W patches, in (0,1].
	SpatialScale [2]float64 `json:"spatial_scale"`
	// TemporalScale is the range of a block's share of the T tubelets, in (0,1].
	// [0 0] means [1 1], the whole clip.
	TemporalScale [2]float64 `json:"temporal_scale"`
	// AspectRatio is the range of a block's height over its width, both in
	// patches, in [0.01,100]. [0 0] means [0.75 1.5].
	AspectRatio [2]float64 `json:"aspect_ratio"`
}

// DefaultBlocks returns V-JEPA's two mask groups (arXiv:2404.08471, section
// 3.2): eight short-range blocks and two long-range ones.
func DefaultBlocks() []BlockSpec {
	block := func(n int, scale float64) BlockSpec {
		return BlockSpec{
			NumBlocks:     n,
			SpatialScale:  [2]float64{scale, scale},
			TemporalScale: [2]float64{1, 1},
			AspectRatio:   [2]float64{0.75, 1.5},
		}
	}
	return []BlockSpec{block(8, 0.15), block(2, 0.7)}
}

// DefaultContexts returns the groups of a causal setting that names none, for
// clips of t tubelets: a quarter, half and three quarters of the clip are seen,
// rounded down, at least 1. Short clips have fewer groups, as none is repeated.
func DefaultContexts(t int) []int {
	var contexts []int
	for quarter := 1; quarter <= 3; quarter++ {
		c := max(1, quarter*t/4)
		if c < t && (len(contexts) == 0 || c > contexts[len(contexts)-1]) {
			contexts = append(contexts, c)
		}
	}
	return contexts
}

const (
	maxGroups      = 16  // mask groups of one clip
	maxNumBlocks   = 256 // blocks of one group
	defaultRatio   = 0.9
	minAspectRatio = 0.01
	maxAspectRatio = 100
)

// FieldError says which field of a setting was refused, its value and why.
type FieldError struct {
	Field  string // path within the Spec or Grid, e.g. "blocks[0].spatial_scale"
	Value  any
	Reason string
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("masking: %s is %v: %s", e.Field, e.Value, e.Reason)
}

func invalid(field string, value any, reason string, args ...any) error {
	return &FieldError{Field: field, Value: value, Reason: fmt.Sprintf(reason, args...)}
}

// onlyItsOwnFields refuses a field that the kind would ignore: someone who
// sets it expects it to matter.
func (s Spec) onlyItsOwnFields() error {
	if len(s.Blocks) > 0 && s.Kind != KindMultiBlock {
		return invalid("blocks", s.Blocks, "applies to kind %s only, not to %q", KindMultiBlock, s.Kind)
	}
	if s.Ratio != 0 && s.Kind != KindTube {
		return invalid("ratio", s.Ratio, "applies to kind %s only, not to %q", KindTube, s.Kind)
	}
	if len(s.ContextTubelets) > 0 && s.Kind != KindCausal {
		return invalid("context_tubelets", s.ContextTubelets, "applies to kind %s only, not to %q", KindCausal, s.Kind)
	}
	return nil
}

// withDefaults fills zero ranges and checks the block setting of group i.
func (b BlockSpec) withDefaults(i int, g Grid) (BlockSpec, error) {
	if b.TemporalScale == ([2]float64{}) {
		b.TemporalScale = [2]float64{1, 1}
	}
	if b.AspectRatio == ([2]float64{}) {
		b.AspectRatio = [2]float64{0.75, 1.5}
	}
	field := func(name string) string { return fmt.Sprintf("blocks[%d].%s", i, name) }
	if b.NumBlocks < 1 || b.NumBlocks > maxNumBlocks {
		return b, invalid(field("num_blocks"), b.NumBlocks, "must be between 1 and %d", maxNumBlocks)
	}
	if !isRange(b.SpatialScale, 0, 1) || b.SpatialScale[0] == 0 {
		return b, invalid(field("spatial_scale"), b.SpatialScale, "must be a range [low high] within (0,1]")
	}
	if !isRange(b.TemporalScale, 0, 1) || b.TemporalScale[0] == 0 {
		return b, invalid(field("temporal_scale"), b.TemporalScale, "must be a range [low high] within (0,1]")
	}
	if !isRange(b.AspectRatio, minAspectRatio, maxAspectRatio) {
		return b, invalid(field("aspect_ratio"), b.AspectRatio, "must be a range [low high] within [%v,%v]", minAspectRatio, maxAspectRatio)
	}
	if int(float64(g.H*g.W)*b.SpatialScale[0]) < 1 {
		return b, invalid(field("spatial_scale"), b.SpatialScale, "a block of %v of the %d×%d patches holds no patch, which leaves no target", b.SpatialScale[0], g.H, g.W)
	}
	if b.canCover(g) {
		return b, invalid(field("spatial_scale"), b.SpatialScale, "a single block can cover the whole %d×%d×%d grid (tubelets×rows×columns), which leaves no context", g.T, g.H, g.W)
	}
	return b, nil
}

// canCover reports whether some draw of scale and aspect gives a block as
// large as the grid. With K = ⌊H·W·scale⌋ patches and aspect a, the height is
// round(√(K·a)) and the width round(√(K/a)); both reach the grid when
// (H−½)²/K ≤ a ≤ K/(W−½)², so an a must lie in that interval and in the range.
// A side of 1 is always reached.
func (b BlockSpec) canCover(g Grid) bool {
	if max(1, int(float64(g.T)*b.TemporalScale[1])) < g.T {
		return false
	}
	k := float64(int(float64(g.H*g.W) * b.SpatialScale[1]))
	low, high := b.AspectRatio[0], b.AspectRatio[1]
	if g.H > 1 {
		low = max(low, square(float64(g.H)-0.5)/k)
	}
	if g.W > 1 {
		high = min(high, k/square(float64(g.W)-0.5))
	}
	return low <= high
}

func square(x float64) float64 { return x * x }

// isRange is false for NaN too.
func isRange(r [2]float64, low, high float64) bool {
	return low <= r[0] && r[0] <= r[1] && r[1] <= high
}
