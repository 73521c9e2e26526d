package cpu

import "sync/atomic"

// AvailableMemory returns the bytes that this process can still take: what the system has free or can free, and no more
// than its control groups allow, less what machines that have not run yet will take. ok is false where the system does not
// say.
func AvailableMemory() (bytes int64, ok bool) {
	bytes, ok = availableMemory()
	return max(0, bytes-promised.Load()), ok
}

// promised is the memory, bytes, of all machines that have not run yet. The system counts memory only once it is touched,
// so that two machines made one after the other would each be given all that is left.
var promised atomic.Int64

// promise counts the machine's memory among what is promised.
func (m *Machine) promise() {
	m.promised = m.needs.Bytes()
	promised.Add(m.promised)
}

// keepPromise leaves the counting to the system.
func (m *Machine) keepPromise() {
	promised.Add(-m.promised)
	m.promised = 0
}
