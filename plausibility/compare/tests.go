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

// test counts the pairs on which two columns part, and tests whether they part to one side.
func (d *Difference) test(r namedGroups, first *meanResult, second meanResult, o Options) {
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
	}
	d.McNemar.P = McNemar(d.First, d.Second)
	gain := make([]float64, len(r.groups)) // [G]
	for g := range gain {
		gain[g] = first.wins[g] - second.wins[g]
	}
	d.SignFlip.P = signFlip(gain, rand.New(rand.NewPCG(o.Seed, stream(r.name, d.Column))), o.Resamples)
}

// McNemar is the exact two-sided p-value of McNemar's test: of first+second pairs on
// which two models part, how likely is a split at least as uneven if either side is as
// likely as the other. Pairs are taken for independent.
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

// exactFlips is the number of groups up to which every assignment of signs is counted.
const exactFlips = 12

// signFlip is the two-sided p-value of a sum of gains per group, were the two models
// exchangeable within each group: the share of sign assignments with a sum as far from
// zero. All are counted for few groups, else as many as draws are drawn, and the data
// count as one more.
func signFlip(gain []float64, rng *rand.Rand, draws int) float64 {
	gain = slices.DeleteFunc(slices.Clone(gain), func(x float64) bool { return x == 0 })
	var sum float64
	for _, x := range gain {
		sum += x
	}
	const rounding = 1e-9
	far := func(flipped float64) bool { return math.Abs(flipped) >= math.Abs(sum)-rounding }
	if len(gain) <= exactFlips {
		count := 0
		for signs := range 1 << len(gain) {
			var flipped float64
			for g, x := range gain {
				if signs>>g&1 == 1 {
					x = -x
				}
				flipped += x
			}
			if far(flipped) {
				count++
			}
		}
		return float64(count) / float64(int(1)<<len(gain))
	}
	count := 1
	for range draws {
		var flipped float64
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
