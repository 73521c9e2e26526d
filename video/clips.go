package video

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/surmise-ml/surmise/internal/durable"
)

// Clips keeps decoded frames on disk, brought to the size that clips are cut from, so that an epoch after the first
// decodes nothing. Each video is one shard, a file that is mapped into memory when it is used, named by a digest of
// what its frames depend on: another file, or another size, has another name. Processes of one machine share a folder.
// Safe for concurrent use.
//
// Shards appear whole or not at all. Every frame has a checksum, looked at whenever it is read; a shard that fails is
// removed, and its video decoded again. Those that nobody has used for a day make room for new ones; without room a
// video is decoded each time it is needed.
type Clips struct {
	dir       string
	max       int64 // bytes
	maxMapped int   // shards

	mu     sync.Mutex
	mapped map[string]*shard // guarded by mu; by name
	uses   int64             // guarded by mu; orders them
}

// shard is one video's frames, mapped.
type shard struct {
	name                  string
	frames, height, width int
	memory                []byte
	checked               []atomic.Uint32 // bit number%32 of word number/32: the frame's checksum held
	readers               int             // guarded by Clips.mu
	used                  int64           // guarded by Clips.mu
	touched               time.Time       // guarded by Clips.mu: when its file was last marked as used
	gone                  bool            // guarded by Clips.mu: to be unmapped by its last reader
}

const (
	clipsMagic    = "SURMCLP1"
	shardHeader   = 64 // magic, frames, height, width (uint32), digest of the name, CRC-32C of all that
	shardSuffix   = ".frames"
	unfinished    = durable.Unfinished
	usedFile      = "bytes" // what all shards take together; also the lock of the folder
	maxMapped     = 1024    // shards; Linux allows 65,530 mappings
	shardRest     = 24 * time.Hour
	largestShards = 16 // of one video, a share of 1/16 of the bound
	maxShardPixel = 1 << 26

	// DefaultClipsBytes bounds decoded frames on disk.
	DefaultClipsBytes = 10 << 30
)

// OpenClips opens the frames kept in a folder, and makes it if missing.
func OpenClips(dir string, maxBytes int64) (*Clips, error) {
	c := &Clips{dir: dir, max: maxBytes, maxMapped: maxMapped, mapped: map[string]*shard{}}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = c.locked(func(used int64) (int64, error) { return c.measure() })
	}
	if err != nil {
		return nil, fmt.Errorf("opening the decoded frames in %q: %w", dir, err)
	}
	return c, nil
}

// Close unmaps what is mapped. Nothing may be read any more.
func (c *Clips) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for name, s := range c.mapped {
		errs = append(errs, unix.Munmap(s.memory))
		delete(c.mapped, name)
	}
	return errors.Join(errs...)
}

// shardName is what the frames of a video depend on.
func shardName(path string, identity fileIdentity, short int) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q\n%d %d %d\nshort side %d, triangle\n%s\n", clipsMagic, path, identity.size, identity.modified, identity.changed, short, Decoder())
	return hex.EncodeToString(h.Sum(nil))
}

// locked calls do with the bytes that all shards take, alone among processes, and notes what it returns.
func (c *Clips) locked(do func(used int64) (int64, error)) error {
	f, err := os.OpenFile(filepath.Join(c.dir, usedFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close() // and with it the lock
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	text := make([]byte, 32)
	n, _ := f.ReadAt(text, 0)
	used, err := strconv.ParseInt(strings.TrimSpace(string(text[:n])), 10, 64)
	if err != nil || used < 0 { // new, or cut short by a crash
		if used, err = c.measure(); err != nil {
			return err
		}
	}
	used, doErr := do(used)
	if err := f.Truncate(0); err != nil {
		return errors.Join(doErr, err)
	}
	_, err = f.WriteAt([]byte(strconv.FormatInt(used, 10)+"\n"), 0)
	return errors.Join(doErr, err)
}

// shardInfo is one shard's file.
type shardInfo struct {
	path string
	size int64
	used time.Time
}

// list returns the shards, those first that were not used for longest, and removes what a crash left unfinished.
func (c *Clips) list() ([]shardInfo, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	var shards []shardInfo
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		path := filepath.Join(c.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), unfinished):
			if time.Since(info.ModTime()) > shardRest {
				_ = os.Remove(path) // of a process that was killed
			}
		case strings.HasSuffix(e.Name(), shardSuffix):
			shards = append(shards, shardInfo{path, info.Size(), info.ModTime()})
		}
	}
	slices.SortFunc(shards, func(a, b shardInfo) int { return a.used.Compare(b.used) })
	return shards, nil
}

func (c *Clips) measure() (int64, error) {
	shards, err := c.list()
	total := int64(0)
	for _, s := range shards {
		total += s.size
	}
	return total, err
}

// fits tells whether a video's frames may be kept at all.
func (c *Clips) fits(frames, height, width int) bool {
	return c != nil && shardBytes(frames, height, width) <= c.max/largestShards
}

func shardBytes(frames, height, width int) int64 {
	return shardHeader + int64(frames)*(int64(height)*int64(width)*3+4)
}

// room makes room for so many bytes, and says whether there is.
func (c *Clips) room(used, need int64) (int64, bool, error) {
	if used+need <= c.max {
		return used, true, nil
	}
	shards, err := c.list()
	if err != nil {
		return used, false, err
	}
	used = 0
	for _, s := range shards {
		used += s.size
	}
	for _, s := range shards {
		if used+need <= c.max || time.Since(s.used) < shardRest {
			break
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return used, false, err
		}
		used -= s.size // who has it mapped keeps it
	}
	return used, used+need <= c.max, nil
}

// shardWriter takes a video's frames in order.
type shardWriter struct {
	clips         *Clips
	name          string
	file          *os.File // nil after an end
	frames        int
	height, width int
	sums          []byte
	err           error // the first
}

// begin starts a shard. Frames are put, then it is either finished or dropped.
func (c *Clips) begin(name string) (*shardWriter, error) {
	f, err := os.CreateTemp(c.dir, unfinished)
	if err != nil {
		return nil, err
	}
	w := &shardWriter{clips: c, name: name, file: f}
	w.restart()
	return w, w.err
}

// restart forgets the frames that were put.
func (w *shardWriter) restart() {
	w.frames, w.sums = 0, w.sums[:0]
	if err := w.file.Truncate(0); w.err == nil {
		w.err = err
	}
	if _, err := w.file.Seek(shardHeader, 0); w.err == nil {
		w.err = err
	}
}

// put adds a frame. It fails in silence, and finish tells.
func (w *shardWriter) put(f frame) {
	if f.number == 0 {
		w.height, w.width = f.height, f.width
	}
	switch {
	case w.err != nil:
		return
	case f.height != w.height || f.width != w.width || f.number != w.frames:
		w.err = fmt.Errorf("frame %d of %dx%d after %d of %dx%d", f.number, f.width, f.height, w.frames, w.width, w.height)
	case !w.clips.fits(w.frames+1, w.height, w.width):
		w.err = errNoRoom
	default:
		if _, err := w.file.Write(f.pix); err != nil {
			w.err = err
		}
		w.sums = binary.LittleEndian.AppendUint32(w.sums, crc32.Checksum(f.pix, castagnoli))
		w.frames++
	}
}

var errNoRoom = errors.New("no room")

// drop removes what was written.
func (w *shardWriter) drop() {
	if w.file != nil {
		_ = os.Remove(w.file.Name())
		_ = w.file.Close()
		w.file = nil
	}
}

// finish puts the shard in place, unless there is no room for it, which is no error.
func (w *shardWriter) finish() error {
	defer w.drop()
	if errors.Is(w.err, errNoRoom) {
		return nil
	}
	if w.err != nil || w.frames == 0 {
		return w.err
	}
	header := make([]byte, 0, shardHeader)
	header = append(header, clipsMagic...)
	for _, n := range []int{w.frames, w.height, w.width} {
		header = binary.LittleEndian.AppendUint32(header, uint32(n))
	}
	name := sha256.Sum256([]byte(w.name))
	header = append(header, name[:]...)
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, castagnoli))
	header = header[:shardHeader]
	if _, err := w.file.Write(w.sums); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(header, 0); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	return w.clips.locked(func(used int64) (int64, error) {
		final := w.clips.path(w.name)
		if _, err := os.Stat(final); err == nil {
			return used, nil // another process was faster
		}
		size := shardBytes(w.frames, w.height, w.width)
		used, ok, err := w.clips.room(used, size)
		if err != nil || !ok {
			return used, err
		}
		if err := w.file.Chmod(0o644); err != nil {
			return used, err
		}
		if err := durable.Rename(w.file.Name(), final); err != nil {
			return used, err
		}
		return used + size, nil
	})
}

func (c *Clips) path(name string) string { return filepath.Join(c.dir, name+shardSuffix) }

// has tells whether a shard is there, and that it is in use.
func (c *Clips) has(name string) bool {
	now := time.Now()
	return c != nil && os.Chtimes(c.path(name), now, now) == nil
}

// take maps a shard for a reader, who gives it back; nil if there is none that is whole.
func (c *Clips) take(name string) *shard {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mapped[name]
	fresh := s == nil
	if fresh {
		var err error
		if s, err = mapShard(c.path(name), name); err != nil {
			if errors.Is(err, errDamagedShard) { // other errors pass
				_ = os.Remove(c.path(name)) // measured anew at the next start
			}
			return nil
		}
		c.mapped[name] = s
	}
	if now := time.Now(); now.Sub(s.touched) >= touchEvery { // so that others leave it, however long a run is
		_ = os.Chtimes(c.path(name), now, now) // it may be gone; who has it mapped keeps it
		s.touched = now
	}
	c.uses++
	s.readers, s.used = s.readers+1, c.uses
	if fresh { // it has a reader already, and so stays
		c.unmapSome()
	}
	return s
}

// unmapSome keeps the number of mappings bounded. c.mu is held.
func (c *Clips) unmapSome() {
	for len(c.mapped) > c.maxMapped {
		var idle []*shard
		for _, s := range c.mapped {
			if s.readers == 0 {
				idle = append(idle, s)
			}
		}
		if len(idle) < 2 {
			return
		}
		slices.SortFunc(idle, func(a, b *shard) int { return cmp.Compare(a.used, b.used) })
		for _, s := range idle[:len(idle)/2] {
			delete(c.mapped, s.name)
			_ = unix.Munmap(s.memory)
		}
	}
}

// give ends the use of a shard. bad removes it.
func (c *Clips) give(s *shard, bad bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.readers--
	if bad && !s.gone {
		s.gone = true
		delete(c.mapped, s.name)
		_ = os.Remove(c.path(s.name))
	}
	if s.gone && s.readers == 0 {
		_ = unix.Munmap(s.memory)
	}
}

// errDamagedShard is of a file that will never be a shard of what it is called by.
var errDamagedShard = errors.New("damaged")

// touchEvery is far below the day after which a shard counts as unused.
const touchEvery = time.Hour

// mapShard maps a file and checks all but its frames.
func mapShard(path, name string) (*shard, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	header := make([]byte, shardHeader)
	if _, err := f.ReadAt(header, 0); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends in its header", errDamagedShard)
	} else if err != nil {
		return nil, err
	}
	s, err := parseShard(header, info.Size(), name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamagedShard, err)
	}
	s.checked = make([]atomic.Uint32, (s.frames+31)/32)
	s.memory, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	return s, err
}

const shardSum = len(clipsMagic) + 3*4 + sha256.Size

func parseShard(header []byte, size int64, name string) (*shard, error) {
	if len(header) != shardHeader || string(header[:len(clipsMagic)]) != clipsMagic ||
		binary.LittleEndian.Uint32(header[shardSum:]) != crc32.Checksum(header[:shardSum], castagnoli) {
		return nil, errors.New("not a shard of decoded frames, or a damaged one")
	}
	number := func(i int) int { return int(binary.LittleEndian.Uint32(header[len(clipsMagic)+4*i:])) }
	s := &shard{name: name, frames: number(0), height: number(1), width: number(2)}
	digest := sha256.Sum256([]byte(name))
	switch {
	case string(header[shardSum-sha256.Size:shardSum]) != string(digest[:]):
		return nil, errors.New("a shard of something else")
	case s.frames < 1 || s.frames > defaultLimits.frames || s.height < 1 || s.width < 1 || s.width > maxShardPixel/s.height:
		return nil, fmt.Errorf("a shard of %d frames of %dx%d", s.frames, s.width, s.height)
	case size != shardBytes(s.frames, s.height, s.width):
		return nil, fmt.Errorf("a shard of %d bytes, want %d", size, shardBytes(s.frames, s.height, s.width))
	}
	return s, nil
}

// read calls use with a frame, [height,width,3], if it is what was written. That is checked when this process reads the
// frame for the first time since the shard was mapped: every time, it took more than a third of a clip's time. The
// pixels hold during the call. A disk that cannot be read any more is an error too, not the end of the process.
func (s *shard) read(number int, use func(pix []uint8)) (err error) {
	if number < 0 || number >= s.frames {
		return fmt.Errorf("no frame %d of %d", number, s.frames)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch caught := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			err = fmt.Errorf("memory of a mapped file at %#x cannot be read", caught.Addr())
		default:
			panic(caught)
		}
	}()
	size := s.height * s.width * 3
	pix := s.memory[shardHeader+number*size:][:size:size]
	if word, bit := &s.checked[number/32], uint32(1)<<(number%32); word.Load()&bit == 0 {
		want := binary.LittleEndian.Uint32(s.memory[shardHeader+s.frames*size+4*number:])
		if got := crc32.Checksum(pix, castagnoli); got != want {
			return fmt.Errorf("frame %d has checksum %08x, want %08x", number, got, want)
		}
		word.Or(bit)
	}
	use(pix)
	return nil
}
