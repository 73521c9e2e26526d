package compare

// leastGroups is how many groups it takes to conclude anything: of five, all on one side, one in 16 samples of nothing at
// all would have as much to say (two sides of 1 in 2⁵). A bootstrap over so few does not see that.
const leastGroups = 6

// verdict says on which side of the null value an interval over so many groups lies; one that touches it is inconclusive,
// and so is one of fewer than leastGroups.
func verdict(i Interval, groups int, null float64, above, below string) string {
	switch {
	case groups < leastGroups:
	case i.Low > null+rounding:
		return above
	case i.High < null-rounding:
		return below
	}
	return Inconclusive
}

// agreed is the verdict that an interval and the one with ties counted as half right have in common. A tie says nothing
// for or against a column, and counted as wrong alone it would put a column that ties often below one that guesses.
func agreed(tiesWrong, tiesHalf Interval, groups int, null float64, above, below string) string {
	v := verdict(tiesWrong, groups, null, above, below)
	if v != verdict(tiesHalf, groups, null, above, below) {
		return Inconclusive
	}
	return v
}

// correct fills in Holm of the tests against chance, and takes back verdicts that their tests do not bear out: a bootstrap over
// six to fifteen groups is too narrow, and would call twice as many columns that guess above or below chance as it says. The
// properties of one column are a family each for pairs and for whole groups, and are held to their corrected p; a pooled row is
// a question of its own, and so is a difference.
func correct(rows []Row, confidence float64) {
	if len(rows) == 0 {
		return
	}
	for c := range rows[0].Cells {
		for _, of := range []func(*Cell) (*PValue, *string){
			func(c *Cell) (*PValue, *string) { return &c.Chance, &c.Verdict },
			func(c *Cell) (*PValue, *string) { return &c.GroupChance, &c.GroupVerdict },
		} {
			var family []*Cell
			var p []float64
			for i := range rows {
				cell := &rows[i].Cells[c]
				if chance, verdict := of(cell); rows[i].Pooled {
					if chance.Holm = chance.P; !(chance.P < 1-confidence) {
						*verdict = Inconclusive
					}
				} else {
					family, p = append(family, cell), append(p, chance.P)
				}
			}
			for i, adjusted := range Holm(p) {
				chance, verdict := of(family[i])
				if chance.Holm = adjusted; !(adjusted < 1-confidence) {
					*verdict = Inconclusive
				}
			}
		}
	}
	for i := range rows {
		for k := range rows[i].Differences {
			d := &rows[i].Differences[k]
			if !(d.SignFlip.P < 1-confidence) {
				d.Verdict = Inconclusive
			}
			if !(d.GroupSignFlip.P < 1-confidence) {
				d.GroupVerdict = Inconclusive
			}
		}
	}
}
