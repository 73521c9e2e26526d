package bounded_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/surmise-ml/surmise/internal/bounded"
)

func TestReadFileUpToItsSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := bounded.ReadFile(path, 5); err != nil || string(got) != "12345" {
		t.Errorf("as many bytes as it may have: %q, %v", got, err)
	}
	got, err := bounded.ReadFile(path, 4)
	if !errors.Is(err, bounded.ErrTooLarge) || got != nil {
		t.Errorf("one byte more than it may have: %q, %v", got, err)
	}
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "more than 4 bytes") {
		t.Errorf("error does not name the file and the size: %v", err)
	}
	if _, err := bounded.ReadFile(path+"x", 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestReadTellsWhatFailed(t *testing.T) {
	broken := errors.New("broken")
	if got, err := bounded.Read(iotest.ErrReader(broken), 4); !errors.Is(err, broken) || got != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
