package queue

import (
	"context"
	"maps"
	"net/url"
	"sync"
	"time"
)

// sharesFor is how long the jobs that workers hold are counted without being read again.
const sharesFor = time.Second

// shares counts the jobs that workers hold by owner, for fairness. To read them for every lease would cost most of its time;
// what this coordinator changes is counted as it happens, and what others change is known within sharesFor.
type shares struct {
	mu     sync.Mutex
	at     time.Time      // when they were read, by the store's clock; zero: never
	counts map[string]int // by owner as escaped in classes
}

// read returns a copy of the counts.
func (s *shares) read(ctx context.Context, t tx) (map[string]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := t.now().Sub(s.at); s.at.IsZero() || age < 0 || age >= sharesFor {
		counts, err := readHeld(ctx, t)
		if err != nil {
			return nil, err
		}
		s.at, s.counts = t.now(), counts
	}
	return maps.Clone(s.counts), nil
}

// add counts what a change on disk adds to an owner's jobs, or takes away.
func (s *shares) add(owner string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		return // not read yet
	}
	name := url.PathEscape(owner)
	if s.counts[name] += n; s.counts[name] <= 0 {
		delete(s.counts, name)
	}
}
