package compare

import (
	"cmp"
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
	Accuracy      Interval  `json:"accuracy"`        // share of pairs whose impossible video surprises more; a tie is wrong
	GroupAccuracy Interval  `json:"group_accuracy"`  // share of groups whose impossible videos together surprise more, which cancels content
	AUROC         Interval  `json:"auroc"`           // single videos across all groups of the row
	Ties          float64   `json:"ties"`            // share of pairs that tie, which Accuracy counts as wrong
	Seeds         []float64 `json:"seeds,omitempty"` // accuracy of each training, where there are several
	Verdict       string    `json:"verdict"`         // of the accuracy: AboveChance, BelowChance or Inconclusive; ties alone put nothing below chance
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
	// With several seeds, First counts the pairs that more of the first column's seeds tell
	// apart than of the other's, in shares; Mixed those that some seeds tell apart and as
	// many of both.
	Both    int    `json:"pairs_both_right"`
	First   int    `json:"pairs_only_first_right"`
	Second  int    `json:"pairs_only_second_right"`
	Neither int    `json:"pairs_neither_right"`
	Mixed   int    `json:"pairs_mixed,omitempty"`
	Verdict string `json:"verdict"` // of the accuracy: Higher, Lower or Inconclusive

	McNemar  PValue `json:"mcnemar"`   // exact, two-sided: First against Second, pairs taken for independent
	SignFlip PValue `json:"sign_flip"` // two-sided: groups exchange their two results; pairs of a group need not be independent
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

// column is one model, or one twin: what tables are made of.
type column struct {
	name string
	sets []*Set // one per seed, in the order of the file's videos
	file *File  // whose spec and videos they share
}

// surprise is what an aggregation makes of every seed's videos, [seeds][N].
func (c *column) surprise(a Aggregation) ([][]float64, error) {
	out := make([][]float64, len(c.sets))
	for k, set := range c.sets {
		var err error
		if out[k], err = set.Videos(c.file, a); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return out, nil
}

// whole is the same for judging whole groups.
func (c *column) whole(a Aggregation) ([][]float64, error) {
	out := make([][]float64, len(c.sets))
	for k, set := range c.sets {
		var err error
		if out[k], err = set.whole(c.file, a); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return out, nil
}

// Summarize sets the model of a score file beside its untrained twin (if it was
// scored), per property and pooled.
func Summarize(f *File, o Options) (*Table, error) {
	t, err := candidates([]Candidate{{Files: []*File{f}}}, o)
	if err != nil {
		return nil, fmt.Errorf("summarizing scores: %w", err)
	}
	return t, nil
}

const noTwin = "no untrained twin was scored: an artefact of the clips can look like understanding"

// Candidate is a model to be compared with others: one score file for each training of
// it, which differ in their seeds.
type Candidate struct {
	Name  string // empty: the model's own
	Files []*File
}

// AddTraining adds a score file to the candidate of that name, or as a new one.
func AddTraining(models []Candidate, name string, f *File) []Candidate {
	for i := range models {
		if models[i].Name == name {
			models[i].Files = append(models[i].Files, f)
			return models
		}
	}
	return append(models, Candidate{name, []*File{f}})
}

// Models sets the models of two or more score files beside one another, one training
// each. names call the columns.
func Models(files []*File, names []string, o Options) (*Table, error) {
	if len(files) < 2 {
		return nil, fmt.Errorf("comparing models: %d score files, want at least 2", len(files))
	}
	if len(names) != len(files) {
		return nil, fmt.Errorf("comparing models: %d names for %d score files", len(names), len(files))
	}
	candidates := make([]Candidate, len(files))
	for i := range files {
		candidates[i] = Candidate{names[i], files[i : i+1]}
	}
	return Candidates(candidates, o)
}

// MinSeeds is the number of trainings below which several of one model carry a warning.
const MinSeeds = 5

// Candidates sets two or more models beside one another; one alone is set beside its
// untrained twin, as Summarize does. Where a model was trained
// several times, figures are means over its seeds, and intervals resample them too. The
// files must have been made with like specs, preprocessing and data: the first field
// that differs is named in the error, which wraps ErrUnlike.
func Candidates(models []Candidate, o Options) (*Table, error) {
	t, err := candidates(models, o)
	if err != nil {
		return nil, fmt.Errorf("comparing models: %w", err)
	}
	return t, nil
}

func candidates(models []Candidate, o Options) (*Table, error) {
	if len(models) == 0 {
		return nil, errors.New("no model")
	}
	names, err := checkCandidates(models)
	if err != nil {
		return nil, err
	}
	base := models[0].Files[0]
	var columns, twins []column
	for i, m := range models {
		model, twin := column{name: names[i], file: base}, column{name: names[i], file: base}
		for _, f := range m.Files {
			set, _ := f.Set(ModelSet)
			model.sets = append(model.sets, aligned(base, f, set))
			if set, ok := f.Set(TwinSet); ok {
				twin.sets = append(twin.sets, aligned(base, f, set))
			}
		}
		columns = append(columns, model)
		if len(twin.sets) > 0 {
			twins = append(twins, twin)
		}
	}
	alone := len(models) == 1
	if alone {
		columns[0].name = ModelSet
		for i := range twins {
			twins[i].name = TwinSet
		}
		columns, twins = append(columns, twins...), nil
		for _, f := range models[0].Files {
			if set, ok := f.Set(CopySet); ok && len(models[0].Files) == 1 {
				columns = append(columns, column{CopySet, []*Set{set}, f})
			}
		}
	}
	t, err := build(base, columns, o)
	if err != nil {
		return nil, err
	}
	if alone && (len(columns) == 1 || columns[1].name != TwinSet) {
		t.Warnings = append(t.Warnings, noTwin)
	}
	t.warnOfPrecision(models, names)
	t.warnOfSeeds()
	if len(twins) > 0 {
		floor, err := pooled(base, twins, Options{Aggregation: t.Aggregation, Confidence: t.Confidence, Resamples: t.Resamples, Seed: t.Seed})
		if err != nil {
			return nil, err
		}
		for i, twin := range twins {
			t.Twins = append(t.Twins, Twin{twin.name, floor.Cells[i].Accuracy})
		}
	}
	return t, nil
}

// checkCandidates checks that all files may be compared and returns a name for each model.
func checkCandidates(models []Candidate) ([]string, error) {
	names := make([]string, len(models))
	for i, m := range models {
		if len(m.Files) == 0 {
			return nil, fmt.Errorf("%s: no score file", cmp.Or(m.Name, fmt.Sprintf("model %d", i+1)))
		}
		weights := map[string]int{}
		for k, f := range m.Files {
			if err := f.Validate(); err != nil {
				return nil, fmt.Errorf("%s, file %d: %w", cmp.Or(m.Name, fmt.Sprintf("model %d", i+1)), k+1, err)
			}
			set, _ := f.Set(ModelSet)
			if k == 0 {
				names[i] = cmp.Or(m.Name, set.Model.Name)
				if names[i] == "" || slices.Contains(names[:i], names[i]) {
					names[i] = strings.TrimSpace(fmt.Sprintf("%s #%d", names[i], i+1))
				}
			}
			if earlier, twice := weights[set.Model.SHA256]; twice && set.Model.SHA256 != "" {
				return nil, fmt.Errorf("%s: files %d and %d are scores of the same weights, and no two trainings", names[i], earlier+1, k+1)
			}
			weights[set.Model.SHA256] = k
			if err := Like(models[0].Files[0], f); err != nil {
				return nil, fmt.Errorf("%s and %s: %w", names[0], names[i], err)
			}
		}
	}
	return names, nil
}

func (t *Table) warnOfPrecision(models []Candidate, names []string) {
	first := precisionOf(models[0].Files[0])
	for i, m := range models {
		for _, f := range m.Files {
			if p := precisionOf(f); p != first {
				t.Warnings = append(t.Warnings, fmt.Sprintf("%s was scored in %s, %s in %s; a difference as small as rounding means nothing", names[0], first, names[i], p))
				break
			}
		}
	}
}

func (t *Table) warnOfSeeds() {
	for i, n := range t.Seeds {
		switch {
		case n == 1:
			t.Warnings = append(t.Warnings, fmt.Sprintf("%s: one training; its interval says nothing of what another seed would give", t.Columns[i]))
		case n < MinSeeds:
			t.Warnings = append(t.Warnings, fmt.Sprintf("%s: %d trainings; how much seeds differ is barely known from fewer than %d", t.Columns[i], n, MinSeeds))
		}
	}
}

// precisionOf is the precision of a file; one that does not say is of when there was only one.
func precisionOf(f *File) string { return cmp.Or(f.Precision, "fp32") }

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
		Protocol: f.Spec.protocolText(), Calibrated: []Calibrated{}, Selections: []Selection{}, Skipped: f.Skipped, Warnings: []string{}}
	labels := make([]int, len(f.Videos))
	for i, v := range f.Videos {
		labels[i] = v.Label
	}
	if o.Aggregation.OfPairs() {
		t.Warnings = append(t.Warnings, fmt.Sprintf("%s looks at where a video parts from the one it is paired with: its figures of single videos are of videos that come with another", o.Aggregation))
	}
	halves := split2(groups, o.Seed)
	var percentiles [][]float64 // [columns][N]
	for i, c := range columns {
		t.Columns = append(t.Columns, c.name)
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
	if slices.ContainsFunc(columns, func(c column) bool { return len(c.sets) > 1 }) {
		for _, c := range columns {
			t.Seeds = append(t.Seeds, len(c.sets))
		}
	}
	for _, r := range rowGroups(groups) {
		row, err := makeRow(r, t.Columns, surprise, whole, o, true)
		if err != nil {
			return nil, err
		}
		if row.Groups < MinGroups {
			t.Warnings = append(t.Warnings, fmt.Sprintf("%s: %d groups; an interval from fewer than %d says little", row.Name, row.Groups, MinGroups))
		}
		t.Rows = append(t.Rows, row)
	}
	adjust(t.Rows)
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
		row, err := pooled(f, columns, Options{Aggregation: a, Confidence: o.Confidence, Resamples: o.Resamples, Seed: o.Seed})
		if err != nil {
			return nil, err
		}
		other := Other{Aggregation: a}
		for _, c := range row.Cells {
			other.Accuracy = append(other.Accuracy, c.Accuracy)
		}
		t.Others = append(t.Others, other)
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

// surprises is what columns make of every video, and what whole groups are judged by, [columns][seeds][N] each.
func surprises(columns []column, a Aggregation) (videos, whole [][][]float64, err error) {
	videos, whole = make([][][]float64, len(columns)), make([][][]float64, len(columns))
	for i := range columns {
		if videos[i], err = columns[i].surprise(a); err != nil {
			return nil, nil, err
		}
		if whole[i], err = columns[i].whole(a); err != nil {
			return nil, nil, err
		}
	}
	return videos, whole, nil
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
