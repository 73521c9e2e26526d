package report

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/plausibility/compare"
)

// document is a page's numbers.
type document struct {
	Title        string                `json:"title"`
	Made         string                `json:"made"`
	Table        *compare.Table        `json:"table"`
	Localisation *compare.Localisation `json:"localisation,omitempty"`
	Controls     *compare.Table        `json:"controls,omitempty"`
	Baseline     *compare.Table        `json:"baseline,omitempty"`
	Rankings     []Ranked              `json:"rankings,omitempty"`
	Evaluations  []Evaluation          `json:"evaluations,omitempty"`
	Training     []stepJSON            `json:"training,omitempty"`
	Provenance   []Fact                `json:"provenance"`
	Skipped      []compare.Skipped     `json:"skipped"`
}

// stepJSON is a Step with null for what is no number, which JSON cannot hold.
type stepJSON struct {
	Step          int      `json:"step"`
	Loss          *float64 `json:"loss"`
	EffectiveRank *float64 `json:"effective_rank"`
	FeatureStd    *float64 `json:"feature_std"`
	Cosine        *float64 `json:"cosine"`
}

// SaveJSON writes a page's numbers to path: whole, or not at all.
func SaveJSON(path string, p *Page) error {
	if p.Table == nil {
		return fmt.Errorf("writing %s: no table", path)
	}
	finite := func(x float64) *float64 {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil
		}
		return &x
	}
	d := document{p.Title, p.Made, p.Table, p.Localisation, p.Controls, p.Baseline, p.Rankings, p.Evaluations, nil, facts(p), p.Table.Skipped}
	for _, s := range p.Training {
		d.Training = append(d.Training, stepJSON{s.Step, finite(s.Loss), finite(s.EffectiveRank), finite(s.FeatureStd), finite(s.Cosine)})
	}
	return durable.WriteFile(path, 0o644, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(d)
	})
}

// SaveTableCSV writes a line per row and column of the table to path: whole, or not at all.
func SaveTableCSV(path string, t *compare.Table) error {
	if t == nil {
		return fmt.Errorf("writing %s: no table", path)
	}
	lines := [][]string{{"property", "pooled", "groups", "pairs", "column", "accuracy", "accuracy_low", "accuracy_high",
		"group_accuracy", "group_accuracy_low", "group_accuracy_high", "auroc", "auroc_low", "auroc_high", "ties", "verdict",
		"group_ties", "group_verdict", "chance_p", "chance_p_holm", "group_chance_p", "group_chance_p_holm"}}
	for _, r := range t.Rows {
		for c, cell := range r.Cells {
			line := []string{r.Name, strconv.FormatBool(r.Pooled), strconv.Itoa(r.Groups), strconv.Itoa(r.Pairs), t.Columns[c]}
			for _, i := range []compare.Interval{cell.Accuracy, cell.GroupAccuracy, cell.AUROC} {
				line = append(line, number(i.Value), number(i.Low), number(i.High))
			}
			lines = append(lines, append(line, number(cell.Ties), cell.Verdict, number(cell.GroupTies), cell.GroupVerdict,
				number(cell.Chance.P), number(cell.Chance.Holm), number(cell.GroupChance.P), number(cell.GroupChance.Holm)))
		}
	}
	return saveCSV(path, lines)
}

// SaveVideosCSV writes the manifest of the scored videos with what each scored under the
// statistic, when its pair parts and when the model's surprise peaks, and the skipped
// ones with the reason, to path: whole, or not at all.
func SaveVideosCSV(path string, f *compare.File, a compare.Aggregation) error {
	header := []string{"path", "label", "group", "property", "pair", "sha256", "frames", "divergence_frame", "peak_frame", "skipped"}
	var surprise [][]float64
	for i := range f.Sets {
		header = append(header, "surprise: "+f.Sets[i].Name)
		s, err := f.Sets[i].Videos(f, a)
		if err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		surprise = append(surprise, s)
	}
	model, ok := f.Set(compare.ModelSet)
	if !ok {
		return errors.New("writing " + path + ": no scores of the model")
	}
	lines := [][]string{header}
	for i, v := range f.Videos {
		line := []string{v.Path, strconv.Itoa(v.Label), v.Group, v.Property, v.Pair, v.SHA256, strconv.Itoa(v.Frames), frame(v.Divergence), frame(model.Scores[i].PeakAt), ""}
		for _, s := range surprise {
			line = append(line, number(s[i]))
		}
		lines = append(lines, line)
	}
	for _, s := range f.Skipped {
		line := make([]string, len(header))
		line[0], line[2], line[9] = s.Path, s.Group, s.Reason
		lines = append(lines, line)
	}
	return saveCSV(path, lines)
}

func frame(p *compare.Place) string {
	if p == nil {
		return ""
	}
	return strconv.Itoa(p.Frame)
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

func saveCSV(path string, lines [][]string) error {
	return durable.WriteFile(path, 0o644, func(w io.Writer) error { return csv.NewWriter(w).WriteAll(lines) })
}
