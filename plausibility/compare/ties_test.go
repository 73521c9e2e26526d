package compare

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// outcomes gives the pairs of a set results of one's own: above zero right, below wrong, zero a tie.
func (f *File) outcomes(set int, of func(group, pair int) float64) {
	for i := 0; i < len(f.Videos); i += 2 { // possible, impossible
		event := of(i/4, i/2%2)
		for k, x := range []float64{5, 5 + event} {
			s := &f.Sets[set].Scores[i+k]
			for _, m := range [][][]float64{s.Surprise, s.Peak} {
				for c := range m {
					for w := range m[c] {
						m[c][w] = x + float64(i/2)
					}
				}
			}
			s.Curve = []float64{x, x}
		}
	}
}

func summarized(t *testing.T, f *File) (*Table, string) {
	t.Helper()
	table, err := Summarize(f, Options{Resamples: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := table.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	return table, text.String()
}

// coin is 1 or -1.
func coin(seed uint64) func(int, int) float64 {
	rng := rand.New(rand.NewPCG(seed, 3))
	return func(int, int) float64 { return float64(2*rng.IntN(2) - 1) }
}

// A model that guesses is no better than a twin for which everything ties, and no worse.
func TestTiesMakeNoDifference(t *testing.T) {
	for set, name := range []string{"the twin ties", "the model ties"} {
		f := madeUp(2, 40, 1, "p")
		f.outcomes(set, coin(4))
		f.outcomes(1-set, func(int, int) float64 { return 0 })
		table, text := summarized(t, f)
		all, _ := table.Row(All)
		d := all.Differences[0]
		if verdict(d.Accuracy, all.Groups, 0, Higher, Lower) == Inconclusive {
			t.Fatalf("%s: the difference with ties as wrong is %+v; the test is of nothing", name, d.Accuracy)
		}
		if d.Verdict != Inconclusive || d.GroupVerdict != Inconclusive || all.Cells[0].Verdict != Inconclusive || all.Cells[1].Verdict != Inconclusive {
			t.Errorf("%s: difference %s, of groups %s, cells %+v", name, d.Verdict, d.GroupVerdict, all.Cells)
		}
		if d.McNemar.P < 0.1 || d.SignFlip.P < 0.1 {
			t.Errorf("%s: McNemar %v, sign flips %v of a coin", name, d.McNemar, d.SignFlip)
		}
		for _, said := range []string{"higher than untrained twin", "lower than untrained twin", " higher.", " lower."} {
			if strings.Contains(text, said) {
				t.Errorf("%s: the text says %q:\n%s", name, said, text)
			}
		}
		if !strings.Contains(text, "inconclusive, as ties make it: with a tie as half right it is") {
			t.Errorf("%s: the closing sentence gives no reason:\n%s", name, text)
		}
	}
}

// A model that is right is better than a twin for which everything ties, to every test.
func TestRightIsBetterThanTies(t *testing.T) {
	f := madeUp(2, 40, 1, "p")
	f.outcomes(0, func(int, int) float64 { return 1 })
	f.outcomes(1, func(int, int) float64 { return 0 })
	table, _ := summarized(t, f)
	all, _ := table.Row(All)
	d := all.Differences[0]
	if d.Verdict != Higher || d.GroupVerdict != Higher || d.FirstBetter != 80 || d.SecondBetter != 0 || d.McNemar.P > 1e-6 || d.SignFlip.P > 1e-6 {
		t.Errorf("%+v", d)
	}
	if d.Both != 0 || d.First != 80 || d.Neither != 0 || d.Mixed != 0 {
		t.Errorf("pairs %+v", d)
	}
}

// Where all groups tie, nothing is below chance, and ties are printed; where they are wrong, it is.
func TestGroupTies(t *testing.T) {
	f := madeUp(2, 20, 1, "p", "q")
	f.outcomes(0, func(_, pair int) float64 { return float64(1 - 2*pair) }) // one pair right, one wrong: the group ties
	f.outcomes(1, func(int, int) float64 { return -1 })
	table, text := summarized(t, f)
	all, _ := table.Row(All)
	model, twin := all.Cells[0], all.Cells[1]
	if model.GroupTies != 1 || model.Ties != 0 || model.GroupVerdict != Inconclusive || model.GroupChance.P != 1 {
		t.Errorf("groups that all tie: %+v", model)
	}
	if twin.GroupTies != 0 || twin.GroupVerdict != BelowChance || twin.Verdict != BelowChance {
		t.Errorf("groups that are all wrong: %+v", twin)
	}
	_, block, _ := strings.Cut(text, "Whole groups")
	block, _, _ = strings.Cut(block, "Pooled over all")
	if !strings.Contains(block, "model, ties") || !strings.Contains(block, "] 100 ") || strings.Contains(block, "below chance") {
		t.Errorf("whole groups:\n%s", block)
	}
	if sentence := table.GroupSentence(all); strings.Contains(sentence, "below chance") {
		t.Error(sentence)
	}
}

// The videos of a side add up to the same, in whatever order.
func TestWholeGroupsTieWhateverTheOrder(t *testing.T) {
	g := []group{{possible: []int{0, 1, 2}, impossible: []int{3, 4, 5}}}
	if got := wholeGroups(g, []float64{0.1, 0.2, 0.3, 0.3, 0.2, 0.1}); got.ties[0] != 1 || got.wins[0] != 0 {
		t.Errorf("%+v", got)
	}
	if got := wholeGroups(g, []float64{0.1, 0.2, 0.3, 0.3, 0.2, 0.1 + 1e-9}); got.ties[0] != 0 || got.wins[0] != 1 {
		t.Errorf("what differs by more than rounding: %+v", got)
	}
}

// A statistic chosen on one half and tied on the other is not below chance for it.
func TestHeldOutTies(t *testing.T) {
	f := madeUp(2, 40, 1, "p")
	f.outcomes(0, func(int, int) float64 { return 0 })
	table, _ := summarized(t, f)
	if s := table.Selections[0]; s.HeldOut.Value != 0 || s.Verdict != Inconclusive {
		t.Errorf("%+v", s)
	}
}

// guessing is the surprise of groups of two pairs that are each right by a coin.
func guessing(rng *rand.Rand, groups int) (namedGroups, []float64) {
	var r namedGroups
	var surprise []float64
	for g := range groups {
		i := 4 * g
		surprise = append(surprise, 2, 1+2*float64(rng.IntN(2)), 5, 4+2*float64(rng.IntN(2)))
		r.groups = append(r.groups, group{possible: []int{i, i + 2}, impossible: []int{i + 1, i + 3}, pairs: []Pair{{i, i + 1}, {i + 2, i + 3}}})
	}
	return r, surprise
}

// Of tables of sixteen properties of ten groups that are all guessed, most would call one above or below chance by its
// interval; after the correction few do.
func TestPropertiesAreCorrected(t *testing.T) {
	const tables = 60
	rng := rand.New(rand.NewPCG(11, 10))
	wrong, byIntervals := 0, 0
	for range tables {
		var rows []Row
		said, would := false, false
		for p := range 16 {
			r, surprise := guessing(rng, 10)
			r.name = fmt.Sprint(p)
			columns := [][][]float64{{surprise}}
			row, err := makeRow(r, []string{"m"}, columns, columns, Options{Confidence: 0.95, Resamples: 200, Seed: uint64(p)}, false)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, row)
			would = would || row.Cells[0].Verdict != Inconclusive
		}
		correct(rows, 0.95)
		for _, r := range rows {
			said = said || r.Cells[0].Verdict != Inconclusive || r.Cells[0].GroupVerdict != Inconclusive
		}
		if said {
			wrong++
		}
		if would {
			byIntervals++
		}
	}
	if wrong > 3 || byIntervals < tables/2 { // below 0.05/16 takes ten groups of one mind, one in 500 for whole groups
		t.Errorf("of %d tables of nothing %d say something, by intervals alone %d", tables, wrong, byIntervals)
	}
}

// Where outcomes are many, the corrected p falls below 0.05 for some property in about 5 % of tables of nothing.
func TestFamilywiseRate(t *testing.T) {
	const tables, properties = 400, 16
	rng := rand.New(rand.NewPCG(12, 12))
	wrong := 0
	for range tables {
		p := make([]float64, properties)
		for i := range p {
			r, surprise := guessing(rng, 40)
			pairs := make([]float64, len(r.groups))
			for g := range pairs {
				pairs[g] = 2
			}
			var c Cell
			seeds := mean([]pairResult{judge(r.groups, surprise)})
			c.test("", "", &seeds, pairs, 1, Options{})
			p[i] = c.Chance.P
		}
		if slices.Min(Holm(p)) < 0.05 {
			wrong++
		}
	}
	// Two standard errors of 400 tables at 5 % are 2.2 points; p comes in steps, which makes it fewer.
	share := float64(wrong) / tables
	if share < 0.01 || share > 0.072 {
		t.Errorf("%.1f %% of tables of nothing say something", 100*share)
	}
	t.Logf("%.1f %% of %d tables", 100*share, tables)
}

// Properties of a column are a family, pooled rows are none, and a property that is clear stays so.
func TestCorrectionByHand(t *testing.T) {
	f := madeUp(3, 64, 0.5, "a_visible", "b", "c", "d")
	right := coin(8)
	f.outcomes(0, func(g, pair int) float64 { // properties take turns
		if g%4 == 1 {
			return 1
		}
		return right(g, pair)
	})
	table, text := summarized(t, f)
	var p []float64
	for _, r := range table.Rows {
		if !r.Pooled {
			p = append(p, r.Cells[0].Chance.P)
		}
	}
	for i, want := range Holm(p) {
		if got := table.Rows[i].Cells[0].Chance; len(p) != 4 || got.Holm != want {
			t.Errorf("p %v: %s has %+v, want %g", p, table.Rows[i].Name, got, want)
		}
	}
	b, _ := table.Row("b")
	if b.Cells[0].Verdict != AboveChance || b.Cells[0].Chance.P != math.Ldexp(1, -15) { // 16 groups of one mind
		t.Errorf("b: %+v", b.Cells[0])
	}
	for _, name := range []string{Visible, All} {
		if r, _ := table.Row(name); r.Cells[0].Chance.Holm != r.Cells[0].Chance.P {
			t.Errorf("%s: %+v", name, r.Cells[0].Chance)
		}
	}
	if !strings.Contains(text, "Holm's correction for all properties of a column") || !strings.Contains(text, "Against chance, p") {
		t.Errorf("the table does not say what is corrected:\n%s", text)
	}
}
