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
	// RawPixels is the same with the pixels as the model is given them, normalised by channel
	// alone. A patch of one colour loses its brightness and its strength of colour when it is
	// normalised by itself; of pictures with many such patches this is the fairer baseline.
	RawPixels = "raw_pixels"
)

// OfPixels tells whether the model predicts pixels, of either kind.
func (c Config) OfPixels() bool { return c.Target == Pixels || c.Target == RawPixels }

func (c Config) validateTarget() error {
	if c.Target != Representation && !c.OfPixels() {
		return fmt.Errorf("model.target is %q, want %s, %s, or nothing for the representation", c.Target, Pixels, RawPixels)
	}
	if c.FrozenEncoder && c.OfPixels() {
		return fmt.Errorf("model.target is %s, which is predicted with an encoder that learns; the encoder is frozen", c.Target)
	}
	return nil
}

// TargetDim is how many numbers a token's target has: Dim, or the values of its pixels.
func (c Config) TargetDim() int {
	if c.OfPixels() {
		return channels * c.Tubelet * c.Patch * c.Patch
	}
	return c.Dim
}

// target is what is predicted of every token, [B·N,TargetDim], from patches [B·N,3·tubelet·patch²].
// Attention of the target encoder stays inside the segments of the given offsets.
func (b *builder) target(patches, token, attention *G.Node) *G.Node {
	if b.Config.OfPixels() {
		return b.pixels(patches)
	}
	return b.node(graph.Normalize(b.encoder(b.Config.TargetNetwork(), patches, token, b.full, attention), targetEps))
}

// pixels are the targets of a model that predicts pixels.
func (b *builder) pixels(patches *G.Node) *G.Node {
	if b.Config.Target == RawPixels {
		return patches
	}
	return b.node(graph.Normalize(patches, targetEps))
}
