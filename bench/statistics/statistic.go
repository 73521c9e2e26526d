package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// pair is a possible and an impossible video of a group with the maps that one model made of them, [M,H,W] each, and the
// tubelet in which they part, which is found by looking at their pixels (compare.Video.Divergence).
type pair struct {
	possible, impossible heat.Map
	parting              int // first tubelet that the videos do not share
	// Where the group has another pair: its videos. The impossible video of each pair ends as the possible one of the
	// other does.
	others *pair
}

// statistic judges a pair: above zero, the impossible video is the more surprising one. It must not know which is which:
// exchanging the two changes the sign and nothing else.
type statistic struct {
	name  string
	judge func(p pair) float64
}

// statistics are grouped by the question they answer: which tokens of a tubelet, which tubelets, against what.
func statistics() []statistic {
	var all []statistic
	of := func(name string, video func(m heat.Map, parting int) float64) {
		all = append(all, statistic{name, func(p pair) float64 {
			return video(p.impossible, p.parting) - video(p.possible, p.parting)
		}})
	}
	// Each video by itself: nothing but its own map is looked at.
	for _, k := range []int{1, 2, 4, 8, 16, 64} {
		of(fmt.Sprintf("peak, top %d", k), func(m heat.Map, _ int) float64 { return slices.Max(curve(m, k)) })
	}
	for _, k := range []int{1, 4} {
		of(fmt.Sprintf("mean of tubelets, top %d", k), func(m heat.Map, _ int) float64 { return mean(curve(m, k)) })
		of(fmt.Sprintf("largest step above the past, top %d", k), func(m heat.Map, _ int) float64 { return slices.Max(above(curve(m, k), mean)) })
		of(fmt.Sprintf("largest z against the past, top %d", k), func(m heat.Map, _ int) float64 { return slices.Max(zScores(curve(m, k))) })
		of(fmt.Sprintf("largest above the past's largest, top %d", k), func(m heat.Map, _ int) float64 { return slices.Max(above(curve(m, k), slices.Max[[]float64])) })
	}
	// From where the two videos of the pair part.
	for _, k := range []int{1, 2, 4, 8, 16, 64} {
		of(fmt.Sprintf("peak after parting, top %d", k), func(m heat.Map, parting int) float64 { return slices.Max(curve(m, k)[parting:]) })
	}
	for _, k := range []int{1, 4} {
		of(fmt.Sprintf("mean after parting, top %d", k), func(m heat.Map, parting int) float64 { return mean(curve(m, k)[parting:]) })
	}
	for _, horizon := range []int{1, 2, 3} {
		for _, k := range []int{1, 2, 4, 8, 16, 64} {
			of(fmt.Sprintf("peak of %d at parting, top %d", horizon, k), func(m heat.Map, parting int) float64 {
				return slices.Max(curve(m, k)[parting:min(m.Tubelets, parting+horizon)])
			})
			of(fmt.Sprintf("mean of %d at parting, top %d", horizon, k), func(m heat.Map, parting int) float64 {
				return mean(curve(m, k)[parting:min(m.Tubelets, parting+horizon)])
			})
		}
	}
	// Token by token: where one video surprises more than the other does at the same place and time.
	for _, horizon := range []int{1, 2, 3, math.MaxInt} {
		for _, k := range []int{1, 2, 4, 8} {
			all = append(all, statistic{fmt.Sprintf("difference of maps, %s at parting, top %d", tubelets(horizon), k), func(p pair) float64 {
				return contrast(p.parting, horizon, k, []heat.Map{p.impossible}, []heat.Map{p.possible})
			}})
		}
	}
	// Against the possible video of the other pair, which shows the same from the event on: content cancels, only what
	// went before differs.
	for _, horizon := range []int{1, 2, 3, math.MaxInt} {
		for _, k := range []int{1, 4} {
			all = append(all, statistic{fmt.Sprintf("same end, peak of %s, top %d", tubelets(horizon), k), func(p pair) float64 {
				from, to := p.parting, min(p.possible.Tubelets, p.parting+min(horizon, p.possible.Tubelets))
				return slices.Max(curve(p.impossible, k)[from:to]) - slices.Max(curve(p.others.possible, k)[from:to])
			}})
			all = append(all, statistic{fmt.Sprintf("same end, difference of maps, %s, top %d", tubelets(horizon), k), func(p pair) float64 {
				return contrast(p.parting, horizon, k, []heat.Map{p.impossible}, []heat.Map{p.others.possible})
			}})
		}
	}
	// Both impossible videos of the group against both possible ones; every pair of it is judged alike.
	group := func(name string, video func(m heat.Map, parting int) float64) {
		all = append(all, statistic{"group, " + name, func(p pair) float64 {
			return video(p.impossible, p.parting) + video(p.others.impossible, p.parting) - video(p.possible, p.parting) - video(p.others.possible, p.parting)
		}})
	}
	for _, k := range []int{1, 4, 16, 64} {
		group(fmt.Sprintf("peak, top %d", k), func(m heat.Map, _ int) float64 { return slices.Max(curve(m, k)) })
		group(fmt.Sprintf("mean of tubelets, top %d", k), func(m heat.Map, _ int) float64 { return mean(curve(m, k)) })
		group(fmt.Sprintf("peak after parting, top %d", k), func(m heat.Map, parting int) float64 { return slices.Max(curve(m, k)[parting:]) })
		for _, horizon := range []int{1, 2, 3} {
			group(fmt.Sprintf("mean of %d at parting, top %d", horizon, k), func(m heat.Map, parting int) float64 {
				return mean(curve(m, k)[parting:min(m.Tubelets, parting+horizon)])
			})
			group(fmt.Sprintf("peak of %d at parting, top %d", horizon, k), func(m heat.Map, parting int) float64 {
				return slices.Max(curve(m, k)[parting:min(m.Tubelets, parting+horizon)])
			})
		}
	}
	for _, horizon := range []int{1, 2, 3, math.MaxInt} {
		for _, k := range []int{1, 4, 16} {
			all = append(all, statistic{fmt.Sprintf("group, difference of maps, %s at parting, top %d", tubelets(horizon), k), func(p pair) float64 {
				return contrast(p.parting, horizon, k, []heat.Map{p.impossible, p.others.impossible}, []heat.Map{p.possible, p.others.possible})
			}})
		}
	}
	return all
}

func tubelets(horizon int) string {
	if horizon == math.MaxInt {
		return "all"
	}
	return fmt.Sprint(horizon)
}

// curve is the mean of the k largest tokens of every tubelet, [M].
func curve(m heat.Map, k int) []float64 {
	out := make([]float64, m.Tubelets)
	for t := range out {
		out[t] = top(m.Tubelet(t), k)
	}
	return out
}

// top is the mean of the k largest values, or of all.
func top(values []float32, k int) float64 {
	sorted := slices.SortedFunc(slices.Values(values), func(a, b float32) int { return cmp.Compare(b, a) })
	var sum float64
	sorted = sorted[:min(k, len(sorted))]
	for _, x := range sorted {
		sum += float64(x)
	}
	return sum / float64(len(sorted))
}

// contrast is, over the given number of tubelets from parting on, by how much the maps of the first exceed those of the
// second where they do so most, less the same the other way round; the largest tubelet counts on each side.
func contrast(parting, horizon, k int, first, second []heat.Map) float64 {
	more, less := math.Inf(-1), math.Inf(-1)
	for t := parting; t < first[0].Tubelets && t-parting < horizon; t++ {
		up, down := make([]float32, len(first[0].Tubelet(t))), make([]float32, len(first[0].Tubelet(t)))
		for i := range up {
			var difference float32
			for n := range first {
				difference += first[n].Tubelet(t)[i] - second[n].Tubelet(t)[i]
			}
			up[i], down[i] = difference, -difference
		}
		more, less = max(more, top(up, k)), max(less, top(down, k))
	}
	return more - less
}

// above is by how much each value but the first exceeds what the ones before it come to.
func above(x []float64, of func([]float64) float64) []float64 {
	var out []float64
	for t := 1; t < len(x); t++ {
		out = append(out, x[t]-of(x[:t]))
	}
	return out
}

// zScores sets each value against mean and standard deviation of those before it, from the fourth on.
func zScores(x []float64) []float64 {
	out := []float64{0}
	for t := 3; t < len(x); t++ {
		m := mean(x[:t])
		var variance float64
		for _, y := range x[:t] {
			variance += (y - m) * (y - m) / float64(t)
		}
		out = append(out, (x[t]-m)/math.Sqrt(variance+1e-6))
	}
	return out
}

func mean(x []float64) float64 {
	var sum float64
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// judge returns the score file with each pair's verdict in place of its surprise, so that compare makes the table. A
// group that is no quadruplet of two pairs is an error.
func judge(f *compare.File, maps *heat.Maps, s statistic) (*compare.File, error) {
	out := *f
	out.Sets = nil
	byGroup := map[string][]compare.Pair{}
	for _, p := range f.Pairs() {
		group := f.Videos[p.Possible].Group
		byGroup[group] = append(byGroup[group], p)
	}
	for _, set := range f.Sets {
		verdicts := compare.Set{Name: set.Name, Model: set.Model, Scores: slices.Clone(set.Scores)}
		for name, pairs := range byGroup {
			if len(pairs) != 2 {
				return nil, fmt.Errorf("group %q has %d pairs, want 2", name, len(pairs))
			}
			var two [2]pair
			for i, of := range pairs {
				var err error
				if two[i], err = mapped(f, maps, set.Name, of); err != nil {
					return nil, fmt.Errorf("group %q: %w", name, err)
				}
			}
			two[0].others, two[1].others = &two[1], &two[0]
			for i, of := range pairs {
				margin := s.judge(two[i])
				verdicts.Scores[of.Possible].Peak = [][]float64{filled(1+max(0, -margin), len(f.Videos[of.Possible].WindowStart))}
				verdicts.Scores[of.Impossible].Peak = [][]float64{filled(1+max(0, margin), len(f.Videos[of.Impossible].WindowStart))}
			}
		}
		out.Sets = append(out.Sets, verdicts)
	}
	return &out, nil
}

func filled(x float64, n int) []float64 { return slices.Repeat([]float64{x}, n) }

// mapped looks up a pair's maps and finds the tubelet in which the two part.
func mapped(f *compare.File, maps *heat.Maps, set string, of compare.Pair) (pair, error) {
	var p pair
	var ok [2]bool
	p.possible, ok[0] = maps.Of(set, of.Possible)
	p.impossible, ok[1] = maps.Of(set, of.Impossible)
	v := &f.Videos[of.Impossible]
	if !ok[0] || !ok[1] || p.possible.Tubelets != p.impossible.Tubelets {
		return p, fmt.Errorf("video %s: no maps, or of other lengths than its twin's", v.Path)
	}
	if v.Divergence != nil {
		for t, start := range v.TubeletStart {
			if start <= v.Divergence.Second {
				p.parting = t
			}
		}
	} // two videos that never part visibly are compared from their beginning
	return p, nil
}
