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

func (a *arena) free() error {
	if a.raw == nil {
		return nil
	}
	raw := a.raw
	a.raw, a.floats = nil, nil
	return syscall.Munmap(raw)
}
