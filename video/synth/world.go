package synth

import (
	"math"

	"github.com/surmise-ml/surmise/video/synth/physics"
)

// Letters and units used here: the frame is the unit square, x to the right and
// y down, so that lengths are in frame widths; time is in frames of the clip.

type point = physics.Vec

// A world is everything that is to be seen in one possible video. It is plain
// data: with it alone the video can be drawn again, bit for bit.
type world struct {
	Gravity    float64    `json:"gravity"` // frame widths per frame², down
	Background background `json:"background"`
	Fixtures   []fixture  `json:"fixtures"`
	Objects    []object   `json:"objects"`
	Occluders  []occluder `json:"occluders"`
	Light      light      `json:"light"`
	Camera     camera     `json:"camera"`
}

// fixture is a thing that never moves and that objects meet: floor, walls,
// platforms, ramps. It is a convex polygon.
type fixture struct {
	Kind    string   `json:"kind"`
	Corners []point  `json:"corners"` // frame widths
	Colour  [3]uint8 `json:"colour"`  // RGB
	// Friction that objects meet, at most; they have their own too.
	Friction float64 `json:"friction"`
}

// object is one of the moving things the physics is about. Objects of one
// world never overlap.
type object struct {
	Shape  string  `json:"shape"`  // one of shapes
	Colour string  `json:"colour"` // name in palette
	Radius float64 `json:"radius"` // of a circle around any shape, frame widths
	// Upright objects never turn, slide without friction, and fill the same
	// square whatever their shape, so that shapes can be exchanged and nothing
	// else. The others are rigid bodies of just their shape (a cross meets
	// things as if its corners were bridged).
	Upright     bool    `json:"upright"`
	Restitution float64 `json:"restitution"`
	Friction    float64 `json:"friction"`
	Velocity    point   `json:"velocity"` // in frame 0, frame widths per frame
	Spin        float64 `json:"spin"`     // in frame 0, radians per frame
	Path        []pose  `json:"path"`     // [frames], where the object is
}

// pose is where an object is in a frame: x and y of its centre in frame widths,
// and its angle in radians, from x towards y.
type pose [3]float64

func (p pose) point() point { return point{X: p[0], Y: p[1]} }

func (o object) at(frame int) point { return o.Path[frame].point() }

// before is where the object is in the middle between two frames, the given one
// and the one before it.
func (o object) before(frame int) point {
	return o.at(frame - 1).Add(o.at(frame)).Scale(0.5)
}

// occluder is an upright opaque rectangle in front of all objects.
type occluder struct {
	drift
	HalfWidth  float64  `json:"half_width"` // frame widths
	HalfHeight float64  `json:"half_height"`
	Colour     [3]uint8 `json:"colour"` // RGB
}

// drift moves in a straight line at constant speed and turns round at the walls
// of the box [Low, High], which holds its centre.
type drift struct {
	Start    point `json:"start"`    // centre in frame 0, frame widths
	Velocity point `json:"velocity"` // frame widths per frame
	Low      point `json:"low"`
	High     point `json:"high"`
}

// at returns the centre at a time in frames.
func (d drift) at(frame float64) point {
	return point{
		X: bounce(d.Start.X+d.Velocity.X*frame, d.Low.X, d.High.X),
		Y: bounce(d.Start.Y+d.Velocity.Y*frame, d.Low.Y, d.High.Y),
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

// through makes the drift that is at p with velocity v at the given frame.
func through(p, v point, frame float64, low, high point) drift {
	d := drift{Low: low, High: high}
	d.Start.X, d.Velocity.X = rewind(p.X, v.X, frame, low.X, high.X)
	d.Start.Y, d.Velocity.Y = rewind(p.Y, v.Y, frame, low.Y, high.Y)
	return d
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

// cover is how far, in frame widths, an occluder must reach beyond what it hides:
// two pixels at 64 px, for the edges of both are smeared by one.
const cover = 0.035

// hides reports whether the occluder covers all of the object in a frame.
func (o occluder) hides(x object, frame int) bool {
	c, p := o.at(float64(frame)), x.at(frame)
	return math.Abs(p.X-c.X)+x.Radius+cover <= o.HalfWidth &&
		math.Abs(p.Y-c.Y)+x.Radius+cover <= o.HalfHeight
}

// clears reports whether the occluder covers nothing of the object in a frame.
func (o occluder) clears(x object, frame int) bool {
	c, p := o.at(float64(frame)), x.at(frame)
	return math.Abs(p.X-c.X) >= x.Radius+clearance+o.HalfWidth ||
		math.Abs(p.Y-c.Y) >= x.Radius+clearance+o.HalfHeight
}

// covers reports whether the occluder covers a point in a frame.
func (o occluder) covers(p point, frame int) bool {
	c := o.at(float64(frame))
	return math.Abs(p.X-c.X) <= o.HalfWidth && math.Abs(p.Y-c.Y) <= o.HalfHeight
}

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

// apart reports whether two objects stay clear of each other in all frames.
func apart(a, b object) bool {
	for f := range a.Path {
		if distance(a.at(f), b.at(f)) < a.Radius+b.Radius+clearance {
			return false
		}
	}
	return true
}

func distance(a, b point) float64 { return a.Sub(b).Len() }
