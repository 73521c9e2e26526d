package checkpoint

import (
	"os"
	"syscall"
)

// mapFile maps size bytes of f for reading. The pages belong to the file: the system takes them back when it needs memory.
func mapFile(f *os.File, size int64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	return syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
}

func unmap(b []byte) error {
	if b == nil {
		return nil
	}
	return syscall.Munmap(b)
}

// release is a hint: where the system refuses it, pages stay until memory is needed.
func release(b []byte) {
	if b != nil {
		_ = syscall.Madvise(b, syscall.MADV_DONTNEED)
	}
}
