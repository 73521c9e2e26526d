// Package paralleltest gives tests a group whose processes are goroutines of one process.
package paralleltest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/surmise-ml/surmise/trainer/parallel"
)

// New returns the members of a group of the given size, one for each goroutine.
func New(size int) []parallel.Group {
	g := &group{size: size}
	g.turn = sync.NewCond(&g.mu)
	members := make([]parallel.Group, size)
	for i := range members {
		members[i] = &member{g, i}
	}
	return members
}

type group struct {
	size int

	mu      sync.Mutex
	turn    *sync.Cond // signalled when a call is complete, or the group has failed
	calls   int        // guarded by mu: complete ones
	arrived []any      // guarded by mu: what each member brought to the call at hand, by rank
	n       int        // guarded by mu: members that have arrived
	failed  error      // guarded by mu
}

type member struct {
	*group
	rank int
}

func (m *member) Rank() int { return m.rank }
func (m *member) Size() int { return m.size }

func (m *member) AddFloats(values []float32) error  { return meet(m, values, sum[float32]) }
func (m *member) AddDoubles(values []float64) error { return meet(m, values, sum[float64]) }
func (m *member) Broadcast(values []byte) error     { return meet(m, values, first) }
func (m *member) Abort(err error)                   { m.fail(fmt.Errorf("member %d has given up: %w", m.rank, err)) }

func (g *group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = errors.Join(g.failed, err)
	g.turn.Broadcast()
}

// meet waits for all members; the last one to arrive does the work for all.
func meet[T any](m *member, values []T, work func(all [][]T)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return m.failed
	}
	if m.arrived == nil {
		m.arrived = make([]any, m.size)
	}
	m.arrived[m.rank] = values
	m.n++
	if m.n < m.size {
		for call := m.calls; m.calls == call && m.failed == nil; {
			m.turn.Wait()
		}
		return m.failed
	}
	all := make([][]T, m.size)
	for i, brought := range m.arrived {
		v, ok := brought.([]T)
		if !ok || len(v) != len(values) {
			m.failed = fmt.Errorf("member %d brought %T, member %d %T, or another number of values", i, brought, m.rank, values)
			m.turn.Broadcast()
			return m.failed
		}
		all[i] = v
	}
	work(all)
	m.arrived, m.n, m.calls = nil, 0, m.calls+1
	m.turn.Broadcast()
	return nil
}

func sum[T float32 | float64](all [][]T) {
	for i := range all[0] {
		var total T
		for _, v := range all {
			total += v[i]
		}
		for _, v := range all {
			v[i] = total
		}
	}
}

func first(all [][]byte) {
	for _, v := range all[1:] {
		copy(v, all[0])
	}
}
