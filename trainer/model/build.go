package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// Graph is a model's computation for batches of up to B clips with G segments each,
// with the nodes that the outside sets or reads.
type Graph struct {
	Config  Config
	Program *graph.Program
	Clips   int // B
	Groups  int // G: mask groups when training, context lengths when scoring; 1 for NextTubelet

	Params map[string]*G.Node // weights by name
	Clip   *G.Node            // [B,3,frames,size,size], normalised; nil if Features stand for all of it

	// Features is a frozen encoder's output on whole clips, in training: [B,1,N·D,1,1], its N tokens of D features one
	// after the other. nil in other graphs.
	Features *G.Node

	Target *G.Node // [B·N,TargetDim]: the target encoder's output, or pixels, every token normalised
	Pred   *G.Node // [S·N,TargetDim]: predictions, packed

	packed // what Pack fills in
}

// rows is a space of packed token rows.
type rows struct {
	offsets  *G.Node // int32 [segments+1]
	capacity int     // rows at most
}

// packed holds the int32 inputs that describe where tokens are.
type packed struct {
	full     rows    // [B·N]: all tokens of every clip
	tubelets *G.Node // NextTubelet: int32 [B·T+1], offsets of each clip's tubelets in full

	context, pred, both          rows    // Masked: visible tokens, hidden tokens, visible then hidden
	contextToken, predToken      *G.Node // token of each row
	contextPlace, predPlace      *G.Node // its row in the segment of both
	bothToken                    *G.Node // rotary positions: token of each row of both
	maskToken                    *G.Node // mask token of each hidden row
	fullToken, fullSpace         *G.Node // NextTubelet: each row's token; the same in the first tubelet
	next                         rows    // NextTubelet: [B·(N-HW)]: rows that have a next tubelet
	nextFrom, nextTo             *G.Node // row it is predicted from, row that is predicted
	weights                      *G.Node // loss weight of each segment, float [S]
	predicted                    rows    // pred or next: the space of Pred
	firstMaskTokenForAllSegments bool    // scoring: mask token 0 whatever the context length
}

// builder collects nodes; the first error sticks.
type builder struct {
	*Graph
	g     *G.ExprGraph
	dtype tensor.Dtype
	err   error
}

func (b *builder) node(n *G.Node, err error) *G.Node {
	if err != nil && b.err == nil {
		b.err = err
	}
	return n
}

func (b *builder) input(name string, dtype tensor.Dtype, shape ...int) *G.Node {
	n := G.NewTensor(b.g, dtype, len(shape), G.WithShape(shape...), G.WithName(name))
	b.Program.Inputs = append(b.Program.Inputs, n)
	return n
}

func (b *builder) ints(name string, size int) *G.Node { return b.input(name, tensor.Int32, size) }

func (b *builder) space(name string, segments, capacity int) rows {
	return rows{b.ints(name+" offsets", segments+1), capacity}
}

func (b *builder) param(name string) *G.Node {
	n := b.Params[name]
	if n == nil && b.err == nil {
		b.err = fmt.Errorf("model has no tensor %s", name)
	}
	return n
}

// newBuilder begins a graph with the tensors whose names begin with one of the prefixes.
func newBuilder(c Config, clips, groups int, dtype tensor.Dtype, prefixes ...string) (*builder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if clips < 1 || groups < 1 || clips*groups*c.Tokens() > 1<<26 {
		return nil, fmt.Errorf("batch of %d clips with %d segments of up to %d tokens: want 1 to %d tokens in all", clips, groups, c.Tokens(), 1<<26)
	}
	b := &builder{g: G.NewGraph(), dtype: dtype, Graph: &Graph{Config: c, Clips: clips, Groups: groups,
		Program: &graph.Program{Clips: clips}, Params: map[string]*G.Node{}}}
	for _, p := range c.Params() {
		if !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(p.Name, prefix) }) {
			continue
		}
		shape := p.GraphShape()
		n := G.NewTensor(b.g, dtype, len(shape), G.WithShape(shape...), G.WithName(p.Name))
		b.Params[p.Name] = n
		b.Program.State = append(b.Program.State, n)
	}
	b.full = b.space("full", clips, clips*c.Tokens())
	return b, b.err
}

// patches adds the clip, of so many frames, and returns its patches, [B·N, 3·tubelet·patch²] of a whole one.
func (b *builder) patches(frames int) *G.Node {
	c := b.Config
	height, width := c.Frame()
	b.Clip = b.input("clip", b.dtype, b.Clips, channels, frames, height, width)
	return b.node(graph.Patchify(b.Clip, c.Tubelet, c.Patch))
}

// build makes encoder, target encoder and predictor for the forward pass.
func build(c Config, clips, groups int, dtype tensor.Dtype) (*builder, error) {
	b, err := newBuilder(c, clips, groups, dtype, EncoderPrefix, PredictorPrefix, TargetPrefix)
	if err != nil {
		return nil, err
	}
	patches := b.patches(c.Frames)
	if c.Objective == Masked {
		b.packMasked()
		b.Target = b.target(patches, b.fullToken, b.full.offsets)
		b.predictFrom(patches)
	} else {
		b.packNextTubelet()
		context := b.encoder(EncoderPrefix, patches, b.fullSpace, b.full, b.tubelets)
		if c.FrozenEncoder { // it is the target encoder too, and sees the same
			b.Target = b.node(graph.Normalize(context, targetEps))
		} else {
			b.Target = b.target(patches, b.fullSpace, b.tubelets)
		}
		b.predictNext(context)
	}
	return b, b.err
}

// packMasked makes the inputs that Pack fills in for Masked.
func (b *builder) packMasked() {
	n, s := b.Config.Tokens(), b.Clips*b.Groups
	b.context, b.pred, b.both = b.space("context", s, s*n), b.space("pred", s, s*n), b.space("both", s, s*n)
	b.contextToken, b.contextPlace = b.ints("context token", s*n), b.ints("context place", s*n)
	b.predToken, b.predPlace = b.ints("pred token", s*n), b.ints("pred place", s*n)
	b.maskToken, b.fullToken = b.ints("mask token", s*n), b.ints("full token", b.Clips*n)
	b.predicted = b.pred
}

// predictFrom is V-JEPA: the context encoder sees the visible tokens alone; the predictor
// sees their representations and a mask token for every hidden one.
func (b *builder) predictFrom(patches *G.Node) {
	visible := b.node(graph.Gather(patches, b.contextToken, b.full.offsets, b.context.offsets))
	b.predictor(b.encoder(EncoderPrefix, visible, b.contextToken, b.context, b.context.offsets), false)
}

// predictor sets Pred from the representation of visible tokens, context [S·N,D]. In the last block nothing reads what
// becomes of visible tokens after attention; with early they are dropped there. The errors are the same, and a forward pass
// has less to do.
func (b *builder) predictor(context *G.Node, early bool) {
	c := b.Config
	// x [S·N,P]: representation of visible tokens, mask token for hidden ones; plus position, if it is not rotary
	x := b.linear("predictor.predictor_embed", context)
	x = b.position(x, b.contextToken, b.context, "predictor.predictor_pos_embed")
	masks := make(G.Nodes, c.MaskTokens)
	for i := range masks {
		masks[i] = b.param(fmt.Sprintf("predictor.mask_tokens.%d", i))
	}
	y := b.node(graph.Lookup(b.maskToken, b.pred.offsets, masks...))
	y = b.position(y, b.predToken, b.pred, "predictor.predictor_pos_embed")
	x = b.node(graph.Scatter(x, b.contextPlace, b.context.offsets, b.both.offsets, b.both.capacity))
	y = b.node(graph.Scatter(y, b.predPlace, b.pred.offsets, b.both.offsets, b.both.capacity))
	p := stack{prefix: "predictor.predictor_blocks", depth: c.PredDepth, heads: c.PredHeads, mlp: c.PredMLP, offsets: b.both.offsets, space: b.both}
	if c.Rotary() {
		p.token = b.ints("both token", b.both.capacity)
		b.bothToken = p.token
	}
	hidden := func(x *G.Node) *G.Node { return b.node(graph.Gather(x, b.predPlace, b.both.offsets, b.pred.offsets)) }
	if early {
		p.pick = hidden
	}
	x = b.blocks(p, b.node(graph.Add(x, y)))
	if !early {
		x = hidden(x)
	}
	b.Pred = b.linear("predictor.predictor_proj", b.norm("predictor.predictor_norm", x))
}

// position adds a position table to x, where the model has one.
func (b *builder) position(x, token *G.Node, space rows, table string) *G.Node {
	if b.Config.Rotary() {
		return x
	}
	rows := b.param(table)
	if b.err != nil {
		return x
	}
	return b.node(graph.Add(x, b.node(graph.Lookup(token, space.offsets, rows))))
}

// packNextTubelet makes the inputs that Pack fills in for NextTubelet.
func (b *builder) packNextTubelet() {
	c := b.Config
	t, h, w := c.Grid()
	n := b.Clips * c.Tokens()
	b.tubelets = b.ints("tubelet offsets", b.Clips*t+1)
	b.fullToken, b.fullSpace = b.ints("full token", n), b.ints("full token in space", n)
	b.next = b.space("next", b.Clips, b.Clips*(t-1)*h*w)
	b.nextFrom, b.nextTo = b.ints("next from", b.next.capacity), b.ints("next to", b.next.capacity)
	b.predicted = b.next
}

// predictNext takes tubelets that were encoded one by one, with attention inside each, context [B·N,D]; it adds time,
// and predicts tubelet t+1 from the block-causal predictor's output at t plus a linear map of the token at t.
func (b *builder) predictNext(context *G.Node) {
	last := func(x *G.Node) *G.Node { return b.node(graph.Gather(x, b.nextFrom, b.full.offsets, b.next.offsets)) }
	x := b.blockCausal(context, b.fullToken, b.full, last)
	b.Pred = b.node(graph.Add(x, b.linear("predictor.predictor_skip", last(context))))
}

// blockCausal is NextTubelet's predictor, but for the linear map beside it, on tubelets in a space of rows whose tokens
// are given; pick, if there is one, takes the rows that are wanted of the last block's output.
func (b *builder) blockCausal(context, token *G.Node, space rows, pick func(*G.Node) *G.Node) *G.Node {
	c := b.Config
	_, h, w := c.Grid()
	x := b.linear("predictor.predictor_embed", context)
	x = b.position(x, token, space, "predictor.predictor_pos_embed")
	x = b.blocks(stack{prefix: "predictor.predictor_blocks", depth: c.PredDepth, heads: c.PredHeads, mlp: c.PredMLP, offsets: space.offsets,
		causal: h * w, token: token, space: space}, x)
	if pick != nil {
		x = pick(x)
	}
	return b.linear("predictor.predictor_proj", b.norm("predictor.predictor_norm", x))
}

// predictedTargets are the rows of Target that Pred predicts, in Pred's order.
func (b *builder) predictedTargets() *G.Node {
	token := b.predToken
	if b.Config.Objective == NextTubelet {
		token = b.nextTo
	}
	return b.node(graph.Gather(b.Target, token, b.full.offsets, b.predicted.offsets))
}

const (
	normEps   = 1e-6 // LayerNorm inside the networks
	targetEps = 1e-5 // target normalisation (F.layer_norm's default)
)

// encoder is a ViT on tubelet rows x [R, 3·tubelet·patch²]; result [R,D]. Attention
// stays inside the segments of the given offsets, which divide the same rows as space.
func (b *builder) encoder(prefix string, x, token *G.Node, space rows, attention *G.Node) *G.Node {
	return b.encodeEmbedded(prefix, b.embed(prefix, x), token, space, attention)
}

const patchEmbedding = "patch_embed."

// embed is an encoder's patch embedding, without positions: [R, 3·tubelet·patch²] -> [R,D].
func (b *builder) embed(prefix string, x *G.Node) *G.Node {
	return b.linear(prefix+patchEmbedding+"proj", x)
}

// encodeEmbedded is what an encoder does after that.
func (b *builder) encodeEmbedded(prefix string, x, token *G.Node, space rows, attention *G.Node) *G.Node {
	x = b.position(x, token, space, prefix+"pos_embed")
	x = b.blocks(stack{prefix: prefix + "blocks", depth: b.Config.Depth, heads: b.Config.Heads, mlp: b.Config.MLP, offsets: attention,
		token: token, space: space}, x)
	return b.norm(strings.TrimSuffix(prefix, ".")+".norm", x)
}

// stack is the blocks of one network.
type stack struct {
	prefix       string
	depth, heads int
	mlp          string
	offsets      *G.Node               // of the segments that attention stays inside
	causal       int                   // see graph.AttentionOp
	token        *G.Node               // rotary positions: the token of each row
	space        rows                  // of those rows
	pick         func(*G.Node) *G.Node // takes the rows that are wanted of the last block; nil: all
}

// blocks are pre-norm transformer blocks on x [R,D].
func (b *builder) blocks(s stack, x *G.Node) *G.Node {
	for i := range s.depth {
		p := fmt.Sprintf("%s.%d", s.prefix, i)
		a := b.rotate(s, b.linear(p+".attn.qkv", b.norm(p+".norm1", x))) // [R,3D]
		a = b.node(graph.Attention(a, s.offsets, s.heads, s.causal))
		if i == s.depth-1 && s.pick != nil {
			a, x = s.pick(a), s.pick(x)
		}
		a = b.linear(p+".attn.proj", a)
		x = b.node(graph.Add(x, a))
		x = b.node(graph.Add(x, b.mlp(s.mlp, p+".mlp", b.norm(p+".norm2", x))))
	}
	return x
}

// rotate turns queries and keys, where positions are rotary.
func (b *builder) rotate(s stack, qkv *G.Node) *G.Node {
	if !b.Config.Rotary() {
		return qkv
	}
	t, h, w := b.Config.Grid()
	r := graph.Rotation{T: t, H: h, W: w, Interleaved: b.Config.Positions == RoPEInterleaved}
	return b.node(graph.Rotate(qkv, s.token, s.space.offsets, s.heads, r))
}

func (b *builder) mlp(kind, name string, x *G.Node) *G.Node {
	if kind == SwiGLU {
		gate, up := b.linear(name+".fc1", x), b.linear(name+".fc2", x)
		return b.linear(name+".fc3", b.node(graph.SwiGLU(gate, up)))
	}
	return b.linear(name+".fc2", b.node(graph.GELU(b.linear(name+".fc1", x)))) // [R,4D] inside
}

func (b *builder) linear(name string, x *G.Node) *G.Node {
	if b.err != nil {
		return x
	}
	return b.node(graph.Linear(x, b.param(name+".weight"), b.param(name+".bias")))
}

func (b *builder) norm(name string, x *G.Node) *G.Node {
	if b.err != nil {
		return x
	}
	return b.node(graph.LayerNorm(x, b.param(name+".weight"), b.param(name+".bias"), cmp.Or(b.Config.NormEps, normEps)))
}
