package worker

import (
	"sync"
	"time"
)

// clockLook bounds how long the loop rests while a lease is held. Timers stand still while the machine sleeps: without a
// look at the clock a worker could go on, after it woke up, for as long as was left when it fell asleep.
const clockLook = time.Second

// systemClock is time.Now, whose monotonic part stands still while the machine sleeps, with the time slept added. Leases
// go on meanwhile. A process that is stopped (SIGSTOP) has no such gap: its machine is awake.
type systemClock struct{ slept *slept }

func newSystemClock() systemClock { return systemClock{&slept{read: readClocks}} }

func (c systemClock) Now() time.Time                         { return time.Now().Add(c.slept.sum()) }
func (c systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// leastSleep is above what two clocks differ that are read one after the other by a busy machine.
const leastSleep = 50 * time.Millisecond

// slept adds up what one clock ran on while the other stood still.
type slept struct {
	// read reads a clock that goes on while the machine sleeps, and then one that does not, so that a gap between the two
	// readings makes the sleep look shorter.
	read func() (on, still time.Duration)

	mu    sync.Mutex
	began bool
	first time.Duration // difference between the two at the beginning
	total time.Duration
}

func (s *slept) sum() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	on, still := s.read()
	if !s.began {
		s.began, s.first = true, on-still
		for range 4 { // a gap in the first reading would look like sleep ever after
			on, still = s.read()
			s.first = max(s.first, on-still)
		}
	}
	if d := on - still - s.first; d > s.total+leastSleep {
		s.total = d
	}
	return s.total
}
