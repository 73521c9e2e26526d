package model

import (
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// Scoring is the forward pass whose result is each predicted token's error.
type Scoring struct {
	*Graph
	Errors *G.Node // [R,1]: mean |prediction - target| over features, packed as Pred is

	// What Tubelets gives of the windows' tubelets, in NewTubeletScoring alone; Clip is nil then.
	// Context is that of the first ContextTubelets, [B,1,ContextTubelets·HW·D,1,1]; Goal that of
	// the tubelets from FirstGoal on, [B,1,(T-FirstGoal)·HW·TargetDim,1,1].
	Context, Goal              *G.Node
	ContextTubelets, FirstGoal int
}

// NewScoring builds the scoring graph for batches of clips windows, each with groups
// context lengths (1 for NextTubelet). It reads whole windows, each as if there were no
// other: what NewTubeletScoring is held to.
func NewScoring(c Config, clips, groups int) (*Scoring, error) {
	b, err := build(c, clips, groups, tensor.Float32)
	if err != nil {
		return nil, fmt.Errorf("build scoring graph: %w", err)
	}
	s := &Scoring{Graph: b.Graph}
	return s, s.measure(b, b.predictedTargets())
}

// measure ends a scoring graph with the errors of its predictions.
func (s *Scoring) measure(b *builder, targets *G.Node) error {
	b.firstMaskTokenForAllSegments = true
	s.Errors = b.node(graph.RowError(b.Pred, targets))
	b.Program.Results = append(b.Program.Results, s.Errors)
	if b.err != nil {
		return fmt.Errorf("build scoring graph: %w", b.err)
	}
	return b.Program.Validate()
}

// Tubelets is the part of scoring that does not depend on the window that a tubelet lies in, so that overlapping
// windows have it in common. For Masked that is the embedding of patches: what follows adds positions, and attention over
// the window. For NextTubelet, whose encoders see one tubelet at a time, it is all that they compute.
type Tubelets struct {
	*Graph          // Clips is tubelets, Clip [B,3,tubelet,height,width]
	Context *G.Node // [B·HW,D]
	Goal    *G.Node // [B·HW,TargetDim], for NextTubelet and for pixels the targets themselves; it may be Context
}

// NewTubelets builds the graph for batches of clips tubelets.
func NewTubelets(c Config, clips int) (*Tubelets, error) {
	prefixes := []string{EncoderPrefix, TargetPrefix}
	if c.Objective == Masked {
		prefixes = []string{EncoderPrefix + patchEmbedding, TargetPrefix + patchEmbedding}
	}
	b, err := newBuilder(c, clips, 1, tensor.Float32, prefixes...)
	if err != nil {
		return nil, fmt.Errorf("build tubelet graph: %w", err)
	}
	_, h, w := c.Grid()
	b.full.capacity = clips * h * w
	b.fullToken = b.ints("full token", b.full.capacity)
	patches := b.patches(c.Tubelet)
	network := func(prefix string) *G.Node {
		if c.Objective == Masked {
			return b.embed(prefix, patches)
		}
		return b.encoder(prefix, patches, b.fullToken, b.full, b.full.offsets)
	}
	t := &Tubelets{Graph: b.Graph, Context: network(EncoderPrefix)}
	t.Goal = t.Context
	if of := c.TargetNetwork(); of != "" && of != EncoderPrefix {
		t.Goal = network(of)
	}
	switch {
	case c.OfPixels():
		t.Goal = b.pixels(patches)
	case c.Objective == NextTubelet:
		t.Goal = b.node(graph.Normalize(t.Goal, targetEps))
	}
	b.Program.Results = append(b.Program.Results, t.Context)
	if t.Goal != t.Context {
		b.Program.Results = append(b.Program.Results, t.Goal)
	}
	if b.err != nil {
		return nil, fmt.Errorf("build tubelet graph: %w", b.err)
	}
	return t, b.Program.Validate()
}

// Pack writes the layout of tubelets into a machine's inputs.
func (t *Tubelets) Pack(m graph.Buffers) {
	_, h, w := t.Config.Grid()
	ramp(m.Ints(t.full.offsets), h*w)
	for i := range m.Ints(t.fullToken) {
		m.Ints(t.fullToken)[i] = int32(i % (h * w)) // as in the first tubelet of a window
	}
}

// NewTubeletScoring builds the scoring graph for windows whose tubelets Tubelets has seen. Its errors are those of
// NewScoring, bit for bit; for Masked with a table of positions, but for the order in which patch embedding, bias and
// position are added.
func NewTubeletScoring(c Config, clips, groups int) (*Scoring, error) {
	b, err := newBuilder(c, clips, groups, tensor.Float32, EncoderPrefix, PredictorPrefix, TargetPrefix)
	if err != nil {
		return nil, fmt.Errorf("build scoring graph: %w", err)
	}
	t, h, w := c.Grid()
	s := &Scoring{Graph: b.Graph, ContextTubelets: t}
	if c.Objective == NextTubelet { // the last tubelet has no next one, and the first is none
		s.ContextTubelets, s.FirstGoal = t-1, 1
	}
	var context, goal *G.Node
	s.Context, context = b.rows("context", s.ContextTubelets*h*w, c.Dim)
	s.Goal, goal = b.rows("goal", (t-s.FirstGoal)*h*w, c.TargetDim())
	if c.Objective == NextTubelet {
		b.next = b.space("next", clips, clips*(t-1)*h*w)
		b.predicted = b.next
		b.nextFrom, b.nextTo = b.ints("next from", b.next.capacity), b.ints("next to", b.next.capacity)
		b.Pred = b.node(graph.Add(b.blockCausal(context, b.nextFrom, b.next, nil), b.linear("predictor.predictor_skip", context)))
		return s, s.measure(b, goal)
	}
	b.packMasked()
	b.Target = goal
	if of := c.TargetNetwork(); of != "" {
		b.Target = b.node(graph.Normalize(b.encodeEmbedded(of, goal, b.fullToken, b.full, b.full.offsets), targetEps))
	}
	visible := b.node(graph.Gather(context, b.contextToken, b.full.offsets, b.context.offsets))
	b.predictor(b.encodeEmbedded(EncoderPrefix, visible, b.contextToken, b.context, b.context.offsets), true)
	return s, s.measure(b, b.predictedTargets())
}

// TargetsAlone leaves the errors out: the result is Target, of a NewTubeletScoring graph for Masked.
func (s *Scoring) TargetsAlone() {
	s.Program.Results = G.Nodes{s.Target}
}
