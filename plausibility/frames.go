package plausibility

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/surmise-ml/surmise/video"
)

// Stills takes single frames from videos as JPEG, for reports.
type Stills struct {
	Size      int     // pixels, height and width
	FrameStep int     // as in the Spec the videos were scored with
	FPS       float64 //
	// Read decodes a video; nil means ReadFrames of decoders started for each call of Frames.
	Read func(ctx context.Context, path string, o video.ReadOptions) (*video.Clip, error)
}

const stillQuality = 88 // of 100; 64 px frames show artefacts below it

// Frames returns the frames of a video closest to the given times, in seconds.
func (s Stills) Frames(ctx context.Context, path string, seconds []float64) ([][]byte, error) {
	read := s.Read
	if read == nil {
		decoders, done := video.OwnPool(nil)
		defer done()
		read = decoders.ReadFrames
	}
	c, err := read(ctx, path, video.ReadOptions{Size: s.Size, FrameStep: s.FrameStep, FPS: s.FPS})
	if err != nil {
		return nil, fmt.Errorf("stills of %s: %w", path, err)
	}
	if c.Frames == 0 {
		return nil, fmt.Errorf("stills of %s: no frames", path)
	}
	out := make([][]byte, len(seconds))
	for i, t := range seconds {
		closest := 0
		for f := range c.Frames {
			if math.Abs(c.Times[f]-t) < math.Abs(c.Times[closest]-t) {
				closest = f
			}
		}
		img := image.NewRGBA(image.Rect(0, 0, c.Width, c.Height))
		pix := c.Pix[closest*c.Height*c.Width*3:]
		for p := range c.Height * c.Width {
			copy(img.Pix[p*4:], pix[p*3:p*3+3])
			img.Pix[p*4+3] = 255
		}
		var buf bytes.Buffer
		if err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: stillQuality}); err != nil {
			return nil, fmt.Errorf("stills of %s: %w", path, err)
		}
		out[i] = buf.Bytes()
	}
	return out, nil
}

const maxEventsBytes = 1 << 30

// ReadEvents reads when the event of each video happens, in seconds, from the
// events file beside generated pairs: JSON lines with path, event_frame and fps
// (other fields are passed over). Paths are relative to the file's folder and are
// returned absolute, as compare.File.Location gives them. Videos without an event
// are left out.
func ReadEvents(path string) (map[string]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening events file: %w", err)
	}
	defer f.Close()
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("events file %s: %w", path, err)
	}
	events := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(f, maxEventsBytes))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var e struct {
			Path       string  `json:"path"`
			EventFrame int     `json:"event_frame"`
			FPS        float64 `json:"fps"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("events file %s: line %d: %w", path, n, err)
		}
		if e.EventFrame <= 0 {
			continue
		}
		if !(e.FPS > 0) {
			return nil, fmt.Errorf("events file %s: line %d: fps: %g, want above 0", path, n, e.FPS)
		}
		name := filepath.FromSlash(e.Path)
		if !filepath.IsAbs(name) {
			name = filepath.Join(folder, name)
		}
		events[name] = float64(e.EventFrame) / e.FPS
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("events file %s: %w", path, err)
	}
	return events, nil
}
