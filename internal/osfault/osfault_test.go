package osfault_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/surmise-ml/surmise/internal/osfault"
)

func TestOfMachine(t *testing.T) {
	_, missing := os.Open(filepath.Join(t.TempDir(), "none"))
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("a bad setting"), false},
		{missing, false},
		{syscall.EACCES, false},
		{fmt.Errorf("reading: %w", &os.PathError{Op: "read", Path: "a", Err: syscall.EIO}), true},
		{syscall.ENOSPC, true},
		{syscall.EMFILE, true},
	} {
		if got := osfault.OfMachine(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
