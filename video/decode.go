package video

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gocv.io/x/gocv"
)

// limits bound what one file may make the decoder do.
type limits struct {
	pixels int // in one frame
	frames int // in one file
}

// defaultLimits: 64 megapixels hold an 8K frame twice over; a million frames are nine hours at 30 a second.
var defaultLimits = limits{pixels: 1 << 26, frames: 1 << 20}

// frame is one decoded frame. Its pixels are the decoder's and hold only during the call they are handed to.
type frame struct {
	number        int     // 0 is the file's first
	time          float64 // seconds after the start of the stream; never less than the frame's before
	height, width int     // pixels, after the rotation the file asks for
	pix           []uint8 // [height,width,3], RGB
}

// scanned is what one reading of a file found.
type scanned struct {
	codec         string
	height, width int
	frames        int     // decoded, or passed over without conversion
	end           float64 // seconds; when the last frame decoded ends
	claimed       float64 // frames the header claims; never believed, only compared
	claimedFPS    float64 // the rate it claims; likewise
}

// errStop is returned by a visitor that has seen enough.
var errStop = errors.New("stop")

// reading says which frames of a file to decode, and what to do with them.
type reading struct {
	path string
	lim  limits
	// want picks frames by number. The others are decoded, as later ones depend on them, but not converted.
	// Nil wants all.
	want func(number int) bool
	// visit is called for each frame wanted, in order.
	visit func(frame) error
	// inspected is true for a file that passed inspection, and saves looking through its packets again.
	inspected bool
}

// scan decodes a file from its start, in order.
//
// It is the one place where a decoder runs, and the seam at which decoding can move to a process of its own.
// In this process two things stay out of reach, because gocv neither catches C++ exceptions nor can interrupt
// a call: a file that crashes OpenCV, or makes it throw, ends the process; one that hangs it ignores ctx until
// the call returns. identify and checkFrameSizes keep out what is known to do so: empty files, pipes, playlists,
// formats nobody asked for, and frames that change their size.
//
// Frames are read in order and never sought: seeking by number lands on other frames in files with a variable
// rate or missing index, without saying so.
func scan(ctx context.Context, r reading) (scanned, error) {
	path, lim := r.path, r.lim
	var s scanned
	c, err := identify(path)
	if err != nil {
		return s, &FileError{path, err.Error()}
	}
	s.codec = c.codec
	if c.problem != "" {
		return s, &FileError{path, c.problem}
	}
	// An absolute path cannot be taken for an option, a URL or a device, and naming the backend keeps OpenCV
	// from trying its others, one of which reads img_%02d.png as a pattern.
	abs, err := filepath.Abs(path)
	if err != nil {
		return s, &FileError{path, fmt.Sprintf("unreadable: %v", err)}
	}
	capture, err := open(abs)
	if err != nil {
		_ = capture.Close()
		return s, &FileError{path, fmt.Sprintf("unreadable: OpenCV cannot open it as %s (damaged, or a codec it has no decoder for)", c.name)}
	}
	defer capture.Close()
	if tag := printable(capture.CodecString()); tag != "" {
		s.codec = tag
	}
	s.claimed, s.claimedFPS = capture.Get(gocv.VideoCaptureFrameCount), capture.Get(gocv.VideoCaptureFPS)
	s.width, s.height = int(capture.Get(gocv.VideoCaptureFrameWidth)), int(capture.Get(gocv.VideoCaptureFrameHeight))
	if err := checkSize(path, s.height, s.width, lim); err != nil {
		return s, err
	}
	if !r.inspected {
		if err := checkFrameSizes(ctx, path, abs, s.codec, lim); err != nil {
			return s, err
		}
	}

	mat := gocv.NewMat()
	defer mat.Close()
	var clock stamps
	for converted := false; ; {
		if err := ctx.Err(); err != nil {
			return s, fmt.Errorf("decode %q: %w", path, context.Cause(ctx))
		}
		wanted := r.want == nil || r.want(s.frames)
		if wanted && !capture.Read(&mat) || !wanted && !grab(capture) {
			return s, checkEnd(path, s, c)
		}
		if s.frames == lim.frames {
			return s, &FileError{path, fmt.Sprintf("too large: more than %d frames", lim.frames)}
		}
		number := s.frames
		s.frames++
		time := clock.at(number, capture.Get(gocv.VideoCapturePosMsec)/1000)
		s.end = clock.last + clock.interval
		if !wanted {
			continue
		}
		f := frame{number: number, time: time, height: mat.Rows(), width: mat.Cols()}
		if !converted { // the header may be wrong about the size too
			if err := checkSize(path, f.height, f.width, lim); err != nil {
				return s, err
			}
			s.height, s.width, converted = f.height, f.width, true
		}
		if f.height != s.height || f.width != s.width {
			return s, &FileError{path, fmt.Sprintf("frame size changes: %dx%d until frame %d, then %dx%d", s.width, s.height, number, f.width, f.height)}
		}
		if f.pix, err = toRGB(&mat); err != nil {
			return s, &FileError{path, fmt.Sprintf("frame %d: %v", number, err)}
		}
		if err := r.visit(f); errors.Is(err, errStop) {
			return s, nil
		} else if err != nil {
			return s, err
		}
	}
}

// open opens a file with OpenCV's FFmpeg backend. The capture is to be closed on error too.
func open(abs string) (*gocv.VideoCapture, error) {
	silenceFFmpeg()
	return gocv.VideoCaptureFileWithAPI(abs, gocv.VideoCaptureFFmpeg)
}

// silenceFFmpeg keeps FFmpeg from writing what it thinks of damaged files to standard error: verdicts say it, with
// the file's name. OpenCV reads the setting when it opens a file. Who set it keeps it.
var silenceFFmpeg = sync.OnceFunc(func() {
	const variable, quiet = "OPENCV_FFMPEG_LOGLEVEL", "-8" // AV_LOG_QUIET
	if _, set := os.LookupEnv(variable); !set {
		_ = os.Setenv(variable, quiet) // fails on no such name
	}
})

// stamps makes frames' time stamps, in seconds, never decrease. OpenCV 4.6 has none for the frames that are
// still in the decoder when the file ends, as many as B-frames delay it by, and gives 0: those follow the one
// before at the interval before.
type stamps struct{ last, interval float64 }

func (s *stamps) at(number int, claimed float64) float64 {
	switch {
	case number == 0 && claimed >= 0 && !math.IsInf(claimed, 0):
		s.last = claimed
	case number > 0 && claimed > s.last && !math.IsInf(claimed, 0):
		s.last, s.interval = claimed, claimed-s.last
	case number > 0:
		s.last += s.interval
	}
	return s.last
}

// grab decodes the next frame without converting it. gocv's Grab returns nothing; the position tells.
func grab(capture *gocv.VideoCapture) bool {
	before := capture.Get(gocv.VideoCapturePosFrames)
	capture.Grab(1)
	return capture.Get(gocv.VideoCapturePosFrames) > before
}

// toRGB turns OpenCV's frame around in place. The FFmpeg backend has brought gray, alpha and deeper samples
// to 8-bit BGR by then; anything else is refused.
func toRGB(mat *gocv.Mat) ([]uint8, error) {
	if mat.Type() != gocv.MatTypeCV8UC3 {
		return nil, fmt.Errorf("pixel type %v, want 8-bit BGR", mat.Type())
	}
	gocv.CvtColor(*mat, mat, gocv.ColorBGRToRGB)
	return mat.DataPtrUint8()
}

func checkSize(path string, height, width int, lim limits) error {
	if height < 1 || width < 1 {
		return &FileError{path, fmt.Sprintf("no video stream: frames of %dx%d pixels", width, height)}
	}
	if width > lim.pixels/height {
		return &FileError{path, fmt.Sprintf("too large: frames of %dx%d pixels (limit %d pixels)", width, height, lim.pixels)}
	}
	return nil
}

// checkEnd decides whether the frames ended where the file does. OpenCV's read returns false for damage and
// for the end alike, so what the header claims is compared, where it can be true at all: a count of frames in
// MP4 and AVI; elsewhere OpenCV makes one up from duration and rate, so the duration is compared. That is the
// longest stream's: a video whose sound goes on for a good while after the picture counts as truncated.
func checkEnd(path string, s scanned, c container) error {
	const (
		minFrameBytes = 8 // no codec and container spend less on a frame, so a larger claim is nonsense
		slack         = 2 // frames
		share         = 0.9
	)
	seconds := s.claimed / s.claimedFPS
	switch {
	case s.frames == 0:
		return &FileError{path, "no frames: it opens, and not one frame can be decoded"}
	case !within(s.claimed, 1, float64(c.size)/minFrameBytes):
		return nil
	case c.counts && float64(s.frames) < share*s.claimed-slack:
		return &FileError{path, fmt.Sprintf("truncated after frame %d of %.0f", s.frames, s.claimed)}
	case c.counts && float64(s.frames) == s.claimed+1:
		// OpenCV stops one past the header's count, whatever follows: a partly fragmented MP4.
		return &FileError{path, fmt.Sprintf("truncated after frame %d: its header counts %.0f, more follow, and OpenCV stops there", s.frames, s.claimed)}
	case !c.counts && s.end > 0 && within(seconds, 0, math.MaxFloat64) && s.end < share*seconds-slack/s.claimedFPS:
		return &FileError{path, fmt.Sprintf("truncated after frame %d: %.3g s of %.3g s", s.frames, s.end, seconds)}
	}
	return nil
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
