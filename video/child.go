package video

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"gocv.io/x/gocv"
	"golang.org/x/sys/unix"

	"github.com/surmise-ml/surmise/video/wire"
)

// DecoderArgument is the first argument of a program that is to be a decoder process.
const DecoderArgument = "decode-videos"

// decoderEnv is set in decoder processes. Its value is the most memory, in bytes, that one may have asked for.
const decoderEnv = "SURMISE_DECODER"

// What a decoder process finds open beside the standard three.
const (
	requestsFD = 3 + iota
	answersFD
	memoryFD
)

// ServeIfAsked makes the process a decoder when it was started as one, and then does not return. A program that
// decodes, and a test of one, calls it before anything else, because its decoders are processes of the same program.
func ServeIfAsked() {
	if len(os.Args) < 2 || os.Args[1] != DecoderArgument || os.Getenv(decoderEnv) == "" {
		return
	}
	if err := serveDecoder(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveDecoder answers requests until the pipe they come through ends, as it does when the parent does.
func serveDecoder() error {
	limit, err := strconv.ParseUint(os.Getenv(decoderEnv), 10, 63)
	if err != nil {
		return fmt.Errorf("%s: %w", decoderEnv, err)
	}
	// The parent watches the memory in use. These end what is faster than its eyes, and leave no core behind.
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("limiting the memory of a decoder: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limiting the core of a decoder: %w", err)
	}
	memory, err := mapShared(os.NewFile(memoryFD, "memory"))
	if err != nil {
		return err
	}
	c := child{
		requests: wire.NewReader(os.NewFile(requestsFD, "requests")),
		answers:  os.NewFile(answersFD, "answers"),
		memory:   memory,
	}
	decodeOnOneThread()
	if err := forgetFiles(); err != nil {
		return err
	}
	if err := wire.WriteJSON(c.answers, wire.KindHello, wire.Hello{Decoder: Decoder()}); err != nil {
		return err
	}
	for {
		kind, body, err := c.requests.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case kind == wire.KindFree:
			continue // of the last request, which did not wait for it
		case kind != wire.KindRequest:
			return fmt.Errorf("a decoder was sent a message of kind %d, want a request", kind)
		}
		var request wire.Request
		if err := wire.ParseJSON(body, &request); err != nil {
			return err
		}
		if err := c.answer(request); err != nil {
			return err
		}
	}
}

// child is a decoder process at work.
type child struct {
	requests *wire.Reader
	answers  *os.File
	memory   []byte // shared; two halves, of which one is filled while the parent reads the other
	spoke    time.Time
}

// answer does one request. An error is about the pipes; what is wrong with the file is part of the answer.
func (c *child) answer(request wire.Request) error {
	if err := wire.Write(c.answers, wire.KindBegun, nil); err != nil {
		return err
	}
	c.spoke = time.Now()
	out := output{child: c, request: request}
	read := scan
	if request.Folder {
		read = scanFolder
	}
	s, err := read(reading{
		path: request.Path, offset: request.Offset, length: request.Length, lim: limits{request.MaxPixels, request.MaxFrames}, inspected: request.Inspected, seek: request.Seek,
		want: out.want, visit: out.visit, alive: out.alive,
	})
	var bad *FileError
	if err != nil && !errors.As(err, &bad) {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	done := wire.Done{Codec: s.codec, Height: s.height, Width: s.width, Frames: s.frames, More: s.more, SeekFailed: s.seekFailed, Slow: out.pace.stretch(request.First == 0 && !s.more && request.Seek == nil)}
	if bad != nil {
		done.FaultKind, done.FaultText = string(bad.Kind), bad.Reason
		var number syscall.Errno
		if errors.As(bad.System, &number) {
			done.FaultErrno = int(number)
		}
	}
	return wire.WriteJSON(c.answers, wire.KindDone, done)
}

// output brings the picked frames of one request to the parent.
type output struct {
	*child
	request wire.Request
	next    int // index into request.Numbers
	picked  int // frames, ticks counted
	ticks   ticker
	clock   bool // ticks has begun
	pace    pace

	message  wire.Frames
	body     []byte
	half     int // of the memory, that is being filled: 0 or 1
	waiting  int // halves that the parent has not freed
	used     int // bytes of the half
	resample *resampler
}

func (o *output) want(number int) bool {
	switch r := o.request; {
	case r.Numbers != nil:
		return o.next < len(r.Numbers) && number == r.Numbers[o.next]
	case number < r.First:
		return false
	case r.FPS > 0:
		return true // time stamps are known only after decoding
	default:
		return (number-r.First)%max(r.Step, 1) == 0
	}
}

// alive lets the parent know that time is spent on decoding.
func (o *output) alive() {
	const silence = time.Second
	if time.Since(o.spoke) > silence {
		o.spoke = time.Now()
		_ = wire.Write(o.answers, wire.KindPassed, nil) // a broken pipe shows at the next frame, or at the end
	}
}

func (o *output) visit(d decoded) error {
	r := o.request
	f := wire.Frame{Number: d.number, Time: d.time, Repeat: 1}
	if r.FPS > 0 {
		if !o.clock {
			o.ticks, o.pace, o.clock = ticker{start: d.time, fps: r.FPS}, pace{fps: r.FPS}, true
		}
		o.pace.add(d.time)
		if !o.ticks.due(d.time) {
			return nil
		}
	}
	if r.Keep > 0 && o.picked >= r.Keep {
		return errStop
	}
	if r.FPS > 0 {
		f.Repeat = 0
		for o.ticks.due(d.time) && (r.Keep == 0 || o.picked+f.Repeat <= r.Keep) { // one above Keep says that there are more
			if f.Repeat == maxFrames {
				return fault(r.Path, TooSlow, ": frame %d at %.4g s would be repeated more than %d times at %.4g fps", d.number, d.time, maxFrames, r.FPS)
			}
			o.ticks.next++
			f.Repeat++
		}
	}
	o.picked += f.Repeat
	if r.Digests || r.Seek != nil {
		var err error
		if f.Digest, err = digest(d.mat); err != nil {
			return err
		}
	}
	if r.Seek != nil {
		if i := d.number - r.Seek.First; i < 0 || i >= len(r.Seek.Digests) || r.Seek.Digests[i] != f.Digest {
			return errSeek
		}
	}
	if err := o.put(f, d.mat); err != nil {
		return err
	}
	if r.Numbers != nil {
		if o.next++; o.next == len(r.Numbers) {
			return errStop
		}
	}
	return nil
}

// put adds a frame to the message, and its pixels to the memory.
func (o *output) put(f wire.Frame, mat *gocv.Mat) error {
	height, width := mat.Rows(), mat.Cols()
	switch r := o.request; {
	case r.Short > 0:
		height, width = fit(height, width, r.Short)
	case r.Square > 0:
		height, width = r.Square, r.Square
	}
	size := height * width * 3
	if o.request.NoPixels {
		size = 0
	}
	half := len(o.memory) / 2
	if size > half {
		return fault(o.request.Path, TooLarge, ": frames of %dx%d pixels do not fit the memory shared with the decoder (%d bytes)", width, height, half)
	}
	// Small messages keep the parent busy while more is decoded, large ones save changes of process.
	const enough = 2 << 20
	if len(o.message.Frames) == wire.MaxFrames || o.used > 0 && o.used+size > min(half, max(enough, size)) {
		if err := o.flush(); err != nil {
			return err
		}
	}
	for o.waiting == 2 {
		if err := o.free(); err != nil {
			return err
		}
	}
	o.message.Height, o.message.Width = height, width
	if len(o.message.Frames) == 0 {
		o.message.Offset = uint64(o.half * half)
	}
	o.message.Frames = append(o.message.Frames, f)
	if size == 0 {
		return nil
	}
	place := o.memory[o.half*half+o.used:][:size:size]
	o.used += size
	pix, err := mat.DataPtrUint8()
	if err != nil {
		return err
	}
	if o.resample == nil { // frames of one file have one size
		crop := Crop{Height: mat.Rows(), Width: mat.Cols()}
		if o.request.Square > 0 && !o.request.Whole {
			crop = centreCrop(mat.Rows(), mat.Cols())
		}
		o.resample = newReducer(mat.Cols(), crop, height, width)
	}
	if height != mat.Rows() || width != mat.Cols() {
		o.resample.swapped(place, pix)
		return nil
	}
	target, err := gocv.NewMatFromBytes(height, width, gocv.MatTypeCV8UC3, place) // refers to place
	if err != nil {
		return err
	}
	gocv.CvtColor(*mat, &target, gocv.ColorBGRToRGB)
	return target.Close()
}

// flush sends what the current half holds and goes on with the other.
func (o *output) flush() error {
	if len(o.message.Frames) == 0 {
		return nil
	}
	o.body = o.message.Append(o.body[:0])
	if err := wire.Write(o.answers, wire.KindFrames, o.body); err != nil {
		return err
	}
	o.spoke = time.Now()
	o.message.Frames = o.message.Frames[:0]
	o.half, o.used, o.waiting = 1-o.half, 0, o.waiting+1
	return nil
}

// free waits until the parent has done with the half that it was given first.
func (o *output) free() error {
	kind, _, err := o.requests.Next()
	if err != nil {
		return err
	}
	if kind != wire.KindFree {
		return fmt.Errorf("a decoder was sent a message of kind %d while it decodes, want free", kind)
	}
	o.waiting--
	return nil
}

// fit gives the size of a frame whose shorter side is at most short, its shape kept as well as whole pixels can.
func fit(height, width, short int) (int, int) {
	side := min(height, width)
	if short <= 0 || side <= short {
		return height, width
	}
	scaled := func(n int) int { return max(1, (n*short+side/2)/side) }
	return scaled(height), scaled(width)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digest tells a frame, as it was decoded, from others.
func digest(mat *gocv.Mat) (uint32, error) {
	pix, err := mat.DataPtrUint8()
	if err != nil {
		return 0, err
	}
	return crc32.Checksum(pix, castagnoli), nil
}
