package report

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot/vg"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/plausibility/compare"
)

//go:embed page.html listing.html style.html
var pages embed.FS

var pageTemplates = template.Must(template.New("pages").Funcs(template.FuncMap{
	"pct":    func(x float64) string { return fmt.Sprintf("%.1f", 100*x) },
	"signed": func(x float64) string { return strings.Replace(fmt.Sprintf("%+.1f", 100*x), "-", "\u2212", 1) },
	"num":    func(x float64) string { return fmt.Sprintf("%.4g", x) },
	"pct0":   func(x float64) string { return fmt.Sprintf("%.0f", 100*x) },
	"px":     func(x float64) string { return fmt.Sprintf("%.1f", x) },
	"colour": func(i int) template.CSS { return template.CSS(columnColour(i)) },
	"of":     func(x *float64) float64 { return *x },
}).ParseFS(pages, "*.html"))

// view is what page.html shows.
type view struct {
	*Page
	Verdict    string // of the pooled row
	Tone       string // CSS class of the verdict
	Sentences  []string
	Headline   *compare.Row // the pooled row
	Statistic  string       // how that of the verdict was come by
	Confidence string       // %
	Forest     template.HTML
	Charts     []template.HTML
	PairViews  []pairView
	Facts      []Fact

	BesideWarnings []string // of Baseline, beside those of Table
}

type pairView struct {
	*Pair
	Chart template.HTML
	Right bool
}

// WriteHTML writes the page to w.
func WriteHTML(w io.Writer, p *Page) error {
	if p.Table == nil || len(p.Table.Rows) == 0 {
		return errors.New("writing report: no table")
	}
	if p.Table.Controls {
		return errors.New("writing report: a table of controls, in which nothing is impossible")
	}
	v := view{Page: p, Sentences: p.Table.Sentences(), Facts: facts(p), Statistic: p.statistic(),
		Confidence: fmt.Sprintf("%g", 100*p.Table.Confidence)}
	v.Headline = &p.Table.Rows[len(p.Table.Rows)-1]
	v.Verdict, v.Tone = verdict(p.Table, v.Headline)
	if p.Baseline != nil {
		for _, w := range p.Baseline.Warnings {
			if !slices.Contains(p.Table.Warnings, w) {
				v.BesideWarnings = append(v.BesideWarnings, w)
			}
		}
	}
	if err := v.draw(); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	for i := range p.Pairs {
		chart, err := pairChart(fmt.Sprintf("pair%d", i), &p.Pairs[i])
		if err != nil {
			return fmt.Errorf("writing report: %w", err)
		}
		v.PairViews = append(v.PairViews, pairView{&p.Pairs[i], chart, p.Pairs[i].Margin > 0})
	}
	if err := pageTemplates.ExecuteTemplate(w, "page.html", v); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	return nil
}

// draw makes the figures.
func (v *view) draw() error {
	accuracies, err := accuracyFigure(v.Table)
	if err != nil {
		return err
	}
	if v.Forest, err = accuracies.html("Pairwise accuracy with intervals for every row of the table"); err != nil {
		return err
	}
	plots, err := trainingPlots(v.Page)
	if err != nil {
		return err
	}
	for _, p := range plots {
		one := &figure{width: 4.4 * vg.Inch}
		one.add(p, 2*vg.Inch)
		chart, err := one.html(p.Title.Text + " over training steps")
		if err != nil {
			return err
		}
		v.Charts = append(v.Charts, chart)
	}
	return nil
}

// Save writes the page to path: whole, or not at all.
func Save(path string, p *Page) error {
	return durable.WriteFile(path, 0o644, func(w io.Writer) error { return WriteHTML(w, p) })
}

// statistic says how that of the verdict was come by, as far as the page knows.
func (p *Page) statistic() string {
	switch {
	case p.File == nil:
		return "was given with the table"
	case p.Table.Aggregation == compare.DefaultAggregation(p.File.Spec):
		return "was fixed beforehand: scores like these are judged by it unless asked otherwise"
	case p.FixedBy != "":
		return "was fixed beforehand, by " + p.FixedBy
	}
	return fmt.Sprintf("was chosen with --measure in place of the default, %s", compare.DefaultAggregation(p.File.Spec))
}

// verdict puts the row in a few words. With floors to compare with, being above chance is not enough: the untrained twin
// may be so too, by an artefact of the clips.
func verdict(t *compare.Table, row *compare.Row) (text, tone string) {
	first := row.Cells[0]
	if len(row.Differences) > 0 && t.Columns[0] == compare.ModelSet {
		return besideFloors(first.Verdict, row.Differences)
	}
	if len(row.Differences) > 0 {
		d := row.Differences[0]
		if d.Verdict == compare.Inconclusive {
			return fmt.Sprintf("%s and %s: inconclusive", t.Columns[0], d.Column), "open"
		}
		return fmt.Sprintf("%s is %s than %s", t.Columns[0], d.Verdict, d.Column), "good"
	}
	switch first.Verdict {
	case compare.AboveChance:
		return "Above chance", "good"
	case compare.BelowChance:
		return "Below chance", "bad"
	}
	return "Inconclusive", "open"
}

// besideFloors is the verdict on a model of what it is against chance and against its floors.
func besideFloors(chance string, floors []compare.Difference) (text, tone string) {
	names := map[string]string{compare.TwinSet: "its untrained twin", compare.CopySet: "a copy of the last frame"}
	var above, open, below []string
	for _, d := range floors {
		name := cmp.Or(names[d.Column], d.Column)
		switch d.Verdict {
		case compare.Higher:
			above = append(above, name)
		case compare.Lower:
			below = append(below, name)
		default:
			open = append(open, name)
		}
	}
	list := func(names []string) string { return strings.Join(names, " and ") }
	switch {
	case chance == compare.BelowChance:
		return "Below chance", "bad"
	case len(below) > 0 && chance == compare.AboveChance:
		return "Above chance, but below " + list(below), "bad"
	case len(below) > 0:
		return "Below " + list(below), "bad"
	case chance == compare.AboveChance && len(above) == 0:
		return "Above chance, but not shown to be above " + list(open), "open"
	case chance == compare.AboveChance && len(open) > 0:
		return "Above chance, and above " + list(above) + "; but not shown to be above " + list(open), "open"
	case chance == compare.AboveChance:
		return "Above chance, and above " + list(above), "good"
	case len(above) > 0:
		return "Above " + list(above) + ", but not above chance", "open"
	}
	return "Inconclusive", "open"
}

// facts is the provenance: what made these numbers.
func facts(p *Page) []Fact {
	out := append(scoring(p.File),
		Fact{Name: "statistic", Value: p.Table.Aggregation.String() + ", which " + p.statistic()},
		Fact{Name: "intervals", Value: fmt.Sprintf("%.0f %%, bootstrap over groups, %d resamples, seed %s", 100*p.Table.Confidence, p.Table.Resamples, strconv.FormatUint(p.Table.Seed, 10))})
	return append(out, p.Facts...)
}

// scoring says how a score file was made; nothing of nil.
func scoring(f *compare.File) []Fact {
	var out []Fact
	if f != nil {
		for _, s := range f.Sets {
			out = append(out, Fact{Name: s.Name, Value: fmt.Sprintf("%s, step %d, seed %d", s.Model.Name, s.Model.Step, s.Model.Seed)})
			if s.Model.SHA256 != "" {
				out = append(out, Fact{Name: s.Name + ", weights SHA-256", Value: s.Model.SHA256})
			}
			var config bytes.Buffer
			if s.Name == compare.ModelSet && json.Compact(&config, s.Model.Config) == nil { // the others share it
				out = append(out, Fact{Name: s.Name + ", configuration", Value: config.String()})
			}
		}
		sampling := "every frame"
		switch {
		case f.Spec.FPS > 0:
			sampling = fmt.Sprintf("%g frames a second", f.Spec.FPS)
		case f.Spec.FrameStep > 1:
			sampling = fmt.Sprintf("every %d. frame", f.Spec.FrameStep)
		}
		contexts := "every next tubelet"
		if len(f.Spec.Contexts) > 0 {
			contexts = fmt.Sprintf("contexts of %v frames", f.Spec.Contexts)
		}
		tokens := "mean over all tokens"
		if f.Spec.TopTokens > 0 {
			tokens = fmt.Sprintf("mean of the %d worst tokens of a tubelet", f.Spec.TopTokens)
		}
		out = append(out,
			Fact{Name: "windows", Value: fmt.Sprintf("%d frames, stride %d, %s, %d × %d pixels", f.Spec.Window, f.Spec.Stride, sampling, f.Size, f.Size)},
			Fact{Name: "surprise", Value: contexts + "; " + tokens},
			Fact{Name: "videos", Value: fmt.Sprintf("%d scored, %d skipped", len(f.Videos), len(f.Skipped))},
			Fact{Name: "videos, SHA-256", Value: f.Data},
			Fact{Name: "decoder", Value: f.Decoder})
	}
	return out
}
