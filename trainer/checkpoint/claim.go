package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Claim makes the folder of a run and keeps other processes from running in it until the claim is closed, or the process
// ends. Where the file system knows no locks nobody is kept out.
func Claim(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("claim the folder of a run: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("claim the folder of a run: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("another process trains in %s: wait for its end, or train into another folder", dir), f.Close())
	}
	return f, nil
}
