package worker

import (
	"context"

	"github.com/surmise-ml/surmise/plausibility/compare"
)

// metricsOf are what scores come to.
func metricsOf(ctx context.Context, scores *compare.File, seed uint64) (map[string]float64, error) {
	if scores.Unlabelled() {
		listing, err := compare.List(scores, nil, compare.Options{})
		if err != nil {
			return nil, err
		}
		return listingMetrics(listing), nil
	}
	table, err := compare.Summarize(scores, compare.Options{Seed: seed, Done: ctx.Done()})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return scoreMetrics(table), nil
}

// listingMetrics are the mean and the largest surprise of each column.
func listingMetrics(l *compare.Listing) map[string]float64 {
	out := map[string]float64{"videos": float64(len(l.Videos)), "skipped_videos": float64(len(l.Skipped))}
	for c, name := range l.Columns {
		prefix, ok := map[string]string{compare.ModelSet: "", compare.TwinSet: "twin_"}[name]
		if !ok {
			continue
		}
		var sum, largest float64
		for _, v := range l.Videos {
			sum, largest = sum+v.Columns[c].Surprise, max(largest, v.Columns[c].Surprise)
		}
		out[prefix+"mean_surprise"], out[prefix+"largest_surprise"] = sum/float64(len(l.Videos)), largest
	}
	if l.TwinCorrelation != nil {
		out["twin_rank_correlation"] = *l.TwinCorrelation
	}
	return out
}

// scoreMetrics are the pooled figures, and the accuracy of every property.
func scoreMetrics(t *compare.Table) map[string]float64 {
	out := map[string]float64{}
	all, ok := t.Row(compare.All)
	if !ok {
		return out
	}
	for c, name := range t.Columns {
		prefix := ""
		if name == compare.TwinSet {
			prefix = "twin_"
		}
		cell := all.Cells[c]
		out[prefix+"pairwise_accuracy"] = cell.Accuracy.Value
		out[prefix+"pairwise_accuracy_low"] = cell.Accuracy.Low
		out[prefix+"pairwise_accuracy_high"] = cell.Accuracy.High
		out[prefix+"auroc"] = cell.AUROC.Value
	}
	out["pairs"] = float64(all.Pairs)
	const most = 900 // of the 1000 figures that a result may hold
	for _, row := range t.Rows {
		if row.Name != compare.All && len(out) < most && len(row.Name) <= 200 {
			out["pairwise_accuracy."+row.Name] = row.Cells[0].Accuracy.Value
		}
	}
	return out
}
