package model

import (
	"fmt"
	"strings"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// TrainingOptions are the constants of a training graph.
type TrainingOptions struct {
	Exponent      float64 // of the loss |error|^Exponent / Exponent
	VarianceCoeff float64 // weight of the variance regulariser in the loss; 0 leaves it a figure to watch
	Beta1, Beta2  float64 // of AdamW
	Eps           float64 // of AdamW
}

// Training is one training step: loss, gradients, clipped AdamW, moving average.
type Training struct {
	*Graph
	Schedule     *G.Node               // [graph.ScheduleLen], set before each step
	Loss         *G.Node               // [1]: LossJEPA + VarianceCoeff · LossVariance
	LossJEPA     *G.Node               // [1]: mean over mask groups of mean |prediction - target|^e / e
	LossVariance *G.Node               // [1]: the variance hinge on predictions
	Norms        [2]*G.Node            // [1] each: squared gradient norm of encoder (nil: frozen) and of predictor, before clipping
	Gradients    map[string]*G.Node    // by tensor name, not clipped
	Moments      map[string][2]*G.Node // AdamW's first and second moment by tensor name
}

// NewTraining builds the training graph for batches of clips clips with groups mask
// groups each (1 for NextTubelet), in float32. With a frozen encoder it reads Features
// and trains the predictor alone; see frozen.go.
func NewTraining(c Config, clips, groups int, o TrainingOptions) (*Training, error) {
	return newTraining(c, clips, groups, o, tensor.Float32)
}

func newTraining(c Config, clips, groups int, o TrainingOptions, dtype tensor.Dtype) (*Training, error) {
	begin := build
	if c.FrozenEncoder {
		begin = buildOnFeatures
	}
	b, err := begin(c, clips, groups, dtype)
	if err != nil {
		return nil, fmt.Errorf("build training graph: %w", err)
	}
	t := &Training{Graph: b.Graph, Gradients: map[string]*G.Node{}, Moments: map[string][2]*G.Node{}}
	t.Schedule = b.input("schedule", dtype, graph.ScheduleLen)
	b.weights = b.input("loss weights", dtype, clips*groups)

	t.LossJEPA = b.node(graph.LpLoss(b.Pred, b.predictedTargets(), b.weights, b.predicted.offsets, o.Exponent))
	t.LossJEPA = b.node(graph.Scale(t.LossJEPA, 1/o.Exponent))
	t.LossVariance = b.node(graph.VarianceHinge(b.Pred, b.predicted.offsets, groups))
	t.Loss = b.node(graph.Add(t.LossJEPA, b.node(graph.Scale(t.LossVariance, o.VarianceCoeff))))
	if b.err != nil {
		return nil, fmt.Errorf("build loss: %w", b.err)
	}
	if err := t.optimiser(b, o); err != nil {
		return nil, fmt.Errorf("build optimiser: %w", err)
	}
	b.Program.Results = append(b.Program.Results, t.Loss, t.LossJEPA, t.LossVariance)
	for _, norm := range t.Norms {
		if norm != nil {
			b.Program.Results = append(b.Program.Results, norm)
		}
	}
	return t, b.Program.Validate()
}

// optimiser appends, for every trained tensor, its gradient, AdamW's step on it, and
// the moving average of its twin in the target encoder.
func (t *Training) optimiser(b *builder, o TrainingOptions) error {
	var trained []Param
	var wrt G.Nodes
	for _, p := range t.Config.Params() {
		if p.Trained {
			trained, wrt = append(trained, p), append(wrt, b.param(p.Name))
		}
	}
	loss := t.Loss
	if o.VarianceCoeff == 0 {
		loss = t.LossJEPA // leave the regulariser out of the backward pass
	}
	grads, err := graph.Grad(loss, wrt...)
	if err != nil {
		return err
	}
	var network [2]G.Nodes // gradients of encoder and of predictor, which are clipped apart
	of := func(name string) int {
		if strings.HasPrefix(name, EncoderPrefix) {
			return 0
		}
		return 1
	}
	for i, p := range trained {
		t.Gradients[p.Name] = grads[i]
		network[of(p.Name)] = append(network[of(p.Name)], grads[i])
	}
	var factor [2]*G.Node
	for i := range network {
		if len(network[i]) == 0 {
			continue
		}
		t.Norms[i] = b.node(graph.SumSquares(network[i]...))
		factor[i] = b.node(graph.ClipFactor(t.Norms[i], t.Schedule))
	}
	for i, p := range trained {
		state := func(kind string) *G.Node {
			n := G.NewTensor(b.g, b.dtype, wrt[i].Dims(), G.WithShape(wrt[i].Shape()...), G.WithName(kind+" of "+p.Name))
			b.Program.State = append(b.Program.State, n)
			return n
		}
		m, v := state("first moment"), state("second moment")
		t.Moments[p.Name] = [2]*G.Node{m, v}
		nextM := b.node(graph.FirstMoment(m, grads[i], factor[of(p.Name)], o.Beta1))
		nextV := b.node(graph.SecondMoment(v, grads[i], factor[of(p.Name)], o.Beta2))
		next := b.node(graph.AdamW(wrt[i], nextM, nextV, t.Schedule, o.Eps, p.Decays))
		b.Program.Updates = append(b.Program.Updates, graph.Update{State: m, Next: nextM},
			graph.Update{State: v, Next: nextV}, graph.Update{State: wrt[i], Next: next})
		if name, ok := strings.CutPrefix(p.Name, EncoderPrefix); ok && t.Config.Target == Representation {
			target := b.param(TargetPrefix + name)
			b.Program.Updates = append(b.Program.Updates, graph.Update{State: target, Next: b.node(graph.EMA(target, next, t.Schedule))})
		}
	}
	return b.err
}

// Embedding is one encoder's forward pass on whole clips.
type Embedding struct {
	*Graph
	Tokens *G.Node // [B·N,D]: the encoder's output after its last norm, not normalised further
}

// NewEmbedding builds the graph of one encoder, EncoderPrefix or TargetPrefix, for batches of clips whole clips. Its
// Params are that encoder's alone. Of a model with a frozen encoder the two are one.
func NewEmbedding(c Config, clips int, prefix string) (*Embedding, error) {
	if prefix != EncoderPrefix && prefix != TargetPrefix {
		return nil, fmt.Errorf("build embedding graph: network %q, want %q or %q", prefix, EncoderPrefix, TargetPrefix)
	}
	if prefix == TargetPrefix && c.OfPixels() {
		return nil, fmt.Errorf("build embedding graph: a model that predicts %s has no target encoder", c.Target)
	}
	if prefix == TargetPrefix {
		prefix = c.TargetNetwork()
	}
	b, err := newBuilder(c, clips, 1, tensor.Float32, prefix)
	if err != nil {
		return nil, fmt.Errorf("build embedding graph: %w", err)
	}
	patches := b.patches(c.Frames)
	b.fullToken = b.ints("full token", clips*c.Tokens())
	attention := b.full.offsets
	if c.Objective == NextTubelet {
		t, _, _ := c.Grid()
		b.tubelets = b.ints("tubelet offsets", clips*t+1)
		b.fullSpace, attention = b.fullToken, b.tubelets
	}
	e := &Embedding{Graph: b.Graph, Tokens: b.encoder(prefix, patches, b.fullToken, b.full, attention)}
	b.Program.Results = append(b.Program.Results, e.Tokens)
	if b.err != nil {
		return nil, fmt.Errorf("build embedding graph: %w", b.err)
	}
	return e, b.Program.Validate()
}

// Pack writes the layout of whole clips into a machine's inputs.
func (e *Embedding) Pack(m graph.Buffers) { e.packFull(m) }
