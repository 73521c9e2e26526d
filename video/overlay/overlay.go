// Package overlay writes videos for people: frames side by side, something drawn over
// them, and a curve below.
package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gocv.io/x/gocv"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/video"
)

// Panel is one video of a picture.
type Panel struct {
	Caption string      // ASCII; OpenCV's fonts hold no more
	Clip    *video.Clip // square frames
	Curve   []float64   // one value per frame, 0 to 1; NaN where there is none; nil draws none

	// Over are grids laid over the frames, one per frame, [Height,Width] from 0 to 1; nil for
	// a frame without.
	Over          [][]float64
	Height, Width int
	// Colour is that of a value of Over; its alpha says how much of the frame it hides.
	Colour func(float64) color.NRGBA
}

// Options says how to write.
type Options struct {
	FPS  float64 // of the written video
	Mark int     // frame to mark in the curves; negative: none
}

// Sizes, in pixels.
const (
	panelSide   = 256 // at least: frames are enlarged by a whole factor
	captionRows = 24
	curveRows   = 72
	gap         = 8
	maxPanels   = 8
	maxFrames   = 100_000
)

// Motion JPEG in AVI: OpenCV writes it itself, without FFmpeg's encoders, and common
// players show it. It is for looking at, not for measuring.
const (
	codec     = "MJPG"
	Extension = ".avi" // of a written file
)

// Write draws the panels beside one another, frame by frame, into a video at path. The
// file appears whole or not at all.
func Write(path string, panels []Panel, o Options) (err error) {
	p, err := newPicture(panels, o)
	if err != nil {
		return fmt.Errorf("overlay %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".overlay-*"+Extension)
	if err != nil {
		return fmt.Errorf("overlay %s: %w", path, err)
	}
	defer os.Remove(tmp.Name()) // fails once renamed
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("overlay %s: %w", path, err)
	}
	if err := p.encode(tmp.Name()); err != nil {
		return fmt.Errorf("overlay %s: %w", path, err)
	}
	if err := finish(tmp.Name(), path); err != nil {
		return fmt.Errorf("overlay %s: %w", path, err)
	}
	return nil
}

// picture is what is drawn on.
type picture struct {
	panels        []Panel
	o             Options
	frames        int
	side          int // pixels of a panel's frame as drawn
	height, width int
	pix           []uint8 // [height,width,3] blue, green, red
}

func newPicture(panels []Panel, o Options) (*picture, error) {
	if len(panels) == 0 || len(panels) > maxPanels {
		return nil, fmt.Errorf("%d panels, want 1 to %d", len(panels), maxPanels)
	}
	if !(o.FPS > 0 && o.FPS <= 1000) {
		return nil, fmt.Errorf("%g frames a second, want above 0, at most 1000", o.FPS)
	}
	p := &picture{panels: panels, o: o}
	for i, panel := range panels {
		c := panel.Clip
		switch {
		case c == nil || c.Frames < 1 || c.Frames > maxFrames || c.Height < 1 || c.Height != c.Width || len(c.Pix) != c.Frames*c.Height*c.Width*3:
			return nil, fmt.Errorf("panels[%d]: no clip of 1 to %d square frames", i, maxFrames)
		case panel.Curve != nil && len(panel.Curve) != c.Frames:
			return nil, fmt.Errorf("panels[%d].curve: %d values for %d frames", i, len(panel.Curve), c.Frames)
		case panel.Over != nil && len(panel.Over) != c.Frames:
			return nil, fmt.Errorf("panels[%d].over: %d grids for %d frames", i, len(panel.Over), c.Frames)
		case c.Height != panels[0].Clip.Height:
			return nil, fmt.Errorf("panels[%d]: frames of %d pixels beside frames of %d", i, c.Height, panels[0].Clip.Height)
		}
		for f, grid := range panel.Over {
			if grid != nil && (len(grid) != panel.Height*panel.Width || len(grid) == 0) {
				return nil, fmt.Errorf("panels[%d].over[%d]: %d values for a grid of %d×%d", i, f, len(grid), panel.Height, panel.Width)
			}
		}
		p.frames = max(p.frames, c.Frames)
	}
	size := panels[0].Clip.Height
	p.side = max(1, (panelSide+size-1)/size) * size
	p.height = even(captionRows + p.side + gap + curveRows + gap)
	p.width = even(gap + len(panels)*(p.side+gap))
	p.pix = make([]uint8, p.height*p.width*3)
	return p, nil
}

// even rounds up: codecs want even sides.
func even(n int) int { return n + n%2 }

func (p *picture) encode(path string) error {
	w, err := gocv.VideoWriterFile(path, codec, p.o.FPS, p.width, p.height, true)
	if err != nil {
		return fmt.Errorf("opening a %s encoder: %w", codec, err)
	}
	if !w.IsOpened() {
		w.Close()
		return fmt.Errorf("OpenCV cannot write %s video here", codec)
	}
	for f := range p.frames {
		if err := p.write(w, f); err != nil {
			w.Close()
			return fmt.Errorf("frame %d: %w", f, err)
		}
	}
	return w.Close()
}

func (p *picture) write(w *gocv.VideoWriter, f int) error {
	for i := range p.pix {
		p.pix[i] = 255
	}
	for i := range p.panels {
		p.frame(i, f)
	}
	m, err := gocv.NewMatFromBytes(p.height, p.width, gocv.MatTypeCV8UC3, p.pix)
	if err != nil {
		return err
	}
	defer m.Close()
	for i := range p.panels {
		p.captionAndCurve(&m, i, f)
	}
	return w.Write(m)
}

// frame paints a panel's frame, enlarged, and what lies over it. A video that has ended shows its last frame.
func (p *picture) frame(i, f int) {
	panel := &p.panels[i]
	c := panel.Clip
	f = min(f, c.Frames-1)
	scale, left := p.side/c.Height, p.left(i)
	var grid []float64
	if panel.Over != nil {
		grid = panel.Over[f]
	}
	for y := range p.side {
		row := p.pix[((captionRows+y)*p.width+left)*3:]
		for x := range p.side {
			from := c.Pix[((f*c.Height+y/scale)*c.Width+x/scale)*3:]
			red, green, blue := float64(from[0]), float64(from[1]), float64(from[2])
			if grid != nil {
				over := panel.Colour(grid[y*panel.Height/p.side*panel.Width+x*panel.Width/p.side])
				a := float64(over.A) / 255
				red, green, blue = red+a*(float64(over.R)-red), green+a*(float64(over.G)-green), blue+a*(float64(over.B)-blue)
			}
			row[x*3], row[x*3+1], row[x*3+2] = uint8(blue), uint8(green), uint8(red)
		}
	}
}

var (
	ink   = color.RGBA{R: 31, G: 41, B: 55, A: 255}
	faint = color.RGBA{R: 203, G: 207, B: 213, A: 255}
	hot   = color.RGBA{R: 217, G: 72, B: 15, A: 255}
)

func (p *picture) captionAndCurve(m *gocv.Mat, i, f int) {
	panel := &p.panels[i]
	left := p.left(i)
	gocv.PutText(m, panel.Caption, image.Pt(left, captionRows-8), gocv.FontHersheySimplex, 0.45, ink, 1)
	if panel.Curve == nil {
		return
	}
	top, bottom := captionRows+p.side+gap, captionRows+p.side+gap+curveRows
	at := func(frame int, value float64) image.Point {
		x := left
		if n := len(panel.Curve) - 1; n > 0 {
			x += frame * (p.side - 1) / n
		}
		return image.Pt(x, bottom-int(math.Round(min(1, max(0, value))*float64(curveRows))))
	}
	gocv.Line(m, at(0, 0), image.Pt(left+p.side-1, bottom), faint, 1)
	if p.o.Mark >= 0 && p.o.Mark < len(panel.Curve) {
		gocv.Line(m, at(p.o.Mark, 0), at(p.o.Mark, 1), faint, 2)
	}
	var before image.Point
	begun := false
	for frame, value := range panel.Curve {
		if math.IsNaN(value) {
			continue
		}
		here := at(frame, value)
		if begun {
			gocv.Line(m, before, here, hot, 2)
		}
		before, begun = here, true
	}
	now := min(f, len(panel.Curve)-1)
	gocv.Line(m, image.Pt(at(now, 0).X, top), image.Pt(at(now, 0).X, bottom), ink, 1)
}

func (p *picture) left(i int) int { return gap + i*(p.side+gap) }

// finish waits for the disk, checks that the muxer wrote all it meant to, since OpenCV
// tells nobody of a full disk, and gives the file its name.
func finish(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const head = 8 // "RIFF", then the length of what follows
	var riff [head]byte
	if _, err := f.ReadAt(riff[:], 0); err != nil {
		return fmt.Errorf("the file is not whole: reading its header: %w", err)
	}
	if got := int64(binary.LittleEndian.Uint32(riff[4:])) + head; string(riff[:4]) != "RIFF" || got != info.Size() {
		return fmt.Errorf("the file is not whole: its header %q says %d bytes, it has %d; is the disk full?", riff[:4], got, info.Size())
	}
	if err := errors.Join(f.Sync(), f.Chmod(0o644)); err != nil {
		return err
	}
	return durable.Rename(from, to)
}
