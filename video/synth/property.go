package synth

// A property is something that the world keeps and an impossible video breaks.
//
// Each has a function that draws what differs between the two possible worlds
// of a group: one object, the target, in the state it has in the first world and
// in the second. The impossible videos are those worlds cut together at the
// event, so what they break is what no way leads from one state to the other:
// the functions say what is then seen. They may add fixtures, which both worlds
// share. They report false where the draw came to nothing; there is another.
type property struct {
	name   string
	sample func(s *sampler, w *world, event int, occluded bool) (targets [2]*object, ok bool)
	// trajectory is true where the targets move along different ways. They must
	// then be far apart for part of the time before and after the event.
	trajectory bool
}

var properties = []property{
	{"permanence", (*sampler).permanence, false},
	{"continuity", (*sampler).continuity, true},
	{"colour", (*sampler).colourConstancy, false},
	{"shape", (*sampler).shapeConstancy, false},
	{"solidity", (*sampler).solidity, true},
	{"gravity", (*sampler).gravity, true},
	{"inertia", (*sampler).inertia, true},
	{"support", (*sampler).support, true},
}

// occludedSuffix marks the variant of a property in which the event is hidden.
const occludedSuffix = "_occluded"

// Properties returns the names of all properties, in the order in which groups
// take turns: each first with its event in full view, then hidden.
func Properties() []string {
	var names []string
	for _, p := range properties {
		names = append(names, p.name, p.name+occludedSuffix)
	}
	return names
}

// Distances that events must have, in frame widths.
const (
	minJump   = 0.25  // of continuity
	skin      = 0.002 // between a target and what it is about to meet
	minDetour = 1.0   // of trajectories, in radii of the target, while both can be seen
)

// free draws an object that falls, flies, bounces, rolls or rests in a
// furnished room.
func (s *sampler) free(w *world) (object, bool) {
	s.furnish(w)
	o := s.object(shapes)
	begin := s.launch(*w, o, pick(s.rng, w.launchesOf(o)))
	if !w.fits(begin) {
		return object{}, false
	}
	o, _, _ = w.run(s.time, begin, 0)
	return o, true
}

// permanence: one world has the target and the other lacks it. Seen: an object
// vanishes in mid-motion, or appears out of nothing; occluded, it goes behind
// something and never comes out, or comes out though nothing went in.
func (s *sampler) permanence(w *world, _ int, _ bool) ([2]*object, bool) {
	o, ok := s.free(w)
	return [2]*object{&o, nil}, ok
}

// colourConstancy: the worlds differ in the target's colour. Seen: an object
// changes colour.
func (s *sampler) colourConstancy(w *world, _ int, _ bool) ([2]*object, bool) {
	o, ok := s.free(w)
	second := o
	second.Colour = other(s.rng, o.Colour, paletteNames())
	return [2]*object{&o, &second}, ok
}

// shapeConstancy: the worlds differ in the target's shape. So that both shapes
// move alike, the target is upright and the room bare: it meets nothing but
// floor and walls, which all upright shapes touch at the same places. Seen: an
// object changes shape.
func (s *sampler) shapeConstancy(w *world, _ int, _ bool) ([2]*object, bool) {
	o := s.object(shapes)
	o.Radius *= 1.25 // upright shapes fill less of the circle around them
	o.Upright, o.Friction = true, 0
	begin := s.launch(*w, o, pick(s.rng, w.launchesOf(o)))
	if !w.fits(begin) {
		return [2]*object{}, false
	}
	o, _, _ = w.run(s.time, begin, 0)
	second := o
	second.Shape = other(s.rng, o.Shape, shapes)
	return [2]*object{&o, &second}, true
}

// continuity: the target begins with the same velocity at another place, a
// quarter of the frame away around the event at least. Seen: an object is
// suddenly somewhere else and goes on; occluded, it goes behind something and
// comes out where its way does not lead.
func (s *sampler) continuity(w *world, event int, _ bool) ([2]*object, bool) {
	s.furnish(w)
	what := s.object(shapes)
	way := thrown
	if s.coin() {
		way = rolling
	}
	a := s.launch(*w, what, way)
	if !w.fits(a) {
		return [2]*object{}, false
	}
	first, _, _ := w.run(s.time, a, 0)
	for range placeTries {
		b := s.launch(*w, what, way)
		if distance(a.pose.point(), b.pose.point()) < minJump || !w.fits(b) {
			continue
		}
		b.pose[2], b.Velocity, b.Spin, b.Friction = a.pose[2], a.Velocity, a.Spin, a.Friction
		second, _, _ := w.run(s.time, b, 0)
		near := false
		for f := event - s.time.frames/8; f <= event+s.time.frames/8; f++ {
			near = near || distance(first.at(f), second.at(f)) < minJump
		}
		if !near {
			return [2]*object{&first, &second}, true
		}
	}
	return [2]*object{}, false
}

// solidity: a thin wall on the ground, or a board across the whole room. The
// target meets it at the event and bounces off: in one world from one side, in
// the other with the same speed from the other side. Seen: an object comes to a
// wall and goes on beyond it as if it were not there, or falls through a board,
// or rises through it. No frame shows it inside, for no possible video does:
// at the event it has passed. Occluded, the wall looks out from behind what
// hides the event.
func (s *sampler) solidity(w *world, event int, _ bool) ([2]*object, bool) {
	what := s.object([]string{"disc", "square", "cross"})
	what.Friction = 0
	if s.coin() {
		what.Restitution = 1
	}
	what.Radius *= 0.75 // room on both sides of the barrier, and beside an occluder that hides both
	half, reach := s.between(0.015, 0.025), what.foot()+skin
	var a, b start
	inAir := s.coin()
	if !inAir {
		x, height := s.between(0.38, 0.62), s.between(0.4, 0.6)
		y := w.ground() - what.foot()
		w.add("barrier", w.Fixtures[0].Colour, 0, rectangle(x-half, w.ground()-height, x+half, w.ground()))
		speed := s.speed(minRoll, maxRoll)
		a, b = start{what, pose{x - half - reach, y, 0}}, start{what, pose{x + half + reach, y, 0}}
		a.Velocity, b.Velocity = point{X: speed}, point{X: -speed}
	} else {
		x, y := s.between(0.25, 0.75), s.between(wall+3*what.Radius, w.ground()-3*what.Radius)
		w.add("barrier", w.Fixtures[0].Colour, 0, rectangle(wall, y-half, 1-wall, y+half))
		along, speed := s.sign()*s.speed(0, 0.5), s.speed(0.8, 1.6)
		a, b = start{what, pose{x, y - half - reach, 0}}, start{what, pose{x, y + half + reach, 0}}
		a.Velocity, b.Velocity = point{X: along, Y: speed}, point{X: along, Y: -speed}
	}
	// The target meets the barrier at the event, and in the air nothing else.
	bounces := func(met meetings) bool {
		return met[event-1] && (!inAir || !met.around(event, event-1))
	}
	first, metFirst, ok := w.runThrough(s.time, a, event)
	if !ok || !bounces(metFirst) {
		return [2]*object{}, false
	}
	second, metSecond, ok := w.runThrough(s.time, b, event)
	return [2]*object{&first, &second}, ok && bounces(metSecond)
}

// gravity: in both worlds the target flies through the same place at the event,
// touching nothing: in one it falls, in the other it rises, as fast. Seen: a
// falling object turns in mid-air and rises, or a rising one falls all at once
// instead of slowing down first; occluded, it comes out falling where it went
// in rising, too soon for gravity, or rising where it went in falling.
func (s *sampler) gravity(w *world, event int, _ bool) ([2]*object, bool) {
	what := s.object(shapes)
	what.Friction = 0
	if s.coin() {
		what.Restitution = 1
	}
	at := pose{s.between(0.15, 0.85), s.between(0.15, 0.65), 0}
	along, speed := s.sign()*s.speed(0, 0.8), s.speed(0.5, 1.5)
	a, b := start{what, at}, start{what, at}
	a.Velocity, b.Velocity = point{X: along, Y: speed}, point{X: along, Y: -speed}
	first, metFirst, ok := w.runThrough(s.time, a, event)
	if !ok || metFirst.around(event, -1) {
		return [2]*object{}, false
	}
	second, metSecond, ok := w.runThrough(s.time, b, event)
	return [2]*object{&first, &second}, ok && !metSecond.around(event, -1)
}

// around reports whether the object met something within three frames of the
// event, but for one frame.
func (m meetings) around(event, except int) bool {
	for f := event - 3; f < event+3; f++ {
		if m[f] && f != except {
			return true
		}
	}
	return false
}

// inertia: in both worlds the target is at the same place on flat ground at the
// event. In one it moves along; in the other it moves the other way, or rests.
// Seen: a rolling or sliding object turns back, stops dead, or starts, and
// nothing has touched it; occluded, it comes back from where nothing can turn
// it, or rests where it should have come out.
func (s *sampler) inertia(w *world, event int, _ bool) ([2]*object, bool) {
	what := s.object([]string{"disc", "square", "cross"})
	if s.coin() {
		what.Restitution = 1
	}
	at := pose{s.between(0.2, 0.8), w.ground() - what.foot(), 0}
	velocity := s.sign() * s.speed(minRoll, maxRoll)
	a, b := start{what, at}, start{what, at}
	a.roll(velocity)
	if s.coin() {
		b.roll(-velocity)
	} else {
		b.roll(0)
	}
	first, _, ok := w.runThrough(s.time, a, event)
	if !ok {
		return [2]*object{}, false
	}
	second, _, ok := w.runThrough(s.time, b, event)
	return [2]*object{&first, &second}, ok
}

// support: a platform with a free edge. In one world the target rests near the
// edge, its centre above the platform; in the other it rolls or slides over the
// edge, is just past it at the event, and falls. Seen: an object that lies
// safely on a platform falls beside it, though nothing has moved it; or one
// whose centre is past the edge, and which has nothing left to rest on, does not
// fall but rests. In full view the two states are less than a radius apart, so
// that it is the fall that is impossible and not a jump.
func (s *sampler) support(w *world, event int, occluded bool) ([2]*object, bool) {
	what := s.object([]string{"disc", "square", "cross"})
	y := s.between(0.35, 0.6)
	edge, direction := s.addPlatform(w, y, s.between(0.35, 0.6))
	top := y - platformHalf - what.foot()
	speed := s.speed(0.25, 0.8)

	rests := start{what, pose{edge - direction*what.Radius*s.between(0.15, 0.4), top, 0}}
	rests.roll(0)
	past := edge + direction*what.Radius*s.between(0, 0.3)
	falls := start{what, pose{past - direction*speed*(float64(event)-0.5), top, 0}}
	falls.roll(direction * speed)
	if !w.fits(falls) || !w.fits(rests) {
		return [2]*object{}, false
	}
	first, _, _ := w.run(s.time, rests, 0)
	second, _, _ := w.run(s.time, falls, 0)

	over := direction*(second.at(event).X-edge) > 0 && second.at(event-1).Y < y
	down := second.at(s.time.frames-1).Y > y+what.Radius
	near := max(distance(first.at(event-1), second.at(event)), distance(second.at(event-1), first.at(event))) < what.Radius
	return [2]*object{&first, &second}, over && down && (near || occluded) && distance(first.at(0), first.at(s.time.frames-1)) < skin
}
