package queue

import (
	"context"
	"fmt"
	"sync"
)

// gather puts what callers ask for while earlier work is under way into one piece of work, so that they share what it
// costs, such as the wait for the disk. Whoever finds nobody at work works for all who wait.
type gather[C any] struct {
	most int // asked for by so many callers at most
	// work does what is asked for and says how each went.
	work func([]*asked[C]) []error

	working chan struct{} // holds a token while somebody works
	mu      sync.Mutex
	waiting []*asked[C] // guarded by mu
}

// asked is what one caller asks for.
type asked[C any] struct {
	ctx  context.Context
	what C
	done chan error // of one
}

func newGather[C any](most int, work func([]*asked[C]) []error) *gather[C] {
	return &gather[C]{most: most, work: work, working: make(chan struct{}, 1)}
}

// do returns when what the caller asks for is done. A context that ends before that began stops it; from then on it is not
// interrupted, which would undo what others asked for.
func (g *gather[C]) do(ctx context.Context, what C) error {
	a := &asked[C]{ctx, what, make(chan error, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, a)
	g.mu.Unlock()
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		if g.withdraw(a) {
			return ctx.Err()
		}
		return <-a.done
	case g.working <- struct{}{}:
	}
	defer func() { <-g.working }()
	for {
		select {
		case err := <-a.done:
			return err
		default:
			g.serve() // it may lie beyond a full piece of work
		}
	}
}

// withdraw takes back what nobody has begun to do.
func (g *gather[C]) withdraw(a *asked[C]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting {
		if w == a {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// serve works for those who wait, and tells each how it went.
func (g *gather[C]) serve() {
	g.mu.Lock()
	n := min(len(g.waiting), g.most)
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()
	live := batch[:0:0]
	for _, a := range batch {
		if err := a.ctx.Err(); err != nil {
			a.done <- err
			continue
		}
		live = append(live, a)
	}
	if len(live) == 0 {
		return
	}
	for i, err := range g.recovered(live) {
		live[i].done <- err
	}
}

// recovered turns a panic into the error of all: others share the goroutine.
func (g *gather[C]) recovered(batch []*asked[C]) (errs []error) {
	defer func() {
		if p := recover(); p != nil {
			errs = all(len(batch), fmt.Errorf("panic while changing the store: %v", p))
		}
	}()
	return g.work(batch)
}

// all is the same error for n callers.
func all(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
