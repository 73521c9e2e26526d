package xla

import (
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// shape is what a module is compiled for: sizes that follow from the masks of a batch, which the compiler must know.
// Masks change from step to step, so sizes are rounded up, and a module serves every batch that fits. When one does not,
// a module of a larger shape is compiled; a shape never shrinks, so there are few of them.
type shape struct {
	rows     map[*space]int         // of each space, padding included
	full     map[*space]bool        // there is no padding
	segments map[*G.Node]segmenting // by offsets
	depth    map[table]int          // of scatterRows: most rows of the part that are added into one row
}

// segmenting is how rows become one matrix [segments, length] for what is computed inside segments.
type segmenting struct {
	even   bool // every segment has just length rows: they lie that way already
	length int  // of the longest segment, rounded up unless even
}

// shapeFor is the smallest shape for the inputs that m holds, which check has approved.
func (a *program) shapeFor(m graph.Buffers) *shape {
	s := &shape{rows: map[*space]int{}, full: map[*space]bool{}, segments: map[*G.Node]segmenting{}, depth: map[table]int{}}
	for _, sp := range a.spaces {
		used := sp.capacity
		if len(sp.offsets) > 0 {
			off := m.Ints(sp.offsets[0])
			used = int(off[len(off)-1])
		}
		s.rows[sp] = min(sp.capacity, roundUp(max(1, used), sp.quantum()))
		if sp.whole {
			s.rows[sp] = sp.capacity
		}
		s.full[sp] = used == s.rows[sp]
	}
	for _, offsets := range a.segments {
		off := m.Ints(offsets)
		g := segmenting{even: true, length: int(off[1])}
		for k := range len(off) - 1 {
			n := int(off[k+1] - off[k])
			g.even = g.even && n == g.length && n > 0
			g.length = max(g.length, n)
		}
		if !g.even {
			g.length = a.roundLength(offsets, g.length)
		}
		s.segments[offsets] = g
	}
	for _, t := range a.tables {
		if t.kind != scatterRows {
			continue
		}
		count := make([]int, s.rows[a.divides[t.whole]])
		eachPair(m, t, func(whole, _ int32) { count[whole]++ })
		s.depth[t] = max(1, slices.Max(count))
	}
	return s
}

// quantum is what the rows of a space are rounded up to: small enough that little is computed for nothing, large enough
// that batches of alike masks share a shape.
func (s *space) quantum() int { return roundUp(max(8, s.capacity/32), 8) }

func (a *program) roundLength(offsets *G.Node, n int) int {
	capacity := a.divides[offsets].capacity
	return min(capacity, roundUp(max(1, n), roundUp(max(8, capacity/(offsets.Shape()[0]-1)/16), 8)))
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// holds tells whether a module of shape s serves a batch that needs shape t.
func (s *shape) holds(t *shape) bool {
	for sp, n := range t.rows {
		if s.rows[sp] < n || s.full[sp] && (!t.full[sp] || n != s.rows[sp]) {
			return false
		}
	}
	for offsets, need := range t.segments {
		have := s.segments[offsets]
		if have.even && have != need || have.length < need.length {
			return false
		}
	}
	for t, n := range t.depth {
		if s.depth[t] < n {
			return false
		}
	}
	return true
}

// union is the smallest shape that holds both. Where t does not fit into s, room for so many quanta more is left.
func (s *shape) union(a *program, t *shape, room int) *shape {
	u := &shape{rows: map[*space]int{}, full: map[*space]bool{}, segments: map[*G.Node]segmenting{}, depth: map[table]int{}}
	for _, sp := range a.spaces {
		u.rows[sp] = max(s.rows[sp], t.rows[sp])
		if t.rows[sp] > s.rows[sp] {
			u.rows[sp] = min(sp.capacity, u.rows[sp]+room*sp.quantum())
		}
		u.full[sp] = s.full[sp] && t.full[sp] && s.rows[sp] == t.rows[sp]
	}
	for _, offsets := range a.segments {
		have, need := s.segments[offsets], t.segments[offsets]
		g := segmenting{have.even && have == need, max(have.length, need.length)}
		if !g.even {
			g.length = a.roundLength(offsets, g.length)
		}
		u.segments[offsets] = g
	}
	for k, n := range s.depth {
		u.depth[k] = max(n, t.depth[k])
	}
	return u
}
