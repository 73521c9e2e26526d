package compare

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// split2 assigns each group to half 0 or 1, [G]. Within a property the groups are ordered
// by a hash of the seed and their names, and every second one goes to half 1; which half
// gets the odd one changes from property to property. So the halves follow from seed and
// names alone, whatever the order of the file, and both hold every property.
func split2(groups []group, seed uint64) []int {
	type keyed struct {
		at  int
		key [sha256.Size]byte
	}
	byProperty := map[string][]keyed{}
	var properties []string
	for i, g := range groups {
		if byProperty[g.property] == nil {
			properties = append(properties, g.property)
		}
		key := sha256.Sum256(append(binary.LittleEndian.AppendUint64(nil, seed), g.name...))
		byProperty[g.property] = append(byProperty[g.property], keyed{i, key})
	}
	slices.Sort(properties)
	half := make([]int, len(groups))
	next := 0
	for _, property := range properties {
		members := byProperty[property]
		slices.SortFunc(members, func(a, b keyed) int { return slices.Compare(a.key[:], b.key[:]) })
		for _, m := range members {
			half[m.at] = next
			next = 1 - next
		}
	}
	return half
}

// Selection is what comes of choosing the statistic, its context length with it, by its
// result: honestly, on one half of the groups and measured on the other, and as an oracle.
// Of several seeds it is about their mean, and the interval resamples groups alone.
type Selection struct {
	Candidates int      `json:"candidates"` // statistics to choose from
	Folds      [2]Fold  `json:"folds"`      // chosen on half 0, then on half 1
	HeldOut    Interval `json:"held_out"`   // pairwise accuracy of all groups, each by what the other half chose; the choices taken as given
	Verdict    string   `json:"verdict"`    // of HeldOut, with ties as half too
	Oracle     Choice   `json:"oracle"`     // chosen and measured on the same pairs: an upper bound and not a result
}

// Fold is one choice and what it is worth where it was not made.
type Fold struct {
	Chosen  Choice  `json:"chosen"`
	HeldOut float64 `json:"held_out"` // pairwise accuracy on the other half
	Groups  int     `json:"groups"`   // of the other half
	Pairs   int     `json:"pairs"`
}

// Choice is the best statistic on some pairs, and its pairwise accuracy there; of equal
// ones, the first in the order of Statistics.
type Choice struct {
	Aggregation Aggregation `json:"aggregation"`
	Accuracy    float64     `json:"accuracy"`
}

// Statistics lists every aggregation that a spec allows to tell apart: over all contexts
// first, then of each context by itself.
func Statistics(s Spec) []Aggregation {
	if len(s.Contexts) <= 1 { // filtered takes a minimum over one
		return []Aggregation{{Name: "avg"}, {Name: "max"}, {Name: "peak"}, {Name: "peak_avg"},
			{Name: "peak_after_parting"}, {Name: "peak_at_parting"}}
	}
	all := Aggregations()
	for _, name := range []string{"avg", "max", "peak", "peak_avg"} {
		for _, c := range s.Contexts {
			all = append(all, Aggregation{name, c})
		}
	}
	return all
}

// choose makes the selection of one column; nil where a half has no pair.
func choose(groups []group, half []int, c *column, o Options) (*Selection, error) {
	var pairs [2]float64
	var count [2]int
	for g := range groups {
		pairs[half[g]] += float64(len(groups[g].pairs))
		count[half[g]]++
	}
	if pairs[0] == 0 || pairs[1] == 0 {
		return nil, nil
	}
	statistics := Statistics(c.file.Spec)
	results := make([]outcome, len(statistics)) // mean over seeds
	for i, a := range statistics {
		if err := o.stopped(); err != nil {
			return nil, err
		}
		surprise, err := c.surprise(a)
		if err != nil {
			return nil, err
		}
		seeds := make([]pairResult, len(surprise))
		for k := range surprise {
			seeds[k] = judge(groups, surprise[k])
		}
		results[i] = mean(seeds).pairs
	}
	// best is the statistic with the most wins, counted where in is true.
	best := func(in func(g int) bool, of float64) (int, Choice) {
		chosen, most := 0, -1.0
		for i := range statistics {
			var sum float64
			for g := range groups {
				if in(g) {
					sum += results[i].wins[g]
				}
			}
			if sum > most+1e-9 { // means over seeds round
				chosen, most = i, sum
			}
		}
		return chosen, Choice{statistics[chosen], most / of}
	}
	s := &Selection{Candidates: len(statistics)}
	held, halfTies := make([]float64, len(groups)), make([]float64, len(groups)) // [G] wins of what the other half chose, and with half its ties
	total := pairs[0] + pairs[1]
	for h := range 2 {
		chosen, choice := best(func(g int) bool { return half[g] == h }, pairs[h])
		fold := Fold{Chosen: choice, Groups: count[1-h], Pairs: int(pairs[1-h])}
		for g := range groups {
			if half[g] != h {
				held[g] = results[chosen].wins[g]
				halfTies[g] = held[g] + results[chosen].ties[g]/2
				fold.HeldOut += held[g]
			}
		}
		fold.HeldOut /= pairs[1-h]
		s.Folds[h] = fold
	}
	_, s.Oracle = best(func(int) bool { return true }, total)
	s.HeldOut = groupInterval(held, groupPairs(groups), o, "selection", c.name)
	s.Verdict = agreed(s.HeldOut, groupInterval(halfTies, groupPairs(groups), o, "selection", c.name), len(groups), 0.5, AboveChance, BelowChance)
	return s, nil
}

func groupPairs(groups []group) []float64 {
	out := make([]float64, len(groups))
	for g := range groups {
		out[g] = float64(len(groups[g].pairs))
	}
	return out
}

// groupInterval is the share sum(part)/sum(whole), both [G], with its interval over resampled groups.
func groupInterval(part, whole []float64, o Options, name ...string) Interval {
	share := func(weight []float64) float64 {
		var p, w float64
		for g, x := range weight {
			p += x * part[g]
			w += x * whole[g]
		}
		return p / w
	}
	draws := newResampler(o.Seed, stream(name...), len(part))
	value := share(draws.once())
	resampled := make([]float64, 0, o.Resamples)
	for o.more(len(resampled)) {
		if weight := draws.draw(); hasPair(weight, whole) {
			resampled = append(resampled, share(weight))
		}
	}
	return percentileInterval(value, resampled, len(part), o.Confidence, 0, 1)
}

// AlarmLevel is the share of possible videos that Calibrated lets itself call impossible.
const AlarmLevel = 0.1

// MinCalibration is the fewest groups that a video can be judged by at AlarmLevel: above the
// possible videos of all nine, its group is among the largest tenth of ten.
const MinCalibration = 9

// Calibrated judges single videos by others: each by the possible videos of the half of the
// groups that it is not in. A video is called impossible when its p among them is AlarmLevel
// at most, so that of possible videos no more than AlarmLevel are, whatever surprises look
// like, if groups of both halves are alike. Each group counts once there: two possible
// videos of one place say little more than one, and counted as two they let 12 to 16 % of
// 10 to 30 groups raise a false alarm. Of several seeds it is about their mean, and
// intervals resample groups alone.
type Calibrated struct {
	Accuracy    Interval `json:"accuracy"`          // share of videos judged rightly
	FalseAlarms Interval `json:"false_alarms"`      // share of possible videos called impossible
	Caught      Interval `json:"caught"`            // share of impossible videos called so
	Gain        Interval `json:"gain"`              // Caught minus FalseAlarms; chance is 0
	Verdict     string   `json:"verdict"`           // of Gain: AboveChance, BelowChance or Inconclusive
	Warning     string   `json:"warning,omitempty"` // set where there were too few groups, and all figures are zero
}

// JudgedVideo is one video in all columns.
type JudgedVideo struct {
	Path     string          `json:"path"`
	Label    int             `json:"label"`
	Group    string          `json:"group"`
	Property string          `json:"property"`
	Columns  []VideoJudgment `json:"columns"`
}

// VideoJudgment is one video in one column; a mean over seeds where there are several.
type VideoJudgment struct {
	Surprise   float64  `json:"surprise"`
	Percentile *float64 `json:"percentile,omitempty"` // among the possible videos of the other half, 0 to 100; absent where groups are too few
}

// calibrate returns what Calibrated says of a column, and the percentiles [N], nil where
// there are too few groups.
func calibrate(groups []group, half []int, surprise [][]float64, labels []int, o Options) (Calibrated, []float64) {
	var count [2]int // every group has a possible video
	for _, h := range half {
		count[h]++
	}
	if least := min(count[0], count[1]); least < MinCalibration {
		return Calibrated{Verdict: Inconclusive, Warning: fmt.Sprintf(
			"%d groups in one half of them: judging the other half's videos by them needs at least %d", least, MinCalibration)}, nil
	}
	percentile := make([]float64, len(labels))
	alarms, caught := make([]float64, len(groups)), make([]float64, len(groups)) // [G], mean over seeds
	possibles, impossibles := make([]float64, len(groups)), make([]float64, len(groups))
	for g := range groups {
		possibles[g], impossibles[g] = float64(len(groups[g].possible)), float64(len(groups[g].impossible))
	}
	for _, seed := range surprise {
		var values, weight [2][]float64 // of the possible videos that judge a half
		for g := range groups {
			for _, v := range groups[g].possible {
				judged := 1 - half[g]
				values[judged], weight[judged] = append(values[judged], seed[v]), append(weight[judged], 1/possibles[g])
			}
		}
		var reference [2]weighed
		for h := range reference {
			reference[h] = weigh(values[h], weight[h])
		}
		for g := range groups {
			others := float64(count[1-half[g]])
			for _, of := range []struct {
				videos []int
				called []float64
			}{{groups[g].possible, alarms}, {groups[g].impossible, caught}} {
				for _, v := range of.videos {
					below, same := reference[half[g]].around(seed[v])
					rank, p := rankAmong(below, same, others)
					percentile[v] += 100 * rank / float64(len(surprise))
					if p <= AlarmLevel {
						of.called[g] += 1 / float64(len(surprise))
					}
				}
			}
		}
	}
	return calibrated(alarms, caught, possibles, impossibles, o), percentile
}

func calibrated(alarms, caught, possibles, impossibles []float64, o Options) Calibrated {
	const falseAlarms, catches, accuracy, gain, statistics = 0, 1, 2, 3, 4
	figures := func(weight []float64) (out [statistics]float64) {
		var a, c, p, i float64
		for g, w := range weight {
			a += w * alarms[g]
			c += w * caught[g]
			p += w * possibles[g]
			i += w * impossibles[g]
		}
		return [statistics]float64{a / p, c / i, (p - a + c) / (p + i), c/i - a/p}
	}
	draws := newResampler(o.Seed, stream("calibrated"), len(alarms))
	values := figures(draws.once())
	var resampled [statistics][]float64
	for i := 0; o.more(i); i++ {
		for s, x := range figures(draws.draw()) { // every group has both labels
			resampled[s] = append(resampled[s], x)
		}
	}
	interval := func(s int, lowest float64) Interval {
		return percentileInterval(values[s], resampled[s], len(alarms), o.Confidence, lowest, 1)
	}
	c := Calibrated{FalseAlarms: interval(falseAlarms, 0), Caught: interval(catches, 0), Accuracy: interval(accuracy, 0), Gain: interval(gain, -1)}
	c.Verdict = verdict(c.Gain, len(alarms), 0, AboveChance, BelowChance)
	return c
}

func judgedVideos(f *File, surprise [][][]float64, percentiles [][]float64) []JudgedVideo {
	out := make([]JudgedVideo, len(f.Videos))
	for i, v := range f.Videos {
		out[i] = JudgedVideo{Path: v.Path, Label: v.Label, Group: v.Group, Property: v.Property}
		for c := range surprise {
			var j VideoJudgment
			for _, seed := range surprise[c] {
				j.Surprise += seed[i] / float64(len(surprise[c]))
			}
			if percentiles[c] != nil {
				j.Percentile = &percentiles[c][i]
			}
			out[i].Columns = append(out[i].Columns, j)
		}
	}
	return out
}
