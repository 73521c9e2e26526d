package compare

import (
	"fmt"
	"math"
	"slices"
)

// PublishedMetrics are the numbers the published evaluation prints for one
// context length (jepa-intuitive-physics at 41fbfff, compute_metrics), with its
// rounding. Percentages are 0 to 100, rounded to float32 as there.
type PublishedMetrics struct {
	RelativeAccuracyAvg     float64 `json:"relative_accuracy_avg"` // %
	RelativeAccuracyMax     float64 `json:"relative_accuracy_max"` // %
	AbsoluteAccuracyMax     float64 `json:"absolute_accuracy_max"` // %
	Threshold               float64 `json:"threshold"`
	BestAbsoluteAccuracyMax float64 `json:"best_absolute_accuracy_max_oracle"` // %
	BestThreshold           float64 `json:"best_threshold_oracle"`
	AUPRCAvg                float64 `json:"auprc_avg"`
	AUPRCMax                float64 `json:"auprc_max"`
	AUROCAvg                float64 `json:"auroc_avg"`
	AUROCMax                float64 `json:"auroc_max"`
}

// PublishedMatches pairs the videos of a quadruplet as the published evaluation does:
// breakingPoints are the frames at which videos 1, 2 and 3 first differ from video 0 (see
// PublishedBreakingPoint). The one that differs last, the first of equal ones, is paired
// with video 0, and the other two with each other, whatever their labels. MatchByStart is
// what pairs are found by here; on a quadruplet as it should be both agree.
func PublishedMatches(breakingPoints [3]int) [2][2]int {
	latest := 0
	for i, frame := range breakingPoints {
		if frame > breakingPoints[latest] {
			latest = i
		}
	}
	switch latest {
	case 0:
		return [2][2]int{{0, 1}, {2, 3}}
	case 1:
		return [2][2]int{{0, 2}, {1, 3}}
	}
	return [2][2]int{{0, 3}, {1, 2}}
}

// PublishedBreakingPoint is the first frame at which two videos [3,T,pixels] differ in the
// sum of all their values, or T. It is the published rule, trap included: differences of
// either sign can cancel, and a frame that differs then counts as equal.
func PublishedBreakingPoint(a, b []float32, frames int) int {
	pixels := len(a) / 3 / frames
	for t := range frames {
		var sum float32
		for c := range 3 {
			at := (c*frames + t) * pixels
			var channel float32
			for i := at; i < at+pixels; i++ {
				channel += a[i] - b[i]
			}
			sum += channel
		}
		if sum != 0 {
			return t
		}
	}
	return frames
}

// Published computes the published metrics of losses [N,W] with labels [N],
// traps included, so that published tables can be reproduced; Summarize is what
// to judge a model by. The traps: the possible videos are matched to the
// impossible ones by their order; shorter videos are filled with zero windows,
// which enter every average; a threshold is an element of the sample and so
// needs 10 possible videos; the best threshold is one of 100 between the least
// surprising possible and the most surprising impossible video. For "filtered"
// give the minimum over contexts.
func Published(losses [][]float32, labels []int) (PublishedMetrics, error) {
	var m PublishedMetrics
	if len(losses) != len(labels) {
		return m, fmt.Errorf("published metrics: %d videos, %d labels", len(losses), len(labels))
	}
	avg := make([]float64, len(losses)) // [N], float32 values
	largest := make([]float64, len(losses))
	for i, row := range losses {
		if len(row) == 0 || len(row) != len(losses[0]) {
			return m, fmt.Errorf("published metrics: video %d has %d windows, video 0 has %d; fill with zeros as published", i, len(row), len(losses[0]))
		}
		avg[i], largest[i] = float64(mean32(row)), float64(slices.Max(row))
	}
	possibleAvg, impossibleAvg, err := split(avg, labels)
	if err != nil {
		return m, fmt.Errorf("published metrics: %w", err)
	}
	possible, impossible, err := split(largest, labels)
	if err != nil {
		return m, fmt.Errorf("published metrics: %w", err)
	}
	if len(possible) != len(impossible) {
		return m, fmt.Errorf("published metrics: %d possible and %d impossible videos cannot be matched by order", len(possible), len(impossible))
	}
	if len(possible) < MinPossible {
		return m, fmt.Errorf("published metrics: %d possible videos, the threshold at 90 %% needs at least %d", len(possible), MinPossible)
	}

	m.RelativeAccuracyAvg = percent32(countLess(possibleAvg, impossibleAvg), len(possible))
	m.RelativeAccuracyMax = percent32(countLess(possible, impossible), len(possible))
	m.AUROCAvg, m.AUROCMax = AUROC(possibleAvg, impossibleAvg), AUROC(possible, impossible)
	m.AUPRCAvg, m.AUPRCMax = AUPRC(possibleAvg, impossibleAvg), AUPRC(possible, impossible)

	slices.Sort(possible)
	slices.Sort(impossible)
	right := func(threshold float64) (n int) {
		for i := range possible {
			if possible[i] < threshold {
				n++
			}
			if impossible[i] > threshold {
				n++
			}
		}
		return n
	}
	m.Threshold = possible[int(math.Ceil(0.9*float64(len(possible))))]
	m.AbsoluteAccuracyMax = percent32(right(m.Threshold), len(labels))

	const steps = 100
	first, last := possible[0], impossible[len(impossible)-1]
	best := -1
	for i := range steps {
		threshold := float64(i)*((last-first)/(steps-1)) + first
		if i == steps-1 {
			threshold = last
		}
		if n := right(float64(float32(threshold))); n > best {
			best, m.BestThreshold = n, threshold
		}
	}
	m.BestAbsoluteAccuracyMax = percent32(best, len(labels))
	return m, nil
}

// countLess counts the pairs told apart; a tie is wrong.
func countLess(possible, impossible []float64) (n int) {
	for i := range possible {
		if possible[i] < impossible[i] {
			n++
		}
	}
	return n
}

// percent32 is n of total in percent with the rounding of float32 arithmetic.
func percent32(n, total int) float64 {
	return float64(float32(n) / float32(total) * 100)
}

// mean32 is a float32 mean in the order the published code's library sums a row on
// a CPU with 8 float32 lanes: the last len%8 values first, then the lanes, each of
// which is four running sums. Videos built to tie are told apart or not by this
// rounding alone, so the order is part of the published result. (From 512 windows
// on that library also folds its sums; that is not followed.)
func mean32(row []float32) float32 {
	const lanes, ways = 8, 4
	vectors := len(row) / lanes
	var acc [ways][lanes]float32
	for v := range vectors {
		way := 0
		if v < vectors/ways*ways {
			way = v % ways
		}
		for l := range lanes {
			acc[way][l] += row[v*lanes+l]
		}
	}
	var sum float32
	for _, x := range row[vectors*lanes:] {
		sum += x
	}
	for l := range lanes {
		lane := acc[0][l]
		for way := 1; way < ways; way++ {
			lane += acc[way][l]
		}
		sum += lane
	}
	return sum / float32(len(row))
}
