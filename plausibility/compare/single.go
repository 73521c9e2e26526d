package compare

import "math"

// singleOfSeeds measures single videos for each seed, [seeds][N], and returns the means,
// with intervals over resampled groups and seeds.
func singleOfSeeds(groups []group, surprise [][]float64, labels []int, o Options) (Single, error) {
	var s Single
	seeds := make([]pairResult, len(surprise))
	share := 1 / float64(len(surprise))
	add := func(sum **float64, x *float64) {
		if x == nil {
			return
		}
		if *sum == nil {
			*sum = new(float64)
		}
		**sum += share * *x
	}
	for k := range surprise {
		if err := o.stopped(); err != nil {
			return s, err
		}
		one, err := SingleVideos(surprise[k], labels)
		if err != nil {
			return s, err
		}
		seeds[k] = judge(groups, surprise[k])
		if len(surprise) == 1 {
			s = one
			break
		}
		s.AUROC += share * one.AUROC
		s.AUPRC += share * one.AUPRC
		s.BestAbsoluteAccuracy += share * one.BestAbsoluteAccuracy
		add(&s.AbsoluteAccuracy, one.AbsoluteAccuracy)
		add(&s.PossibleBelow, one.PossibleBelow)
		add(&s.ImpossibleAbove, one.ImpossibleAbove)
		s.Warning = one.Warning // of the number of videos, the same for all
	}

	once := [][]float64{ones(len(surprise))}
	draws := newResampler(o.Seed, stream("single videos"), len(groups))
	var auprc, absolute []float64
	for i := 0; o.more(i); i++ {
		weight, drawn := draws.draw(), draws.seeds(once)[0]
		var area, right float64
		for k := range seeds {
			if drawn[k] == 0 {
				continue
			}
			area += drawn[k] * share * weightedAUPRC(seeds[k].ordered, weight)
			right += drawn[k] * share * weightedAbsolute(seeds[k].ordered, weight)
		}
		auprc = append(auprc, area)
		if !math.IsNaN(right) {
			absolute = append(absolute, right)
		}
	}
	s.AUPRCInterval = percentileInterval(s.AUPRC, auprc, len(groups), o.Confidence, 0, 1)
	if s.AbsoluteAccuracy != nil && len(absolute) > o.Resamples/2 {
		i := percentileInterval(*s.AbsoluteAccuracy, absolute, len(groups), o.Confidence, 0, 1)
		s.AbsoluteInterval = &i
	}
	return s, nil
}

// weightedAUPRC is AUPRC with each group drawn weight[group] times; videos come least
// surprising first.
func weightedAUPRC(videos []ordered, weight []float64) float64 {
	var possible float64
	for _, v := range videos {
		if v.possible {
			possible += weight[v.group]
		}
	}
	var area, truePositive, falsePositive, recall float64
	precision := 1.0 // by definition where recall is 0
	for i := 0; i < len(videos); {
		for x := videos[i].surprise; i < len(videos) && videos[i].surprise == x; i++ {
			if videos[i].possible {
				truePositive += weight[videos[i].group]
			} else {
				falsePositive += weight[videos[i].group]
			}
		}
		if truePositive+falsePositive == 0 {
			continue // nothing drawn so far
		}
		nextRecall, nextPrecision := truePositive/possible, truePositive/(truePositive+falsePositive)
		area += (nextRecall - recall) * (precision + nextPrecision) / 2
		recall, precision = nextRecall, nextPrecision
	}
	return area
}

// weightedAbsolute is Single.AbsoluteAccuracy with each group drawn weight[group] times;
// NaN where fewer than MinPossible possible videos were drawn. Videos come least
// surprising first.
func weightedAbsolute(videos []ordered, weight []float64) float64 {
	var possible, all float64
	for _, v := range videos {
		all += weight[v.group]
		if v.possible {
			possible += weight[v.group]
		}
	}
	if possible < MinPossible {
		return math.NaN()
	}
	at := math.Ceil(0.9 * possible)
	threshold, seen := 0.0, 0.0
	for _, v := range videos {
		if v.possible {
			threshold, seen = v.surprise, seen+weight[v.group]
		}
		if seen > at {
			break
		}
	}
	var right float64
	for _, v := range videos {
		if v.possible && v.surprise < threshold || !v.possible && v.surprise > threshold {
			right += weight[v.group]
		}
	}
	return right / all
}
