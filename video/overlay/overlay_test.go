package overlay

import (
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gocv.io/x/gocv"

	"github.com/surmise-ml/surmise/video"
)

func grey(frames, size int, value uint8) *video.Clip {
	c := &video.Clip{Frames: frames, Height: size, Width: size, Pix: make([]uint8, frames*size*size*3)}
	for i := range c.Pix {
		c.Pix[i] = value
	}
	return c
}

func red(x float64) color.NRGBA { return color.NRGBA{R: 255, A: uint8(255 * x)} }

// Two panels of 6 and 4 frames: what is over a frame is where and when it was put, and the
// curve below has its peak where it belongs.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pair.avi")
	over := make([][]float64, 6)
	over[3] = []float64{0, 0, 1, 0} // bottom left of 2×2
	panels := []Panel{
		{Caption: "impossible", Clip: grey(6, 64, 100), Over: over, Height: 2, Width: 2, Colour: red, Curve: []float64{math.NaN(), 0, 0, 1, 0, 0}},
		{Caption: "possible", Clip: grey(4, 64, 200)},
	}
	if err := Write(path, panels, Options{FPS: 12, Mark: 3}); err != nil {
		t.Fatal(err)
	}
	v, err := gocv.VideoCaptureFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if fps := v.Get(gocv.VideoCaptureFPS); fps != 12 {
		t.Errorf("%g frames a second", fps)
	}
	m := gocv.NewMat()
	defer m.Close()
	frames := 0
	at := func(x, y int) [3]int {
		pixel := m.GetVecbAt(y, x)
		return [3]int{int(pixel[2]), int(pixel[1]), int(pixel[0])}
	}
	near := func(got [3]int, want [3]int) bool {
		for i := range got {
			if d := got[i] - want[i]; d < -12 || d > 12 { // JPEG
				return false
			}
		}
		return true
	}
	for ; v.Read(&m); frames++ {
		if m.Cols() != 3*gap+2*256 || m.Rows() != captionRows+256+2*gap+curveRows {
			t.Fatalf("%d×%d pixels", m.Cols(), m.Rows())
		}
		bottomLeft := [3]int{100, 100, 100}
		if frames == 3 {
			bottomLeft = [3]int{255, 0, 0}
		}
		middle := 256/4 + gap
		if got := at(middle, captionRows+3*256/4); !near(got, bottomLeft) {
			t.Errorf("frame %d, bottom left: %v, want %v", frames, got, bottomLeft)
		}
		if got := at(middle, captionRows+256/4); !near(got, [3]int{100, 100, 100}) {
			t.Errorf("frame %d, top left: %v", frames, got)
		}
		if got := at(2*gap+256+128, captionRows+128); !near(got, [3]int{200, 200, 200}) { // its last frame stays
			t.Errorf("frame %d, second panel: %v", frames, got)
		}
		x := gap + 3*255/5 // of the curve's peak and of the mark
		if got := at(x, captionRows+256+gap+1); near(got, [3]int{255, 255, 255}) {
			t.Errorf("frame %d: nothing is drawn at the curve's peak", frames)
		}
		if got := at(gap+128+70, captionRows+256+gap+4); !near(got, [3]int{255, 255, 255}) {
			t.Errorf("frame %d: %v beside the peak, want white", frames, got)
		}
	}
	if frames != 6 {
		t.Errorf("%d frames, want 6", frames)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	good := Panel{Clip: grey(2, 8, 1)}
	wide := grey(2, 8, 1)
	wide.Width = 4
	for want, c := range map[string]struct {
		panels []Panel
		fps    float64
	}{
		"0 panels":                     {nil, 10},
		"0 frames a second":            {[]Panel{good}, 0},
		"panels[1]: no clip":           {[]Panel{good, {}}, 10},
		"panels[0]: no clip":           {[]Panel{{Clip: wide}}, 10},
		"panels[0].curve: 1 values":    {[]Panel{{Clip: good.Clip, Curve: []float64{1}}}, 10},
		"panels[0].over: 1 grids":      {[]Panel{{Clip: good.Clip, Over: make([][]float64, 1)}}, 10},
		"panels[0].over[1]: 3 values":  {[]Panel{{Clip: good.Clip, Over: [][]float64{nil, {1, 2, 3}}, Height: 2, Width: 2}}, 10},
		"panels[1]: frames of 16 pixe": {[]Panel{good, {Clip: grey(2, 16, 1)}}, 10},
	} {
		if err := Write(filepath.Join(dir, "x.avi"), c.panels, Options{FPS: c.fps, Mark: -1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if err := Write(filepath.Join(dir, "nowhere", "x.avi"), []Panel{good}, Options{FPS: 10}); err == nil {
		t.Error("a folder that is not there: no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A muxer that was cut off leaves a header that promises more than there is.
func TestFinishNoticesAShortFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "whole.avi")
	if err := Write(path, []Panel{{Clip: grey(3, 8, 9)}}, Options{FPS: 10, Mark: -1}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(dir, "short.avi")
	if err := os.WriteFile(short, data[:len(data)-10], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := finish(short, filepath.Join(dir, "final.avi")); err == nil || !strings.Contains(err.Error(), "not whole") {
		t.Errorf("a short file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "final.avi")); err == nil {
		t.Error("it was given its name")
	}
}
