package compare

import (
	"fmt"
	"io"
	"strings"
)

// WriteText prints the listing for a terminal: the most surprising videos, at most so many of them, 0 for all; then what may
// be said of them.
func (l *Listing) WriteText(w io.Writer, most int) error {
	shown := l.Videos
	if most > 0 && len(shown) > most {
		shown = shown[:most]
	}
	var b strings.Builder
	protocol := ""
	if l.Protocol != "" {
		protocol = " Protocol: " + l.Protocol + "."
	}
	fmt.Fprintf(&b, "Videos by how much they surprise the model, most first. Statistic: %s.%s\n", l.Aggregation, protocol)
	if l.Reference != nil {
		of := ""
		if l.Reference.Groups < l.Reference.Videos {
			of = fmt.Sprintf(", of %d groups that count as one each", l.Reference.Groups)
		}
		fmt.Fprintf(&b, "Percentile: among the %d videos of the reference%s. p: how often a video like those surprises as much.\n", l.Reference.Videos, of)
	}
	b.WriteString("\n")
	writeColumns(&b, l.lines(shown))
	if rest := len(l.Videos) - len(shown); rest > 0 {
		fmt.Fprintf(&b, "and %d more, which surprise less\n", rest)
	}
	for _, warning := range l.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s", warning)
	}
	writeSkipped(&b, l.Skipped)
	if len(l.Warnings)+len(l.Skipped) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%s\n", strings.Join(l.Sentences(), "\n"))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing listing: %w", err)
	}
	return nil
}

// lines are the header and a line for each video.
func (l *Listing) lines(videos []Listed) [][]string {
	judged := make([]bool, len(l.Columns)) // by the reference
	for _, v := range l.Videos {
		for c, one := range v.Columns {
			judged[c] = judged[c] || one.P != nil
		}
	}
	header := []string{"video"}
	for c, name := range l.Columns {
		if header = append(header, name); judged[c] {
			header = append(header, "percentile", "p")
		}
	}
	lines := [][]string{append(header, "surprises most at")}
	for _, v := range videos {
		line := []string{v.Path}
		for c, one := range v.Columns {
			line = append(line, fmt.Sprintf("%.4f", one.Surprise))
			switch {
			case one.P != nil:
				line = append(line, fmt.Sprintf("%.1f", *one.Percentile), fmt.Sprintf("%.3g", *one.P))
			case judged[c]:
				line = append(line, "", "") // it is all of the reference
			}
		}
		at := ""
		if v.PeakAt != nil {
			at = fmt.Sprintf("%.2f s", v.PeakAt.Second)
		}
		lines = append(lines, append(line, at))
	}
	return lines
}

// Sentences say in words what a listing shows, and what it does not.
func (l *Listing) Sentences() []string {
	var out []string
	if r := l.Reference; r == nil {
		out = append(out, "Without a reference of ordinary videos nothing says how much surprise is much: give their scores as reference.")
	} else {
		if r.tooFew() {
			out = append(out, fmt.Sprintf("The reference has videos of %d groups, too few to say that anything is rare: no p can be below %.2g.", r.Groups, 1/float64(1+r.Groups)))
		} else {
			out = append(out, fmt.Sprintf("Of %d videos %d surprise the model as only few of the reference do (p at most %.2g); were all like the reference, it would be %.1f on average, or fewer.",
				len(l.Videos), r.Rare, RareP, r.Expected))
		}
		if r.Shared > 0 {
			out = append(out, fmt.Sprintf("%d of them are in the reference too, and are judged by the others of it.", r.Shared))
		}
	}
	if l.TwinCorrelation != nil {
		out = append(out, fmt.Sprintf("The untrained twin orders them with a rank correlation of %+.2f: near 1, what surprises is what any network sees, such as how much moves.", *l.TwinCorrelation))
	}
	return out
}
