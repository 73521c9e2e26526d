package compare

// leastGroups is how many groups it takes to conclude anything: of five, all on one side, one in 16 samples of nothing at
// all would have as much to say (two sides of 1 in 2⁵). A bootstrap over so few does not see that.
const leastGroups = 6

// verdict says on which side of the null value an interval over so many groups lies; one that touches it is inconclusive,
// and so is one of fewer than leastGroups.
func verdict(i Interval, groups int, null float64, above, below string) string {
	switch {
	case groups < leastGroups:
	case i.Low > null:
		return above
	case i.High < null:
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

// correct fills in Holm of the tests against chance, and takes back verdicts on single properties that do not stand it.
// The properties of one column are a family each for pairs and for whole groups; a pooled row is a question of its own.
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
				if chance, _ := of(cell); rows[i].Pooled {
					chance.Holm = chance.P
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
}
