package cpu

import (
	"fmt"
	"slices"
	"sync/atomic"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
)

// Peers are machines that run the same program on other clips of one batch, this one among them. They all call the same
// methods in the same order with as many values, from one goroutine at a time, and each gets the same bits back: so
// weights that begin alike stay alike.
type Peers interface {
	AddFloats(values []float32) error // in place: the sums over all peers
	AddDoubles(values []float64) error
}

// bucketFloats is how many sums are sent together at least, 256 KiB: a message costs some microseconds whatever it holds.
const bucketFloats = 64 << 10

// bucket is a range of a worker's sums that is complete after one step of its last clip.
type bucket struct{ first, last int }

// orderSums orders the gradients as the steps complete them, backwards through the model, and divides them into buckets.
// It returns, for every step, how many buckets are complete after it.
func (p *plan) orderSums() (buckets []bucket, completeAfter []int) {
	completed := map[*G.Node]int{} // by which step
	for i, s := range p.steps {
		sums := s.writes()
		if s.norm != nil {
			sums = append(sums, s.norm.scale, s.norm.shift)
		}
		for _, n := range sums {
			completed[n] = i
		}
	}
	slices.SortStableFunc(p.tensorSums, func(a, b *G.Node) int { return completed[a] - completed[b] })
	completeAfter = make([]int, len(p.steps))
	var at, begun int
	for i, n := range p.tensorSums {
		at += roundUp(n.Shape().TotalSize(), cacheLine)
		step := completed[n]
		lastOfStep := i+1 == len(p.tensorSums) || completed[p.tensorSums[i+1]] > step
		if lastOfStep && (at-begun >= bucketFloats || i+1 == len(p.tensorSums)) {
			buckets = append(buckets, bucket{begun, at})
			begun = at
			completeAfter[step]++
		}
	}
	for i := 1; i < len(completeAfter); i++ {
		completeAfter[i] += completeAfter[i-1]
	}
	return buckets, completeAfter
}

// exchange adds up the gradients of all peers while the last clips are still on their way back through the model.
type exchange struct {
	peers    Peers
	complete []atomic.Int32 // [buckets]: workers that have nothing to add any more
	ready    chan int       // buckets that all workers have completed, in order
	done     chan error
	last     []int // [threads]: the last clip of each; -1: it has none
	busy     int32 // threads that have clips
	scalars  []float64
}

// beginExchange starts the exchange of one run; finishExchange waits for it.
func (m *Machine) beginExchange() {
	x := m.exchange
	x.busy = 0
	for t := range x.last {
		x.last[t] = -1
	}
	for b := range m.active {
		x.last[m.clipsOf[b]] = b
	}
	for _, b := range x.last {
		if b >= 0 {
			x.busy++
		}
	}
	for i := range x.complete {
		x.complete[i].Store(0)
	}
	x.ready = make(chan int, len(x.complete))
	go func() { x.done <- m.exchangeSums() }()
}

// exchangeSums brings bucket after bucket to the sums over threads, then over peers, in the first worker's memory. It
// ends early, without an error, when ready is closed before all buckets are through: the run has failed here.
func (m *Machine) exchangeSums() error {
	for i := range m.exchange.ready {
		b := m.plan.buckets[i]
		sums := m.workers[0].sums[b.first:b.last]
		for _, w := range m.workers[1:] {
			if m.exchange.last[w.index] >= 0 {
				kernel.Accumulate(sums, w.sums[b.first:b.last])
			}
		}
		if err := m.exchange.peers.AddFloats(sums); err != nil {
			return fmt.Errorf("add up gradients with the other machines: %w", err)
		}
	}
	return nil
}

// completed notes that a worker is done with the buckets that the given step of its last clip completes. Workers go
// through the steps in one order, so buckets come to ready in that order too, on every machine.
func (x *exchange) completed(p *plan, step int) {
	first := 0
	if step > 0 {
		first = p.completeAfter[step-1]
	}
	for i := first; i < p.completeAfter[step]; i++ {
		if x.complete[i].Add(1) == x.busy {
			x.ready <- i
		}
	}
}

// finishExchange waits until all buckets are through, or, after a run that failed here, for the one that is on its way.
func (m *Machine) finishExchange() error {
	close(m.exchange.ready)
	return <-m.exchange.done
}

// exchangeScalars adds up the sums of scalars over peers. They are those of the whole batch then. The squares of gradients
// are there on every peer, but each has added them up in blocks of its own, whose last bits may differ; what clips
// gradients has to be the same on all, so they become the mean.
func (m *Machine) exchangeScalars() error {
	x := m.exchange
	if x == nil {
		return nil
	}
	s := append(x.scalars[:0], m.sums...)
	for i := range m.plan.epilogue {
		var sum float64
		for _, w := range m.workers {
			sum += w.squares[i]
			w.squares[i] = 0
		}
		s = append(s, sum)
	}
	x.scalars = append(s, 1)
	if err := x.peers.AddDoubles(x.scalars); err != nil {
		return fmt.Errorf("add up losses with the other machines: %w", err)
	}
	squares := x.scalars[copy(m.sums, x.scalars):]
	peers := squares[len(squares)-1]
	for i := range m.plan.epilogue {
		m.workers[0].squares[i] = squares[i] / peers
	}
	return nil
}
