//go:build !linux

package cpu

// availableMemory is not known on this system.
func availableMemory() (bytes int64, ok bool) { return 0, false }
