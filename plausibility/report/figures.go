package report

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"image/color"
	"io"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/plausibility/compare"
)

// Colours, the same everywhere. Chosen to stay apart for colour-blind readers.
const (
	colourModel      = "#1d4ed8"
	colourTwin       = "#9ca3af"
	colourPossible   = "#0f766e"
	colourImpossible = "#d9480f"
	colourInk        = "#1f2937"
	colourFaint      = "#e5e7eb"
	colourMuted      = "#6b7280"
)

var columnColours = []string{colourModel, colourTwin, colourPossible, colourImpossible, "#7c3aed", "#a16207"}

func columnColour(i int) string { return columnColours[i%len(columnColours)] }

const (
	figureWidth  = 9 * vg.Inch
	figureMargin = 0.15 * vg.Inch
	curveHeight  = 2.1 * vg.Inch // of one pair's curves
	dotsPerInch  = 144
)

// figure is plots below one another.
type figure struct {
	width   vg.Length
	plots   []*plot.Plot
	heights []vg.Length
}

func (f *figure) add(p *plot.Plot, height vg.Length) {
	f.plots, f.heights = append(f.plots, p), append(f.heights, height)
}

func (f *figure) height() (sum vg.Length) {
	for _, h := range f.heights {
		sum += h
	}
	return sum
}

func (f *figure) draw(c vg.CanvasSizer) {
	whole := draw.New(c)
	above := vg.Length(0)
	for i, p := range f.plots {
		p.Draw(draw.Crop(whole, figureMargin, -figureMargin, f.height()-above-f.heights[i]+figureMargin, -above-figureMargin))
		above += f.heights[i]
	}
}

func (f *figure) writePNG(w io.Writer) error {
	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(f.width, f.height()), vgimg.UseDPI(dotsPerInch))}
	f.draw(canvas)
	if _, err := canvas.WriteTo(w); err != nil {
		return fmt.Errorf("writing PNG: %w", err)
	}
	return nil
}

func (f *figure) writeSVG(w io.Writer) error {
	canvas := vgsvg.New(f.width, f.height())
	f.draw(canvas)
	if _, err := canvas.WriteTo(w); err != nil {
		return fmt.Errorf("writing SVG: %w", err)
	}
	return nil
}

// html is the figure for a page. label says what it shows, for those who cannot see it.
func (f *figure) html(label string) (template.HTML, error) {
	var b bytes.Buffer
	if err := f.writeSVG(&b); err != nil {
		return "", err
	}
	_, body, found := strings.Cut(b.String(), "<svg ")
	if !found {
		return "", errors.New("drawing a figure: no <svg> in it")
	}
	return template.HTML(fmt.Sprintf(`<svg role="img" aria-label="%s" %s`, template.HTMLEscapeString(label), body)), nil
}

// SavePNG writes the table's accuracies with their intervals and, below, the curves of
// the pairs, at path: whole, or not at all.
func SavePNG(path string, t *compare.Table, pairs []Pair) error {
	return durable.WriteFile(path, 0o644, func(w io.Writer) error { return WritePNG(w, t, pairs) })
}

// WritePNG writes what SavePNG saves.
func WritePNG(w io.Writer, t *compare.Table, pairs []Pair) error {
	f, err := scoresFigure(t, pairs)
	if err != nil {
		return err
	}
	return f.writePNG(w)
}

// SaveSVG is SavePNG as SVG.
func SaveSVG(path string, t *compare.Table, pairs []Pair) error {
	f, err := scoresFigure(t, pairs)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, 0o644, f.writeSVG)
}

// SaveTraining writes the curves of a training run at path, as SVG or PNG by its name.
// Without any it writes nothing and returns false.
func SaveTraining(path string, p *Page) (bool, error) {
	f := &figure{width: figureWidth}
	plots, err := trainingPlots(p)
	if err != nil || len(plots) == 0 {
		return false, err
	}
	for _, one := range plots {
		f.add(one, curveHeight)
	}
	if strings.HasSuffix(path, ".svg") {
		return true, durable.WriteFile(path, 0o644, f.writeSVG)
	}
	return true, durable.WriteFile(path, 0o644, f.writePNG)
}

func scoresFigure(t *compare.Table, pairs []Pair) (*figure, error) {
	if t == nil || len(t.Rows) == 0 {
		return nil, errors.New("drawing scores: no table")
	}
	f, err := accuracyFigure(t)
	if err != nil {
		return nil, err
	}
	for i := range pairs {
		curves, err := curvePlot(&pairs[i])
		if err != nil {
			return nil, fmt.Errorf("drawing pair of group %q: %w", pairs[i].Group, err)
		}
		f.add(curves, curveHeight)
	}
	return f, nil
}

// accuracyFigure is rows from top to bottom, with an interval per column.
func accuracyFigure(t *compare.Table) (*figure, error) {
	p, err := accuracyPlot(t)
	if err != nil {
		return nil, fmt.Errorf("drawing accuracies: %w", err)
	}
	f := &figure{width: figureWidth}
	f.add(p, (vg.Length(len(t.Rows))+legendRows(t))*0.34*vg.Inch+vg.Inch)
	return f, nil
}

// legendRows is the room below the rows for a line per column.
func legendRows(t *compare.Table) vg.Length { return 0.45 * vg.Length(len(t.Columns)) }

func accuracyPlot(t *compare.Table) (*plot.Plot, error) {
	p := newPlot("Pairwise accuracy")
	p.X.Label.Text = fmt.Sprintf("%% of pairs told apart, with %.0f %% intervals", 100*t.Confidence)
	p.Legend.Top, p.Legend.Left = false, true
	n := len(t.Rows)
	names := make([]string, n)
	for c, column := range t.Columns {
		var dots plotter.XYs
		var bars xErrors
		for i, r := range t.Rows {
			names[n-1-i] = r.Name
			a := r.Cells[c].Accuracy
			y := float64(n-1-i) + 0.24*(float64(len(t.Columns)-1)/2-float64(c))
			dots = append(dots, plotter.XY{X: 100 * a.Value, Y: y})
			bars.XErrors = append(bars.XErrors, struct{ Low, High float64 }{100 * (a.Low - a.Value), 100 * (a.High - a.Value)})
		}
		bars.XYs = dots
		intervals, err := plotter.NewXErrorBars(bars)
		if err != nil {
			return nil, err
		}
		intervals.LineStyle = draw.LineStyle{Color: rgb(columnColour(c)), Width: vg.Points(1.6)}
		points, err := plotter.NewScatter(dots)
		if err != nil {
			return nil, err
		}
		points.GlyphStyle = draw.GlyphStyle{Color: rgb(columnColour(c)), Radius: vg.Points(3), Shape: draw.CircleGlyph{}}
		p.Add(intervals, points)
		p.Legend.Add(column, points)
	}
	if err := addDashes(p, "", colourMuted, plotter.XY{X: 50, Y: -0.5}, plotter.XY{X: 50, Y: float64(n) - 0.5}); err != nil {
		return nil, err
	}
	p.X.Tick.Marker = percentTicks{}
	p.NominalY(names...)
	p.Y.Padding = vg.Points(8) // names take more room in the fonts of some browsers than in ours
	p.Y.Min, p.Y.Max = -0.5-float64(legendRows(t)), float64(n)-0.5
	p.X.Min, p.X.Max = -1.5, 101.5 // the ends of intervals stay clear of the names
	return p, nil
}

// percentTicks label every quarter of 0 to 100.
type percentTicks struct{}

func (percentTicks) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	for x := 0; x <= 100; x += 25 {
		ticks = append(ticks, plot.Tick{Value: float64(x), Label: fmt.Sprint(x)})
	}
	return ticks
}

type xErrors struct {
	plotter.XYs
	plotter.XErrors
}

// curvePlot is the surprise of both videos of a pair over time.
func curvePlot(pair *Pair) (*plot.Plot, error) {
	p := newPlot(fmt.Sprintf("%s, group %s (median margin)", pair.Property, pair.Group))
	p.X.Label.Text, p.Y.Label.Text = "seconds", "surprise"
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(2)
	low, high := math.Inf(1), math.Inf(-1)
	for _, c := range []struct {
		name, colour string
		curve        Curve
	}{{"possible", colourPossible, pair.Possible}, {"impossible", colourImpossible, pair.Impossible}} {
		for _, y := range c.curve.Surprise {
			low, high = min(low, y), max(high, y)
		}
		if err := addLine(p, c.name, c.colour, c.curve.Seconds, c.curve.Surprise); err != nil {
			return nil, err
		}
	}
	p.Y.Max = high + 0.4*(high-low) // room for the legend
	if pair.EventSeconds >= 0 {
		if err := addDashes(p, "event", colourInk, plotter.XY{X: pair.EventSeconds, Y: low}, plotter.XY{X: pair.EventSeconds, Y: high}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// trainingPlots are the accuracy over training steps, if it was measured, and every
// monitor that was.
func trainingPlots(page *Page) ([]*plot.Plot, error) {
	var out []*plot.Plot
	if len(page.Evaluations) > 0 {
		p, err := evaluationPlot(page.Evaluations)
		if err != nil {
			return nil, fmt.Errorf("drawing accuracy over training: %w", err)
		}
		out = append(out, p)
	}
	for _, m := range monitors(page.Training) {
		p := newPlot(m.name)
		p.X.Label.Text = "training steps"
		if err := addLine(p, "", m.colour, m.x, m.y); err != nil {
			return nil, fmt.Errorf("drawing %s: %w", m.name, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// evaluationPlot is accuracy over training steps with its interval as a band.
func evaluationPlot(evaluations []Evaluation) (*plot.Plot, error) {
	p := newPlot("pairwise accuracy, %")
	p.X.Label.Text = "training steps"
	var x, y []float64
	var low, high plotter.XYs
	for _, e := range evaluations {
		x, y = append(x, float64(e.Step)), append(y, 100*e.Accuracy.Value)
		low = append(low, plotter.XY{X: float64(e.Step), Y: 100 * e.Accuracy.Low})
		high = append(plotter.XYs{{X: float64(e.Step), Y: 100 * e.Accuracy.High}}, high...)
	}
	band, err := plotter.NewPolygon(append(low, high...))
	if err != nil {
		return nil, err
	}
	band.Color, band.Width = color.NRGBA{R: 29, G: 78, B: 216, A: 40}, 0
	p.Add(band)
	if err := addLine(p, "", colourModel, x, y); err != nil {
		return nil, err
	}
	if err := addDashes(p, "", colourMuted, plotter.XY{X: x[0], Y: 50}, plotter.XY{X: x[len(x)-1], Y: 50}); err != nil {
		return nil, err
	}
	p.Y.Tick.Marker = percentTicks{}
	p.Y.Min, p.Y.Max = 0, 100
	return p, nil
}

type monitor struct {
	name, colour string
	x, y         []float64
}

// monitors are the training curves that have at least two finite values.
func monitors(steps []Step) []monitor {
	all := []struct {
		name, colour string
		value        func(Step) float64
	}{
		{"loss", colourModel, func(s Step) float64 { return s.Loss }},
		{"effective rank", colourPossible, func(s Step) float64 { return s.EffectiveRank }},
		{"feature standard deviation", colourPossible, func(s Step) float64 { return s.FeatureStd }},
		{"cosine between tokens", colourImpossible, func(s Step) float64 { return s.Cosine }},
	}
	var out []monitor
	for _, a := range all {
		m := monitor{name: a.name, colour: a.colour}
		measured := false
		for _, s := range steps {
			y := a.value(s)
			if math.IsNaN(y) || math.IsInf(y, 0) {
				continue
			}
			measured = measured || y != 0
			m.x, m.y = append(m.x, float64(s.Step)), append(m.y, y)
		}
		if len(m.x) >= 2 && measured {
			out = append(out, m)
		}
	}
	return out
}

func addLine(p *plot.Plot, name, colour string, x, y []float64) error {
	var xy plotter.XYs
	for i := range x {
		xy = append(xy, plotter.XY{X: x[i], Y: y[i]})
	}
	line, err := plotter.NewLine(xy)
	if err != nil {
		return err
	}
	line.LineStyle = draw.LineStyle{Color: rgb(colour), Width: vg.Points(1.6)}
	p.Add(line)
	if name != "" {
		p.Legend.Add(name, line)
	}
	return nil
}

func addDashes(p *plot.Plot, name, colour string, from, to plotter.XY) error {
	line, err := plotter.NewLine(plotter.XYs{from, to})
	if err != nil {
		return err
	}
	line.LineStyle = draw.LineStyle{Color: rgb(colour), Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(4), vg.Points(3)}}
	p.Add(line)
	if name != "" {
		p.Legend.Add(name, line)
	}
	return nil
}

func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = font.Points(11)
	p.Title.Padding = vg.Points(4)
	for _, text := range []*draw.TextStyle{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.Legend.TextStyle} {
		text.Font.Size = font.Points(9)
	}
	for _, text := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		text.Font.Variant = "Sans"
		text.Color = rgb(colourInk)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = rgb(colourFaint), rgb(colourFaint)
	p.Add(grid)
	return p
}

// rgb reads #rrggbb, one of this package's own colours.
func rgb(hex string) color.RGBA {
	x, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 24)
	if err != nil {
		panic(fmt.Sprintf("report: colour %q", hex))
	}
	return color.RGBA{R: uint8(x >> 16), G: uint8(x >> 8), B: uint8(x), A: 255}
}
