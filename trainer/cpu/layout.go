package cpu

import (
	"slices"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// cacheLine in floats: what every buffer is aligned to.
const cacheLine = 16

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// layout places the buffers of a clip in a worker's memory. Which buffers live at the same time is known beforehand,
// their sizes only with a clip's masks: so each clip is laid out anew, densely, and a worker touches no more memory
// than its largest clip has taken so far.
type layout struct {
	buffers []buffer
	events  []event
	floats  int // that the layout takes when every space is full: the memory of a worker
	full    []int
}

// buffer is the memory of one matrix.
type buffer struct {
	width int
	half  bool
	rows  rowCount
}

// rowCount is how many rows a clip has in a space.
type rowCount struct {
	offsets  *G.Node // nil: always capacity
	capacity int
}

// event is what happens to a buffer between two steps.
type event struct {
	what   happening
	buffer int
	heir   int // of a handover: the buffer that takes this one's place
}

type happening uint8

const (
	begins happening = iota // takes the first free room that is large enough
	ends                    // its room is free again
	handed                  // another buffer of the same size lies there from now on
)

// layOut finds when every buffer begins and ends, and gives every sum its place.
func (p *plan) layOut() {
	for i, s := range p.steps {
		for _, n := range p.reads(s) {
			if pl := p.place[n]; pl != nil && len(pl.lives) > 0 {
				pl.lives[len(pl.lives)-1].last = i
			}
		}
		for _, n := range s.writes() {
			if pl := p.place[n]; pl != nil { // others are sums
				pl.lives = append(pl.lives, life{first: i, last: i})
			}
		}
	}
	l := &p.layout
	var live G.Nodes
	for i, s := range p.steps {
		for _, n := range s.writes() {
			pl := p.place[n]
			if pl == nil {
				continue
			}
			pl.life(i).buffer = len(l.buffers)
			l.buffers = append(l.buffers, buffer{pl.width, pl.half, rowCount{pl.offsets, pl.capacity}})
			if heir := p.inPlace(s, n, i, live); heir != nil {
				l.events = append(l.events, event{handed, p.place[heir].life(i).buffer, pl.life(i).buffer})
				live = slices.DeleteFunc(live, func(o *G.Node) bool { return o == heir })
			} else {
				l.events = append(l.events, event{what: begins, buffer: pl.life(i).buffer})
			}
			live = append(live, n)
		}
		live = slices.DeleteFunc(live, func(n *G.Node) bool {
			if p.place[n].life(i).last > i {
				return false
			}
			l.events = append(l.events, event{what: ends, buffer: p.place[n].life(i).buffer})
			return true
		})
	}
	l.full = make([]int, len(l.buffers))
	l.floats, _ = l.run(l.full, nil, func(r rowCount) int { return r.capacity })
	p.buckets, p.completeAfter = p.orderSums()
	for _, n := range p.tensorSums {
		p.sumAt[n] = p.sumFloats
		p.sumFloats += roundUp(n.Shape().TotalSize(), cacheLine)
	}
}

// run lays the buffers out for the given numbers of rows: at[i] is where buffer i lies. It returns the floats in use and
// the list of free room, whose memory the next run takes over.
func (l *layout) run(at []int, free []span, rows func(rowCount) int) (int, []span) {
	free = append(free[:0], span{0, int(^uint(0) >> 1)})
	used := 0
	for _, e := range l.events {
		if e.what == handed {
			at[e.heir] = at[e.buffer]
			continue
		}
		b := l.buffers[e.buffer]
		floats := b.width * rows(b.rows)
		if b.half {
			floats = (floats + 1) / 2
		}
		floats = roundUp(floats, cacheLine)
		if e.what == begins {
			at[e.buffer], free = take(free, floats)
			used = max(used, at[e.buffer]+floats)
		} else {
			free = release(free, span{at[e.buffer], at[e.buffer] + floats})
		}
	}
	return used, free
}

// inPlace returns the input whose buffer an element-by-element result can take over, because this step is the last to
// read it.
func (p *plan) inPlace(s step, n *G.Node, i int, live G.Nodes) *G.Node {
	var candidates G.Nodes
	in := p.children[s.node]
	switch s.node.Op().(type) {
	case *graph.AddOp, *graph.SwiGLUOp, *graph.SwiGLUGradOp:
		candidates = in
	case *graph.ScaleOp, *graph.RotateOp:
		candidates = in[:1]
	case *graph.GELUGradOp:
		if in[0] != in[1] { // x is read after the result is written
			candidates = in[1:2] // dy
		}
	case *graph.LayerNormGradXOp:
		if s.into != nil {
			candidates = G.Nodes{s.beside}
		} else if in[0] != in[1] {
			candidates = in[1:2]
		}
	case *graph.LinearOp:
		if s.into != nil && !slices.Contains(in, s.beside) {
			candidates = G.Nodes{s.beside}
		}
	case *graph.LinearGradXOp:
		if n == s.value { // the kernel writes it there
			candidates = G.Nodes{s.beside}
		}
	}
	for _, c := range candidates {
		if slices.Contains(live, c) && p.place[c].life(i).last == i && p.same(c, n) {
			return c
		}
	}
	return nil
}

// same tells whether two nodes take the same memory whatever the clip.
func (p *plan) same(a, b *G.Node) bool {
	x, y := p.place[a], p.place[b]
	return x.width == y.width && x.half == y.half && x.capacity == y.capacity && x.offsets == y.offsets
}

// span is a range of floats, [first, last).
type span struct{ first, last int }

// take cuts n floats from the first free span that holds them.
func take(free []span, n int) (int, []span) {
	for i, s := range free {
		if s.last-s.first >= n {
			free[i].first += n
			return s.first, free
		}
	}
	panic("the last free span has no end")
}

// release returns a span to the free ones, joined with its neighbours.
func release(free []span, s span) []span {
	if s.first == s.last {
		return free
	}
	i := 0
	for i < len(free) && free[i].first < s.first {
		i++
	}
	joinsLeft := i > 0 && free[i-1].last == s.first
	joinsRight := i < len(free) && s.last == free[i].first
	switch {
	case joinsLeft && joinsRight:
		free[i-1].last = free[i].last
		return slices.Delete(free, i, i+1)
	case joinsLeft:
		free[i-1].last = s.last
	case joinsRight:
		free[i].first = s.first
	default:
		return slices.Insert(free, i, s)
	}
	return free
}
