package joblog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var at = time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)

func line(n int64) Line {
	return Line{Number: n, Time: at.Add(time.Duration(n) * time.Second), Level: "INFO", Text: fmt.Sprintf("line %d", n)}
}

func lines(from, to int64) (out []Line) {
	for n := from; n <= to; n++ {
		out = append(out, line(n))
	}
	return out
}

func read(t testing.TB, r *Reader) (out []Line) {
	t.Helper()
	if err := r.Next(func(l Line) error { out = append(out, l); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func want(t testing.TB, got []Line, from, to int64) {
	t.Helper()
	if int64(len(got)) != max(0, to-from+1) {
		t.Fatalf("%d lines, want %d to %d", len(got), from, to)
	}
	for i, l := range got {
		if l != line(from+int64(i)) {
			t.Errorf("got %+v, want %+v", l, line(from+int64(i)))
		}
	}
}

func appendLines(t testing.TB, s *Store, from, to int64) {
	t.Helper()
	if err := s.Append("a", 1, lines(from, to)); err != nil {
		t.Fatal(err)
	}
}

// Lines that come again, in whole or in part, are kept once, by the same process and by the next one.
func TestEveryLineOnce(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, 0)
	r := s.Read("a", 1, 0)
	defer r.Close()
	want(t, read(t, r), 1, 0)
	appendLines(t, s, 1, 3)
	want(t, read(t, r), 1, 3)
	appendLines(t, s, 2, 5)
	want(t, read(t, r), 4, 5)
	s = New(dir, 0) // as after a restart
	appendLines(t, s, 1, 6)
	want(t, read(t, r), 6, 6)
	all := s.Read("a", 1, 4)
	defer all.Close()
	want(t, read(t, all), 5, 6)
	other := s.Read("a", 2, 0)
	defer other.Close()
	want(t, read(t, other), 1, 0)
}

// A line that a crash left unfinished is cut off, and kept when it comes again; a reader never sees half of it.
func TestAnUnfinishedLine(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, 0)
	appendLines(t, s, 1, 2)
	path := filepath.Join(dir, "a", "log", "1.jsonl")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":3,"t":"2030-`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := s.Read("a", 1, 0)
	defer r.Close()
	want(t, read(t, r), 1, 2)
	s = New(dir, 0)
	appendLines(t, s, 3, 4)
	want(t, read(t, r), 3, 4)
}

// An attempt that logs without end keeps its newest lines, and a reader that keeps up sees every one.
func TestBounded(t *testing.T) {
	dir := t.TempDir()
	const part = 4096
	s := New(dir, part)
	following := s.Read("a", 1, 0)
	defer following.Close()
	for n := int64(1); n <= 300; n += 3 {
		appendLines(t, s, n, n+2)
		want(t, read(t, following), n, n+2)
	}
	var kept int64
	files, err := filepath.Glob(filepath.Join(dir, "a", "log", "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files %v (%v)", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		kept += info.Size()
	}
	late := s.Read("a", 1, 0)
	defer late.Close()
	got := read(t, late)
	if kept > 2*part || kept < part || len(got) < 30 {
		t.Errorf("%d bytes in %d lines", kept, len(got))
	}
	want(t, got, 301-int64(len(got)), 300)
	s = New(dir, part)
	appendLines(t, s, 299, 301)
	want(t, read(t, late), 301, 301)
}

// Whatever the order of appending, restarting, and reading: lines come out in order, each once, and none is missing that
// was not put away by later ones.
func TestReadersInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "joblog-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		part := int64(rapid.IntRange(100, 2000).Draw(t, "part"))
		s := New(dir, part)
		r := s.Read("a", 1, 0)
		defer func() { r.Close() }()
		written, seen := int64(0), int64(0)
		rotations := 0
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0, 1:
				from := max(1, written-int64(rapid.IntRange(0, 3).Draw(t, "again")))
				to := written + int64(rapid.IntRange(0, 4).Draw(t, "new"))
				before, _ := os.Stat(filepath.Join(dir, "a", "log", "1.jsonl"))
				if err := s.Append("a", 1, lines(from, to)); err != nil {
					t.Fatal(err)
				}
				written = max(written, to)
				if after, _ := os.Stat(filepath.Join(dir, "a", "log", "1.jsonl")); before != nil && !os.SameFile(before, after) {
					rotations++
				}
			case 2:
				s = New(dir, part)
			case 3:
				var got []Line
				if err := r.Next(func(l Line) error { got = append(got, l); return nil }); err != nil {
					t.Fatal(err)
				}
				for _, l := range got {
					if l.Number <= seen || l != line(l.Number) {
						t.Fatalf("line %+v after %d", l, seen)
					}
					if l.Number != seen+1 && rotations < 2 {
						t.Fatalf("line %d after %d: lines between are missing", l.Number, seen)
					}
					seen = l.Number
				}
				if seen != written {
					t.Fatalf("read up to %d of %d", seen, written)
				}
				rotations = 0
			}
		}
	})
}

func TestAReaderThatIsStopped(t *testing.T) {
	s := New(t.TempDir(), 0)
	appendLines(t, s, 1, 3)
	r := s.Read("a", 1, 0)
	defer r.Close()
	enough := errors.New("enough")
	if err := r.Next(func(l Line) error {
		if l.Number == 2 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		t.Fatalf("got %v", err)
	}
}

func TestAFolderThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := New(dir, 0).Append("a", 1, lines(1, 1)); err == nil || !strings.Contains(err.Error(), "job a, attempt 1") {
		t.Errorf("got %v", err)
	}
}

// Files lie on disks that others write to.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"n":1,"t":"2030-01-02T03:04:05Z","l":"INFO","m":"a"}` + "\n" + `{"n":2`))
	f.Add([]byte("\n\nnull\n[]\n{}\n{\"n\":-1}\n"))
	f.Add([]byte(strings.Repeat("x", maxLineBytes+10) + "\n" + `{"n":7}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "a", "log", "1.jsonl")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s := New(dir, 1<<20)
		r := s.Read("a", 1, 0)
		defer r.Close()
		last := int64(0)
		for _, l := range read(t, r) {
			if l.Number <= last {
				t.Fatalf("line %d after %d", l.Number, last)
			}
			last = l.Number
		}
		if last == 1<<63-1 {
			return // no number is left
		}
		if err := s.Append("a", 1, []Line{line(last + 1)}); err != nil {
			t.Fatal(err)
		}
		if got := read(t, r); len(got) != 1 || got[0] != line(last+1) {
			t.Fatalf("after %d came %v", last, got)
		}
	})
}
