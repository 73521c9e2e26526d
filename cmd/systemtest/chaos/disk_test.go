package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system of a round's own, in memory.
type disk struct {
	path string
}

// diskBytes has room for all that a round writes.
const diskBytes = 64 << 20

// mountsWork tells whether disks can be made, and why not.
func mountsWork(t *testing.T) error {
	if reason := os.Getenv(inNamespace); reason != "yes" {
		return errors.New(reason)
	}
	d, err := newDisk(t.TempDir())
	if err != nil {
		return err
	}
	return d.remove()
}

// newDisk puts a file system into a folder.
func newDisk(path string) (disk, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return disk{}, err
	}
	if err := unix.Mount("chaos", path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", diskBytes)); err != nil {
		return disk{}, fmt.Errorf("mounting a disk on %s: %w", path, err)
	}
	return disk{path}, nil
}

func (d disk) remove() error {
	if err := unix.Unmount(d.path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", d.path, err)
	}
	return nil
}

// ballastName is the file that fills a disk.
const ballastName = "ballast"

// fill leaves no byte free; free undoes it.
func (d disk) fill() (free func() error, err error) {
	name := filepath.Join(d.path, ballastName)
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	chunk := make([]byte, 1<<20)
	for len(chunk) > 0 {
		if _, err := f.Write(chunk); errors.Is(err, unix.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			return nil, errors.Join(err, os.Remove(name))
		}
	}
	return func() error { return os.Remove(name) }, nil
}

// freeze makes what is opened from now on read-only, while files that are open stay as they are: a kernel refuses to do it
// to a file system that somebody writes to. thaw undoes it.
func (d disk) freeze() (thaw func() error, err error) {
	if err := unix.Mount(d.path, d.path, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mounting %s over itself: %w", d.path, err)
	}
	if err := unix.Mount("", d.path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("making %s read-only: %w", d.path, err), d.remove())
	}
	return d.remove, nil
}
