package compare

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestHalves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "groups")
		var groups []group
		for i := range n {
			groups = append(groups, group{name: string(rune('a' + i)), property: rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "property")})
		}
		seed := rapid.Uint64().Draw(t, "seed")
		half := split2(groups, seed)
		counts := map[string][2]int{}
		total := [2]int{}
		byName := map[string]int{}
		for g, h := range half {
			c := counts[groups[g].property]
			c[h]++
			counts[groups[g].property] = c
			total[h]++
			byName[groups[g].name] = h
		}
		if abs(total[0]-total[1]) > 1 {
			t.Fatalf("halves of %d and %d groups", total[0], total[1])
		}
		for property, c := range counts {
			if abs(c[0]-c[1]) > 1 {
				t.Fatalf("property %s: halves of %d and %d groups", property, c[0], c[1])
			}
		}
		slices.Reverse(groups)
		for g, h := range split2(groups, seed) {
			if byName[groups[g].name] != h {
				t.Fatal("the halves depend on the order of the groups")
			}
		}
	})
	var groups []group
	for i := range 20 {
		groups = append(groups, group{name: string(rune('a' + i))})
	}
	if reflect.DeepEqual(split2(groups, 1), split2(groups, 2)) {
		t.Error("another seed gives the same halves")
	}
}

// noisy is a file in which every context and window is noise: a statistic that does well, does by luck.
func noisy(seed uint64, groups int) *File {
	f := madeUp(seed, groups, 0.5, "p")
	rng := rand.New(rand.NewPCG(seed, 9))
	for _, s := range f.Sets {
		for _, x := range s.Scores {
			for _, m := range [][][]float64{x.Surprise, x.Peak} {
				for c := range m {
					for w := range m[c] {
						m[c][w] = rng.Float64()
					}
				}
			}
		}
	}
	return f
}

// A choice is never worth more where it was not made than the oracle is, which on noise
// promises what is not there.
func TestSelectionAndOracle(t *testing.T) {
	var held, oracle float64
	const files = 40
	for i := range files {
		table, err := Summarize(noisy(uint64(i), 20), Options{Resamples: 100, Seed: uint64(i)})
		if err != nil {
			t.Fatal(err)
		}
		if len(table.Selections) != 2 {
			t.Fatalf("%d selections for 2 columns", len(table.Selections))
		}
		for _, s := range table.Selections {
			held += s.HeldOut.Value / 2 / files
			oracle += s.Oracle.Accuracy / 2 / files
			if s.HeldOut.Value > s.Oracle.Accuracy+1e-12 {
				t.Errorf("held out %g, the oracle %g", s.HeldOut.Value, s.Oracle.Accuracy)
			}
			pairs := float64(s.Folds[0].Pairs + s.Folds[1].Pairs)
			if got := (s.Folds[0].HeldOut*float64(s.Folds[0].Pairs) + s.Folds[1].HeldOut*float64(s.Folds[1].Pairs)) / pairs; pairs != 40 || math.Abs(got-s.HeldOut.Value) > 1e-12 {
				t.Errorf("the halves hold %g pairs and %g right, together %g", pairs, got, s.HeldOut.Value)
			}
			if s.Candidates != 16 {
				t.Errorf("%d statistics, want 8 over all contexts and 4 of each of 2", s.Candidates)
			}
		}
	}
	// The mean of 80 shares of 40 pairs has a standard error of about 0.9 points.
	if math.Abs(held-0.5) > 0.035 {
		t.Errorf("chosen on noise, measured elsewhere: %.1f %%, want about 50", 100*held)
	}
	if oracle < 0.55 {
		t.Errorf("the oracle promises %.1f %% on noise; the test is of nothing", 100*oracle)
	}
}

// One context tells the pairs apart and the other drowns it in noise: both halves find it.
func TestSelectionFindsTheContext(t *testing.T) {
	f := noisy(3, 40)
	for i := range f.Videos {
		x := f.Sets[0].Scores[i].Surprise
		for w := range x[1] {
			x[0][w] *= 5
			x[1][w] += 5 + float64(1-f.Videos[i].Label)
		}
	}
	table, err := Summarize(f, Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	s := table.Selections[0]
	for _, fold := range s.Folds {
		if fold.Chosen.Aggregation != (Aggregation{"avg", 4}) || fold.HeldOut < 0.9 {
			t.Errorf("chosen %s, worth %g elsewhere", fold.Chosen.Aggregation, fold.HeldOut)
		}
	}
	if s.Verdict != AboveChance || s.Oracle.Aggregation != (Aggregation{"avg", 4}) {
		t.Errorf("%+v", s)
	}
	if twin := table.Selections[1]; twin.Verdict != Inconclusive {
		t.Errorf("the twin, on noise: %+v", twin)
	}
}

func TestTooFewGroupsToSplit(t *testing.T) {
	table, err := Summarize(madeUp(1, 1, 1, "p"), Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Selections) != 0 || !strings.Contains(strings.Join(table.Warnings, "\n"), "too few groups to choose") {
		t.Errorf("one group: selections %+v, warnings %q", table.Selections, table.Warnings)
	}
}

func TestRankByHand(t *testing.T) {
	alone := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	each := []float64{1, 1, 1, 1, 1, 1, 1, 1, 1}
	// The same videos, the last three of one group, so that there are seven.
	together := []float64{1, 1, 1, 1, 1, 1, 1. / 3, 1. / 3, 1. / 3}
	for _, c := range []struct {
		weight     []float64
		groups     float64
		x, rank, p float64
	}{
		{each, 9, 0, 0, 1}, {each, 9, 1, 0.5 / 9, 1}, {each, 9, 5.5, 5.0 / 9, 0.5}, {each, 9, 9, 8.5 / 9, 0.2}, {each, 9, 9.1, 1, 0.1},
		{together, 7, 6.5, 6.0 / 7, 0.25}, {together, 7, 8, (6 + 0.5) / 7, (1 + 2.0/3) / 8}, {together, 7, 9.1, 1, 1.0 / 8},
	} {
		below, same := weigh(alone, c.weight).around(c.x)
		if rank, p := rankAmong(below, same, c.groups); math.Abs(rank-c.rank) > 1e-12 || math.Abs(p-c.p) > 1e-12 {
			t.Errorf("%g of %g groups: rank %g, p %g; want %g, %g", c.x, c.groups, rank, p, c.rank, c.p)
		}
	}
}

// Possible videos that come from one place raise a false alarm in at most a tenth of cases, also where those of a group are
// nearly one video: counted as two, they did in 12.5 % of 30 groups.
func TestCalibratedFalseAlarms(t *testing.T) {
	for _, c := range []struct {
		name   string
		groups int
		alike  bool
	}{{"each its own", 24, false}, {"alike within groups", 30, true}, {"the fewest groups", 2 * MinCalibration, true}} {
		t.Run(c.name, func(t *testing.T) {
			var alarms float64
			const files = 150
			for i := range files {
				f := noisy(uint64(i), c.groups)
				if c.alike {
					rng := rand.New(rand.NewPCG(uint64(i), 3))
					place := map[string]float64{}
					for k, v := range f.Videos {
						if _, known := place[v.Group]; !known {
							place[v.Group] = 100 * rng.Float64()
						}
						for _, windows := range f.Sets[0].Scores[k].Surprise {
							for w := range windows {
								windows[w] += place[v.Group]
							}
						}
					}
				}
				table, err := Summarize(f, Options{Resamples: 100, Seed: uint64(i), Aggregation: Aggregation{Name: "max"}})
				if err != nil {
					t.Fatal(err)
				}
				c := table.Calibrated[0]
				alarms += c.FalseAlarms.Value / files
				if got := (1 - c.FalseAlarms.Value + c.Caught.Value) / 2; math.Abs(got-c.Accuracy.Value) > 1e-12 || math.Abs(c.Caught.Value-c.FalseAlarms.Value-c.Gain.Value) > 1e-12 {
					t.Errorf("as many possible as impossible videos: %+v", c)
				}
			}
			// 150 files of at least 18 groups: a standard error of 0.6 points, half as much again as groups share their judges.
			if t.Logf("%.1f %% false alarms", 100*alarms); alarms > 0.11 {
				t.Errorf("%.1f %% false alarms, want at most 10", 100*alarms)
			}
		})
	}
}

func TestCalibratedSeesAndLists(t *testing.T) {
	f := noisy(2, 30)
	for i := range f.Videos {
		if f.Videos[i].Label == 0 {
			for c := range f.Sets[0].Scores[i].Surprise {
				f.Sets[0].Scores[i].Surprise[c] = []float64{2, 2, 2}
			}
		}
	}
	table, err := Summarize(f, Options{Resamples: 300, Aggregation: Aggregation{Name: "max"}, Videos: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := table.Calibrated[0]; c.Caught.Value != 1 || c.Verdict != AboveChance {
		t.Errorf("every impossible video surprises most: %+v", c)
	}
	if c := table.Calibrated[1]; c.Verdict != Inconclusive {
		t.Errorf("the twin, on noise: %+v", c)
	}
	if len(table.Videos) != len(f.Videos) {
		t.Fatalf("%d videos listed of %d", len(table.Videos), len(f.Videos))
	}
	for i, v := range table.Videos {
		model := v.Columns[0]
		if v.Path != f.Videos[i].Path || v.Label == 0 && (*model.Percentile != 100 || model.Surprise != 2) || *v.Columns[1].Percentile > 100 {
			t.Errorf("%+v: percentile %v", v, *model.Percentile)
		}
	}
	few, err := Summarize(madeUp(1, 5, 1, "p"), Options{Resamples: 100, Videos: true})
	if err != nil {
		t.Fatal(err)
	}
	if few.Calibrated[0].Warning == "" || few.Videos[0].Columns[0].Percentile != nil || !slices.Contains(few.Warnings, few.Calibrated[0].Warning) {
		t.Errorf("five groups: %+v, warnings %q", few.Calibrated[0], few.Warnings)
	}
}

// A group drawn several times counts as that many groups.
func TestWeightedSingleAgainstRepeating(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "groups")
		var groups []group
		var surprise, weight, repeated []float64
		var labels []int
		for g := range n {
			p, q := float64(rapid.IntRange(0, 9).Draw(t, "possible")), float64(rapid.IntRange(0, 9).Draw(t, "impossible"))
			groups = append(groups, group{possible: []int{2 * g}, impossible: []int{2*g + 1}})
			surprise = append(surprise, p, q)
			w := rapid.IntRange(min(1, n-1-g), 4).Draw(t, "weight")
			if g == n-1 {
				w = max(w, 1)
			}
			weight = append(weight, float64(w))
			for range w {
				repeated, labels = append(repeated, p, q), append(labels, 1, 0)
			}
		}
		r := judge(groups, surprise)
		want, err := SingleVideos(repeated, labels)
		if err != nil {
			t.Fatal(err)
		}
		if got := weightedAUPRC(r.ordered, weight); math.Abs(got-want.AUPRC) > 1e-12 {
			t.Fatalf("AUPRC %g, repeated %g", got, want.AUPRC)
		}
		got := weightedAbsolute(r.ordered, weight)
		if want.AbsoluteAccuracy == nil {
			if !math.IsNaN(got) {
				t.Fatalf("absolute accuracy %g of %d possible videos", got, len(labels)/2)
			}
			return
		}
		if math.Abs(got-*want.AbsoluteAccuracy) > 1e-12 {
			t.Fatalf("absolute accuracy %g, repeated %g", got, *want.AbsoluteAccuracy)
		}
		if share := (*want.PossibleBelow + *want.ImpossibleAbove) / 2; math.Abs(share-*want.AbsoluteAccuracy) > 1e-12 {
			t.Fatalf("right below %g and above %g make %g", *want.PossibleBelow, *want.ImpossibleAbove, *want.AbsoluteAccuracy)
		}
	})
}
