package synth

import (
	"encoding/binary"
	"math"
)

// light is what a camera adds to a world: brightness that is not steady, and
// noise. Both videos of a pair have the same in each frame.
type light struct {
	Gains []float64 `json:"gains,omitempty"` // [frames], factor on all colours; none: 1
	Noise float64   `json:"noise,omitempty"` // standard deviation of each colour of a pixel, of 255
	Seed  uint64    `json:"seed,string,omitempty"`
}

// camera is how far the picture is shifted, in frame widths.
type camera struct {
	X []float64 `json:"x,omitempty"` // [frames]; none: not at all
	Y []float64 `json:"y,omitempty"` // [frames]
}

// shift is the camera's shift of a frame in whole pixels, so that the picture
// moves as one.
func (c camera) shift(frame, size int) (dx, dy int) {
	if len(c.X) == 0 {
		return 0, 0
	}
	return int(math.Round(c.X[frame] * float64(size))), int(math.Round(c.Y[frame] * float64(size)))
}

// expose changes the colours of a frame as the light says. Numbers are integers
// from where the random ones come in, so that all machines agree.
func (l light) expose(pixels []uint8, frame int) {
	if len(l.Gains) == 0 && l.Noise == 0 {
		return
	}
	const one = 256 // fixed point
	gain := 1.0
	if len(l.Gains) > 0 {
		gain = l.Gains[frame]
	}
	var lit [256]int
	for i := range lit {
		lit[i] = int(math.Round(float64(i)*gain*one)) + one/2
	}
	// The sum of two bytes is spread like a tent, with this standard deviation.
	const spread, mean = 104.5, 255
	noise := int(math.Round(l.Noise / spread * one))
	state := l.Seed ^ uint64(frame)*0x9e3779b97f4a7c15
	var random [8]byte
	for i, p := range pixels {
		at := i % 4 * 2
		if at == 0 {
			binary.LittleEndian.PutUint64(random[:], splitMix(&state))
		}
		tent := int(random[at]) + int(random[at+1]) - mean
		pixels[i] = uint8(min(max((lit[p]+tent*noise)>>8, 0), 255))
	}
}

// splitMix is the generator SplitMix64 (Steele, Lea and Flood, 2014): a frame
// takes thousands of numbers, of which it only asks that they look like noise.
func splitMix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
