package compare

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Pair is a possible and an impossible video of one group, as positions in
// File.Videos.
type Pair struct{ Possible, Impossible int }

// group is the videos of one group, in file order.
type group struct {
	name, property string
	possible       []int
	impossible     []int
	pairs          []Pair
}

// Pairs lists the pairs of a file. Inside a group the videos that name the same
// Pair meet each other, as in the published evaluation, where each possible video
// meets the impossible one that shares its start longest (see MatchByStart).
// Where a group's videos name no pair, every possible one meets every impossible
// one. Either way the pairs of a group are not independent, which is why every
// interval here resamples groups.
func (f *File) Pairs() []Pair {
	var pairs []Pair
	for _, g := range f.groups() {
		pairs = append(pairs, g.pairs...)
	}
	return pairs
}

// groups lists the groups in order of first appearance; videos without labels have none.
func (f *File) groups() []group {
	if f.Unlabelled() {
		return nil
	}
	index := map[string]int{}
	var groups []group
	for i, v := range f.Videos {
		at, ok := index[v.Group]
		if !ok {
			at = len(groups)
			index[v.Group] = at
			groups = append(groups, group{name: v.Group, property: v.Property})
		}
		if v.Label == 1 {
			groups[at].possible = append(groups[at].possible, i)
		} else {
			groups[at].impossible = append(groups[at].impossible, i)
		}
	}
	for i := range groups {
		g := &groups[i]
		for _, p := range g.possible {
			for _, q := range g.impossible {
				if f.Videos[p].Pair == f.Videos[q].Pair {
					g.pairs = append(g.pairs, Pair{p, q})
				}
			}
		}
	}
	return groups
}

// ofControls tells whether the pairs are videos and altered copies of themselves, a property for each alteration: whoever
// scores them appends its name to the digest of the copy. Each group of the scored videos is there once for each.
func (f *File) ofControls() bool {
	for _, v := range f.Videos {
		if v.Label == 0 && (v.Property == "" || !strings.HasSuffix(v.SHA256, " "+v.Property)) {
			return false
		}
	}
	return true
}

// MatchByStart pairs the possible videos of a group with its impossible ones by
// how long they look alike. shared[p][q] is the first frame at which possible
// video p and impossible video q differ (the number of frames if they never do).
// The published rule for a quadruplet gives video 0 the one that differs from it
// last and leaves the other two to each other; taking the longest shared start
// first, again and again, is the same and works for any number. Ties go to the
// videos listed first. It returns, for each p, its q, or nil when the counts of
// the two sides differ and there is no one-to-one matching.
func MatchByStart(shared [][]int) []int {
	for _, row := range shared {
		if len(row) != len(shared) {
			return nil
		}
	}
	match := make([]int, len(shared))
	for p := range match {
		match[p] = -1
	}
	taken := make([]bool, len(shared))
	for range shared {
		bestP, bestQ := -1, -1
		for p, row := range shared {
			for q, frame := range row {
				if match[p] < 0 && !taken[q] && (bestP < 0 || frame > shared[bestP][bestQ]) {
					bestP, bestQ = p, q
				}
			}
		}
		match[bestP], taken[bestQ] = bestQ, true
	}
	return match
}

// Digest identifies what was scored: the contents, labels, groups, properties, pairs
// and first frames of all videos, in any order and wherever they lie.
func Digest(videos []Video) string {
	lines := make([]string, len(videos))
	for i, v := range videos {
		lines[i] = fmt.Sprintf("%s %d %q %q %q", v.SHA256, v.Label, v.Group, v.Property, v.Pair)
		if v.First != 0 {
			lines[i] += fmt.Sprintf(" from %d", v.First)
		}
		lines[i] += "\n"
	}
	sort.Strings(lines)
	h := sha256.New()
	for _, l := range lines {
		h.Write([]byte(l))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Margin is how much more the impossible video of a pair surprised than the
// possible one, under an aggregation; above zero the model is right.
type Margin struct {
	Pair
	Group, Property string
	Margin          float64
}

// Typical picks for every property the pair whose margin is the median of its
// property: what a reader should be shown, neither the best nor the worst. At
// most n, the properties in order of first appearance.
func (f *File) Typical(a Aggregation, n int) ([]Margin, error) {
	set, ok := f.Set(ModelSet)
	if !ok {
		return nil, fmt.Errorf("score file has no set %q", ModelSet)
	}
	surprise, err := set.Videos(f, a)
	if err != nil {
		return nil, err
	}
	var order []string
	byProperty := map[string][]Margin{}
	for _, g := range f.groups() {
		if len(byProperty[g.property]) == 0 {
			order = append(order, g.property)
		}
		for _, p := range g.pairs {
			byProperty[g.property] = append(byProperty[g.property], Margin{
				Pair: p, Group: g.name, Property: g.property,
				Margin: surprise[p.Impossible] - surprise[p.Possible],
			})
		}
	}
	var typical []Margin
	for _, property := range order {
		m := byProperty[property]
		if len(m) == 0 || len(typical) == n {
			continue
		}
		slices.SortStableFunc(m, func(x, y Margin) int {
			switch {
			case x.Margin < y.Margin:
				return -1
			case x.Margin > y.Margin:
				return 1
			}
			return 0
		})
		typical = append(typical, m[len(m)/2])
	}
	return typical, nil
}
