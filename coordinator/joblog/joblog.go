// Package joblog keeps what workers logged about jobs: a file of JSON lines for each attempt, bounded by leaving the
// oldest lines out.
//
//	DIR/{job}/log/{epoch}.jsonl       the newest lines
//	DIR/{job}/log/{epoch}.old.jsonl   those before, once there are more than fit one file
//
// Lines carry their number, so a line that is sent twice is kept once, whatever was lost in between: the worker's
// connection, or the coordinator.
package joblog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// PartBytes is the size at which a file is put aside; an attempt keeps at most two of them.
	PartBytes = 4 << 20
	// maxLineBytes bounds a line on disk: a text of 8 KiB, every byte of it escaped, and what is around it.
	maxLineBytes = 64 << 10
	// maxRemembered attempts are those whose newest line is known without reading their file.
	maxRemembered = 1024
)

// Line is one line of an attempt.
type Line struct {
	Number  int64     `json:"n"` // from 1
	Time    time.Time `json:"t"`
	Level   string    `json:"l"`
	Text    string    `json:"m"`
	Dropped int64     `json:"d,omitempty"` // lines lost before this one
}

// Store keeps lines below a folder. Safe for concurrent use; one process at a time may append.
type Store struct {
	dir   string
	bytes int64 // of a part

	mu   sync.Mutex
	last map[attempt]*tail // guarded by mu
}

type attempt struct {
	job   string
	epoch int64
}

// tail is the end of an attempt's file.
type tail struct {
	mu     sync.Mutex
	known  bool
	number int64 // of the newest line; 0: none. Guarded by mu.
	size   int64 // of the file, in bytes. Guarded by mu.
}

// New keeps lines below dir, which is made when the first arrives. partBytes 0 means PartBytes.
func New(dir string, partBytes int64) *Store {
	if partBytes == 0 {
		partBytes = PartBytes
	}
	return &Store{dir: dir, bytes: partBytes, last: map[attempt]*tail{}}
}

func (s *Store) path(a attempt) string {
	return filepath.Join(s.dir, a.job, "log", strconv.FormatInt(a.epoch, 10)+".jsonl")
}

func (s *Store) oldPath(a attempt) string {
	return filepath.Join(s.dir, a.job, "log", strconv.FormatInt(a.epoch, 10)+".old.jsonl")
}

// tail finds or makes the entry of an attempt.
func (s *Store) tail(a attempt) *tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.last[a]
	if t == nil {
		if len(s.last) >= maxRemembered {
			clear(s.last) // rare; the next word about each reads its file once
		}
		t = &tail{}
		s.last[a] = t
	}
	return t
}

// Append keeps lines of an attempt, in the order of their numbers, but for those that it has. Their file is on disk when it
// returns; its name, when it is new, a little later, so a crash of the machine may cost an attempt's first lines.
func (s *Store) Append(job string, epoch int64, lines []Line) (err error) {
	a := attempt{job, epoch}
	t := s.tail(a)
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		if err != nil {
			t.known = false // what is on disk is read again
			err = fmt.Errorf("keeping the log of job %s, attempt %d: %w", job, epoch, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(s.path(a)), 0o755); err != nil {
		return err
	}
	if !t.known {
		if err := s.recover(a, t); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	number := t.number
	for _, l := range lines {
		if l.Number <= number {
			continue
		}
		line, err := json.Marshal(l)
		if err != nil {
			return err
		}
		text.Write(line)
		text.WriteByte('\n')
		number = l.Number
	}
	if text.Len() == 0 {
		return nil
	}
	if t.size > 0 && t.size+int64(text.Len()) > s.bytes {
		if err := os.Rename(s.path(a), s.oldPath(a)); err != nil {
			return err
		}
		t.size = 0
	}
	f, err := os.OpenFile(s.path(a), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	t.number, t.size = number, t.size+int64(text.Len())
	return nil
}

// recover reads the end of an attempt's file, and cuts off a line that a crash left unfinished.
func (s *Store) recover(a attempt, t *tail) error {
	t.number, t.size = 0, 0
	for _, path := range []string{s.oldPath(a), s.path(a)} { // the newer one may be missing, between a rename and a write
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			t.size = 0
			continue
		}
		if err != nil {
			return err
		}
		whole, err := scan(f, func(l Line) { t.number = max(t.number, l.Number) })
		if err == nil {
			err = f.Truncate(whole)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		t.size = whole
	}
	t.known = true
	return nil
}

// scan passes on the lines of r and returns how many bytes whole lines take. What is not a line is passed over.
func scan(r io.Reader, each func(Line)) (whole int64, err error) {
	in := bufio.NewReaderSize(r, maxLineBytes)
	for {
		text, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // nobody here wrote that
			for errors.Is(err, bufio.ErrBufferFull) {
				whole += int64(len(text))
				text, err = in.ReadSlice('\n')
			}
			if err != nil {
				return whole, ended(err)
			}
			whole += int64(len(text))
			continue
		case err != nil:
			return whole, ended(err)
		}
		whole += int64(len(text))
		var l Line
		if json.Unmarshal(text, &l) == nil && l.Number > 0 {
			each(l)
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Reader reads the lines of one attempt, and those that are appended later. It must be closed. One goroutine at a time
// uses it.
type Reader struct {
	s    *Store
	a    attempt
	last int64    // number of the newest line returned
	f    *os.File // nil: nothing was there yet
	at   int64    // bytes of f that are read
}

// Read begins after the line of this number.
func (s *Store) Read(job string, epoch, after int64) *Reader {
	return &Reader{s: s, a: attempt{job, epoch}, last: after}
}

// Next passes on every line that is there and was not passed on before, in order, until each returns an error, which it
// returns.
func (r *Reader) Next(each func(Line) error) error {
	for {
		moved, err := r.moved() // looked at first: what is appended to a file before it is put aside is read from it
		if err != nil {
			return fmt.Errorf("reading the log of job %s, attempt %d: %w", r.a.job, r.a.epoch, err)
		}
		if r.f != nil {
			if err := r.drain(each); err != nil {
				return err
			}
		}
		if !moved {
			return nil
		}
		if err := r.open(); err != nil {
			return fmt.Errorf("reading the log of job %s, attempt %d: %w", r.a.job, r.a.epoch, err)
		}
	}
}

// moved tells whether there is another file to read than the one that is open.
func (r *Reader) moved() (bool, error) {
	there, err := os.Stat(r.s.path(r.a))
	if errors.Is(err, os.ErrNotExist) {
		if r.f != nil {
			return false, nil // between a rename and a write: what follows comes to its place
		}
		_, err := os.Stat(r.s.oldPath(r.a))
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	if err != nil || r.f == nil {
		return err == nil, err
	}
	open, err := r.f.Stat()
	if err != nil {
		return false, err
	}
	return !os.SameFile(there, open), nil
}

// open opens the file after the one that was read: the older part when that is another one, else the newer.
func (r *Reader) open() error {
	previous := r.f
	defer func() {
		if previous != nil {
			_ = previous.Close()
		}
	}()
	r.f, r.at = nil, 0
	for _, path := range []string{r.s.oldPath(r.a), r.s.path(r.a)} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if previous != nil && same(previous, f) {
			_ = f.Close()
			continue
		}
		r.f = f
		return nil
	}
	return nil
}

func same(a, b *os.File) bool {
	first, err := a.Stat()
	if err != nil {
		return false
	}
	second, err := b.Stat()
	return err == nil && os.SameFile(first, second)
}

// drain reads the open file to its end.
func (r *Reader) drain(each func(Line) error) error {
	var stop error
	whole, err := scan(io.NewSectionReader(r.f, r.at, 1<<62-r.at), func(l Line) {
		if stop != nil || l.Number <= r.last {
			return
		}
		if stop = each(l); stop == nil {
			r.last = l.Number
		}
	})
	r.at += whole
	if stop != nil {
		return stop
	}
	if err != nil {
		return fmt.Errorf("reading the log of job %s, attempt %d: %w", r.a.job, r.a.epoch, err)
	}
	return nil
}

// Close ends the reading.
func (r *Reader) Close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}
