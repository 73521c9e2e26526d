package auth

import (
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
)

// watched is a value read from files. get looks whether they changed, a microsecond's work, so there is no goroutine to
// own and no delay in which what was revoked still counts.
type watched[T any] struct {
	paths []string
	read  func() (T, error)
	log   *slog.Logger

	mu    sync.Mutex
	value T      // guarded by mu
	seen  []seen // guarded by mu; of the files when they were last read, well or not
}

// seen is a file at one moment. A file that is replaced by a rename differs even within one tick of the clock.
type seen struct {
	info fs.FileInfo // nil: it could not be looked at
}

func (a seen) same(b seen) bool {
	if a.info == nil || b.info == nil {
		return a.info == b.info
	}
	return os.SameFile(a.info, b.info) && a.info.ModTime().Equal(b.info.ModTime()) && a.info.Size() == b.info.Size()
}

// watch reads the files for the first time, when an error is the caller's.
func watch[T any](log *slog.Logger, read func() (T, error), paths ...string) (*watched[T], error) {
	w := &watched[T]{paths: paths, read: read, log: log, seen: look(paths)}
	var err error
	w.value, err = read()
	return w, err
}

// get is the newest value that could be read. Files that are broken leave the old one in force and are logged once.
func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := look(w.paths) // before reading: what changes meanwhile is read again
	if slices.EqualFunc(now, w.seen, seen.same) {
		return w.value
	}
	w.seen = now
	value, err := w.read()
	if err != nil {
		w.log.Error("a changed file cannot be used; what it held before stays in force", "files", w.paths, "error", err)
		return w.value
	}
	w.value = value
	w.log.Info("read again after a change", "files", w.paths)
	return w.value
}

func look(paths []string) []seen {
	out := make([]seen, len(paths))
	for i, path := range paths {
		if info, err := os.Stat(path); err == nil {
			out[i].info = info
		}
	}
	return out
}
