package synth

import (
	"fmt"
	"image"
	"image/color"
	"math"

	"gocv.io/x/gocv"
)

// palette holds the colours of objects: bright and far from each other and
// from the muted backgrounds and occluders.
var palette = []struct {
	name string
	rgb  [3]uint8
}{
	{"red", [3]uint8{220, 30, 40}},
	{"orange", [3]uint8{245, 140, 20}},
	{"yellow", [3]uint8{245, 230, 50}},
	{"green", [3]uint8{30, 190, 60}},
	{"cyan", [3]uint8{50, 215, 230}},
	{"blue", [3]uint8{40, 70, 235}},
	{"purple", [3]uint8{150, 40, 210}},
	{"pink", [3]uint8{250, 120, 190}},
}

func paletteNames() []string {
	names := make([]string, len(palette))
	for i, p := range palette {
		names[i] = p.name
	}
	return names
}

// painter draws worlds at one size. It reuses its images and is for one
// goroutine.
type painter struct {
	size       int      // pixels per side
	background gocv.Mat // [size, size, 3] uint8 BGR
	frame      gocv.Mat // [size, size, 3] uint8 BGR
}

func newPainter(size int) *painter {
	return &painter{size: size, background: gocv.NewMat(), frame: gocv.NewMat()}
}

func (p *painter) close() error {
	err := p.background.Close()
	if e := p.frame.Close(); err == nil {
		err = e
	}
	return err
}

// setBackground draws the background that all following frames start from.
func (p *painter) setBackground(b background) error {
	side, shade := p.size, b.gradient
	if b.Kind == "texture" {
		side = b.Cells
		shade = func(x, y, side int) float64 { return float64(b.Shades[y*side+x]) / 255 }
	}
	bgr := make([]byte, 0, side*side*3)
	for y := range side {
		for x := range side {
			s := shade(x, y, side)
			for c := 2; c >= 0; c-- { // OpenCV keeps blue first
				bgr = append(bgr, uint8(math.Round(float64(b.From[c])+s*(float64(b.To[c])-float64(b.From[c])))))
			}
		}
	}
	small, err := gocv.NewMatFromBytes(side, side, gocv.MatTypeCV8UC3, bgr)
	if err != nil {
		return fmt.Errorf("making a %s background of %d×%d cells: %w", b.Kind, side, side, err)
	}
	defer small.Close()
	gocv.Resize(small, &p.background, image.Pt(p.size, p.size), 0, 0, gocv.InterpolationCubic)
	return nil
}

// gradient is the shade in [0,1] of one of side×side pixels.
func (b background) gradient(x, y, side int) float64 {
	sin, cos := math.Sincos(b.Angle)
	along := (float64(x)+0.5-float64(side)/2)*cos + (float64(y)+0.5-float64(side)/2)*sin
	return min(max(0.5+along/(float64(side)*math.Sqrt2), 0), 1)
}

// draw puts a frame of the world into p.frame: background, objects, occluders.
func (p *painter) draw(w world, frame int) {
	p.background.CopyTo(&p.frame)
	for _, o := range w.Objects {
		c := o.at(float64(frame))
		fill := o.rgba()
		if o.Shape == "disc" {
			gocv.CircleWithParams(&p.frame, p.pixel(c), p.subpixels(discRadius*o.Radius), fill, -1, gocv.LineAA, subpixelBits)
			continue
		}
		p.polygon(outline(o.Shape), c, point{o.Radius, o.Radius}, fill)
	}
	for _, o := range w.Occluders {
		fill := color.RGBA{R: o.Colour[0], G: o.Colour[1], B: o.Colour[2]}
		p.polygon(unitSquare, o.at(float64(frame)), point{o.HalfWidth, o.HalfHeight}, fill)
	}
}

func (o object) rgba() color.RGBA {
	for _, p := range palette {
		if p.name == o.Colour {
			return color.RGBA{R: p.rgb[0], G: p.rgb[1], B: p.rgb[2]}
		}
	}
	panic("synth: object with unknown colour " + o.Colour) // objects take their colours from palette
}

// discRadius makes a disc about as large as the other shapes, which fill less
// of the circle around them.
const discRadius = 0.85

var unitSquare = []point{{-1, -1}, {1, -1}, {1, 1}, {-1, 1}}

// outline gives the corners of a shape within the unit circle.
func outline(shape string) []point {
	const (
		half  = 0.7         // of the square's side
		leg   = 0.866025404 // of the triangle: cos 30°
		arm   = 0.94        // of the cross, along
		thick = 0.33        // of the cross, across
	)
	switch shape {
	case "square":
		return []point{{-half, -half}, {half, -half}, {half, half}, {-half, half}}
	case "triangle":
		return []point{{0, -1}, {leg, 0.5}, {-leg, 0.5}}
	case "cross":
		return []point{
			{-thick, -arm}, {thick, -arm}, {thick, -thick}, {arm, -thick}, {arm, thick}, {thick, thick},
			{thick, arm}, {-thick, arm}, {-thick, thick}, {-arm, thick}, {-arm, -thick}, {-thick, -thick},
		}
	}
	panic("synth: shape without outline " + shape) // objects take their shapes from shapes
}

func (p *painter) polygon(corners []point, centre, scale point, fill color.RGBA) {
	pixels := make([]image.Point, len(corners))
	for i, c := range corners {
		pixels[i] = p.pixel(point{centre.X + scale.X*c.X, centre.Y + scale.Y*c.Y})
	}
	points := gocv.NewPointsVectorFromPoints([][]image.Point{pixels})
	defer points.Close()
	gocv.FillPolyWithParams(&p.frame, points, fill, gocv.LineAA, subpixelBits, image.Point{})
}

// OpenCV takes coordinates as integers with this many binary places, so that
// slow objects move smoothly on few pixels.
const subpixelBits = 8

func (p *painter) subpixels(length float64) int {
	return int(math.Round(length * float64(p.size) * (1 << subpixelBits)))
}

// pixel converts a position; OpenCV counts from the centre of the first pixel.
func (p *painter) pixel(at point) image.Point {
	const half = 1 << (subpixelBits - 1)
	return image.Pt(p.subpixels(at.X)-half, p.subpixels(at.Y)-half)
}
