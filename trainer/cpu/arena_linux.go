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
	opaque bool // the system does not say which pages are in memory
}

func newArena(floats int) (*arena, error) {
	if floats < 1 {
		floats = 1
	}
	raw, err := syscall.Mmap(-1, 0, 4*floats, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", 4*floats, err)
	}
	_ = syscall.Madvise(raw, 14 /* MADV_HUGEPAGE */)                 // a hint: systems without huge pages refuse it
	fresh, ok := missing(raw[:min(len(raw), syscall.Getpagesize())]) // nobody has touched it: some sandboxes say otherwise
	return &arena{raw: raw, floats: unsafe.Slice((*float32)(unsafe.Pointer(&raw[0])), floats), opaque: !ok || fresh == 0}, nil
}

// untouched is how many bytes of it the system has not given yet; all where it does not say.
func (a *arena) untouched() (bytes int64) {
	if a.raw == nil {
		return 0
	}
	if n, ok := missing(a.raw); ok && !a.opaque {
		return n
	}
	return int64(len(a.raw))
}

// tells is whether the system says what of it is there.
func (a *arena) tells() bool { return !a.opaque }

// missing is how many bytes of mapped memory are not there; ok is false where the system does not say.
func missing(raw []byte) (bytes int64, ok bool) {
	page := syscall.Getpagesize()
	there := make([]byte, (len(raw)+page-1)/page) // lowest bit: the page is in memory
	if _, _, failed := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&raw[0])), uintptr(len(raw)), uintptr(unsafe.Pointer(&there[0]))); failed != 0 {
		return 0, false
	}
	for _, p := range there {
		if p&1 == 0 {
			bytes += int64(page)
		}
	}
	return bytes, true
}

func (a *arena) free() error {
	if a.raw == nil {
		return nil
	}
	raw := a.raw
	a.raw, a.floats = nil, nil
	return syscall.Munmap(raw)
}
