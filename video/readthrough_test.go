package video

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What the system cannot read on is no end of a file.
func TestReadThrough(t *testing.T) {
	dir := t.TempDir()
	whole := write(t, filepath.Join(dir, "v.mp4"), "content")
	r := reading{path: whole, alive: func() {}}
	for _, part := range []struct{ offset, length int64 }{{0, 0}, {2, 3}, {2, 100}, {100, 0}} {
		if r.offset, r.length = part.offset, part.length; readThrough(r) != nil {
			t.Errorf("%+v: %v", part, readThrough(r))
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "none")} { // reading a folder fails as a bad disk does
		err := readThrough(reading{path: path, alive: func() {}})
		var bad *FileError
		if !errors.As(err, &bad) || bad.System == nil || !bad.ofTheHour() || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
