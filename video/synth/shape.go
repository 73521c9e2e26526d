package synth

import "github.com/surmise-ml/surmise/video/synth/physics"

var shapes = []string{"disc", "square", "triangle", "cross"}

// Proportions of the shapes, of the radius of the circle around them. A disc is
// smaller than its circle, to be about as large as the other shapes.
const (
	discRadius   = 0.85
	squareHalf   = 0.7
	crossArm     = 0.94
	crossThick   = 0.33
	triangleLeg  = 0.866025404 // cos 30°
	uprightHalf  = 0.7         // of the square that every upright shape fills
	triangleFoot = 0.5         // below the centre of mass
)

// outline gives the corners of a shape around its centre of mass, within the
// unit circle, in the order in which x turns towards y.
func outline(shape string) []point {
	switch shape {
	case "square":
		return []point{{X: -squareHalf, Y: -squareHalf}, {X: squareHalf, Y: -squareHalf}, {X: squareHalf, Y: squareHalf}, {X: -squareHalf, Y: squareHalf}}
	case "triangle":
		return []point{{X: 0, Y: -1}, {X: triangleLeg, Y: triangleFoot}, {X: -triangleLeg, Y: triangleFoot}}
	case "cross":
		const arm, thick = crossArm, crossThick
		return []point{
			{X: -thick, Y: -arm}, {X: thick, Y: -arm}, {X: thick, Y: -thick}, {X: arm, Y: -thick}, {X: arm, Y: thick}, {X: thick, Y: thick},
			{X: thick, Y: arm}, {X: -thick, Y: arm}, {X: -thick, Y: thick}, {X: -arm, Y: thick}, {X: -arm, Y: -thick}, {X: -thick, Y: -thick},
		}
	}
	panic("synth: shape without outline " + shape) // objects take their shapes from shapes
}

// hull is the convex outline that a shape meets others with.
func hull(shape string) []point {
	corners := outline(shape)
	if shape != "cross" {
		return corners
	}
	var outer []point
	for i, c := range corners {
		if i%3 != 2 { // every third corner is between two arms
			outer = append(outer, c)
		}
	}
	return outer
}

// fitted stretches an outline to the square that upright shapes fill.
func fitted(corners []point) []point {
	low, high := corners[0], corners[0]
	for _, c := range corners {
		low, high = point{X: min(low.X, c.X), Y: min(low.Y, c.Y)}, point{X: max(high.X, c.X), Y: max(high.Y, c.Y)}
	}
	out := make([]point, len(corners))
	for i, c := range corners {
		out[i].X = uprightHalf * (2*(c.X-low.X)/(high.X-low.X) - 1)
		out[i].Y = uprightHalf * (2*(c.Y-low.Y)/(high.Y-low.Y) - 1)
	}
	return out
}

// foot is how far the object reaches below its centre when it lies flat.
func (o object) foot() float64 {
	switch {
	case o.Upright:
		return uprightHalf * o.Radius
	case o.Shape == "disc":
		return discRadius * o.Radius
	case o.Shape == "square":
		return squareHalf * o.Radius
	case o.Shape == "cross":
		return crossArm * o.Radius
	}
	return triangleFoot * o.Radius
}

// body is what the physics moves in place of the object, at the given place.
func (o object) body(at point, angle float64) physics.Body {
	var b physics.Body
	switch {
	case o.Upright:
		half := uprightHalf * o.Radius
		b = physics.Polygon(at, scaled(unitSquare, half))
		b.Inertia = 0
	case o.Shape == "disc":
		b = physics.Disc(at, discRadius*o.Radius)
	default:
		b = physics.Polygon(at, scaled(hull(o.Shape), o.Radius))
	}
	b.Angle, b.Velocity, b.Spin = angle, o.Velocity, o.Spin
	b.Restitution, b.Friction = o.Restitution, o.Friction
	return b
}

var unitSquare = []point{{X: -1, Y: -1}, {X: 1, Y: -1}, {X: 1, Y: 1}, {X: -1, Y: 1}}

func scaled(corners []point, by float64) []point {
	out := make([]point, len(corners))
	for i, c := range corners {
		out[i] = c.Scale(by)
	}
	return out
}
