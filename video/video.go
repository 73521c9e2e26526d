// Package video turns video files into clips for training and scoring.
//
// Which files there are, video/source says. The path of one of them, one source file each:
//
//	container.go  a file opened, and known by its first bytes before any decoder sees it
//	framesize.go  frames that change their size, found in the packets before they are decoded
//	decode.go     file -> frames, through OpenCV's FFmpeg backend
//	folder.go     a folder of PNG images -> frames; a video's frames counted
//	child.go      the decoder process: requests in, frames into shared memory
//	process.go    one such process, seen from its parent: started, watched, ended
//	pool.go       as many of them as there are cores, replaced when they go wrong
//	pace.go       whether a video keeps up with a rate
//	inspect.go    file -> Verdict: usable, or why not, found by decoding
//	verdicts.go   verdicts remembered from run to run, with the time and digest of every frame
//	dataset.go    list of files -> training clips, pure in (seed, index)
//	schedule.go   which file and window each index is
//	frames.go     the frames of a clip, from memory, from disk, or decoded
//	clips.go      decoded frames on disk, shared by processes
//	transform.go  frames -> cropped, resized, normalised floats
//	jitter.go     changes of colour
//	feed.go       clips -> batches, prefetched in order
//
// Dimension letters: T frames, H rows, W columns, C or 3 colour channels in the order red, green, blue.
// Frames are uint8 [T,H,W,3]; what a model sees is float32 [3,T,H,W], normalised with ImageNet's mean and
// standard deviation.
//
// Everything a file says of itself is taken for a claim. Counts, rates and durations are measured by
// decoding; sizes and counts are bounded; a file that cannot be used gets a reason and is counted, and
// none is ever replaced by another.
package video

import (
	"fmt"
	"math"

	"github.com/surmise-ml/surmise/video/wire"
)

// Clip is a run of decoded frames.
type Clip struct {
	Frames, Height, Width int
	Pix                   []uint8   // [Frames,Height,Width,3], RGB
	Times                 []float64 // [Frames], seconds after the start of the stream; never decreasing
	Path                  string
	// More is true when the video went on after the last frame kept, because a limit ended the reading.
	More bool
	File FileInfo // what it was read from; zero where that is not known

	slow *wire.Stretch // where the video did not keep up with the rate that the clip was read at
}

// FileInfo is what reading a file found it to be, as far as it was read.
type FileInfo struct {
	Codec         string  // as the container names it
	Width, Height int     // pixels, after rotation
	FPS           float64 // mean rate of its frames, from their time stamps; 0 when they do not advance
}

// Spec says what a training set is and how clips are cut from it. The zero value of a field means its default.
type Spec struct {
	Data []string `json:"data"` // files, folders, globs, indexes, tar shards, URIs (see source.Resolve)

	Size      int     `json:"size"`                 // pixels, height and width of a clip
	Frames    int     `json:"frames"`               // frames in a clip
	FrameStep int     `json:"frame_step,omitempty"` // video frames from one clip frame to the next; default 1; not with FPS
	FPS       float64 `json:"fps,omitempty"`        // clip frames per second, taken by time stamp; not with FrameStep

	ScaleMin  float64 `json:"scale_min,omitempty"`  // smallest share of the frame's area a crop covers; default 0.3
	ScaleMax  float64 `json:"scale_max,omitempty"`  // largest share; default 1
	AspectMin float64 `json:"aspect_min,omitempty"` // smallest width/height of a crop; default 0.75
	AspectMax float64 `json:"aspect_max,omitempty"` // largest; default 1.35
	Flip      bool    `json:"flip,omitempty"`       // mirror every second clip, at random; default off, as V-JEPA

	// Colour jitter, as torchvision's: a factor in 1±x for the first three, a turn within ±Hue; 0 leaves colours alone.
	Brightness float64 `json:"brightness,omitempty"` // 0 to 10
	Contrast   float64 `json:"contrast,omitempty"`
	Saturation float64 `json:"saturation,omitempty"`
	Hue        float64 `json:"hue,omitempty"` // 0 to 0.5, in full turns

	// ShortSide is what the shorter side of larger frames is brought to, in pixels, before crops are cut from them: crops
	// of a large frame are reduced once more anyway, and small frames are quick to move and to keep. Default twice Size,
	// so that a crop of the default scales keeps all that Size can show; negative leaves frames as they are.
	ShortSide int `json:"short_side,omitempty"`

	ClipsPerVideo int    `json:"clips_per_video,omitempty"` // clips of each file in an epoch; default 1
	Windows       string `json:"windows,omitempty"`         // where they begin: RandomWindows (default) or UniformWindows
	// Weights are the shares of Data's names in the clips of an epoch; none: every file counts the same.
	Weights []float64 `json:"weights,omitempty"`

	// MaxUnusable is the share of unusable files, 0 to 1, above which a dataset is refused. Default 0.2; a
	// negative value refuses any.
	MaxUnusable float64 `json:"max_unusable,omitempty"`
	// Roots, when set, are the only folders below which files may be read.
	Roots []string `json:"roots,omitempty"`
	// CacheMiB bounds the decoded frames kept in memory, in MiB. Default 512; negative keeps none.
	CacheMiB int `json:"cache_mib,omitempty"`
}

// Bounds of a Spec: generous for any model that fits a machine, small enough that no buffer size overflows.
const (
	maxSize      = 4096
	maxFrames    = 4096
	maxFrameStep = 1 << 16
	maxFPS       = 1000
	maxCacheMiB  = 1 << 20

	maxJitter        = 10
	maxShortSide     = 1 << 13
	maxClipsPerVideo = 1 << 16
)

// WithDefaults returns the Spec with every default filled in.
func (s Spec) WithDefaults() Spec {
	if s.FrameStep == 0 && s.FPS == 0 {
		s.FrameStep = 1
	}
	setDefault(&s.ScaleMin, 0.3)
	setDefault(&s.ScaleMax, 1)
	setDefault(&s.AspectMin, 0.75)
	setDefault(&s.AspectMax, 1.35)
	setDefault(&s.MaxUnusable, 0.2)
	if s.ShortSide == 0 {
		s.ShortSide = 2 * s.Size
	}
	if s.ClipsPerVideo == 0 {
		s.ClipsPerVideo = 1
	}
	if s.Windows == "" {
		s.Windows = RandomWindows
	}
	if s.CacheMiB == 0 {
		s.CacheMiB = 512
	}
	return s
}

func setDefault(field *float64, value float64) {
	if *field == 0 {
		*field = value
	}
}

// Validate checks a Spec as WithDefaults leaves it, and names the first field that cannot be.
func (s Spec) Validate() error {
	switch {
	case len(s.Data) == 0:
		return fmt.Errorf("data: no file, folder, glob or index named")
	case s.Size < 1 || s.Size > maxSize:
		return fmt.Errorf("size: %d pixels, want 1 to %d", s.Size, maxSize)
	case s.Frames < 1 || s.Frames > maxFrames:
		return fmt.Errorf("frames: %d, want 1 to %d", s.Frames, maxFrames)
	case s.FrameStep != 0 && s.FPS != 0:
		return fmt.Errorf("frame_step: %d and fps: %g are both set, want one", s.FrameStep, s.FPS)
	case s.FPS == 0 && (s.FrameStep < 1 || s.FrameStep > maxFrameStep):
		return fmt.Errorf("frame_step: %d, want 1 to %d", s.FrameStep, maxFrameStep)
	case !within(s.FPS, 0, maxFPS):
		return fmt.Errorf("fps: %g, want above 0, at most %d", s.FPS, maxFPS)
	case !within(s.Brightness, 0, maxJitter):
		return fmt.Errorf("brightness: %g, want 0 to %d", s.Brightness, maxJitter)
	case !within(s.Contrast, 0, maxJitter):
		return fmt.Errorf("contrast: %g, want 0 to %d", s.Contrast, maxJitter)
	case !within(s.Saturation, 0, maxJitter):
		return fmt.Errorf("saturation: %g, want 0 to %d", s.Saturation, maxJitter)
	case !within(s.Hue, 0, 0.5):
		return fmt.Errorf("hue: %g, want 0 to 0.5", s.Hue)
	case s.ShortSide > maxShortSide:
		return fmt.Errorf("short_side: %d pixels, want at most %d", s.ShortSide, maxShortSide)
	case s.ClipsPerVideo < 1 || s.ClipsPerVideo > maxClipsPerVideo:
		return fmt.Errorf("clips_per_video: %d, want 1 to %d", s.ClipsPerVideo, maxClipsPerVideo)
	case s.Windows != RandomWindows && s.Windows != UniformWindows:
		return fmt.Errorf("windows: %q, want %q or %q", s.Windows, RandomWindows, UniformWindows)
	case len(s.Weights) > 0 && len(s.Weights) != len(s.Data):
		return fmt.Errorf("weights: %d for %d names in data, want one each or none", len(s.Weights), len(s.Data))
	case !within(s.ScaleMin, 1e-6, 1):
		return fmt.Errorf("scale_min: %g, want above 0, at most 1", s.ScaleMin)
	case !within(s.ScaleMax, s.ScaleMin, 1):
		return fmt.Errorf("scale_max: %g, want scale_min (%g) to 1", s.ScaleMax, s.ScaleMin)
	case !within(s.AspectMin, 1e-3, 1e3):
		return fmt.Errorf("aspect_min: %g, want 0.001 to 1000", s.AspectMin)
	case !within(s.AspectMax, s.AspectMin, 1e3):
		return fmt.Errorf("aspect_max: %g, want aspect_min (%g) to 1000", s.AspectMax, s.AspectMin)
	case !within(s.MaxUnusable, math.Inf(-1), 1):
		return fmt.Errorf("max_unusable: %g, want at most 1", s.MaxUnusable)
	case s.CacheMiB > maxCacheMiB:
		return fmt.Errorf("cache_mib: %d, want at most %d", s.CacheMiB, maxCacheMiB)
	}
	total := 0.0
	for i, w := range s.Weights {
		if !within(w, 0, 1e9) {
			return fmt.Errorf("weights[%d]: %g, want 0 to 1e9", i, w)
		}
		total += w
	}
	if len(s.Weights) > 0 && total == 0 {
		return fmt.Errorf("weights: all are 0")
	}
	return nil
}

// within is false for NaN.
func within(v, low, high float64) bool { return v >= low && v <= high }
