package video

import (
	"math"
	"math/rand/v2"
)

// Jitter is a change of colours, the same for all frames of a clip: the four of torchvision's ColorJitter, in an order
// that is drawn too. The zero value changes nothing.
type Jitter struct {
	Brightness float64 `json:"brightness"` // factor
	Contrast   float64 `json:"contrast"`   // factor of the distance from the frame's mean gray
	Saturation float64 `json:"saturation"` // factor of the distance from the pixel's gray
	Hue        float64 `json:"hue"`        // turn of the hue, in full turns, -0.5 to 0.5
	Order      [4]int  `json:"order"`      // of the four above, counted from 0
}

// randomJitter draws as torchvision does: factors uniform in [max(0,1-s), 1+s], the hue in [-s, s], and an order. What
// has no strength is left at what changes nothing.
func randomJitter(rng *rand.Rand, s Spec) Jitter {
	j := Jitter{1, 1, 1, 0, [4]int{0, 1, 2, 3}}
	if s.Brightness == 0 && s.Contrast == 0 && s.Saturation == 0 && s.Hue == 0 {
		return j
	}
	copy(j.Order[:], rng.Perm(4))
	factor := func(strength float64) float64 {
		low := max(0, 1-strength)
		return low + rng.Float64()*(1+strength-low)
	}
	j.Brightness, j.Contrast, j.Saturation = factor(s.Brightness), factor(s.Contrast), factor(s.Saturation)
	j.Hue = (2*rng.Float64() - 1) * s.Hue
	return j
}

func (j Jitter) changes() bool {
	return j.Brightness != 1 || j.Contrast != 1 || j.Saturation != 1 || j.Hue != 0
}

// grayWeights are those of ITU-R 601, which torchvision uses.
var grayWeights = [3]float32{0.2989, 0.587, 0.114}

// apply changes the colours of one frame, 0 to 1, in place. The planes lie stride floats apart and have size floats.
// Every step ends at 0 and 1, as torchvision's on floats do.
func (j Jitter) apply(frame []float32, stride, size int) {
	red, green, blue := frame[:size], frame[stride:][:size], frame[2*stride:][:size]
	planes := [3][]float32{red, green, blue}
	gray := func(i int) float32 {
		return grayWeights[0]*red[i] + grayWeights[1]*green[i] + grayWeights[2]*blue[i]
	}
	for _, step := range j.Order {
		switch step {
		case 0:
			blend(planes, j.Brightness, func(int) float32 { return 0 })
		case 1:
			if j.Contrast == 1 {
				continue
			}
			sum := 0.0
			for i := range red {
				sum += float64(gray(i))
			}
			mean := float32(sum / float64(size))
			blend(planes, j.Contrast, func(int) float32 { return mean })
		case 2:
			blend(planes, j.Saturation, gray)
		case 3:
			turnHue(planes, j.Hue)
		}
	}
}

// blend moves each value away from, or towards, that of base: factor·value + (1-factor)·base.
func blend(planes [3][]float32, factor float64, base func(i int) float32) {
	if factor == 1 {
		return
	}
	f := float32(factor)
	for i := range planes[0] {
		b := (1 - f) * base(i)
		for c := range planes {
			planes[c][i] = min(max(f*planes[c][i]+b, 0), 1)
		}
	}
}

// turnHue goes through hue, saturation and value.
func turnHue(planes [3][]float32, turn float64) {
	if turn == 0 {
		return
	}
	for i := range planes[0] {
		r, g, b := float64(planes[0][i]), float64(planes[1][i]), float64(planes[2][i])
		high, low := max(r, g, b), min(r, g, b)
		chroma := high - low
		if chroma == 0 {
			continue // gray has no hue
		}
		var hue float64 // in sixths of a turn
		switch high {
		case r:
			hue = (g - b) / chroma
		case g:
			hue = 2 + (b-r)/chroma
		default:
			hue = 4 + (r-g)/chroma
		}
		hue = math.Mod(hue+6*turn+12, 6)
		for c, offset := range [3]float64{5, 3, 1} { // where red, green and blue are at their lowest
			k := math.Mod(offset+hue, 6)
			planes[c][i] = float32(high - chroma*max(0, min(k, 4-k, 1)))
		}
	}
}
