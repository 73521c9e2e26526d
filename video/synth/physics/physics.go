// Package physics moves discs and convex polygons in the plane: gravity,
// bounces, friction, rolling. It is plain arithmetic: equal worlds stepped
// equally often stay equal bit for bit.
//
// Units are the caller's. With gravity (0, g) and g above 0, y points down.
//
// A step is a leapfrog: velocities lie half a step before positions, so that
// free flight is exact and runs backwards as well as forwards. Contacts are
// solved with sequential impulses (Catto, "Iterative Dynamics with Temporal
// Coherence", 2005), without moving bodies apart: a body that comes in with
// speed v enters another by at most v·dt and leaves as deep, so that a bounce
// with restitution 1 keeps all energy.
package physics

import "math"

// Vec is a point or a direction.
type Vec struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Add returns v + o.
func (v Vec) Add(o Vec) Vec { return Vec{v.X + o.X, v.Y + o.Y} }

// Sub returns v - o.
func (v Vec) Sub(o Vec) Vec { return Vec{v.X - o.X, v.Y - o.Y} }

// Scale returns s·v.
func (v Vec) Scale(s float64) Vec { return Vec{s * v.X, s * v.Y} }

// Dot is the inner product.
func (v Vec) Dot(o Vec) float64 { return v.X*o.X + v.Y*o.Y }

// Cross is the z component of the outer product.
func (v Vec) Cross(o Vec) float64 { return v.X*o.Y - v.Y*o.X }

// Len is the length of v.
func (v Vec) Len() float64 { return math.Sqrt(v.Dot(v)) }

// Body is a disc or a convex polygon, moving or fixed.
type Body struct {
	// Corners of a polygon relative to Position at angle 0, in the order in
	// which x turns towards y; Position must be the centre of mass. Nil for a
	// disc.
	Corners []Vec
	Radius  float64 // of the disc, or of a circle around Position that holds all corners

	Position Vec
	Velocity Vec     // half a step before Position, see the package comment
	Angle    float64 // radians, from x towards y
	Spin     float64 // radians per unit of time

	Mass    float64 // 0: the body is fixed, whatever its Velocity
	Inertia float64 // about the centre of mass; 0: the body keeps its angle

	Restitution float64 // 0 to 1; a contact has the lesser of its two bodies'
	Friction    float64 // 0 or more, Coulomb; a contact has the lesser of its two bodies'
}

// Disc returns a disc of mass π·radius², at rest at position.
func Disc(position Vec, radius float64) Body {
	mass := math.Pi * radius * radius
	return Body{Radius: radius, Position: position, Mass: mass, Inertia: mass * radius * radius / 2}
}

// Polygon returns a polygon whose mass is its area, at rest at position. The
// corners are around their centre of mass and in the order of [Body.Corners].
func Polygon(position Vec, corners []Vec) Body {
	b := Body{Corners: corners, Position: position}
	for i, p := range corners {
		q := corners[(i+1)%len(corners)]
		cross := p.Cross(q)
		b.Mass += cross / 2
		b.Inertia += cross * (p.Dot(p) + p.Dot(q) + q.Dot(q)) / 12
		b.Radius = max(b.Radius, p.Len())
	}
	return b
}

// Fixed returns the body as a thing that nothing moves. Its restitution and
// friction are 1, so that those of what meets it count.
func (b Body) Fixed() Body {
	b.Mass, b.Inertia, b.Restitution, b.Friction = 0, 0, 1, 1
	return b
}

func (b *Body) inverseMass() float64 { return inverse(b.Mass) }

func (b *Body) inverseInertia() float64 { return inverse(b.Inertia) }

func inverse(x float64) float64 {
	if x == 0 {
		return 0
	}
	return 1 / x
}

// World is a set of bodies under one gravity. The zero World is empty. It is
// for one goroutine.
type World struct {
	Gravity Vec
	Bodies  []Body

	// Kept from step to step to save their memory.
	corners  [][]Vec // of each body, where it is
	low      []Vec   // corners of the upright boxes around the bodies
	high     []Vec
	contacts []contact // of the present step
	came     []motion  // velocities before the step
	kicked   []motion  // velocities after gravity, before contacts
	bounced  []motion  // velocities that restitution asks for
	stopped  []motion  // no velocities at all
	touched  []bool    // bodies with a contact in the last step
}

type motion struct {
	velocity Vec
	spin     float64
}

// maxPasses of the contact solver: a body on the ground needs two, a heap more.
const maxPasses = 64

// Step moves the world on by dt.
func (w *World) Step(dt float64) {
	w.remember()
	before := w.Energy(dt)
	for i := range w.Bodies {
		if b := &w.Bodies[i]; b.Mass != 0 {
			b.Velocity = b.Velocity.Add(w.Gravity.Scale(dt))
		}
	}
	w.contacts = w.contacts[:0]
	w.findContacts()
	if len(w.contacts) > 0 {
		for i, b := range w.Bodies {
			w.kicked[i] = motion{b.Velocity, b.Spin}
		}
		w.solve(dt, true)
		if w.energyAfter(dt) > before+w.rounding(dt) {
			w.giveBack(dt, before)
		}
	}
	for i := range w.Bodies {
		if b := &w.Bodies[i]; b.Mass != 0 {
			b.Position = b.Position.Add(b.Velocity.Scale(dt))
			b.Angle += b.Spin * dt
		}
	}
}

// giveBack is for the steps that make energy out of nothing: where several
// bodies meet at once, or a polygon hits with a corner and friction (Kane's
// paradox), restitution contact by contact asks for too much. Without
// restitution contacts only take energy, and what lies between both solutions
// parts the bodies too, so the step takes of restitution what keeps the energy.
func (w *World) giveBack(dt, energy float64) {
	for i := range w.Bodies {
		b := &w.Bodies[i]
		w.bounced[i] = motion{b.Velocity, b.Spin}
		b.Velocity, b.Spin = w.kicked[i].velocity, w.kicked[i].spin
	}
	w.solve(dt, false)
	for i, b := range w.Bodies {
		w.kicked[i] = motion{b.Velocity, b.Spin}
	}
	// Rounding and friction can leave a millionth too much even so; slowing
	// what has met takes it away.
	from, to := w.stopped, w.kicked
	if w.energyAfter(dt) <= energy {
		from, to = w.kicked, w.bounced
	}
	blend := func(share float64) {
		for i := range w.Bodies {
			if b := &w.Bodies[i]; w.touched[i] {
				b.Velocity = from[i].velocity.Add(to[i].velocity.Sub(from[i].velocity).Scale(share))
				b.Spin = from[i].spin + share*(to[i].spin-from[i].spin)
			}
		}
	}
	low, high := 0.0, 1.0
	for range 50 {
		middle := (low + high) / 2
		blend(middle)
		if w.energyAfter(dt) > energy {
			high = middle
		} else {
			low = middle
		}
	}
	blend(low)
}

// remember notes how the bodies come into the step, and where their corners are.
func (w *World) remember() {
	if len(w.corners) != len(w.Bodies) {
		n := len(w.Bodies)
		w.corners, w.low, w.high, w.touched = make([][]Vec, n), make([]Vec, n), make([]Vec, n), make([]bool, n)
		w.came, w.kicked, w.bounced, w.stopped = make([]motion, n), make([]motion, n), make([]motion, n), make([]motion, n)
	}
	for i := range w.Bodies {
		b := &w.Bodies[i]
		w.came[i] = motion{b.Velocity, b.Spin}
		w.touched[i] = false
		if b.Mass == 0 && w.low[i] != w.high[i] {
			continue
		}
		if b.Corners == nil {
			reach := Vec{b.Radius, b.Radius}
			w.low[i], w.high[i] = b.Position.Sub(reach), b.Position.Add(reach)
			continue
		}
		w.corners[i] = b.placed(w.corners[i][:0])
		low, high := w.corners[i][0], w.corners[i][0]
		for _, c := range w.corners[i][1:] {
			low, high = Vec{min(low.X, c.X), min(low.Y, c.Y)}, Vec{max(high.X, c.X), max(high.Y, c.Y)}
		}
		w.low[i], w.high[i] = low, high
	}
}

// placed appends the corners of the body where it is.
func (b *Body) placed(out []Vec) []Vec {
	sin, cos := math.Sincos(b.Angle)
	for _, c := range b.Corners {
		out = append(out, Vec{b.Position.X + cos*c.X - sin*c.Y, b.Position.Y + sin*c.X + cos*c.Y})
	}
	return out
}

// Reverse turns time round: as many steps more, where nothing was lost to
// friction or restitution, lead back along the same way.
func (w *World) Reverse(dt float64) {
	for i := range w.Bodies {
		if b := &w.Bodies[i]; b.Mass != 0 {
			b.Velocity = b.Velocity.Add(w.Gravity.Scale(dt)).Scale(-1)
			b.Spin = -b.Spin
		}
	}
}

// Energy is kinetic and potential energy for steps of dt, which sets by how
// much velocities lag behind positions.
func (w *World) Energy(dt float64) float64 {
	lag := w.Gravity.Scale(dt / 2)
	sum := 0.0
	for i := range w.Bodies {
		b := &w.Bodies[i]
		if b.Mass == 0 {
			continue
		}
		v := b.Velocity.Add(lag)
		sum += b.Mass*(v.Dot(v)/2-w.Gravity.Dot(b.Position)) + b.Inertia*b.Spin*b.Spin/2
	}
	return sum
}

// energyAfter is Energy as it will be once positions have followed velocities.
func (w *World) energyAfter(dt float64) float64 {
	sum := w.Energy(dt)
	for i := range w.Bodies {
		b := &w.Bodies[i]
		sum -= b.Mass * w.Gravity.Dot(b.Velocity) * dt
	}
	return sum
}

// rounding is an energy too small to speak of: a millionth of what it takes a
// body to be moving rather than resting.
func (w *World) rounding(dt float64) float64 {
	sum := 0.0
	for i := range w.Bodies {
		sum += w.Bodies[i].Mass
	}
	still := w.still(dt)
	return 1e-6 * sum * still * still
}

// still is the speed below which a body that meets another rests on it: what
// gravity gives in a few steps is no blow.
func (w *World) still(dt float64) float64 { return 4 * w.Gravity.Len() * dt }

// Touched reports whether body i met another in the last step.
func (w *World) Touched(i int) bool { return i < len(w.touched) && w.touched[i] }

// Overlap is how deep, at most, two bodies lie in each other, at least one of
// them moving; 0 if none touch.
func (w *World) Overlap() float64 {
	w.remember()
	w.contacts = w.contacts[:0]
	w.findContacts()
	deepest := 0.0
	for _, c := range w.contacts {
		deepest = max(deepest, c.depth)
	}
	return deepest
}
