package graph

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// AttentionOp is multi-head self-attention inside each segment, scaled by
// head_dim^-0.5. Inputs: qkv [R,3D] (all queries, all keys, all values; head-major
// inside each), offsets int32 [S+1]. Result: [R,D], padding zero.
//
// Block 0 lets every row see its whole segment. Block n > 0 is block-causal: row i of
// a segment sees row j where j/n <= i/n, so with n tokens to a tubelet it sees its own
// tubelet and all before it.
type AttentionOp struct {
	typed
	Heads, Block int
}

// SeenScores is how many pairs of a query and a key that it sees there are in the segments that offsets divide; see
// AttentionOp.
func SeenScores(offsets []int32, block int) (pairs float64) {
	for s := range len(offsets) - 1 {
		n := int(offsets[s+1] - offsets[s])
		if block == 0 {
			pairs += float64(n) * float64(n)
			continue
		}
		for first := 0; first < n; first += block {
			last := min(n, first+block)
			pairs += float64(last-first) * float64(last)
		}
	}
	return pairs
}

// Attention returns multi-head self-attention inside each segment, [R,D]; see AttentionOp.
func Attention(qkv, offsets *G.Node, heads, block int) (*G.Node, error) {
	return apply(&AttentionOp{Heads: heads, Block: block}, qkv, 2, qkv, offsets)
}

func (o *AttentionOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if o.Heads < 1 || o.Block < 0 || s[0][1]%(3*o.Heads) != 0 {
		return nil, fmt.Errorf("qkv of %d columns does not split into q, k and v of %d heads (block %d)", s[0][1], o.Heads, o.Block)
	}
	return tensor.Shape{s[0][0], s[0][1] / 3}, nil
}

func (o *AttentionOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return attention[float32](in, o.Heads, o.Block) },
		func(in []G.Value) (G.Value, error) { return attention[float64](in, o.Heads, o.Block) })
}

func attention[F Float](in []G.Value, heads, block int) (G.Value, error) {
	rows, d := in[0].Shape()[0], in[0].Shape()[1]/3
	qkv := floats[F](in[0])
	out := make([]F, rows*d)
	hd := d / heads
	err := attentionRows(in, heads, block, func(i, head int, keys []int, p []float64) {
		o := out[i*d+head*hd:]
		for l := 0; l < hd; l++ {
			var sum float64
			for n, j := range keys {
				sum += p[n] * float64(qkv[j*3*d+2*d+head*hd+l])
			}
			o[l] = F(sum)
		}
	})
	return value(out, rows, d), err
}

// attentionRows calls do for every row and head with the rows it sees (keys) and
// their attention probabilities p, of the same length.
func attentionRows(in []G.Value, heads, block int, do func(i, head int, keys []int, p []float64)) error {
	off, err := segments("offsets", in[1], in[0].Shape()[0])
	if err != nil {
		return err
	}
	var at func(i int) float64
	if in[0].Dtype() == tensor.Float32 {
		q := floats[float32](in[0])
		at = func(i int) float64 { return float64(q[i]) }
	} else {
		q := floats[float64](in[0])
		at = func(i int) float64 { return q[i] }
	}
	d := in[0].Shape()[1] / 3
	hd := d / heads
	scale := 1 / math.Sqrt(float64(hd))
	for s := 0; s < len(off)-1; s++ {
		first, last := int(off[s]), int(off[s+1])
		for i := first; i < last; i++ {
			seen := last
			if block > 0 {
				seen = min(last, first+((i-first)/block+1)*block)
			}
			keys, p := make([]int, seen-first), make([]float64, seen-first)
			for head := 0; head < heads; head++ {
				most, total := math.Inf(-1), 0.0
				for n := range keys {
					keys[n], p[n] = first+n, 0
					for l := 0; l < hd; l++ {
						p[n] += at(i*3*d+head*hd+l) * at((first+n)*3*d+d+head*hd+l)
					}
					p[n] *= scale
					most = max(most, p[n])
				}
				for n := range p {
					p[n] = math.Exp(p[n] - most)
					total += p[n]
				}
				for n := range p {
					p[n] /= total
				}
				do(i, head, keys, p)
			}
		}
	}
	return nil
}

func (o *AttentionOp) DiffWRT(int) []bool { return []bool{true, false} }
func (o *AttentionOp) Grads(in G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	dx, err := apply(&AttentionGradOp{Heads: o.Heads, Block: o.Block}, grad, 2, in[0], in[1], grad)
	return G.Nodes{dx, nil}, err
}

// AttentionGradOp is Attention's gradient. Inputs: qkv [R,3D], offsets int32 [S+1],
// dy [R,D]. Result: [R,3D], padding zero.
type AttentionGradOp struct {
	typed
	Heads, Block int
}

func (o *AttentionGradOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	return s[0].Clone(), want("dy", s[2], s[0][0], s[0][1]/3)
}

func (o *AttentionGradOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return attentionGrad[float32](in, o.Heads, o.Block) },
		func(in []G.Value) (G.Value, error) { return attentionGrad[float64](in, o.Heads, o.Block) })
}

// attentionGrad uses, for one row's scores s and probabilities p = softmax(s):
// dp = v·dy, ds = p (dp - Σ p dp), dq = Σ ds k, dk = ds q, dv = p dy (ds with the scale).
func attentionGrad[F Float](in []G.Value, heads, block int) (G.Value, error) {
	rows, d := in[0].Shape()[0], in[0].Shape()[1]/3
	qkv, dy := floats[F](in[0]), floats[F](in[2])
	out := make([]float64, rows*3*d)
	hd := d / heads
	scale := 1 / math.Sqrt(float64(hd))
	err := attentionRows(in, heads, block, func(i, head int, keys []int, p []float64) {
		ds := make([]float64, len(p))
		var mean float64
		for n, j := range keys {
			for l := 0; l < hd; l++ {
				g := float64(dy[i*d+head*hd+l])
				ds[n] += g * float64(qkv[j*3*d+2*d+head*hd+l])
				out[j*3*d+2*d+head*hd+l] += p[n] * g
			}
			mean += p[n] * ds[n]
		}
		for n, j := range keys {
			ds[n] = p[n] * (ds[n] - mean) * scale
			for l := 0; l < hd; l++ {
				out[i*3*d+head*hd+l] += ds[n] * float64(qkv[j*3*d+d+head*hd+l])
				out[j*3*d+d+head*hd+l] += ds[n] * float64(qkv[i*3*d+head*hd+l])
			}
		}
	})
	return value(narrow[F](out), rows, 3*d), err
}

func (o *AttentionOp) String() string {
	return fmt.Sprintf("Attention(heads=%d,block=%d)", o.Heads, o.Block)
}
func (o *AttentionGradOp) String() string {
	return fmt.Sprintf("AttentionGrad(heads=%d,block=%d)", o.Heads, o.Block)
}
