package compare

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Options says how a table is made. The zero value is the default.
type Options struct {
	Aggregation Aggregation // default DefaultAggregation of the spec
	Confidence  float64     // default 0.95
	Resamples   int         // default 10,000
	Seed        uint64      // of the bootstrap
}

func (o Options) withDefaults(s Spec) (Options, error) {
	if o.Aggregation.Name == "" {
		o.Aggregation = DefaultAggregation(s)
	}
	if o.Confidence == 0 {
		o.Confidence = 0.95
	}
	if o.Resamples == 0 {
		o.Resamples = 10_000
	}
	if !(o.Confidence > 0 && o.Confidence < 1) {
		return o, fmt.Errorf("confidence: %g, want a share between 0 and 1", o.Confidence)
	}
	if o.Resamples < 100 || o.Resamples > 1_000_000 {
		return o, fmt.Errorf("resamples: %d, want 100 to 1,000,000", o.Resamples)
	}
	return o, nil
}

// Table compares columns (a model and its twin, or several models) on the same
// videos: a row per property, then pooled rows.
type Table struct {
	Aggregation Aggregation `json:"aggregation"`
	Confidence  float64     `json:"confidence"`
	Resamples   int         `json:"resamples"`
	Seed        uint64      `json:"seed"`
	Columns     []string    `json:"columns"`
	Rows        []Row       `json:"rows"`             // properties in order of first appearance, then Visible, Occluded, All
	Single      []Single    `json:"single_videos"`    // per column, all videos
	Others      []Other     `json:"other_statistics"` // the pooled accuracy under every other aggregation
	Twins       []Twin      `json:"twins,omitempty"`  // of Models: the floor of each column, pooled over all
	Skipped     []Skipped   `json:"skipped"`
	Warnings    []string    `json:"warnings"`
}

// Names of the pooled rows.
const (
	Visible  = "visible"
	Occluded = "occluded"
	All      = "all"
)

// MinGroups is the number of groups below which a row carries a warning: a
// bootstrap over fewer says little about its own spread.
const MinGroups = 10

// Row is one property, or several pooled.
type Row struct {
	Name        string       `json:"name"`
	Pooled      bool         `json:"pooled"`
	Groups      int          `json:"groups"`
	Pairs       int          `json:"pairs"`
	Cells       []Cell       `json:"cells"`       // per column
	Differences []Difference `json:"differences"` // the first column minus each later one
}

// Cell is one column's figures in a row. Chance is 0.5 for all three.
type Cell struct {
	Accuracy      Interval `json:"accuracy"`       // share of pairs whose impossible video surprises more; a tie is wrong
	GroupAccuracy Interval `json:"group_accuracy"` // share of groups whose impossible videos together surprise more, which cancels content
	AUROC         Interval `json:"auroc"`          // single videos across all groups of the row
	Ties          float64  `json:"ties"`           // share of pairs that tie, which Accuracy counts as wrong
	Verdict       string   `json:"verdict"`        // of the accuracy: AboveChance, BelowChance or Inconclusive; ties alone put nothing below chance
}

// Verdicts.
const (
	AboveChance  = "above chance"
	BelowChance  = "below chance"
	Higher       = "higher"
	Lower        = "lower"
	Inconclusive = "inconclusive"
)

// Difference is the first column minus another one, on the same resamples, and
// the pairs on which they part.
type Difference struct {
	Column        string   `json:"column"`
	Accuracy      Interval `json:"accuracy"`
	GroupAccuracy Interval `json:"group_accuracy"`
	AUROC         Interval `json:"auroc"`
	Both          int      `json:"pairs_both_right"`
	First         int      `json:"pairs_only_first_right"`
	Second        int      `json:"pairs_only_second_right"`
	Neither       int      `json:"pairs_neither_right"`
	Verdict       string   `json:"verdict"` // of the accuracy: Higher, Lower or Inconclusive
}

// Other is the pooled pairwise accuracy under another aggregation.
type Other struct {
	Aggregation Aggregation `json:"aggregation"`
	Accuracy    []Interval  `json:"accuracy"` // per column
}

// Twin is the floor of one column: its model, untrained.
type Twin struct {
	Column   string   `json:"column"`
	Accuracy Interval `json:"accuracy"` // pooled over all
}

// column is one set of surprises: what tables are made of.
type column struct {
	name string
	set  *Set
	spec Spec
}

// Summarize sets the model of a score file beside its untrained twin (if it was
// scored), per property and pooled.
func Summarize(f *File, o Options) (*Table, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("summarizing scores: %w", err)
	}
	var columns []column
	for _, name := range []string{ModelSet, TwinSet} {
		if set, ok := f.Set(name); ok {
			columns = append(columns, column{name, set, f.Spec})
		}
	}
	t, err := build(f, columns, o)
	if err != nil {
		return nil, fmt.Errorf("summarizing scores: %w", err)
	}
	if len(columns) == 1 {
		t.Warnings = append(t.Warnings, "no untrained twin was scored: an artefact of the clips can look like understanding")
	}
	return t, nil
}

// Models sets the models of two or more score files beside one another. names
// call the columns; empty ones become the models' own names. The files must have
// been made with like specs, preprocessing and data: the first field that
// differs is named in the error, which wraps ErrUnlike.
func Models(files []*File, names []string, o Options) (*Table, error) {
	if len(files) < 2 {
		return nil, fmt.Errorf("comparing models: %d score files, want at least 2", len(files))
	}
	if len(names) != len(files) {
		return nil, fmt.Errorf("comparing models: %d names for %d score files", len(names), len(files))
	}
	names = slices.Clone(names)
	for i, f := range files {
		if err := f.Validate(); err != nil {
			return nil, fmt.Errorf("comparing models: file %d: %w", i+1, err)
		}
		if names[i] == "" {
			names[i] = f.Sets[0].Model.Name
		}
		if names[i] == "" || slices.Contains(names[:i], names[i]) {
			names[i] = strings.TrimSpace(fmt.Sprintf("%s #%d", names[i], i+1))
		}
		if err := Like(files[0], f); err != nil {
			return nil, fmt.Errorf("comparing models: %s and %s: %w", names[0], names[i], err)
		}
	}
	var columns, twins []column
	for i, f := range files {
		model, _ := f.Set(ModelSet)
		columns = append(columns, column{names[i], aligned(files[0], f, model), f.Spec})
		if twin, ok := f.Set(TwinSet); ok {
			twins = append(twins, column{names[i], aligned(files[0], f, twin), f.Spec})
		}
	}
	t, err := build(files[0], columns, o)
	if err != nil {
		return nil, fmt.Errorf("comparing models: %w", err)
	}
	for i, f := range files[1:] {
		if a, b := precisionOf(files[0]), precisionOf(f); a != b {
			t.Warnings = append(t.Warnings, fmt.Sprintf("%s was scored in %s, %s in %s; a difference as small as rounding means nothing", names[0], a, names[i+1], b))
		}
	}
	if len(twins) > 0 {
		floor, err := pooled(files[0], twins, Options{t.Aggregation, t.Confidence, t.Resamples, t.Seed})
		if err != nil {
			return nil, fmt.Errorf("comparing models: %w", err)
		}
		for i, twin := range twins {
			t.Twins = append(t.Twins, Twin{twin.name, floor.Cells[i].Accuracy})
		}
	}
	return t, nil
}

// precisionOf is the precision of a file; one that does not say is of when there was only one.
func precisionOf(f *File) string { return cmp.Or(f.Precision, "fp32") }

func build(f *File, columns []column, o Options) (*Table, error) {
	o, err := o.withDefaults(f.Spec)
	if err != nil {
		return nil, err
	}
	surprise := make([][]float64, len(columns)) // [columns][N]
	for i, c := range columns {
		if surprise[i], err = c.set.Videos(c.spec, o.Aggregation); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	t := &Table{Aggregation: o.Aggregation, Confidence: o.Confidence, Resamples: o.Resamples, Seed: o.Seed,
		Skipped: f.Skipped, Warnings: []string{}}
	labels := make([]int, len(f.Videos))
	for i, v := range f.Videos {
		labels[i] = v.Label
	}
	for i, c := range columns {
		t.Columns = append(t.Columns, c.name)
		single, err := SingleVideos(surprise[i], labels)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		t.Single = append(t.Single, single)
		if single.Warning != "" && i == 0 {
			t.Warnings = append(t.Warnings, single.Warning)
		}
	}
	for _, r := range rowGroups(f.groups()) {
		row, err := makeRow(r, t.Columns, surprise, o, true)
		if err != nil {
			return nil, err
		}
		if row.Groups < MinGroups {
			t.Warnings = append(t.Warnings, fmt.Sprintf("%s: %d groups; an interval from fewer than %d says little", row.Name, row.Groups, MinGroups))
		}
		t.Rows = append(t.Rows, row)
	}
	for _, a := range Aggregations() {
		if a == o.Aggregation {
			continue
		}
		row, err := pooled(f, columns, Options{a, o.Confidence, o.Resamples, o.Seed})
		if err != nil {
			return nil, err
		}
		other := Other{Aggregation: a}
		for _, c := range row.Cells {
			other.Accuracy = append(other.Accuracy, c.Accuracy)
		}
		t.Others = append(t.Others, other)
	}
	if f.Dataset != nil {
		for _, note := range f.Dataset.Notes {
			t.Warnings = append(t.Warnings, f.Dataset.Name+": "+note)
		}
	}
	if len(f.Skipped) > 0 {
		t.Warnings = append(t.Warnings, fmt.Sprintf("of %d videos %d were skipped; see the list of them", len(f.Videos)+len(f.Skipped), len(f.Skipped)))
	}
	return t, nil
}

// pooled is the All row of columns, without AUROC.
func pooled(f *File, columns []column, o Options) (Row, error) {
	var names []string
	var surprise [][]float64
	for _, c := range columns {
		s, err := c.set.Videos(c.spec, o.Aggregation)
		if err != nil {
			return Row{}, fmt.Errorf("%s: %w", c.name, err)
		}
		names, surprise = append(names, c.name), append(surprise, s)
	}
	return makeRow(namedGroups{All, true, f.groups()}, names, surprise, o, false)
}

// Row returns the row of a name.
func (t *Table) Row(name string) (*Row, bool) {
	for i := range t.Rows {
		if t.Rows[i].Name == name {
			return &t.Rows[i], true
		}
	}
	return nil, false
}
