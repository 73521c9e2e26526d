package checkpoint

import (
	"fmt"
	"slices"
	"strings"
)

// Assign copies the values of src into the tensors of dst with the same names. The two must agree
// exactly, or nothing is copied: see Match. Weights that silently stay random are worse than a model
// that does not load.
func Assign(dst, src []Tensor) error {
	if err := Match(dst, src); err != nil {
		return err
	}
	given := make(map[string]Tensor, len(src))
	for _, s := range src {
		given[s.Name] = s
	}
	for _, d := range dst {
		if len(d.Data) != len(given[d.Name].Data) {
			return fmt.Errorf("tensor %q: shape %v has %d values, room for %d", d.Name, d.Shape, len(given[d.Name].Data), len(d.Data))
		}
	}
	for _, d := range dst {
		copy(d.Data, given[d.Name].Data)
	}
	return nil
}

// Match compares two lists of tensors by name and shape, whatever they hold: a missing, extra, repeated
// or misshapen tensor is an error that names it.
func Match(want, got []Tensor) error {
	given := make(map[string]Tensor, len(got))
	for _, s := range got {
		if _, repeated := given[s.Name]; repeated {
			return fmt.Errorf("tensor %q: given twice", s.Name)
		}
		given[s.Name] = s
	}
	var missing []string
	wanted := make(map[string]bool, len(want))
	for _, d := range want {
		if wanted[d.Name] {
			return fmt.Errorf("tensor %q: the model has it twice", d.Name)
		}
		wanted[d.Name] = true
		s, ok := given[d.Name]
		switch {
		case !ok:
			missing = append(missing, d.Name)
		case !slices.Equal(s.Shape, d.Shape):
			return fmt.Errorf("tensor %q: shape %v, the model needs %v", d.Name, s.Shape, d.Shape)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing %s", some(missing))
	}
	var extra []string
	for _, s := range got {
		if !wanted[s.Name] {
			extra = append(extra, s.Name)
		}
	}
	if len(extra) > 0 {
		return fmt.Errorf("the model has no %s", some(extra))
	}
	return nil
}

// some lists the first few names and the number of the rest.
func some(names []string) string {
	const most = 5
	quoted := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	text := "tensor " + strings.Join(quoted, ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}
