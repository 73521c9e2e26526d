package graph

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Rotation is how rotary positions turn a token's place in the grid into angles.
//
// The channels of a head are a block for time, one for height, one for width, of D = 2·⌊⌊head_dim/3⌋/2⌋ each, and an
// unrotated tail. With K = D/2 and ω_i = 10000^(-i/K), channel j of a block at position pos is turned against its
// neighbour by the angle pos·ω_i, where the two published variants differ in i:
//
//	Interleaved false: i = j mod K. V-JEPA 2 and VJEPA2Model of transformers. The two channels of a pair have
//	                   different angles, so this is no rotation in the strict sense; the models are trained so.
//	Interleaved true:  i = j div 2. The vit_*_rope models of facebookresearch/jepa-intuitive-physics.
type Rotation struct {
	T, H, W     int // token grid; token = (t·H + h)·W + w
	Interleaved bool
}

// RotateOp applies rotary positions to queries and keys. Inputs: qkv [R,3D] (all queries, all keys, all values;
// head-major inside each), token int32 [R], offsets int32 [S+1] (rows beyond the last are padding). Result: [R,3D]; the
// values are copied, padding is zero. With c and s from Tables, y[j] = c[j]·x[j] + s[j]·x[j^1].
//
// Transposed is the gradient of the plain operation, and the other way round.
type RotateOp struct {
	typed
	Rotation   Rotation
	Heads      int
	Transposed bool
}

// Rotate returns qkv [R,3D] with queries and keys turned by the positions of their tokens; see RotateOp.
func Rotate(qkv, token, offsets *G.Node, heads int, r Rotation) (*G.Node, error) {
	return apply(&RotateOp{Rotation: r, Heads: heads}, qkv, 2, qkv, token, offsets)
}

func (o *RotateOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if err := want("qkv", s[0], -1, -1); err != nil {
		return nil, err
	}
	r := o.Rotation
	if o.Heads < 1 || s[0][1]%(3*o.Heads) != 0 || r.T < 1 || r.H < 1 || r.W < 1 {
		return nil, fmt.Errorf("qkv of %d columns with %d heads on a grid of %d×%d×%d", s[0][1], o.Heads, r.T, r.H, r.W)
	}
	if Rotated(s[0][1]/3/o.Heads) == 0 {
		return nil, fmt.Errorf("a head of %d features has none to rotate, want at least 6", s[0][1]/3/o.Heads)
	}
	return s[0].Clone(), want("token", s[1], s[0][0])
}

// Rotated is how many leading channels of a head are rotated: 3D of its head_dim.
func Rotated(headDim int) int { return 3 * (2 * (headDim / 3 / 2)) }

// Tokens is the number of positions in the grid.
func (r Rotation) Tokens() int { return r.T * r.H * r.W }

// Tables returns the factors c and s, each [T·H·W, Rotated(headDim)], for every token.
func (o *RotateOp) Tables(headDim int) (c, s []float64) {
	turned := Rotated(headDim)
	d := turned / 3
	r := o.Rotation
	c, s = make([]float64, 0, r.Tokens()*turned), make([]float64, 0, r.Tokens()*turned)
	angle := func(pos, j int) float64 {
		i := j % (d / 2)
		if r.Interleaved {
			i = j / 2
		}
		return float64(pos) * math.Pow(10000, -float64(i)/float64(d/2))
	}
	for token := range r.Tokens() {
		for _, pos := range []int{token / (r.H * r.W), token / r.W % r.H, token % r.W} {
			for j := range d {
				c = append(c, math.Cos(angle(pos, j)))
				// Channel 2m takes -x[2m+1] sin, channel 2m+1 takes x[2m] sin; transposed, each takes what the other gave.
				from := j
				if o.Transposed {
					from = j ^ 1
				}
				sign := 1.0
				if from%2 == 0 {
					sign = -1
				}
				s = append(s, sign*math.Sin(angle(pos, from)))
			}
		}
	}
	return c, s
}

func (o *RotateOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return rotate[float32](in, o) },
		func(in []G.Value) (G.Value, error) { return rotate[float64](in, o) })
}

func rotate[F Float](in []G.Value, o *RotateOp) (G.Value, error) {
	rows, d := in[0].Shape()[0], in[0].Shape()[1]/3
	x, token := floats[F](in[0]), ints(in[1])
	off, err := segments("offsets", in[2], rows)
	if err != nil {
		return nil, err
	}
	hd := d / o.Heads
	turned := Rotated(hd)
	c, s := o.Tables(hd)
	y := make([]F, rows*3*d)
	for i := range int(off[len(off)-1]) {
		t := int(token[i])
		if t < 0 || t >= o.Rotation.Tokens() {
			return nil, fmt.Errorf("token %d is %d, want 0 to %d", i, t, o.Rotation.Tokens()-1)
		}
		for col := range 3 * d {
			j, at := col%hd, i*3*d+col
			if col >= 2*d || j >= turned {
				y[at] = x[at]
				continue
			}
			y[at] = F(c[t*turned+j]*float64(x[at]) + s[t*turned+j]*float64(x[at-j+(j^1)]))
		}
	}
	return value(y, rows, 3*d), nil
}

func (o *RotateOp) DiffWRT(int) []bool { return []bool{true, false, false} }
func (o *RotateOp) Grads(in G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	dx, err := apply(&RotateOp{Rotation: o.Rotation, Heads: o.Heads, Transposed: !o.Transposed}, grad, 2, grad, in[1], in[2])
	return G.Nodes{dx, nil, nil}, err
}

func (o *RotateOp) String() string {
	r := o.Rotation
	return fmt.Sprintf("Rotate(%d×%d×%d,heads=%d,interleaved=%t,transposed=%t)", r.T, r.H, r.W, o.Heads, r.Interleaved, o.Transposed)
}
