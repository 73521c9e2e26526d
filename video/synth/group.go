package synth

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// The properties a group can test. Each has a variant in which the event
// happens in full view and one in which an occluder hides it.
const (
	permanence = "permanence" // things do not vanish or appear
	continuity = "continuity" // things do not jump
	colour     = "colour"     // things keep their colour
	shape      = "shape"      // things keep their shape

	occludedSuffix = "_occluded"
)

// Properties returns the names of all properties, in the order in which groups
// take turns.
func Properties() []string {
	var names []string
	for _, p := range []string{permanence, continuity, colour, shape} {
		names = append(names, p, p+occludedSuffix)
	}
	return names
}

// A group is a pair of possible worlds that share everything but the state of
// one object, the target. Its four videos are both worlds, and both changed one
// into the other at the event frame: each frame of an impossible video is a
// frame of a possible one, so no single frame tells them apart (IntPhys,
// arXiv:1803.07616).
type group struct {
	Property string
	Event    int      // first frame of the changed state
	Worlds   [2]world // both possible
	targets  [2]*object
}

// Ranges of the random worlds. Lengths are in frame widths.
const (
	minRadius, maxRadius       = 0.09, 0.13
	minTravel, maxTravel       = 0.7, 1.4 // way of an object over the clip
	minDrift, maxDrift         = 0.1, 0.5 // way of a moving occluder over the clip
	minHalfShort, maxHalfShort = 0.18, 0.24
	minHalfLong, maxHalfLong   = 0.24, 0.42
	minJump                    = 0.25 // of a continuity event
	maxOthers                  = 2    // objects beside the target
	maxScenes                  = 20000
	maxPaths                   = 20 // paths tried for one object
)

var shapes = []string{"disc", "square", "triangle", "cross"}

// sampleGroup draws worlds until one shows the event as its property demands.
func sampleGroup(rng *rand.Rand, property string, frames int) (group, error) {
	for range maxScenes {
		if g, ok := tryGroup(rng, property, frames); ok {
			return g, nil
		}
	}
	return group{}, fmt.Errorf("no scene for property %q found in %d draws with %d frames a clip", property, maxScenes, frames)
}

func tryGroup(rng *rand.Rand, property string, frames int) (group, bool) {
	event := frames/3 + rng.IntN(frames/3+1)
	kind, occluded := strings.CutSuffix(property, occludedSuffix)

	scene := world{Objects: []object{}, Occluders: []occluder{}} // [] in JSON, not null
	occluders := rng.IntN(2)
	if occluded {
		occluders = 1 + rng.IntN(2)
	}
	for range occluders {
		scene.Occluders = append(scene.Occluders, randomOccluder(rng, frames))
	}

	first := randomObject(rng)
	velocity := randomVelocity(rng, minTravel, maxTravel, frames)
	shown := func(x object) bool { return scene.shows(x, event, frames, occluded) }
	if !scene.findPath(rng, &first, velocity, event, occluded, 1, shown) {
		return group{}, false
	}
	second := first
	switch kind {
	case continuity:
		jumps := func(x object) bool {
			for f := event - frames/8; f <= event+frames/8; f++ {
				if distance(first.at(float64(f)), x.at(float64(f))) < minJump {
					return false
				}
			}
			return shown(x)
		}
		if !scene.findPath(rng, &second, velocity, event, occluded, maxPaths, jumps) {
			return group{}, false
		}
	case colour:
		second.Colour = other(rng, first.Colour, paletteNames())
	case shape:
		second.Shape = other(rng, first.Shape, shapes)
	}

	// With permanence one of the worlds lacks the target, and would be empty.
	others := rng.IntN(maxOthers + 1)
	if kind == permanence {
		others = max(others, 1)
	}
	for range others {
		o, ok := scene.placeOther(rng, first, second, frames)
		if !ok {
			return group{}, false
		}
		scene.Objects = append(scene.Objects, o)
	}

	scene.Background = randomBackground(rng)
	g := group{Property: property, Event: event, Worlds: [2]world{scene, scene}}
	g.targets[0] = &first
	if kind != permanence {
		g.targets[1] = &second
	}
	if rng.IntN(2) == 1 { // which world comes first must not tell either
		g.targets[0], g.targets[1] = g.targets[1], g.targets[0]
	}
	for i, target := range g.targets {
		if target != nil {
			g.Worlds[i].Objects = append(slices.Clone(scene.Objects), *target)
		}
	}
	return g, true
}

// shows reports whether the target is seen as the property demands: visible
// from three frames before the event to three after, or hidden across it and
// visible for an eighth of the clip both before and after.
func (w world) shows(target object, event, frames int, occluded bool) bool {
	if !occluded {
		for f := event - 3; f < event+3; f++ {
			if !w.visible(target, f) {
				return false
			}
		}
		return true
	}
	if !w.hidden(target, event-1) || !w.hidden(target, event) {
		return false
	}
	before, after := 0, 0
	for f := range frames {
		if w.visible(target, f) {
			if f < event {
				before++
			} else {
				after++
			}
		}
	}
	return before >= frames/8 && after >= frames/8
}

// findPath draws paths for an object, so many tries, until one is accepted. At the event the
// object lies behind an occluder, or anywhere.
func (w world) findPath(rng *rand.Rand, x *object, velocity point, event int, occluded bool, tries int, accept func(object) bool) bool {
	low, high := point{x.Radius, x.Radius}, point{1 - x.Radius, 1 - x.Radius}
	for range tries {
		p := point{between(rng, low.X, high.X), between(rng, low.Y, high.Y)}
		// The event falls between two frames; the path is pinned in the middle.
		frame := float64(event) - 0.5
		if occluded {
			o := w.Occluders[rng.IntN(len(w.Occluders))]
			c := o.at(frame)
			slackX, slackY := o.HalfWidth-x.Radius-clearance, o.HalfHeight-x.Radius-clearance
			p.X = min(max(c.X+between(rng, -slackX, slackX), low.X), high.X)
			p.Y = min(max(c.Y+between(rng, -slackY, slackY), low.Y), high.Y)
		}
		x.body = through(p, velocity, frame, low, high)
		if accept(*x) {
			return true
		}
	}
	return false
}

// placeOther draws an object that keeps clear of all others in both worlds.
func (w world) placeOther(rng *rand.Rand, first, second object, frames int) (object, bool) {
	clear := func(o object) bool {
		for _, x := range w.Objects {
			if !apart(o, x, frames) {
				return false
			}
		}
		return apart(o, first, frames) && apart(o, second, frames)
	}
	o := randomObject(rng)
	ok := w.findPath(rng, &o, randomVelocity(rng, minTravel, maxTravel, frames), 0, false, maxPaths, clear)
	return o, ok
}

func randomObject(rng *rand.Rand) object {
	return object{
		Shape:  shapes[rng.IntN(len(shapes))],
		Colour: palette[rng.IntN(len(palette))].name,
		Radius: between(rng, minRadius, maxRadius),
	}
}

// randomVelocity is in frame widths per frame, for a way given per clip.
func randomVelocity(rng *rand.Rand, low, high float64, frames int) point {
	speed := between(rng, low, high) / float64(frames)
	sin, cos := math.Sincos(between(rng, 0, 2*math.Pi))
	return point{speed * cos, speed * sin}
}

// randomOccluder is upright or lying, still or moving, dark or light.
func randomOccluder(rng *rand.Rand, frames int) occluder {
	o := occluder{
		HalfWidth:  between(rng, minHalfShort, maxHalfShort),
		HalfHeight: between(rng, minHalfLong, maxHalfLong),
	}
	if rng.IntN(2) == 1 {
		o.HalfWidth, o.HalfHeight = o.HalfHeight, o.HalfWidth
	}
	o.Low, o.High = point{0.15, 0.15}, point{0.85, 0.85}
	o.Start = point{between(rng, o.Low.X, o.High.X), between(rng, o.Low.Y, o.High.Y)}
	if rng.IntN(2) == 1 {
		o.Velocity = randomVelocity(rng, minDrift, maxDrift, frames)
	}
	shade := 20 + rng.IntN(20)
	if rng.IntN(2) == 1 {
		shade = 165 + rng.IntN(20)
	}
	o.Colour = muted(rng, shade)
	return o
}

func randomBackground(rng *rand.Rand) background {
	shade := 60 + rng.IntN(50)
	b := background{
		From: muted(rng, shade-rng.IntN(25)),
		To:   muted(rng, shade+5+rng.IntN(25)),
	}
	if rng.IntN(2) == 1 {
		b.Kind, b.Angle = "gradient", between(rng, 0, 2*math.Pi)
		return b
	}
	b.Kind, b.Cells = "texture", 4+rng.IntN(9)
	b.Shades = make([]uint8, b.Cells*b.Cells)
	for i := range b.Shades {
		b.Shades[i] = uint8(rng.IntN(256))
	}
	return b
}

// muted is a grey of the given shade with a slight tint, which no object has.
func muted(rng *rand.Rand, shade int) [3]uint8 {
	var rgb [3]uint8
	for i := range rgb {
		rgb[i] = uint8(min(max(shade+rng.IntN(25)-12, 0), 255))
	}
	return rgb
}

// other draws one of the choices that is not x.
func other(rng *rand.Rand, x string, choices []string) string {
	for {
		if c := choices[rng.IntN(len(choices))]; c != x {
			return c
		}
	}
}

func between(rng *rand.Rand, low, high float64) float64 {
	return low + rng.Float64()*(high-low)
}
