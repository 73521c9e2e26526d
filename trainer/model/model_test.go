package model

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	G "gorgonia.org/gorgonia"
	"pgregory.net/rapid"

	"github.com/surmise-ml/surmise/internal/golden"
)

func TestGoldenPositions(t *testing.T) {
	data := golden.Tensors(t, "pos_embed.safetensors")
	var compared int
	for name, want := range data {
		var frames, h, w, d int
		var kind string
		if _, err := fmt.Sscanf(strings.ReplaceAll(name, ".", " "), "pos3d t%d_h%d_w%d dim%d %s", &frames, &h, &w, &d, &kind); err != nil {
			continue
		}
		compared++
		checkPositions(t, name, positionsOf(kind, frames, h, w, d), want.F32)
	}
	// Some rows of tables of a published size, which as a whole would be large.
	rows := data["pos3d_rows.token_index"].I64
	for name, want := range data {
		var d int
		var kind string
		if _, err := fmt.Sscanf(strings.ReplaceAll(name, ".", " "), "pos3d_rows dim%d %s", &d, &kind); err != nil {
			continue
		}
		compared++
		table := positionsOf(kind, 8, 14, 14, d)
		var got []float32
		for _, r := range rows {
			got = append(got, table[int(r)*d:(int(r)+1)*d]...)
		}
		checkPositions(t, name, got, want.F32)
	}
	if compared < 4 {
		t.Errorf("only %d tables were found to compare", compared)
	}
}

func positionsOf(kind string, t, h, w, d int) []float32 {
	if kind == "uniform" {
		return Positions(SinCosUniform, t, h, w, d)
	}
	return Positions(SinCos, t, h, w, d)
}

func checkPositions(t *testing.T, name string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", name, len(got), len(want))
		return
	}
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > 1e-6 {
			t.Errorf("%s: value %d is %g, want %g", name, i, got[i], want[i])
			return
		}
	}
}

func TestInit(t *testing.T) {
	c := Config{Objective: Masked, Dim: 48, Heads: 4, Depth: 3}.WithDefaults()
	weights := c.Init(1)
	if len(weights) != len(c.Params()) {
		t.Fatalf("%d tensors, want %d", len(weights), len(c.Params()))
	}
	std := func(name string) float64 {
		var sum float64
		for _, x := range weights[name] {
			sum += float64(x) * float64(x)
		}
		return math.Sqrt(sum / float64(len(weights[name])))
	}
	for name, want := range map[string]float64{
		"encoder.blocks.0.attn.qkv.weight":  0.02,
		"encoder.blocks.0.mlp.fc2.weight":   0.02 / math.Sqrt(2),
		"encoder.blocks.2.attn.proj.weight": 0.02 / math.Sqrt(6),
		"encoder.blocks.1.attn.qkv.bias":    0,
		"encoder.blocks.1.norm1.weight":     1,
		"predictor.mask_tokens.1":           0,
	} {
		if got := std(name); math.Abs(got-want) > 0.1*want {
			t.Errorf("%s: standard deviation %g, want %g", name, got, want)
		}
	}
	for name, x := range weights {
		if online, ok := strings.CutPrefix(name, TargetPrefix); ok && !slices.Equal(x, weights[EncoderPrefix+online]) {
			t.Errorf("%s is no copy of the encoder's", name)
		}
	}
	if !slices.Equal(c.Init(1)["encoder.blocks.0.attn.qkv.weight"], weights["encoder.blocks.0.attn.qkv.weight"]) {
		t.Error("the same seed gave other weights")
	}
	if slices.Equal(c.Init(2)["encoder.blocks.0.attn.qkv.weight"], weights["encoder.blocks.0.attn.qkv.weight"]) {
		t.Error("another seed gave the same weights")
	}
	deeper := c
	deeper.PredDepth++ // adds tensors, and must move no other
	if !slices.Equal(deeper.Init(1)["predictor.predictor_proj.weight"], weights["predictor.predictor_proj.weight"]) {
		t.Error("a deeper predictor changed a tensor that both have")
	}
}

func TestDecayGroups(t *testing.T) {
	for _, p := range (Config{Objective: Masked}).WithDefaults().Params() {
		want := p.Trained && len(p.Shape) > 1
		if p.Decays != want {
			t.Errorf("%s %v: decays is %t, want %t", p.Name, p.Shape, p.Decays, want)
		}
	}
}

func TestImpossibleShapesAreNamed(t *testing.T) {
	for field, change := range map[string]func(*Config){
		"model.size":         func(c *Config) { c.Size = 63 },
		"model.frames":       func(c *Config) { c.Frames = 15 },
		"model.heads":        func(c *Config) { c.Heads = 3 },
		"model.dim":          func(c *Config) { c.Dim = -1 },
		"model.pred_dim":     func(c *Config) { c.PredDim = 1 << 20 },
		"model.objective":    func(c *Config) { c.Objective = "magic" },
		"model.positions":    func(c *Config) { c.Positions = "none" },
		"model.mlp_ratio":    func(c *Config) { c.MLPRatio = math.NaN() },
		"model.mask_tokens":  func(c *Config) { c.MaskTokens = 3 },
		"tokens, want":       func(c *Config) { c.Size, c.Patch = 1024, 1 },
		"at least two tubel": func(c *Config) { c.Frames = 2 },
	} {
		c := Config{}.WithDefaults()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want an error that names %s", err, field)
		}
	}
	for _, name := range []string{"", "demo", "nano", "tiny", "small"} {
		c, err := Preset(name)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			t.Errorf("preset %q: %v", name, err)
		}
	}
	if _, err := Preset("huge"); err == nil {
		t.Error("preset huge: no error")
	}
}

// memory is a machine's inputs without a machine.
type memory struct {
	floats map[*G.Node][]float32
	ints   map[*G.Node][]int32
}

func (m memory) Floats(n *G.Node) []float32 {
	if m.floats[n] == nil {
		m.floats[n] = make([]float32, n.Shape().TotalSize())
	}
	return m.floats[n]
}

func (m memory) Ints(n *G.Node) []int32 {
	if m.ints[n] == nil {
		m.ints[n] = make([]int32, n.Shape().TotalSize())
	}
	return m.ints[n]
}

func TestPack(t *testing.T) {
	c := Config{Objective: Masked, Size: 16, Frames: 4, Dim: 24, Depth: 1, Heads: 1, PredDim: 24, PredDepth: 1, PredHeads: 1}.WithDefaults()
	tr, err := NewTraining(c, 2, 2, TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := c.Tokens()
		m := memory{map[*G.Node][]float32{}, map[*G.Node][]int32{}}
		var context, pred [][]int32
		var perGroup [2]float64
		for k := range 4 {
			order := rapid.Permutation(iota32(n)).Draw(t, "order")
			visible := rapid.IntRange(1, n-1).Draw(t, "visible")
			hidden := rapid.IntRange(1, n-visible).Draw(t, "hidden")
			context, pred = append(context, order[:visible]), append(pred, order[visible:visible+hidden])
			perGroup[k%2] += float64(hidden)
		}
		if err := tr.Pack(m, context, pred); err != nil {
			t.Fatal(err)
		}
		for k := range pred {
			first, last, tokens := tr.PredictedRows(m, k)
			if !slices.Equal(tokens, pred[k]) || last-first != len(pred[k]) {
				t.Fatalf("segment %d predicts %v in rows %d to %d, want %v", k, tokens, first, last, pred[k])
			}
		}
		// A mean over groups of the mean over a group's tokens and features: weights that sum to 1/D.
		var sum float64
		for k, w := range m.Floats(tr.weights) {
			sum += float64(w) * float64(len(pred[k]))
			if want := 1 / (2 * perGroup[k%2] * float64(c.Dim)); math.Abs(float64(w)-want) > 1e-6*want {
				t.Fatalf("segment %d weighs %g, want %g", k, w, want)
			}
		}
		if math.Abs(sum*float64(c.Dim)-1) > 1e-5 {
			t.Fatalf("weights over tokens and features sum to %g, want 1", sum*float64(c.Dim))
		}
	})
	m := memory{map[*G.Node][]float32{}, map[*G.Node][]int32{}}
	good := []int32{0}
	for name, pred := range map[string][]int32{"empty": nil, "beyond the grid": {99}, "negative": {-1}, "seen": {0}, "twice": {1, 1}} {
		if err := tr.Pack(m, [][]int32{good, good, good, good}, [][]int32{{1}, {1}, {1}, pred}); err == nil || !strings.Contains(err.Error(), "clip 1, mask group 1") {
			t.Errorf("%s: got %v, want an error that names the clip and group", name, err)
		}
	}
	if err := tr.Pack(m, nil, nil); err == nil {
		t.Error("no masks at all: no error")
	}
}

func iota32(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

func TestFuture(t *testing.T) {
	c := Config{Objective: Masked, Size: 16, Frames: 6}.WithDefaults() // 2×2 tokens, 3 tubelets
	context, pred, err := c.Future(4)
	if err != nil || !slices.Equal(context, iota32(8)) || !slices.Equal(pred, []int32{8, 9, 10, 11}) {
		t.Errorf("first 4 of 6 frames: %v, %v, %v", context, pred, err)
	}
	for _, frames := range []int{-2, 0, 3, 6} {
		if _, _, err := c.Future(frames); err == nil {
			t.Errorf("context of %d frames: no error", frames)
		}
	}
}
