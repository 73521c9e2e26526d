package video

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/video/source"
)

// Verdicts remembers what inspections found, by path, size and time of change, so that a file is decoded from end to
// end once. It is a file of JSON lines that processes of one machine share; what they write at once may be lost, and is
// then found out again. Safe for concurrent use.
type Verdicts struct {
	path string
	max  int64 // bytes

	mu      sync.Mutex
	file    *os.File                   // guarded by mu, as are the others; nil after Close
	size    int64                      // bytes, as far as this process knows
	entries map[string]rememberedTrack // by name: the path, or what it is called elsewhere
}

// remembered is one line.
type remembered struct {
	Version  int     `json:"version"`
	Decoder  string  `json:"decoder"`
	Size     int64   `json:"size"`     // bytes
	Modified int64   `json:"mtime_ns"` // since 1970
	Changed  int64   `json:"ctime_ns"` // since 1970; 0 of an object elsewhere
	Verdict  Verdict `json:"verdict"`
	// Track is the file's times, [frames] float64, then its digests, [frames] uint32; little-endian, base64.
	Track string `json:"track,omitempty"`
}

type rememberedTrack struct {
	identity fileIdentity
	verdict  Verdict
	track    string
}

// fileIdentity is what tells that a file is the one it was. Programs that copy files give them the time of modification that the
// original had, so a file of the same size may take another's place under the same time; the system's own time of change
// tells then.
type fileIdentity struct {
	size              int64 // bytes
	modified, changed int64 // nanoseconds since 1970
}

// identityOf is that of the file at path, which has the bytes of name. Of an object elsewhere it is a copy, which may come again at
// another time, with the object's own time of modification.
func identityOf(name, path string) (fileIdentity, error) {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		return fileIdentity{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	identity := fileIdentity{size: info.Size, modified: info.Mtim.Nano()}
	if !source.IsURI(name) {
		identity.changed = info.Ctim.Nano()
	}
	return identity, nil
}

const (
	verdictsFile    = "verdicts.jsonl"
	verdictsVersion = 2
	maxVerdictLine  = 32 << 20 // bytes; a file of the most frames has 17 MB of times and digests

	// DefaultVerdictsBytes bounds what is remembered: about 25,000 videos of 300 frames.
	DefaultVerdictsBytes = 128 << 20
)

// OpenVerdicts opens what is remembered in a folder, and makes it if missing. Above maxBytes the oldest half is
// forgotten. Lines that cannot be read, or are of another version or decoder, are passed over.
func OpenVerdicts(dir string, maxBytes int64) (*Verdicts, error) {
	v := &Verdicts{path: filepath.Join(dir, verdictsFile), max: maxBytes, entries: map[string]rememberedTrack{}}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		v.file, err = os.OpenFile(v.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the verdicts in %q: %w", dir, err)
	}
	if err := v.load(); err != nil {
		_ = v.file.Close()
		return nil, fmt.Errorf("reading the verdicts in %q: %w", dir, err)
	}
	return v, nil
}

// Close ends the use of the file.
func (v *Verdicts) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file == nil {
		return nil
	}
	err := v.file.Close()
	v.file = nil
	return err
}

// load reads all lines, the later ones last.
func (v *Verdicts) load() error {
	if err := v.lock(); err != nil {
		return err
	}
	defer func() { _ = unix.Flock(int(v.file.Fd()), unix.LOCK_UN) }() // of the file that is open then
	info, err := v.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > v.max {
		if err := v.forget(info.Size() - v.max/2); err != nil {
			return err
		}
	}
	lines := bufio.NewReader(io.NewSectionReader(v.file, 0, math.MaxInt64))
	for {
		text, n, err := readLine(lines, maxVerdictLine)
		v.size += n
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var line remembered
		if json.Unmarshal(text, &line) != nil || line.Version != verdictsVersion || line.Decoder != Decoder() {
			continue
		}
		v.entries[line.Verdict.Path] = rememberedTrack{fileIdentity{line.Size, line.Modified, line.Changed}, line.Verdict, line.Track}
	}
}

// readLine returns the next line, or nothing of one longer than limit, and how many bytes it took. The error is io.EOF
// where no line is left.
func readLine(r *bufio.Reader, limit int) (line []byte, n int64, err error) {
	for {
		part, err := r.ReadSlice('\n')
		n += int64(len(part))
		if n <= int64(limit) {
			line = append(line, part...)
		} else {
			line = nil
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && n > 0: // the last line, without an end
			return line, n, nil
		default:
			return line, n, err
		}
	}
}

// lock takes the lock of the file that has the name now: while we waited for it, another process may have put one in
// the place of that which we opened.
func (v *Verdicts) lock() error {
	for {
		if err := unix.Flock(int(v.file.Fd()), unix.LOCK_EX); err != nil {
			return err
		}
		same, err := v.current()
		if same || err != nil {
			return err
		}
		if err := v.reopen(); err != nil {
			return err
		}
	}
}

// current tells whether the open file is the one that has the name.
func (v *Verdicts) current() (bool, error) {
	open, err := v.file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(v.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, named), err
}

func (v *Verdicts) reopen() error {
	f, err := os.OpenFile(v.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_ = v.file.Close() // and with it the lock; what was written is written
	v.file = f
	return nil
}

// forget leaves at least n bytes of lines at the front out. The rest is written beside the file and then takes its
// place, so that a crash loses nothing. The lock is held, and is held on the new file then.
func (v *Verdicts) forget(n int64) (err error) {
	old := bufio.NewReader(io.NewSectionReader(v.file, n, math.MaxInt64-n))
	if _, _, err := readLine(old, 0); err != nil && !errors.Is(err, io.EOF) { // the line that n lies in
		return err
	}
	// One name for all, which the lock makes ours: what a crash leaves is written over.
	rest, err := os.OpenFile(v.path+".unfinished", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(rest.Name())
			_ = rest.Close()
		}
	}()
	if _, err := io.Copy(rest, old); err != nil {
		return err
	}
	if err := rest.Sync(); err != nil {
		return err
	}
	if err := unix.Flock(int(rest.Fd()), unix.LOCK_EX); err != nil { // before others can find it
		return err
	}
	if err := os.Rename(rest.Name(), v.path); err != nil {
		return err
	}
	_ = v.file.Close()
	v.file = rest
	return durable.Sync(filepath.Dir(v.path))
}

// recall returns what is remembered under a name, of a file that has not changed since.
func (v *Verdicts) recall(name, path string) (Verdict, track, bool) {
	if v == nil {
		return Verdict{}, track{}, false
	}
	v.mu.Lock()
	e, ok := v.entries[name]
	v.mu.Unlock()
	if !ok {
		return Verdict{}, track{}, false
	}
	now, err := identityOf(name, path)
	if err != nil || now != e.identity {
		return Verdict{}, track{}, false
	}
	t, err := parseTrack(e.track)
	if err != nil || e.verdict.Usable && len(t.times) != e.verdict.Frames {
		return Verdict{}, track{}, false
	}
	return e.verdict, t, true
}

// remember adds, under a name, a file that was as identity says before it was decoded, unless it has changed meanwhile.
func (v *Verdicts) remember(name, path string, identity fileIdentity, verdict Verdict, t track) error {
	if v == nil || verdict.ofTheHour {
		return nil
	}
	if now, err := identityOf(name, path); err != nil || now != identity {
		return nil //nolint:nilerr // it is gone, or another: nothing is known of it
	}
	verdict.Path = name
	text := ""
	if verdict.Usable {
		text = t.text()
	}
	line, err := json.Marshal(remembered{verdictsVersion, Decoder(), identity.size, identity.modified, identity.changed, verdict, text})
	if err != nil {
		return fmt.Errorf("remembering the verdict on %q: %w", verdict.Path, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file == nil || v.size+int64(len(line)) > v.max+v.max/2 { // the next one to open it makes room
		return nil
	}
	v.entries[name] = rememberedTrack{identity, verdict, text}
	same, err := v.current()
	if err == nil && !same { // another process has made room since
		err = v.reopen()
	}
	if err != nil {
		return fmt.Errorf("remembering the verdict on %q: %w", verdict.Path, err)
	}
	n, err := v.file.Write(append(line, '\n')) // one write, at the end: lines of two processes do not mix
	v.size += int64(n)
	if err != nil {
		return fmt.Errorf("remembering the verdict on %q: %w", verdict.Path, err)
	}
	return nil
}

// text packs a track.
func (t track) text() string {
	packed := make([]byte, 0, len(t.times)*12)
	for _, s := range t.times {
		packed = binary.LittleEndian.AppendUint64(packed, math.Float64bits(s))
	}
	for _, d := range t.digests {
		packed = binary.LittleEndian.AppendUint32(packed, d)
	}
	return base64.StdEncoding.EncodeToString(packed)
}

// parseTrack unpacks a track, whose times are finite and do not decrease.
func parseTrack(text string) (track, error) {
	packed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return track{}, err
	}
	if len(packed)%12 != 0 {
		return track{}, errors.New("times and digests of frames are cut off")
	}
	n := len(packed) / 12
	t := track{make([]float64, n), make([]uint32, n)}
	for i := range n {
		t.times[i] = math.Float64frombits(binary.LittleEndian.Uint64(packed[8*i:]))
		t.digests[i] = binary.LittleEndian.Uint32(packed[8*n+4*i:])
		if !within(t.times[i], 0, maxTime) {
			return track{}, fmt.Errorf("frame %d at %g s", i, t.times[i])
		}
	}
	if !slices.IsSorted(t.times) {
		return track{}, errors.New("times of frames decrease")
	}
	return t, nil
}
