package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesAreWholeOrNotThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "scores.json")
	if err := WriteBytes(path, 0o640, []byte("old")); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	err := WriteFile(path, 0o644, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of what is"); err != nil {
			return err
		}
		if files, err := filepath.Glob(filepath.Join(dir, Unfinished+"*")); err != nil || len(files) != 1 {
			t.Errorf("while it is written there is %q: %v", files, err)
		}
		return full
	})
	if !errors.Is(err, full) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want the file and what was wrong", err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "old" {
		t.Errorf("the file holds %q (%v) after a failed write", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v (%v), want 0640", info.Mode(), err)
	}
	if err := WriteFile(path, 0o600, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "new" {
		t.Errorf("the file holds %q: %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v: %v", left, err)
	}
	if err := WriteBytes(filepath.Join(dir, "no", "folder"), 0o644, nil); err == nil {
		t.Error("written into a folder that is not there")
	}
	if err := WriteBytes(dir, 0o644, nil); err == nil {
		t.Error("a folder was replaced by a file")
	}
}
