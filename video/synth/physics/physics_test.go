package physics

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The worlds of these tests are a unit box in which a fall from top to bottom
// takes half a unit of time, as in a clip.
const (
	gravity = 8.0
	dt      = 1.0 / 512
	// maxOverlap is what the fastest corners here, of 6 widths per unit of
	// time, cover in a step, twice over where two of them meet.
	maxOverlap = 2 * 6 * dt
)

var box = []Vec{{-1, -1}, {1, -1}, {1, 1}, {-1, 1}}

func scaled(corners []Vec, s float64) []Vec {
	out := make([]Vec, len(corners))
	for i, c := range corners {
		out[i] = c.Scale(s)
	}
	return out
}

func room() World {
	w := World{Gravity: Vec{0, gravity}}
	for _, p := range []Vec{{0.5, -1}, {0.5, 2}, {-1, 0.5}, {2, 0.5}} {
		w.Bodies = append(w.Bodies, Polygon(p, box).Fixed())
	}
	return w
}

// ramp is a right triangle in the lower left corner of the room, falling to the right.
func ramp() Body {
	corners := []Vec{{-0.15, -0.2}, {0.3, 0.1}, {-0.15, 0.1}}
	return Polygon(Vec{0.15, 0.9}, corners).Fixed()
}

var outlines = map[string][]Vec{
	"square":   {{-0.7, -0.7}, {0.7, -0.7}, {0.7, 0.7}, {-0.7, 0.7}},
	"triangle": {{0, -1}, {math.Sqrt(3) / 2, 0.5}, {-math.Sqrt(3) / 2, 0.5}},
}

// fill puts n bodies into the world, clear of everything.
func fill(rng *rand.Rand, w *World, n int, kinds ...string) {
	for n > 0 {
		at, radius := Vec{0.15 + 0.7*rng.Float64(), 0.15 + 0.7*rng.Float64()}, 0.05+0.07*rng.Float64()
		b := Disc(at, radius)
		if kind := kinds[rng.IntN(len(kinds))]; kind != "disc" {
			b = Polygon(at, scaled(outlines[kind], radius))
			b.Angle, b.Spin = 2*math.Pi*rng.Float64(), 4*rng.NormFloat64()
		}
		b.Velocity = Vec{rng.NormFloat64(), rng.NormFloat64()}
		b.Restitution = 1
		w.Bodies = append(w.Bodies, b)
		if w.Overlap() > 0 {
			w.Bodies = w.Bodies[:len(w.Bodies)-1]
			continue
		}
		n--
	}
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// Without friction and with restitution 1 a disc keeps its energy but for
// rounding, on the ground, at walls and on a ramp. Among several, in steps in
// which more than two meet at once, a little is lost.
func TestElasticDiscsKeepTheirEnergy(t *testing.T) {
	for seed := range uint64(20) {
		w := room()
		w.Bodies = append(w.Bodies, ramp())
		discs, tolerance := 1+int(seed%4), 1e-9
		if discs > 1 {
			tolerance = 1e-3
		}
		fill(random(seed), &w, discs, "disc")
		want := w.Energy(dt)
		for step := range 4096 {
			w.Step(dt)
			if got := w.Energy(dt); math.Abs(got-want) > tolerance*math.Abs(want) {
				t.Fatalf("seed %d: energy %v after %d steps, %v at the start", seed, got, step+1, want)
			}
		}
	}
}

// Whatever the restitution, friction and shapes, energy never grows, but for a hundred-
// thousandth of what there is, and bodies stay apart and in the room.
func TestEnergyNeverGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := room()
		if rapid.Bool().Draw(t, "ramp") {
			w.Bodies = append(w.Bodies, ramp())
		}
		fixed := len(w.Bodies)
		fill(random(rapid.Uint64().Draw(t, "seed")), &w, rapid.IntRange(1, 4).Draw(t, "bodies"), "disc", "square", "triangle")
		for i := fixed; i < len(w.Bodies); i++ {
			w.Bodies[i].Restitution = rapid.Float64Range(0, 1).Draw(t, "restitution")
			w.Bodies[i].Friction = rapid.Float64Range(0, 1).Draw(t, "friction")
		}
		least := w.Energy(dt)
		scale := math.Abs(least)
		for _, b := range w.Bodies {
			scale += b.Mass * gravity
		}
		for step := range 1024 {
			w.Step(dt)
			e := w.Energy(dt)
			if e > least+1e-5*scale {
				t.Fatalf("step %d: energy grows from %v to %v", step, least, e)
			}
			least = min(least, e)
			if d := w.Overlap(); d > maxOverlap {
				t.Fatalf("step %d: bodies overlap by %v", step, d)
			}
		}
		for _, b := range w.Bodies[fixed:] {
			if p := b.Position; min(p.X, p.Y) < 0 || max(p.X, p.Y) > 1 {
				t.Fatalf("a body left the room: %+v", p)
			}
		}
	})
}

// A dropped disc comes back to restitution² of its height.
func TestBouncesLoseWhatRestitutionSays(t *testing.T) {
	for _, restitution := range []float64{1, 0.8, 0.5, 0} {
		w := room()
		const radius, height = 0.1, 0.6
		b := Disc(Vec{0.5, 1 - radius - height}, radius)
		b.Restitution = restitution
		w.Bodies = append(w.Bodies, b)
		best, bounced := 0.0, false
		for range 512 {
			w.Step(dt)
			bounced = bounced || w.Touched(4)
			if bounced && w.Bodies[4].Velocity.Y < 0 {
				best = max(best, 1-radius-w.Bodies[4].Position.Y)
			}
		}
		if want := restitution * restitution * height; !bounced || math.Abs(best-want) > 0.02*height {
			t.Errorf("restitution %v: comes back to %v, want %v", restitution, best, want)
		}
	}
}

// Bodies that lie on the ground, on each other and on a platform stay there.
func TestRestingBodiesStay(t *testing.T) {
	w := room()
	w.Bodies = append(w.Bodies, Polygon(Vec{0.8, 0.7}, []Vec{{-0.2, -0.02}, {0.2, -0.02}, {0.2, 0.02}, {-0.2, 0.02}}).Fixed())
	fixed := len(w.Bodies)
	square := Polygon(Vec{0.2, 0.93}, scaled(box, 0.07))
	w.Bodies = append(w.Bodies, square, square, Disc(Vec{0.45, 0.9}, 0.1), Disc(Vec{0.8, 0.6}, 0.08))
	w.Bodies[fixed+1].Position.Y -= 0.14
	for i := range w.Bodies[fixed:] {
		w.Bodies[fixed+i].Friction, w.Bodies[fixed+i].Restitution = 0.5, 0.5
	}
	start := slices.Clone(w.Bodies)
	for range 2048 {
		w.Step(dt)
	}
	for i, b := range w.Bodies {
		// A stack settles by what gravity gives in a step.
		if d := b.Position.Sub(start[i].Position).Len(); d > 1e-4 || math.Abs(b.Angle) > 1e-3 {
			t.Errorf("body %d moved by %v and turned by %v", i, d, b.Angle)
		}
	}
}

// A disc that rolls keeps its speed, and one that slides begins to roll: of its
// speed two thirds remain.
func TestDiscsRoll(t *testing.T) {
	w := World{Gravity: Vec{0, gravity}}
	w.Bodies = append(w.Bodies, Polygon(Vec{0, 100}, scaled(box, 100)).Fixed())
	const radius = 0.1
	rolling, sliding := Disc(Vec{0, -radius}, radius), Disc(Vec{50, -radius}, radius)
	rolling.Velocity, rolling.Spin, rolling.Friction = Vec{1, 0}, 1/radius, 0.5
	sliding.Velocity, sliding.Friction = Vec{1, 0}, 0.5
	w.Bodies = append(w.Bodies, rolling, sliding)
	for range 2048 {
		w.Step(dt)
	}
	if b := w.Bodies[1]; math.Abs(b.Velocity.X-1) > 1e-9 || math.Abs(b.Position.X-4) > 1e-9 {
		t.Errorf("a rolling disc has speed %v at %v, want 1 at 4", b.Velocity.X, b.Position.X)
	}
	if b := w.Bodies[2]; math.Abs(b.Velocity.X-2.0/3) > 1e-6 || math.Abs(b.Spin*radius-2.0/3) > 1e-6 {
		t.Errorf("a sliding disc has speed %v and turns with %v at its rim, want 2/3", b.Velocity.X, b.Spin*radius)
	}
}

// A disc rolls down a slope of 30° with two thirds of g·sin 30°.
func TestDiscRollsDownASlope(t *testing.T) {
	w := World{Gravity: Vec{0, gravity}}
	slope := Polygon(Vec{}, scaled(box, 100))
	slope.Angle = math.Pi / 6
	down, out := Vec{math.Cos(slope.Angle), math.Sin(slope.Angle)}, Vec{math.Sin(slope.Angle), -math.Cos(slope.Angle)}
	start := out.Scale(100.1)
	disc := Disc(start, 0.1)
	disc.Friction = 1
	w.Bodies = append(w.Bodies, slope.Fixed(), disc)
	for range 512 {
		w.Step(dt)
	}
	got, want := w.Bodies[1].Position.Sub(start).Dot(down), gravity/2*2/3/2
	if math.Abs(got-want) > 0.01*want {
		t.Errorf("rolled %v in one unit of time, want %v", got, want)
	}
}

// Free flight is exact: the parabola of a throw at all steps.
func TestFlightIsExact(t *testing.T) {
	w := World{Gravity: Vec{0, gravity}, Bodies: []Body{Disc(Vec{}, 0.1)}}
	v := Vec{1, -2}
	w.Bodies[0].Velocity = v.Sub(w.Gravity.Scale(dt / 2))
	for step := 1; step <= 512; step++ {
		w.Step(dt)
		time := float64(step) * dt
		want := v.Scale(time).Add(w.Gravity.Scale(time * time / 2))
		if d := w.Bodies[0].Position.Sub(want).Len(); d > 1e-12 {
			t.Fatalf("step %d: %v away from the parabola", step, d)
		}
	}
}

// Time runs back along the way it came, through all bounces of a disc.
func TestReverseLeadsBack(t *testing.T) {
	for seed := range uint64(20) {
		w := room()
		fill(random(seed), &w, 1, "disc")
		start := w.Bodies[4].Position
		for range 512 {
			w.Step(dt)
		}
		w.Reverse(dt)
		for range 512 {
			w.Step(dt)
		}
		if d := w.Bodies[4].Position.Sub(start).Len(); d > 1e-9 {
			t.Errorf("seed %d: came back %v away from the start", seed, d)
		}
	}
}

// The mirror image of a world stays its mirror image.
func TestMirroredWorldsMirror(t *testing.T) {
	mirror := func(w World) World {
		m := World{Gravity: w.Gravity}
		for _, b := range w.Bodies {
			b.Position.X, b.Velocity.X, b.Angle, b.Spin = 1-b.Position.X, -b.Velocity.X, -b.Angle, -b.Spin
			corners := slices.Clone(b.Corners)
			for i := range corners {
				corners[i].X = -corners[i].X
			}
			slices.Reverse(corners)
			b.Corners = corners
			if len(corners) == 0 {
				b.Corners = nil
			}
			m.Bodies = append(m.Bodies, b)
		}
		return m
	}
	for seed := range uint64(10) {
		w := room()
		w.Bodies = append(w.Bodies, ramp())
		fill(random(seed), &w, 2, "disc", "square", "triangle")
		for i := 5; i < len(w.Bodies); i++ {
			w.Bodies[i].Restitution, w.Bodies[i].Friction = 0.7, 0.3
		}
		m := mirror(w)
		for range 256 {
			w.Step(dt)
			m.Step(dt)
		}
		for i, b := range mirror(m).Bodies {
			if d := b.Position.Sub(w.Bodies[i].Position).Len(); d > 1e-6 {
				t.Errorf("seed %d: body %d is %v away from its mirror image", seed, i, d)
			}
		}
	}
}

// Equal worlds stay equal bit for bit, and bodies that never meet do not know of
// each other.
func TestStepsAreDeterministic(t *testing.T) {
	build := func() World {
		w := room()
		fill(random(3), &w, 4, "disc", "square", "triangle")
		return w
	}
	a, b := build(), build()
	alone := World{Gravity: a.Gravity, Bodies: []Body{Disc(Vec{}, 0.1)}}
	pair := World{Gravity: a.Gravity, Bodies: []Body{Disc(Vec{}, 0.1), Disc(Vec{5, 0}, 0.1)}}
	for range 1024 {
		a.Step(dt)
		b.Step(dt)
		alone.Step(dt)
		pair.Step(dt)
	}
	if !reflect.DeepEqual(a.Bodies, b.Bodies) {
		t.Error("the same world went two ways")
	}
	if !reflect.DeepEqual(alone.Bodies[0], pair.Bodies[0]) {
		t.Error("a distant body changed the way of another")
	}
}

// A step of a world whose bodies have all met before allocates nothing.
func TestStepDoesNotAllocate(t *testing.T) {
	w := room()
	fill(random(5), &w, 4, "disc", "square")
	for range 512 {
		w.Step(dt)
	}
	if n := testing.AllocsPerRun(100, func() { w.Step(dt) }); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}

func BenchmarkStep(b *testing.B) {
	w := room()
	w.Bodies = append(w.Bodies, ramp())
	fill(random(5), &w, 3, "disc", "square", "triangle")
	for b.Loop() {
		w.Step(dt)
	}
}
