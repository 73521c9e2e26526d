package plausibility

import (
	"fmt"
	"slices"

	"github.com/surmise-ml/surmise/plausibility/compare"
)

// review enters what a score file's results should be read with: pairs whose event no window sees, and groups whose
// possible and impossible videos are told apart by something else than the event, or by nothing at all.
func review(f *compare.File) {
	pairs := f.Pairs()
	for _, p := range pairs {
		possible, impossible := &f.Videos[p.Possible], &f.Videos[p.Impossible]
		if at := impossible.Divergence; at != nil && !covered(f.Spec, possible.Frames, at.Frame) && !covered(f.Spec, impossible.Frames, at.Frame) {
			f.UnseenPairs++
		}
	}
	if f.UnseenPairs > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%d of %d pairs part in frames that no window covers: what happens there is not scored", f.UnseenPairs, len(pairs)))
	}

	var names []string
	groups := map[string][]*compare.Video{}
	for i := range f.Videos {
		v := &f.Videos[i]
		if groups[v.Group] == nil {
			names = append(names, v.Group)
		}
		groups[v.Group] = append(groups[v.Group], v)
	}
	for _, flaw := range []struct {
		is  func([]*compare.Video) bool
		how string
	}{
		{ratesDiffer, "possible and impossible videos have other frame rates"},
		{sizesDiffer, "possible and impossible videos have other frame sizes"},
		{shareAFile, "a possible and an impossible video are the same file"},
	} {
		n, first := 0, ""
		for _, name := range names {
			if flaw.is(groups[name]) {
				if n == 0 {
					first = name
				}
				n++
			}
		}
		if n > 0 {
			f.Notes = append(f.Notes, fmt.Sprintf("in %d of %d groups, the first of them %q, %s", n, len(names), first, flaw.how))
		}
	}
}

// covered tells whether a window of a video covers a frame.
func covered(s Spec, frames, frame int) bool {
	for _, from := range WindowStarts(frames, s.Window, s.Stride) {
		if from <= frame && frame < from+s.Window {
			return true
		}
	}
	return false
}

// sameRate is the share by which rates that were measured from time stamps may differ and count as one.
const sameRate = 0.01

// ratesDiffer tells whether the slowest, or the fastest, videos of the two sides differ in rate.
func ratesDiffer(group []*compare.Video) bool {
	var sides [2][]float64 // by label
	for _, v := range group {
		if v.FPS > 0 {
			sides[v.Label] = append(sides[v.Label], v.FPS)
		}
	}
	if len(sides[0]) == 0 || len(sides[1]) == 0 {
		return false
	}
	differ := func(a, b float64) bool { return max(a, b)-min(a, b) > sameRate*max(a, b) }
	return differ(slices.Min(sides[0]), slices.Min(sides[1])) || differ(slices.Max(sides[0]), slices.Max(sides[1]))
}

// sizesDiffer tells whether one side has a frame size that the other has not.
func sizesDiffer(group []*compare.Video) bool {
	type size struct{ width, height int }
	sides := [2]map[size]bool{{}, {}} // by label
	for _, v := range group {
		if v.Width > 0 {
			sides[v.Label][size{v.Width, v.Height}] = true
		}
	}
	if len(sides[0]) == 0 || len(sides[1]) == 0 {
		return false
	}
	for s := range sides[0] {
		if !sides[1][s] {
			return true
		}
	}
	return len(sides[0]) != len(sides[1])
}

// shareAFile tells whether the two sides hold the same bytes, read from the same frame on.
func shareAFile(group []*compare.Video) bool {
	type content struct {
		sha256 string
		first  int
	}
	possible := map[content]bool{}
	for _, v := range group {
		if v.Label == 1 {
			possible[content{v.SHA256, v.First}] = true
		}
	}
	return slices.ContainsFunc(group, func(v *compare.Video) bool { return v.Label == 0 && possible[content{v.SHA256, v.First}] })
}
