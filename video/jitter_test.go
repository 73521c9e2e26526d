package video

import (
	"image"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gocv.io/x/gocv"
	"pgregory.net/rapid"
)

// plainJitter is torchvision's definition in float64, pixel by pixel; hue by rotating through the six sectors of the
// colour cone, which is another way than turnHue's.
func plainJitter(j Jitter, frame [][3]float64) [][3]float64 {
	out := slices.Clone(frame)
	clamp := func(v float64) float64 { return math.Min(math.Max(v, 0), 1) }
	gray := func(p [3]float64) float64 { return 0.2989*p[0] + 0.587*p[1] + 0.114*p[2] }
	for _, step := range j.Order {
		mean := 0.0
		for _, p := range out {
			mean += gray(p) / float64(len(out))
		}
		for i, p := range out {
			var q [3]float64
			switch step {
			case 0:
				for c := range q {
					q[c] = clamp(p[c] * j.Brightness)
				}
			case 1:
				for c := range q {
					q[c] = clamp(j.Contrast*p[c] + (1-j.Contrast)*mean)
				}
			case 2:
				for c := range q {
					q[c] = clamp(j.Saturation*p[c] + (1-j.Saturation)*gray(p))
				}
			case 3:
				h, s, v := toHSV(p)
				q = fromHSV(h+j.Hue-math.Floor(h+j.Hue), s, v)
			}
			out[i] = q
		}
	}
	return out
}

func toHSV(p [3]float64) (h, s, v float64) {
	high, low := slices.Max(p[:]), slices.Min(p[:])
	if high == low {
		return 0, 0, high
	}
	rc, gc, bc := (high-p[0])/(high-low), (high-p[1])/(high-low), (high-p[2])/(high-low)
	switch high {
	case p[0]:
		h = bc - gc
	case p[1]:
		h = 2 + rc - bc
	default:
		h = 4 + gc - rc
	}
	h /= 6
	return h - math.Floor(h), (high - low) / high, high
}

func fromHSV(h, s, v float64) [3]float64 {
	sector := math.Floor(h * 6)
	f := h*6 - sector
	p, q, t := v*(1-s), v*(1-s*f), v*(1-s*(1-f))
	return [][3]float64{{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}}[int(sector)%6]
}

func TestJitterAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		s := Spec{Brightness: rapid.Float64Range(0, 2).Draw(t, "brightness"), Contrast: rapid.Float64Range(0, 2).Draw(t, "contrast"),
			Saturation: rapid.Float64Range(0, 2).Draw(t, "saturation"), Hue: rapid.Float64Range(0, 0.5).Draw(t, "hue")}
		j := randomJitter(rng, s)
		const size, stride = 12, 20
		frame := make([]float32, 3*stride)
		plain := make([][3]float64, size)
		for i := range size {
			for c := range 3 {
				v := float32(rng.IntN(256)) / 255
				if rng.IntN(4) == 0 { // gray, black and white too
					v = float32(rng.IntN(2))
				}
				frame[c*stride+i], plain[i][c] = v, float64(v)
			}
		}
		want := plainJitter(j, plain)
		j.apply(frame, stride, size)
		for i := range size {
			for c := range 3 {
				if got := float64(frame[c*stride+i]); math.Abs(got-want[i][c]) > 2e-4 {
					t.Fatalf("%+v: pixel %d colour %d: %g, want %g", j, i, c, got, want[i][c])
				}
			}
		}
		for c := range 3 {
			for i := size; i < stride; i++ {
				if frame[c*stride+i] != 0 {
					t.Fatal("wrote beside the frame")
				}
			}
		}
	})
}

// Factors stay within their ranges, and their means are where they should be; without a strength nothing is drawn.
func TestRandomJitter(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var brightness, hue float64
	orders := map[[4]int]int{}
	const n = 5000
	for range n {
		j := randomJitter(rng, Spec{Brightness: 0.4, Contrast: 1.5, Hue: 0.1})
		if j.Brightness < 0.6 || j.Brightness > 1.4 || j.Contrast < 0 || j.Contrast > 2.5 || j.Saturation != 1 || math.Abs(j.Hue) > 0.1 {
			t.Fatalf("%+v", j)
		}
		brightness += j.Brightness / n
		hue += j.Hue / n
		orders[j.Order]++
	}
	if math.Abs(brightness-1) > 5*0.8/math.Sqrt(12*n) || math.Abs(hue) > 5*0.2/math.Sqrt(12*n) || len(orders) != 24 {
		t.Errorf("means %g and %g, %d orders", brightness, hue, len(orders))
	}
	before := *rand.NewPCG(5, 6)
	source := before
	if j := randomJitter(rand.New(&source), Spec{}); j.changes() || source != before {
		t.Errorf("without strengths: %+v, or numbers were drawn", j)
	}
}

// The jitter reaches the clip, before normalisation, and is recorded.
func TestSampleJitters(t *testing.T) {
	path := pattern(t, "lossless.mkv", 61, 37, 15, 12, "-c:v", "ffv1", "-pix_fmt", "bgr0")
	spec := Spec{Data: []string{path}, Size: 16, Frames: 2, ShortSide: -1}
	plain := mustOpen(t, spec)
	spec.Brightness, spec.Contrast, spec.Saturation, spec.Hue = 0.4, 0.4, 0.4, 0.1
	d := mustOpen(t, spec)
	mean, std := []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	for i := range int64(4) {
		info, got := sample(t, d, i)
		plainInfo, base := sample(t, plain, i)
		if info.Crop != plainInfo.Crop || !info.Jitter.changes() {
			t.Fatalf("%+v, without jitter %+v", info, plainInfo)
		}
		for k := range 2 {
			frame := make([][3]float64, 256)
			for p := range frame {
				for c := range 3 {
					frame[p][c] = float64(base[(c*2+k)*256+p])*std[c] + mean[c]
				}
			}
			for p, want := range plainJitter(info.Jitter, frame) {
				for c := range 3 {
					if v := float64(got[(c*2+k)*256+p])*std[c] + mean[c]; math.Abs(v-want[c]) > 2e-4 {
						t.Fatalf("clip %d frame %d pixel %d colour %d: %g, want %g", i, k, p, c, v, want[c])
					}
				}
			}
		}
	}
}

// Where a frame is reduced by whole numbers, a triangle of that width is close to OpenCV's mean of areas, and where it
// is not resized the region is cut out as it is: another implementation than ours agrees.
func TestResamplerAgainstOpenCV(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	pix := make([]uint8, 90*120*3)
	for i := range pix { // smooth, so that filters of unlike width agree
		y, x := i/360, i/3%120
		pix[i] = uint8(128 + 60*math.Sin(float64(x)/17+float64(i%3)) + 60*math.Cos(float64(y)/13) + float64(rng.IntN(3)))
	}
	mat, err := gocv.NewMatFromBytes(90, 120, gocv.MatTypeCV8UC3, pix)
	if err != nil {
		t.Fatal(err)
	}
	defer mat.Close()
	for _, c := range []struct {
		crop Crop
		size int
		flip bool
		most int // of 255
	}{{Crop{5, 7, 64, 64}, 64, false, 0}, {Crop{5, 7, 64, 64}, 64, true, 0}, {Crop{5, 7, 80, 80}, 20, true, 3}, {Crop{10, 30, 45, 75}, 15, false, 3}} {
		region := mat.Region(image.Rect(c.crop.Left, c.crop.Top, c.crop.Left+c.crop.Width, c.crop.Top+c.crop.Height))
		want := gocv.NewMat()
		gocv.Resize(region, &want, image.Pt(c.size, c.size), 0, 0, gocv.InterpolationArea)
		if c.flip {
			gocv.Flip(want, &want, 1)
		}
		expected, err := want.DataPtrUint8()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]uint8, c.size*c.size*3)
		newResampler(120, c.crop, c.size, c.flip).bytes(got, pix)
		for i := range got {
			if d := int(got[i]) - int(expected[i]); max(d, -d) > c.most {
				t.Errorf("%+v to %d, flip %v: byte %d is %d, OpenCV has %d", c.crop, c.size, c.flip, i, got[i], expected[i])
				break
			}
		}
		_ = region.Close()
		_ = want.Close()
	}
}
