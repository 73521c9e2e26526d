// Package tensorboard writes and reads the event files that TensorBoard shows.
//
//	tensorboard.go  a folder of event files: written while training, read for reports
//	record.go       the frame of a record: length, data, checksums
//	event.go        what a record holds: step, time and named figures
//
// An event file is TFRecord frames of Event messages (tensorflow/core/lib/io/record_writer.h,
// tensorflow/core/util/event.proto); of either only what figures need is here.
package tensorboard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Writer appends to one event file. It serves one goroutine. After a write has failed all others do: on a full disk it
// leaves a record that is cut off, and readers pass over that only at the end of a file.
type Writer struct {
	file   *os.File
	failed error // of the first write that did
}

// nameFormat is the name of an event file: when it was begun, in seconds, and its number among those of that second.
const nameFormat = "events.out.tfevents.%010d.%03d.surmise"

// Create starts a new event file in dir, which it makes. Files of earlier runs stay, and come before it in the order of
// names, which is the order that TensorBoard and Read go by, also where they were begun by a clock that was ahead.
func Create(dir string, now time.Time) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("event file: %w", err)
	}
	began := now.Unix()
	earlier, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("event file: %w", err)
	}
	for _, e := range earlier {
		var at int64
		var n int
		if _, err := fmt.Sscanf(e.Name(), nameFormat, &at, &n); err == nil {
			began = max(began, at)
		}
	}
	var f *os.File
	for n := 0; ; n++ {
		name := fmt.Sprintf(nameFormat, began, n)
		var err error
		if f, err = os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644); err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) || n == 999 {
			return nil, fmt.Errorf("event file: %w", err)
		}
	}
	w := &Writer{file: f}
	if err := w.write(event{wall: seconds(now), version: "brain.Event:2"}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// Add appends the figures of a step. A process that is killed leaves whole records and
// at most one that is cut off, which readers pass over.
func (w *Writer) Add(step int, now time.Time, figures map[string]float64) error {
	e := event{wall: seconds(now), step: int64(step)}
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		e.values = append(e.values, value{name, float32(figures[name])})
	}
	return w.write(e)
}

func (w *Writer) write(e event) error {
	if w.failed != nil {
		return w.failed
	}
	if _, err := w.file.Write(appendRecord(nil, e.append(nil))); err != nil { // one write: whole, or cut off at the end
		w.failed = fmt.Errorf("event file: %w", err)
	}
	return w.failed
}

// Close waits for the disk and closes the file.
func (w *Writer) Close() error {
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		return fmt.Errorf("event file: %w", err)
	}
	return nil
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// Point is one figure at one step.
type Point struct {
	Step  int
	Value float64
}

// Bounds on what is read, of all files of a folder together.
const (
	maxFiles     = 10_000
	maxFileBytes = 256 << 20 // of one file
	maxPoints    = 20_000_000
	maxTags      = 10_000
)

// Read returns the figures of all event files in dir, by name, in ascending order of
// steps. Where a later file gives a figure again from a step on that an earlier one had
// reached, as after a resume, the later one counts from there on.
func Read(dir string) (map[string][]Point, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*tfevents*"))
	if err != nil {
		return nil, fmt.Errorf("event files: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("event files: none in %s", dir)
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("event files: %d in %s, want at most %d", len(names), dir, maxFiles)
	}
	slices.Sort(names)
	all := map[string][]Point{}
	points := 0
	for _, name := range names {
		if err := readInto(all, &points, name); err != nil {
			return nil, fmt.Errorf("event file %s: %w", name, err)
		}
	}
	return all, nil
}

// readInto counts the figures it reads, also those that later ones take the place of.
func readInto(all map[string][]Point, points *int, name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return fmt.Errorf("%d bytes, want a regular file of at most %d", info.Size(), maxFileBytes)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(io.LimitReader(f, maxFileBytes))
	fresh := map[string][]Point{}
	for n := 0; ; n++ {
		data, err := readRecord(r)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // the end, or a record cut off there
			break
		}
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		e, err := parseEvent(data)
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		for _, v := range e.values {
			fresh[v.tag] = append(fresh[v.tag], Point{int(e.step), float64(v.value)})
			if *points++; *points > maxPoints || len(fresh) > maxTags {
				return fmt.Errorf("record %d: more than %d figures or %d names", n, maxPoints, maxTags)
			}
		}
	}
	for tag, more := range fresh {
		slices.SortStableFunc(more, func(a, b Point) int { return a.Step - b.Step })
		all[tag] = append(slices.DeleteFunc(all[tag], func(p Point) bool { return p.Step >= more[0].Step }), more...)
		if len(all) > maxTags {
			return fmt.Errorf("more than %d names", maxTags)
		}
	}
	return nil
}
