package model

import (
	"cmp"
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// buildOnFeatures makes the forward pass of a training step on a frozen encoder. What the encoder gives of a whole clip
// does not change from step to step, so it is an input: the targets, and for NextTubelet, where every tubelet is encoded
// by itself, the context too. The graph then has no encoder.
//
// For Masked the encoder must not see the hidden tokens, and what it sees changes with every mask: the context is
// encoded in the graph, without a gradient. Rows of the features would not do in its place: attention has mixed the
// hidden tokens into every one of them.
func buildOnFeatures(c Config, clips, groups int, dtype tensor.Dtype) (*builder, error) {
	prefixes := []string{PredictorPrefix}
	if c.Objective == Masked {
		prefixes = append(prefixes, EncoderPrefix)
	}
	b, err := newBuilder(c, clips, groups, dtype, prefixes...)
	if err != nil {
		return nil, err
	}
	features := b.features()
	b.Target = b.node(graph.Normalize(features, targetEps))
	if c.Objective == Masked {
		b.packMasked()
		b.predictFrom(b.patches(c.Frames))
	} else {
		b.packNextTubelet()
		b.predictNext(features)
	}
	return b, b.err
}

// features adds Features and returns it as rows [B·N,D].
func (b *builder) features() *G.Node {
	var rows *G.Node
	b.Features, rows = b.rows("features", b.Config.Tokens(), b.Config.Dim)
	return rows
}

// rows adds an input of n rows of d features for each clip. It is set as [B,1,n·d,1,1] and read as rows [B·n,d]: a clip of
// one channel and n·d frames of one pixel, cut into tubelets of d frames.
func (b *builder) rows(name string, n, d int) (input, rows *G.Node) {
	input = b.input(name, b.dtype, b.Clips, 1, n*d, 1, 1)
	return input, b.node(graph.Patchify(input, d, 1))
}

// FeatureValues is how many numbers an encoder gives of a clip: N·D.
func (c Config) FeatureValues() int { return c.Tokens() * c.Dim }

// OnEncoder returns c for a predictor on the encoder of another model, frozen. That model's encoder settles what its
// shape is: a field of c that is zero takes its value, one that says otherwise is an error that names it.
func (c Config) OnEncoder(of Config) (Config, error) {
	for _, f := range []struct {
		name  string
		field *int
		value int
	}{
		{"size", &c.Size, of.Size}, {"frames", &c.Frames, of.Frames}, {"patch", &c.Patch, of.Patch}, {"tubelet", &c.Tubelet, of.Tubelet},
		{"dim", &c.Dim, of.Dim}, {"depth", &c.Depth, of.Depth}, {"heads", &c.Heads, of.Heads},
		{"height", &c.Height, of.Height}, {"width", &c.Width, of.Width},
	} {
		if *f.field != 0 && *f.field != f.value {
			return c, fmt.Errorf("model.%s is %d, the frozen encoder's is %d: leave it out, or use another encoder", f.name, *f.field, f.value)
		}
		*f.field = f.value
	}
	for _, f := range []struct {
		name     string
		field    *string
		value    string
		standard string
	}{{"positions", &c.Positions, of.Positions, SinCosUniform}, {"mlp", &c.MLP, of.MLP, GELU}} {
		if *f.field != "" && *f.field != cmp.Or(f.value, f.standard) {
			return c, fmt.Errorf("model.%s is %s, the frozen encoder's is %s: leave it out, or use another encoder", f.name, *f.field, cmp.Or(f.value, f.standard))
		}
		*f.field = f.value
	}
	for _, f := range []struct {
		name         string
		field        *float64
		value, usual float64
	}{{"mlp_ratio", &c.MLPRatio, of.MLPRatio, 4}, {"norm_eps", &c.NormEps, of.NormEps, normEps}} {
		if *f.field != 0 && *f.field != cmp.Or(f.value, f.usual) {
			return c, fmt.Errorf("model.%s is %g, the frozen encoder's is %g: leave it out, or use another encoder", f.name, *f.field, cmp.Or(f.value, f.usual))
		}
		*f.field = f.value
	}
	if c.PredMLPRatio == 0 && cmp.Or(c.MLPRatio, 4) != 4 {
		c.PredMLPRatio = 4 // the encoder's is its own
	}
	c.FrozenEncoder = true
	return c, nil
}
