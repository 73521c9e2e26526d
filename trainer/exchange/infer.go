package exchange

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/trainer/model"
)

// What published checkpoints leave to the code that loads them.
const (
	publishedFrames = 64  // V-JEPA 2's released models
	publishedSize   = 256 // px; the 384 px ones are told by --size
	v2PredHeads     = 12  // pred_num_heads of V-JEPA 2's configurations
)

// encoderHeads are those of the published ViTs by features (vision_transformer.py of both repositories).
func encoderHeads(dim int, rotary bool) int {
	switch dim {
	case 192:
		return 3
	case 384:
		return 6
	case 768:
		return 12
	case 1024, 1280:
		return 16
	case 1408:
		if rotary { // vit_giant_xformers
			return 22
		}
		return 16 // vit_giant
	}
	return 0
}

// configure is the model's configuration: the source's own, or what its tensors and the options say.
func (s *source) configure(o Options) (model.Config, error) {
	if s.config != nil {
		if o.Heads != 0 && o.Heads != s.config.Heads || o.PredHeads != 0 && o.PredHeads != s.config.PredHeads || o.Positions != "" && o.Positions != s.config.Positions {
			return *s.config, fmt.Errorf("heads, pred_heads and positions are %d, %d and %s, as the source says itself", s.config.Heads, s.config.PredHeads, s.config.Positions)
		}
		return *s.config, nil
	}
	c := model.Config{Objective: model.Masked}
	encoder, predictor := s.networks[model.EncoderPrefix], s.networks[model.PredictorPrefix]
	patch, err := encoder.rank("patch_embed.proj.weight", 5)
	if err != nil {
		return c, fmt.Errorf("encoder: %w", err)
	}
	if patch[1] != 3 || patch[3] != patch[4] {
		return c, fmt.Errorf("encoder: patch_embed.proj.weight has shape %v, want [features 3 tubelet patch patch]", patch)
	}
	c.Dim, c.Tubelet, c.Patch = patch[0], patch[2], patch[3]
	if c.Depth, c.MLP, c.MLPRatio, err = encoder.blocks("blocks", c.Dim); err != nil {
		return c, fmt.Errorf("encoder: %w", err)
	}
	embed, err := predictor.rank("predictor_embed.weight", 2)
	if err != nil {
		return c, fmt.Errorf("predictor: %w", err)
	}
	c.PredDim = embed[0]
	var ratio float64
	if c.PredDepth, c.PredMLP, ratio, err = predictor.blocks("predictor_blocks", c.PredDim); err != nil {
		return c, fmt.Errorf("predictor: %w", err)
	}
	if ratio != c.MLPRatio {
		c.PredMLPRatio = ratio
	}
	for name := range predictor {
		if strings.HasPrefix(name, "mask_tokens.") {
			c.MaskTokens++
		}
	}
	_, table := encoder["pos_embed"]
	if c.Heads, err = heads("heads", o.Heads, encoderHeads(c.Dim, !table), c.Dim); err != nil {
		return c, err
	}
	published := c.Heads // V-JEPA, and the rotary models of jepa-intuitive-physics: the predictor has the encoder's heads
	if !table && o.Positions != model.RoPEInterleaved {
		if published = 0; encoderHeads(c.Dim, true) != 0 {
			published = v2PredHeads
		}
	}
	if c.PredHeads, err = heads("pred_heads", o.PredHeads, published, c.PredDim); err != nil {
		return c, err
	}
	if table {
		err = s.tabled(&c, o)
	} else {
		s.rotary(&c, o)
	}
	if err != nil {
		return c, err
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("its tensors make no model: %w", err)
	}
	return c, nil
}

// heads is a number of attention heads: given, or that of the published models.
func heads(name string, given, published, dim int) (int, error) {
	switch {
	case given > 0 && dim%given != 0:
		return 0, fmt.Errorf("%s is %d, which does not divide %d features", name, given, dim)
	case given > 0:
		return given, nil
	case published > 0 && dim%published == 0:
		return published, nil
	}
	return 0, fmt.Errorf("%s: the tensors do not tell, and no published model has %d features: give a number that divides it", name, dim)
}

// rank is the shape of a tensor that must be there with n dimensions, none of them 0.
func (n network) rank(name string, dims int) ([]int, error) {
	t, ok := n[name]
	if !ok {
		return nil, fmt.Errorf("missing %s", name)
	}
	if len(t.shape) != dims || slices.Contains(t.shape, 0) {
		return nil, fmt.Errorf("%s has shape %v, want %d dimensions", name, t.shape, dims)
	}
	return t.shape, nil
}

// blocks counts a network's blocks, and tells the kind and width of their MLPs from the first.
func (n network) blocks(prefix string, dim int) (depth int, mlp string, ratio float64, err error) {
	for name := range n {
		rest, ok := strings.CutPrefix(name, prefix+".")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= len(n) || strconv.Itoa(i) != number {
			return 0, "", 0, fmt.Errorf("%s.%s is no block", prefix, number)
		}
		depth = max(depth, i+1)
	}
	if depth == 0 {
		return 0, "", 0, fmt.Errorf("missing %s.0", prefix)
	}
	hidden, err := n.rank(prefix+".0.mlp.fc1.weight", 2)
	if err != nil {
		return 0, "", 0, err
	}
	if _, gated := n[prefix+".0.mlp.fc3.weight"]; gated {
		mlp = model.SwiGLU
	}
	ratio = float64(hidden[0]) / float64(dim)
	for int(float64(dim)*ratio) < hidden[0] { // the quotient may have been rounded down
		ratio = math.Nextafter(ratio, math.Inf(1))
	}
	return depth, mlp, ratio, nil
}

// rotary fills in what a model without position tables does not say: any size of clip will do.
func (s *source) rotary(c *model.Config, o Options) {
	c.Positions, c.MaskToken = model.RoPE, model.MaskTokenFirst
	if o.Positions != "" {
		c.Positions = o.Positions
	} else {
		s.note("positions are taken for %s; no tensor tells it from %s", model.RoPE, model.RoPEInterleaved)
	}
	c.Frames, c.Size = o.Frames, o.Size
	if c.Frames == 0 {
		c.Frames = publishedFrames
		s.note("clips are taken to have %d frames, as published; any number will do", c.Frames)
	}
	if c.Size == 0 {
		c.Size = publishedSize
		s.note("frames are taken to have %d px, as published; any size will do", c.Size)
	}
}

// tabled recognises the grid and the kind of the encoder's position table by its numbers: of all grids with as many
// tokens, one gives this table.
func (s *source) tabled(c *model.Config, o Options) error {
	encoder := s.networks[model.EncoderPrefix]
	shape, err := encoder.rank("pos_embed", 3)
	if err != nil {
		return fmt.Errorf("encoder: %w", err)
	}
	n, d := shape[1], shape[2]
	if d != c.Dim || shape[0] != 1 || n > maxTableTokens || d > maxTableFeatures {
		return fmt.Errorf("encoder: pos_embed has shape %v, want [1 tokens %d] with at most %d tokens", shape, c.Dim, maxTableTokens)
	}
	if o.Positions != "" {
		return errors.New("positions cannot be given: the encoder has a position table")
	}
	table := make([]float32, n*d)
	if err := encoder["pos_embed"].read(table); err != nil {
		return err
	}
	for t := 1; t <= n; t++ {
		for h := 1; n%t == 0 && h <= n/t; h++ {
			if n/t%h != 0 {
				continue
			}
			for _, kind := range []string{model.SinCosUniform, model.SinCos} {
				if isTable(table, kind, t, h, n/t/h, d) {
					c.Positions, c.Frames, c.Size = kind, t*c.Tubelet, h*c.Patch
					if w := n / t / h; w != h {
						c.Height, c.Width, c.Size = h*c.Patch, w*c.Patch, min(h, w)*c.Patch
					}
					return nil
				}
			}
		}
	}
	// A table of other numbers: learned, or resized. Its grid has to be told.
	c.Positions, c.Frames, c.Size = model.SinCosUniform, o.Frames, o.Size
	if o.Frames == 0 || o.Size == 0 {
		return fmt.Errorf("encoder: pos_embed of %d tokens is no sin-cos table: give frames and size", n)
	}
	s.note("the position table is no sin-cos one; it is used as it is")
	return nil
}

const (
	maxTableTokens   = 1 << 16
	maxTableFeatures = 8192
	// tableTolerance allows for tables kept in half precision; tables of other grids differ by 0.1 and more.
	tableTolerance = 5e-3
)

// isTable tells whether a table [t·h·w,d] is the sin-cos one of a grid, by some of its rows.
func isTable(table []float32, kind string, t, h, w, d int) bool {
	const rows = 24
	n := t * h * w
	for k := range min(rows, n) {
		row := n - 1 - k*max(1, n/rows)
		if row < 0 {
			break
		}
		for j, x := range model.Position(kind, row/(h*w), row/w%h, row%w, d) {
			if math.Abs(x-float64(table[row*d+j])) > tableTolerance {
				return false
			}
		}
	}
	return true
}
