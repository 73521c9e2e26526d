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

	// Who was served when, in turns, by this coordinator since it started: with as many jobs under way, whoever waited longer
	// is next. It is not kept on disk: what is forgotten costs an owner one turn.
	served map[string]int64
	turn   int64
}

// maxServed is how many owners' turns are remembered.
const maxServed = 1 << 14

// share is what owners have, as leasing goes on.
type share struct {
	held   map[string]int   // jobs under way
	served map[string]int64 // when last; 0: not yet
	turn   int64
}

// serve counts a job to an owner.
func (s *share) serve(owner string) {
	s.turn++
	s.held[owner]++
	s.served[owner] = s.turn
}

// read returns a copy.
func (s *shares) read(ctx context.Context, t tx) (*share, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := t.now().Sub(s.at); s.at.IsZero() || age < 0 || age >= sharesFor {
		counts, err := readHeld(ctx, t)
		if err != nil {
			return nil, err
		}
		s.at, s.counts = t.now(), counts
	}
	out := &share{held: maps.Clone(s.counts), served: maps.Clone(s.served), turn: s.turn}
	if out.served == nil {
		out.served = map[string]int64{}
	}
	return out, nil
}

// serve notes a lease that is on disk.
func (s *shares) serve(owner string) {
	s.mu.Lock()
	if s.served == nil {
		s.served = map[string]int64{}
	}
	s.turn++
	if len(s.served) >= maxServed { // who is forgotten waited longest, and counts as one who never was
		maps.DeleteFunc(s.served, func(_ string, turn int64) bool { return turn <= s.turn-maxServed/2 })
	}
	s.served[url.PathEscape(owner)] = s.turn
	s.mu.Unlock()
	s.add(owner, 1)
}

// last is the turn in which an owner, as escaped in classes, was served last; 0: never.
func (s *shares) last(owner string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served[owner]
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
