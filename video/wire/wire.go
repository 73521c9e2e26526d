// Package wire is what a decoder process and the process that started it say to each other over two pipes.
//
//	parent                       child
//	                     ◀────── Hello      who it is, once
//	Request ──────────▶                     one file
//	                     ◀────── Begun      the file is about to be touched: what goes wrong now is its fault
//	                     ◀────── Frames     so many frames lie in the shared memory, from such a place on
//	Free ─────────────▶                     their place may be written to again
//	                     ◀────── Passed     still at work, nothing to show
//	                     ◀────── Done       what was found
//
// Every message is a header of eight bytes, which names the protocol, its version, the kind and the length, and a body
// of at most MaxBody bytes. A child is as hostile as the file it decodes: the parent believes no length, place or count
// that it has not compared with what it asked for.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Version of the protocol. Both ends are the same program, so another one is a fault, and nothing is negotiated.
const Version = 1

// MaxBody bounds the body of a message, in bytes.
const MaxBody = 1 << 20

const headerBytes = 8

var magic = [2]byte{'S', 'D'}

// Kind says what a message is.
type Kind uint8

// The kinds, in the order in which they come.
const (
	KindHello Kind = 1 + iota
	KindRequest
	KindBegun
	KindFrames
	KindFree
	KindPassed
	KindDone
	kinds
)

// Hello is the first word of a child.
type Hello struct {
	Decoder string `json:"decoder"` // with its version
}

// Request asks for frames of one file.
type Request struct {
	Path      string `json:"path"`             // absolute
	Offset    int64  `json:"offset,omitempty"` // bytes; where the video begins in the file
	Length    int64  `json:"length,omitempty"` // bytes of the video; 0: the file is the video
	MaxPixels int    `json:"max_pixels"`       // in one frame
	MaxFrames int    `json:"max_frames"`       // in the file

	// Inspected is true for a file that passed inspection before, and saves looking through its packets again.
	Inspected bool `json:"inspected,omitempty"`

	// One of these picks frames: Numbers, ascending; every Step-th; or, by time stamps, FPS in a second, where a frame
	// may stand for several ticks.
	Numbers []int   `json:"numbers,omitempty"`
	Step    int     `json:"step,omitempty"`
	FPS     float64 `json:"fps,omitempty"`
	// Keep ends the reading when so many frames have been picked, ticks counted, and another would be; 0: at the end.
	Keep int `json:"keep,omitempty"`

	// First is the number of the frame that Step and FPS begin with.
	First int `json:"first,omitempty"`
	// Folder says that Path is a folder of PNG images, one per frame.
	Folder bool `json:"folder,omitempty"`

	// NoPixels asks for numbers, times and digests alone.
	NoPixels bool `json:"no_pixels,omitempty"`
	// Digests asks for a checksum of every picked frame as it was decoded, before Short or Square.
	Digests bool `json:"digests,omitempty"`
	// Short, unless 0, is the shorter side, in pixels, that larger frames are brought to. Square, unless 0, is the side
	// that the largest centred square of a frame is brought to. One of them at most.
	Short  int `json:"short,omitempty"`
	Square int `json:"square,omitempty"`
	// Whole, with Square, takes the whole frame for it, whatever its shape.
	Whole bool `json:"whole,omitempty"`

	// Seek, unless nil, allows to begin elsewhere than at the file's start.
	Seek *Seek `json:"seek,omitempty"`
}

// Seek says where to begin, and how to know the place. Only frames that an earlier reading from the start has given
// the same digest are delivered.
type Seek struct {
	At      float64  `json:"at_s"`    // seconds after the first frame, of frame Want
	Want    int      `json:"want"`    // number of the frame sought; the one landed on may come before it
	First   int      `json:"first"`   // number of the frame that Digests begins with
	Digests []uint32 `json:"digests"` // of frames First, First+1, …
}

// Frame is what is said of one frame.
type Frame struct {
	Number int     // 0 is the file's first
	Repeat int     // ticks it stands for; 1 but with FPS
	Digest uint32  // CRC-32C of its pixels as decoded; 0 unless asked for
	Time   float64 // seconds
}

const frameBytes = 8 + 4 + 4 + 8

// Frames says where frames lie: one after the other from Offset on, Height·Width·3 bytes each; no bytes without pixels.
type Frames struct {
	Height, Width int    // pixels, as delivered
	Offset        uint64 // bytes into the shared memory
	Frames        []Frame
}

const framesHeader = 4 + 4 + 8 + 4

// MaxFrames is how many fit one message.
const MaxFrames = (MaxBody - framesHeader) / frameBytes

// Done is what one reading of a file found.
type Done struct {
	Codec      string   `json:"codec"`
	Height     int      `json:"height"` // pixels, after rotation, before Short or Square
	Width      int      `json:"width"`
	Frames     int      `json:"frames"` // decoded, or passed over without conversion
	More       bool     `json:"more"`   // Keep ended the reading
	SeekFailed bool     `json:"seek_failed"`
	Slow       *Stretch `json:"slow,omitempty"` // with FPS, the first stretch in which the video does not keep up; nil: none
	FaultKind  string   `json:"fault_kind"`
	FaultText  string   `json:"fault_text"`
	FaultErrno int      `json:"fault_errno"` // of the operating system, where it is the reason
}

// Stretch is a run of frames, each an interval after the one before.
type Stretch struct {
	From      float64 `json:"from_s"` // of the first
	To        float64 `json:"to_s"`   // of the last
	Intervals int     `json:"intervals"`
}

// Write sends one message, in one write.
func Write(w io.Writer, kind Kind, body []byte) error {
	if len(body) > MaxBody {
		return fmt.Errorf("send a message of kind %d: %d bytes (limit %d)", kind, len(body), MaxBody)
	}
	message := make([]byte, headerBytes, headerBytes+len(body))
	message[0], message[1], message[2], message[3] = magic[0], magic[1], Version, byte(kind)
	binary.LittleEndian.PutUint32(message[4:], uint32(len(body)))
	_, err := w.Write(append(message, body...))
	return err
}

// WriteJSON sends a message whose body is v.
func WriteJSON(w io.Writer, kind Kind, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return Write(w, kind, body)
}

// Reader takes messages apart. A read that fails for the moment, by a deadline, loses nothing: call Next again.
type Reader struct {
	r    io.Reader
	buf  []byte
	have int
}

// NewReader reads messages from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, buf: make([]byte, 4096)} }

// Next returns the next message. Its body holds until the next call. io.EOF means that the other end went away between
// two messages.
func (r *Reader) Next() (Kind, []byte, error) {
	if err := r.fill(headerBytes); err != nil {
		return 0, nil, err
	}
	kind, length, err := header(r.buf[:headerBytes])
	if err != nil {
		return 0, nil, err
	}
	if err := r.fill(headerBytes + length); err != nil {
		return 0, nil, err
	}
	r.have = 0
	return kind, r.buf[headerBytes : headerBytes+length], nil
}

// fill reads until n bytes of the message are there, and not one of the next.
func (r *Reader) fill(n int) error {
	if n > len(r.buf) {
		r.buf = append(r.buf[:r.have], make([]byte, n-r.have)...)
	}
	for r.have < n {
		got, err := r.r.Read(r.buf[r.have:n])
		r.have += got
		switch {
		case r.have >= n:
			return nil
		case errors.Is(err, io.EOF) && r.have > 0:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return nil
}

// ErrGarbage is wrapped by errors about messages that no end of this protocol sends.
var ErrGarbage = errors.New("not a message of the decoder protocol")

func header(h []byte) (Kind, int, error) {
	switch length := binary.LittleEndian.Uint32(h[4:]); {
	case h[0] != magic[0] || h[1] != magic[1]:
		return 0, 0, fmt.Errorf("%w: it begins with %q", ErrGarbage, h)
	case h[2] != Version:
		return 0, 0, fmt.Errorf("%w: version %d, want %d", ErrGarbage, h[2], Version)
	case h[3] == 0 || h[3] >= byte(kinds):
		return 0, 0, fmt.Errorf("%w: kind %d", ErrGarbage, h[3])
	case length > MaxBody:
		return 0, 0, fmt.Errorf("%w: a body of %d bytes (limit %d)", ErrGarbage, length, MaxBody)
	default:
		return Kind(h[3]), int(length), nil
	}
}

// ParseJSON reads a body that is JSON. A field it does not know is a fault: both ends are the same program.
func ParseJSON(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrGarbage, err)
	}
	return nil
}

// Append adds the body of a Frames message to b.
func (f Frames) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Height))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Width))
	b = binary.LittleEndian.AppendUint64(b, f.Offset)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Frames)))
	for _, x := range f.Frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(x.Number))
		b = binary.LittleEndian.AppendUint32(b, uint32(x.Repeat))
		b = binary.LittleEndian.AppendUint32(b, x.Digest)
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x.Time))
	}
	return b
}

// Limits is what the receiver of Frames knows they must lie within.
type Limits struct {
	Memory uint64 // bytes of shared memory
	Pixels int    // of one frame
	Number int    // largest number of a frame, plus 1
	Repeat int    // ticks of one frame
}

// ParseFrames reads the body of a Frames message into f, whose slice is used again. What it accepts lies within lim:
// sides are positive, bytes within the memory, numbers ascend, times are finite and do not decrease.
func ParseFrames(body []byte, pixels bool, lim Limits, f *Frames) error {
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%w: frames: "+format, append([]any{ErrGarbage}, args...)...)
	}
	if len(body) < framesHeader {
		return fault("%d bytes", len(body))
	}
	height, width := binary.LittleEndian.Uint32(body), binary.LittleEndian.Uint32(body[4:])
	f.Offset = binary.LittleEndian.Uint64(body[8:])
	count := binary.LittleEndian.Uint32(body[16:])
	body = body[framesHeader:]
	if uint64(count)*frameBytes != uint64(len(body)) || count == 0 {
		return fault("%d of them in %d bytes", count, len(body))
	}
	if height == 0 || width == 0 || uint64(height)*uint64(width) > uint64(max(lim.Pixels, 0)) {
		return fault("%dx%d pixels (limit %d pixels)", width, height, lim.Pixels)
	}
	f.Height, f.Width = int(height), int(width)
	if size := uint64(count) * uint64(height) * uint64(width) * 3; pixels && (f.Offset > lim.Memory || size > lim.Memory-f.Offset) {
		return fault("%d bytes at %d of %d", size, f.Offset, lim.Memory)
	}
	f.Frames = f.Frames[:0]
	before := Frame{Number: -1, Time: math.Inf(-1)}
	for ; len(body) > 0; body = body[frameBytes:] {
		x := Frame{
			Number: int(binary.LittleEndian.Uint32(body)),
			Repeat: int(binary.LittleEndian.Uint32(body[4:])),
			Digest: binary.LittleEndian.Uint32(body[8:]),
			Time:   math.Float64frombits(binary.LittleEndian.Uint64(body[16:])),
		}
		switch {
		case x.Number <= before.Number || x.Number >= lim.Number:
			return fault("number %d after %d (limit %d)", x.Number, before.Number, lim.Number)
		case x.Repeat < 1 || x.Repeat > lim.Repeat:
			return fault("frame %d stands for %d ticks (limit %d)", x.Number, x.Repeat, lim.Repeat)
		case !(x.Time >= before.Time) || math.IsInf(x.Time, 0):
			return fault("frame %d at %g s after %g s", x.Number, x.Time, before.Time)
		}
		f.Frames = append(f.Frames, x)
		before = x
	}
	return nil
}
