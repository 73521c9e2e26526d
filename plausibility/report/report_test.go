package report

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// madeUp is a score file of pairs with an event at 0.8 s.
func madeUp(groups int) *compare.File {
	rng := rand.New(rand.NewPCG(1, 2))
	properties := []string{"permanence", "permanence_occluded", "colour", "colour_occluded", "shape"}
	f := &compare.File{Version: compare.Version, Spec: compare.Spec{Window: 16, Stride: 2, FrameStep: 1, TopTokens: 4},
		Size: 64, Decoder: "made up", Folder: "/videos", Skipped: []compare.Skipped{{Path: "pairs/broken.mp4", Group: "9", Reason: "no video stream"}},
		Sets: []compare.Set{
			{Name: compare.ModelSet, Model: compare.Model{Name: "demo", Step: 600, SHA256: strings.Repeat("ab", 32), Config: []byte(`{"dim":128}`)}},
			{Name: compare.TwinSet, Model: compare.Model{Name: "demo, untrained"}}}}
	for g := range groups {
		property := properties[g%len(properties)]
		for pair := range 2 {
			for label := 1; label >= 0; label-- {
				v := compare.Video{Path: fmt.Sprintf("pairs/%s-%03d-%d-%d.mp4", property, g, pair, label), Label: label, Group: fmt.Sprint(g), Property: property,
					Pair: fmt.Sprint(pair), SHA256: fmt.Sprintf("%d %d %d", g, pair, label), Frames: 18, WindowStart: []float64{0, 0.1}}
				for s := range f.Sets {
					event := 0.0
					if s == 0 && label == 0 && !strings.Contains(property, "occluded") {
						event = 0.5
					}
					peak := 2 + 0.3*rng.NormFloat64() + event
					sc := compare.Scores{Surprise: [][]float64{{peak, peak}}, Peak: [][]float64{{peak, peak}}}
					for t := range 14 {
						at := 0.1 + 0.1*float64(t)
						if s == 0 {
							v.TubeletStart = append(v.TubeletStart, at)
						}
						sc.Curve = append(sc.Curve, 0.8+0.1*rng.Float64()+event*math.Exp(-20*(at-0.8)*(at-0.8)))
					}
					f.Sets[s].Scores = append(f.Sets[s].Scores, sc)
				}
				f.Videos = append(f.Videos, v)
			}
		}
	}
	f.Data = compare.Digest(f.Videos)
	return f
}

// discs draws a frame with a disc that moves with time.
type discs struct{}

func (discs) Frames(_ context.Context, path string, seconds []float64) ([][]byte, error) {
	if !strings.HasPrefix(path, "/videos/") {
		return nil, fmt.Errorf("asked for %s", path)
	}
	var out [][]byte
	for _, t := range seconds {
		img := image.NewRGBA(image.Rect(0, 0, 64, 64))
		for y := range 64 {
			for x := range 64 {
				c := color.RGBA{210, 205, 190, 255}
				dx, dy := float64(x)-10-t*25, float64(y)-32
				if dx*dx+dy*dy < 90 {
					c = color.RGBA{200, 60, 40, 255}
				}
				img.SetRGBA(x, y, c)
			}
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, img, nil); err != nil {
			return nil, err
		}
		out = append(out, b.Bytes())
	}
	return out, nil
}

func madeUpPage(t *testing.T) *Page {
	t.Helper()
	f := madeUp(100)
	table, err := compare.Summarize(f, compare.Options{Resamples: 1000})
	if err != nil {
		t.Fatal(err)
	}
	events := map[string]float64{}
	for _, v := range f.Videos {
		events[f.Location(&v)] = 0.8
	}
	pairs, err := TypicalPairs(t.Context(), f, table.Aggregation, 3, events, discs{})
	if err != nil {
		t.Fatal(err)
	}
	var steps []Step
	for s := 10; s <= 600; s += 10 {
		x := float64(s)
		steps = append(steps, Step{Step: s, Loss: 0.1 + 0.8*math.Exp(-x/120), EffectiveRank: 20 + 26*math.Exp(-x/200), FeatureStd: 0.9 - x/3000, Cosine: 0.1 + x/4000})
	}
	maps := &heat.Maps{}
	for range f.Videos {
		m := heat.Map{Tubelets: 14, Height: 4, Width: 4}
		for i := range 14 * 16 {
			m.Values = append(m.Values, float32(i%16))
		}
		maps.Add(map[string]heat.Map{compare.ModelSet: m, compare.TwinSet: m})
	}
	if err := AddHeat(pairs, maps); err != nil {
		t.Fatal(err)
	}
	// A tenth of a second is a frame: the first tubelet that is predicted begins at 0.1 s.
	f.Grid, f.Size = &compare.Grid{Tubelet: 1, Patch: 16}, 64
	f.Spec = compare.Spec{Window: 15, Stride: 1, FrameStep: 1, TopTokens: 4}
	for i := range f.Videos {
		f.Videos[i].Frames = 15
		f.Videos[i].Divergence = &compare.Place{Frame: 8, Second: 0.8, Row: 32, Column: 32}
		for s := range f.Sets {
			f.Sets[s].Scores[i].PeakAt = &compare.Place{Frame: 9, Second: 0.9, Row: 40, Column: 40}
		}
	}
	localisation, err := compare.Localize(f, 0, compare.Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	baseline, err := compare.Models([]*compare.File{f, f, f}, []string{"representation", "pixels", "flow"}, compare.Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	controls := *table
	controls.Rows = slices.Clone(table.Rows[:1])
	controls.Rows[0].Name = "recolour"
	twin := compare.Interval{Value: 0.5, Low: 0.4, High: 0.6}
	return &Page{Title: "Does the model expect what is possible?", Made: "made up for a test", Table: table, File: f, Training: steps, Pairs: pairs,
		Localisation: localisation, Baseline: baseline, Controls: &controls,
		Rankings:    []Ranked{{Made: "time-direction", Sets: 80, First: compare.Interval{Value: 0.7, Low: 0.6, High: 0.8}, Chance: 0.5, Twin: &twin}},
		Evaluations: []Evaluation{{0, compare.Interval{Value: 0.5, Low: 0.4, High: 0.6}}, {300, compare.Interval{Value: 0.6, Low: 0.5, High: 0.7}}, {600, compare.Interval{Value: 0.7, Low: 0.6, High: 0.8}}},
		Facts:       []Fact{{Name: "command", Value: "surmise score --model M --pairs pairs.csv"}}}
}

func TestHTMLIsSelfContained(t *testing.T) {
	page := madeUpPage(t)
	path := filepath.Join(t.TempDir(), "report.html")
	if err := Save(path, page); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	_, beside, _ := strings.Cut(text, "Beside another model")
	head, rows, _ := strings.Cut(beside, "</tr>")
	first, _, _ := strings.Cut(rows, "</tr>")
	if heads, cells := strings.Count(head, "<th"), strings.Count(first, "<td"); heads != cells || cells != 9 { // of three models
		t.Errorf("models beside one another: %d heads over %d cells, want 9 each", heads, cells)
	}
	for _, found := range regexp.MustCompile(`(?:src|href|url)\s*[=(]\s*"?([^"')>]{1,40})`).FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(found[1], "data:image/") && !strings.HasPrefix(found[1], "#pair") {
			t.Errorf("the page loads %q", found[1])
		}
	}
	for _, want := range []string{"The model finds the impossible video", "Above chance, and above its untrained twin", "permanence_occluded", "no video stream", "effective rank", "data:image/jpeg;base64,", strings.Repeat("ab", 32), "surmise score --model M"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if n := strings.Count(text, "data:image/jpeg"); n != 3*2*framesShown {
		t.Errorf("%d frames in the page, want %d", n, 3*2*framesShown)
	}
	if strings.Contains(text, "ZgotmplZ") {
		t.Error("the template refused a value")
	}
	// The whole page, with everything that it may hold.
	for _, want := range []string{"When and where surprise peaks", "median 1.0 frames off", "Beside another model", "pixels", "Controls", "recolour", "Which future has the lowest energy", "time-direction", "pairwise accuracy, % over training steps"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if n := strings.Count(text, `<image class="heat"`); n != 3*2*framesShown {
		t.Errorf("%d maps in the page", n)
	}
	if n := strings.Count(text, `<use href="#pair0-possible-`); n != framesShown {
		t.Errorf("%d frames below surprise in the first pair, want %d", n, framesShown)
	}
	if dir := os.Getenv("SURMISE_REPORT_DIR"); dir != "" { // to look at what the test made
		if err := errorsOf(Save(filepath.Join(dir, "report.html"), page), SavePNG(filepath.Join(dir, "scores.png"), page.Table, page.Pairs)); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader sees every column: each row has as many cells as its table's head, tables that are too wide can be scrolled,
// and what is referred to inside the page is there, once.
func TestHTMLStructure(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHTML(&b, madeUpPage(t)); err != nil {
		t.Fatal(err)
	}
	if n := checkStructure(t, b.String()); n < 6 {
		t.Errorf("%d tables", n)
	}
}

// checkStructure holds a page to what TestHTMLStructure says, and returns how many tables it has.
func checkStructure(t *testing.T, text string) (tableCount int) {
	t.Helper()
	cells := func(row string) int { return len(regexp.MustCompile(`<t[hd][ >]`).FindAllString(row, -1)) }
	tables := regexp.MustCompile(`(?s)<section class="card"( style="overflow-x:auto")?>\s*(?:<h3>.*?</h3>)?\s*(<table.*?</table>)`).FindAllStringSubmatch(text, -1)
	if all := strings.Count(text, "<table"); len(tables) != all {
		t.Errorf("%d of %d tables are in cards of their own", len(tables), all)
	}
	for _, table := range tables {
		if table[1] == "" && !strings.HasPrefix(table[2], `<table class="prov">`) { // whose cells break lines
			t.Errorf("this table cannot be scrolled: %.200s", table[2])
		}
		rows := strings.Split(table[2], "<tr")[1:]
		for i, row := range rows {
			if cells(row) != cells(rows[0]) || cells(row) == 0 {
				t.Errorf("row %d has %d cells, the first %d: %.300s", i, cells(row), cells(rows[0]), row)
			}
		}
	}
	ids := map[string]int{}
	for _, id := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if ids[id[1]]++; ids[id[1]] > 1 {
			t.Errorf("two elements are called %q", id[1])
		}
	}
	for _, ref := range regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if ids[ref[1]] == 0 {
			t.Errorf("nothing is called %q", ref[1])
		}
	}
	for _, tag := range []string{"section", "figure", "table", "tr", "td", "svg", "main", "div", "ul"} {
		if opened, closed := len(regexp.MustCompile(`<`+tag+`[ >]`).FindAllString(text, -1)), strings.Count(text, "</"+tag+">"); opened != closed {
			t.Errorf("%d <%s>, %d ends of it", opened, tag, closed)
		}
	}
	for _, bad := range []string{"ZgotmplZ", "%!"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page holds %q: the template was given what it does not take", bad)
		}
	}
	return len(tables)
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Names from outside are text, never markup, in the page and in its charts.
func TestHTMLEscapesNames(t *testing.T) {
	const evil = `<script>alert("x")</script>`
	f := madeUp(10)
	for i := range f.Videos {
		f.Videos[i].Property, f.Videos[i].Path = evil, evil+fmt.Sprint(i)
	}
	f.Data = compare.Digest(f.Videos)
	f.Skipped[0].Reason, f.Decoder, f.Sets[0].Model.Name = evil, evil, evil
	table, err := compare.Summarize(f, compare.Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := TypicalPairs(t.Context(), f, table.Aggregation, 2, nil, discs{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteHTML(&b, &Page{Title: evil, Table: table, File: f, Pairs: pairs, Facts: []Fact{{Name: evil, Value: evil}}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<script") {
		t.Error("a name became markup")
	}
}

func TestHTMLWithLittle(t *testing.T) {
	f := madeUp(1)
	f.Sets = f.Sets[:1]
	table, err := compare.Summarize(f, compare.Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteHTML(&b, &Page{Title: "little", Table: table}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "Inconclusive") {
		t.Error("one group, but the page does not say inconclusive")
	}
	if err := WriteHTML(&b, &Page{Title: "nothing"}); err == nil {
		t.Error("a page without a table was written")
	}
}

// A statistic that is not the default was fixed beforehand by nobody, unless whoever writes the page says so.
func TestStatisticSaysHowItWasChosen(t *testing.T) {
	f := madeUp(20)
	chosen := compare.Aggregation{Name: "max"}
	for _, c := range []struct {
		measure       compare.Aggregation
		fixedBy, want string
	}{
		{compare.Aggregation{}, "", "The statistic of the verdict, peak, was fixed beforehand: scores like these"},
		{compare.Aggregation{Name: "peak"}, "", "The statistic of the verdict, peak, was fixed beforehand: scores like these"},
		{chosen, "", "The statistic of the verdict, max, was chosen with --measure in place of the default, peak"},
		{chosen, "the demo", "The statistic of the verdict, max, was fixed beforehand, by the demo"},
	} {
		table, err := compare.Summarize(f, compare.Options{Resamples: 100, Aggregation: c.measure})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := WriteHTML(&b, &Page{Title: "t", Table: table, File: f, FixedBy: c.fixedBy}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), c.want) {
			t.Errorf("%v by %q: the page does not say %q", c.measure, c.fixedBy, c.want)
		}
		if beforehand := strings.Contains(c.want, "beforehand"); strings.Contains(b.String(), "fixed beforehand") != beforehand {
			t.Errorf("%v by %q: beforehand %t is wanted", c.measure, c.fixedBy, beforehand)
		}
	}
}

// What ties alone make of a difference is not the title of a page.
func TestTiesMakeNoTitle(t *testing.T) {
	f := madeUp(60)
	for i := range f.Videos {
		f.Sets[1].Scores[i].Peak = [][]float64{{1, 1}}
		event := 0.0
		if f.Videos[i].Label == 0 {
			event = float64(i/2*7%4/2) - 0.5 // right and wrong as often
		}
		f.Sets[0].Scores[i].Peak = [][]float64{{2 + event, 2 + event}}
	}
	table, err := compare.Summarize(f, compare.Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	row := &table.Rows[len(table.Rows)-1]
	if d := row.Differences[0].Accuracy; d.Low <= 0 {
		t.Fatalf("the difference with ties as wrong is %+v; the test is of nothing", d)
	}
	if text, tone := verdict(table, row); text != "Inconclusive" || tone != "open" {
		t.Errorf("%q, %q", text, tone)
	}
}

// What is wrong with a comparison is said beside it.
func TestBaselineSaysItsWarnings(t *testing.T) {
	page := madeUpPage(t)
	var b bytes.Buffer
	if err := WriteHTML(&b, page); err != nil {
		t.Fatal(err)
	}
	_, beside, _ := strings.Cut(b.String(), "Beside another model")
	if !strings.Contains(beside, "representation, pixels, flow: one training each") {
		t.Error("the page does not say that one training says nothing of the next")
	}
}

// Controls have no verdict that a page could be about.
func TestControlsAreNoPage(t *testing.T) {
	page := madeUpPage(t)
	page.Table.Controls = true
	if err := WriteHTML(&bytes.Buffer{}, page); err == nil || !strings.Contains(err.Error(), "controls") {
		t.Errorf("got %v", err)
	}
}

func TestFramesMustBeImages(t *testing.T) {
	page := madeUpPage(t)
	page.Pairs[0].Possible.Frames[0] = []byte("<svg onload=x>")
	if err := WriteHTML(&bytes.Buffer{}, page); err == nil || !strings.Contains(err.Error(), "want JPEG or PNG") {
		t.Errorf("a frame that is no image: %v", err)
	}
}

func TestPNG(t *testing.T) {
	page := madeUpPage(t)
	var b bytes.Buffer
	if err := WritePNG(&b, page.Table, page.Pairs); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	colours := map[color.Color]bool{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			colours[img.At(x, y)] = true
		}
	}
	for _, hex := range []string{colourModel, colourTwin, colourPossible, colourImpossible} {
		if !colours[rgb(hex)] {
			t.Errorf("nothing is drawn in %s", hex)
		}
	}
}

func TestTicksAreRound(t *testing.T) {
	for _, c := range []struct {
		from, to float64
		n        int
		want     string
	}{{0, 1, 5, "[0 0.2 0.4 0.6 0.8 1]"}, {0, 600, 5, "[0 200 400 600]"}, {0.93, 1.07, 4, "[0.95 1 1.05]"}, {3, 3, 4, "[3]"},
		{0.5, 0.5 + 1.0/(1<<53), 4, "[0.5 0.5 0.5 0.5 0.5]"}} {
		var out []string
		for _, x := range (scale{from: c.from, to: c.to}).ticks(c.n) {
			out = append(out, label(x))
		}
		if got := fmt.Sprint(out); got != c.want {
			t.Errorf("ticks of %g to %g: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}

// The numbers beside the page are those of the page.
func TestData(t *testing.T) {
	page := madeUpPage(t)
	page.Training[3].Cosine = math.NaN()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errorsOf(SaveJSON(path("report.json"), page), SaveTableCSV(path("table.csv"), page.Table), SaveVideosCSV(path("videos.csv"), page.File, page.Table.Aggregation)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path("report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(d.Table, page.Table) || !reflect.DeepEqual(d.Localisation, page.Localisation) || d.Evaluations[2].Accuracy.Value != 0.7 ||
		d.Training[3].Cosine != nil || *d.Training[4].Cosine != page.Training[4].Cosine || d.Skipped[0].Reason != "no video stream" {
		t.Error("report.json holds other numbers than the page")
	}
	if !strings.Contains(string(text), strings.Repeat("ab", 32)) {
		t.Error("report.json does not hold the digest of the weights")
	}
	lines := func(name string) [][]string {
		f, err := os.Open(path(name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		out, err := csv.NewReader(f).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	table := lines("table.csv")
	if len(table) != 1+2*len(page.Table.Rows) || table[1][0] != "permanence" || table[2][4] != compare.TwinSet || table[1][5] != fmt.Sprint(page.Table.Rows[0].Cells[0].Accuracy.Value) ||
		table[0][19] != "chance_p_holm" || table[1][19] != fmt.Sprint(page.Table.Rows[0].Cells[0].Chance.Holm) {
		t.Errorf("table.csv begins with %v", table[:3])
	}
	videos := lines("videos.csv")
	surprise, err := page.File.Sets[0].Videos(page.File, page.Table.Aggregation)
	if err != nil {
		t.Fatal(err)
	}
	last := videos[len(videos)-1]
	if len(videos) != 1+400+1 || videos[1][10] != fmt.Sprint(surprise[0]) || videos[1][7] != "8" || videos[1][8] != "9" || last[0] != "pairs/broken.mp4" || last[9] != "no video stream" {
		t.Errorf("videos.csv: %v … %v", videos[:2], last)
	}
}

func TestFigureFiles(t *testing.T) {
	page := madeUpPage(t)
	dir := t.TempDir()
	for _, name := range []string{"scores.svg", "training.svg"} {
		path := filepath.Join(dir, name)
		err := SaveSVG(path, page.Table, page.Pairs)
		if name == "training.svg" {
			_, err = SaveTraining(path, page)
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var elements int
		for dec := xml.NewDecoder(bytes.NewReader(data)); ; elements++ {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is no XML: %v", name, err)
			}
		}
		if elements < 100 {
			t.Errorf("%s has %d elements", name, elements)
		}
	}
	path := filepath.Join(dir, "training.png")
	if drawn, err := SaveTraining(path, page); err != nil || !drawn {
		t.Fatal(drawn, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dy() < 5*200 { // accuracy and four monitors
		t.Errorf("training.png: %v", err)
	}
	page.Training, page.Evaluations = nil, nil
	if drawn, err := SaveTraining(filepath.Join(dir, "none.png"), page); err != nil || drawn {
		t.Errorf("without curves: %t, %v", drawn, err)
	}
}

func TestHeatMustFit(t *testing.T) {
	page := madeUpPage(t)
	maps := &heat.Maps{}
	for range page.File.Videos {
		m := heat.Map{Tubelets: 1, Height: 1, Width: 1, Values: []float32{1}}
		maps.Add(map[string]heat.Map{compare.ModelSet: m})
	}
	if err := AddHeat(page.Pairs, maps); err == nil || !strings.Contains(err.Error(), "1 tubelets for a curve of 14") {
		t.Errorf("a map of another length: %v", err)
	}
	page.Pairs[0].Impossible.Heat[5] = []byte("<svg onload=x>")
	if err := WriteHTML(&bytes.Buffer{}, page); err == nil || !strings.Contains(err.Error(), "want PNG") {
		t.Errorf("a map that is no image: %v", err)
	}
}

// A model that does no better than copying the last frame is not called good.
func TestVerdictNamesTheCopyOfTheLastFrame(t *testing.T) {
	f := madeUp(100)
	f.Sets = append(f.Sets, compare.Set{Name: compare.CopySet, Scores: f.Sets[0].Scores})
	table, err := compare.Summarize(f, compare.Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	text, tone := verdict(table, &table.Rows[len(table.Rows)-1])
	if tone != "open" || text != "Above chance, and above its untrained twin; but not shown to be above a copy of the last frame" {
		t.Errorf("%q, %q", text, tone)
	}
	f.Sets[2].Scores = f.Sets[1].Scores
	if table, err = compare.Summarize(f, compare.Options{Resamples: 500}); err != nil {
		t.Fatal(err)
	}
	if text, tone := verdict(table, &table.Rows[len(table.Rows)-1]); tone != "good" {
		t.Errorf("%q, %q", text, tone)
	}
	// A model that is worse than what needs no training is no good news.
	for want, floors := range map[string][]compare.Difference{
		"Below a copy of the last frame":                 {{Column: compare.CopySet, Verdict: compare.Lower}},
		"Above its untrained twin, but not above chance": {{Column: compare.TwinSet, Verdict: compare.Higher}},
		"Inconclusive":             {{Column: compare.TwinSet, Verdict: compare.Inconclusive}},
		"Below its untrained twin": {{Column: compare.TwinSet, Verdict: compare.Lower}, {Column: compare.CopySet, Verdict: compare.Higher}},
	} {
		row := compare.Row{Cells: make([]compare.Cell, 1+len(floors)), Differences: floors}
		row.Cells[0].Verdict = compare.Inconclusive
		if text, tone := verdict(&compare.Table{Columns: []string{compare.ModelSet}}, &row); text != want || tone == "good" {
			t.Errorf("%q, %q, want %q", text, tone, want)
		}
	}
}
