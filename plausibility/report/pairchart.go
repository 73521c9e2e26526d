package report

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"strings"
)

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
	first := math.Ceil(s.from/step - 1e-9)
	for i := range 2*n + 2 { // next to large values a step may be too small to change anything
		if at := (first + float64(i)) * step; at <= s.to+step*1e-9 {
			out = append(out, at)
		}
	}
	return out
}

func label(v float64) string {
	if math.Abs(v) < 1e-12 {
		return "0"
	}
	return fmt.Sprintf("%.4g", v)
}

func points(sx, sy scale, x, y []float64) string {
	var b strings.Builder
	for i := range x {
		fmt.Fprintf(&b, "%.1f,%.1f ", sx.at(x[i]), sy.at(y[i]))
	}
	return b.String()
}

// pairChart is the chart of a pair. name tells its frames from those of other charts of the page.
func pairChart(name string, p *Pair) (template.HTML, error) {
	from, to := p.span()
	return chart(name, fmt.Sprintf("Surprise over time of a possible and an impossible video, %s", p.Property),
		[]row{{"possible", colourPossible, p.Possible}, {"impossible", colourImpossible, p.Impossible}}, from, to, mark{p.EventSeconds, "event"})
}

// row is one video of a chart.
type row struct {
	name, colour string
	curve        Curve
}

// mark is a moment in a chart, in seconds; one outside of it is not drawn.
type mark struct {
	seconds float64
	name    string
}

// chart draws curves over one time axis, and below it the videos' frames where they happen, each with its surprise laid
// over it where that is known. It is drawn by hand because frames and curves share the axis. name tells its frames from
// those of other charts of the page; says is what it shows, for those who cannot see it.
func chart(name, says string, rows []row, from, to float64, at mark) (template.HTML, error) {
	const left, right, top, curveHeight = 64.0, 16.0, 20.0, 150.0
	d := &drawing{width: 940}
	sx := scale{from, to, left, d.width - right}
	high := 0.0
	low := math.Inf(1)
	for _, r := range rows {
		for _, v := range r.curve.Surprise {
			low, high = min(low, v), max(high, v)
		}
	}
	if !(high-low > 1e-9*math.Abs(high)) {
		low, high = high-0.5, high+0.5
	}
	pad := (high - low) * 0.08
	sy := scale{low - pad, high + pad, top + curveHeight, top}
	for _, t := range sy.ticks(4) {
		d.line(sx.start, sy.at(t), sx.end, sy.at(t), `class="grid"`)
		d.text(sx.start-8, sy.at(t)+4, `class="ax" text-anchor="end"`, label(t))
	}
	bottom := sy.start + 26
	for _, r := range rows {
		d.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2.2" stroke-linejoin="round"/>`, points(sx, sy, r.curve.Seconds, r.curve.Surprise), r.colour)
		var err error
		if bottom, err = d.strip(name+"-"+r.name, r.name, r.colour, r.curve, sx, bottom); err != nil {
			return "", err
		}
	}
	if at.seconds >= from && at.seconds <= to {
		x := sx.at(at.seconds)
		d.line(x, top-6, x, bottom, fmt.Sprintf(`stroke="%s" stroke-width="1.4" stroke-dasharray="5 4"`, colourInk))
		d.text(x+6, top+4, `class="ax"`, at.name)
	}
	for _, t := range sx.ticks(8) {
		d.line(sx.at(t), sy.start, sx.at(t), sy.start+4, fmt.Sprintf(`stroke="%s"`, colourMuted))
		d.text(sx.at(t), sy.start+18, `class="ax" text-anchor="middle"`, label(t)+" s")
	}
	d.add(`<text transform="translate(14 %.1f) rotate(-90)" class="ax" text-anchor="middle">surprise</text>`, (sy.start+sy.end)/2)
	d.height = bottom + 4
	return d.html(says), nil
}

// strip draws a video's frames, and below them the same with surprise over them. It
// returns where the next strip may begin.
func (d *drawing) strip(id, name, colour string, c Curve, sx scale, y float64) (float64, error) {
	if len(c.Frames) == 0 {
		return y, nil
	}
	cell := (sx.end - sx.start) / float64(len(c.Frames))
	size := cell - 3
	rows := 1
	if len(c.Heat) > 0 {
		rows = 2
	}
	for i, frame := range c.Frames {
		kind := http.DetectContentType(frame)
		if kind != "image/jpeg" && kind != "image/png" {
			return y, fmt.Errorf("frame %d of %s is %s, want JPEG or PNG", i, c.Path, kind)
		}
		x := sx.start + cell*float64(i) + 1.5
		d.add(`<image id="%s-%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f" preserveAspectRatio="xMidYMid slice" href="data:%s;base64,%s"/>`,
			id, i, x, y+4, size, size, kind, base64.StdEncoding.EncodeToString(frame))
		if rows == 2 {
			below := size + 3
			d.add(`<use href="#%s-%d" y="%.1f"/>`, id, i, below)
			if heat := c.Heat[i]; heat != nil {
				if kind := http.DetectContentType(heat); kind != "image/png" {
					return y, fmt.Errorf("surprise over frame %d of %s is %s, want PNG", i, c.Path, kind)
				}
				d.add(`<image class="heat" x="%.1f" y="%.1f" width="%.1f" height="%.1f" preserveAspectRatio="none" href="data:image/png;base64,%s"/>`,
					x, y+4+below, size, size, base64.StdEncoding.EncodeToString(heat))
			}
		}
		for row := range rows {
			d.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="none" stroke="%s" stroke-width="1.5" rx="2"/>`, x, y+4+float64(row)*(size+3), size, size, colour)
		}
	}
	height := float64(rows)*(size+3) - 3
	d.add(`<text transform="translate(%.1f %.1f) rotate(-90)" class="ax" text-anchor="middle" fill="%s" style="fill:%s;font-weight:600">%s</text>`, sx.start-14, y+4+height/2, colour, colour, name)
	return y + height + 8, nil
}
