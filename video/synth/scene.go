package synth

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Ranges of the random worlds. Lengths are in frame widths, and so are speeds,
// which are per clip: motion does not depend on the number of frames.
const (
	minGravity, maxGravity   = 5.0, 9.0 // widths per clip²; a fall from the ceiling takes about half a clip
	minThrow, maxThrow       = 0.6, 1.8 // speed of a thrown object
	minRoll, maxRoll         = 0.6, 1.4 // speed along the ground
	minDrift, maxDrift       = 0.1, 0.5 // speed of a moving occluder that hides no event
	minPass, maxPass         = 0.8, 1.8 // speed of one that does
	minBounce, maxBounce     = 0.6, 0.95
	wall                     = 0.03 // thickness of walls and ceiling, in sight
	minFloor, maxFloor       = 0.05, 0.10
	platformHalf             = 0.025 // half a platform's thickness
	minPlatform, maxPlatform = 0.3, 0.5
	rollingFriction          = 0.4 // of discs; enough to roll on all ramps
	tumblingFriction         = 0.3 // of other shapes
	outside                  = 0.5 // how far floor and walls go on beyond the frame
	placeTries               = 20  // places tried for one object
)

// sampler draws the parts of a scene.
type sampler struct {
	rng *rand.Rand
	level
	time timeline
}

func (s *sampler) between(low, high float64) float64 { return low + s.rng.Float64()*(high-low) }

func (s *sampler) coin() bool { return s.rng.IntN(2) == 1 }

func (s *sampler) chance(p float64) bool { return s.rng.Float64() < p }

// sign is 1 or -1.
func (s *sampler) sign() float64 {
	if s.coin() {
		return 1
	}
	return -1
}

// speed draws a speed, given in frame widths per clip, in widths per frame.
func (s *sampler) speed(low, high float64) float64 {
	return s.between(low, high) / float64(s.time.frames)
}

// pick draws one of the choices.
func pick[T any](rng *rand.Rand, choices []T) T { return choices[rng.IntN(len(choices))] }

// room is an empty closed room seen from the side.
func (s *sampler) room() world {
	frames := float64(s.time.frames)
	w := world{
		Gravity: s.between(minGravity, maxGravity) / (frames * frames),
		Objects: []object{}, Occluders: []occluder{}, // [] in JSON, not null
	}
	ground := 1 - s.between(minFloor, maxFloor)
	colour := s.muted(125 + s.rng.IntN(25))
	w.add("floor", colour, 1, rectangle(-outside, ground, 1+outside, 1+outside))
	// Walls without friction: a rolling disc comes back from them with its speed.
	w.add("wall", colour, 0, rectangle(-outside, -outside, wall, ground))
	w.add("wall", colour, 0, rectangle(1-wall, -outside, 1+outside, ground))
	w.add("ceiling", colour, 0, rectangle(wall, -outside, 1-wall, wall))
	return w
}

func (w *world) add(kind string, colour [3]uint8, friction float64, corners []point) {
	w.Fixtures = append(w.Fixtures, fixture{Kind: kind, Corners: corners, Colour: colour, Friction: friction})
}

func rectangle(left, top, right, bottom float64) []point {
	return []point{{X: left, Y: top}, {X: right, Y: top}, {X: right, Y: bottom}, {X: left, Y: bottom}}
}

// ground is the height of the floor.
func (w world) ground() float64 { return w.Fixtures[0].Corners[0].Y }

// furnish may put a platform and a ramp into the room.
func (s *sampler) furnish(w *world) {
	if s.chance(s.furniture) {
		s.addPlatform(w, s.between(0.45, 0.6), s.between(minPlatform, maxPlatform))
	}
	if s.chance(s.furniture) {
		s.addRamp(w)
	}
}

// addPlatform puts up a board from a wall into the room. It returns the place of
// its free edge, and in which direction the edge looks.
func (s *sampler) addPlatform(w *world, y, length float64) (edge, direction float64) {
	colour := w.Fixtures[0].Colour
	if s.coin() {
		w.add("platform", colour, 1, rectangle(0, y-platformHalf, wall+length, y+platformHalf))
		return wall + length, 1
	}
	w.add("platform", colour, 1, rectangle(1-wall-length, y-platformHalf, 1, y+platformHalf))
	return 1 - wall - length, -1
}

// addRamp puts a slope of 20° to 35° into a corner of the room.
func (s *sampler) addRamp(w *world) {
	length, y := s.between(0.3, 0.5), w.ground()
	height := length * math.Tan(s.between(20, 35)*math.Pi/180)
	corners := []point{{X: wall, Y: y - height}, {X: wall + length, Y: y}, {X: wall, Y: y}}
	if s.coin() {
		corners = []point{{X: 1 - wall, Y: y - height}, {X: 1 - wall, Y: y}, {X: 1 - wall - length, Y: y}}
	}
	w.add("ramp", w.Fixtures[0].Colour, 1, corners)
}

// find returns the fixture of a kind, if the world has one.
func (w world) find(kind string) (fixture, bool) {
	for _, f := range w.Fixtures {
		if f.Kind == kind {
			return f, true
		}
	}
	return fixture{}, false
}

// object draws what an object is, of the given shapes, but not where.
func (s *sampler) object(of []string) object {
	o := object{
		Shape:       pick(s.rng, of),
		Colour:      pick(s.rng, palette).name,
		Radius:      s.between(s.minRadius, s.maxRadius),
		Restitution: s.between(minBounce, maxBounce),
		Friction:    tumblingFriction,
	}
	if o.Shape == "disc" {
		o.Friction = rollingFriction
	}
	return o
}

// A launch is a way in which an object begins.
type launch int

const (
	thrown   launch = iota // anywhere in the air, in any direction
	dropped                // at rest in the air
	rolling                // along the ground: discs roll, others slide
	onBoard                // at rest on the platform, or rolling along it
	downhill               // at rest on the ramp; only discs roll down at once
)

// launchesOf lists the ways in which an object may begin in the world.
func (w world) launchesOf(o object) []launch {
	ways := []launch{thrown, dropped, rolling}
	if _, ok := w.find("platform"); ok {
		ways = append(ways, onBoard)
	}
	if _, ok := w.find("ramp"); ok && o.Shape == "disc" && !o.Upright {
		ways = append(ways, downhill)
	}
	return ways
}

// launch draws how an object begins; the place may yet be taken.
func (s *sampler) launch(w world, o object, way launch) start {
	r := o.Radius
	x, y := s.between(wall+r, 1-wall-r), s.between(wall+r, w.ground()-r)
	begin := start{o, pose{x, y, 0}}
	turns := o.Shape != "disc" && !o.Upright
	switch way {
	case thrown:
		sin, cos := math.Sincos(s.between(0, 2*math.Pi))
		begin.Velocity = point{X: cos, Y: sin}.Scale(s.speed(minThrow, maxThrow))
		if turns {
			begin.pose[2] = s.between(0, 2*math.Pi)
			begin.Spin = s.speed(-4, 4)
		}
	case dropped:
		begin.pose[1] = s.between(wall+r, 0.5)
	case rolling:
		begin.pose[1] = w.ground() - o.foot()
		begin.roll(s.sign() * s.speed(minRoll, maxRoll))
	case onBoard:
		board, _ := w.find("platform")
		begin.pose[0] = s.between(max(board.Corners[0].X, wall)+r, min(board.Corners[1].X, 1-wall)-r)
		begin.pose[1] = board.Corners[0].Y - o.foot()
		if s.coin() {
			begin.roll(s.sign() * s.speed(minRoll/2, maxRoll/2))
		}
	case downhill:
		ramp, _ := w.find("ramp")
		top, foot := ramp.Corners[0], ramp.Corners[1]
		if top.X > 0.5 {
			foot = ramp.Corners[2]
		}
		along := foot.Sub(top)
		out := point{X: along.Y, Y: -along.X}.Scale(1 / along.Len())
		if out.Y > 0 {
			out = out.Scale(-1)
		}
		at := top.Add(along.Scale(s.between(0.25, 0.6))).Add(out.Scale(discRadius * r))
		begin.pose[0], begin.pose[1] = at.X, at.Y
	}
	return begin
}

// roll sets the object going along flat ground: a disc turns with it, other
// shapes slide as on ice.
func (s *start) roll(velocity float64) {
	s.Velocity = point{X: velocity}
	if s.Shape == "disc" && !s.Upright {
		s.Spin = velocity / (discRadius * s.Radius)
	} else {
		s.Friction = 0
	}
}

// addOthers puts in objects beside the targets, so that there are between the
// level's least and most, each clear of all others for the whole clip. It
// reports false if there was no place for the least.
func (s *sampler) addOthers(w *world, targets []object) bool {
	want := s.minObjects + s.rng.IntN(s.maxObjects-s.minObjects+1)
	for len(w.Objects)+1 < want {
		if o, ok := s.other(*w, targets); ok {
			w.Objects = append(w.Objects, o)
			continue
		}
		return len(w.Objects)+1 >= s.minObjects
	}
	return true
}

func (s *sampler) other(w world, targets []object) (object, bool) {
	for range placeTries {
		o := s.object(shapes)
		begin := s.launch(w, o, pick(s.rng, w.launchesOf(o)))
		if !w.fits(begin) {
			continue
		}
		// Most fail in the first frame, which costs nothing to see.
		begin.Path = []pose{begin.pose}
		if !clearOf(begin.object, w.Objects) || !clearOf(begin.object, targets) {
			continue
		}
		o, _, _ = w.run(s.time, begin, 0)
		if clearOf(o, w.Objects) && clearOf(o, targets) {
			return o, true
		}
	}
	return object{}, false
}

func clearOf(o object, all []object) bool {
	for _, x := range all {
		if !apart(o, x) {
			return false
		}
	}
	return true
}

// samplePlay draws scenes until the objects of one find their places.
func samplePlay(rng *rand.Rand, l level, frames int) (world, error) {
	s := &sampler{rng: rng, level: l, time: newTimeline(frames)}
	for range maxScenes {
		if w, ok := s.play(); ok {
			return w, nil
		}
	}
	return world{}, fmt.Errorf("no scene to train on found in %d draws with %d frames a clip", maxScenes, frames)
}

// play is a scene with nothing to prove, for training: objects fall, bounce,
// roll, tumble, meet each other, lie on things and pass behind others.
func (s *sampler) play() (world, bool) {
	w := s.room()
	s.furnish(&w)
	n := s.minObjects + s.rng.IntN(s.maxObjects-s.minObjects+1)
	var starts []start
	for range n {
		placed := false
		for range placeTries {
			o := s.object(shapes)
			begin := s.launch(w, o, pick(s.rng, w.launchesOf(o)))
			if placed = w.fits(begin) && clearAtStart(begin, starts); placed {
				starts = append(starts, begin)
				break
			}
		}
		if !placed {
			return world{}, false
		}
	}
	objects, ok := w.runTogether(s.time, starts)
	if !ok {
		return world{}, false
	}
	w.Objects = objects
	s.addOccluders(&w)
	if s.maxOccluders == 0 && s.coin() { // easy groups hide objects too
		w.Occluders = append(w.Occluders, s.occluder(s.coin()))
	}
	s.look(&w)
	return w, w.fixturesShow(s.time.frames)
}

func clearAtStart(x start, all []start) bool {
	for _, o := range all {
		if distance(x.pose.point(), o.pose.point()) < x.Radius+o.Radius+clearance {
			return false
		}
	}
	return true
}

// addOccluders puts in as many as the level has where none is needed.
func (s *sampler) addOccluders(w *world) {
	for i := range s.minOccluders + s.rng.IntN(s.maxOccluders-s.minOccluders+1) {
		w.Occluders = append(w.Occluders, s.occluder(i < s.minMoving || s.coin()))
	}
}

// occluder is anywhere, upright or lying, dark or light, and large enough to
// hide an object.
func (s *sampler) occluder(moving bool) occluder {
	o := occluder{HalfWidth: s.maxRadius + cover + s.between(0, 0.06), Colour: s.occluderColour()}
	o.HalfHeight = o.HalfWidth + s.between(0, 0.12)
	if s.coin() {
		o.HalfWidth, o.HalfHeight = o.HalfHeight, o.HalfWidth
	}
	o.Low, o.High = point{X: 0.15, Y: 0.15}, point{X: 0.85, Y: 0.85}
	o.Start = point{X: s.between(o.Low.X, o.High.X), Y: s.between(o.Low.Y, o.High.Y)}
	if moving {
		sin, cos := math.Sincos(s.between(0, 2*math.Pi))
		o.Velocity = point{X: cos, Y: sin}.Scale(s.speed(minDrift, maxDrift))
	}
	return o
}

// occluderOver hides all the given objects in the middle before the event. A
// moving one comes from beyond the frame and leaves it again.
func (s *sampler) occluderOver(objects []object, event int, moving bool) occluder {
	low, high := point{X: 2, Y: 2}, point{X: -1, Y: -1}
	for _, x := range objects {
		for _, f := range []int{event - 1, event} {
			p, r := x.at(f), x.Radius+cover+0.005
			low = point{X: min(low.X, p.X-r), Y: min(low.Y, p.Y-r)}
			high = point{X: max(high.X, p.X+r), Y: max(high.Y, p.Y+r)}
		}
	}
	o := occluder{HalfWidth: (high.X - low.X) / 2, HalfHeight: (high.Y - low.Y) / 2, Colour: s.occluderColour()}
	var velocity point
	if moving {
		v := s.sign() * s.speed(minPass, maxPass)
		if s.coin() {
			velocity.X = v
			o.HalfWidth += math.Abs(v) / 2
		} else {
			velocity.Y = v
			o.HalfHeight += math.Abs(v) / 2
		}
	}
	slack := point{X: s.between(0, 0.05), Y: s.between(0, 0.05)}
	if s.coin() { // longer in one direction
		slack.X += s.between(0, 0.12)
	} else {
		slack.Y += s.between(0, 0.12)
	}
	o.HalfWidth, o.HalfHeight = o.HalfWidth+slack.X, o.HalfHeight+slack.Y
	centre := low.Add(high).Scale(0.5).Add(point{X: s.between(-slack.X, slack.X), Y: s.between(-slack.Y, slack.Y)})
	const far = 0.6
	o.drift = through(centre, velocity, float64(event)-0.5, point{X: -far, Y: -far}, point{X: 1 + far, Y: 1 + far})
	return o
}

func (s *sampler) occluderColour() [3]uint8 {
	if s.coin() {
		return s.muted(175 + s.rng.IntN(20))
	}
	return s.muted(15 + s.rng.IntN(20))
}

// muted is a grey of the given shade with a slight tint, which no object has.
func (s *sampler) muted(shade int) [3]uint8 {
	var rgb [3]uint8
	for i := range rgb {
		rgb[i] = uint8(min(max(shade+s.rng.IntN(25)-12, 0), 255))
	}
	return rgb
}

// look draws everything that has no part in the physics.
func (s *sampler) look(w *world) {
	w.Background = s.background()
	if s.flicker > 0 {
		w.Light.Gains = s.wander(s.flicker)
		for i := range w.Light.Gains {
			w.Light.Gains[i]++
		}
	}
	w.Light.Noise = s.noise
	w.Light.Seed = s.rng.Uint64()
	if s.shake > 0 {
		w.Camera.X, w.Camera.Y = s.wander(s.shake), s.wander(s.shake)
	}
}

// wander is a random walk within ±reach, one value a frame, to a millionth.
func (s *sampler) wander(reach float64) []float64 {
	steps := make([]float64, s.time.frames)
	x := s.between(-reach, reach)
	for i := range steps {
		x = min(max(x+s.between(-reach, reach)/2, -reach), reach)
		steps[i] = math.Round(x*1e6) / 1e6
	}
	return steps
}
