package compare

import "testing"

// A bootstrap over a handful of groups may see no doubt where a coin would have given as much.
func TestFewGroupsConcludeNothing(t *testing.T) {
	certain := Interval{Value: 0.9, Low: 0.8, High: 1}
	for groups, want := range map[int]string{1: Inconclusive, 5: Inconclusive, 6: AboveChance, 100: AboveChance} {
		if got := verdict(certain, groups, 0.5, AboveChance, BelowChance); got != want {
			t.Errorf("%d groups: %s, want %s", groups, got, want)
		}
	}
}
