package synth

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A group is a pair of possible worlds that share everything but the state of
// one object, the target: room, background, light, camera, occluders and the
// other objects are the same. Its four videos are both worlds, and both changed
// one into the other at the event frame: each frame of an impossible video is
// that frame of a possible one, so no single frame tells them apart (IntPhys,
// arXiv:1803.07616). What is impossible is only the way from the state before
// the event to the one after it; see property.
type group struct {
	Property string
	Event    int      // first frame of the changed state
	Worlds   [2]world // both possible
	targets  [2]*object
}

// Draws of scenes, and of occluders for each, before giving up.
const (
	maxScenes     = 4000 // seen to take up to 60
	occluderTries = 4
	viewAround    = 3 // frames before and after a visible event in which the target is in full view
	shareInView   = 8 // the target of an occluded event is in full view for a frames/shareInView before and after
)

// sampleGroup draws worlds until one shows the event as its property demands.
func sampleGroup(rng *rand.Rand, l level, name string, frames int) (group, error) {
	kind, occluded := strings.CutSuffix(name, occludedSuffix)
	i := slices.IndexFunc(properties, func(p property) bool { return p.name == kind })
	s := &sampler{rng: rng, level: l, time: newTimeline(frames)}
	for range maxScenes {
		if g, ok := s.group(properties[i], occluded); ok {
			g.Property = name
			return g, nil
		}
	}
	return group{}, fmt.Errorf("no scene for property %q found in %d draws with %d frames a clip", name, maxScenes, frames)
}

func (s *sampler) group(p property, occluded bool) (group, bool) {
	frames := s.time.frames
	event := frames/3 + s.rng.IntN(frames/3+1)
	scene := s.room()
	targets, ok := p.sample(s, &scene, event, occluded)
	if !ok {
		return group{}, false
	}
	seen := present(targets)
	if !s.hide(&scene, seen, event, occluded, p.trajectory) || !s.addOthers(&scene, seen) {
		return group{}, false
	}
	s.look(&scene)

	if s.coin() { // which world comes first must not tell either
		targets[0], targets[1] = targets[1], targets[0]
	}
	g := group{Event: event, Worlds: [2]world{scene, scene}, targets: targets}
	for i, target := range targets {
		if target != nil {
			g.Worlds[i].Objects = append(slices.Clone(scene.Objects), *target)
		}
	}
	return g, true
}

// present lists the targets that are there; with permanence one is not.
func present(targets [2]*object) []object {
	var out []object
	for _, t := range targets {
		if t != nil {
			out = append(out, *t)
		}
	}
	return out
}

// hide puts up occluders: over the event, or so that it stays in view. It
// reports false if the targets are not then seen as they must.
func (s *sampler) hide(w *world, targets []object, event int, occluded, trajectory bool) bool {
	for range occluderTries {
		w.Occluders = w.Occluders[:0:0]
		switch {
		case !occluded:
			s.addOccluders(w)
		case len(targets) == 2 && distance(targets[0].before(event), targets[1].before(event)) > 4*targets[0].Radius:
			for i := range targets {
				w.Occluders = append(w.Occluders, s.occluderOver(targets[i:i+1], event, i < s.minMoving || s.coin()))
			}
		default:
			w.Occluders = append(w.Occluders, s.occluderOver(targets, event, s.minMoving > 0 || s.coin()))
			for len(w.Occluders) < s.minOccluders {
				w.Occluders = append(w.Occluders, s.occluder(s.coin()))
			}
		}
		if w.shows(targets, event, occluded, trajectory) {
			return true
		}
	}
	return false
}

// shows reports whether the targets are seen as a group demands. Each is in
// full view from three frames before the event to three after; or hidden across
// it, and in full view for an eighth of the clip both before and after. Targets
// on different ways are, for as long both before and after, in view and far
// enough apart, so that what went in does not fit what comes out. Of a barrier
// some part is in view at the event, and of every fixture at some time.
func (w world) shows(targets []object, event int, occluded, trajectory bool) bool {
	frames := len(targets[0].Path)
	for _, x := range targets {
		if !occluded {
			for f := event - viewAround; f < event+viewAround; f++ {
				if !w.visible(x, f) {
					return false
				}
			}
			continue
		}
		if !w.hidden(x, event-1) || !w.hidden(x, event) {
			return false
		}
		before, after := countAround(frames, event, func(f int) bool { return w.visible(x, f) })
		if min(before, after) < frames/shareInView {
			return false
		}
	}
	if trajectory {
		before, after := countAround(frames, event, func(f int) bool {
			a, b := targets[0], targets[1]
			return w.visible(a, f) && w.visible(b, f) && distance(a.at(f), b.at(f)) >= minDetour*a.Radius
		})
		if min(before, after) < frames/shareInView {
			return false
		}
	}
	if barrier, ok := w.find("barrier"); ok {
		if !w.looksOut(barrier, event-1) || !w.looksOut(barrier, event) {
			return false
		}
	}
	return w.fixturesShow(frames)
}

// fixturesShow reports whether no fixture is hidden for the whole clip: what
// turns an object must be there to be seen.
func (w world) fixturesShow(frames int) bool {
	shows := func(f fixture) bool {
		for frame := range frames {
			for _, c := range f.Corners {
				inRoom := point{X: min(max(c.X, wall), 1-wall), Y: min(max(c.Y, wall), w.ground())}
				if !slices.ContainsFunc(w.Occluders, func(o occluder) bool { return o.covers(inRoom, frame) }) {
					return true
				}
			}
		}
		return false
	}
	return !slices.ContainsFunc(w.Fixtures, func(f fixture) bool { return !shows(f) })
}

// countAround counts the frames before and from the event on for which something holds.
func countAround(frames, event int, holds func(frame int) bool) (before, after int) {
	for f := range frames {
		if !holds(f) {
			continue
		}
		if f < event {
			before++
		} else {
			after++
		}
	}
	return before, after
}

// looksOut reports whether an end of a barrier that objects cannot reach, its
// upper side or one of its sides, is in view.
func (w world) looksOut(barrier fixture, frame int) bool {
	inView := func(a, b point) bool {
		for _, o := range w.Occluders {
			if o.covers(a, frame) || o.covers(b, frame) {
				return false
			}
		}
		return true
	}
	c := barrier.Corners
	if c[1].X-c[0].X < c[3].Y-c[0].Y { // standing
		return inView(c[0], c[1])
	}
	return inView(c[0], c[3]) || inView(c[1], c[2])
}

// other draws one of the choices that is not x.
func other(rng *rand.Rand, x string, choices []string) string {
	for {
		if c := pick(rng, choices); c != x {
			return c
		}
	}
}
