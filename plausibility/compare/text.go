package compare

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/surmise-ml/surmise/internal/terminal"
)

// WriteText prints the table for a terminal: columns side by side, in percent,
// with intervals, numbers of pairs and verdicts.
func (t *Table) WriteText(w io.Writer) error {
	header := []string{"property", "groups", "pairs"}
	for i, c := range t.Columns {
		if t.Seeds != nil {
			c += fmt.Sprintf(" ×%d", t.Seeds[i])
		}
		header = append(header, c+", ties")
	}
	for range t.Columns[1:] {
		header = append(header, "difference")
	}
	header = append(header, "verdict")
	lines := [][]string{header}
	for i, r := range t.Rows {
		if r.Pooled && (i == 0 || !t.Rows[i-1].Pooled) {
			lines = append(lines, nil)
		}
		line := []string{r.Name, fmt.Sprint(r.Groups), fmt.Sprint(r.Pairs)}
		verdicts := []string{r.Cells[0].Verdict}
		for _, c := range r.Cells {
			line = append(line, fmt.Sprintf("%5.1f [%5.1f, %5.1f] %3.0f", 100*c.Accuracy.Value, 100*c.Accuracy.Low, 100*c.Accuracy.High, 100*c.Ties))
		}
		for _, d := range r.Differences {
			line = append(line, fmt.Sprintf("%+5.1f [%+5.1f, %+5.1f]", 100*d.Accuracy.Value, 100*d.Accuracy.Low, 100*d.Accuracy.High))
			verdicts = append(verdicts, than(d.Verdict, d.Column))
		}
		lines = append(lines, append(line, strings.Join(verdicts, ", ")))
	}

	protocol := ""
	if t.Protocol != "" {
		protocol = " Protocol: " + t.Protocol + "."
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Pairwise accuracy in %% [%.0f %% interval by bootstrap over groups, %d resamples]; chance is 50, and a tie\ncounts as wrong; ties: share of pairs whose two videos surprise alike. Statistic: %s.%s\n",
		100*t.Confidence, t.Resamples, t.Aggregation, protocol)
	fmt.Fprintf(&b, "A verdict must hold with ties as half right too, and takes p < %.2g by sign flips of groups: for above and below chance of a\nsingle property after Holm's correction for all properties of a column; differences and pooled rows are not corrected.\n\n", 1-t.Confidence)
	if t.Controls {
		b.WriteString("Controls: possible videos against altered copies of themselves, in which nothing impossible happens. Right is where the copy\nsurprises more. Rows are not pooled: each holds the same videos.\n\n")
	}
	if t.Seeds != nil {
		b.WriteString("×n: mean of n trainings, which the intervals resample too; of untrained twins, of n that differ.\n\n")
	}
	writeColumns(&b, lines)
	t.writeGroups(&b)
	t.writePooled(&b)
	t.writeChance(&b)
	t.writeTests(&b)
	t.writeOthers(&b)
	for _, warning := range t.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s", warning)
	}
	writeSkipped(&b, t.Skipped)
	if len(t.Warnings)+len(t.Skipped) > 0 {
		b.WriteString("\n")
	}
	if sentences := t.Sentences(); len(sentences) > 0 {
		fmt.Fprintf(&b, "\n%s\n", strings.Join(sentences, "\n"))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing table: %w", err)
	}
	return nil
}

// writePooled prints what is said of all groups together; nothing of controls.
func (t *Table) writePooled(b *strings.Builder) {
	if t.Controls {
		return
	}
	last := t.Rows[len(t.Rows)-1]
	b.WriteString("\nPooled over all:\n")
	more := [][]string{{"", "groups, both against both", "AUROC, single videos", "AUPRC", "single videos right at 90 %", "best threshold (oracle)"}}
	for c, name := range t.Columns {
		cell, single := last.Cells[c], t.Single[c]
		absolute := "too few"
		if single.AbsoluteInterval != nil {
			absolute = inPercent(*single.AbsoluteInterval)
		}
		more = append(more, []string{"  " + name, inPercent(cell.GroupAccuracy),
			fmt.Sprintf("%.3f [%.3f, %.3f]", cell.AUROC.Value, cell.AUROC.Low, cell.AUROC.High),
			fmt.Sprintf("%.3f [%.3f, %.3f]", single.AUPRC, single.AUPRCInterval.Low, single.AUPRCInterval.High), absolute,
			fmt.Sprintf("%.1f", 100*single.BestAbsoluteAccuracy)})
	}
	writeColumns(b, more)
	for c := range t.Columns {
		if seeds := last.Cells[c].Seeds; seeds != nil {
			fmt.Fprintf(b, "  %s, each training:", t.Columns[c])
			for _, x := range seeds {
				fmt.Fprintf(b, " %.1f", 100*x)
			}
			b.WriteString("\n")
		}
	}
	for _, d := range last.Differences {
		fmt.Fprintf(b, "  pairs: %d both right, %d only %s, %d only %s, %d neither", d.Both, d.First, t.Columns[0], d.Second, d.Column, d.Neither)
		if d.Mixed > 0 {
			fmt.Fprintf(b, ", %d by some trainings of each", d.Mixed)
		}
		b.WriteString("\n")
	}
	for _, twin := range t.Twins {
		of := ""
		if t.Seeds != nil {
			of = fmt.Sprintf(" ×%d", twin.Seeds)
		}
		fmt.Fprintf(b, "  %s, untrained twin%s: %s\n", twin.Column, of, inPercent(twin.Accuracy))
	}
	t.writeCalibrated(b)
	t.writeSelections(b)
}

func (t *Table) writeOthers(b *strings.Builder) {
	if len(t.Others) == 0 {
		return
	}
	b.WriteString("\nThe same pairs under other statistics (choosing one by its result would be an oracle):\n")
	others := [][]string{append([]string{""}, t.Columns...)}
	for _, o := range t.Others {
		line := []string{"  " + o.Aggregation.String()}
		for _, a := range o.Accuracy {
			line = append(line, fmt.Sprintf("%5.1f [%5.1f, %5.1f]", 100*a.Value, 100*a.Low, 100*a.High))
		}
		others = append(others, line)
	}
	writeColumns(b, others)
}

// WriteVideos prints the videos of the table, if it lists them: for each column the
// surprise, and the percentile among the possible videos of the other half.
func (t *Table) WriteVideos(w io.Writer) error {
	if len(t.Videos) == 0 {
		return nil
	}
	lines := [][]string{{"video"}}
	for _, c := range t.Columns {
		lines[0] = append(lines[0], c, "percentile")
	}
	lines[0] = append(lines[0], "label, property")
	for _, v := range t.Videos {
		line := []string{v.Path}
		for _, c := range v.Columns {
			percentile := "too few"
			if c.Percentile != nil {
				percentile = fmt.Sprintf("%.1f", *c.Percentile)
			}
			line = append(line, fmt.Sprintf("%.4f", c.Surprise), percentile)
		}
		label := []string{"impossible", "possible"}[v.Label]
		if v.Property != "" {
			label += ", " + v.Property
		}
		lines = append(lines, append(line, label))
	}
	var b strings.Builder
	b.WriteString("\n")
	writeColumns(&b, lines)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing videos: %w", err)
	}
	return nil
}

// writeGroups prints the share of whole groups, unless every group is one pair and the
// table has said it.
func (t *Table) writeGroups(b *strings.Builder) {
	if !t.hasQuadruplets() {
		return
	}
	b.WriteString("\nWhole groups: all impossible videos of a group together against all possible ones, which cancels what they share (%):\n")
	header := []string{"", "groups"}
	for _, c := range t.Columns {
		header = append(header, c+", ties")
	}
	for range t.Columns[1:] {
		header = append(header, "difference")
	}
	lines := [][]string{append(header, "verdict")}
	for i, r := range t.Rows {
		if r.Pooled && (i == 0 || !t.Rows[i-1].Pooled) {
			lines = append(lines, nil)
		}
		line := []string{"  " + r.Name, fmt.Sprint(r.Groups)}
		for _, c := range r.Cells {
			line = append(line, fmt.Sprintf("%s %3.0f", inPercent(c.GroupAccuracy), 100*c.GroupTies))
		}
		verdicts := []string{r.Cells[0].GroupVerdict}
		for _, d := range r.Differences {
			line = append(line, fmt.Sprintf("%+.1f [%+.1f, %+.1f]", 100*d.GroupAccuracy.Value, 100*d.GroupAccuracy.Low, 100*d.GroupAccuracy.High))
			verdicts = append(verdicts, than(d.GroupVerdict, d.Column))
		}
		lines = append(lines, append(line, strings.Join(verdicts, ", ")))
	}
	writeColumns(b, lines)
}

// than is the verdict on a difference to a column.
func than(verdict, column string) string {
	if verdict == Inconclusive {
		return "difference inconclusive"
	}
	return verdict + " than " + column
}

// hasQuadruplets tells whether groups are more than one pair each.
func (t *Table) hasQuadruplets() bool {
	return slices.ContainsFunc(t.Rows, func(r Row) bool { return r.Groups != r.Pairs })
}

func (t *Table) writeCalibrated(b *strings.Builder) {
	if t.Calibrated[0].Warning != "" {
		return // it is among the warnings
	}
	fmt.Fprintf(b, "\nSingle videos, each called impossible or not by the possible videos of the other half of the groups (at most %.0f %% false alarms):\n", 100*AlarmLevel)
	lines := [][]string{{"", "right", "false alarms", "caught", "caught more", "verdict"}}
	for i, c := range t.Calibrated {
		lines = append(lines, []string{"  " + t.Columns[i], inPercent(c.Accuracy), inPercent(c.FalseAlarms), inPercent(c.Caught), inPercent(c.Gain), c.Verdict})
	}
	writeColumns(b, lines)
}

func (t *Table) writeSelections(b *strings.Builder) {
	if len(t.Selections) == 0 {
		return
	}
	fmt.Fprintf(b, "\nThe best of %d statistics, chosen on one half of the groups and measured on the other, both ways:\n", t.Selections[0].Candidates)
	lines := [][]string{{"", "measured", "", "chosen", "there", "measured", "chosen", "there", "measured", "oracle, no result"}}
	for i, s := range t.Selections {
		line := []string{"  " + t.Columns[i], inPercent(s.HeldOut), s.Verdict}
		for _, f := range s.Folds {
			line = append(line, f.Chosen.Aggregation.String(), fmt.Sprintf("%.1f", 100*f.Chosen.Accuracy), fmt.Sprintf("%.1f", 100*f.HeldOut))
		}
		lines = append(lines, append(line, fmt.Sprintf("%.1f %s", 100*s.Oracle.Accuracy, s.Oracle.Aggregation)))
	}
	writeColumns(b, lines)
}

// writeChance prints the p-values of every column against chance.
func (t *Table) writeChance(b *strings.Builder) {
	b.WriteString("\nAgainst chance, p by sign flips of groups, a tie as half right (p after Holm's correction for all properties of a column):\n")
	header := append([]string{""}, t.Columns...)
	if t.hasQuadruplets() {
		for _, c := range t.Columns {
			header = append(header, c+", whole groups")
		}
	}
	lines := [][]string{header}
	for i, r := range t.Rows {
		if r.Pooled && (i == 0 || !t.Rows[i-1].Pooled) {
			lines = append(lines, nil)
		}
		line := []string{"  " + r.Name}
		for _, c := range r.Cells {
			line = append(line, c.Chance.String())
		}
		if t.hasQuadruplets() {
			for _, c := range r.Cells {
				line = append(line, c.GroupChance.String())
			}
		}
		lines = append(lines, line)
	}
	writeColumns(b, lines)
}

// writeTests prints the p-values of the properties, and of the pooled row.
func (t *Table) writeTests(b *strings.Builder) {
	if len(t.Columns) < 2 {
		return
	}
	fmt.Fprintf(b, "\n%s against the others, p (p after Holm's correction for all of a block); a tie is better than wrong and worse than right:\n", t.Columns[0])
	lines := [][]string{{"", "against", t.Columns[0] + " better", "the other better", "McNemar, pairs", "sign flips, groups"}}
	for i, r := range t.Rows {
		if r.Pooled && r.Name != All {
			continue
		}
		if r.Name == All && i > 0 {
			lines = append(lines, nil)
		}
		for _, d := range r.Differences {
			lines = append(lines, []string{"  " + r.Name, d.Column, fmt.Sprint(d.FirstBetter), fmt.Sprint(d.SecondBetter), d.McNemar.String(), d.SignFlip.String()})
		}
	}
	writeColumns(b, lines)
}

// String is p to three digits, and what Holm makes of it.
func (p PValue) String() string { return fmt.Sprintf("%.3g (%.3g)", p.P, p.Holm) }

func inPercent(i Interval) string {
	return fmt.Sprintf("%.1f [%.1f, %.1f]", 100*i.Value, 100*i.Low, 100*i.High)
}

// writeColumns aligns cells: the first and the last column to the left, the
// others to the right. A nil line is a rule.
func writeColumns(b *strings.Builder, lines [][]string) {
	var width []int
	for _, line := range lines {
		for i, cell := range line {
			cell = terminal.Line(cell) // names stay on their line
			line[i] = cell
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range lines {
		if line == nil {
			total := 2 * (len(width) - 1)
			for _, w := range width[:len(width)-1] {
				total += w
			}
			b.WriteString(strings.Repeat("-", total) + "\n")
			continue
		}
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0:
				b.WriteString(cell + pad)
			case i == len(line)-1:
				b.WriteString("  " + cell)
			default:
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteString("\n")
	}
}

// writeSkipped names the skipped videos, or the first of many.
func writeSkipped(b *strings.Builder, skipped []Skipped) {
	const most = 100
	for _, s := range skipped[:min(most, len(skipped))] {
		fmt.Fprintf(b, "\nskipped: %s: %s", terminal.Line(s.Path), terminal.Line(s.Reason))
	}
	if more := len(skipped) - most; more > 0 {
		fmt.Fprintf(b, "\nskipped: %d more, which the score file names", more)
	}
}
