package cpu

import (
	"fmt"
	"syscall"
	"unsafe"
)

// arena is one piece of memory outside the Go heap: the garbage collector neither
// scans nor moves it, and huge pages keep page faults out of the steps.
type arena struct {
	raw    []byte
	floats []float32
	used   int
}

func newArena(floats int) (*arena, error) {
	if floats < 1 {
		floats = 1
	}
	raw, err := syscall.Mmap(-1, 0, 4*floats, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", 4*floats, err)
	}
	_ = syscall.Madvise(raw, 14 /* MADV_HUGEPAGE */) // a hint: systems without huge pages refuse it
	return &arena{raw: raw, floats: unsafe.Slice((*float32)(unsafe.Pointer(&raw[0])), floats)}, nil
}

// untouched is how many bytes of it the system has not given yet; 0 where it does not say.
func (a *arena) untouched() (bytes int64) {
	if a.raw == nil {
		return 0
	}
	page := syscall.Getpagesize()
	there := make([]byte, (len(a.raw)+page-1)/page) // lowest bit: the page is in memory
	if _, _, failed := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&a.raw[0])), uintptr(len(a.raw)), uintptr(unsafe.Pointer(&there[0]))); failed != 0 {
		return 0
	}
	for _, p := range there {
		if p&1 == 0 {
			bytes += int64(page)
		}
	}
	return bytes
}

func (a *arena) free() error {
	if a.raw == nil {
		return nil
	}
	raw := a.raw
	a.raw, a.floats = nil, nil
	return syscall.Munmap(raw)
}
