package video

// #cgo CFLAGS: -O3
// #include "pixels.h"
// #include "resample.h"
import "C"

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Mean and standard deviation of ImageNet's pixels, red, green, blue, in units of 255: what V-JEPA and most
// video encoders normalise with.
var (
	imageNetMean = [3]float32{0.485, 0.456, 0.406}
	imageNetStd  = [3]float32{0.229, 0.224, 0.225}
)

// Crop is a region of a frame, in pixels.
type Crop struct {
	Top    int `json:"top"`
	Left   int `json:"left"`
	Height int `json:"height"`
	Width  int `json:"width"`
}

// randomCrop draws one region for all frames of a clip, as torchvision's RandomResizedCrop.get_params does:
// ten tries at a share of the area, uniform in [ScaleMin,ScaleMax], and a width/height ratio, log-uniform in
// [AspectMin,AspectMax]; if none fits the frame, the largest centred region within the ratios.
func randomCrop(rng *rand.Rand, height, width int, s Spec) Crop {
	const tries = 10
	area := float64(height) * float64(width)
	logMin, logMax := math.Log(s.AspectMin), math.Log(s.AspectMax)
	for range tries {
		target := area * (s.ScaleMin + rng.Float64()*(s.ScaleMax-s.ScaleMin))
		aspect := math.Exp(logMin + rng.Float64()*(logMax-logMin))
		w := int(math.RoundToEven(math.Sqrt(target * aspect)))
		h := int(math.RoundToEven(math.Sqrt(target / aspect)))
		if 0 < w && w <= width && 0 < h && h <= height {
			return Crop{Top: rng.IntN(height - h + 1), Left: rng.IntN(width - w + 1), Height: h, Width: w}
		}
	}
	w, h := width, height
	switch aspect := float64(width) / float64(height); {
	case aspect < s.AspectMin:
		h = int(math.RoundToEven(float64(w) / s.AspectMin))
	case aspect > s.AspectMax:
		w = int(math.RoundToEven(float64(h) * s.AspectMax))
	}
	w, h = min(max(w, 1), width), min(max(h, 1), height)
	return Crop{Top: (height - h) / 2, Left: (width - w) / 2, Height: h, Width: w}
}

// centreCrop is the evaluation transform's region: the largest centred square. Resizing it is the same as
// resizing the short side and cutting the centre out, without resizing what is cut off.
func centreCrop(height, width int) Crop {
	side := min(height, width)
	return Crop{Top: (height - side) / 2, Left: (width - side) / 2, Height: side, Width: side}
}

// resampler brings one region of frames of one size to size×size pixels, or to another size. It holds the weights,
// which all frames of a clip share, and scratch memory, so it serves one goroutine.
//
// The filter is bilinear with half-pixel centres, and its triangle is widened by the factor of reduction, as
// Pillow does it and torchvision does with antialias on. V-JEPA's training transform reduces without: then a
// small bright spot comes and goes as it moves between the sampled pixels, which is a surprise that no physics
// made. Where the region is enlarged the two are the same. The sums are done in resample.c.
type resampler struct {
	width      int // pixels, of the whole frame
	crop       Crop
	size       int // pixels; of a square
	horizontal taps
	vertical   taps
	line       []float32 // [crop.Width,3], and one more
}

// taps are the weights of one direction: output i is the sum of weights[i*count+k] * input[first[i]+k].
type taps struct {
	count   int
	first   []int32
	weights []float32 // [size,count]
}

func newResampler(frameWidth int, crop Crop, size int, flip bool) *resampler {
	r := newReducer(frameWidth, crop, size, size)
	r.size = size
	if flip {
		r.horizontal = r.horizontal.reversed()
	}
	return r
}

// newReducer is a resampler to any size.
func newReducer(frameWidth int, crop Crop, height, width int) *resampler {
	return &resampler{
		width: frameWidth, crop: crop,
		horizontal: triangle(crop.Width, width),
		vertical:   triangle(crop.Height, height),
		line:       make([]float32, 3*crop.Width+1),
	}
}

// triangle computes the weights that bring in samples to out.
func triangle(in, out int) taps {
	scale := float64(in) / float64(out)
	support := max(scale, 1) // half the filter's width, in input samples
	// Samples whose centres lie within the support of output i's centre; at least the nearest one does.
	window := func(i int) (centre float64, first, last int) {
		centre = (float64(i) + 0.5) * scale
		return centre, max(0, int(math.Floor(centre-support+0.5))), min(in, int(math.Ceil(centre+support-0.5)))
	}
	t := taps{first: make([]int32, out)}
	for i := range out {
		_, first, last := window(i)
		t.count = max(t.count, last-first)
	}
	t.weights = make([]float32, out*t.count)
	for i := range out {
		centre, first, last := window(i)
		weight := func(j int) float64 { return max(0, 1-math.Abs(float64(j)+0.5-centre)/support) }
		total := 0.0
		for j := first; j < last; j++ {
			total += weight(j)
		}
		// Moved back where the padded row of taps would reach past the input.
		t.first[i] = int32(min(first, in-t.count))
		for j := first; j < last; j++ {
			t.weights[i*t.count+j-int(t.first[i])] = float32(weight(j) / total)
		}
	}
	return t
}

// reversed mirrors the outputs.
func (t taps) reversed() taps {
	out := len(t.first)
	m := taps{count: t.count, first: make([]int32, out), weights: make([]float32, len(t.weights))}
	for i := range out {
		j := out - 1 - i
		m.first[i] = t.first[j]
		copy(m.weights[i*t.count:(i+1)*t.count], t.weights[j*t.count:(j+1)*t.count])
	}
	return m
}

// normalised writes the region of pix as normalised floats. dst starts at the frame's place in the first
// colour's plane; the planes lie stride floats apart.
func (r *resampler) normalised(dst []float32, stride int, pix []uint8) {
	r.planes(dst, stride, pix, normalisation)
}

// jittered does the same with changed colours.
func (r *resampler) jittered(dst []float32, stride int, pix []uint8, j Jitter) {
	if !j.changes() {
		r.normalised(dst, stride, pix)
		return
	}
	r.planes(dst, stride, pix, func(int) (scale, shift float32) { return 1.0 / 255, 0 })
	size := r.size * r.size
	j.apply(dst, stride, size)
	for c := range 3 {
		scale, shift := normalisation(c)
		out := dst[c*stride:][:size]
		for i, v := range out {
			out[i] = v*(255*scale) + shift
		}
	}
}

// planes writes the region of pix, each colour on its line.
func (r *resampler) planes(dst []float32, stride int, pix []uint8, colour func(c int) (scale, shift float32)) {
	var scale, shift [3]C.float
	for c := range 3 {
		s, t := colour(c)
		scale[c], shift[c] = C.float(s), C.float(t)
	}
	from := r.begin(pix)
	v, h := r.vertical, r.horizontal
	_ = dst[2*stride+len(r.vertical.first)*len(r.horizontal.first)-1] // C checks nothing
	C.surmise_resample_floats(from, C.long(3*r.width), C.int(r.crop.Width),
		C.int(len(v.first)), C.int(v.count), (*C.int32_t)(&v.first[0]), (*C.float)(&v.weights[0]),
		C.int(len(h.first)), C.int(h.count), (*C.int32_t)(&h.first[0]), (*C.float)(&h.weights[0]),
		(*C.float)(&r.line[0]),
		(*C.float)(&dst[0]), C.long(stride), &scale[0], &shift[0])
}

// bytes writes the region of pix as dst [size,size,3], rounded.
func (r *resampler) bytes(dst, pix []uint8) { r.interleaved(dst, pix, false) }

// swapped does the same from blue, green, red.
func (r *resampler) swapped(dst, pix []uint8) { r.interleaved(dst, pix, true) }

func (r *resampler) interleaved(dst, pix []uint8, swap bool) {
	other := C.int(0)
	if swap {
		other = 1
	}
	from := r.begin(pix)
	v, h := r.vertical, r.horizontal
	_ = dst[3*len(r.vertical.first)*len(r.horizontal.first)-1]
	C.surmise_resample_bytes(from, C.long(3*r.width), C.int(r.crop.Width),
		C.int(len(v.first)), C.int(v.count), (*C.int32_t)(&v.first[0]), (*C.float)(&v.weights[0]),
		C.int(len(h.first)), C.int(h.count), (*C.int32_t)(&h.first[0]), (*C.float)(&h.weights[0]),
		(*C.float)(&r.line[0]),
		(*C.uint8_t)(&dst[0]), other)
}

// begin returns where the region begins in pix. It panics, as an index does, when the region reaches past the frame.
func (r *resampler) begin(pix []uint8) *C.uint8_t {
	first := (r.crop.Top*r.width + r.crop.Left) * 3
	_ = pix[first+((r.crop.Height-1)*r.width+r.crop.Width)*3-1]
	return (*C.uint8_t)(&pix[first])
}

// normalisation gives colour c's line from pixel value (0 to 255) to model input: scale*v + shift.
func normalisation(c int) (scale, shift float32) {
	return 1 / (255 * imageNetStd[c]), -imageNetMean[c] / imageNetStd[c]
}

// Normalisation gives the line from pixel value (0 to 255) to model input, scale*v + shift, of each colour.
func Normalisation() (scale, shift [3]float32) {
	for c := range scale {
		scale[c], shift[c] = normalisation(c)
	}
	return scale, shift
}

// Denormalize is the pixels that a normalised clip [3,…] was made of, as bytes: those of values that were scaled, too, are
// rounded to the nearest of 0 to 255. A value that is no number is an error. It panics when the lengths differ.
func Denormalize(dst []byte, clip []float32) error {
	dst = dst[:len(clip):len(clip)]
	plane := len(clip) / 3
	if len(clip) == 0 {
		return nil
	}
	for channel := range 3 {
		scale, shift := normalisation(channel)
		at := channel * plane
		bad := C.surmise_pixels((*C.uint8_t)(&dst[at]), (*C.float)(&clip[at]), C.long(plane), C.float(1/scale), C.float(0.5-shift/scale))
		if bad != 0 {
			i := at + slices.IndexFunc(clip[at:at+plane], func(x float32) bool { return x != x })
			return fmt.Errorf("value %d of a clip is %g", i, clip[i])
		}
	}
	return nil
}

// Normalize writes frames from, …, from+frames-1 of c to dst [3,frames,H,W], normalised with ImageNet's mean
// and standard deviation. It panics, as an index does, when c has no such frames or dst another length.
func Normalize(dst []float32, c *Clip, from, frames int) {
	plane := c.Height * c.Width
	pix := c.Pix[from*plane*3 : (from+frames)*plane*3]
	stride := frames * plane
	dst = dst[: 3*stride : 3*stride]
	for channel := range 3 {
		scale, shift := normalisation(channel)
		out := dst[channel*stride : (channel+1)*stride]
		for i := range out {
			out[i] = float32(pix[i*3+channel])*scale + shift
		}
	}
}
