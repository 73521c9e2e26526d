package compare

import "fmt"

// Sentence says in words what a row shows of its pairs.
func (t *Table) Sentence(row *Row) string {
	first := row.Cells[0]
	text := fmt.Sprintf("%s finds the impossible video in %s of the %d %s (%.0f %% interval %s): %s.",
		subject(t.Columns[0]), percent(first.Accuracy.Value), row.Pairs, row.called("pairs"), 100*t.Confidence, span(first.Accuracy),
		reasoned(first.Verdict, first.Accuracy, first.TiesHalf, row.Groups, 0.5))
	for i, d := range row.Differences {
		text += beside(t.Columns[0], d.Column, row.Cells[i+1].Accuracy, d.Accuracy, reasoned(d.Verdict, d.Accuracy, d.TiesHalf, row.Groups, 0))
	}
	return text
}

// GroupSentence says in words what a row shows of its whole groups.
func (t *Table) GroupSentence(row *Row) string {
	first := row.Cells[0]
	text := fmt.Sprintf("%s finds the impossible side of %s of the %d %s (%s): %s.",
		subject(t.Columns[0]), percent(first.GroupAccuracy.Value), row.Groups, row.called("groups"), span(first.GroupAccuracy),
		reasoned(first.GroupVerdict, first.GroupAccuracy, first.GroupTiesHalf, row.Groups, 0.5))
	for i, d := range row.Differences {
		text += beside(t.Columns[0], d.Column, row.Cells[i+1].GroupAccuracy, d.GroupAccuracy, reasoned(d.GroupVerdict, d.GroupAccuracy, d.GroupTiesHalf, row.Groups, 0))
	}
	return text
}

// reasoned is a verdict, with what ties make of it where that is the reason.
func reasoned(final string, tiesWrong, tiesHalf Interval, groups int, null float64) string {
	const above, below = "above", "below"
	if final != Inconclusive || verdict(tiesWrong, groups, null, above, below) == verdict(tiesHalf, groups, null, above, below) ||
		verdict(tiesWrong, groups, null, above, below) == Inconclusive {
		return final
	}
	return fmt.Sprintf("%s, as ties make it: with a tie as half right it is %.1f (%s)", final, 100*tiesHalf.Value, span(tiesHalf))
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
		gap = fmt.Sprintf("the difference of %.1f points (%s) is %s", 100*difference.Value, span(difference), verdict)
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
