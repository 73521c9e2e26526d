//go:build !linux

package cpu

func pageFaults() (int64, bool) { return 0, false }
