package compare

import (
	"math"
	"slices"
)

// outcome counts, for each group, what was told apart and what tied, [G] each.
type outcome struct{ wins, ties []float64 }

func newOutcome(groups int) outcome {
	return outcome{make([]float64, groups), make([]float64, groups)}
}

// pairResult is what one column made of one row, before any resampling.
type pairResult struct {
	pairs   outcome   // pairs of the group
	whole   outcome   // 1 where the whole group is told apart, or ties
	scores  []float64 // per pair: 1 told apart, 0.5 a tie (alike to the last bit), 0 wrong
	ordered []ordered // the row's videos, least surprising first
	within  []within  // [G]
}

// meanResult is what the seeds of one column made of a row on average.
type meanResult struct {
	pairs, whole outcome
	right        []float64 // per pair, the share of seeds that tell it apart
	scores       []float64 // per pair, with ties as half
}

func mean(seeds []pairResult) meanResult {
	groups, pairs := len(seeds[0].pairs.wins), len(seeds[0].scores)
	m := meanResult{newOutcome(groups), newOutcome(groups), make([]float64, pairs), make([]float64, pairs)}
	share := 1 / float64(len(seeds))
	for _, s := range seeds {
		for g := range groups {
			m.pairs.wins[g] += share * s.pairs.wins[g]
			m.pairs.ties[g] += share * s.pairs.ties[g]
			m.whole.wins[g] += share * s.whole.wins[g]
			m.whole.ties[g] += share * s.whole.ties[g]
		}
		for i, score := range s.scores {
			m.scores[i] += score
			if score == 1 {
				m.right[i]++
			}
		}
	}
	for i := range m.right { // whole numbers so far: equal shares are equal to the last bit
		m.right[i] /= float64(len(seeds))
		m.scores[i] /= float64(len(seeds))
	}
	return m
}

func sum(x []float64) (total float64) {
	for _, v := range x {
		total += v
	}
	return total
}

// within counts the comparisons of possible with impossible videos inside one
// group: all of them, and those won (ties half).
type within struct{ all, won float64 }

type ordered struct {
	surprise float64
	group    int // position in the row
	possible bool
}

// sumRounding is how far the means of two sides may lie apart, relative to them, and still tie: the order in which windows
// and videos were added up. A single token that differs by the last bit of a float32 weighs more.
const sumRounding = 1e-12

// wholeGroups tells for each group whether its impossible videos together surprise more than its possible ones.
func wholeGroups(groups []group, surprise []float64) outcome {
	out := newOutcome(len(groups))
	for g := range groups {
		average := func(videos []int) (mean float64) {
			for _, v := range videos {
				mean += surprise[v]
			}
			return mean / float64(len(videos))
		}
		possible, impossible := average(groups[g].possible), average(groups[g].impossible)
		switch {
		case math.Abs(possible-impossible) <= sumRounding*max(math.Abs(possible), math.Abs(impossible)):
			out.ties[g] = 1
		case possible < impossible:
			out.wins[g] = 1
		}
	}
	return out
}

// judge compares the videos of each group by their surprise.
func judge(groups []group, surprise []float64) pairResult {
	r := pairResult{pairs: newOutcome(len(groups)), whole: wholeGroups(groups, surprise), within: make([]within, len(groups))}
	for g := range groups {
		for _, p := range groups[g].pairs {
			score := 0.0
			switch {
			case surprise[p.Possible] < surprise[p.Impossible]:
				score = 1
				r.pairs.wins[g]++
			case surprise[p.Possible] == surprise[p.Impossible]:
				score = 0.5
				r.pairs.ties[g]++
			}
			r.scores = append(r.scores, score)
		}
		for _, v := range groups[g].possible {
			r.ordered = append(r.ordered, ordered{surprise[v], g, true})
		}
		for _, v := range groups[g].impossible {
			r.ordered = append(r.ordered, ordered{surprise[v], g, false})
		}
		for _, p := range groups[g].possible {
			for _, q := range groups[g].impossible {
				r.within[g].all++
				switch {
				case surprise[p] < surprise[q]:
					r.within[g].won++
				case surprise[p] == surprise[q]:
					r.within[g].won += 0.5
				}
			}
		}
	}
	slices.SortStableFunc(r.ordered, func(a, b ordered) int {
		switch {
		case a.surprise < b.surprise:
			return -1
		case a.surprise > b.surprise:
			return 1
		}
		return 0
	})
	return r
}

// weightedAUROC is AUROC with each group drawn weight[group] times. Two draws of
// one group are not compared with each other: that would count comparisons inside
// groups, which share their content, twice as often as the data do, and shift the
// interval.
func weightedAUROC(r *pairResult, weight []float64) float64 {
	var won, possible, impossible float64
	for i := 0; i < len(r.ordered); {
		var tiedPossible, tiedImpossible float64
		for x := r.ordered[i].surprise; i < len(r.ordered) && r.ordered[i].surprise == x; i++ {
			if r.ordered[i].possible {
				tiedPossible += weight[r.ordered[i].group]
			} else {
				tiedImpossible += weight[r.ordered[i].group]
			}
		}
		won += tiedImpossible * (possible + tiedPossible/2)
		possible += tiedPossible
		impossible += tiedImpossible
	}
	all := possible * impossible
	for g, w := range weight {
		won -= w * (w - 1) * r.within[g].won
		all -= w * (w - 1) * r.within[g].all
	}
	return won / all
}
