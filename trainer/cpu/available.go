package cpu

import "sync"

// AvailableMemory returns the bytes that this process can still take: what the system has free or can free, and no more
// than its control groups allow, less what machines that have not run yet will take. ok is false where the system does not
// say.
func AvailableMemory() (bytes int64, ok bool) {
	bytes, ok = availableMemory()
	return max(0, bytes-waiting.untouched()), ok
}

// waiting are the machines that have not run yet. The system counts memory only once it is touched, so that two machines
// made one after the other would each be given all that is left.
var waiting machines

type machines struct {
	mu  sync.Mutex
	all map[*Machine]bool // guarded by mu
}

func (w *machines) add(m *Machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[*Machine]bool{}
	}
	w.all[m] = true
}

// remove leaves the counting to the system.
func (w *machines) remove(m *Machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, m)
}

// untouched is the memory, bytes, of these machines that the system does not count yet. Weights are there, what they are
// computed with is not.
func (w *machines) untouched() (bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for m := range w.all {
		bytes += m.memory.untouched()
	}
	return bytes
}
