package synth

import (
	"math"

	"github.com/surmise-ml/surmise/video/synth/physics"
)

// stepsPerClip is the least number of physics steps a clip is cut into. The
// fastest objects cover 3 frame widths a clip, so 1/170 in a step: a third of a
// pixel at 64 px, by which they can at most enter each other.
const stepsPerClip = 512

// timeline is the clock of one clip.
type timeline struct {
	frames int
	steps  int // per frame, even: an event lies in the middle between two frames
}

func newTimeline(frames int) timeline {
	return timeline{frames: frames, steps: 2 * max(1, (stepsPerClip/2+frames-1)/frames)}
}

// dt is the time of a step, in frames.
func (t timeline) dt() float64 { return 1 / float64(t.steps) }

// event is the number of steps to the middle of the gap before a frame.
func (t timeline) event(frame int) int { return frame*t.steps - t.steps/2 }

// physics sets up the fixtures of a world.
func (w world) physics() physics.World {
	p := physics.World{Gravity: point{Y: w.Gravity}}
	for _, f := range w.Fixtures {
		p.Bodies = append(p.Bodies, f.body())
	}
	return p
}

func (f fixture) body() physics.Body {
	var area float64
	var centre point
	for i, p := range f.Corners {
		q := f.Corners[(i+1)%len(f.Corners)]
		cross := p.Cross(q)
		area += cross / 2
		centre = centre.Add(p.Add(q).Scale(cross / 6))
	}
	centre = centre.Scale(1 / area)
	around := make([]point, len(f.Corners))
	for i, c := range f.Corners {
		around[i] = c.Sub(centre)
	}
	b := physics.Polygon(centre, around).Fixed()
	b.Friction = f.Friction
	return b
}

// start is where an object begins.
type start struct {
	object
	pose pose
}

// meetings says in which frames a single object met something: entry f is about
// the time from frame f to the next.
type meetings []bool

// run moves one object alone through the world's fixtures and gives it its path.
// where is its place after the given number of steps.
func (w world) run(t timeline, s start, probe int) (o object, met meetings, where point) {
	p := w.physics()
	p.Bodies = append(p.Bodies, s.body(s.pose.point(), s.pose[2]))
	b := &p.Bodies[len(p.Bodies)-1]
	o = s.object
	o.Path = make([]pose, 0, t.frames)
	met = make(meetings, t.frames)
	where = b.Position
	for f := range t.frames {
		o.Path = append(o.Path, rounded(*b))
		if f == t.frames-1 {
			break
		}
		for i := range t.steps {
			p.Step(t.dt())
			met[f] = met[f] || p.Touched(len(p.Bodies)-1)
			if f*t.steps+i+1 == probe {
				where = b.Position
			}
		}
	}
	return o, met, where
}

// runTogether moves objects that may meet, and reports false if some overlap at
// the start.
func (w world) runTogether(t timeline, starts []start) ([]object, bool) {
	p := w.physics()
	first := len(p.Bodies)
	objects := make([]object, len(starts))
	for i, s := range starts {
		objects[i] = s.object
		objects[i].Path = make([]pose, 0, t.frames)
		p.Bodies = append(p.Bodies, s.body(s.pose.point(), s.pose[2]))
	}
	if p.Overlap() > restingOverlap {
		return nil, false
	}
	for f := range t.frames {
		for i := range objects {
			objects[i].Path = append(objects[i].Path, rounded(p.Bodies[first+i]))
		}
		if f == t.frames-1 {
			break
		}
		for range t.steps {
			p.Step(t.dt())
		}
	}
	return objects, true
}

// restingOverlap is what rounding may make of two bodies that lie on each other.
const restingOverlap = 1e-6

// fits reports whether an object can begin there, in the room and in no fixture.
func (w world) fits(s start) bool {
	if at := s.pose.point(); min(at.X, at.Y) < s.foot() || max(at.X, at.Y) > 1-s.foot() {
		return false
	}
	p := w.physics()
	p.Bodies = append(p.Bodies, s.body(s.pose.point(), s.pose[2]))
	return p.Overlap() <= restingOverlap
}

// runThrough finds the path that leads through the given state in the middle
// before the event frame: time is turned round there and run back to the first
// frame, and forward from it. It reports false if that does not lead back, for
// something was lost on the way.
func (w world) runThrough(t timeline, at start, event int) (object, meetings, bool) {
	if !w.fits(at) {
		return object{}, nil, false
	}
	back := at
	back.Restitution = 1
	p := w.physics()
	p.Bodies = append(p.Bodies, back.body(at.pose.point(), at.pose[2]))
	i := len(p.Bodies) - 1
	p.Reverse(t.dt())
	for range t.event(event) {
		p.Step(t.dt())
	}
	p.Reverse(t.dt())
	b := p.Bodies[i]
	at.Velocity, at.Spin = b.Velocity, b.Spin
	begin := pose{b.Position.X, b.Position.Y, b.Angle}
	o, met, where := w.run(t, start{at.object, begin}, t.event(event))
	return o, met, distance(where, at.pose.point()) < 0.005
}

// rounded is the pose of a body as it is drawn and written: to a millionth of
// the frame width, so that files stay small and hold just what was drawn.
func rounded(b physics.Body) pose {
	round := func(x float64) float64 { return math.Round(x*1e6) / 1e6 }
	return pose{round(b.Position.X), round(b.Position.Y), round(math.Remainder(b.Angle, 2*math.Pi))}
}
