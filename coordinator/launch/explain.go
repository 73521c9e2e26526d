package launch

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// maxReasons is how many of an engine's reasons are told of the workers of one pool.
const maxReasons = 3

// Explain says how it stands with the workers that a job with these needs waits for, with the engine's words as of the last
// look; "" when there is nothing to say.
func (r *Reconciler) Explain(n queue.Needs) string {
	engine := r.launcher.Engine()
	i := r.settings.poolFor(n)
	if i < 0 {
		return fmt.Sprintf("no pool of workers that %s may start has %s", engine, r.lacks(n))
	}
	pool := r.settings.Pools[i].Name
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.pools[i]
	now := r.clock.Now()
	switch {
	case r.list.words != "":
		return fmt.Sprintf("%s does not answer: %s; asked again at %s", engine, r.list.words, clockTime(r.list.until))
	case state.trouble.asking && now.Before(state.trouble.until):
		return fmt.Sprintf("%s refuses a worker of pool %s: %s; asked again at %s", engine, pool, state.trouble.words, clockTime(state.trouble.until))
	case now.Before(state.trouble.until):
		return fmt.Sprintf("%s; another is asked for at %s", state.trouble.words, clockTime(state.trouble.until))
	case state.view.pending > 0:
		return fmt.Sprintf("%s of pool %s in the queue of %s%s", workers(state.view.pending), pool, engine, reasons(state.view.alive))
	case state.view.full:
		return fmt.Sprintf("pool %s has all %s that it may have", pool, workers(r.settings.Pools[i].Max))
	case state.view.free > 0:
		return fmt.Sprintf("%s of pool %s running in %s without a job: about to attach, or to be given one", workers(state.view.free), pool, engine)
	}
	return ""
}

// lacks is what the pool that comes nearest, the first, does not have.
func (r *Reconciler) lacks(n queue.Needs) string { return r.settings.Pools[0].Shape.offer().Lacks(n) }

// reasons is why workers wait, the commonest first.
func reasons(alive []Worker) string {
	counts := map[string]int{}
	for _, w := range alive {
		if w.State == Waiting && w.Reason != "" {
			counts[Words(w.Reason)]++
		}
	}
	all := make([]string, 0, len(counts))
	for reason := range counts {
		all = append(all, reason)
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all[:min(len(all), maxReasons)], "; ")
}

func workers(n int) string {
	if n == 1 {
		return "1 worker"
	}
	return fmt.Sprintf("%d workers", n)
}

func clockTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
