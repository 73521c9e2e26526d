package video

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// plainResize is the definition, in two dimensions at once and in float64: each output pixel is the mean of
// the input pixels of the region, weighted by a triangle around its centre.
func plainResize(pix []uint8, width int, crop Crop, size int, flip bool, y, x, c int) float64 {
	if flip {
		x = size - 1 - x
	}
	weight := func(j, i, in int) float64 {
		scale := float64(in) / float64(size)
		return math.Max(0, 1-math.Abs((float64(j)+0.5)-(float64(i)+0.5)*scale)/math.Max(scale, 1))
	}
	sum, total := 0.0, 0.0
	for j := range crop.Height {
		for i := range crop.Width {
			w := weight(j, y, crop.Height) * weight(i, x, crop.Width)
			sum += w * float64(pix[((crop.Top+j)*width+crop.Left+i)*3+c])
			total += w
		}
	}
	return sum / total
}

func TestResamplerAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		height, width := rapid.IntRange(1, 40).Draw(t, "height"), rapid.IntRange(1, 40).Draw(t, "width")
		size := rapid.IntRange(1, 20).Draw(t, "size")
		crop := Crop{Height: rapid.IntRange(1, height).Draw(t, "crop height"), Width: rapid.IntRange(1, width).Draw(t, "crop width")}
		crop.Top = rapid.IntRange(0, height-crop.Height).Draw(t, "top")
		crop.Left = rapid.IntRange(0, width-crop.Width).Draw(t, "left")
		flip := rapid.Bool().Draw(t, "flip")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "pixels"), 0))
		pix := make([]uint8, height*width*3)
		for i := range pix {
			pix[i] = uint8(rng.Uint32())
		}
		r := newResampler(width, crop, size, flip)
		const frames, at = 2, 1 // written as frame 1 of 2
		plane := size * size
		floats := make([]float32, 3*frames*plane)
		r.normalised(floats[at*plane:], frames*plane, pix)
		bytes := make([]uint8, plane*3)
		r.bytes(bytes, pix)
		for c, mean := range []float64{0.485, 0.456, 0.406} {
			std := []float64{0.229, 0.224, 0.225}[c]
			for y := range size {
				for x := range size {
					want := plainResize(pix, width, crop, size, flip, y, x, c)
					if got := float64(floats[(c*frames+at)*plane+y*size+x]); math.Abs(got-(want/255-mean)/std) > 2e-5 {
						t.Fatalf("float at c %d y %d x %d: %g, want %g", c, y, x, got, (want/255-mean)/std)
					}
					if got := float64(bytes[(y*size+x)*3+c]); math.Abs(got-want) > 0.501 {
						t.Fatalf("byte at c %d y %d x %d: %g, want %g", c, y, x, got, want)
					}
				}
			}
		}
		for c := range 3 { // frame 0 is not written to
			for i := range plane {
				if floats[c*frames*plane+i] != 0 {
					t.Fatalf("wrote into another frame, colour %d, pixel %d", c, i)
				}
			}
		}
	})
}

func TestRandomCrop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		height, width := rapid.IntRange(1, 2000).Draw(t, "height"), rapid.IntRange(1, 2000).Draw(t, "width")
		s := Spec{ScaleMin: rapid.Float64Range(0.01, 1).Draw(t, "scale min"), AspectMin: rapid.Float64Range(0.1, 5).Draw(t, "aspect min")}
		s.ScaleMax = rapid.Float64Range(s.ScaleMin, 1).Draw(t, "scale max")
		s.AspectMax = rapid.Float64Range(s.AspectMin, 10).Draw(t, "aspect max")
		c := randomCrop(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), height, width, s)
		if c.Height < 1 || c.Width < 1 || c.Top < 0 || c.Left < 0 || c.Top+c.Height > height || c.Left+c.Width > width {
			t.Fatalf("crop %+v of %dx%d", c, width, height)
		}
	})
}

// Area and ratio must follow the distributions they are drawn from, where the region always fits.
func TestRandomCropDistribution(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := Spec{ScaleMin: 0.1, ScaleMax: 0.4, AspectMin: 0.5, AspectMax: 2}
	const n, side = 20000, 1000
	var area, logAspect, top float64
	for range n {
		c := randomCrop(rng, side, side, s)
		area += float64(c.Height*c.Width) / (side * side)
		logAspect += math.Log(float64(c.Width) / float64(c.Height))
		top += float64(c.Top) / float64(side-c.Height)
	}
	// Five standard errors of a uniform variable's mean.
	within := func(name string, got, want, span float64) {
		if limit := 5 * span / math.Sqrt(12*n); math.Abs(got/n-want) > limit {
			t.Errorf("mean %s %g, want %g within %g", name, got/n, want, limit)
		}
	}
	within("area", area, 0.25, 0.3)
	within("log aspect", logAspect, 0, 2*math.Log(2))
	within("top", top, 0.5, 1)
}

func TestCentreCrop(t *testing.T) {
	for _, c := range []struct {
		height, width int
		want          Crop
	}{
		{400, 600, Crop{0, 100, 400, 400}}, {600, 400, Crop{100, 0, 400, 400}}, {7, 4, Crop{1, 0, 4, 4}}, {1, 1, Crop{0, 0, 1, 1}},
	} {
		if got := centreCrop(c.height, c.width); got != c.want {
			t.Errorf("%dx%d: %+v, want %+v", c.width, c.height, got, c.want)
		}
	}
}

func TestNormalize(t *testing.T) {
	c := &Clip{Frames: 3, Height: 2, Width: 2, Pix: make([]uint8, 3*2*2*3)}
	for i := range c.Pix {
		c.Pix[i] = uint8(i * 7)
	}
	dst := make([]float32, 3*2*4)
	Normalize(dst, c, 1, 2)
	mean, std := []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	for channel := range 3 {
		for frame := range 2 {
			for p := range 4 {
				value := float64(c.Pix[((frame+1)*4+p)*3+channel]) / 255
				want := (value - mean[channel]) / std[channel]
				if got := float64(dst[(channel*2+frame)*4+p]); math.Abs(got-want) > 1e-5 {
					t.Errorf("colour %d frame %d pixel %d: %g, want %g", channel, frame, p, got, want)
				}
			}
		}
	}
}

func BenchmarkResample(b *testing.B) {
	for _, c := range []struct {
		name                string
		height, width, size int
	}{{"64to64", 64, 64, 64}, {"600x400to64", 400, 600, 64}, {"340x256to112", 256, 340, 112}} {
		b.Run(c.name, func(b *testing.B) {
			pix := make([]uint8, c.height*c.width*3)
			r := newResampler(c.width, Crop{1, 1, c.height * 3 / 4, c.width * 3 / 4}, c.size, true)
			dst := make([]float32, 3*c.size*c.size)
			for b.Loop() {
				r.normalised(dst, c.size*c.size, pix)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
		})
	}
}

func BenchmarkSample(b *testing.B) {
	for _, c := range []struct {
		name          string
		width, height int
		frames        int
		cache         int
	}{{"64px_memory", 64, 64, 32, 512}, {"64px_decode", 64, 64, 32, -1}, {"340x256_decode", 340, 256, 90, -1}} {
		b.Run(c.name, func(b *testing.B) {
			path := pattern(b, c.name+".mp4", c.width, c.height, 15, c.frames, "-c:v", "libx264", "-pix_fmt", "yuv420p")
			d := mustOpen(b, Spec{Data: []string{path}, Size: 64, Frames: 16, CacheMiB: c.cache, Flip: true})
			dst := make([]float32, d.ClipSize())
			for b.Loop() {
				if _, err := d.Sample(context.Background(), 1, int64(b.N), dst); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "clips/s")
		})
	}
}
