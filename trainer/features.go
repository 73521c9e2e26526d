package trainer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
)

// DefaultFeaturesBytes is how much Features keeps unless told otherwise: 1,300 clips of ViT-L at 16 frames of 224 px.
const DefaultFeaturesBytes = 8 << 30

// Features keeps what frozen encoders give of clips in a folder of bounded size, a file for each clip. A file has a
// checksum, looked at whenever it is read: one that fails is removed, and computed again. What goes to make room was not
// used since the folder was opened, oldest first; once all was used, new features are not kept, since an epoch visits
// every clip once and the oldest would be the next one needed.
//
// Several processes may share a folder. Each looks at what the others wrote every few files, so that together they may
// exceed the bound by that. Safe for concurrent use.
type Features struct {
	dir string
	max int64 // bytes
	now func() time.Time

	mu      sync.Mutex
	used    int64           // guarded by mu; bytes in the folder when it was last looked at, and what was written since
	written int             // guarded by mu; files since then
	touched map[string]bool // guarded by mu; names that were used since the folder was opened
	full    bool            // guarded by mu; there was no room when the folder was last looked at
	refused int             // guarded by mu; files since then
	said    bool            // guarded by mu; that it is full
}

const (
	featuresMagic  = "surmise features"              // 16 bytes
	featuresHeader = 16 + 8 + 32 + 4                 // magic, number of values, start of the name, CRC-32C of those and the values
	featuresSuffix = ".features"                     // of a file that is whole
	featuresTemp   = durable.Unfinished + "features" // of one being written
	lookEvery      = 64                              // files written between two looks at the folder
	featuresRest   = time.Hour                       // after which an unfinished file is a crash's
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenFeatures opens or makes the folder. maxBytes 0 means DefaultFeaturesBytes. now gives the time of use of a file.
func OpenFeatures(dir string, maxBytes int64, now func() time.Time) (*Features, error) {
	if maxBytes == 0 {
		maxBytes = DefaultFeaturesBytes
	}
	if maxBytes < 0 {
		return nil, fmt.Errorf("features in %s: %d bytes, want 0 or more", dir, maxBytes)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	f := &Features{dir: dir, max: maxBytes, now: now, touched: map[string]bool{}}
	files, err := f.list()
	if err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	f.count(files)
	return f, nil
}

// featureFile is a file of the folder.
type featureFile struct {
	name string // without suffix
	size int64
	used time.Time
}

// list returns the files, those first that were not used for longest, and removes what a crash left unfinished.
func (f *Features) list() ([]featureFile, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var files []featureFile
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() { // another process has removed it
			continue
		}
		name, whole := strings.CutSuffix(e.Name(), featuresSuffix)
		switch {
		case whole:
			files = append(files, featureFile{name, info.Size(), info.ModTime()})
		case strings.HasPrefix(e.Name(), featuresTemp) && f.now().Sub(info.ModTime()) > featuresRest:
			_ = os.Remove(filepath.Join(f.dir, e.Name()))
		}
	}
	slices.SortFunc(files, func(a, b featureFile) int { return a.used.Compare(b.used) })
	return files, nil
}

func (f *Features) count(files []featureFile) {
	f.used, f.written = 0, 0
	for _, x := range files {
		f.used += x.size
	}
}

func (f *Features) path(name string) string { return filepath.Join(f.dir, name+featuresSuffix) }

// get reads features into dst, or says that they are not there. A damaged file is removed.
func (f *Features) get(name string, dst []float32) bool {
	err := readFeatures(f.path(name), name, dst)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		slog.Warn("damaged features are computed again", "file", f.path(name), "error", err)
		f.remove(name)
		return false
	}
	f.mu.Lock()
	first := !f.touched[name]
	f.touched[name] = true
	f.mu.Unlock()
	if first {
		now := f.now()
		_ = os.Chtimes(f.path(name), now, now) // for the next process that makes room
	}
	return true
}

func (f *Features) remove(name string) {
	info, err := os.Stat(f.path(name))
	if err != nil || os.Remove(f.path(name)) != nil {
		return
	}
	f.mu.Lock()
	f.used -= info.Size()
	f.full = false
	f.mu.Unlock()
}

// put keeps features if there is room for them. That they could not be written costs time, not the run.
func (f *Features) put(name string, values []float32) {
	if !f.room(featuresHeader + 4*int64(len(values))) {
		return
	}
	if err := writeFeatures(f.dir, f.path(name), name, values); err != nil {
		slog.Warn("features are not kept", "error", err)
		return
	}
	f.mu.Lock()
	f.used += featuresHeader + 4*int64(len(values))
	f.written++
	f.touched[name] = true
	f.mu.Unlock()
}

// room makes room for a file of need bytes, if it can.
func (f *Features) room(need int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if need > f.max {
		return false // whatever is removed
	}
	if f.used+need <= f.max && f.written < lookEvery {
		return true
	}
	if f.full && f.refused < lookEvery { // all was in use a moment ago
		f.refused++
		return false
	}
	files, err := f.list()
	if err != nil {
		slog.Warn("features are not kept", "error", err)
		return false
	}
	f.count(files)
	f.refused = 0
	goal := f.max
	if f.used+need > f.max {
		goal -= f.max / 20 // room for many at once: to look at all takes long
	}
	for _, x := range files {
		if f.used+need <= goal {
			break
		}
		if !f.touched[x.name] && os.Remove(f.path(x.name)) == nil {
			f.used -= x.size
		}
	}
	if f.full = f.used+need > f.max; !f.full {
		return true
	}
	if !f.said {
		f.said = true
		slog.Warn("the folder of features is full: further clips are encoded again in every epoch", "folder", f.dir, "bytes", f.max)
	}
	return false
}

// featuresHead is the head of a file but for its checksum.
func featuresHead(name string, values int) []byte {
	head := make([]byte, featuresHeader-4)
	copy(head, featuresMagic)
	binary.LittleEndian.PutUint64(head[16:], uint64(values))
	copy(head[24:], name)
	return head
}

func readFeatures(path, name string, dst []float32) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	head := make([]byte, featuresHeader)
	if _, err := io.ReadFull(file, head); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	want := featuresHead(name, len(dst))
	if string(head[:len(want)]) != string(want) {
		return fmt.Errorf("header is not that of %d values under this name", len(dst))
	}
	if _, err := io.ReadFull(file, checkpoint.Bytes(dst)); err != nil {
		return fmt.Errorf("%d values: %w", len(dst), err)
	}
	if n, _ := file.Read(head[:1]); n > 0 {
		return errors.New("bytes after the values")
	}
	sum := crc32.Update(crc32.Checksum(want, castagnoli), castagnoli, checkpoint.Bytes(dst))
	if got := binary.LittleEndian.Uint32(head[len(want):]); got != sum {
		return fmt.Errorf("checksum %08x, want %08x", sum, got)
	}
	return nil
}

// writeFeatures writes a file under a temporary name and renames it. It is not synced: what a power cut makes of it, the
// checksum finds.
func writeFeatures(dir, path, name string, values []float32) (err error) {
	file, err := os.CreateTemp(dir, featuresTemp+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	head := featuresHead(name, len(values))
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, checkpoint.Bytes(values))
	_, err = file.Write(binary.LittleEndian.AppendUint32(head, sum))
	if err == nil {
		_, err = file.Write(checkpoint.Bytes(values))
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
