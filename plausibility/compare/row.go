package compare

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

type namedGroups struct {
	name   string
	pooled bool
	groups []group
}

// rowGroups sorts groups into rows: one per property, then the pooled ones. A
// property whose name has the word occluded is pooled as such; one that has the
// word visible, or an occluded variant (shape beside shape_occluded), as visible.
func rowGroups(groups []group) []namedGroups {
	var rows []namedGroups
	at := map[string]int{}
	for _, g := range groups {
		i, ok := at[g.property]
		if !ok {
			i = len(rows)
			at[g.property] = i
			name := g.property
			if name == "" {
				name = "(no property)"
			}
			rows = append(rows, namedGroups{name: name})
		}
		rows[i].groups = append(rows[i].groups, g)
	}
	visible, occluded := namedGroups{Visible, true, nil}, namedGroups{Occluded, true, nil}
	for _, g := range groups {
		_, hasVariant := at[g.property+"_"+Occluded]
		switch {
		case strings.Contains(g.property, Occluded):
			occluded.groups = append(occluded.groups, g)
		case strings.Contains(g.property, Visible), hasVariant:
			visible.groups = append(visible.groups, g)
		}
	}
	for _, r := range []namedGroups{visible, occluded} {
		if len(r.groups) > 0 {
			rows = append(rows, r)
		}
	}
	return append(rows, namedGroups{All, true, groups})
}

// makeRow computes one row from the surprise of every column and seed, and what whole groups are judged by,
// [columns][seeds][N] each. withAUROC false leaves the AUROC, most of the work, at zero.
func makeRow(r namedGroups, names []string, surprise, whole [][][]float64, o Options, withAUROC bool) (Row, error) {
	row := Row{Name: r.name, Pooled: r.pooled, Groups: len(r.groups)}
	pairs := make([]float64, len(r.groups)) // [G]
	for g := range r.groups {
		pairs[g] = float64(len(r.groups[g].pairs))
		row.Pairs += len(r.groups[g].pairs)
	}
	if row.Pairs == 0 {
		return row, fmt.Errorf("%s: no pair of a possible and an impossible video", r.name)
	}
	results := make([][]pairResult, len(surprise)) // [columns][seeds]
	for c := range surprise {
		for k, seed := range surprise[c] {
			result := judge(r.groups, seed)
			result.groupWins = groupWins(r.groups, whole[c][k])
			results[c] = append(results[c], result)
		}
	}

	// figures[c][statistic] of one resample, or of the data themselves.
	const accuracy, groupAccuracy, auroc, statistics = 0, 1, 2, 3
	figures := func(weight []float64, seeds [][]float64) [][statistics]float64 {
		out := make([][statistics]float64, len(results))
		var totalPairs, totalGroups float64
		for g, w := range weight {
			totalPairs += w * pairs[g]
			totalGroups += w
		}
		for c := range results {
			for k := range results[c] {
				share := seeds[c][k] / float64(len(results[c]))
				if share == 0 {
					continue
				}
				var wins, groupWins float64
				for g, w := range weight {
					wins += w * results[c][k].wins[g]
					groupWins += w * results[c][k].groupWins[g]
				}
				out[c][accuracy] += share * wins / totalPairs
				out[c][groupAccuracy] += share * groupWins / totalGroups
				if withAUROC {
					out[c][auroc] += share * weightedAUROC(&results[c][k], weight)
				}
			}
		}
		return out
	}
	draws := newResampler(o.Seed, stream(r.name), len(r.groups))
	once, seedsOnce := draws.once(), eachSeedOnce(surprise)
	values := figures(once, seedsOnce)

	resampled := make([][statistics][]float64, len(results))   // [columns][statistic][R]
	differences := make([][statistics][]float64, len(results)) // column 0 minus column c
	for c := range results {
		for s := range statistics {
			resampled[c][s] = make([]float64, 0, o.Resamples)
			differences[c][s] = make([]float64, 0, o.Resamples)
		}
	}
	for len(resampled[0][0]) < o.Resamples {
		weight := draws.draw()
		if !hasPair(weight, pairs) {
			continue // a group may hold no matched pair; a resample of only such has no accuracy
		}
		drawn := figures(weight, draws.seeds(seedsOnce))
		for c := range drawn {
			for s := range statistics {
				resampled[c][s] = append(resampled[c][s], drawn[c][s])
				differences[c][s] = append(differences[c][s], drawn[0][s]-drawn[c][s])
			}
		}
	}
	share := func(c, s int) Interval {
		return percentileInterval(values[c][s], resampled[c][s], len(r.groups), o.Confidence, 0, 1)
	}
	difference := func(c, s int) Interval {
		return percentileInterval(values[0][s]-values[c][s], differences[c][s], len(r.groups), o.Confidence, -1, 1)
	}
	first := mean(results[0])
	for c := range results {
		cell := Cell{Accuracy: share(c, accuracy), GroupAccuracy: share(c, groupAccuracy), AUROC: share(c, auroc)}
		for k := range results[c] {
			cell.Ties += float64(results[c][k].ties) / float64(row.Pairs*len(results[c]))
			if len(results[c]) > 1 {
				cell.Seeds = append(cell.Seeds, float64(results[c][k].allWins())/float64(row.Pairs))
			}
		}
		cell.Verdict = verdict(cell.Accuracy, len(r.groups), 0.5, AboveChance, BelowChance)
		if cell.Accuracy.High+cell.Ties >= 0.5 && cell.Verdict == BelowChance {
			cell.Verdict = Inconclusive // ties alone put it there: the two videos look the same to the statistic
		}
		row.Cells = append(row.Cells, cell)
		if c == 0 {
			continue
		}
		d := Difference{Column: names[c], Accuracy: difference(c, accuracy), GroupAccuracy: difference(c, groupAccuracy), AUROC: difference(c, auroc)}
		d.Verdict = verdict(d.Accuracy, len(r.groups), 0, Higher, Lower)
		d.test(r, &first, mean(results[c]), o)
		row.Differences = append(row.Differences, d)
	}
	return row, nil
}

// stream depends on the row alone, so that a row's interval does not change with the other rows.
func stream(parts ...string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(strings.Join(parts, "\x00")))
	return h.Sum64()
}

func hasPair(weight, pairs []float64) bool {
	for g, w := range weight {
		if w > 0 && pairs[g] > 0 {
			return true
		}
	}
	return false
}

// leastGroups is how many groups it takes to conclude anything: of five, all on one side, one in 16 samples of nothing at
// all would have as much to say (two sides of 1 in 2⁵). A bootstrap over so few does not see that.
const leastGroups = 6

// verdict says on which side of the null value an interval over so many groups lies; one that touches it is inconclusive,
// and so is one of fewer than leastGroups.
func verdict(i Interval, groups int, null float64, above, below string) string {
	switch {
	case groups < leastGroups:
	case i.Low > null:
		return above
	case i.High < null:
		return below
	}
	return Inconclusive
}

// pairResult is what one column made of one row, before any resampling.
type pairResult struct {
	wins      []float64 // [G] pairs told apart
	groupWins []float64 // [G] 1 where the whole group is
	right     []bool    // per pair
	ties      int       // pairs whose videos surprise alike to the last bit
	ordered   []ordered // the row's videos, least surprising first
	within    []within  // [G]
}

func (r *pairResult) allWins() (n float64) {
	for _, w := range r.wins {
		n += w
	}
	return n
}

// meanResult is what the seeds of one column made of a row on average.
type meanResult struct {
	wins  []float64 // [G] pairs told apart
	right []float64 // per pair, the share of seeds that tell it apart
}

func mean(seeds []pairResult) meanResult {
	m := meanResult{wins: make([]float64, len(seeds[0].wins)), right: make([]float64, len(seeds[0].right))}
	for _, s := range seeds {
		for g, w := range s.wins {
			m.wins[g] += w / float64(len(seeds))
		}
		for i, right := range s.right {
			if right {
				m.right[i]++
			}
		}
	}
	for i := range m.right {
		m.right[i] /= float64(len(seeds))
	}
	return m
}

// within counts the comparisons of possible with impossible videos inside one
// group: all of them, and those won (ties half).
type within struct{ all, won float64 }

type ordered struct {
	surprise float64
	group    int // position in the row
	possible bool
}

// groupWins tells for each group, [G], whether its impossible videos together surprise more than its possible ones: 1 or 0.
func groupWins(groups []group, surprise []float64) []float64 {
	wins := make([]float64, len(groups))
	for g := range groups {
		average := func(videos []int) (mean float64) {
			for _, v := range videos {
				mean += surprise[v]
			}
			return mean / float64(len(videos))
		}
		if average(groups[g].possible) < average(groups[g].impossible) {
			wins[g] = 1
		}
	}
	return wins
}

// judge compares the videos of each group by their surprise.
func judge(groups []group, surprise []float64) pairResult {
	r := pairResult{wins: make([]float64, len(groups)), groupWins: groupWins(groups, surprise), within: make([]within, len(groups))}
	for g := range groups {
		for _, p := range groups[g].pairs {
			right := surprise[p.Possible] < surprise[p.Impossible]
			if right {
				r.wins[g]++
			}
			if surprise[p.Possible] == surprise[p.Impossible] {
				r.ties++
			}
			r.right = append(r.right, right)
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
