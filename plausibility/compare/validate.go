package compare

import (
	"errors"
	"fmt"
	"math"
)

// Validate checks everything later arithmetic relies on: matrices of the right
// shape, finite numbers that are not negative, labels of 0 or 1 and groups with both, or no labels at all, the digest of
// what was scored.
// Errors name the field, or the video and window.
func (f *File) Validate() error {
	if f.Version < oldestVersion || f.Version > Version {
		return versionError(f.Version)
	}
	if err := f.Spec.Validate(); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	if len(f.Videos) == 0 {
		return errors.New("videos: none")
	}
	if len(f.Videos) > maxVideos {
		return fmt.Errorf("videos: %d of them, at most %d", len(f.Videos), maxVideos)
	}
	switch f.Precision {
	case "", "fp32", "bf16", "tf32":
	default:
		return fmt.Errorf("precision: %q, want fp32, bf16 or tf32", f.Precision)
	}
	for i := range f.Videos {
		if err := f.Videos[i].validate(); err != nil {
			return fmt.Errorf("videos[%d] (%s): %w", i, f.Videos[i].Path, err)
		}
	}
	if err := f.validateGroups(); err != nil {
		return err
	}
	if digest := Digest(f.Videos); f.Data != digest {
		return fmt.Errorf("data_sha256: %s, but the list of videos makes %s: one of them was changed", shown(f.Data), digest)
	}
	if len(f.Sets) == 0 {
		return errors.New("sets: none")
	}
	seen := map[string]bool{}
	for i := range f.Sets {
		s := &f.Sets[i]
		if s.Name != ModelSet && s.Name != TwinSet && s.Name != CopySet {
			return fmt.Errorf("sets[%d].name: %q, want %q, %q or %q", i, s.Name, ModelSet, TwinSet, CopySet)
		}
		if seen[s.Name] {
			return fmt.Errorf("sets[%d].name: %q appears twice", i, s.Name)
		}
		seen[s.Name] = true
		if err := f.validateSet(s); err != nil {
			return fmt.Errorf("sets[%d] (%s): %w", i, s.Name, err)
		}
	}
	if !seen[ModelSet] {
		return fmt.Errorf("sets: no set named %q", ModelSet)
	}
	return f.validatePlaces()
}

// validateGroups checks that every group has both labels and one property, or that no video has a label.
func (f *File) validateGroups() error {
	unlabelled := f.Unlabelled()
	groups := map[string]*groupCheck{}
	for i, v := range f.Videos {
		if unlabelled != (v.Label == NoLabel) {
			return fmt.Errorf("videos[%d] (%s): label: %d, after one of %d; all videos have labels, or none", i, v.Path, v.Label, f.Videos[0].Label)
		}
		if unlabelled {
			continue
		}
		g := groups[v.Group]
		if g == nil {
			g = &groupCheck{property: v.Property}
			groups[v.Group] = g
		}
		if err := g.add(v.Label, v.Property); err != nil {
			return fmt.Errorf("videos[%d] (%s): group %q: %w", i, v.Path, v.Group, err)
		}
	}
	type pairing struct{ group, pair string }
	sides := map[pairing]*[2]int{} // videos by label
	for _, v := range f.Videos {
		if unlabelled {
			break
		}
		key := pairing{v.Group, v.Pair}
		if sides[key] == nil {
			sides[key] = new([2]int)
		}
		sides[key][v.Label]++
	}
	pairs := 0
	for _, n := range sides {
		pairs += n[0] * n[1]
	}
	if pairs > maxPairs {
		return fmt.Errorf("videos: they make %d pairs, at most %d: give the videos of a group the pairs they belong to", pairs, maxPairs)
	}
	for _, v := range f.Videos {
		if g := groups[v.Group]; g != nil {
			if err := g.complete(); err != nil {
				return fmt.Errorf("group %q: %w", v.Group, err)
			}
		}
	}
	return nil
}

type groupCheck struct {
	property string
	labels   [2]int
}

func (g *groupCheck) add(label int, property string) error {
	if property != g.property {
		return fmt.Errorf("property %q, but the group's first video has %q", property, g.property)
	}
	g.labels[label]++
	return nil
}

func (g *groupCheck) complete() error {
	switch {
	case g.labels[0]+g.labels[1] > MaxGroup:
		return fmt.Errorf("has %d videos, at most %d", g.labels[0]+g.labels[1], MaxGroup)
	case g.labels[0]+g.labels[1] < 2:
		return errors.New("has one video, want at least two")
	case g.labels[0] == 0:
		return errors.New("has no impossible video (label 0)")
	case g.labels[1] == 0:
		return errors.New("has no possible video (label 1)")
	}
	return nil
}

func (v *Video) validate() error {
	switch {
	case v.Label != 0 && v.Label != 1 && v.Label != NoLabel:
		return fmt.Errorf("label: %d, want 1 (possible), 0 (impossible) or %d (none)", v.Label, NoLabel)
	case v.Label == NoLabel && (v.Group != "" || v.Property != "" || v.Pair != "" || v.Divergence != nil):
		return fmt.Errorf("label: %d, but it has a group %q, a property %q, a pair %q or a divergence, which only videos with labels have", NoLabel, v.Group, v.Property, v.Pair)
	case v.Label != NoLabel && v.Group == "":
		return errors.New("group: empty")
	}
	if v.Frames < 0 {
		return fmt.Errorf("frames: %d, want 0 or more", v.Frames)
	}
	if v.First < 0 {
		return fmt.Errorf("first: frame %d, want 0 or more", v.First)
	}
	if len(v.WindowStart) == 0 || len(v.WindowStart) > maxWindows {
		return fmt.Errorf("window_start_s: %d windows, want 1 to %d", len(v.WindowStart), maxWindows)
	}
	for _, times := range [][]float64{v.WindowStart, v.TubeletStart} {
		for i, t := range times {
			if !finite(t) || i > 0 && t < times[i-1] {
				return fmt.Errorf("times: %g s at position %d, want finite and ascending seconds", t, i)
			}
		}
	}
	return nil
}

func (f *File) validateSet(s *Set) error {
	if len(s.Scores) != len(f.Videos) {
		return fmt.Errorf("scores: %d of them for %d videos", len(s.Scores), len(f.Videos))
	}
	for i := range s.Scores {
		v, sc := &f.Videos[i], &s.Scores[i]
		for _, m := range []struct {
			name   string
			values [][]float64
		}{{"surprise", sc.Surprise}, {"peak", sc.Peak}} {
			if err := f.validateMatrix(m.values, len(v.WindowStart)); err != nil {
				return fmt.Errorf("video %s: %s%w", v.Path, m.name, err)
			}
		}
		if len(sc.Curve) != len(v.TubeletStart) {
			return fmt.Errorf("video %s: curve: %d values for %d times", v.Path, len(sc.Curve), len(v.TubeletStart))
		}
		if sc.Contrast != nil && !(finite(sc.Contrast.Pair) && finite(sc.Contrast.Group)) {
			return fmt.Errorf("video %s: contrast: %g and %g, want finite numbers", v.Path, sc.Contrast.Pair, sc.Contrast.Group)
		}
		for t, x := range sc.Curve {
			if !finite(x) || x < 0 {
				return fmt.Errorf("video %s: curve: %g at %g s, want finite and not negative", v.Path, x, v.TubeletStart[t])
			}
		}
	}
	return nil
}

func (f *File) validateMatrix(m [][]float64, windows int) error {
	if len(m) != f.Spec.NumContexts() {
		return fmt.Errorf(": %d contexts, the spec has %d", len(m), f.Spec.NumContexts())
	}
	for c := range m {
		want := windows
		if f.Spec.Beginning {
			if f.Grid == nil || f.Grid.Tubelet < 1 {
				return errors.New(": with spec.beginning, but without the tubelet in grid")
			}
			shorter := func(c int) int { return (f.Spec.Contexts[c] - 1) / f.Grid.Tubelet } // how many ShorterContexts there are
			want -= shorter(len(f.Spec.Contexts)-1) - shorter(c)
		}
		if len(m[c]) != want || want < 1 {
			return fmt.Errorf("[%d]: %d windows, the video has %d", c, len(m[c]), want)
		}
		for w, x := range m[c] {
			if !finite(x) || x < 0 {
				return fmt.Errorf("[%d][%d]: %g, want finite and not negative", c, w, x)
			}
		}
	}
	return nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
