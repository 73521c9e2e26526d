package compare

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

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
	var notes []string
	for i, m := range models {
		model, twin := column{name: names[i], file: base}, column{name: names[i], file: base}
		for _, f := range m.Files {
			set, _ := f.Set(ModelSet)
			model.sets = append(model.sets, aligned(base, f, set))
			if set, ok := f.Set(TwinSet); ok {
				twin.sets = append(twin.sets, aligned(base, f, set))
			}
		}
		for _, other := range columns {
			shared := 0
			for _, set := range model.sets {
				if slices.ContainsFunc(other.sets, set.sameWeights) {
					shared++
				}
			}
			switch {
			case shared > 0 && shared == len(model.sets) && shared == len(other.sets):
				notes = append(notes, fmt.Sprintf("%s and %s hold scores of the same weights: between them there is nothing to tell", other.name, names[i]))
			case shared > 0:
				notes = append(notes, fmt.Sprintf("%s and %s have %d trainings in common", other.name, names[i], shared))
			}
		}
		columns = append(columns, model)
		notes = append(notes, trainingFaults(names[i], m.Files)...)
		if scored := len(twin.sets); scored > 0 {
			twin.sets = distinct(twin.sets)
			twins = append(twins, twin)
			if n := len(twin.sets); n < scored {
				notes = append(notes, fmt.Sprintf("%s: its files have the same untrained twin; of %d twins %d counts, and intervals resample no other (surmise score --seed draws another)", names[i], scored, n))
			}
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
	if err == nil {
		err = o.stopped()
	}
	if err != nil {
		return nil, err
	}
	if alone && (len(columns) == 1 || columns[1].name != TwinSet) {
		t.Warnings = append(t.Warnings, noTwin)
	}
	t.warnOfPrecision(models, names)
	t.Warnings = append(t.Warnings, notes...)
	t.repeatNotes(models, names)
	t.warnOfSeeds(models)
	if len(twins) > 0 && !t.Controls {
		floor, err := pooled(base, twins, Options{Aggregation: t.Aggregation, Confidence: t.Confidence, Resamples: t.Resamples, Seed: t.Seed, Done: o.Done})
		if err != nil {
			return nil, err
		}
		for i, twin := range twins {
			t.Twins = append(t.Twins, Twin{twin.name, floor.Cells[i].Accuracy, len(twin.sets)})
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
		var trained []*Set
		for k, f := range m.Files {
			if err := f.Validate(); err != nil {
				return nil, fmt.Errorf("%s, file %d: %w", cmp.Or(m.Name, fmt.Sprintf("model %d", i+1)), k+1, err)
			}
			if f.Unlabelled() {
				return nil, fmt.Errorf("%s, file %d: %w", cmp.Or(m.Name, fmt.Sprintf("model %d", i+1)), k+1, ErrNoLabels)
			}
			set, _ := f.Set(ModelSet)
			if k == 0 {
				names[i] = cmp.Or(m.Name, set.Model.Name)
				if names[i] == "" || slices.Contains(names[:i], names[i]) {
					names[i] = strings.TrimSpace(fmt.Sprintf("%s #%d", names[i], i+1))
				}
			}
			if err := Like(models[0].Files[0], f); err != nil {
				return nil, fmt.Errorf("%s and %s: %w", names[0], names[i], err)
			}
			own := aligned(m.Files[0], f, set)
			if earlier := slices.IndexFunc(trained, own.sameWeights); earlier >= 0 {
				return nil, fmt.Errorf("%s: files %d and %d are scores of the same weights, and no two trainings", names[i], earlier+1, k+1)
			}
			trained = append(trained, own)
		}
	}
	return names, nil
}

// repeatNotes says what was found while scoring, of several models with the names of those it was found of.
func (t *Table) repeatNotes(models []Candidate, names []string) {
	var notes []string
	of := map[string][]string{}
	for i, m := range models {
		for _, f := range m.Files {
			for _, note := range f.Notes {
				if of[note] == nil {
					notes = append(notes, note)
				}
				if !slices.Contains(of[note], names[i]) {
					of[note] = append(of[note], names[i])
				}
			}
		}
	}
	for _, note := range notes {
		if len(models) > 1 {
			note = strings.Join(of[note], ", ") + ": " + note
		}
		t.Warnings = append(t.Warnings, note)
	}
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

// warnOfSeeds says what so few trainings cannot tell. A model by itself is asked about as it is; that one model is better
// than another is a claim about recipes.
func (t *Table) warnOfSeeds(models []Candidate) {
	var one []string
	for i, m := range models {
		switch n := len(m.Files); {
		case n == 1 && len(models) > 1:
			one = append(one, t.Columns[i])
		case n > 1 && n < MinSeeds:
			t.Warnings = append(t.Warnings, fmt.Sprintf("%s: %d trainings; how much seeds differ is barely known from fewer than %d", t.Columns[i], n, MinSeeds))
		}
	}
	switch len(one) {
	case 0:
	case 1:
		t.Warnings = append(t.Warnings, one[0]+": one training; its interval says nothing of what another seed would give")
	default:
		t.Warnings = append(t.Warnings, strings.Join(one, ", ")+": one training each; intervals and verdicts say nothing of what other seeds would give")
	}
}

// precisionOf is the precision of a file; one that does not say is of when there was only one.
func precisionOf(f *File) string { return cmp.Or(f.Precision, "fp32") }
