package cpu

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Operation is the time that runs and updates have spent in one kind of operation, on average over threads: with the
// time that threads waited for each other, operations add up to what the machine's caller waited.
type Operation struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Share   float64 `json:"share"`                  // of all operations
	GFLOPS  float64 `json:"gflops_per_s,omitempty"` // of its products, by one thread; 0 where there are none
}

// phase is a part of a step that all threads enter and leave together.
type phase int

const (
	packPhase phase = iota
	clipPhase
	sumPhase
	updatePhase
	phases
)

// profile collects times; it exists where Options.Profile asks for it.
type profile struct {
	names   []string          // of the steps
	steps   [][]time.Duration // [threads][steps]
	flops   [][]float64       // [threads][steps], of products
	inside  []time.Duration   // [threads] of the phase at hand
	busy    [phases]time.Duration
	waiting time.Duration // of threads for the last one
	threads int
}

func newProfile(p *plan, threads int) *profile {
	r := &profile{threads: threads, steps: make([][]time.Duration, threads), flops: make([][]float64, threads),
		inside: make([]time.Duration, threads)}
	for _, s := range p.steps {
		name, _, _ := strings.Cut(s.node.Op().(interface{ String() string }).String(), "(")
		r.names = append(r.names, name)
	}
	for t := range threads {
		r.steps[t], r.flops[t] = make([]time.Duration, len(p.steps)), make([]float64, len(p.steps))
	}
	return r
}

// clip takes a clip through all steps with a clock.
func (r *profile) clip(w *worker, b int) {
	began := time.Now()
	for i, do := range w.m.clip {
		do(w, b)
		now := time.Now()
		r.steps[w.index][i] += now.Sub(began)
		r.flops[w.index][i] += w.m.stepFLOPs(w.m.plan.steps[i], b)
		if x := w.m.exchange; x != nil && b == x.last[w.index] {
			x.completed(w.m.plan, i)
		}
		began = time.Now()
	}
}

// timed has all workers do one thing, with a clock if there is a profile.
func (m *Machine) timed(ph phase, do func(*worker) error) error {
	r := m.profile
	if r == nil {
		return m.all(do)
	}
	began := time.Now()
	err := m.all(func(w *worker) error {
		began := time.Now()
		defer func() { r.inside[w.index] = time.Since(began) }()
		return do(w)
	})
	whole := time.Since(began)
	for _, d := range r.inside {
		r.busy[ph] += d
		r.waiting += whole - d
	}
	return err
}

// ResetProfile forgets the times so far.
func (m *Machine) ResetProfile() {
	if m.profile != nil {
		m.profile = newProfile(m.plan, len(m.workers))
	}
}

// Operations returns the times since the machine was compiled, the longest first; nil without Options.Profile.
func (m *Machine) Operations() []Operation {
	r := m.profile
	if r == nil {
		return nil
	}
	sums := map[string]time.Duration{
		"packing of weights": r.busy[packPhase], "sums over threads": r.busy[sumPhase], "AdamW and moving average": r.busy[updatePhase],
		"waiting for other threads": r.waiting,
	}
	rest := r.busy[clipPhase]
	flops := map[string]float64{}
	for t, steps := range r.steps {
		for i, d := range steps {
			sums[r.names[i]] += d
			flops[r.names[i]] += r.flops[t][i]
			rest -= d
		}
	}
	sums["layout and zeroing of sums"] = rest
	var all time.Duration
	for _, d := range sums {
		all += d
	}
	var out []Operation
	for name, d := range sums {
		out = append(out, Operation{name, d.Seconds() / float64(r.threads), d.Seconds() / max(1e-9, all.Seconds()),
			flops[name] / 1e9 / max(1e-9, d.Seconds())})
	}
	slices.SortFunc(out, func(a, b Operation) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Name, b.Name))
	})
	return out
}
