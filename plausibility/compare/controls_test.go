package compare

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// controlled is a file of controls, as plausibility.Controls writes it: each group of videos once for each alteration.
func controlled(groups int) *File {
	kinds := []string{"recolour", "re-encode", "time reversal"}
	f := madeUp(4, groups*len(kinds), 0.5, "p")
	for i := range f.Videos {
		v := &f.Videos[i]
		kind := kinds[i/4/groups]
		original := fmt.Sprintf("%064x", i/2%(2*groups))
		v.Property, v.Group, v.Pair, v.SHA256 = kind, fmt.Sprint(i/4%groups, " ", kind), original, original
		if v.Label == 0 {
			v.SHA256 += " " + kind
		}
	}
	f.Data = Digest(f.Videos)
	right := coin(6)
	f.outcomes(0, func(g, pair int) float64 { return right(g, pair) })
	return f
}

// Controls have a row for each alteration, and nothing that counts a video three times.
func TestControlsAreNotPooled(t *testing.T) {
	f := controlled(12)
	table, text := summarized(t, f)
	var names []string
	for _, r := range table.Rows {
		names = append(names, r.Name)
		if r.Groups != 12 || r.Pairs != 24 {
			t.Errorf("%s: %d groups, %d pairs", r.Name, r.Groups, r.Pairs)
		}
	}
	if !table.Controls || !reflect.DeepEqual(names, []string{"recolour", "re-encode", "time reversal"}) {
		t.Errorf("rows %v", names)
	}
	if len(table.Single)+len(table.Calibrated)+len(table.Selections)+len(table.Others)+len(table.Sentences()) != 0 {
		t.Errorf("pooled figures of controls: %+v", table)
	}
	for _, said := range []string{"\nall ", "  all ", "Pooled over all", "finds the impossible", "Single videos", "The best of"} {
		if strings.Contains(text, said) {
			t.Errorf("the text says %q:\n%s", said, text)
		}
	}
	for _, want := range []string{"Controls: possible videos against altered copies", "time reversal", "untrained twin"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text does not say %q:\n%s", want, text)
		}
	}
	listed, err := Candidates([]Candidate{{"a", []*File{f}}, {"b", []*File{controlled(12)}}}, Options{Resamples: 100, Videos: true})
	if err != nil || len(listed.Videos) != len(f.Videos) || listed.Videos[0].Columns[0].Percentile != nil || len(listed.Twins) != 0 {
		t.Errorf("two models' controls: %+v, %v", listed, err)
	}
	data, err := json.Marshal(table)
	if err != nil || strings.Contains(string(data), "null") {
		t.Errorf("as JSON: %s, %v", data, err)
	}
	// A property that is called so makes no controls.
	if g := madeUp(1, 12, 1, "recolour"); g.ofControls() {
		t.Error("pairs of a property recolour are taken for controls")
	}
}
