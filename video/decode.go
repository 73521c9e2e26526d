package video

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"gocv.io/x/gocv"

	"github.com/surmise-ml/surmise/video/header"
	"github.com/surmise-ml/surmise/video/wire"
)

// limits bound what one file may make the decoder do.
type limits struct {
	pixels int // in one frame
	frames int // in one file
}

// defaultLimits: 64 megapixels hold an 8K frame twice over; a million frames are nine hours at 30 a second.
var defaultLimits = limits{pixels: 1 << 26, frames: 1 << 20}

// decoded is one decoded frame, in a decoder process. Its pixels are the decoder's and hold only during the call they
// are handed to.
type decoded struct {
	number int     // 0 is the file's first
	time   float64 // seconds after the start of the stream; never less than the frame's before
	mat    *gocv.Mat
}

// scanned is what one reading of a file found.
type scanned struct {
	codec         string
	height, width int     // pixels, after the rotation the file asks for
	frames        int     // decoded, or passed over without conversion; where the size changes, those before
	end           float64 // seconds; when the last frame decoded ends
	claimed       float64 // frames the header claims; never believed, only compared
	claimedFPS    float64 // the rate it claims; likewise
	more          bool    // the reading ended before the file
	seekFailed    bool    // what was sought is not what a reading from the start gave
}

// errStop is returned by a visitor that has seen enough, errSeek by one that sees another frame than it should.
var (
	errStop = errors.New("stop")
	errSeek = errors.New("not the frame sought")
)

// reading says which frames of a file to decode, and what to do with them.
type reading struct {
	path string // absolute
	// offset and length say which part of the file is the video, in bytes; length 0: all of it.
	offset, length int64
	lim            limits
	// want picks frames by number. The others are decoded, as later ones depend on them, but not converted.
	want func(number int) bool
	// visit is called for each frame wanted, in order.
	visit func(decoded) error
	// inspected is true for a file that passed inspection, and saves looking through its packets again.
	inspected bool
	seek      *wire.Seek
	alive     func() // called between frames
}

// scan decodes a file, in order. It is the one place where a decoder runs, and runs only in a decoder process: a file
// that crashes OpenCV, or makes it throw, which gocv does not catch, ends that process; one that hangs it is ended with
// it (see pool.go). identify and checkFrameSizes still keep out what is known to go wrong in silence: playlists, and
// frames that change their size.
//
// Errors are *FileErrors, or the visitor's.
func scan(r reading) (scanned, error) {
	path, lim := r.path, r.lim
	var s scanned
	c, err := identify(path, r.offset, r.length)
	s.codec = c.Codec
	if err != nil {
		return s, err
	}
	source := path
	if r.length > 0 {
		// FFmpeg's name for a part of a file. What follows the colon is a path, whatever it holds.
		source = fmt.Sprintf("subfile,,start,%d,end,%d,,:%s", r.offset, r.offset+r.length, path)
	}
	capture, err := open(source)
	if err != nil {
		_ = capture.Close()
		if err := readEnds(r, openBytes); err != nil {
			return s, err
		}
		return s, fault(path, Unreadable, ": OpenCV cannot open it as %s (damaged, or a codec it has no decoder for)", c.Name)
	}
	defer capture.Close()
	if tag := printable(capture.CodecString()); tag != "" && !strings.HasPrefix(strings.ToLower(c.Codec), strings.ToLower(tag)) {
		s.codec = tag // where a container has no tag, OpenCV gives the first letters of the codec's name
	}
	s.claimed, s.claimedFPS = capture.Get(gocv.VideoCaptureFrameCount), capture.Get(gocv.VideoCaptureFPS)
	s.width, s.height = int(capture.Get(gocv.VideoCaptureFrameWidth)), int(capture.Get(gocv.VideoCaptureFrameHeight))
	if err := checkSize(path, s.height, s.width, lim); err != nil {
		return s, err
	}
	if !r.inspected {
		if s.frames, err = checkFrameSizes(path, source, header.NewSizeReader(s.codec, c.Codec), lim, r.alive); err != nil {
			return s, err
		}
	}

	mat := gocv.NewMat()
	defer mat.Close()
	if r.seek != nil {
		if s.frames, err = seekTo(capture, &mat, r.seek, s.claimedFPS); err != nil {
			s.seekFailed = true
			return s, nil
		}
	}
	pending := r.seek != nil // mat holds frame s.frames already
	var clock stamps
	for converted := false; ; pending = false {
		r.alive()
		wanted := r.want(s.frames)
		if !pending && (wanted && !capture.Read(&mat) || !wanted && !grab(capture)) {
			if r.seek != nil {
				s.seekFailed = true // a reading from the start got further
				return s, nil
			}
			err := checkEnd(path, s, c)
			if err != nil || !c.Counts || float64(s.frames) != s.claimed {
				if err := readThrough(r); err != nil {
					return s, err
				}
			}
			return s, err
		}
		if s.frames == lim.frames {
			return s, fault(path, TooLarge, ": more than %d frames", lim.frames)
		}
		number := s.frames
		s.frames++
		at := clock.at(number, capture.Get(gocv.VideoCapturePosMsec)/1000)
		s.end = clock.last + clock.interval
		if !wanted {
			continue
		}
		height, width := mat.Rows(), mat.Cols()
		if !converted { // the header may be wrong about the size too
			if err := checkSize(path, height, width, lim); err != nil {
				return s, err
			}
			s.height, s.width, converted = height, width, true
		}
		if height != s.height || width != s.width {
			return s, fault(path, SizeChanges, ": %dx%d for %d frames, then %dx%d", s.width, s.height, number, width, height)
		}
		if mat.Type() != gocv.MatTypeCV8UC3 {
			// The FFmpeg backend brings gray, alpha and deeper samples to 8-bit BGR.
			return s, fault(path, Unreadable, ": frame %d: pixel type %v, want 8-bit BGR", number, mat.Type())
		}
		switch err := r.visit(decoded{number, at, &mat}); {
		case errors.Is(err, errStop):
			s.more = true
			return s, nil
		case errors.Is(err, errSeek):
			s.seekFailed = true
			return s, nil
		case err != nil:
			return s, err
		}
	}
}

// seekTo goes to the time sought, reads a frame there, and returns its number, known by its digest.
//
// OpenCV seeks to a key frame before the place and counts on from it by time stamps and the header's rate, and lands
// on another frame, or delivers a stale one, where these are not as it believes. So nothing is taken for the frame
// sought but one with the pixels that a reading from the start gave.
func seekTo(capture *gocv.VideoCapture, mat *gocv.Mat, to *wire.Seek, fps float64) (number int, err error) {
	if !within(fps, 1e-3, 1e6) {
		return 0, errSeek
	}
	capture.Set(gocv.VideoCapturePosFrames, math.Round(to.At*fps))
	if !capture.Read(mat) {
		return 0, errSeek
	}
	got, err := digest(mat)
	if err != nil {
		return 0, err
	}
	// The frame wanted, before one like it further on.
	for _, i := range append([]int{to.Want - to.First}, upTo(to.Want-to.First)...) {
		if i >= 0 && i < len(to.Digests) && to.Digests[i] == got {
			return to.First + i, nil
		}
	}
	return 0, errSeek
}

func upTo(n int) []int {
	var out []int
	for i := range max(n, 0) {
		out = append(out, i)
	}
	return out
}

// open opens a file with OpenCV's FFmpeg backend. The capture is to be closed on error too. The path is absolute, so
// that it cannot be taken for an option, a URL or a device, and naming the backend keeps OpenCV from trying its others,
// one of which reads img_%02d.png as a pattern.
func open(path string) (*gocv.VideoCapture, error) {
	return gocv.VideoCaptureFileWithAPI(path, gocv.VideoCaptureFFmpeg)
}

// stamps makes frames' time stamps, in seconds, never decrease. OpenCV 4.6 has none for the frames that are
// still in the decoder when the file ends, as many as B-frames delay it by, and gives 0: those follow the one
// before at the interval before, or at the one before that if it is shorter: a gap is not repeated.
type stamps struct{ last, interval, before float64 }

func (s *stamps) at(number int, claimed float64) float64 {
	switch {
	case number == 0 && claimed >= 0 && claimed <= maxTime:
		s.last = claimed
	case number > 0 && claimed > s.last && claimed <= maxTime:
		s.last, s.interval, s.before = claimed, claimed-s.last, s.interval
	case number > 0:
		if s.before > 0 {
			s.interval = min(s.interval, s.before)
		}
		s.last += s.interval
	}
	return s.last
}

// maxTime is the largest time stamp that is taken for one, in seconds: 300 years, as sums of the largest float64 are
// no numbers.
const maxTime = 1e10

// grab decodes the next frame without converting it. gocv's Grab returns nothing; the position tells.
func grab(capture *gocv.VideoCapture) bool {
	before := capture.Get(gocv.VideoCapturePosFrames)
	capture.Grab(1)
	return capture.Get(gocv.VideoCapturePosFrames) > before
}

func checkSize(path string, height, width int, lim limits) error {
	if height < 1 || width < 1 {
		return fault(path, NoVideo, ": frames of %dx%d pixels", width, height)
	}
	if width > lim.pixels/height {
		return fault(path, TooLarge, ": frames of %dx%d pixels (limit %d pixels)", width, height, lim.pixels)
	}
	return nil
}

// checkEnd decides whether the frames ended where the file does. OpenCV's read returns false for damage and
// for the end alike, so what the header claims is compared, where it can be true at all: a count of frames in
// MP4 and AVI; elsewhere OpenCV makes one up from duration and rate, so the duration is compared. That is the
// longest stream's: a video whose sound goes on for a good while after the picture counts as truncated.
func checkEnd(path string, s scanned, c header.Container) error {
	const (
		minFrameBytes = 8 // no codec and container spend less on a frame, so a larger claim is nonsense
		slack         = 2 // frames
		share         = 0.9
	)
	seconds := s.claimed/s.claimedFPS - c.Start
	switch {
	case s.frames == 0:
		return fault(path, NoFrames, ": it opens, and not one frame can be decoded")
	case !within(s.claimed, 1, float64(c.Size)/minFrameBytes):
		return nil
	case c.Counts && float64(s.frames) < share*s.claimed-slack:
		return fault(path, Truncated, " after frame %d of %.0f", s.frames, s.claimed)
	case c.Counts && float64(s.frames) == s.claimed+1:
		// OpenCV stops one past the header's count, whatever follows: a partly fragmented MP4.
		return fault(path, Truncated, " after frame %d: its header counts %.0f, more follow, and OpenCV stops there", s.frames, s.claimed)
	case !c.Counts && s.end > 0 && within(seconds, 0, math.MaxFloat64) && s.end < share*seconds-slack/s.claimedFPS:
		return fault(path, Truncated, " after frame %d: %.3g s of %.3g s", s.frames, s.end, seconds)
	}
	return nil
}

// readThrough reads a file that seems to end before its time. To FFmpeg the end of a file and one that the system cannot read on
// are alike, so what a disk or a mount does would be held against the video.
func readThrough(r reading) error { return readEnds(r, math.MaxInt64) }

// openBytes of a file's beginning and of its end are more than FFmpeg looks at to open it.
const openBytes = 16 << 20

// readEnds is readThrough of at most so many bytes at the beginning and at the end.
func readEnds(r reading, most int64) error {
	f, err := os.Open(r.path)
	if err != nil {
		return refused(r.path, "", err)
	}
	defer f.Close()
	end := r.offset + r.length
	if r.length == 0 {
		info, err := f.Stat()
		if err != nil {
			return refused(r.path, "", err)
		}
		end = math.MaxInt64
		if size := info.Size(); size > 0 { // else it is unknown, as of a device
			end = size
		}
	}
	buffer := make([]byte, 1<<20)
	span := func(from, length int64) error {
		part := io.NewSectionReader(f, from, length)
		for {
			r.alive()
			switch _, err := part.Read(buffer); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return refused(r.path, "", err)
			}
		}
	}
	first := min(most, max(0, end-r.offset))
	if err := span(r.offset, first); err != nil {
		return err
	}
	last := max(r.offset+first, end-most)
	return span(last, max(0, end-last))
}

// printable keeps what can be shown of a codec's four characters.
func printable(fourcc string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, fourcc))
}

// Decoder names what decodes videos, with its version, for the record of scores: other
// decoders round colours differently.
func Decoder() string { return "OpenCV " + gocv.OpenCVVersion() }
