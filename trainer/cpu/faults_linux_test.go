package cpu

import "syscall"

// pageFaults is how often this process has touched memory that had no page yet.
func pageFaults() (int64, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return u.Minflt + u.Majflt, true
}
