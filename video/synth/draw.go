package synth

import (
	"errors"
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
// goroutine. It draws on a canvas with a margin on each side, from which the
// frame is cut as the camera moves.
type painter struct {
	size       int      // pixels per side
	margin     int      // pixels on each side of the canvas
	background gocv.Mat // [canvas, canvas, 3] uint8 BGR, canvas = size + 2·margin
	canvas     gocv.Mat // [canvas, canvas, 3] uint8 BGR
	frame      gocv.Mat // [size, size, 3] uint8 BGR
}

func newPainter(size int) *painter {
	return &painter{
		size: size, margin: int(math.Ceil(maxShake * float64(size))),
		background: gocv.NewMat(), canvas: gocv.NewMat(), frame: gocv.NewMat(),
	}
}

func (p *painter) close() error {
	return errors.Join(p.background.Close(), p.canvas.Close(), p.frame.Close())
}

// setBackground draws what all following frames start from: background and
// fixtures, which never move.
func (p *painter) setBackground(w world) error {
	b, canvas := w.Background, p.size+2*p.margin
	side := canvas
	shade := func(x, y int) float64 {
		place := func(i int) float64 { return (float64(i-p.margin) + 0.5) / float64(p.size) }
		return b.shade(place(x), place(y))
	}
	if b.Kind == texture {
		side = b.Cells
		shade = func(x, y int) float64 { return float64(b.Shades[y*side+x]) / 255 }
	}
	bgr := make([]byte, 0, side*side*3)
	for y := range side {
		for x := range side {
			s := shade(x, y)
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
	gocv.Resize(small, &p.background, image.Pt(canvas, canvas), 0, 0, gocv.InterpolationCubic)
	for _, f := range w.Fixtures {
		p.polygon(&p.background, f.Corners, rgba(f.Colour))
	}
	return nil
}

// draw puts a frame of the world into p.frame: background, objects, occluders,
// as the camera and the light have it.
func (p *painter) draw(w world, frame int) error {
	p.background.CopyTo(&p.canvas)
	for _, o := range w.Objects {
		p.object(o, o.Path[frame])
	}
	for _, o := range w.Occluders {
		c := o.at(float64(frame))
		p.polygon(&p.canvas, rectangle(c.X-o.HalfWidth, c.Y-o.HalfHeight, c.X+o.HalfWidth, c.Y+o.HalfHeight), rgba(o.Colour))
	}
	dx, dy := w.Camera.shift(frame, p.size)
	cut := p.canvas.Region(image.Rect(0, 0, p.size, p.size).Add(image.Pt(p.margin+dx, p.margin+dy)))
	defer cut.Close()
	cut.CopyTo(&p.frame)
	pixels, err := p.frame.DataPtrUint8()
	if err != nil {
		return fmt.Errorf("drawing frame %d: %w", frame, err)
	}
	w.Light.expose(pixels, frame)
	return nil
}

// object draws one object. A disc that can roll has a spot, so that one sees it
// roll.
func (p *painter) object(o object, at pose) {
	fill := o.rgba()
	if o.Shape == "disc" {
		radius := discRadius
		if o.Upright {
			radius = uprightHalf
		}
		p.disc(at.point(), radius*o.Radius, fill)
		if !o.Upright {
			sin, cos := math.Sincos(at[2])
			spot := at.point().Add(point{X: cos, Y: sin}.Scale(spotFrom * o.Radius))
			p.disc(spot, spotRadius*o.Radius, color.RGBA{R: fill.R / 2, G: fill.G / 2, B: fill.B / 2})
		}
		return
	}
	corners := outline(o.Shape)
	if o.Upright {
		corners = fitted(corners)
	}
	sin, cos := math.Sincos(at[2])
	placed := make([]point, len(corners))
	for i, c := range corners {
		placed[i] = at.point().Add(point{X: cos*c.X - sin*c.Y, Y: sin*c.X + cos*c.Y}.Scale(o.Radius))
	}
	p.polygon(&p.canvas, placed, fill)
}

// The spot of a disc, in radii of the object.
const (
	spotFrom   = 0.45 // centre to centre
	spotRadius = 0.25
)

func rgba(c [3]uint8) color.RGBA { return color.RGBA{R: c[0], G: c[1], B: c[2]} }

func (o object) rgba() color.RGBA {
	for _, p := range palette {
		if p.name == o.Colour {
			return rgba(p.rgb)
		}
	}
	panic("synth: object with unknown colour " + o.Colour) // objects take their colours from palette
}

func (p *painter) disc(centre point, radius float64, fill color.RGBA) {
	gocv.CircleWithParams(&p.canvas, p.pixel(centre), p.subpixels(radius), fill, -1, gocv.LineAA, subpixelBits)
}

func (p *painter) polygon(on *gocv.Mat, corners []point, fill color.RGBA) {
	pixels := make([]image.Point, len(corners))
	for i, c := range corners {
		pixels[i] = p.pixel(c)
	}
	points := gocv.NewPointsVectorFromPoints([][]image.Point{pixels})
	defer points.Close()
	gocv.FillPolyWithParams(on, points, fill, gocv.LineAA, subpixelBits, image.Point{})
}

// OpenCV takes coordinates as integers with this many binary places, so that
// slow objects move smoothly on few pixels.
const subpixelBits = 8

func (p *painter) subpixels(length float64) int {
	return int(math.Round(length * float64(p.size) * (1 << subpixelBits)))
}

// pixel converts a position to the canvas; OpenCV counts from the centre of the
// first pixel.
func (p *painter) pixel(at point) image.Point {
	offset := p.margin<<subpixelBits - 1<<(subpixelBits-1)
	return image.Pt(p.subpixels(at.X)+offset, p.subpixels(at.Y)+offset)
}
