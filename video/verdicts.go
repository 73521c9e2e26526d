package video

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Verdicts remembers what inspections found, by path, size and time of change, so that a file is decoded from end to
// end once. It is a file of JSON lines that processes of one machine share; what they write at once may be lost, and is
// then found out again. Safe for concurrent use.
type Verdicts struct {
	max int64 // bytes

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
	Verdict  Verdict `json:"verdict"`
	// Track is the file's times, [frames] float64, then its digests, [frames] uint32; little-endian, base64.
	Track string `json:"track,omitempty"`
}

type rememberedTrack struct {
	identity fileIdentity
	verdict  Verdict
	track    string
}

// fileIdentity is what tells that a file is the one it was.
type fileIdentity struct {
	size, modified int64
}

func identityOf(path string) (fileIdentity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileIdentity{}, err
	}
	return fileIdentity{info.Size(), info.ModTime().UnixNano()}, nil
}

const (
	verdictsFile    = "verdicts.jsonl"
	verdictsVersion = 1
	maxVerdictLine  = 32 << 20 // bytes; a file of the most frames has 17 MB of times and digests

	// DefaultVerdictsBytes bounds what is remembered: about 25,000 videos of 300 frames.
	DefaultVerdictsBytes = 128 << 20
)

// OpenVerdicts opens what is remembered in a folder, and makes it if missing. Above maxBytes the oldest half is
// forgotten. Lines that cannot be read, or are of another version or decoder, are passed over.
func OpenVerdicts(dir string, maxBytes int64) (*Verdicts, error) {
	v := &Verdicts{max: maxBytes, entries: map[string]rememberedTrack{}}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		v.file, err = os.OpenFile(filepath.Join(dir, verdictsFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
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
	if err := unix.Flock(int(v.file.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	defer func() { _ = unix.Flock(int(v.file.Fd()), unix.LOCK_UN) }()
	info, err := v.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > v.max {
		if err := v.forget(info.Size() - v.max/2); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(io.NewSectionReader(v.file, 0, math.MaxInt64))
	lines.Buffer(nil, maxVerdictLine)
	for lines.Scan() {
		v.size += int64(len(lines.Bytes())) + 1
		var line remembered
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Version != verdictsVersion || line.Decoder != Decoder() {
			continue
		}
		v.entries[line.Verdict.Path] = rememberedTrack{fileIdentity{line.Size, line.Modified}, line.Verdict, line.Track}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) { // nothing of ours, and neither may be what follows: written anew
		v.size = 0
		return v.file.Truncate(0)
	}
	return lines.Err()
}

// forget cuts at least n bytes of lines off the front. It writes the file again in its place, for other processes have it
// open: one that is killed meanwhile costs what was remembered, and so a second look at videos.
func (v *Verdicts) forget(n int64) error {
	rest, err := io.ReadAll(io.NewSectionReader(v.file, n, v.max))
	if err != nil {
		return err
	}
	if _, after, whole := bytes.Cut(rest, []byte("\n")); whole {
		rest = after
	} else {
		rest = nil
	}
	if err := v.file.Truncate(0); err != nil {
		return err
	}
	_, err = v.file.Write(rest)
	return err
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
	now, err := identityOf(path)
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
	if v == nil || verdict.Kind == NotInspected || verdict.Kind == TimedOut { // these are of the hour, not of the file
		return nil
	}
	if now, err := identityOf(path); err != nil || now != identity {
		return nil //nolint:nilerr // it is gone, or another: nothing is known of it
	}
	verdict.Path = name
	text := ""
	if verdict.Usable {
		text = t.text()
	}
	line, err := json.Marshal(remembered{verdictsVersion, Decoder(), identity.size, identity.modified, verdict, text})
	if err != nil {
		return fmt.Errorf("remembering the verdict on %q: %w", verdict.Path, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file == nil || v.size+int64(len(line)) > v.max+v.max/2 { // the next one to open it makes room
		return nil
	}
	v.entries[name] = rememberedTrack{identity, verdict, text}
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
