package xla

import (
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// A table is an input of the module that the host works out from the program's inputs, so that the device only looks
// things up: absolute rows in place of indices inside a segment, and -1 where there is nothing.
type table struct {
	kind    tableKind
	index   *G.Node // of gather, scatter and ids; the weights of rowWeights
	whole   *G.Node // offsets of the rows that an index points into; gather and scatter
	offsets *G.Node // offsets that divide the table's own rows
}

type tableKind int

const (
	gatherRows  tableKind = iota // [rows]: the row of the whole that each row of the part is
	scatterRows                  // [depth, rows of the whole]: the rows of the part that each row of the whole is the sum of
	ids                          // [rows]: an index as it is
	rowWeights                   // [rows], float32: the weight of the segment that each row lies in
	segmentRows                  // [segments, length]: the rows of each segment
	rowPlaces                    // [rows]: where a row is in segmentRows, counted through
	lengths                      // [segments]: rows of each segment
)

func (k tableKind) String() string {
	return []string{"gather rows", "scatter rows", "ids", "row weights", "segment rows", "row places", "lengths"}[k]
}

func (t table) String() string {
	s := t.kind.String()
	for _, n := range []*G.Node{t.index, t.offsets} {
		if n != nil {
			s += " of " + n.Name()
		}
	}
	return s
}

// tablesOf are the tables that an operation reads.
func tablesOf(n *G.Node, in G.Nodes) []table {
	inside := func(offsets *G.Node) []table {
		return []table{{kind: segmentRows, offsets: offsets}, {kind: rowPlaces, offsets: offsets}, {kind: lengths, offsets: offsets}}
	}
	switch n.Op().(type) {
	case *graph.GatherOp: // x, index, from, to
		return []table{{gatherRows, in[1], in[2], in[3]}}
	case *graph.ScatterOp:
		return []table{{scatterRows, in[1], in[3], in[2]}}
	case *graph.LookupOp:
		return []table{{kind: ids, index: in[0], offsets: in[1]}}
	case *graph.LookupGradOp, *graph.RotateOp:
		return []table{{kind: ids, index: in[1], offsets: in[2]}}
	case *graph.LpLossOp, *graph.LpLossGradOp:
		return []table{{kind: rowWeights, index: in[2], offsets: in[3]}}
	case *graph.AttentionOp, *graph.AttentionGradOp, *graph.VarianceHingeOp, *graph.VarianceHingeGradOp:
		return inside(in[1])
	}
	return nil
}

// findTables collects the tables of all operations, each once, and the offsets of segments.
func (a *program) findTables() {
	for _, n := range a.order {
		if n.Op() == nil {
			continue
		}
		for _, t := range tablesOf(n, a.children[n]) {
			if !slices.Contains(a.tables, t) {
				a.tables = append(a.tables, t)
			}
			if t.kind == lengths && !slices.Contains(a.segments, t.offsets) {
				a.segments = append(a.segments, t.offsets)
			}
		}
	}
}

// present tells whether a module of a shape reads a table: segments of one length need none.
func (s *shape) present(t table) bool {
	switch t.kind {
	case segmentRows, rowPlaces, lengths:
		return !s.segments[t.offsets].even
	}
	return true
}

// dims are the sizes of a table in a module of a shape.
func (s *shape) dims(a *program, t table) []int {
	switch t.kind {
	case scatterRows:
		return []int{s.depth[t], s.rows[a.divides[t.whole]]}
	case segmentRows:
		return []int{t.offsets.Shape()[0] - 1, s.segments[t.offsets].length}
	case lengths:
		return []int{t.offsets.Shape()[0] - 1}
	}
	return []int{s.rows[a.divides[t.offsets]]}
}

// fill works a table of int32 out, for the inputs that m holds, into dst, which has the size of dims.
func (s *shape) fill(a *program, t table, m graph.Buffers, dst []int32) {
	off := m.Ints(t.offsets)
	for i := range dst {
		dst[i] = -1
	}
	switch t.kind {
	case ids:
		copy(dst, m.Ints(t.index)[:off[len(off)-1]])
	case gatherRows:
		eachPair(m, t, func(whole, part int32) { dst[part] = whole })
	case scatterRows:
		rows := s.rows[a.divides[t.whole]]
		eachPair(m, t, func(whole, part int32) {
			at := int(whole)
			for dst[at] >= 0 { // taken by another row of the part: the next layer
				at += rows
			}
			dst[at] = part
		})
	case segmentRows:
		length := s.segments[t.offsets].length
		for k := range len(off) - 1 {
			for i := off[k]; i < off[k+1]; i++ {
				dst[k*length+int(i-off[k])] = i
			}
		}
	case rowPlaces:
		length := s.segments[t.offsets].length
		for k := range len(off) - 1 {
			for i := off[k]; i < off[k+1]; i++ {
				dst[i] = int32(k*length) + i - off[k]
			}
		}
	case lengths:
		for k := range len(off) - 1 {
			dst[k] = off[k+1] - off[k]
		}
	}
}

// fillWeights works rowWeights out.
func fillWeights(t table, m graph.Buffers, dst []float32) {
	off, w := m.Ints(t.offsets), m.Floats(t.index)
	clear(dst)
	for k := range w {
		for i := off[k]; i < off[k+1]; i++ {
			dst[i] = w[k]
		}
	}
}

// eachPair calls do for every row of the part with the row of the whole that its index names.
func eachPair(m graph.Buffers, t table, do func(whole, part int32)) {
	index, whole, part := m.Ints(t.index), m.Ints(t.whole), m.Ints(t.offsets)
	share := (len(part) - 1) / (len(whole) - 1)
	for k := range len(part) - 1 {
		for i := part[k]; i < part[k+1]; i++ {
			do(whole[k/share]+index[i], i)
		}
	}
}

// check holds the inputs against what the operations may read, so that nothing on the device is led astray.
func (a *program) check(m graph.Buffers) error {
	for offsets, s := range a.divides {
		off := m.Ints(offsets)
		if off[0] != 0 {
			return fmt.Errorf("%s: the first is %d, want 0", offsets.Name(), off[0])
		}
		for k := 1; k < len(off); k++ {
			if off[k] < off[k-1] || int(off[k]) > s.capacity {
				return fmt.Errorf("%s: number %d is %d, after %d, with %d rows", offsets.Name(), k, off[k], off[k-1], s.capacity)
			}
		}
		first := m.Ints(s.offsets[0])
		if used := off[len(off)-1]; used != first[len(first)-1] {
			return fmt.Errorf("%s divides %d rows, %s divides %d of the same", offsets.Name(), used, s.offsets[0].Name(), first[len(first)-1])
		}
	}
	for _, n := range a.order {
		if err := a.checkIndices(n, m); err != nil {
			return err
		}
	}
	return nil
}

// checkIndices wants the indices that an operation reads to lie in what they point into.
func (a *program) checkIndices(n *G.Node, m graph.Buffers) error {
	in := a.children[n]
	switch op := n.Op().(type) {
	case *graph.GatherOp:
		return checkIndex(m, in[1], in[2], in[3])
	case *graph.ScatterOp:
		return checkIndex(m, in[1], in[3], in[2])
	case *graph.LookupOp:
		rows := 0
		for _, t := range in[2:] {
			rows += t.Shape()[0]
		}
		return checkIDs(m, in[0], in[1], rows)
	case *graph.RotateOp:
		return checkIDs(m, in[1], in[2], op.Rotation.Tokens())
	}
	return nil
}

func checkIndex(m graph.Buffers, index, whole, part *G.Node) error {
	idx, w, p := m.Ints(index), m.Ints(whole), m.Ints(part)
	share := (len(p) - 1) / (len(w) - 1)
	for k := range len(p) - 1 {
		rows := w[k/share+1] - w[k/share]
		for _, i := range idx[p[k]:p[k+1]] {
			if i < 0 || i >= rows {
				return fmt.Errorf("%s: %d in segment %d, want 0 to %d", index.Name(), i, k, rows-1)
			}
		}
	}
	return nil
}

func checkIDs(m graph.Buffers, index, offsets *G.Node, rows int) error {
	off := m.Ints(offsets)
	for i, id := range m.Ints(index)[:off[len(off)-1]] {
		if id < 0 || int(id) >= rows {
			return fmt.Errorf("%s: number %d is %d, want 0 to %d", index.Name(), i, id, rows-1)
		}
	}
	return nil
}
