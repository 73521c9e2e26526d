package compare

import (
	"math"
	"math/rand/v2"
	"slices"
)

// PValue is the chance of a difference at least as large where there is none.
type PValue struct {
	P float64 `json:"p"`
	// Holm is P adjusted for the number of tests of the same family (Holm 1979): those of
	// all properties and columns together; in a pooled row, those of its columns.
	Holm float64 `json:"p_holm"`
}

// test counts the pairs on which two columns part, and tests whether they part to one side. A tie is half a win to both
// tests: to one who only ever ties it is no better and no worse than guessing, so ties for themselves cannot reject, and
// leaving pairs out that tie on a side would never see that a model is better than one that always ties. seeds is the
// number of pairs of trainings: gains are whole multiples of half a pair over that.
func (d *Difference) test(row string, first, second *meanResult, seeds int, o Options) {
	for i, x := range first.right {
		switch y := second.right[i]; {
		case x > y:
			d.First++
		case x < y:
			d.Second++
		case x == 1:
			d.Both++
		case x == 0:
			d.Neither++
		default:
			d.Mixed++
		}
		switch x, y := first.scores[i], second.scores[i]; {
		case x > y:
			d.FirstBetter++
		case x < y:
			d.SecondBetter++
		}
	}
	d.McNemar.P = McNemar(d.FirstBetter, d.SecondBetter)
	gain := func(a, b outcome) []int { // [G]
		out := make([]float64, len(a.wins))
		for g := range out {
			out[g] = a.wins[g] + a.ties[g]/2 - b.wins[g] - b.ties[g]/2
		}
		return inParts(out, 2*seeds)
	}
	rng := rand.New(rand.NewPCG(o.Seed, stream(row, d.Column)))
	d.SignFlip.P = signFlip(gain(first.pairs, second.pairs), rng, o.Resamples)
	d.GroupSignFlip.P = signFlip(gain(first.whole, second.whole), rng, o.Resamples)
}

// test asks how likely chance is to tell pairs, [G] of each group, and whole groups apart as well, or as badly: right and
// wrong are as likely, and a tie is half of each.
func (c *Cell) test(row, column string, seeds *meanResult, pairs []float64, trainings int, o Options) {
	gain, groupGain := make([]float64, len(pairs)), make([]float64, len(pairs)) // [G]
	for g := range gain {
		gain[g] = seeds.pairs.wins[g] + seeds.pairs.ties[g]/2 - pairs[g]/2
		groupGain[g] = seeds.whole.wins[g] + seeds.whole.ties[g]/2 - 0.5
	}
	rng := rand.New(rand.NewPCG(o.Seed, stream(row, column, "chance")))
	c.Chance.P = signFlip(inParts(gain, 2*trainings), rng, o.Resamples)
	c.GroupChance.P = signFlip(inParts(groupGain, 2*trainings), rng, o.Resamples)
}

// inParts counts gains in parts of one; what is between is rounding.
func inParts(gain []float64, parts int) []int {
	out := make([]int, len(gain))
	for g, x := range gain {
		out[g] = int(math.Round(x * float64(parts)))
	}
	return out
}

// McNemar is the exact two-sided p-value of McNemar's test: of first+second pairs on
// which two models part, how likely is a split at least as uneven if either side is as
// likely as the other. Pairs are taken for independent. With ties among the outcomes it
// is the sign test, which is McNemar's where there are none.
func McNemar(first, second int) float64 {
	n := first + second
	logFactorial := func(k int) float64 {
		l, _ := math.Lgamma(float64(k) + 1)
		return l
	}
	var tail float64
	for k := range min(first, second) + 1 {
		tail += math.Exp(logFactorial(n) - logFactorial(k) - logFactorial(n-k) - float64(n)*math.Ln2)
	}
	return min(1, 2*tail)
}

// countedFlips bounds the additions for counting all assignments of signs: a tenth of a second.
const countedFlips = 1 << 25

// signFlip is the two-sided p-value of a sum of gains per group, were each group as likely
// to have gained as lost so much: the share of sign assignments with a sum as far from
// zero. All are counted, by their sums, up to countedFlips; beyond, as many as draws are
// drawn, and the data count as one more.
func signFlip(gain []int, rng *rand.Rand, draws int) float64 {
	gain = slices.DeleteFunc(slices.Clone(gain), func(x int) bool { return x == 0 })
	sum, all := 0, 0
	for _, x := range gain {
		sum, all = sum+x, all+max(x, -x)
	}
	far := func(flipped int) bool { return max(flipped, -flipped) >= max(sum, -sum) }
	if len(gain)*(2*all+1) <= countedFlips {
		share, next := make([]float64, 2*all+1), make([]float64, 2*all+1) // of assignments, by sum+all
		share[all] = 1
		for reach, g := 0, 0; g < len(gain); g++ {
			x := max(gain[g], -gain[g])
			clear(next)
			for at := all - reach; at <= all+reach; at++ {
				next[at-x] += share[at] / 2
				next[at+x] += share[at] / 2
			}
			share, next, reach = next, share, reach+x
		}
		var p float64
		for at, s := range share {
			if far(at - all) {
				p += s
			}
		}
		return min(1, p)
	}
	count := 1
	for range draws {
		flipped := 0
		var signs uint64
		for g, x := range gain {
			if g%64 == 0 {
				signs = rng.Uint64()
			}
			if signs&1 == 1 {
				x = -x
			}
			signs >>= 1
			flipped += x
		}
		if far(flipped) {
			count++
		}
	}
	return float64(count) / float64(draws+1)
}

// adjust fills in Holm for the families of tests in a table.
func adjust(rows []Row) {
	var properties []*Difference
	for i := range rows {
		var row []*Difference
		for j := range rows[i].Differences {
			row = append(row, &rows[i].Differences[j])
		}
		if rows[i].Pooled {
			adjustFamily(row)
		} else {
			properties = append(properties, row...)
		}
	}
	adjustFamily(properties)
}

func adjustFamily(family []*Difference) {
	for _, of := range []func(*Difference) *PValue{
		func(d *Difference) *PValue { return &d.McNemar },
		func(d *Difference) *PValue { return &d.SignFlip },
		func(d *Difference) *PValue { return &d.GroupSignFlip },
	} {
		p := make([]float64, len(family))
		for i, d := range family {
			p[i] = of(d).P
		}
		for i, adjusted := range Holm(p) {
			of(family[i]).Holm = adjusted
		}
	}
}

// Holm adjusts p-values so that judging all of them at a level keeps the chance of any
// false rejection at that level: the i-th smallest of n times n-i+1, never below the one before.
func Holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] < p[b]:
			return -1
		case p[a] > p[b]:
			return 1
		}
		return 0
	})
	out := make([]float64, len(p))
	var largest float64
	for rank, i := range order {
		largest = max(largest, min(1, p[i]*float64(len(p)-rank)))
		out[i] = largest
	}
	return out
}
