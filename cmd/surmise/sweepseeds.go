package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// seedPath is the setting that tells trainings of one model apart.
const seedPath = "train.seed"

// seedGroup is the children that have all settings in common but the seed.
type seedGroup struct {
	values  string    // of the other settings, for people
	metrics []float64 // of those that succeeded
}

// bySettings groups the children that succeeded, in the order of children; nil unless several seeds of one setting did.
func bySettings(children []*surmisev1.SweepChild) []seedGroup {
	var groups []seedGroup
	at, several := map[string]int{}, false
	for _, c := range children {
		if _, seeded := c.Values[seedPath]; !seeded {
			return nil
		}
		if c.Metric == nil || c.State != surmisev1.JobState_SUCCEEDED {
			continue
		}
		others := maps.Clone(c.Values)
		delete(others, seedPath)
		delete(others, modelPath) // scores of what was trained so
		name := valuesText(others)
		i, known := at[name]
		if !known {
			i = len(groups)
			at[name], groups = i, append(groups, seedGroup{values: name})
		}
		groups[i].metrics = append(groups[i].metrics, c.GetMetric())
		several = several || len(groups[i].metrics) > 1
	}
	if !several {
		return nil
	}
	return groups
}

// spread is the mean of values and their standard deviation, NaN of one alone.
func spread(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	var squares float64
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(squares / float64(len(values)-1))
}

// writeSettings writes the settings by the mean of their seeds, sign times which is the less the better.
func writeSettings(w io.Writer, metric string, sign float64, groups []seedGroup) error {
	slices.SortStableFunc(groups, func(a, b seedGroup) int {
		x, _ := spread(a.metrics)
		y, _ := spread(b.metrics)
		return cmp.Compare(sign*x, sign*y)
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "SEEDS\tMEAN %s\tSD\tSETTING\n", terminal.Line(strings.ToUpper(metric)))
	for _, g := range groups {
		mean, deviation := spread(g.metrics)
		sd := "-"
		if len(g.metrics) > 1 {
			sd = fmt.Sprintf("%.2g", deviation)
		}
		fmt.Fprintf(table, "%d\t%.6g\t%s\t%s\n", len(g.metrics), mean, sd, orDash(g.values))
	}
	return table.Flush()
}
