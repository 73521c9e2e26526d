package compare

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// weighed are the surprises of ordinary videos in ascending order. Videos of a group are alike and no independent
// witnesses, so each weighs its share of a group, and all together as many as there are groups.
type weighed struct {
	values []float64
	before []float64 // [len+1] weight of the first so many
}

// weigh sorts values, [N], each with its weight, [N].
func weigh(values, weight []float64) weighed {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, k int) int { return cmp.Compare(values[i], values[k]) })
	w := weighed{values: make([]float64, 0, len(values)), before: make([]float64, 1, len(values)+1)}
	var sum float64
	for _, i := range order {
		sum += weight[i]
		w.values, w.before = append(w.values, values[i]), append(w.before, sum)
	}
	return w
}

// around is the weight below x, and that of what is equal.
func (w weighed) around(x float64) (below, same float64) {
	from := sort.SearchFloat64s(w.values, x)
	to := sort.Search(len(w.values), func(k int) bool { return w.values[k] > x })
	return w.before[from], w.before[to] - w.before[from]
}

// rankAmong places a video among the ordinary ones of groups: the share of them that it surprises more than, ties half, 0 to
// 1, and the conformal p, the chance that one like them surprises at least as much. The group of the video that is judged
// has a place in p as well, which makes it valid where groups are exchangeable (Lee, Barber and Willett,
// arXiv:2306.06342, for data in groups).
func rankAmong(below, same, groups float64) (rank, p float64) {
	snap := func(x float64) float64 { return math.Round(min(1, max(0, x))*1e12) / 1e12 } // shares add up but for rounding
	return snap((below + same/2) / groups), snap((1 + groups - below) / (1 + groups))
}
