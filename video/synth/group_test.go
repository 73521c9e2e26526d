package synth

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A body stays within its walls, never moves faster than its speed, and moves
// at exactly its speed, so with all its energy, where it meets no wall.
func TestBodyKeepsItsEnergyAndBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		velocity := point{rapid.Float64Range(-0.3, 0.3).Draw(t, "vx"), rapid.Float64Range(-0.3, 0.3).Draw(t, "vy")}
		pinned := point{rapid.Float64Range(0.1, 0.9).Draw(t, "x"), rapid.Float64Range(0.1, 0.9).Draw(t, "y")}
		frame := rapid.Float64Range(0, 64).Draw(t, "frame")
		b := through(pinned, velocity, frame, point{0.1, 0.1}, point{0.9, 0.9})
		const rounding = 1e-9
		if d := distance(b.at(frame), pinned); d > rounding {
			t.Fatalf("at frame %v the body is %v from where it must be", frame, d)
		}
		speed := math.Hypot(velocity.X, velocity.Y)
		if s := math.Hypot(b.Velocity.X, b.Velocity.Y); math.Abs(s-speed) > rounding {
			t.Fatalf("speed %v, want %v", s, speed)
		}
		// The path in small steps: pinned velocity holds at the pinned frame.
		const step = 1.0 / 64
		for f := 0.0; f < 64; f += step {
			p, q := b.at(f), b.at(f+step)
			if p.X < 0.1 || p.X > 0.9 || p.Y < 0.1 || p.Y > 0.9 {
				t.Fatalf("at frame %v the body is at %+v, outside its walls", f, p)
			}
			for _, axis := range [][3]float64{{p.X, q.X, velocity.X}, {p.Y, q.Y, velocity.Y}} {
				moved, most := math.Abs(axis[1]-axis[0]), math.Abs(axis[2])*step
				nearWall := min(axis[0], axis[1]) < 0.1+most || max(axis[0], axis[1]) > 0.9-most
				if moved > most+rounding || !nearWall && moved < most-rounding {
					t.Fatalf("from frame %v the body moves %v in %v frames, want %v", f, moved, step, most)
				}
			}
		}
		before, after := b.at(frame-step), b.at(frame+step)
		if clear := 0.1 + 0.3*step; pinned.X > clear && pinned.X < 1-clear && frame > step {
			if got := (after.X - before.X) / (2 * step); math.Abs(got-velocity.X) > 1e-6 {
				t.Fatalf("velocity at the pinned frame is %v, want %v", got, velocity.X)
			}
		}
	})
}

// Every group shows its event as its property demands, and nothing else.
func TestGroupsKeepTheirPromises(t *testing.T) {
	for _, property := range Properties() {
		for _, frames := range []int{16, 32, 61} {
			for number := range 20 {
				name := fmt.Sprintf("%s, %d frames, number %d", property, frames, number)
				g, err := sampleGroup(stream("test "+property, 5, number), property, frames)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				checkGroup(t, name, g, frames)
			}
		}
	}
}

func checkGroup(t *testing.T, name string, g group, frames int) {
	t.Helper()
	kind, occluded := strings.CutSuffix(g.Property, occludedSuffix)
	if g.Event < frames/3 || g.Event > frames*2/3 {
		t.Errorf("%s: event in frame %d", name, g.Event)
	}
	if !reflect.DeepEqual(g.Worlds[0].Background, g.Worlds[1].Background) || !reflect.DeepEqual(g.Worlds[0].Occluders, g.Worlds[1].Occluders) {
		t.Errorf("%s: the worlds differ in background or occluders", name)
	}
	for _, w := range g.Worlds {
		if n := len(w.Objects); n < 1 || n > 3 {
			t.Errorf("%s: %d objects in a world, want 1 to 3", name, n)
		}
		checkNoOverlap(t, name, w, frames)
	}

	// All but the target is the same in both worlds.
	a, b := g.Worlds[0].Objects, g.Worlds[1].Objects
	if kind == permanence {
		if len(a) < len(b) {
			a, b = b, a
		}
		if len(a) != len(b)+1 || !reflect.DeepEqual(a[:len(b)], b) {
			t.Errorf("%s: the worlds differ by more than one object", name)
		}
	} else {
		last := len(a) - 1
		if len(a) != len(b) || !reflect.DeepEqual(a[:last], b[:last]) {
			t.Fatalf("%s: the worlds differ by more than the target", name)
		}
		x, y := a[last], b[last]
		switch kind {
		case colour:
			if x.Colour == y.Colour {
				t.Errorf("%s: the colour does not change", name)
			}
			y.Colour = x.Colour
		case shape:
			if x.Shape == y.Shape {
				t.Errorf("%s: the shape does not change", name)
			}
			y.Shape = x.Shape
		case continuity:
			if d := distance(x.at(float64(g.Event)), y.at(float64(g.Event))); d < 2*x.Radius {
				t.Errorf("%s: a jump of %v with radius %v", name, d, x.Radius)
			}
			y.body = x.body
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("%s: the targets differ by more than the property: %+v, %+v", name, x, y)
		}
	}

	for i, target := range g.targets {
		if target == nil {
			continue
		}
		// Corner points of the target's box, against each occluder.
		covered := func(frame int) (corners int) {
			p := target.at(float64(frame))
			for _, dx := range []float64{-1, 1} {
				for _, dy := range []float64{-1, 1} {
					for _, o := range g.Worlds[i].Occluders {
						c := o.at(float64(frame))
						if math.Abs(p.X+dx*target.Radius-c.X) < o.HalfWidth && math.Abs(p.Y+dy*target.Radius-c.Y) < o.HalfHeight {
							corners++
							break
						}
					}
				}
			}
			return corners
		}
		if occluded {
			if covered(g.Event-1) != 4 || covered(g.Event) != 4 {
				t.Errorf("%s: the target is not hidden at the event", name)
			}
			before, after := 0, 0
			for f := range frames {
				if covered(f) == 0 && f < g.Event {
					before++
				} else if covered(f) == 0 {
					after++
				}
			}
			if before < frames/8 || after < frames/8 {
				t.Errorf("%s: the target is in full view for %d frames before and %d after the event", name, before, after)
			}
		} else {
			for f := g.Event - 3; f < g.Event+3; f++ {
				if covered(f) != 0 {
					t.Errorf("%s: the target is covered in frame %d, event %d", name, f, g.Event)
				}
			}
		}
	}
}

func checkNoOverlap(t *testing.T, name string, w world, frames int) {
	t.Helper()
	for f := range frames {
		for i, a := range w.Objects {
			p := a.at(float64(f))
			if min(p.X, p.Y) < a.Radius-1e-9 || max(p.X, p.Y) > 1-a.Radius+1e-9 {
				t.Fatalf("%s: object at %+v with radius %v leaves the frame", name, p, a.Radius)
			}
			for _, b := range w.Objects[:i] {
				if d := distance(p, b.at(float64(f))); d < a.Radius+b.Radius {
					t.Fatalf("%s: objects overlap in frame %d", name, f)
				}
			}
		}
	}
}

// The same seed gives the same worlds, another seed, number or purpose others.
func TestStreamsAreReproducibleAndDisjoint(t *testing.T) {
	o := Options{Dir: "unused", Clips: 40, Pairs: 160, Seed: 7}.withDefaults()
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
	for _, seed := range []uint64{7, 8} {
		o.Seed = seed
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
				t.Fatalf("task %d with seed %d: not the same twice", task, seed)
			}
			for _, v := range videos {
				if task < o.Clips && (v.Label != possible || v.After != nil) {
					t.Errorf("%s: a training clip with an impossible event", v.Path)
				}
				if (v.After == nil) != (v.Label == possible) {
					t.Errorf("%s: label %d, but impossible is %v", v.Path, v.Label, v.After != nil)
				}
				if v.Label == possible {
					add(fmt.Sprintf("%s, seed %d", v.Path, seed), v.World)
				}
			}
		}
	}
}

// What a group shows does not depend on which other properties are asked for.
func TestGroupsDoNotDependOnOtherProperties(t *testing.T) {
	all := Options{Dir: "unused", Pairs: 32, Seed: 3}.withDefaults()
	one := Options{Dir: "unused", Pairs: 4, Seed: 3, Properties: []string{continuity}}
	one = one.withDefaults()
	want, err := one.planGroup(1)
	if err != nil {
		t.Fatal(err)
	}
	n := len(all.Properties)
	for i, p := range all.Properties {
		if p != continuity {
			continue
		}
		got, err := all.planGroup(n + i)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("group %s differs from group %s", got[0].Group, want[0].Group)
		}
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
