package synth

import (
	"bytes"
	"math"
	"testing"
)

// Light scales colours by its gain and spreads them by its noise, no frame like
// the one before, and each the same every time.
func TestExpose(t *testing.T) {
	const grey, pixels = 100, 64 * 64 * 3
	frame := func(l light, f int) []byte {
		out := bytes.Repeat([]byte{grey}, pixels)
		l.expose(out, f)
		return out
	}
	l := light{Gains: []float64{1, 1.05}, Noise: 4, Seed: 7}
	for f, gain := range l.Gains {
		var sum, squares float64
		for _, p := range frame(l, f) {
			sum += float64(p)
			squares += float64(p) * float64(p)
		}
		mean := sum / pixels
		spread := math.Sqrt(squares/pixels - mean*mean)
		if math.Abs(mean-gain*grey) > 0.2 || math.Abs(spread-4) > 0.2 {
			t.Errorf("frame %d: mean %.2f and standard deviation %.2f, want %.0f and 4", f, mean, spread, gain*grey)
		}
		if !bytes.Equal(frame(l, f), frame(l, f)) {
			t.Errorf("frame %d: not the same twice", f)
		}
	}
	l.Gains = nil
	if bytes.Equal(frame(l, 0), frame(l, 1)) {
		t.Error("two frames have the same noise")
	}
	if !bytes.Equal(frame(light{}, 0), bytes.Repeat([]byte{grey}, pixels)) {
		t.Error("a light without gain and noise changes colours")
	}
	full := bytes.Repeat([]byte{255, 0}, pixels/2)
	light{Noise: 4}.expose(full, 0)
	for i, p := range full {
		if i%2 == 0 && p < 200 || i%2 == 1 && p > 55 {
			t.Fatalf("colour %d wraps round to %d", i, p)
		}
	}
}

// The camera moves the picture as one: what a shifted frame shows is what the
// unshifted one shows, further on.
func TestCameraShiftsThePicture(t *testing.T) {
	const size = 64
	g, err := sampleGroup(stream("test", 3, 0), levels[middle], "colour", 32)
	if err != nil {
		t.Fatal(err)
	}
	w := g.Worlds[0]
	still := drawn(t, event{Size: size, Frames: 2, World: w})
	w.Camera = camera{X: []float64{0.02, -0.02}, Y: []float64{-0.02, 0}}
	moved := drawn(t, event{Size: size, Frames: 2, World: w})
	for f := range 2 {
		dx, dy := w.Camera.shift(f, size)
		if dx == 0 {
			t.Fatalf("frame %d: the camera does not move", f)
		}
		for y := range size {
			for x := range size {
				from := point{X: float64(x + dx), Y: float64(y + dy)}
				if min(from.X, from.Y) < 0 || max(from.X, from.Y) >= size {
					continue
				}
				at, was := 3*(y*size+x), 3*((y+dy)*size+x+dx)
				if !bytes.Equal(moved[f][at:at+3], still[f][was:was+3]) {
					t.Fatalf("frame %d: pixel %d, %d is not that of %v", f, x, y, from)
				}
			}
		}
	}
}
