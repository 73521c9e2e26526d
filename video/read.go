package video

import (
	"context"
	"fmt"
)

// ReadOptions says which frames of a video to read, and how large. The zero value of a field means its default.
type ReadOptions struct {
	Size      int     // pixels, height and width; 0 keeps the video's own
	FrameStep int     // every FrameStep-th frame; default 1; not with FPS
	FPS       float64 // frames per second, taken by time stamp; not with FrameStep
	MaxFrames int     // at most as many are kept; default 1024
}

const (
	defaultMaxFrames = 1024
	maxClipBytes     = 4 << 30
)

// ReadFrames decodes a video for scoring: the chosen frames from its start on, the largest centred square of
// each resized to Size×Size (see resampler), 8-bit RGB. When MaxFrames ends the reading, Clip.More is true.
//
// At FPS, the frame for each multiple of 1/FPS after the first frame is the first one not before it, so one
// is repeated where the video is slower. A file that cannot be read to where the reading ends is a *FileError.
func ReadFrames(ctx context.Context, path string, o ReadOptions) (*Clip, error) {
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
	case o.MaxFrames < 1:
		return nil, fmt.Errorf("read %q: at most %d frames, want 1 or more", path, o.MaxFrames)
	}

	clip := &Clip{Path: path}
	var resize *resampler
	keep := func(f frame) error {
		if clip.Frames == o.MaxFrames {
			clip.More = true
			return errStop
		}
		if clip.Frames == 0 {
			clip.Height, clip.Width = f.height, f.width
			if o.Size > 0 {
				clip.Height, clip.Width = o.Size, o.Size
				resize = newResampler(f.width, centreCrop(f.height, f.width), o.Size, false)
			}
		}
		size := clip.Height * clip.Width * 3
		if len(clip.Pix) > maxClipBytes-size {
			return &FileError{path, fmt.Sprintf("too large: more than %d bytes of frames", int64(maxClipBytes))}
		}
		if resize == nil {
			clip.Pix = append(clip.Pix, f.pix...)
		} else {
			clip.Pix = append(clip.Pix, make([]uint8, size)...)
			resize.bytes(clip.Pix[len(clip.Pix)-size:], f.pix)
		}
		clip.Times = append(clip.Times, f.time)
		clip.Frames++
		return nil
	}

	want := func(number int) bool { return number%o.FrameStep == 0 }
	visit := keep
	if o.FPS > 0 {
		want = nil // time stamps are known only after decoding
		var ticks ticker
		visit = func(f frame) error {
			if f.number == 0 {
				ticks = ticker{start: f.time, fps: o.FPS}
			}
			for ticks.reached(f.time) {
				if err := keep(f); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if _, err := scan(ctx, reading{path: path, lim: defaultLimits, want: want, visit: visit}); err != nil {
		return nil, err
	}
	return clip, nil
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
	if time < t.start+float64(t.next)/t.fps-timeTolerance {
		return false
	}
	t.next++
	return true
}
