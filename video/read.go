package video

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// ReadOptions says which frames of a video to read, and how large. The zero value of a field means its default.
type ReadOptions struct {
	Size      int     // pixels, height and width; 0 keeps the video's own
	FrameStep int     // every FrameStep-th frame; default 1; not with FPS
	FPS       float64 // frames per second, taken by time stamp; not with FrameStep
	MaxFrames int     // at most as many are kept; default 1024
	First     int     // number of the frame of the file to begin with; default 0
	Whole     bool    // bring the whole frame to Size×Size, whatever its shape, in place of its largest centred square
}

const (
	defaultMaxFrames = 1024
	maxClipBytes     = 4 << 30
)

// ReadFrames decodes a video for scoring: the chosen frames from its start on, the largest centred square of
// each resized to Size×Size (see resampler), 8-bit RGB. When MaxFrames ends the reading, Clip.More is true. A folder of
// PNG images is a video too (see folder.go).
//
// At FPS, the frame for each multiple of 1/FPS after the first frame read is the first one not before it, so one
// is repeated where the video is slower; CheckRate tells whether that is more than time stamps that waver explain. A file that cannot be read to where the reading ends is a *FileError.
//
// path may be a URI, whose object is fetched; what may be is for the pool's Remote to say, and for roots that have been
// looked at before (see source.BelowURI).
func (p *Pool) ReadFrames(ctx context.Context, path string, o ReadOptions) (*Clip, error) {
	return p.ReadItem(ctx, itemOf(path), o)
}

// itemOf is the item of a path or URI.
func itemOf(name string) source.Item {
	if source.IsURI(name) {
		return source.Item{URI: name}
	}
	return source.Item{Path: name}
}

// ReadItem is ReadFrames of what source.Resolve found.
func (p *Pool) ReadItem(ctx context.Context, item source.Item, o ReadOptions) (*Clip, error) {
	path := item.Name()
	if o.FrameStep == 0 && o.FPS == 0 {
		o.FrameStep = 1
	}
	if o.MaxFrames == 0 {
		o.MaxFrames = defaultMaxFrames
	}
	switch {
	case o.Size < 0 || o.Size > maxSize:
		return nil, fmt.Errorf("read %q: size %d pixels, want 0 to %d", path, o.Size, maxSize)
	case o.FrameStep != 0 && o.FPS != 0:
		return nil, fmt.Errorf("read %q: frame step %d and fps %g are both set, want one", path, o.FrameStep, o.FPS)
	case o.FPS == 0 && (o.FrameStep < 1 || o.FrameStep > maxFrameStep):
		return nil, fmt.Errorf("read %q: frame step %d, want 1 to %d", path, o.FrameStep, maxFrameStep)
	case !within(o.FPS, 0, maxFPS):
		return nil, fmt.Errorf("read %q: fps %g, want above 0, at most %d", path, o.FPS, maxFPS)
	case o.First < 0 || o.First >= defaultLimits.frames:
		return nil, fmt.Errorf("read %q: first frame %d, want 0 to %d", path, o.First, defaultLimits.frames-1)
	case o.MaxFrames < 1:
		return nil, fmt.Errorf("read %q: at most %d frames, want 1 or more", path, o.MaxFrames)
	}

	clip := &Clip{}
	var first, last frame // of those kept, without pixels
	request := wire.Request{Step: o.FrameStep, FPS: o.FPS, First: o.First, Square: o.Size, Whole: o.Whole, Keep: o.MaxFrames, Folder: isFolder(item)}
	done, err := p.decode(ctx, item, request, func() { *clip = Clip{Path: path} }, func(f frame) error {
		if clip.Frames == 0 {
			clip.Height, clip.Width, first = f.height, f.width, f
			first.pix = nil
		}
		if f.height != clip.Height || f.width != clip.Width {
			return fault(path, SizeChanges, ": %dx%d for %d frames, then %dx%d", clip.Width, clip.Height, f.number, f.width, f.height)
		}
		for range f.repeat {
			if clip.Frames == o.MaxFrames {
				clip.More = true
				return nil
			}
			if len(clip.Pix) > maxClipBytes-len(f.pix) {
				return fault(path, TooLarge, ": more than %d bytes of frames", int64(maxClipBytes))
			}
			clip.Pix = append(clip.Pix, f.pix...)
			clip.Times = append(clip.Times, f.time)
			clip.Frames++
		}
		last, last.pix = f, nil
		return nil
	})
	if err = ofTheMachine(err); err != nil {
		var bad *FileError
		if errors.As(err, &bad) {
			p.stats.judged(bad.Kind)
		}
		return nil, err
	}
	p.stats.judged("")
	p.stats.clipsDecoded.Add(1)
	clip.More = clip.More || done.More
	clip.File = FileInfo{Codec: done.Codec, Width: done.Width, Height: done.Height}
	if seconds := last.time - first.time; seconds > 0 {
		const digits = 1e3 // of a unit: time stamps have about as many
		clip.File.FPS = math.Round(float64(last.number-first.number)/seconds*digits) / digits
	}
	if o.FPS > 0 {
		clip.slow = done.Slow
	}
	return clip, nil
}

// CheckRate is a *FileError if the clip was read at fps frames a second from a video that does not keep up with that, as far as
// it was read (see pace).
func (c *Clip) CheckRate(fps float64) error {
	if !(fps > 0) || len(c.Times) < 2 {
		return nil
	}
	if c.Times[0] == c.Times[len(c.Times)-1] {
		return fault(c.Path, TooShort, ": its time stamps do not advance, so it cannot be sampled by fps")
	}
	if slow := tooSlow(c.Path, c.slow, fps); slow != nil {
		return slow
	}
	return nil
}

// ticker steps through the multiples of 1/fps after start.
type ticker struct {
	start float64 // seconds
	fps   float64
	next  int // the multiple waited for
}

// timeTolerance is what time stamps may be early by, in seconds: Matroska rounds them to milliseconds.
const timeTolerance = 1e-3

// reached says whether the tick waited for is due at time, and if so goes on to the next.
func (t *ticker) reached(time float64) bool {
	due := t.due(time)
	if due {
		t.next++
	}
	return due
}

// due says whether the tick waited for has come at time.
func (t *ticker) due(time float64) bool {
	return time >= t.start+float64(t.next)/t.fps-timeTolerance
}
