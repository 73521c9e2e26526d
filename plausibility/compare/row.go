package compare

import (
	"fmt"
	"hash/fnv"
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
			if err := o.stopped(); err != nil { // millions of pairs take a while
				return row, err
			}
			result := judge(r.groups, seed)
			result.whole = wholeGroups(r.groups, whole[c][k])
			results[c] = append(results[c], result)
		}
	}

	// figures[c][statistic] of one resample, or of the data themselves.
	const accuracy, tiesHalf, groupAccuracy, groupTiesHalf, auroc, statistics = 0, 1, 2, 3, 4, 5
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
				one := &results[c][k]
				var pairWins, pairTies, groupWins, groupTies float64
				for g, w := range weight {
					pairWins += w * one.pairs.wins[g]
					pairTies += w * one.pairs.ties[g]
					groupWins += w * one.whole.wins[g]
					groupTies += w * one.whole.ties[g]
				}
				out[c][accuracy] += share * pairWins / totalPairs
				out[c][tiesHalf] += share * (pairWins + pairTies/2) / totalPairs
				out[c][groupAccuracy] += share * groupWins / totalGroups
				out[c][groupTiesHalf] += share * (groupWins + groupTies/2) / totalGroups
				if withAUROC {
					out[c][auroc] += share * weightedAUROC(one, weight)
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
	for o.more(len(resampled[0][0])) {
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
	if err := o.stopped(); err != nil {
		return row, err
	}
	share := func(c, s int) Interval {
		return percentileInterval(values[c][s], resampled[c][s], len(r.groups), o.Confidence, 0, 1)
	}
	difference := func(c, s int) Interval {
		return percentileInterval(values[0][s]-values[c][s], differences[c][s], len(r.groups), o.Confidence, -1, 1)
	}
	first := mean(results[0])
	for c := range results {
		seeds := mean(results[c])
		cell := Cell{
			Accuracy: share(c, accuracy), TiesHalf: share(c, tiesHalf), Ties: sum(seeds.pairs.ties) / float64(row.Pairs),
			GroupAccuracy: share(c, groupAccuracy), GroupTiesHalf: share(c, groupTiesHalf), GroupTies: sum(seeds.whole.ties) / float64(len(r.groups)),
			AUROC: share(c, auroc),
		}
		for k := range results[c] {
			if len(results[c]) > 1 {
				cell.Seeds = append(cell.Seeds, sum(results[c][k].pairs.wins)/float64(row.Pairs))
			}
		}
		cell.Verdict = agreed(cell.Accuracy, cell.TiesHalf, len(r.groups), 0.5, AboveChance, BelowChance)
		cell.GroupVerdict = agreed(cell.GroupAccuracy, cell.GroupTiesHalf, len(r.groups), 0.5, AboveChance, BelowChance)
		cell.test(r.name, names[c], &seeds, pairs, len(results[c]), o)
		row.Cells = append(row.Cells, cell)
		if c == 0 {
			continue
		}
		d := Difference{
			Column: names[c], Accuracy: difference(c, accuracy), TiesHalf: difference(c, tiesHalf),
			GroupAccuracy: difference(c, groupAccuracy), GroupTiesHalf: difference(c, groupTiesHalf), AUROC: difference(c, auroc),
		}
		d.Verdict = agreed(d.Accuracy, d.TiesHalf, len(r.groups), 0, Higher, Lower)
		d.GroupVerdict = agreed(d.GroupAccuracy, d.GroupTiesHalf, len(r.groups), 0, Higher, Lower)
		d.test(r.name, &first, &seeds, len(results[0])*len(results[c]), o)
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
