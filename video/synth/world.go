package synth

import "math"

// Letters and units used here: the frame is the unit square, x to the right and
// y down, so that lengths are in frame widths; time is in frames of the clip.

// A world is everything that is to be seen in one possible video. It is plain
// data: where things are at any time follows from it (see body.at).
type world struct {
	Background background `json:"background"`
	Objects    []object   `json:"objects"`
	Occluders  []occluder `json:"occluders"`
}

// body moves in a straight line at constant speed and bounces without loss
// from the walls of the box [Low, High], which holds its centre.
type body struct {
	Start    point `json:"start"`    // centre in frame 0, frame widths
	Velocity point `json:"velocity"` // frame widths per frame
	Low      point `json:"low"`
	High     point `json:"high"`
}

type point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// object is one of the moving things the physics is about. Objects of one
// world never overlap.
type object struct {
	body
	Shape  string  `json:"shape"`  // one of shapes
	Colour string  `json:"colour"` // name in palette
	Radius float64 `json:"radius"` // of the circle around the shape, frame widths
}

// occluder is an upright opaque rectangle in front of all objects.
type occluder struct {
	body
	HalfWidth  float64  `json:"half_width"` // frame widths
	HalfHeight float64  `json:"half_height"`
	Colour     [3]uint8 `json:"colour"` // RGB
}

// background is a picture that stays as it is for the whole clip.
type background struct {
	Kind  string   `json:"kind"`            // "texture" or "gradient"
	From  [3]uint8 `json:"from"`            // RGB; a gradient's start, the darkest of a texture
	To    [3]uint8 `json:"to"`              // RGB; a gradient's end, the lightest of a texture
	Angle float64  `json:"angle,omitempty"` // gradient: direction, radians
	Cells int      `json:"cells,omitempty"` // texture: noise cells per side
	// Shades [Cells, Cells], rows first, is where each cell of a texture lies
	// between From (0) and To (255); base64 in JSON.
	Shades []uint8 `json:"shades,omitempty"`
}

// at returns the centre of the body at a time in frames.
func (b body) at(frame float64) point {
	return point{
		X: bounce(b.Start.X+b.Velocity.X*frame, b.Low.X, b.High.X),
		Y: bounce(b.Start.Y+b.Velocity.Y*frame, b.Low.Y, b.High.Y),
	}
}

// bounce folds a position of free flight back between two walls.
func bounce(x, low, high float64) float64 {
	span := high - low
	if span <= 0 {
		return low
	}
	phase := math.Mod(x-low, 2*span)
	if phase < 0 {
		phase += 2 * span
	}
	if phase > span {
		phase = 2*span - phase
	}
	return low + phase
}

// through makes the body that is at p with velocity v at the given frame. Free
// flight with lossless bounces runs backwards as well as forwards.
func through(p, v point, frame float64, low, high point) body {
	b := body{Low: low, High: high}
	b.Start.X, b.Velocity.X = rewind(p.X, v.X, frame, low.X, high.X)
	b.Start.Y, b.Velocity.Y = rewind(p.Y, v.Y, frame, low.Y, high.Y)
	return b
}

func rewind(p, v, frame, low, high float64) (start, velocity float64) {
	free := p - v*frame
	span := high - low
	if span <= 0 {
		return low, v
	}
	// Every wall passed on the way back turns the velocity round.
	if walls := math.Floor((free - low) / span); math.Mod(walls, 2) != 0 {
		v = -v
	}
	return bounce(free, low, high), v
}

// clearance is the least gap, in frame widths, between things that are said not
// to touch: more than a pixel at 64 px, to leave room for antialiased edges.
const clearance = 0.02

// hides reports whether the occluder covers all of the object in a frame.
func (o occluder) hides(x object, frame int) bool {
	c, p := o.at(float64(frame)), x.at(float64(frame))
	return math.Abs(p.X-c.X)+x.Radius+clearance <= o.HalfWidth &&
		math.Abs(p.Y-c.Y)+x.Radius+clearance <= o.HalfHeight
}

// clears reports whether the occluder covers nothing of the object in a frame.
func (o occluder) clears(x object, frame int) bool {
	c, p := o.at(float64(frame)), x.at(float64(frame))
	return math.Abs(p.X-c.X) >= x.Radius+clearance+o.HalfWidth ||
		math.Abs(p.Y-c.Y) >= x.Radius+clearance+o.HalfHeight
}

// apart reports whether two objects stay clear of each other in all frames.
func apart(a, b object, frames int) bool {
	for f := range frames {
		if distance(a.at(float64(f)), b.at(float64(f))) < a.Radius+b.Radius+clearance {
			return false
		}
	}
	return true
}

func distance(a, b point) float64 { return math.Hypot(a.X-b.X, a.Y-b.Y) }

// hidden and visible say whether the object is wholly covered, or not covered
// at all, by the occluders of the world.
func (w world) hidden(x object, frame int) bool {
	for _, o := range w.Occluders {
		if o.hides(x, frame) {
			return true
		}
	}
	return false
}

func (w world) visible(x object, frame int) bool {
	for _, o := range w.Occluders {
		if !o.clears(x, frame) {
			return false
		}
	}
	return true
}
