package report

import (
	"errors"
	"fmt"
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

	"github.com/surmise-ml/surmise/plausibility/compare"
)

const (
	pngWidth       = 9 * vg.Inch
	pngMargin      = 0.15 * vg.Inch
	pngCurve       = 2.1 * vg.Inch // height of one pair's curves
	pngDotsPerInch = 144
)

// SavePNG writes the table's accuracies with their intervals and, below, the
// curves of the pairs, as a PNG at path: whole, or not at all.
func SavePNG(path string, t *compare.Table, pairs []Pair) error {
	return saveFile(path, func(w io.Writer) error { return WritePNG(w, t, pairs) })
}

// WritePNG writes what SavePNG saves.
func WritePNG(w io.Writer, t *compare.Table, pairs []Pair) error {
	if t == nil || len(t.Rows) == 0 {
		return errors.New("drawing scores: no table")
	}
	accuracy, err := accuracyPlot(t)
	if err != nil {
		return fmt.Errorf("drawing accuracies: %w", err)
	}
	top := vg.Length(len(t.Rows))*0.34*vg.Inch + vg.Inch
	height := top + pngCurve*vg.Length(len(pairs))
	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(pngWidth, height), vgimg.UseDPI(pngDotsPerInch))}
	whole := draw.New(canvas)
	accuracy.Draw(draw.Crop(whole, pngMargin, -pngMargin, height-top+pngMargin, -pngMargin))
	for i := range pairs {
		curves, err := curvePlot(&pairs[i])
		if err != nil {
			return fmt.Errorf("drawing pair of group %q: %w", pairs[i].Group, err)
		}
		above := top + pngCurve*vg.Length(i)
		curves.Draw(draw.Crop(whole, pngMargin, -pngMargin, height-above-pngCurve+pngMargin, -above))
	}
	if _, err := canvas.WriteTo(w); err != nil {
		return fmt.Errorf("writing PNG: %w", err)
	}
	return nil
}

// accuracyPlot is rows from top to bottom, with an interval per column.
func accuracyPlot(t *compare.Table) (*plot.Plot, error) {
	p := newPlot("")
	p.Title.Text = "Pairwise accuracy"
	p.X.Label.Text = fmt.Sprintf("%% of pairs told apart, with %.0f %% intervals", 100*t.Confidence)
	p.X.Min, p.X.Max = 0, 100
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
	chance, err := plotter.NewLine(plotter.XYs{{X: 50, Y: -0.5}, {X: 50, Y: float64(n) - 0.5}})
	if err != nil {
		return nil, err
	}
	chance.LineStyle = draw.LineStyle{Color: rgb(colourMuted), Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(4), vg.Points(3)}}
	p.Add(chance)
	p.X.Tick.Marker = percentTicks{}
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.5, float64(n)-0.5
	p.X.Min, p.X.Max = 0, 100
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
		var xy plotter.XYs
		for i, x := range c.curve.Seconds {
			xy = append(xy, plotter.XY{X: x, Y: c.curve.Surprise[i]})
			low, high = min(low, c.curve.Surprise[i]), max(high, c.curve.Surprise[i])
		}
		line, err := plotter.NewLine(xy)
		if err != nil {
			return nil, err
		}
		line.LineStyle = draw.LineStyle{Color: rgb(c.colour), Width: vg.Points(1.6)}
		p.Add(line)
		p.Legend.Add(c.name, line)
	}
	p.Y.Max = high + 0.4*(high-low) // room for the legend
	if pair.EventSeconds >= 0 {
		event, err := plotter.NewLine(plotter.XYs{{X: pair.EventSeconds, Y: low}, {X: pair.EventSeconds, Y: high}})
		if err != nil {
			return nil, err
		}
		event.LineStyle = draw.LineStyle{Color: rgb(colourInk), Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(4), vg.Points(3)}}
		p.Add(event)
		p.Legend.Add("event", event)
	}
	return p, nil
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
