package compare

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// MinPossible is the fewest possible videos for which the 90th percentile is one
// of them with something above it; the published code fails below it.
const MinPossible = 10

// Single is how well single videos are told apart, each against all the others.
type Single struct {
	AUROC float64 `json:"auroc"`
	AUPRC float64 `json:"auprc"` // trapezoid area, as published; not average precision
	// AUPRCInterval resamples groups; the interval of AUROC is in the pooled row.
	AUPRCInterval Interval `json:"auprc_interval"`
	// AbsoluteAccuracy takes a video for impossible above Threshold, the 90th
	// percentile of the possible ones. Absent below MinPossible possible videos.
	AbsoluteAccuracy *float64 `json:"absolute_accuracy,omitempty"`
	Threshold        *float64 `json:"threshold,omitempty"` // absent for a mean over seeds
	// AbsoluteInterval is that of AbsoluteAccuracy, the threshold found anew in every resample.
	AbsoluteInterval *Interval `json:"absolute_accuracy_interval,omitempty"`
	PossibleBelow    *float64  `json:"possible_below_threshold,omitempty"`   // share of possible videos judged rightly
	ImpossibleAbove  *float64  `json:"impossible_above_threshold,omitempty"` // share of impossible videos judged rightly
	// BestAbsoluteAccuracy takes the best threshold on these very videos: an
	// oracle, an upper bound and not a result.
	BestAbsoluteAccuracy float64  `json:"best_absolute_accuracy_oracle"`
	BestThreshold        *float64 `json:"best_threshold_oracle,omitempty"` // absent for a mean over seeds
	Warning              string   `json:"warning,omitempty"`
}

// SingleVideos measures single videos by their surprise [N]; labels [N] are 1
// possible, 0 impossible. A lower surprise speaks for possible. Videos at a
// threshold count as wrong on either side, as published.
func SingleVideos(surprise []float64, labels []int) (Single, error) {
	possible, impossible, err := split(surprise, labels)
	if err != nil {
		return Single{}, err
	}
	s := Single{AUROC: AUROC(possible, impossible), AUPRC: AUPRC(possible, impossible)}
	slices.Sort(possible)
	slices.Sort(impossible)
	accuracy := func(threshold float64) float64 {
		below, _ := slices.BinarySearch(possible, threshold)
		upTo, _ := slices.BinarySearch(impossible, math.Nextafter(threshold, math.Inf(1)))
		return float64(below+len(impossible)-upTo) / float64(len(surprise))
	}
	if n := len(possible); n >= MinPossible {
		threshold := possible[int(math.Ceil(0.9*float64(n)))]
		share := accuracy(threshold)
		s.Threshold, s.AbsoluteAccuracy = &threshold, &share
		below, _ := slices.BinarySearch(possible, threshold)
		upTo, _ := slices.BinarySearch(impossible, math.Nextafter(threshold, math.Inf(1)))
		possibleBelow, impossibleAbove := float64(below)/float64(n), float64(len(impossible)-upTo)/float64(len(impossible))
		s.PossibleBelow, s.ImpossibleAbove = &possibleBelow, &impossibleAbove
	} else {
		s.Warning = fmt.Sprintf("%d possible videos: the 90th percentile needs at least %d", n, MinPossible)
	}
	best := math.Nextafter(min(possible[0], impossible[0]), math.Inf(-1))
	s.BestAbsoluteAccuracy, s.BestThreshold = accuracy(best), &best
	// Accuracy changes only at the videos themselves, so just above each is every threshold there is.
	for _, values := range [][]float64{possible, impossible} {
		for _, x := range values {
			above := math.Nextafter(x, math.Inf(1))
			if share := accuracy(above); share > s.BestAbsoluteAccuracy {
				s.BestAbsoluteAccuracy, best = share, above
			}
		}
	}
	return s, nil
}

func split(surprise []float64, labels []int) (possible, impossible []float64, err error) {
	if len(surprise) != len(labels) {
		return nil, nil, fmt.Errorf("%d surprises for %d labels", len(surprise), len(labels))
	}
	for i, x := range surprise {
		switch {
		case !finite(x):
			return nil, nil, fmt.Errorf("surprise of video %d: %g, want a finite number", i, x)
		case labels[i] == 1:
			possible = append(possible, x)
		case labels[i] == 0:
			impossible = append(impossible, x)
		default:
			return nil, nil, fmt.Errorf("label of video %d: %d, want 1 or 0", i, labels[i])
		}
	}
	if len(possible) == 0 {
		return nil, nil, errors.New("no possible video (label 1)")
	}
	if len(impossible) == 0 {
		return nil, nil, errors.New("no impossible video (label 0)")
	}
	return possible, impossible, nil
}

// AUROC is the chance that a possible video surprises less than an impossible
// one, ties counted half: the area below the ROC curve. Both must hold values.
func AUROC(possible, impossible []float64) float64 {
	all := blocks(possible, impossible)
	var area, seen float64
	for _, b := range all {
		area += b.impossible * (seen + b.possible/2)
		seen += b.possible
	}
	return area / float64(len(possible)) / float64(len(impossible))
}

// AUPRC is the area below the precision-recall curve by trapezoids, possible
// being the positive class. Both must hold values.
func AUPRC(possible, impossible []float64) float64 {
	var area, truePositive, falsePositive, recall float64
	precision := 1.0 // by definition where recall is 0
	for _, b := range blocks(possible, impossible) {
		truePositive += b.possible
		falsePositive += b.impossible
		nextRecall := truePositive / float64(len(possible))
		nextPrecision := truePositive / (truePositive + falsePositive)
		area += (nextRecall - recall) * (precision + nextPrecision) / 2
		recall, precision = nextRecall, nextPrecision
	}
	return area
}

// block counts the videos of one surprise; blocks come least surprising first.
type block struct{ surprise, possible, impossible float64 }

func blocks(possible, impossible []float64) []block {
	all := make([]block, 0, len(possible)+len(impossible))
	for _, x := range possible {
		all = append(all, block{x, 1, 0})
	}
	for _, x := range impossible {
		all = append(all, block{x, 0, 1})
	}
	slices.SortFunc(all, func(a, b block) int {
		switch {
		case a.surprise < b.surprise:
			return -1
		case a.surprise > b.surprise:
			return 1
		}
		return 0
	})
	merged := all[:0]
	for _, b := range all {
		if n := len(merged); n > 0 && merged[n-1].surprise == b.surprise {
			merged[n-1].possible += b.possible
			merged[n-1].impossible += b.impossible
			continue
		}
		merged = append(merged, b)
	}
	return merged
}
