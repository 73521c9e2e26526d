package coordinator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/surmise-ml/surmise/internal/durable"
)

const (
	// DefaultAuditBytes is a few hundred thousand records.
	DefaultAuditBytes = 64 << 20
	// DefaultAuditKeep is how many full files are kept beside the one being written.
	DefaultAuditKeep = 10
)

// AuditFile is an AuditSink of JSON lines: path, and path.1, path.2 … with what was written before, newest first. Each
// line is synced before Append returns: a millisecond or so beside that which the store takes for the change itself.
// Safe for concurrent use in one process.
type AuditFile struct {
	path     string
	maxBytes int64
	keep     int

	mu   sync.Mutex
	f    *os.File // guarded by mu; nil after a failure, until it can be opened again
	size int64    // guarded by mu
}

// OpenAuditFile opens path, making it if missing, for records to be appended. A file that a record would take beyond
// maxBytes is put aside; of those put aside, keep are kept. Zero means the default of either.
func OpenAuditFile(path string, maxBytes int64, keep int) (*AuditFile, error) {
	if maxBytes < 0 || keep < 0 {
		return nil, fmt.Errorf("audit log %s: %d bytes, %d files: want no negative number", path, maxBytes, keep)
	}
	if maxBytes == 0 {
		maxBytes = DefaultAuditBytes
	}
	if keep == 0 {
		keep = DefaultAuditKeep
	}
	a := &AuditFile{path: path, maxBytes: maxBytes, keep: keep}
	return a, a.open()
}

// open opens the file and ends a line that a crash cut short, so that the next one stands alone.
func (a *AuditFile) open() error {
	f, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte("\n"))
		}
	}
	if err == nil {
		info, err = f.Stat()
	}
	if err == nil {
		err = durable.Sync(filepath.Dir(a.path))
	}
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", errors.Join(err, f.Close()))
	}
	a.f, a.size = f, info.Size()
	return nil
}

// Append writes a line, which ends in a newline, and syncs it. After an error the line may be there in part or not at
// all; the next one begins on a line of its own.
func (a *AuditFile) Append(line []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f != nil && !a.inPlace() {
		_ = a.f.Close() // every line was synced
		a.f = nil
	}
	if a.f == nil {
		if err := a.open(); err != nil {
			return err
		}
	}
	if a.size > 0 && a.size+int64(len(line)) > a.maxBytes {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	n, err := a.f.Write(line)
	a.size += int64(n)
	if err == nil {
		err = a.f.Sync()
	}
	if err != nil { // opened afresh, it ends a line cut short
		err = fmt.Errorf("writing the audit log %s: %w", a.path, errors.Join(err, a.f.Close()))
		a.f = nil
	}
	return err
}

// inPlace tells whether the path still names the file that is open: one that was moved or removed from outside, by a program that
// rotates logs, say, is followed by a new one.
func (a *AuditFile) inPlace() bool {
	ours, err := a.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(a.path)
	return err == nil && os.SameFile(ours, there)
}

// rotate puts the file aside as path.1, after moving each older one up by one.
func (a *AuditFile) rotate() error {
	err := a.f.Close() // every line was synced
	a.f = nil
	if err != nil {
		return fmt.Errorf("putting the audit log %s aside: %w", a.path, err)
	}
	older := func(n int) string { return a.path + "." + strconv.Itoa(n) }
	for n := a.keep; n > 0; n-- {
		from := older(n - 1)
		if n == 1 {
			from = a.path
		}
		if err := os.Rename(from, older(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("putting the audit log %s aside: %w", a.path, err)
		}
	}
	return a.open() // syncs the folder
}

// Close closes the file.
func (a *AuditFile) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return nil
	}
	err := a.f.Close()
	a.f = nil
	return err
}
