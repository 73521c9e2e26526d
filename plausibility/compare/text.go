package compare

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
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
			if d.Verdict == Inconclusive {
				verdicts = append(verdicts, "difference inconclusive")
			} else {
				verdicts = append(verdicts, d.Verdict+" than "+d.Column)
			}
		}
		lines = append(lines, append(line, strings.Join(verdicts, ", ")))
	}

	protocol := ""
	if t.Protocol != "" {
		protocol = " Protocol: " + t.Protocol + "."
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Pairwise accuracy in %% [%.0f %% interval by bootstrap over groups, %d resamples]; chance is 50, and a tie\ncounts as wrong; ties: share of pairs whose two videos surprise alike. Statistic: %s.%s\n\n",
		100*t.Confidence, t.Resamples, t.Aggregation, protocol)
	if t.Seeds != nil {
		b.WriteString("×n: mean of n trainings, which the intervals resample too.\n\n")
	}
	writeColumns(&b, lines)

	last := t.Rows[len(t.Rows)-1]
	t.writeGroups(&b)
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
	writeColumns(&b, more)
	for c := range t.Columns {
		if seeds := last.Cells[c].Seeds; seeds != nil {
			fmt.Fprintf(&b, "  %s, each training:", t.Columns[c])
			for _, x := range seeds {
				fmt.Fprintf(&b, " %.1f", 100*x)
			}
			b.WriteString("\n")
		}
	}
	for _, d := range last.Differences {
		fmt.Fprintf(&b, "  pairs: %d both right, %d only %s, %d only %s, %d neither", d.Both, d.First, t.Columns[0], d.Second, d.Column, d.Neither)
		if d.Mixed > 0 {
			fmt.Fprintf(&b, ", %d by some trainings of each", d.Mixed)
		}
		b.WriteString("\n")
	}
	for _, twin := range t.Twins {
		fmt.Fprintf(&b, "  %s, untrained twin: %.1f [%.1f, %.1f]\n", twin.Column, 100*twin.Accuracy.Value, 100*twin.Accuracy.Low, 100*twin.Accuracy.High)
	}
	t.writeCalibrated(&b)
	t.writeSelections(&b)
	t.writeTests(&b)
	b.WriteString("\nThe same pairs under other statistics (choosing one by its result would be an oracle):\n")
	others := [][]string{append([]string{""}, t.Columns...)}
	for _, o := range t.Others {
		line := []string{"  " + o.Aggregation.String()}
		for _, a := range o.Accuracy {
			line = append(line, fmt.Sprintf("%5.1f [%5.1f, %5.1f]", 100*a.Value, 100*a.Low, 100*a.High))
		}
		others = append(others, line)
	}
	writeColumns(&b, others)
	for _, warning := range t.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s", warning)
	}
	for _, s := range t.Skipped {
		fmt.Fprintf(&b, "\nskipped: %s: %s", s.Path, s.Reason)
	}
	if len(t.Warnings)+len(t.Skipped) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%s\n", strings.Join(t.Sentences(), "\n"))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing table: %w", err)
	}
	return nil
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
	header = append(header, t.Columns...)
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
			line = append(line, inPercent(c.GroupAccuracy))
		}
		verdicts := []string{verdict(r.Cells[0].GroupAccuracy, r.Groups, 0.5, AboveChance, BelowChance)}
		for _, d := range r.Differences {
			line = append(line, fmt.Sprintf("%+.1f [%+.1f, %+.1f]", 100*d.GroupAccuracy.Value, 100*d.GroupAccuracy.Low, 100*d.GroupAccuracy.High))
			switch v := verdict(d.GroupAccuracy, r.Groups, 0, Higher, Lower); v {
			case Inconclusive:
				verdicts = append(verdicts, "difference inconclusive")
			default:
				verdicts = append(verdicts, v+" than "+d.Column)
			}
		}
		lines = append(lines, append(line, strings.Join(verdicts, ", ")))
	}
	writeColumns(b, lines)
}

// hasQuadruplets tells whether groups are more than one pair each.
func (t *Table) hasQuadruplets() bool {
	all := t.Rows[len(t.Rows)-1]
	return all.Groups != all.Pairs
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

// writeTests prints the p-values of the properties, and of the pooled row.
func (t *Table) writeTests(b *strings.Builder) {
	if len(t.Columns) < 2 {
		return
	}
	fmt.Fprintf(b, "\n%s against the others, p (p after Holm's correction for all of a block):\n", t.Columns[0])
	lines := [][]string{{"", "against", "only " + t.Columns[0], "only the other", "McNemar, pairs", "sign flips, groups"}}
	for i, r := range t.Rows {
		if r.Pooled && r.Name != All {
			continue
		}
		if r.Name == All && i > 0 {
			lines = append(lines, nil)
		}
		for _, d := range r.Differences {
			lines = append(lines, []string{"  " + r.Name, d.Column, fmt.Sprint(d.First), fmt.Sprint(d.Second), d.McNemar.String(), d.SignFlip.String()})
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

// Sentence says in words what a row shows of its pairs.
func (t *Table) Sentence(row *Row) string {
	first := row.Cells[0].Accuracy
	text := fmt.Sprintf("%s finds the impossible video in %s of the %d %s (%.0f %% interval %s): %s.",
		subject(t.Columns[0]), percent(first.Value), row.Pairs, row.called("pairs"), 100*t.Confidence, span(first), row.Cells[0].Verdict)
	for i, d := range row.Differences {
		text += beside(t.Columns[0], d.Column, row.Cells[i+1].Accuracy, d.Accuracy, d.Verdict)
	}
	return text
}

// GroupSentence says in words what a row shows of its whole groups.
func (t *Table) GroupSentence(row *Row) string {
	first := row.Cells[0].GroupAccuracy
	text := fmt.Sprintf("%s finds the impossible side of %s of the %d %s (%s): %s.",
		subject(t.Columns[0]), percent(first.Value), row.Groups, row.called("groups"), span(first), verdict(first, row.Groups, 0.5, AboveChance, BelowChance))
	for i, d := range row.Differences {
		text += beside(t.Columns[0], d.Column, row.Cells[i+1].GroupAccuracy, d.GroupAccuracy, verdict(d.GroupAccuracy, row.Groups, 0, Higher, Lower))
	}
	return text
}

// called names the pairs or groups of a row.
func (r *Row) called(things string) string {
	if r.Name == All {
		return things + " in all"
	}
	return r.Name + " " + things
}

// beside says what another column comes to, and where the first one is from there.
func beside(first, column string, its, difference Interval, verdict string) string {
	subjectOfGap := subject(first)
	if first == ModelSet {
		subjectOfGap = "the model"
	}
	gap := fmt.Sprintf("%s is %.1f points (%s) higher", subjectOfGap, 100*difference.Value, span(difference))
	switch verdict {
	case Higher:
	case Lower:
		mirrored := Interval{Value: -difference.Value, Low: -difference.High, High: -difference.Low}
		gap = fmt.Sprintf("%s is %.1f points (%s) lower", subjectOfGap, 100*mirrored.Value, span(mirrored))
	default:
		gap = fmt.Sprintf("the difference of %.1f points (%s) is inconclusive", 100*difference.Value, span(difference))
	}
	return fmt.Sprintf(" %s: %s (%s); %s.", subject(column), percent(its.Value), span(its), gap)
}

func subject(column string) string {
	switch column {
	case ModelSet:
		return "The model"
	case TwinSet:
		return "Its untrained twin"
	case CopySet:
		return "Copying the last frame"
	}
	return column
}

// Sentences are those of the pooled rows: of pairs, then of whole groups where these are more than a pair.
func (t *Table) Sentences() []string {
	var pairs, groups []string
	for i := range t.Rows {
		if t.Rows[i].Pooled {
			pairs, groups = append(pairs, t.Sentence(&t.Rows[i])), append(groups, t.GroupSentence(&t.Rows[i]))
		}
	}
	if !t.hasQuadruplets() {
		return pairs
	}
	return append(pairs, groups...)
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

// span is an interval's ends in percent.
func span(i Interval) string { return fmt.Sprintf("%.1f to %.1f", 100*i.Low, 100*i.High) }
