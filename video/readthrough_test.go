package video

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/osfault"
)

// What the system cannot read on is no end of a file.
func TestReadThrough(t *testing.T) {
	dir := t.TempDir()
	whole := write(t, filepath.Join(dir, "v.mp4"), "content")
	r := reading{path: whole, alive: func() {}}
	for _, part := range []struct{ offset, length int64 }{{0, 0}, {2, 3}, {2, 100}, {100, 0}} {
		for _, most := range []int64{0, 2, 7, 1 << 20} {
			if r.offset, r.length = part.offset, part.length; readThrough(r) != nil || readEnds(r, most) != nil {
				t.Errorf("%+v: %v, of %d bytes of each end %v", part, readThrough(r), most, readEnds(r, most))
			}
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "none"), "/proc/self/mem"} { // reading a folder fails as a bad disk does
		err := readThrough(reading{path: path, alive: func() {}})
		var bad *FileError
		if !errors.As(err, &bad) || bad.System == nil || !bad.ofTheHour() {
			t.Errorf("%s: %v", path, err)
		}
		if path == "/proc/self/mem" && (bad == nil || !osfault.OfMachine(bad.System)) {
			t.Errorf("%s, of which no byte can be read: %v", path, err)
		}
	}
}

// A long file shows that work goes on, and one that could not be opened is not read from end to end.
func TestReadEnds(t *testing.T) {
	long := write(t, filepath.Join(t.TempDir(), "long"), strings.Repeat("x", 5<<20))
	for _, c := range []struct{ most, least, fewer int64 }{{5 << 20, 5, 9}, {1 << 20, 2, 5}} {
		var looked int64
		if err := readEnds(reading{path: long, alive: func() { looked++ }}, c.most); err != nil || looked < c.least || looked >= c.fewer {
			t.Errorf("%d bytes of each end: %v, %d signs of life", c.most, err, looked)
		}
	}
	if err := os.Truncate(long, 1<<40); err != nil { // a hole, in no time
		t.Skipf("no sparse files here: %v", err)
	}
	if err := readEnds(reading{path: long, alive: func() {}}, openBytes); err != nil {
		t.Error(err)
	}
}
