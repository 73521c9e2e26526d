package compare

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// without is a score file of videos without labels whose surprise to the model and, if there are any, to the twin is given.
func without(model []float64, twin ...float64) *File {
	f := &File{Version: Version, Spec: Spec{Window: 8, Stride: 2, FrameStep: 1, Contexts: []int{2, 4}}, Size: 64, Decoder: "made up", Skipped: []Skipped{},
		Sets: []Set{{Name: ModelSet, Model: Model{Name: "tiny", SHA256: "feed", Step: 100}}}}
	if twin != nil {
		f.Sets = append(f.Sets, Set{Name: TwinSet, Model: Model{Name: "twin", Seed: 7}})
	}
	for i := range model {
		f.Videos = append(f.Videos, Video{Path: fmt.Sprintf("%d.mp4", i), Label: NoLabel, SHA256: fmt.Sprintf("%p %d", f, i), Frames: 10,
			WindowStart: []float64{0, 0.2}, TubeletStart: []float64{0.2}})
		for k, values := range [][]float64{model, twin}[:len(f.Sets)] {
			x := values[i] // its largest window, as the mean over contexts
			m := [][]float64{{x / 2, x * 0.875}, {x / 2, x * 1.125}}
			f.Sets[k].Scores = append(f.Sets[k].Scores, Scores{Surprise: m, Peak: m, Curve: []float64{x}, PeakAt: &Place{Frame: 4, Second: 0.4}})
		}
	}
	f.Data = Digest(f.Videos)
	return f
}

func paths(l *Listing) (out []string) {
	for _, v := range l.Videos {
		out = append(out, v.Path)
	}
	return out
}

func TestList(t *testing.T) {
	f := without([]float64{1, 3, 2, 5, 4}, 10, 30, 20, 50, 40)
	f.Skipped = []Skipped{{Path: "x.mp4", Reason: "ends early"}}
	l, err := List(f, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"3.mp4", "4.mp4", "1.mp4", "2.mp4", "0.mp4"}; l.Aggregation.Name != "max" || !slices.Equal(paths(l), want) {
		t.Errorf("%s: %v, want %v", l.Aggregation, paths(l), want)
	}
	if one := l.Videos[0]; one.Columns[0].Surprise != 5 || one.Columns[1].Surprise != 50 || one.Columns[0].P != nil || one.Columns[0].Percentile != nil || one.PeakAt.Second != 0.4 {
		t.Errorf("the first is %+v", one)
	}
	if l.TwinCorrelation == nil || *l.TwinCorrelation != 1 || l.Reference != nil {
		t.Errorf("correlation %v, reference %v", l.TwinCorrelation, l.Reference)
	}
	f.Spec.Contexts, f.Notes = nil, []string{"read with care"} // a next-tubelet model
	for k := range f.Sets {
		for i := range f.Sets[k].Scores {
			s := &f.Sets[k].Scores[i]
			s.Surprise, s.Peak = s.Surprise[:1], s.Peak[:1]
		}
	}
	if l, err = List(f, nil, Options{}); err != nil || l.Aggregation.Name != "peak" || l.Videos[0].Columns[0].Surprise != 4.375 {
		t.Errorf("a next-tubelet model: %+v, %v", l, err)
	}
	if !slices.Contains(l.Warnings, "read with care") || !slices.Contains(l.Warnings, "of 6 videos 1 were skipped; see the list of them") {
		t.Errorf("warnings %q", l.Warnings)
	}
	var text bytes.Buffer
	if err := l.WriteText(&text, 2); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3.mp4  4.3750         43.7500  0.40 s\n", "and 3 more, which surprise less\n", "skipped: x.mp4: ends early\n", "rank correlation of +1.00"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
}

func TestListByReference(t *testing.T) {
	var ordinary []float64
	for i := range 39 {
		ordinary = append(ordinary, float64(i+1)) // 1 to 39
	}
	reference := without(ordinary, ordinary...)
	f := without([]float64{40, 39, 20.5, 1, 0.5}, 1, 1, 1, 1, 1)
	f.Videos[3].SHA256 = reference.Videos[0].SHA256 // the same video, which surprises 1 there too
	f.Data = Digest(f.Videos)
	l, err := List(f, reference, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ percentile, p float64 }{
		{100, 1. / 40},
		{100 * 38.5 / 39, 2. / 40},
		{100 * 20. / 39, 20. / 40},
		{0, 39. / 39}, // among the 38 others
		{0, 40. / 40},
	} {
		got := l.Videos[i].Columns[0]
		if math.Abs(*got.Percentile-want.percentile) > 1e-9 || math.Abs(*got.P-want.p) > 1e-12 {
			t.Errorf("%s: percentile %g, p %g; want %g, %g", l.Videos[i].Path, *got.Percentile, *got.P, want.percentile, want.p)
		}
	}
	// 2 of 40 places are rare; of the 39 of the shared video 1.
	if want := (Reference{Videos: 39, Rare: 2, Expected: 4*2./40 + 1./39, Shared: 1}); l.Reference.Rare != want.Rare || l.Reference.Videos != want.Videos || l.Reference.Shared != 1 || math.Abs(l.Reference.Expected-want.Expected) > 1e-12 {
		t.Errorf("reference %+v, want %+v", l.Reference, want)
	}
	if l.TwinCorrelation != nil || l.Videos[0].Columns[1].P == nil {
		t.Errorf("a twin to which all are alike: correlation %v, p %v", l.TwinCorrelation, l.Videos[0].Columns[1].P)
	}

	other := without(ordinary, ordinary...)
	other.Sets[1].Model.Seed = 8
	other.Notes = []string{"seen in training"}
	if l, err = List(f, other, Options{}); err != nil || l.Videos[0].Columns[0].P == nil || l.Videos[0].Columns[1].P != nil || !slices.Contains(l.Warnings, "the reference: seen in training") {
		t.Errorf("judged by another twin: %+v, %v", l, err)
	}
	if l, err = List(f, without(ordinary[:5]), Options{}); err != nil || len(l.Warnings) != 1 || !strings.Contains(l.Warnings[0], "no p can be below 0.17; take at least 19") {
		t.Errorf("a small reference: %+v, %v", l, err)
	}
	if l, err = List(without([]float64{1}), without([]float64{1}), Options{}); err != nil || *l.Videos[0].Columns[0].P != 1 {
		t.Errorf("one by one: %+v, %v", l, err)
	}
	alone := without([]float64{1})
	if l, err = List(alone, alone, Options{}); err != nil || l.Videos[0].Columns[0].P != nil || l.Reference.Expected != 0 {
		t.Errorf("one by itself: %+v, %v", l, err)
	}
	if err := l.WriteText(new(bytes.Buffer), 0); err != nil {
		t.Error(err)
	}
}

// The largest of more windows is larger by itself.
func TestListWarnsOfOtherLengths(t *testing.T) {
	f, reference := without([]float64{1, 2, 3}), without(make([]float64, 30))
	for i := range f.Videos[:2] {
		v, s := &f.Videos[i], &f.Sets[0].Scores[i]
		v.WindowStart = []float64{0, 0.2, 0.4, 0.6}
		for _, m := range [][][]float64{s.Surprise, s.Peak} {
			for c := range m {
				m[c] = []float64{1, 1, 1, 1}
			}
		}
	}
	for measure, want := range map[string]bool{"max": true, "avg": false} {
		a, _ := ParseAggregation(measure)
		l, err := List(f, reference, Options{Aggregation: a})
		if err != nil {
			t.Fatal(err)
		}
		warned := slices.ContainsFunc(l.Warnings, func(w string) bool {
			return strings.HasPrefix(w, "a video has 4 windows in the middle, one of the reference 2")
		})
		if warned != want {
			t.Errorf("%s: %q", measure, l.Warnings)
		}
	}
}

// Some long videos among short ones leave the middle where it is, and would be the first of every listing.
func TestListWarnsOfLongVideos(t *testing.T) {
	const long = 400
	for _, c := range []struct {
		listed, longer int
		want           bool
	}{{50, 20, true}, {50, 4, false}, {1, 1, true}} {
		f, reference := without(make([]float64, c.listed)), without(make([]float64, 100))
		for i := range c.longer {
			v, s := &f.Videos[c.listed-1-i], &f.Sets[0].Scores[c.listed-1-i]
			v.WindowStart = make([]float64, long)
			s.Surprise, s.Peak = [][]float64{make([]float64, long), make([]float64, long)}, [][]float64{make([]float64, long), make([]float64, long)}
		}
		l, err := List(f, reference, Options{})
		if err != nil {
			t.Fatal(err)
		}
		warned := slices.ContainsFunc(l.Warnings, func(w string) bool {
			return strings.Contains(w, "the largest of more is larger by itself") && (c.listed == 1 || strings.HasPrefix(w, "20 of 50 videos, the first of them 30.mp4, are much longer"))
		})
		if warned != c.want {
			t.Errorf("%+v: %q", c, l.Warnings)
		}
	}
}

// A content that groups of a reference share, which do not follow each other, is left out once.
func TestListLeavesSharedContentOutOnce(t *testing.T) {
	reference := madeUp(1, 40, 1, "p")
	reference.Sets[0].Model.SHA256 = "feed"
	reference.Sets = reference.Sets[:1]
	var order []int // possible videos of groups 0, 1, 0, 2, of which 0 and 0 share what they show
	for g := range 40 {
		order = append(order, 4*g, 4*g+1)
	}
	for g := range 40 {
		order = append(order, 4*g+2, 4*g+3)
	}
	videos, scores := reference.Videos, reference.Sets[0].Scores
	reference.Videos, reference.Sets[0].Scores = nil, nil
	for _, i := range order {
		v := videos[i]
		if v.Group == "0" && v.Label == 1 {
			v.SHA256 = "shared"
		}
		reference.Videos = append(reference.Videos, v)
		reference.Sets[0].Scores = append(reference.Sets[0].Scores, scores[i])
	}
	reference.Data = Digest(reference.Videos)
	f := without([]float64{1e6})
	f.Videos[0].SHA256 = "shared"
	f.Data = Digest(f.Videos)
	l, err := List(f, reference, Options{Aggregation: Aggregation{Name: "avg"}})
	if err != nil {
		t.Fatal(err)
	}
	if p := l.Videos[0].Columns[0].P; p == nil || *p != 1.0/40 || l.Reference.Shared != 1 {
		t.Errorf("by 39 groups of 40: %+v, reference %+v", l.Videos[0].Columns[0], l.Reference)
	}
}

// Of a file with labels only the possible videos are ordinary.
func TestListByPossibleVideos(t *testing.T) {
	reference := madeUp(1, 12, 0.9, "permanence")
	reference.Sets[0].Model = Model{Name: "tiny", SHA256: "feed", Step: 100}
	f := without([]float64{0, 100})
	f.Decoder, f.Spec = reference.Decoder, reference.Spec
	l, err := List(f, reference, Options{})
	if err != nil || l.Reference.Videos != 24 || l.Reference.Groups != 12 || math.Abs(*l.Videos[0].Columns[0].P-1./13) > 1e-12 {
		t.Errorf("%+v, %v", l, err)
	}
}

// Videos of a group are alike: together they count as one, or a reference of few groups would make anything rare.
func TestListCountsGroups(t *testing.T) {
	reference := madeUp(1, 10, 0.9, "permanence")
	reference.Sets[0].Model = Model{Name: "tiny", SHA256: "feed", Step: 100}
	n := map[string]float64{}
	for i, v := range reference.Videos {
		if v.Label != 1 {
			continue
		}
		group, _ := strconv.ParseFloat(v.Group, 64)
		x := group + n[v.Group]/2 // of group g: g and g + 1/2
		n[v.Group]++
		s := &reference.Sets[0].Scores[i]
		for c := range s.Surprise {
			for w := range s.Surprise[c] {
				s.Surprise[c][w] = x
			}
		}
	}
	f := without([]float64{100, 9.25, 9, 4.25, 0})
	f.Decoder, f.Spec = reference.Decoder, reference.Spec
	a, _ := ParseAggregation("avg")
	for i := range f.Videos {
		x := []float64{100, 9.25, 9, 4.25, 0}[i]
		f.Sets[0].Scores[i].Surprise = [][]float64{{x, x}, {x, x}}
	}
	l, err := List(f, reference, Options{Aggregation: a})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ percentile, p float64 }{{100, 1. / 11}, {95, 1.5 / 11}, {92.5, 2. / 11}, {45, 6.5 / 11}, {2.5, 1}} {
		if got := l.Videos[i].Columns[0]; math.Abs(*got.Percentile-want.percentile) > 1e-9 || math.Abs(*got.P-want.p) > 1e-12 {
			t.Errorf("%g: percentile %g, p %g; want %v", got.Surprise, *got.Percentile, *got.P, want)
		}
	}
	// A video of the reference is judged by the other groups alone.
	f.Videos[0].SHA256 = reference.Videos[0].SHA256 // of group 0
	f.Data = Digest(f.Videos)
	if l, err = List(f, reference, Options{Aggregation: a}); err != nil || math.Abs(*l.Videos[0].Columns[0].P-1./10) > 1e-12 || l.Reference.Shared != 1 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestListEndsWithItsCaller(t *testing.T) {
	done := make(chan struct{})
	close(done)
	if _, err := List(without([]float64{1, 2}), without([]float64{1, 2}), Options{Done: done}); !errors.Is(err, ErrStopped) {
		t.Errorf("%v", err)
	}
}

// Whatever the distribution, a video that is like the reference is rare with the probability that p says, or less.
func TestListKeepsItsLevel(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for name, draw := range map[string]func() float64{
		"lognormal": func() float64 { return math.Exp(2 * rng.NormFloat64()) },
		"with ties": func() float64 { return float64(1 + rng.IntN(4)) },
	} {
		const runs, listed, ordinary = 300, 10, 59
		rare, expected := 0, 0.0
		for range runs {
			values := make([]float64, listed+ordinary)
			for i := range values {
				values[i] = draw()
			}
			l, err := List(without(values[:listed]), without(values[listed:]), Options{})
			if err != nil {
				t.Fatal(err)
			}
			rare, expected = rare+l.Reference.Rare, expected+l.Reference.Expected
		}
		if math.Abs(expected-runs*listed*0.05) > 1e-6 {
			t.Errorf("%s: %g expected of %d, want 5 %%", name, expected, runs*listed)
		}
		// Videos of a run share their reference: the spread is wider than that of a binomial; 40 is some 2.5 of its deviations.
		if got := float64(rare); got > expected+40 || name == "lognormal" && got < expected-40 {
			t.Errorf("%s: %g of %d were rare, want about %g, and with ties no more", name, got, runs*listed, expected)
		}
	}
}

func TestListRefuses(t *testing.T) {
	labelled := madeUp(1, 12, 0.9, "permanence")
	controls := madeUp(1, 12, 0.9, "recolour")
	for i := range controls.Videos {
		if controls.Videos[i].Label == 0 {
			controls.Videos[i].SHA256 += " recolour"
		}
	}
	controls.Data = Digest(controls.Videos)
	changed := func(change func(*File)) *File {
		f := without([]float64{1, 2})
		change(f)
		return f
	}
	for name, test := range map[string]struct {
		f, reference *File
		measure      string
		want         string
		unlike       bool
	}{
		"labels":           {f: labelled, want: "the videos have labels"},
		"statistic":        {f: without([]float64{1}), measure: "peak_at_parting", want: "measure peak_at_parting: "},
		"context":          {f: without([]float64{1}), measure: "max@3", want: "context 3 was not scored"},
		"controls":         {f: without([]float64{1}), reference: controls, want: "reference: these are controls"},
		"other settings":   {f: without([]float64{1}), reference: changed(func(f *File) { f.Spec.Stride = 4 }), want: "spec.stride is 2 in one and 4 in the other", unlike: true},
		"other weights":    {f: without([]float64{1}), reference: changed(func(f *File) { f.Sets[0].Model.SHA256 = "beef" }), want: "model is tiny (SHA-256 feed) in one and tiny (SHA-256 beef)", unlike: true},
		"nameless weights": {f: without([]float64{1}), reference: changed(func(f *File) { f.Sets[0].Model.SHA256 = "" }), want: "does not say which weights made it", unlike: true},
		"changed":          {f: changed(func(f *File) { f.Videos[0].SHA256 = "0" }), want: "data_sha256"},
	} {
		o := Options{}
		if test.measure != "" {
			o.Aggregation, _ = ParseAggregation(test.measure)
		}
		if _, err := List(test.f, test.reference, o); err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrUnlike) != test.unlike {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// What tells possible from impossible videos refuses those without labels.
func TestWithoutLabelsThereAreNoPairs(t *testing.T) {
	f := without([]float64{1, 2, 3})
	if _, err := Summarize(f, Options{}); !errors.Is(err, ErrNoLabels) {
		t.Errorf("summarized: %v", err)
	}
	if _, err := Models([]*File{f, f}, []string{"a", "b"}, Options{}); !errors.Is(err, ErrNoLabels) {
		t.Errorf("compared: %v", err)
	}
	if _, err := PublishedTable(f); !errors.Is(err, ErrNoLabels) {
		t.Errorf("published: %v", err)
	}
	f.Grid = &Grid{Tubelet: 2, Patch: 8}
	if _, err := Localize(f, 0, Options{}); !errors.Is(err, ErrNoPlaces) {
		t.Errorf("localised: %v", err)
	}
	if pairs := f.Pairs(); len(pairs) != 0 {
		t.Errorf("pairs %v", pairs)
	}
}

func TestFileWithoutLabels(t *testing.T) {
	f := without([]float64{1, 2, 3}, 4, 5, 6)
	path := filepath.Join(t.TempDir(), "scores.json")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	if back, err := Load(path); err != nil || !reflect.DeepEqual(back, f) {
		t.Errorf("read again as %+v: %v", back, err)
	}
	for name, change := range map[string]func(v *Video){
		"group":      func(v *Video) { v.Group = "g" },
		"property":   func(v *Video) { v.Property = "p" },
		"pair":       func(v *Video) { v.Pair = "1" },
		"divergence": func(v *Video) { v.Divergence = &Place{} },
		"label":      func(v *Video) { v.Label, v.Group = 1, "g" },
	} {
		f := without([]float64{1, 2, 3})
		change(&f.Videos[1])
		f.Data = Digest(f.Videos)
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "videos[1] (1.mp4)") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if mixed := madeUp(1, 12, 0.9, "permanence"); true {
		mixed.Videos[3].Label, mixed.Videos[3].Group, mixed.Videos[3].Property, mixed.Videos[3].Pair = NoLabel, "", "", ""
		mixed.Data = Digest(mixed.Videos)
		if err := mixed.Validate(); err == nil || !strings.Contains(err.Error(), "label: -1, after one of 1") {
			t.Errorf("none after labels: %v", err)
		}
	}
}

func TestRanks(t *testing.T) {
	if got, want := ranks([]float64{3, 1, 3, 2, 3}), []float64{3, 0, 3, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("ranks %v, want %v", got, want)
	}
}

// What was found while scoring is said again by every table of the scores.
func TestTablesRepeatNotes(t *testing.T) {
	f, other := madeUp(1, 12, 0.9, "permanence"), madeUp(1, 12, 0.8, "permanence")
	f.Notes = []string{"seen in training", "no twin of its own"}
	other.Notes = []string{"seen in training"}
	table, err := Summarize(f, Options{Resamples: 200})
	if err != nil || !slices.Contains(table.Warnings, "seen in training") || !slices.Contains(table.Warnings, "no twin of its own") {
		t.Errorf("warnings %q, %v", table.Warnings, err)
	}
	table, err = Models([]*File{f, other}, []string{"a", "b"}, Options{Resamples: 200})
	if err != nil || !slices.Contains(table.Warnings, "a, b: seen in training") || !slices.Contains(table.Warnings, "a: no twin of its own") {
		t.Errorf("warnings %q, %v", table.Warnings, err)
	}
}
