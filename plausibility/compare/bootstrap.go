package compare

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Interval is a share with its confidence interval, all from 0 to 1 (differences
// of shares from -1 to 1).
type Interval struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Covers says whether x lies in the interval, ends included.
func (i Interval) Covers(x float64) bool { return i.Low <= x && x <= i.High }

// resampler draws groups with replacement. One draw serves every number of a
// row, for all columns: that is what makes differences paired.
type resampler struct {
	rng    *rand.Rand
	weight []float64 // [G] how often each group was drawn
}

func newResampler(seed, stream uint64, groups int) *resampler {
	return &resampler{rng: rand.New(rand.NewPCG(seed, stream)), weight: make([]float64, groups)}
}

func (r *resampler) draw() []float64 {
	clear(r.weight)
	for range r.weight {
		r.weight[r.rng.IntN(len(r.weight))]++
	}
	return r.weight
}

// once is the weight of the data themselves: every group once.
func (r *resampler) once() []float64 {
	return ones(len(r.weight))
}

func ones(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// seeds draws the seeds of each column with replacement, for columns with several: what
// another training of the same model would give is part of the uncertainty. once holds
// [columns][seeds].
func (r *resampler) seeds(once [][]float64) [][]float64 {
	out := make([][]float64, len(once))
	for c := range once {
		if len(once[c]) == 1 {
			out[c] = once[c]
			continue
		}
		out[c] = make([]float64, len(once[c]))
		for range once[c] {
			out[c][r.rng.IntN(len(once[c]))]++
		}
	}
	return out
}

func eachSeedOnce(surprise [][][]float64) [][]float64 {
	out := make([][]float64, len(surprise))
	for c := range surprise {
		out[c] = ones(len(surprise[c]))
	}
	return out
}

// rounding is by how much two shares, or differences of shares, that are one may differ, as sums round by their order.
const rounding = 1e-9

// percentileInterval is the percentile bootstrap interval of value from its
// resampled values, which it sorts. lowest and highest bound what the number can
// be at all.
//
// Where every resample gives the same number, up to rounding, as when all groups agree, the
// bootstrap sees no spread and would claim certainty after three groups. The
// interval is then the exact binomial one with groups as trials: unseen groups
// may make up a share 1 - (alpha/2)^(1/G) and hold anything.
func percentileInterval(value float64, resampled []float64, groups int, confidence, lowest, highest float64) Interval {
	slices.Sort(resampled)
	tail := (1 - confidence) / 2
	n := len(resampled)
	value = min(max(value, lowest), highest) // a sum of shares may be more than all by its rounding
	if resampled[n-1]-resampled[0] <= rounding {
		seen := math.Pow(tail, 1/float64(groups))
		return Interval{Value: value, Low: value*seen + lowest*(1-seen), High: value*seen + highest*(1-seen)}
	}
	at := func(q float64) float64 { // linear between order statistics
		position := q * float64(n-1)
		i := int(position)
		if i >= n-1 {
			return resampled[n-1]
		}
		return resampled[i] + (position-float64(i))*(resampled[i+1]-resampled[i])
	}
	// Resamples of very few groups can all lie on one side of the value.
	return Interval{Value: value, Low: min(value, at(tail)), High: max(value, at(1-tail))}
}
