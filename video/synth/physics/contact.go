package physics

import "math"

// contact is one point in which two bodies meet.
type contact struct {
	a, b    int     // bodies; the normal points from a to b
	normal  Vec     // unit length
	point   Vec     // where impulses act
	depth   float64 // how far the bodies lie in each other, 0 or more
	bounce  float64 // normal speed to leave with
	pushed  float64 // normal impulse so far in this step
	rubbed  float64 // tangential impulse so far
	massN   float64 // what the bodies weigh against a normal impulse
	massT   float64 // and against a tangential one
	fromA   Vec     // point - position of a
	fromB   Vec
	grip    float64 // friction of the pair
	elastic float64 // restitution of the pair
}

// touching is how near two bodies may be to count as in contact: rounding, not
// a distance.
const touching = 1e-9

// findContacts appends the contacts of all pairs of which one body moves.
func (w *World) findContacts() {
	for i := range w.Bodies {
		for j := i + 1; j < len(w.Bodies); j++ {
			a, b := &w.Bodies[i], &w.Bodies[j]
			if a.Mass == 0 && b.Mass == 0 {
				continue
			}
			if w.low[i].X > w.high[j].X+touching || w.low[j].X > w.high[i].X+touching ||
				w.low[i].Y > w.high[j].Y+touching || w.low[j].Y > w.high[i].Y+touching {
				continue
			}
			switch {
			case a.Corners == nil && b.Corners == nil:
				w.discDisc(i, j)
			case a.Corners == nil:
				w.discPolygon(i, j)
			case b.Corners == nil:
				w.discPolygon(j, i)
			default:
				w.polygonPolygon(i, j)
			}
		}
	}
}

func (w *World) meet(a, b int, normal, point Vec, depth float64) {
	w.contacts = append(w.contacts, contact{a: a, b: b, normal: normal, point: point, depth: max(depth, 0)})
	w.touched[a], w.touched[b] = true, true
}

func (w *World) discDisc(i, j int) {
	a, b := &w.Bodies[i], &w.Bodies[j]
	d := b.Position.Sub(a.Position)
	distance := d.Len()
	depth := a.Radius + b.Radius - distance
	if depth < -touching || distance == 0 {
		return
	}
	n := d.Scale(1 / distance)
	w.meet(i, j, n, a.Position.Add(n.Scale(a.Radius-depth/2)), depth)
}

// discPolygon looks for the side, or corner, of polygon j nearest to disc i.
func (w *World) discPolygon(i, j int) {
	disc, corners := &w.Bodies[i], w.corners[j]
	side, outside := mostOutside(corners, func(p, normal Vec) float64 { return disc.Position.Sub(p).Dot(normal) })
	if outside > disc.Radius+touching {
		return
	}
	p, q := corners[side], corners[(side+1)%len(corners)]
	along := q.Sub(p)
	length := along.Len()
	t := disc.Position.Sub(p).Dot(along) / (length * length)
	if outside > 0 && (t < 0 || t > 1) { // beside the side: a corner is nearest
		corner := p
		if t > 1 {
			corner = q
		}
		d := corner.Sub(disc.Position)
		distance := d.Len()
		if distance > disc.Radius+touching || distance == 0 {
			return
		}
		w.meet(i, j, d.Scale(1/distance), corner, disc.Radius-distance)
		return
	}
	inward := Vec{-along.Y / length, along.X / length}
	w.meet(i, j, inward, disc.Position.Add(inward.Scale(outside)), disc.Radius-outside)
}

// mostOutside finds the side that something lies farthest outside of, and how
// far; distance measures it from a point of the side along its outward normal.
func mostOutside(corners []Vec, distance func(onSide, normal Vec) float64) (side int, most float64) {
	most = math.Inf(-1)
	for i, p := range corners {
		along := corners[(i+1)%len(corners)].Sub(p)
		length := along.Len()
		if d := distance(p, Vec{along.Y / length, -along.X / length}); d > most {
			side, most = i, d
		}
	}
	return side, most
}

// polygonPolygon tests the sides of both as separating axes, and cuts the side
// that faces the nearest one to find up to two points of contact.
func (w *World) polygonPolygon(i, j int) {
	least := func(corners []Vec) func(p, normal Vec) float64 {
		return func(p, normal Vec) float64 {
			d := math.Inf(1)
			for _, c := range corners {
				d = min(d, c.Sub(p).Dot(normal))
			}
			return d
		}
	}
	sideI, gapI := mostOutside(w.corners[i], least(w.corners[j]))
	if gapI > touching {
		return
	}
	sideJ, gapJ := mostOutside(w.corners[j], least(w.corners[i]))
	if gapJ > touching {
		return
	}
	// Of two equal ones the first, also when rounding says otherwise.
	if gapJ > gapI+touching {
		w.cut(j, i, sideJ)
		return
	}
	w.cut(i, j, sideI)
}

// cut makes contacts of the part of polygon b's facing side that lies below the
// given side of polygon a.
func (w *World) cut(a, b, side int) {
	corners, others := w.corners[a], w.corners[b]
	p, q := corners[side], corners[(side+1)%len(corners)]
	along := q.Sub(p)
	length := along.Len()
	along = along.Scale(1 / length)
	normal := Vec{along.Y, -along.X}

	facing, most := 0, math.Inf(1)
	for i, c := range others {
		edge := others[(i+1)%len(others)].Sub(c)
		if d := (Vec{edge.Y, -edge.X}).Dot(normal) / edge.Len(); d < most {
			facing, most = i, d
		}
	}
	ends := [2]Vec{others[facing], others[(facing+1)%len(others)]}
	// Places of both ends along the side; the facing side runs the other way.
	t := [2]float64{ends[0].Sub(p).Dot(along), ends[1].Sub(p).Dot(along)}
	for i := range ends {
		at := min(max(t[i], 0), length)
		point := ends[i]
		if at != t[i] {
			if t[0] == t[1] {
				continue
			}
			point = ends[0].Add(ends[1].Sub(ends[0]).Scale((at - t[0]) / (t[1] - t[0])))
		}
		if depth := -point.Sub(p).Dot(normal); depth >= -touching {
			w.meet(a, b, normal, point, depth)
		}
	}
}

// solve gives the bodies in contact velocities that part them, with their
// restitution or without.
func (w *World) solve(dt float64, restitution bool) {
	still := w.still(dt)
	for i := range w.contacts {
		c := &w.contacts[i]
		a, b := &w.Bodies[c.a], &w.Bodies[c.b]
		c.pushed, c.rubbed, c.bounce = 0, 0, 0
		c.fromA, c.fromB = c.point.Sub(a.Position), c.point.Sub(b.Position)
		c.grip, c.elastic = min(a.Friction, b.Friction), min(a.Restitution, b.Restitution)
		tangent := Vec{-c.normal.Y, c.normal.X}
		c.massN = inverse(weight(a, b, c.fromA, c.fromB, c.normal))
		c.massT = inverse(weight(a, b, c.fromA, c.fromB, tangent))
		// The blow is that of the velocity the bodies came with: gravity within
		// this step is not reflected, which keeps a bounce reversible.
		came := pointVelocity(w.came[c.b], c.fromB).Sub(pointVelocity(w.came[c.a], c.fromA)).Dot(c.normal)
		if restitution && came < -still {
			c.bounce = -came * c.elastic
		}
	}
	for range maxPasses {
		change := 0.0 // of a velocity in this pass, at most
		for i := range w.contacts {
			change = max(change, w.push(&w.contacts[i]))
		}
		if change <= 1e-6*still {
			break
		}
	}
}

func weight(a, b *Body, fromA, fromB, direction Vec) float64 {
	armA, armB := fromA.Cross(direction), fromB.Cross(direction)
	return a.inverseMass() + b.inverseMass() + armA*armA*a.inverseInertia() + armB*armB*b.inverseInertia()
}

func pointVelocity(m motion, arm Vec) Vec {
	return Vec{m.velocity.X - m.spin*arm.Y, m.velocity.Y + m.spin*arm.X}
}

// push changes the velocities of two bodies so that their contact fulfils its
// demands: to part at least with c.bounce, and not to slide while friction can
// hold them. Impulses add up over passes; a sum never pulls. It returns by how
// much it changed the velocity at the contact.
func (w *World) push(c *contact) (change float64) {
	a, b := &w.Bodies[c.a], &w.Bodies[c.b]
	if c.grip > 0 {
		tangent := Vec{-c.normal.Y, c.normal.X}
		limit := c.grip * c.pushed
		sum := min(max(c.rubbed-parting(a, b, c).Dot(tangent)*c.massT, -limit), limit)
		strike(a, b, c, tangent.Scale(sum-c.rubbed))
		change = math.Abs(sum-c.rubbed) / c.massT
		c.rubbed = sum
	}
	sum := max(c.pushed+(c.bounce-parting(a, b, c).Dot(c.normal))*c.massN, 0)
	strike(a, b, c, c.normal.Scale(sum-c.pushed))
	change = max(change, math.Abs(sum-c.pushed)/c.massN)
	c.pushed = sum
	return change
}

// parting is the velocity of b at the contact, seen from a.
func parting(a, b *Body, c *contact) Vec {
	return pointVelocity(motion{b.Velocity, b.Spin}, c.fromB).Sub(pointVelocity(motion{a.Velocity, a.Spin}, c.fromA))
}

// strike gives b an impulse at the contact, and a the opposite.
func strike(a, b *Body, c *contact, impulse Vec) {
	a.Velocity = a.Velocity.Sub(impulse.Scale(a.inverseMass()))
	a.Spin -= c.fromA.Cross(impulse) * a.inverseInertia()
	b.Velocity = b.Velocity.Add(impulse.Scale(b.inverseMass()))
	b.Spin += c.fromB.Cross(impulse) * b.inverseInertia()
}
