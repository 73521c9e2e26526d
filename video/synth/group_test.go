package synth

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// An occluder stays within its walls and comes through where it must.
func TestDriftPassesThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		velocity := point{X: rapid.Float64Range(-0.3, 0.3).Draw(t, "vx"), Y: rapid.Float64Range(-0.3, 0.3).Draw(t, "vy")}
		pinned := point{X: rapid.Float64Range(0.1, 0.9).Draw(t, "x"), Y: rapid.Float64Range(0.1, 0.9).Draw(t, "y")}
		frame := rapid.Float64Range(0, 64).Draw(t, "frame")
		d := through(pinned, velocity, frame, point{X: 0.1, Y: 0.1}, point{X: 0.9, Y: 0.9})
		const rounding = 1e-9
		if off := distance(d.at(frame), pinned); off > rounding {
			t.Fatalf("at frame %v it is %v from where it must be", frame, off)
		}
		const step = 1.0 / 64
		for f := 0.0; f < 64; f += step {
			p, q := d.at(f), d.at(f+step)
			if min(p.X, p.Y) < 0.1 || max(p.X, p.Y) > 0.9 {
				t.Fatalf("at frame %v it is at %+v, outside its walls", f, p)
			}
			if distance(p, q) > velocity.Len()*step+rounding {
				t.Fatalf("from frame %v it moves %v in %v frames", f, distance(p, q), step)
			}
		}
	})
}

// Every group, at every difficulty, shows its event as its property demands, and
// nothing else.
func TestGroupsKeepTheirPromises(t *testing.T) {
	for _, difficulty := range Difficulties() {
		for _, property := range Properties() {
			for _, frames := range []int{16, 32, 61} {
				for number := range 3 {
					name := fmt.Sprintf("%s %s, %d frames, number %d", difficulty, property, frames, number)
					g, err := sampleGroup(stream("test "+property, 5, number), levels[difficulty], property, frames)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					checkGroup(t, name, g, levels[difficulty], frames)
				}
			}
		}
	}
}

func checkGroup(t *testing.T, name string, g group, l level, frames int) {
	t.Helper()
	kind, occluded := strings.CutSuffix(g.Property, occludedSuffix)
	if g.Event < frames/3 || g.Event > frames*2/3 {
		t.Errorf("%s: event in frame %d", name, g.Event)
	}
	a, b := g.Worlds[0], g.Worlds[1]
	x, y := a.Objects, b.Objects
	a.Objects, b.Objects = nil, nil
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s: the worlds differ by more than objects", name)
	}
	for _, w := range g.Worlds {
		checkLevel(t, name, w, l, frames, kind)
		checkNoOverlap(t, name, w, 0)
	}

	// All but the target is the same in both worlds.
	if kind == "permanence" {
		if len(x) < len(y) {
			x, y = y, x
		}
		if len(x) != len(y)+1 || !slices.EqualFunc(x[:len(y)], y, sameObject) {
			t.Errorf("%s: the worlds differ by more than one object", name)
		}
	} else {
		last := len(x) - 1
		if len(x) != len(y) || !slices.EqualFunc(x[:last], y[:last], sameObject) {
			t.Fatalf("%s: the worlds differ by more than the target", name)
		}
		checkTargets(t, name, kind, occluded, g, x[last], y[last])
	}
	checkView(t, name, occluded, g, frames)
	if n := len(a.Occluders); !occluded && n > l.maxOccluders || occluded && n == 0 {
		t.Errorf("%s: %d occluders", name, n)
	}
}

func sameObject(a, b object) bool { return reflect.DeepEqual(a, b) }

// checkTargets holds the two states of the target to what the property says of
// them.
func checkTargets(t *testing.T, name, kind string, occluded bool, g group, x, y object) {
	t.Helper()
	frames := len(x.Path)
	last, event := frames-1, g.Event
	// Velocities before and after the event, in frame widths per frame.
	was := func(o object) point { return o.at(event - 1).Sub(o.at(event - 2)) }
	is := func(o object) point { return o.at(event + 1).Sub(o.at(event)) }
	turn := was(x).Sub(is(y)).Len() // what an impossible video does at once
	least := 0.4 / float64(frames)  // a speed that counts as one
	switch kind {
	case "colour":
		if x.Colour == y.Colour {
			t.Errorf("%s: the colour does not change", name)
		}
		y.Colour = x.Colour
	case "shape":
		if x.Shape == y.Shape {
			t.Errorf("%s: the shape does not change", name)
		}
		if !x.Upright {
			t.Errorf("%s: a target that can turn", name)
		}
		y.Shape = x.Shape
	case "continuity":
		for f := event - frames/8; f <= event+frames/8; f++ {
			if d := distance(x.at(f), y.at(f)); d < 0.25 {
				t.Errorf("%s: a jump of %v", name, d)
			}
		}
		y.Path = x.Path
	case "solidity":
		barrier, ok := g.Worlds[0].find("barrier")
		if !ok {
			t.Fatalf("%s: no barrier", name)
		}
		for _, f := range []int{event - 1, event} {
			if side(barrier, x.at(f))*side(barrier, y.at(f)) != -1 {
				t.Errorf("%s: in frame %d the targets are not on both sides of the barrier", name, f)
			}
		}
		if turn > 0.7*was(x).Sub(is(x)).Len() {
			t.Errorf("%s: at the event the velocity changes by %v, more than passing a wall takes", name, turn)
		}
	case "gravity":
		checkSamePlace(t, name, x, y, event)
		up, down := x.at(event).Sub(x.at(event-1)), y.at(event).Sub(y.at(event-1))
		if up.Y > down.Y {
			up, down = down, up
		}
		if up.Y > -least || down.Y < least {
			t.Errorf("%s: velocities %+v and %+v at the event, want one up and one down", name, up, down)
		}
	case "inertia":
		checkSamePlace(t, name, x, y, event)
		if turn < least || math.Abs(is(x).Y)+math.Abs(is(y).Y) > 1e-3 {
			t.Errorf("%s: the velocity changes by %v at the event, or not along the ground", name, turn)
		}
	case "support":
		board, _ := g.Worlds[0].find("platform")
		if distance(x.at(0), x.at(last)) > 0.01 {
			x, y = y, x
		}
		rests, falls := x, y
		beyond := func(o object, f int) bool {
			return o.at(f).X < max(0, board.Corners[0].X) || o.at(f).X > min(1, board.Corners[1].X)
		}
		if distance(rests.at(0), rests.at(last)) > 0.01 || beyond(rests, 0) {
			t.Errorf("%s: neither world has a target that rests on the platform", name)
		}
		if beyond(falls, 0) || !beyond(falls, event) || falls.at(last).Y < board.Corners[3].Y {
			t.Errorf("%s: the other target does not go over the edge and fall", name)
		}
		if d := distance(rests.at(event-1), falls.at(event)); !occluded && d > rests.Radius {
			t.Errorf("%s: a jump of %v at a visible event", name, d)
		}
	}
	if x.Shape != y.Shape || x.Colour != y.Colour || x.Radius != y.Radius || x.Upright != y.Upright || x.Restitution != y.Restitution {
		t.Errorf("%s: the targets differ by more than the property: %+v, %+v", name, x, y)
	}
	if (kind == "colour" || kind == "shape") && !reflect.DeepEqual(x, y) {
		t.Errorf("%s: the targets move on different ways", name)
	}
}

// side is on which side of a barrier a point lies, -1 or 1, or 0 inside.
func side(barrier fixture, p point) int {
	c := barrier.Corners
	if c[1].X-c[0].X < c[3].Y-c[0].Y { // standing
		switch {
		case p.X < c[0].X:
			return -1
		case p.X > c[1].X:
			return 1
		}
		return 0
	}
	switch {
	case p.Y < c[0].Y:
		return -1
	case p.Y > c[3].Y:
		return 1
	}
	return 0
}

// checkSamePlace checks that no way but a jump of less than a frame's motion
// leads from one target to the other at the event.
func checkSamePlace(t *testing.T, name string, x, y object, event int) {
	t.Helper()
	if d := distance(x.before(event), y.before(event)); d > 0.01 {
		t.Errorf("%s: the targets are %v apart at the event", name, d)
	}
}

// checkLevel holds a world to the difficulty.
func checkLevel(t *testing.T, name string, w world, l level, frames int, kind string) {
	t.Helper()
	low := l.minObjects
	if kind == "permanence" {
		low-- // without its target
	}
	if n := len(w.Objects); n < low || n > l.maxObjects {
		t.Errorf("%s: %d objects in a world, want %d to %d", name, n, low, l.maxObjects)
	}
	for _, o := range w.Objects {
		if len(o.Path) != frames {
			t.Fatalf("%s: a path of %d frames", name, len(o.Path))
		}
		least, most := l.minRadius, l.maxRadius
		switch {
		case kind == "solidity":
			least *= 0.75
		case o.Upright:
			most *= 1.25
		}
		if o.Radius < least || o.Radius > most {
			t.Errorf("%s: radius %v", name, o.Radius)
		}
	}
	if !slices.Contains(l.backgrounds, w.Background.Kind) {
		t.Errorf("%s: background %s", name, w.Background.Kind)
	}
	moving := 0
	for _, o := range w.Occluders {
		if o.Velocity != (point{}) {
			moving++
		}
	}
	if n := len(w.Occluders); n < l.minOccluders || moving < l.minMoving {
		t.Errorf("%s: %d occluders, %d of them moving, want at least %d and %d", name, n, moving, l.minOccluders, l.minMoving)
	}
	if w.Light.Noise != l.noise || (len(w.Light.Gains) == frames) != (l.flicker > 0) || (len(w.Camera.X) == frames && len(w.Camera.Y) == frames) != (l.shake > 0) {
		t.Errorf("%s: light %+v and camera %+v are not those of the difficulty", name, w.Light, w.Camera)
	}
	for _, fix := range w.Fixtures {
		if !seenSometime(w, fix, frames) {
			t.Errorf("%s: a %s that is hidden for the whole clip", name, fix.Kind)
		}
	}
	for f := range w.Camera.X {
		if max(math.Abs(w.Camera.X[f]), math.Abs(w.Camera.Y[f])) > l.shake {
			t.Errorf("%s: the camera moves by %v, %v", name, w.Camera.X[f], w.Camera.Y[f])
		}
	}
	for _, gain := range w.Light.Gains {
		if math.Abs(gain-1) > l.flicker+1e-9 {
			t.Errorf("%s: gain %v", name, gain)
		}
	}
}

// seenSometime looks along the sides of a fixture for a place that is in the
// room and that nothing covers.
func seenSometime(w world, fix fixture, frames int) bool {
	for i, c := range fix.Corners {
		along := fix.Corners[(i+1)%len(fix.Corners)].Sub(c)
		for part := range 101 {
			p := c.Add(along.Scale(float64(part) / 100))
			if min(p.X, p.Y) < 0 || max(p.X, p.Y) > 1 {
				continue
			}
			for f := range frames {
				if !slices.ContainsFunc(w.Occluders, func(o occluder) bool { return o.covers(p, f) }) {
					return true
				}
			}
		}
	}
	return false
}

// checkNoOverlap checks that no object leaves the frame, enters a fixture
// further than the physics lets it, or, apart from a tolerance, another object.
func checkNoOverlap(t *testing.T, name string, w world, tolerance float64) {
	t.Helper()
	const entered = 0.015 // frame widths; a pixel at 64 px
	for i, a := range w.Objects {
		for f := range a.Path {
			p := a.at(f)
			reach := a.Radius * 0.5 // even a triangle's side is as far from its centre
			if p.X < reach || p.X > 1-reach || p.Y < reach || p.Y > w.ground()-reach+entered {
				t.Fatalf("%s: object at %+v with radius %v leaves the room", name, p, a.Radius)
			}
			pw := w.physics()
			body := a.body(p, a.Path[f][2])
			pw.Bodies = append(pw.Bodies, body)
			if d := pw.Overlap(); d > entered {
				t.Fatalf("%s: object %d (%s) lies %v in a fixture in frame %d", name, i, a.Shape, d, f)
			}
			for _, b := range w.Objects[:i] {
				if tolerance == 0 {
					if d := distance(p, b.at(f)); d < a.Radius+b.Radius {
						t.Fatalf("%s: objects overlap in frame %d", name, f)
					}
					continue
				}
				pair := world{}.physics()
				pair.Bodies = append(pair.Bodies, body, b.body(b.at(f), b.Path[f][2]))
				if d := pair.Overlap(); d > tolerance {
					t.Fatalf("%s: objects overlap by %v in frame %d", name, d, f)
				}
			}
		}
	}
}

// checkView checks by the corners of the target's box what an occluder covers.
func checkView(t *testing.T, name string, occluded bool, g group, frames int) {
	t.Helper()
	if x, y := g.targets[0], g.targets[1]; x != nil && y != nil && !reflect.DeepEqual(x.Path, y.Path) {
		before, after := countAround(frames, g.Event, func(f int) bool { return distance(x.at(f), y.at(f)) >= x.Radius })
		if min(before, after) < frames/8 {
			t.Errorf("%s: the ways of the targets differ for %d frames before and %d after the event", name, before, after)
		}
	}
	for i, target := range g.targets {
		if target == nil {
			continue
		}
		covered := func(frame int) (corners int) {
			p := target.at(frame)
			for _, c := range unitSquare {
				for _, o := range g.Worlds[i].Occluders {
					if o.covers(p.Add(c.Scale(target.Radius)), frame) {
						corners++
						break
					}
				}
			}
			return corners
		}
		if !occluded {
			for f := g.Event - 3; f < g.Event+3; f++ {
				if covered(f) != 0 {
					t.Errorf("%s: the target is covered in frame %d, event %d", name, f, g.Event)
				}
			}
			continue
		}
		if covered(g.Event-1) != 4 || covered(g.Event) != 4 {
			t.Errorf("%s: the target is not hidden at the event", name)
		}
		before, after := countAround(frames, g.Event, func(f int) bool { return covered(f) == 0 })
		if min(before, after) < frames/8 {
			t.Errorf("%s: the target is in full view for %d frames before and %d after the event", name, before, after)
		}
	}
}

// Scenes for training keep their objects in the room and out of each other, and
// hold what the groups test.
func TestPlayHoldsThePhysics(t *testing.T) {
	for _, difficulty := range Difficulties() {
		var met, rested, rolled, fell, hidden int
		for number := range 60 {
			name := fmt.Sprintf("%s clip %d", difficulty, number)
			w, err := samplePlay(stream("play", 2, number), levels[difficulty], 32)
			if err != nil {
				t.Fatal(err)
			}
			l := levels[difficulty]
			checkLevel(t, name, w, l, 32, "")
			checkNoOverlap(t, name, w, 0.03)
			for i, o := range w.Objects {
				moved := false
				for f := range 31 {
					d := o.at(f + 1).Sub(o.at(f))
					moved = moved || d.Len() > 1e-4
					if f < 30 && o.at(f+2).Sub(o.at(f+1)).Y-d.Y > 0.9*w.Gravity {
						fell++
					}
					if o.Shape == "disc" && math.Abs(d.Y) < 1e-4 && math.Abs(d.X) > 0.005 && math.Abs(o.Path[f+1][2]-o.Path[f][2]) > 0.01 {
						rolled++
					}
					if w.hidden(o, f) {
						hidden++
					}
					for _, x := range w.Objects[:i] {
						if distance(o.at(f), x.at(f)) < o.Radius+x.Radius {
							met++
						}
					}
				}
				if !moved {
					rested++
				}
			}
		}
		if fell == 0 || rolled == 0 || rested == 0 || hidden == 0 || (met == 0 && levels[difficulty].maxObjects > 1) {
			t.Errorf("%s: of falling %d, rolling %d, resting %d, hidden %d, meeting %d something is missing", difficulty, fell, rolled, rested, hidden, met)
		}
	}
}

// A property that cannot be shown is named.
func TestFailedDrawsNameTheProperty(t *testing.T) {
	tooLarge := levels[easy]
	tooLarge.minRadius, tooLarge.maxRadius = 2, 2
	for _, property := range Properties() {
		if _, err := sampleGroup(stream("test", 1, 0), tooLarge, property, 32); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", property)) {
			t.Errorf("error %v, want one that names %s", err, property)
		}
	}
	if _, err := samplePlay(stream("test", 1, 0), tooLarge, 32); err == nil {
		t.Error("a scene of objects larger than the room")
	}
}

// Physics does not depend on the number of frames a clip is cut into.
func TestMotionDoesNotDependOnFrames(t *testing.T) {
	o := object{Shape: "disc", Radius: 0.1, Restitution: 1}
	end := func(frames int) point {
		s := &sampler{rng: stream("test", 1, 1), level: levels[easy], time: newTimeline(frames)}
		w := s.room()
		w.Gravity = 7.0 / float64(frames*frames)
		begin := start{o, pose{0.3, 0.4, 0}}
		begin.Velocity = point{X: 0.5 / float64(frames)}
		moved, _, _ := w.run(s.time, begin, 0)
		return moved.at(frames / 2)
	}
	if d := distance(end(32), end(128)); d > 0.01 {
		t.Errorf("after half a clip of 32 and of 128 frames the object is %v apart", d)
	}
}

// The same seed gives the same worlds, another seed, number, purpose or
// difficulty others.
func TestStreamsAreReproducibleAndDisjoint(t *testing.T) {
	seen := make(map[string]string) // worlds as JSON, to where they were seen
	add := func(where string, w world) {
		text, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if at, ok := seen[string(text)]; ok {
			t.Errorf("%s shows the world of %s", where, at)
		}
		seen[string(text)] = where
	}
	for _, o := range []Options{{Seed: 7}, {Seed: 8}, {Seed: 7, Difficulty: easy}} {
		o.Dir, o.Clips, o.Pairs = "unused", 40, 64
		o = o.withDefaults()
		for task := range o.Clips + o.Pairs/2 {
			videos, err := o.plan(task)
			if err != nil {
				t.Fatal(err)
			}
			again, err := o.plan(task)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(videos, again) {
				t.Fatalf("task %d with seed %d: not the same twice", task, o.Seed)
			}
			for _, v := range videos {
				if task < o.Clips && (v.Label != possible || v.After != nil) {
					t.Errorf("%s: a training clip with an impossible event", v.Path)
				}
				if (v.After == nil) != (v.Label == possible) {
					t.Errorf("%s: label %d, but impossible is %v", v.Path, v.Label, v.After != nil)
				}
				if v.Label == possible {
					add(fmt.Sprintf("%s, seed %d, %s", v.Path, o.Seed, o.Difficulty), v.World)
				}
			}
		}
	}
}

// What a group shows does not depend on which other properties are asked for.
func TestGroupsDoNotDependOnOtherProperties(t *testing.T) {
	const asked = "continuity"
	all := Options{Dir: "unused", Pairs: 64, Seed: 3}.withDefaults()
	one := Options{Dir: "unused", Pairs: 4, Seed: 3, Properties: []string{asked}}.withDefaults()
	want, err := one.planGroup(1)
	if err != nil {
		t.Fatal(err)
	}
	n := len(all.Properties)
	got, err := all.planGroup(n + slices.Index(all.Properties, asked))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("group %s differs from group %s", got[0].Group, want[0].Group)
	}
}

// Colours must be far enough apart that a change is plain to see.
func TestPaletteColoursAreFarApart(t *testing.T) {
	for i, a := range palette {
		for _, b := range palette[:i] {
			var square float64
			for c := range 3 {
				d := float64(a.rgb[c]) - float64(b.rgb[c])
				square += d * d
			}
			if d := math.Sqrt(square); d < 80 {
				t.Errorf("%s and %s are %.0f apart, want at least 80", a.name, b.name, d)
			}
		}
	}
}
