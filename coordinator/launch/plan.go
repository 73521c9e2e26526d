package launch

import (
	"cmp"
	"slices"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// poolView is what one look shows of a pool, and what follows from it.
type poolView struct {
	waiting int      // jobs that wait for a worker of this pool
	alive   []Worker // waiting with the engine, or running
	pending int      // of those, waiting
	free    int      // of those that are alive, have no job
	atWork  bool     // one of them has a job
	full    bool     // more would be started, were there not Max already

	start   []Batch
	surplus []string // workers that wait with the engine though no job waits for them
}

// plan says for each pool what is to be started and what is too much. It is pure. Who sees the same demand and the same
// workers plans the same batches under the same names.
func plan(s Settings, d queue.Demand, workers []Worker) []poolView {
	views := make([]poolView, len(s.Pools))
	for _, w := range d.Waiting {
		if i := s.poolFor(w.Needs); i >= 0 {
			views[i].waiting += w.Jobs
		}
	}
	busy := map[string]bool{}
	for _, name := range d.Busy {
		busy[name] = true
	}
	attempts := make([]int, len(s.Pools)) // the newest of each
	for _, w := range workers {
		name, _, ok := ParseWorker(s.Prefix, w.Name)
		i := s.pool(name.Pool)
		if !ok || i < 0 {
			continue
		}
		v := &views[i]
		attempts[i] = max(attempts[i], name.Attempt)
		if w.State == Ended {
			continue
		}
		v.alive = append(v.alive, w)
		if w.State == Waiting {
			v.pending++
		}
		if busy[w.Name] {
			v.atWork = true
		} else {
			v.free++
		}
	}
	for i, p := range s.Pools {
		v := &views[i]
		kept := max(0, p.Min-len(v.alive))
		missing := max(kept, v.waiting-v.free)
		room := max(0, p.Max-len(v.alive))
		v.full = missing > room
		missing = min(missing, room)
		kept = min(kept, missing)
		v.start = batches(s.Prefix, p, attempts[i], kept, 0)
		v.start = append(v.start, batches(s.Prefix, p, attempts[i]+len(v.start), missing-kept, s.Idle)...)
		v.surplus = surplus(s.Prefix, *v, p.Min)
	}
	return views
}

// batches asks for so many workers, under the attempts that follow.
func batches(prefix string, p Pool, attempt, workers int, idle time.Duration) (out []Batch) {
	for workers > 0 {
		attempt++
		n := min(workers, maxBatch)
		out = append(out, Batch{Name: BatchName{prefix, p.Name, attempt}, Shape: p.Shape, Count: n, Idle: idle})
		workers -= n
	}
	return out
}

// surplus is workers that wait with the engine and are not needed any more, newest first: of a sweep that was cancelled.
// Those that run exit by themselves.
func surplus(prefix string, v poolView, keep int) (names []string) {
	n := min(v.pending, v.free-v.waiting, len(v.alive)-keep)
	if n <= 0 {
		return nil
	}
	pending := slices.DeleteFunc(slices.Clone(v.alive), func(w Worker) bool { return w.State != Waiting })
	slices.SortFunc(pending, func(a, b Worker) int {
		nameA, indexA, _ := ParseWorker(prefix, a.Name)
		nameB, indexB, _ := ParseWorker(prefix, b.Name)
		return cmp.Or(cmp.Compare(nameB.Attempt, nameA.Attempt), cmp.Compare(indexB, indexA))
	})
	for _, w := range pending[:n] {
		names = append(names, w.Name)
	}
	return names
}

// poolFor is the pool whose workers a job with these needs waits for; −1 for none.
func (s Settings) poolFor(n queue.Needs) int {
	return slices.IndexFunc(s.Pools, func(p Pool) bool { return p.Shape.offer().Lacks(n) == "" })
}

// pool is the pool of this name; −1 for none.
func (s Settings) pool(name string) int {
	return slices.IndexFunc(s.Pools, func(p Pool) bool { return p.Name == name })
}
