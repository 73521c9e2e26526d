package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// sameWeights tells whether two sets, in the order of the same videos, are of one set of weights. A digest covers a whole
// file, whose header holds paths and settings of the machine; the same weights in two files give the same scores.
func (s *Set) sameWeights(other *Set) bool {
	if s.Model.SHA256 != "" && s.Model.SHA256 == other.Model.SHA256 {
		return true
	}
	return slices.EqualFunc(s.Scores, other.Scores, func(a, b Scores) bool {
		return slices.EqualFunc(a.Surprise, b.Surprise, slices.Equal) && slices.EqualFunc(a.Peak, b.Peak, slices.Equal) && slices.Equal(a.Curve, b.Curve)
	})
}

// distinct leaves out sets of weights that an earlier one has: resampled, one would pass for two that agree.
func distinct(sets []*Set) []*Set {
	var out []*Set
	for _, s := range sets {
		if !slices.ContainsFunc(out, s.sameWeights) {
			out = append(out, s)
		}
	}
	return out
}

// trainingFaults says what of a model's files makes them something else than trainings of one recipe with different seeds,
// as far as they record how they were trained.
func trainingFaults(name string, files []*File) []string {
	if len(files) < 2 {
		return nil
	}
	var faults []string
	recipes := make([]recipe, len(files))
	for k, f := range files {
		set, _ := f.Set(ModelSet)
		recipes[k] = recipeOf(&set.Model)
	}
	for k, r := range recipes {
		if r.settings == nil {
			faults = append(faults, fmt.Sprintf("%s: file %d does not record how its model was trained, so it may be no training of the same", name, k+1))
			continue
		}
		for earlier, e := range recipes[:k] {
			if e.settings == nil {
				continue
			}
			if difference := r.difference(e); difference != "" {
				faults = append(faults, fmt.Sprintf("%s: files %d and %d are no trainings of one model: %s", name, earlier+1, k+1, difference))
				break
			}
			if r.seeded && e.seeded && r.seed == e.seed {
				faults = append(faults, fmt.Sprintf("%s: files %d and %d were trained with the same settings and the same seed, %d: that is one training twice, up to rounding", name, earlier+1, k+1, r.seed))
				break
			}
		}
	}
	return faults
}

// recipe is what a score file records of a training.
type recipe struct {
	seed     uint64
	seeded   bool              // whether the seed is recorded
	settings map[string]string // by name, as in model.dim; nil: not recorded
}

// besideTheRecipe are the settings that trainings of one model may differ in: the seed, and what changes no weight but by
// rounding, or only where files lie.
var besideTheRecipe = []string{"seed", "threads", "log_every", "checkpoint_every", "encoder.from", "init.from", "data.roots", "data.cache_mib", "data.max_unusable"}

func recipeOf(m *Model) recipe {
	dec := json.NewDecoder(bytes.NewReader(m.Config))
	dec.UseNumber()
	var config map[string]any
	if err := dec.Decode(&config); err != nil || len(config) == 0 {
		return recipe{}
	}
	r := recipe{seed: m.Seed, settings: map[string]string{"step": fmt.Sprint(m.Step)}}
	_, r.seeded = config["seed"]
	r.add("", config)
	for _, name := range besideTheRecipe {
		delete(r.settings, name)
	}
	return r
}

// add takes settings over, those of parts under the name of the part.
func (r *recipe) add(part string, settings map[string]any) {
	for name, value := range settings {
		if inside, ok := value.(map[string]any); ok {
			r.add(part+name+".", inside)
			continue
		}
		text, _ := json.Marshal(value) // it came from JSON
		r.settings[part+name] = string(text)
	}
}

// difference names the first setting, by name, in which a later recipe is not an earlier one; "" where there is none.
func (r recipe) difference(earlier recipe) string {
	names := slices.Collect(maps.Keys(earlier.settings))
	for name := range r.settings {
		if _, ok := earlier.settings[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var differ []string
	for _, name := range names {
		if r.settings[name] != earlier.settings[name] {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return ""
	}
	short := func(text string) string {
		const most = 80 // characters
		if runes := []rune(text); len(runes) > most {
			return string(runes[:most]) + "…"
		}
		return shown(strings.TrimSpace(text))
	}
	text := fmt.Sprintf("%s is %s in one and %s in the other", short(differ[0]), short(earlier.settings[differ[0]]), short(r.settings[differ[0]]))
	if n := len(differ) - 1; n > 0 {
		text += fmt.Sprintf(", and %d more settings differ", n)
	}
	return text
}
