package graph

import (
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Operations that move token rows: patches from a clip, gather, scatter, table look-up.

// PatchifyOp cuts a clip into tubelets. Input: clip [B,C,F,Y,X] (channels, frames,
// height, width in px). Result: [B·T·H·W, C·Tubelet·Patch·Patch]; rows in (t,h,w)
// order, columns in (channel, frame, y, x) order: the flattening of a published
// patch_embed.proj.weight.
type PatchifyOp struct {
	typed
	Tubelet, Patch int
}

// Patchify returns one row of pixels for every tubelet of clip [B,C,F,Y,X].
func Patchify(clip *G.Node, tubelet, patch int) (*G.Node, error) {
	return apply(&PatchifyOp{Tubelet: tubelet, Patch: patch}, clip, 2, clip)
}

func (o *PatchifyOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	c := s[0]
	if err := want("clip", c, -1, -1, -1, -1, -1); err != nil {
		return nil, err
	}
	if o.Tubelet < 1 || o.Patch < 1 || c[2]%o.Tubelet != 0 || c[3]%o.Patch != 0 || c[4]%o.Patch != 0 {
		return nil, fmt.Errorf("clip %v cannot be cut into tubelets of %d frames by %d px", c, o.Tubelet, o.Patch)
	}
	return tensor.Shape{c[0] * (c[2] / o.Tubelet) * (c[3] / o.Patch) * (c[4] / o.Patch), c[1] * o.Tubelet * o.Patch * o.Patch}, nil
}

func (o *PatchifyOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return patchify[float32](in, o.Tubelet, o.Patch) },
		func(in []G.Value) (G.Value, error) { return patchify[float64](in, o.Tubelet, o.Patch) })
}

func patchify[F Float](in []G.Value, tubelet, patch int) (G.Value, error) {
	s, clip := in[0].Shape(), floats[F](in[0])
	b, c, f, y, x := s[0], s[1], s[2], s[3], s[4]
	t, h, w := f/tubelet, y/patch, x/patch
	out := make([]F, 0, len(clip))
	for row := 0; row < b*t*h*w; row++ {
		bi, ti, hi, wi := row/(t*h*w), row/(h*w)%t, row/w%h, row%w
		for col := 0; col < c*tubelet*patch*patch; col++ {
			ci, df, dy, dx := col/(tubelet*patch*patch), col/(patch*patch)%tubelet, col/patch%patch, col%patch
			out = append(out, clip[(((bi*c+ci)*f+ti*tubelet+df)*y+hi*patch+dy)*x+wi*patch+dx])
		}
	}
	return value(out, b*t*h*w, c*tubelet*patch*patch), nil
}

// GatherOp copies rows inside each clip: row i of a result segment is row index[i]
// of the source segment it belongs to. Inputs: x [Rx,D], index int32 [Ry], from int32
// [Sx+1] (offsets of x), to int32 [Sy+1] (offsets of the result). Sy is a multiple of
// Sx: consecutive result segments share a source segment. Result: [Ry,D], padding zero.
type GatherOp struct{ typed }

// Gather returns the rows of x that index names, [Ry,D]; see GatherOp.
func Gather(x, index, from, to *G.Node) (*G.Node, error) {
	return apply(&GatherOp{}, x, 2, x, index, from, to)
}

func (o *GatherOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if sx, sy := s[2].TotalSize()-1, s[3].TotalSize()-1; sx < 1 || sy%sx != 0 {
		return nil, fmt.Errorf("%d result segments from %d source segments: want a multiple", sy, sx)
	}
	return tensor.Shape{s[1][0], s[0][1]}, nil
}

func (o *GatherOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, gather[float32], gather[float64])
}

func gather[F Float](in []G.Value) (G.Value, error) {
	rows, d := in[1].Shape()[0], in[0].Shape()[1]
	y := make([]F, rows*d)
	err := pairRows(in[1], in[2], in[3], in[0].Shape()[0], func(whole, part int) {
		copy(y[part*d:(part+1)*d], floats[F](in[0])[whole*d:(whole+1)*d])
	})
	return value(y, rows, d), err
}

func (o *GatherOp) DiffWRT(int) []bool { return []bool{true, false, false, false} }
func (o *GatherOp) Grads(in G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	dx, err := Scatter(grad, in[1], in[3], in[2], in[0].Shape()[0])
	return G.Nodes{dx, nil, nil, nil}, err
}

// ScatterOp is the transpose of Gather: row i of a segment of x is added to row
// index[i] of the result segment it belongs to. Inputs: x [Rx,D], index int32 [Rx],
// from int32 [Sx+1] (offsets of x), to int32 [Sy+1] (offsets of the result). Sx is a
// multiple of Sy. Result: [Rows,D], zero where nothing was added.
type ScatterOp struct {
	typed
	Rows int
}

// Scatter adds the rows of x where index says, into [rows,D]; see ScatterOp.
func Scatter(x, index, from, to *G.Node, rows int) (*G.Node, error) {
	return apply(&ScatterOp{Rows: rows}, x, 2, x, index, from, to)
}

func (o *ScatterOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	if sx, sy := s[2].TotalSize()-1, s[3].TotalSize()-1; sy < 1 || sx%sy != 0 {
		return nil, fmt.Errorf("%d source segments into %d result segments: want a multiple", sx, sy)
	}
	return tensor.Shape{o.Rows, s[0][1]}, want("index", s[1], s[0][0])
}

func (o *ScatterOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return scatter[float32](in, o.Rows) },
		func(in []G.Value) (G.Value, error) { return scatter[float64](in, o.Rows) })
}

func scatter[F Float](in []G.Value, rows int) (G.Value, error) {
	d := in[0].Shape()[1]
	y := make([]F, rows*d)
	err := pairRows(in[1], in[3], in[2], rows, func(whole, part int) {
		for j := 0; j < d; j++ {
			y[whole*d+j] += floats[F](in[0])[part*d+j]
		}
	})
	return value(y, rows, d), err
}

func (o *ScatterOp) DiffWRT(int) []bool { return []bool{true, false, false, false} }
func (o *ScatterOp) Grads(in G.Nodes, _, grad *G.Node, _ []bool) (G.Nodes, error) {
	dx, err := Gather(grad, in[1], in[3], in[2])
	return G.Nodes{dx, nil, nil, nil}, err
}

// pairRows calls do for every row of the partial matrix with the row of the whole
// matrix that its index names. Several segments of the part share one of the whole.
func pairRows(index, whole, part G.Value, wholeRows int, do func(whole, part int)) error {
	idx := ints(index)
	wo, err := segments("offsets of the whole", whole, wholeRows)
	if err != nil {
		return err
	}
	po, err := segments("offsets of the part", part, len(idx))
	if err != nil {
		return err
	}
	share := (len(po) - 1) / (len(wo) - 1)
	for s := 0; s < len(po)-1; s++ {
		base, rows := wo[s/share], wo[s/share+1]-wo[s/share]
		for i := po[s]; i < po[s+1]; i++ {
			if idx[i] < 0 || idx[i] >= rows {
				return fmt.Errorf("index %d of segment %d is %d, with %d rows to choose from", i-po[s], s, idx[i], rows)
			}
			do(int(base+idx[i]), int(i))
		}
	}
	return nil
}

// LookupOp reads rows of tables laid end to end: row i is row ids[i] of them.
// Inputs: ids int32 [R], offsets int32 [S+1] (rows beyond the last are padding),
// tables [V0,D], [V1,D], …. Result: [R,D], padding zero.
type LookupOp struct{ typed }

// Lookup returns [R,D]: for every id, that row of the tables laid end to end.
func Lookup(ids, offsets *G.Node, tables ...*G.Node) (*G.Node, error) {
	if len(tables) == 0 {
		return nil, fmt.Errorf("Lookup: no table")
	}
	return apply(&LookupOp{}, tables[0], 2, append([]*G.Node{ids, offsets}, tables...)...)
}

func (o *LookupOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	for i, t := range s[2:] {
		if err := want(fmt.Sprintf("table %d", i), t, -1, s[2][1]); err != nil {
			return nil, err
		}
	}
	return tensor.Shape{s[0][0], s[2][1]}, nil
}

func (o *LookupOp) Do(in ...G.Value) (G.Value, error) {
	return run(in, lookup[float32], lookup[float64])
}

func lookup[F Float](in []G.Value) (G.Value, error) {
	ids, d := ints(in[0]), in[2].Shape()[1]
	off, err := segments("offsets", in[1], len(ids))
	if err != nil {
		return nil, err
	}
	y := make([]F, len(ids)*d)
	for i, id := range ids[:off[len(off)-1]] {
		v := int(id)
		for _, t := range in[2:] {
			if v >= 0 && v < t.Shape()[0] {
				copy(y[i*d:(i+1)*d], floats[F](t)[v*d:(v+1)*d])
			}
			v -= t.Shape()[0]
		}
		if id < 0 || v >= 0 {
			return nil, fmt.Errorf("id %d is %d, beyond the tables", i, id)
		}
	}
	return value(y, len(ids), d), nil
}

func (o *LookupOp) DiffWRT(inputs int) []bool {
	out := make([]bool, inputs)
	for i := 2; i < inputs; i++ {
		out[i] = true
	}
	return out
}

func (o *LookupOp) Grads(in G.Nodes, _, grad *G.Node, need []bool) (out G.Nodes, err error) {
	out = make(G.Nodes, len(in))
	first := 0
	for i, t := range in {
		if i < 2 {
			continue
		}
		if need[i] {
			if out[i], err = apply(&LookupGradOp{First: first, Rows: t.Shape()[0]}, grad, 2, grad, in[0], in[1]); err != nil {
				return nil, err
			}
		}
		first += t.Shape()[0]
	}
	return out, nil
}

// LookupGradOp is Lookup's gradient for the table that holds ids First to
// First+Rows-1. Inputs: dy [R,D], ids int32 [R], offsets int32 [S+1]. Result: [Rows,D].
type LookupGradOp struct {
	typed
	First, Rows int
}

func (o *LookupGradOp) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	s, err := dims(in)
	if err != nil {
		return nil, err
	}
	return tensor.Shape{o.Rows, s[0][1]}, want("ids", s[1], s[0][0])
}

func (o *LookupGradOp) Do(in ...G.Value) (G.Value, error) {
	return run(in,
		func(in []G.Value) (G.Value, error) { return lookupGrad[float32](in, o.First, o.Rows) },
		func(in []G.Value) (G.Value, error) { return lookupGrad[float64](in, o.First, o.Rows) })
}

func lookupGrad[F Float](in []G.Value, first, rows int) (G.Value, error) {
	dy, ids, d := floats[F](in[0]), ints(in[1]), in[0].Shape()[1]
	off, err := segments("offsets", in[2], len(ids))
	if err != nil {
		return nil, err
	}
	out := make([]F, rows*d)
	for i, id := range ids[:off[len(off)-1]] {
		if v := int(id) - first; v >= 0 && v < rows {
			for j := 0; j < d; j++ {
				out[v*d+j] += dy[i*d+j]
			}
		}
	}
	return value(out, rows, d), nil
}

func (o *PatchifyOp) String() string   { return fmt.Sprintf("Patchify(%d,%d)", o.Tubelet, o.Patch) }
func (o *GatherOp) String() string     { return "Gather" }
func (o *ScatterOp) String() string    { return fmt.Sprintf("Scatter(%d)", o.Rows) }
func (o *LookupOp) String() string     { return "Lookup" }
func (o *LookupGradOp) String() string { return fmt.Sprintf("LookupGrad(%d,%d)", o.First, o.Rows) }
