package video

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sharedBytes is the size of the memory that a decoder and its parent share: two frames of the largest size. Only what
// is touched takes memory, which is a few megabytes unless frames are large.
const sharedBytes = 2 * 3 << 26

// newShared makes memory that two processes can map. Neither can change its size, so neither can make the other fail
// by reading past its end.
func newShared(bytes int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("surmise-frames", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making memory to share with a decoder: %w", err)
	}
	f := os.NewFile(uintptr(fd), "frames")
	if err := f.Truncate(bytes); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("making %d bytes of memory to share with a decoder: %w", bytes, err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("sealing memory to share with a decoder: %w", err)
	}
	return f, nil
}

// mapShared maps all of it, and closes the file.
func mapShared(f *os.File) ([]byte, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("mapping memory shared with a decoder: %w", err)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes of memory shared with a decoder: %w", info.Size(), err)
	}
	return memory, nil
}
