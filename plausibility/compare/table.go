package compare

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Options says how a table is made. The zero value is the default.
type Options struct {
	Aggregation Aggregation // default DefaultAggregation of the spec
	Confidence  float64     // default 0.95
	Resamples   int         // default 10,000
	Seed        uint64      // of the bootstrap, of the halves of Selection and Calibrated, and of sign flips
	Videos      bool        // list every video with its percentile

	Done <-chan struct{} // ends the work, with ErrStopped, once it is closed: a table of many groups takes minutes; nil: nothing does
}

// ErrStopped is wrapped by the error of what Options.Done ended.
var ErrStopped = errors.New("stopped before the end")

// more tells whether to resample again after n times. One is always there, so that an interval can be made of what is
// thrown away in the end.
func (o Options) more(n int) bool { return n < o.Resamples && (n == 0 || o.stopped() == nil) }

// stopped is ErrStopped once Done is closed.
func (o Options) stopped() error {
	select {
	case <-o.Done:
		return ErrStopped
	default:
		return nil
	}
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
	Protocol    string        `json:"protocol,omitempty"` // name and version, as in "grasp 1"; empty: settings of one's own
	Aggregation Aggregation   `json:"aggregation"`
	Confidence  float64       `json:"confidence"`
	Resamples   int           `json:"resamples"`
	Seed        uint64        `json:"seed"`
	Controls    bool          `json:"controls,omitempty"` // pairs of a video and its altered copy (see File.ofControls): there are only rows of properties
	Columns     []string      `json:"columns"`
	Seeds       []int         `json:"seeds,omitempty"`  // trainings per column, where any has more than one
	Rows        []Row         `json:"rows"`             // properties in order of first appearance, then Visible, Occluded, All
	Single      []Single      `json:"single_videos"`    // per column, all videos
	Others      []Other       `json:"other_statistics"` // the pooled accuracy under every other aggregation
	Calibrated  []Calibrated  `json:"calibrated"`       // per column, all videos, each judged by possible videos of the other half
	Selections  []Selection   `json:"selections"`       // per column: the statistic chosen on one half, measured on the other; none where a half has no pair
	Twins       []Twin        `json:"twins,omitempty"`  // of Models: the floor of each column, pooled over all
	Videos      []JudgedVideo `json:"videos,omitempty"`
	Skipped     []Skipped     `json:"skipped"`
	Warnings    []string      `json:"warnings"`
}

// Names of the pooled rows.
const (
	Visible  = "visible"
	Occluded = "occluded"
	All      = "all"
)

// MinGroups is the number of groups below which a row is warned of: a
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

// Cell is one column's figures in a row. Chance is 0.5 for all shares.
type Cell struct {
	Accuracy      Interval  `json:"accuracy"`                 // share of pairs whose impossible video surprises more; a tie is wrong
	TiesHalf      Interval  `json:"accuracy_ties_half"`       // the same, a tie as half right
	Ties          float64   `json:"ties"`                     // share of pairs that tie
	GroupAccuracy Interval  `json:"group_accuracy"`           // share of groups whose impossible videos together surprise more, which cancels content; a tie is wrong
	GroupTiesHalf Interval  `json:"group_accuracy_ties_half"` // the same, a tie as half right
	GroupTies     float64   `json:"group_ties"`               // share of groups that tie
	AUROC         Interval  `json:"auroc"`                    // single videos across all groups of the row
	Seeds         []float64 `json:"seeds,omitempty"`          // accuracy of each training, where there are several
	Chance        PValue    `json:"chance"`                   // two-sided: groups gain as much over chance as they lose; Holm for the properties of the column
	GroupChance   PValue    `json:"group_chance"`             // the same of whole groups
	// AboveChance, BelowChance or Inconclusive: what both intervals say, and Chance, for a property after correction.
	Verdict      string `json:"verdict"`
	GroupVerdict string `json:"group_verdict"`
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
	TiesHalf      Interval `json:"accuracy_ties_half"` // of accuracies with a tie as half right
	GroupAccuracy Interval `json:"group_accuracy"`
	GroupTiesHalf Interval `json:"group_accuracy_ties_half"`
	AUROC         Interval `json:"auroc"`
	// With several seeds, First counts the pairs that more of the first column's seeds tell
	// apart than of the other's, in shares; Mixed those that some seeds tell apart and as
	// many of both.
	Both    int `json:"pairs_both_right"`
	First   int `json:"pairs_only_first_right"`
	Second  int `json:"pairs_only_second_right"`
	Neither int `json:"pairs_neither_right"`
	Mixed   int `json:"pairs_mixed,omitempty"`
	// Pairs that one column does better on than the other: right is better than a tie, a tie better than wrong.
	FirstBetter  int `json:"pairs_first_better"`
	SecondBetter int `json:"pairs_second_better"`
	// Higher, Lower or Inconclusive: what both intervals say, and the sign flips.
	Verdict      string `json:"verdict"`
	GroupVerdict string `json:"group_verdict"`

	McNemar  PValue `json:"mcnemar"`   // exact, two-sided: FirstBetter against SecondBetter, pairs taken for independent
	SignFlip PValue `json:"sign_flip"` // two-sided: groups exchange their two results; pairs of a group need not be independent
	// GroupSignFlip is the same of whole groups.
	GroupSignFlip PValue `json:"group_sign_flip"`
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
	Seeds    int      `json:"seeds"`    // different twins that it is the mean of
}

func build(f *File, columns []column, o Options) (*Table, error) {
	o, err := o.withDefaults(f.Spec)
	if err != nil {
		return nil, err
	}
	groups := f.groups()
	surprise, whole, err := surprises(columns, o.Aggregation)
	if err != nil {
		return nil, err
	}
	t := &Table{Aggregation: o.Aggregation, Confidence: o.Confidence, Resamples: o.Resamples, Seed: o.Seed,
		Protocol: f.Spec.protocolText(), Controls: f.ofControls(), Single: []Single{}, Others: []Other{}, Calibrated: []Calibrated{}, Selections: []Selection{},
		Skipped: f.Skipped, Warnings: []string{}}
	for _, c := range columns {
		t.Columns = append(t.Columns, c.name)
	}
	if slices.ContainsFunc(columns, func(c column) bool { return len(c.sets) > 1 }) {
		for _, c := range columns {
			t.Seeds = append(t.Seeds, len(c.sets))
		}
	}
	for _, r := range rowGroups(groups) {
		if r.pooled && t.Controls {
			continue // each group is there once for each control
		}
		row, err := makeRow(r, t.Columns, surprise, whole, o, true)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, row)
	}
	t.warnOfFewGroups()
	adjust(t.Rows)
	correct(t.Rows, o.Confidence)
	percentiles := make([][]float64, len(columns)) // [columns][N]
	if !t.Controls {
		if percentiles, err = t.addPooled(f, columns, surprise, o); err != nil {
			return nil, err
		}
	}
	if o.Videos {
		t.Videos = judgedVideos(f, surprise, percentiles)
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

func (t *Table) warnOfFewGroups() {
	var few []string
	for _, row := range t.Rows {
		if row.Groups < MinGroups {
			few = append(few, fmt.Sprintf("%s %d", row.Name, row.Groups))
		}
	}
	const named = 20
	if more := len(few) - named; more > 0 {
		few = append(few[:named], fmt.Sprintf("%d more", more))
	}
	if len(few) > 0 {
		t.Warnings = append(t.Warnings, fmt.Sprintf("an interval from fewer than %d groups says little: %s", MinGroups, strings.Join(few, ", ")))
	}
}

// addPooled adds what is said of all groups together, and returns the percentiles of the videos, [columns][N].
func (t *Table) addPooled(f *File, columns []column, surprise [][][]float64, o Options) ([][]float64, error) {
	groups := f.groups()
	labels := make([]int, len(f.Videos))
	for i, v := range f.Videos {
		labels[i] = v.Label
	}
	if o.Aggregation.OfPairs() {
		t.Warnings = append(t.Warnings, fmt.Sprintf("%s looks at where a video parts from the one it is paired with: its figures of single videos are of videos that come with another", o.Aggregation))
	}
	halves := split2(groups, o.Seed)
	var percentiles [][]float64
	for i, c := range columns {
		single, err := singleOfSeeds(groups, surprise[i], labels, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		t.Single = append(t.Single, single)
		calibrated, of := calibrate(groups, halves, surprise[i], labels, o)
		t.Calibrated, percentiles = append(t.Calibrated, calibrated), append(percentiles, of)
		for _, warning := range []string{single.Warning, calibrated.Warning} {
			if warning != "" && i == 0 {
				t.Warnings = append(t.Warnings, warning)
			}
		}
	}
	for i := range columns {
		selection, err := choose(groups, halves, &columns[i], o)
		if err != nil {
			return nil, err
		}
		if selection == nil {
			t.Warnings = append(t.Warnings, "too few groups to choose a statistic on one half and measure it on the other")
			break // the halves are the same for every column
		}
		t.Selections = append(t.Selections, *selection)
	}
	for _, a := range Aggregations() {
		if a == o.Aggregation {
			continue
		}
		row, err := pooled(f, columns, Options{Aggregation: a, Confidence: o.Confidence, Resamples: o.Resamples, Seed: o.Seed, Done: o.Done})
		if err != nil {
			return nil, err
		}
		other := Other{Aggregation: a}
		for _, c := range row.Cells {
			other.Accuracy = append(other.Accuracy, c.Accuracy)
		}
		t.Others = append(t.Others, other)
	}
	return percentiles, nil
}

// pooled is the All row of columns, without AUROC.
func pooled(f *File, columns []column, o Options) (Row, error) {
	var names []string
	for i := range columns {
		names = append(names, columns[i].name)
	}
	surprise, whole, err := surprises(columns, o.Aggregation)
	if err != nil {
		return Row{}, err
	}
	return makeRow(namedGroups{All, true, f.groups()}, names, surprise, whole, o, false)
}

// Row returns the row of a name; where a property has that of pooled rows, the pooled one.
func (t *Table) Row(name string) (*Row, bool) {
	for i := range slices.Backward(t.Rows) {
		if t.Rows[i].Name == name {
			return &t.Rows[i], true
		}
	}
	return nil, false
}
