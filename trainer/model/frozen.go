package model

import (
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
