package queue

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// waits returns when n callers wait.
func (g *gather[C]) waits(n int) {
	for {
		g.mu.Lock()
		have := len(g.waiting)
		g.mu.Unlock()
		if have == n {
			return
		}
		runtime.Gosched()
	}
}

// What comes while earlier work is under way is done together, at most so much at once; who gives up before it began is left
// out; each hears how its own went.
func TestGather(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	var batches [][]int
	odd := errors.New("odd")
	g := newGather(3, func(batch []*asked[int]) []error {
		begun <- struct{}{}
		<-goOn
		var numbers []int
		errs := make([]error, len(batch))
		for i, a := range batch {
			if numbers = append(numbers, a.what); a.what%2 == 1 {
				errs[i] = odd
			}
		}
		slices.Sort(numbers)
		batches = append(batches, numbers)
		return errs
	})
	var callers sync.WaitGroup
	call := func(ctx context.Context, n int, want error) {
		callers.Go(func() {
			if err := g.do(ctx, n); !errors.Is(err, want) {
				t.Errorf("%d: got %v, want %v", n, err, want)
			}
		})
	}
	call(t.Context(), 100, nil)
	<-begun
	leaving, leave := context.WithCancel(t.Context())
	call(leaving, 98, context.Canceled)
	g.waits(1)
	leave()
	g.waits(0)
	for n := range 5 {
		want := error(nil)
		if n%2 == 1 {
			want = odd
		}
		call(t.Context(), n, want)
		g.waits(n + 1)
	}
	goOn <- struct{}{}
	for range 2 {
		<-begun
		goOn <- struct{}{}
	}
	callers.Wait()
	if len(batches) != 3 || !slices.Equal(batches[0], []int{100}) || !slices.Equal(batches[1], []int{0, 1, 2}) || !slices.Equal(batches[2], []int{3, 4}) {
		t.Errorf("done together: %v", batches)
	}
}

// A panic is the error of all that were done together, and the next piece of work goes on.
func TestGatherSurvivesAPanic(t *testing.T) {
	first := true
	g := newGather(10, func(batch []*asked[int]) []error {
		if first {
			first = false
			panic("as it was told")
		}
		return make([]error, len(batch))
	})
	if err := g.do(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "as it was told") {
		t.Errorf("got %v", err)
	}
	if err := g.do(t.Context(), 2); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
