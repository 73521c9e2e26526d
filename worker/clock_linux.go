package worker

import (
	"time"

	"golang.org/x/sys/unix"
)

// readClocks reads the clock since boot, and the one that leaves sleep out. Where they cannot be read nothing is known of
// sleep.
func readClocks() (on, still time.Duration) {
	var boot, monotonic unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic) != nil {
		return 0, 0
	}
	return time.Duration(boot.Nano()), time.Duration(monotonic.Nano())
}
