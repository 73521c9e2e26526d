package report

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"strings"

	"github.com/surmise-ml/surmise/plausibility/compare"
)

// Colours, the same in SVG and PNG. Chosen to stay apart for colour-blind readers.
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

// drawing collects SVG elements; coordinates are in CSS pixels.
type drawing struct {
	strings.Builder
	width, height float64
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(&d.Builder, format+"\n", args...) }

func (d *drawing) line(x1, y1, x2, y2 float64, style string) {
	d.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`, x1, y1, x2, y2, style)
}

func (d *drawing) text(x, y float64, style, text string) {
	d.add(`<text x="%.1f" y="%.1f" %s>%s</text>`, x, y, style, template.HTMLEscapeString(text))
}

// html is the finished picture. label says what it shows, for those who cannot see it.
func (d *drawing) html(label string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg">%s</svg>`,
		d.width, d.height, template.HTMLEscapeString(label), d.String()))
}

// scale maps values to pixels.
type scale struct{ from, to, start, end float64 }

func (s scale) at(v float64) float64 {
	if s.to == s.from {
		return (s.start + s.end) / 2
	}
	return s.start + (v-s.from)/(s.to-s.from)*(s.end-s.start)
}

// ticks are about n round values inside the scale.
func (s scale) ticks(n int) []float64 {
	span := s.to - s.from
	if !(span > 0) {
		return []float64{s.from}
	}
	step := math.Pow(10, math.Floor(math.Log10(span/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if span/(step*m) <= float64(n) {
			step *= m
			break
		}
	}
	var out []float64
	for i := math.Ceil(s.from/step - 1e-9); i*step <= s.to+step*1e-9; i++ {
		out = append(out, i*step)
	}
	return out
}

func label(v float64) string {
	if math.Abs(v) < 1e-12 {
		return "0"
	}
	return fmt.Sprintf("%.4g", v)
}

// lineChart draws one value over training steps.
func lineChart(title string, x, y []float64, colour string) template.HTML {
	d := &drawing{width: 460, height: 210}
	low, high := y[0], y[0]
	for _, v := range y {
		low, high = min(low, v), max(high, v)
	}
	if low > 0 && low < high/2 {
		low = 0
	}
	if low == high {
		low, high = low-0.5, high+0.5
	}
	pad := (high - low) * 0.06
	sx := scale{x[0], x[len(x)-1], 52, d.width - 14}
	sy := scale{low, high + pad, d.height - 30, 30}
	d.text(52, 18, `class="ct"`, title)
	for _, t := range sy.ticks(4) {
		d.line(sx.start, sy.at(t), sx.end, sy.at(t), `class="grid"`)
		d.text(sx.start-8, sy.at(t)+4, `class="ax" text-anchor="end"`, label(t))
	}
	for _, t := range sx.ticks(5) {
		d.text(sx.at(t), d.height-10, `class="ax" text-anchor="middle"`, label(t))
	}
	d.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round"/>`, points(sx, sy, x, y), colour)
	last := len(y) - 1
	d.add(`<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, sx.at(x[last]), sy.at(y[last]), colour)
	d.text(sx.at(x[last]), sy.at(y[last])-8, `class="val" text-anchor="end"`, label(y[last]))
	return d.html(fmt.Sprintf("%s over training steps, %s at the end", title, label(y[last])))
}

func points(sx, sy scale, x, y []float64) string {
	var b strings.Builder
	for i := range x {
		fmt.Fprintf(&b, "%.1f,%.1f ", sx.at(x[i]), sy.at(y[i]))
	}
	return b.String()
}

// forest draws every row's accuracies with their intervals.
func forest(t *compare.Table) template.HTML {
	const rowHeight, top, left = 34.0, 34.0, 190.0
	d := &drawing{width: 940, height: top + rowHeight*float64(len(t.Rows)) + 34}
	sx := scale{0, 1, left, d.width - 26}
	bottom := d.height - 30
	for _, x := range []float64{0, 0.25, 0.5, 0.75, 1} {
		style := `class="grid"`
		if x == 0.5 {
			style = fmt.Sprintf(`stroke="%s" stroke-dasharray="5 4"`, colourMuted)
		}
		d.line(sx.at(x), top-8, sx.at(x), bottom, style)
		d.text(sx.at(x), d.height-10, `class="ax" text-anchor="middle"`, fmt.Sprintf("%.0f %%", 100*x))
	}
	d.text(sx.at(0.5), top-14, `class="ax" text-anchor="middle"`, "chance")
	for i, r := range t.Rows {
		middle := top + rowHeight*(float64(i)+0.5)
		if r.Pooled && (i == 0 || !t.Rows[i-1].Pooled) {
			d.line(12, middle-rowHeight/2, d.width-12, middle-rowHeight/2, fmt.Sprintf(`stroke="%s"`, colourMuted))
		}
		weight := ""
		if r.Pooled {
			weight = ` font-weight="600"`
		}
		d.text(left-16, middle+4, `class="row" text-anchor="end"`+weight, r.Name)
		for c, cell := range r.Cells {
			y := middle + (float64(c)-float64(len(r.Cells)-1)/2)*10
			colour := columnColour(c)
			d.line(sx.at(cell.Accuracy.Low), y, sx.at(cell.Accuracy.High), y, fmt.Sprintf(`stroke="%s" stroke-width="2.5" stroke-linecap="round"`, colour))
			d.add(`<circle cx="%.1f" cy="%.1f" r="4.5" fill="%s"><title>%s, %s: %.1f %% (%.1f to %.1f)</title></circle>`, sx.at(cell.Accuracy.Value), y, colour,
				template.HTMLEscapeString(r.Name), template.HTMLEscapeString(t.Columns[c]), 100*cell.Accuracy.Value, 100*cell.Accuracy.Low, 100*cell.Accuracy.High)
		}
	}
	return d.html("Pairwise accuracy with intervals for every row of the table")
}

// pairChart draws both curves over one time axis, and below it both videos'
// frames where they happen.
func pairChart(p *Pair) (template.HTML, error) {
	const left, right, top, curveHeight = 64.0, 16.0, 20.0, 150.0
	d := &drawing{width: 940}
	from, to := p.span()
	sx := scale{from, to, left, d.width - right}
	high := 0.0
	low := math.Inf(1)
	for _, c := range []Curve{p.Possible, p.Impossible} {
		for _, v := range c.Surprise {
			low, high = min(low, v), max(high, v)
		}
	}
	if !(low < high) {
		low, high = high-0.5, high+0.5
	}
	pad := (high - low) * 0.08
	sy := scale{low - pad, high + pad, top + curveHeight, top}
	for _, t := range sy.ticks(4) {
		d.line(sx.start, sy.at(t), sx.end, sy.at(t), `class="grid"`)
		d.text(sx.start-8, sy.at(t)+4, `class="ax" text-anchor="end"`, label(t))
	}
	bottom := sy.start + 26
	rows := []struct {
		name, colour string
		curve        Curve
	}{{"possible", colourPossible, p.Possible}, {"impossible", colourImpossible, p.Impossible}}
	for _, r := range rows {
		d.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2.2" stroke-linejoin="round"/>`, points(sx, sy, r.curve.Seconds, r.curve.Surprise), r.colour)
		if len(r.curve.Frames) == 0 {
			continue
		}
		cell := (sx.end - sx.start) / float64(len(r.curve.Frames))
		size := cell - 3
		for i, frame := range r.curve.Frames {
			kind := http.DetectContentType(frame)
			if kind != "image/jpeg" && kind != "image/png" {
				return "", fmt.Errorf("frame %d of %s is %s, want JPEG or PNG", i, r.curve.Path, kind)
			}
			x := sx.start + cell*float64(i) + 1.5
			d.add(`<image x="%.1f" y="%.1f" width="%.1f" height="%.1f" preserveAspectRatio="xMidYMid slice" href="data:%s;base64,%s"/>`,
				x, bottom+4, size, size, kind, base64.StdEncoding.EncodeToString(frame))
			d.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="none" stroke="%s" stroke-width="1.5" rx="2"/>`, x, bottom+4, size, size, r.colour)
		}
		middle := bottom + 4 + size/2
		d.add(`<text transform="translate(%.1f %.1f) rotate(-90)" class="ax" text-anchor="middle" fill="%s" style="fill:%s;font-weight:600">%s</text>`, left-14, middle, r.colour, r.colour, r.name)
		bottom += size + 8
	}
	if p.EventSeconds >= from && p.EventSeconds <= to {
		x := sx.at(p.EventSeconds)
		d.line(x, top-6, x, bottom, fmt.Sprintf(`stroke="%s" stroke-width="1.4" stroke-dasharray="5 4"`, colourInk))
		d.text(x+6, top+4, `class="ax"`, "event")
	}
	for _, t := range sx.ticks(8) {
		d.line(sx.at(t), sy.start, sx.at(t), sy.start+4, fmt.Sprintf(`stroke="%s"`, colourMuted))
		d.text(sx.at(t), sy.start+18, `class="ax" text-anchor="middle"`, label(t)+" s")
	}
	d.add(`<text transform="translate(14 %.1f) rotate(-90)" class="ax" text-anchor="middle">surprise</text>`, (sy.start+sy.end)/2)
	d.height = bottom + 4
	return d.html(fmt.Sprintf("Surprise over time of a possible and an impossible video, %s", p.Property)), nil
}
