package compare

import (
	"fmt"
	"io"
	"strings"
)

// PublishedRow is the published metrics of one property under one context length.
type PublishedRow struct {
	Property string           `json:"property"`
	Context  string           `json:"context"` // frames, or "filtered"
	Videos   int              `json:"videos"`
	Metrics  PublishedMetrics `json:"metrics"`
	// Problem says why there are no metrics: too few videos, or no one-to-one pairs.
	Problem string `json:"problem,omitempty"`
}

// PublishedTable computes what the published evaluation prints of a score file's model, a
// row per property and context length and one for the minimum over contexts, traps
// included (see Published): windows are filled up with zeros to the longest video of the
// property, and numbers are float32. It is for setting beside published tables; what the
// scores show is in Summarize.
func PublishedTable(f *File) ([]PublishedRow, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("published metrics: %w", err)
	}
	if f.Unlabelled() {
		return nil, fmt.Errorf("published metrics: %w", ErrNoLabels)
	}
	if len(f.Spec.Contexts) == 0 {
		return nil, fmt.Errorf("published metrics: the model has no context lengths; the published procedure is for masked models")
	}
	set, _ := f.Set(ModelSet)
	var out []PublishedRow
	for _, r := range rowGroups(f.groups()) {
		if r.pooled {
			continue
		}
		var order, labels []int // videos pair by pair, as the published code lists them
		problem := ""
		windows := 0
		for _, g := range r.groups {
			if len(g.pairs) != len(g.possible) || len(g.pairs) != len(g.impossible) {
				problem = fmt.Sprintf("group %q has %d possible and %d impossible videos in %d pairs, want one-to-one", g.name, len(g.possible), len(g.impossible), len(g.pairs))
			}
			for _, p := range g.pairs {
				order, labels = append(order, p.Possible, p.Impossible), append(labels, 1, 0)
				windows = max(windows, len(f.Videos[p.Possible].WindowStart), len(f.Videos[p.Impossible].WindowStart))
			}
		}
		for c := range len(f.Spec.Contexts) + 1 {
			row := PublishedRow{Property: r.name, Context: "filtered", Videos: len(order), Problem: problem}
			if c < len(f.Spec.Contexts) {
				row.Context = fmt.Sprint(f.Spec.Contexts[c])
			}
			if problem == "" {
				losses := make([][]float32, len(order))
				for i, v := range order {
					losses[i] = publishedLosses(set.Scores[v].Surprise, c, windows)
				}
				var err error
				if row.Metrics, err = Published(losses, labels); err != nil {
					row.Problem = err.Error()
				}
			}
			out = append(out, row)
		}
	}
	return out, nil
}

// publishedLosses is row c of surprise [C,W], or for c = C the minimum over contexts, then zeros. A row that is shorter
// than others ends in zeros too, as published, and so does the minimum then.
func publishedLosses(surprise [][]float64, c, windows int) []float32 {
	row := func(c int) []float32 {
		out := make([]float32, windows)
		for w, x := range surprise[c] {
			out[w] = float32(x)
		}
		return out
	}
	if c < len(surprise) {
		return row(c)
	}
	out := row(0)
	for c := range surprise {
		for w, x := range row(c) {
			out[w] = min(out[w], x)
		}
	}
	return out
}

// WritePublished prints published metrics for a terminal.
func WritePublished(w io.Writer, rows []PublishedRow) error {
	lines := [][]string{{"property", "context", "videos", "relative avg", "relative max", "absolute max", "best absolute (oracle)", "AUROC avg", "AUROC max", "AUPRC avg", "AUPRC max"}}
	for _, r := range rows {
		line := []string{r.Property, r.Context, fmt.Sprint(r.Videos)}
		if r.Problem != "" {
			for range 8 {
				line = append(line, "-")
			}
			lines = append(lines, append(line, r.Problem))
			continue
		}
		m := r.Metrics
		for _, x := range []float64{m.RelativeAccuracyAvg, m.RelativeAccuracyMax, m.AbsoluteAccuracyMax, m.BestAbsoluteAccuracyMax} {
			line = append(line, fmt.Sprintf("%.2f", x))
		}
		for _, x := range []float64{m.AUROCAvg, m.AUROCMax, m.AUPRCAvg, m.AUPRCMax} {
			line = append(line, fmt.Sprintf("%.5f", x))
		}
		lines = append(lines, line)
	}
	var b strings.Builder
	b.WriteString("The metrics of the published evaluation, its quirks included: zero windows in averages, thresholds from these very videos.\n" +
		"Taking the best context of them is an oracle.\n\n")
	writeColumns(&b, lines)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing published metrics: %w", err)
	}
	return nil
}
