package plausibility

import (
	"cmp"
	"math"
	"slices"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// contrast lays the maps of a group's videos over one another and enters into set k's scores by how much each surprises
// more than the others (see compare.Contrast). Nothing is entered for a group in which a video is paired with none or with
// several, or whose videos have other tubelets than each other.
func contrast(f *compare.File, videos []scoredVideo, k int, maps []heat.Map) {
	partner := make([]int, len(videos))
	parting := make([]int, len(videos)) // the tubelet, or -1
	first := -1                         // where the first of them part
	var sides [2][]heat.Map             // by label
	for i := range videos {
		v := &videos[i].video
		partner[i] = -1
		for j := range videos {
			if other := &videos[j].video; other.Label != v.Label && other.Pair == v.Pair {
				if partner[i] >= 0 {
					return
				}
				partner[i] = j
			}
		}
		if partner[i] < 0 || maps[i].Tubelets == 0 || maps[i].Tubelets != maps[0].Tubelets || len(maps[i].Values) != len(maps[0].Values) {
			return
		}
		parting[i] = -1
		if t, ok := f.Parting(v); ok && t < maps[i].Tubelets {
			parting[i] = t
			if first < 0 || t < first {
				first = t
			}
		}
		sides[v.Label] = append(sides[v.Label], maps[i])
	}
	for i := range videos {
		v := &videos[i].video
		videos[i].scores[k].Contrast = &compare.Contrast{
			Pair:  surplus(maps[i:i+1], maps[partner[i]:partner[i]+1], parting[i]),
			Group: surplus(sides[v.Label], sides[1-v.Label], first),
		}
	}
}

// surplus is the mean over the tokens of a tubelet in which some maps exceed others most, of by how much they do on average;
// for tubelet -1 the largest of any tubelet.
func surplus(maps, others []heat.Map, tubelet int) float64 {
	if tubelet < 0 {
		largest := math.Inf(-1)
		for t := range maps[0].Tubelets {
			largest = max(largest, surplus(maps, others, t))
		}
		return largest
	}
	difference := make([]float64, len(maps[0].Tubelet(tubelet)))
	add := func(all []heat.Map, sign float64) {
		for _, m := range all {
			for i, x := range m.Tubelet(tubelet) {
				difference[i] += sign * float64(x) / float64(len(all))
			}
		}
	}
	add(maps, 1)
	add(others, -1)
	slices.SortFunc(difference, func(a, b float64) int { return cmp.Compare(b, a) })
	top := difference[:min(compare.ContrastTokens, len(difference))]
	var sum float64
	for _, x := range top {
		sum += x
	}
	return sum / float64(len(top))
}
