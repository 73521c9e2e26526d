package model

import (
	"fmt"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// What a model predicts of a token.
const (
	// Representation is the target encoder's output, normalised per token. It is written "".
	Representation = ""
	// Pixels is the token's own pixels, normalised per token (He et al. 2022, section 3,
	// "normalized pixel values"). Encoder and predictor are the same; the predictor's last
	// linear maps end in pixels, and there is no target encoder. It is the baseline that
	// tells whether representation space is better.
	Pixels = "pixels"
)

func (c Config) validateTarget() error {
	if c.Target != Representation && c.Target != Pixels {
		return fmt.Errorf("model.target is %q, want %s, or nothing for the representation", c.Target, Pixels)
	}
	if c.FrozenEncoder && c.Target == Pixels {
		return fmt.Errorf("model.target is %s, which is predicted with an encoder that learns; the encoder is frozen", Pixels)
	}
	return nil
}

// TargetDim is how many numbers a token's target has: Dim, or the values of its pixels.
func (c Config) TargetDim() int {
	if c.Target == Pixels {
		return channels * c.Tubelet * c.Patch * c.Patch
	}
	return c.Dim
}

// target is what is predicted of every token, [B·N,TargetDim], from patches [B·N,3·tubelet·patch²].
// Attention of the target encoder stays inside the segments of the given offsets.
func (b *builder) target(patches, token, attention *G.Node) *G.Node {
	if b.Config.Target == Pixels {
		return b.node(graph.Normalize(patches, targetEps))
	}
	return b.node(graph.Normalize(b.encoder(b.Config.TargetNetwork(), patches, token, b.full, attention), targetEps))
}
