package model

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
)

// Param is one tensor of a model.
type Param struct {
	Name    string
	Shape   []int // as published, for example [D,3,tubelet,patch,patch]
	Rows    int   // the graph's view of it: [Rows, Size/Rows], or [Size] if Rows is 0
	Trained bool  // position tables are not
	Decays  bool  // weight decay applies: not to biases and 1-D tensors (vjepa init_opt)
}

// Size returns the number of elements.
func (p Param) Size() int {
	n := 1
	for _, s := range p.Shape {
		n *= s
	}
	return n
}

// GraphShape returns the shape the graph uses: two dimensions, or one.
func (p Param) GraphShape() []int {
	if p.Rows == 0 {
		return []int{p.Size()}
	}
	return []int{p.Rows, p.Size() / p.Rows}
}

// Prefixes of the three networks' tensors.
const (
	EncoderPrefix   = "encoder."
	PredictorPrefix = "predictor."
	TargetPrefix    = "target_encoder."
)

// TargetNetwork is the prefix of the network that gives the targets: TargetPrefix, or EncoderPrefix if the encoder is
// frozen. Pixels come from no network; for them it is "".
func (c Config) TargetNetwork() string {
	switch {
	case c.OfPixels():
		return ""
	case c.FrozenEncoder:
		return EncoderPrefix
	}
	return TargetPrefix
}

// Params lists the tensors of encoder, predictor and target encoder, in that order.
func (c Config) Params() []Param {
	var out []Param
	add := func(name string, rows int, trained bool, shape ...int) {
		oneDim := len(shape) == 1
		out = append(out, Param{Name: name, Shape: shape, Rows: rows, Trained: trained,
			Decays: trained && !oneDim && !strings.Contains(name, "bias")})
	}
	linear := func(name string, from, to int) {
		add(name+".weight", to, true, to, from)
		add(name+".bias", 0, true, to)
	}
	norm := func(name string, d int) {
		add(name+".weight", 0, true, d)
		add(name+".bias", 0, true, d)
	}
	blocks := func(prefix string, depth, d int, mlp string, ratio float64) {
		hidden := int(float64(d) * ratio) // as published: 1408 · 48/11 is 6144
		for i := range depth {
			b := fmt.Sprintf("%s.%d", prefix, i)
			norm(b+".norm1", d)
			linear(b+".attn.qkv", d, 3*d)
			linear(b+".attn.proj", d, d)
			norm(b+".norm2", d)
			linear(b+".mlp.fc1", d, hidden)
			if mlp == SwiGLU {
				linear(b+".mlp.fc2", d, hidden)
				linear(b+".mlp.fc3", hidden, d)
			} else {
				linear(b+".mlp.fc2", hidden, d)
			}
		}
	}
	n := c.Tokens()
	encoder := func(prefix string) {
		if !c.Rotary() {
			add(prefix+"pos_embed", n, false, 1, n, c.Dim)
		}
		add(prefix+"patch_embed.proj.weight", c.Dim, true, c.Dim, channels, c.Tubelet, c.Patch, c.Patch)
		add(prefix+"patch_embed.proj.bias", 0, true, c.Dim)
		blocks(prefix+"blocks", c.Depth, c.Dim, c.MLP, c.MLPRatio)
		norm(prefix+"norm", c.Dim)
	}
	encoder(EncoderPrefix)
	if !c.Rotary() {
		add("predictor.predictor_pos_embed", n, false, 1, n, c.PredDim)
	}
	for i := range c.MaskTokens {
		// Of those that stand for nothing in training, none is trained, nor decays.
		add(fmt.Sprintf("predictor.mask_tokens.%d", i), 1, i == 0 || c.MaskToken != MaskTokenFirst, 1, 1, c.PredDim)
	}
	linear("predictor.predictor_embed", c.Dim, c.PredDim)
	blocks("predictor.predictor_blocks", c.PredDepth, c.PredDim, c.PredMLP, cmp.Or(c.PredMLPRatio, c.MLPRatio))
	norm("predictor.predictor_norm", c.PredDim)
	linear("predictor.predictor_proj", c.PredDim, c.TargetDim())
	if c.Objective == NextTubelet {
		linear("predictor.predictor_skip", c.Dim, c.TargetDim())
	}
	if c.Target == Representation && !c.FrozenEncoder {
		encoder(TargetPrefix)
	}
	for i, p := range out {
		if strings.HasPrefix(p.Name, TargetPrefix) || c.FrozenEncoder && strings.HasPrefix(p.Name, EncoderPrefix) {
			out[i].Trained, out[i].Decays = false, false // a target encoder follows the encoder by moving average
		}
	}
	return out
}

// initStd is the standard deviation of fresh weights (init_std of the published configs).
const initStd = 0.02

// Init returns fresh weights by tensor name: normal with standard deviation 0.02,
// the last linear map of each residual branch divided by sqrt(2·block), biases and
// mask tokens 0, norms 1; the target encoder a copy of the encoder. Each tensor has
// a random stream of its own, drawn from seed and its name, so adding a tensor
// changes no other. Source: facebookresearch/jepa, vision_transformer.py.
func (c Config) Init(seed uint64) map[string][]float32 {
	out := map[string][]float32{}
	for _, p := range c.Params() {
		out[p.Name] = make([]float32, p.Size())
	}
	c.InitInto(seed, func(name string) []float32 { return out[name] })
	return out
}

// InitInto is Init into memory that there is: tensor returns that of a name, or nil to leave it out.
func (c Config) InitInto(seed uint64, tensor func(name string) []float32) {
	t, h, w := c.Grid()
	for _, p := range c.Params() {
		x := tensor(p.Name)
		switch {
		case x == nil:
		case strings.HasPrefix(p.Name, TargetPrefix):
			copy(x, tensor(EncoderPrefix+strings.TrimPrefix(p.Name, TargetPrefix)))
		case strings.HasSuffix(p.Name, "pos_embed"):
			copy(x, Positions(c.Positions, t, h, w, p.Shape[2]))
		case strings.Contains(p.Name, "norm") && strings.HasSuffix(p.Name, ".weight"):
			for i := range x {
				x[i] = 1
			}
		case strings.HasSuffix(p.Name, ".weight"):
			std := initStd
			if strings.HasSuffix(p.Name, "attn.proj.weight") || strings.HasSuffix(p.Name, lastOfMLP(c, p.Name)+".weight") {
				std /= math.Sqrt(2 * float64(1+blockIndex(p.Name)))
			}
			hash := fnv.New64a()
			_, _ = hash.Write([]byte(p.Name))
			rng := rand.New(rand.NewPCG(seed, hash.Sum64()))
			for i := range x {
				x[i] = float32(rng.NormFloat64() * std)
			}
		default:
			clear(x)
		}
	}
}

// lastOfMLP is the linear map that ends a block's MLP.
func lastOfMLP(c Config, name string) string {
	kind := c.MLP
	if strings.HasPrefix(name, PredictorPrefix) {
		kind = c.PredMLP
	}
	if kind == SwiGLU {
		return "mlp.fc3"
	}
	return "mlp.fc2"
}

// blockIndex is the number in a name such as encoder.blocks.3.mlp.fc2.weight.
func blockIndex(name string) int {
	var i int
	_, after, _ := strings.Cut(name, "blocks.")
	_, _ = fmt.Sscanf(after, "%d", &i)
	return i
}
