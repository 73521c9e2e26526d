// Package model builds the networks of a video JEPA as graphs: encoder, target
// encoder, predictor, loss, gradients and optimiser step.
//
// Reading order: Config says what a model is, Params lists its tensors by name,
// NewTraining and NewScoring build the graphs, Pack fills in a batch's masks.
//
// # Letters
//
//	B clips   G segments of a clip (mask groups, or context lengths)   S = B·G segments
//	N tokens of a clip = T·H·W   D features   P features inside the predictor
//
// Tensor names are those of the published V-JEPA checkpoints
// (facebookresearch/jepa), so that weights move between the two without a table.
package model

import (
	"fmt"
	"slices"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// Objectives: what is predicted from what.
const (
	// Masked is V-JEPA: from a clip's visible tokens, predict the representation of its
	// hidden ones, once for every mask group (Bardes et al. 2024, section 3).
	Masked = "masked"
	// NextTubelet encodes every tubelet by itself and predicts, with block-causal
	// attention over time, the representation of each next tubelet from all before it.
	NextTubelet = "next_tubelet"
)

// Positions: a table added to the tokens, whose sin-cos channels are shared between time, height and width, or rotary
// positions inside attention (see graph.Rotation).
const (
	SinCos          = "sincos"           // half of the channels for time, a quarter each for height and width
	SinCosUniform   = "uniform"          // a third each: what V-JEPA trains with
	RoPE            = "rope"             // V-JEPA 2 and VJEPA2Model of transformers
	RoPEInterleaved = "rope_interleaved" // the vit_*_rope models of facebookresearch/jepa-intuitive-physics
)

// MLPs of a block.
const (
	GELU   = "gelu"   // fc2(GELU(fc1 x))
	SwiGLU = "swiglu" // fc3(SiLU(fc1 x) · fc2 x)
)

// Mask tokens: which of the predictor's learned tokens stands for the hidden tokens of a mask group in training.
const (
	MaskTokenPerGroup = "per_group" // token i for group i: V-JEPA
	MaskTokenFirst    = "first"     // token 0 for every group: what V-JEPA 2's training code does
)

// Config is the shape of a model. The zero value of a field means its default.
type Config struct {
	Objective  string  `json:"objective"`   // Masked or NextTubelet; default NextTubelet
	Size       int     `json:"size"`        // side of the square frames, px; default 64
	Frames     int     `json:"frames"`      // frames of a clip; default 16
	Patch      int     `json:"patch"`       // side of a tubelet, px; default 8
	Tubelet    int     `json:"tubelet"`     // frames of a tubelet; default 2
	Dim        int     `json:"dim"`         // features of a token; default 128
	Depth      int     `json:"depth"`       // blocks of the encoder; default 4
	Heads      int     `json:"heads"`       // attention heads of the encoder; default 2
	PredDim    int     `json:"pred_dim"`    // features inside the predictor; default 128
	PredDepth  int     `json:"pred_depth"`  // blocks of the predictor; default 3
	PredHeads  int     `json:"pred_heads"`  // attention heads of the predictor; default 2
	MLPRatio   float64 `json:"mlp_ratio"`   // hidden features of a block's MLP over its width; default 4
	MaskTokens int     `json:"mask_tokens"` // learned mask tokens of the predictor; default 2 for Masked, 0 for NextTubelet
	Positions  string  `json:"positions"`   // SinCos, SinCosUniform, RoPE or RoPEInterleaved; default SinCosUniform

	Target string `json:"target,omitempty"` // what is predicted of a token: Representation, the default, or Pixels

	// FrozenEncoder says that the predictor was trained on an encoder that did not learn. It gives the targets too: there
	// is no target encoder, and the encoder's tensors are not trained.
	FrozenEncoder bool `json:"frozen_encoder,omitempty"`

	// What only models from elsewhere set. Zero is the default and stays zero.
	Height       int     `json:"height,omitempty"`         // of the frames, px; default Size
	Width        int     `json:"width,omitempty"`          // of the frames, px; default Size
	MLP          string  `json:"mlp,omitempty"`            // of the encoder: GELU or SwiGLU; default GELU
	PredMLP      string  `json:"pred_mlp,omitempty"`       // of the predictor; default GELU
	PredMLPRatio float64 `json:"pred_mlp_ratio,omitempty"` // of the predictor; default MLPRatio
	NormEps      float64 `json:"norm_eps,omitempty"`       // of the LayerNorms inside the networks; default 1e-6
	MaskToken    string  `json:"mask_token,omitempty"`     // MaskTokenPerGroup or MaskTokenFirst; default MaskTokenPerGroup
}

// Preset returns a named shape: demo, the default, or one of the benchmarks' nano, tiny and small.
func Preset(name string) (Config, error) {
	masked := func(size, patch, dim, depth, heads, predDim, predDepth, predHeads int) Config {
		return Config{Objective: Masked, Size: size, Patch: patch, Dim: dim, Depth: depth, Heads: heads,
			PredDim: predDim, PredDepth: predDepth, PredHeads: predHeads}.WithDefaults()
	}
	switch name {
	case "", "demo":
		return Config{}.WithDefaults(), nil
	case "nano":
		return masked(64, 8, 96, 4, 3, 48, 2, 3), nil
	case "tiny":
		return masked(112, 16, 192, 12, 3, 96, 6, 3), nil
	case "small":
		return masked(224, 16, 384, 12, 6, 192, 6, 6), nil
	}
	return Config{}, fmt.Errorf("model preset %q: want demo, nano, tiny or small", name)
}

// WithDefaults fills in every zero field.
func (c Config) WithDefaults() Config {
	def := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	if c.Objective == "" {
		c.Objective = NextTubelet
	}
	if c.Positions == "" {
		c.Positions = SinCosUniform
	}
	if c.MLPRatio == 0 {
		c.MLPRatio = 4
	}
	def(&c.Size, 64)
	def(&c.Frames, 16)
	def(&c.Patch, 8)
	def(&c.Tubelet, 2)
	def(&c.Dim, 128)
	def(&c.Depth, 4)
	def(&c.Heads, 2)
	def(&c.PredDim, 128)
	def(&c.PredDepth, 3)
	def(&c.PredHeads, 2)
	if c.Objective == Masked {
		def(&c.MaskTokens, 2)
	}
	return c
}

// Limits on what a job may ask for: far above any published model (ViT-g is 1408
// features and 40 blocks), far below what overflows.
const (
	maxSide     = 1024
	maxFrames   = 1024
	maxFeatures = 8192
	maxDepth    = 128
	maxTokens   = 1 << 16
)

// Validate reports the first field with an impossible value, by name.
func (c Config) Validate() error {
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"size", c.Size, maxSide}, {"frames", c.Frames, maxFrames}, {"patch", c.Patch, maxSide}, {"tubelet", c.Tubelet, maxFrames},
		{"dim", c.Dim, maxFeatures}, {"depth", c.Depth, maxDepth}, {"heads", c.Heads, maxFeatures},
		{"pred_dim", c.PredDim, maxFeatures}, {"pred_depth", c.PredDepth, maxDepth}, {"pred_heads", c.PredHeads, maxFeatures},
	} {
		if f.value < 1 || f.value > f.max {
			return fmt.Errorf("model.%s is %d, want 1 to %d", f.name, f.value, f.max)
		}
	}
	if (c.Height == 0) != (c.Width == 0) || c.Height < 0 || c.Height > maxSide || c.Width < 0 || c.Width > maxSide {
		return fmt.Errorf("model.height %d and model.width %d: want both 0 or both 1 to %d", c.Height, c.Width, maxSide)
	}
	height, width := c.Frame()
	for _, f := range []struct {
		name, by      string
		value, factor int
	}{
		{"size", "patch", c.Size, c.Patch}, {"height", "patch", height, c.Patch}, {"width", "patch", width, c.Patch}, {"frames", "tubelet", c.Frames, c.Tubelet},
		{"dim", "heads", c.Dim, c.Heads}, {"pred_dim", "pred_heads", c.PredDim, c.PredHeads},
	} {
		if f.value%f.factor != 0 {
			return fmt.Errorf("model.%s is %d, which model.%s %d does not divide", f.name, f.value, f.by, f.factor)
		}
	}
	if !(c.MLPRatio >= 0.25 && c.MLPRatio <= 16) { // false for NaN
		return fmt.Errorf("model.mlp_ratio is %g, want 0.25 to 16", c.MLPRatio)
	}
	if !(c.PredMLPRatio == 0 || c.PredMLPRatio >= 0.25 && c.PredMLPRatio <= 16) {
		return fmt.Errorf("model.pred_mlp_ratio is %g, want 0.25 to 16", c.PredMLPRatio)
	}
	if !(c.NormEps >= 0 && c.NormEps <= 1e-2) {
		return fmt.Errorf("model.norm_eps is %g, want 0 (1e-6) to 0.01", c.NormEps)
	}
	for _, f := range []struct {
		name, value string
		words       []string
	}{
		{"positions", c.Positions, []string{SinCos, SinCosUniform, RoPE, RoPEInterleaved}},
		{"mlp", c.MLP, []string{"", GELU, SwiGLU}}, {"pred_mlp", c.PredMLP, []string{"", GELU, SwiGLU}},
		{"mask_token", c.MaskToken, []string{"", MaskTokenPerGroup, MaskTokenFirst}},
	} {
		if !slices.Contains(f.words, f.value) {
			return fmt.Errorf("model.%s is %q, want one of %q", f.name, f.value, f.words)
		}
	}
	for _, f := range []struct {
		name         string
		value, heads int
	}{{"dim", c.Dim, c.Heads}, {"pred_dim", c.PredDim, c.PredHeads}} {
		switch {
		case c.Rotary() && graph.Rotated(f.value/f.heads) == 0:
			return fmt.Errorf("model.%s is %d for %d heads, want at least 6 features to a head for positions %s", f.name, f.value, f.heads, c.Positions)
		case !c.Rotary() && f.value%8 != 0:
			return fmt.Errorf("model.%s is %d, want a multiple of 8 for sin-cos positions", f.name, f.value)
		}
	}
	switch c.Objective {
	case Masked:
		if c.MaskTokens < 1 || c.MaskTokens > 64 {
			return fmt.Errorf("model.mask_tokens is %d, want 1 to 64", c.MaskTokens)
		}
	case NextTubelet:
		if c.MaskTokens != 0 {
			return fmt.Errorf("model.mask_tokens is %d, want 0 with objective %s", c.MaskTokens, NextTubelet)
		}
		if t, _, _ := c.Grid(); t < 2 {
			return fmt.Errorf("model.frames is %d, want at least two tubelets of %d frames with objective %s", c.Frames, c.Tubelet, NextTubelet)
		}
	default:
		return fmt.Errorf("model.objective is %q, want %s or %s", c.Objective, Masked, NextTubelet)
	}
	if err := c.validateTarget(); err != nil {
		return err
	}
	if c.Tokens() > maxTokens {
		return fmt.Errorf("model.size %d, model.frames %d, model.patch %d and model.tubelet %d make %d tokens, want at most %d",
			c.Size, c.Frames, c.Patch, c.Tubelet, c.Tokens(), maxTokens)
	}
	return nil
}

// Frame returns the height and width of the frames, px.
func (c Config) Frame() (height, width int) {
	if c.Height == 0 && c.Width == 0 {
		return c.Size, c.Size
	}
	return c.Height, c.Width
}

// Grid returns the token grid of a clip: T, H, W.
func (c Config) Grid() (t, h, w int) {
	height, width := c.Frame()
	return c.Frames / c.Tubelet, height / c.Patch, width / c.Patch
}

// Rotary tells whether positions are rotary; otherwise they are a table.
func (c Config) Rotary() bool { return c.Positions == RoPE || c.Positions == RoPEInterleaved }

// Tokens returns N = T·H·W.
func (c Config) Tokens() int { t, h, w := c.Grid(); return t * h * w }

// channels of a pixel: red, green, blue.
const channels = 3

// ClipValues returns the float32 values of one clip: channels · frames · height · width.
func (c Config) ClipValues() int {
	height, width := c.Frame()
	return channels * c.Frames * height * width
}
