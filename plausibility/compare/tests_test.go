package compare

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func TestMcNemarByHand(t *testing.T) {
	for _, c := range []struct {
		first, second int
		want          float64
	}{
		{0, 0, 1}, {1, 0, 1}, {5, 0, 2.0 / 32}, {8, 2, 2 * 56.0 / 1024}, {2, 8, 2 * 56.0 / 1024}, {3, 3, 1}, {10, 0, 2.0 / 1024},
	} {
		if got := McNemar(c.first, c.second); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("McNemar(%d, %d) = %g, want %g", c.first, c.second, got, c.want)
		}
	}
	if got := McNemar(400_000, 399_000); !(got > 0.2 && got < 0.3) { // z = 1.12
		t.Errorf("many pairs: %g, want about 0.26", got)
	}
}

// Against counting all outcomes of fair coins.
func TestMcNemarAgainstCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, second := rapid.IntRange(0, 6).Draw(t, "first"), rapid.IntRange(0, 6).Draw(t, "second")
		n, uneven := first+second, 0
		for outcome := range 1 << n {
			heads := 0
			for bit := range n {
				heads += outcome >> bit & 1
			}
			if abs(2*heads-n) >= abs(first-second) {
				uneven++
			}
		}
		if want := float64(uneven) / float64(int(1)<<n); math.Abs(McNemar(first, second)-want) > 1e-12 {
			t.Fatalf("McNemar(%d, %d) = %g, counted %g", first, second, McNemar(first, second), want)
		}
	})
}

func abs(x int) int { return max(x, -x) }

func TestSignFlipByHand(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		gain []int
		want float64
	}{
		{nil, 1}, {[]int{0, 0}, 1}, {[]int{1, -1}, 1}, {[]int{1, 1, 1}, 0.25}, {[]int{2, 1, 0, 1}, 0.25}, {[]int{-2, -1, -1}, 0.25},
		{[]int{2, -1}, 1}, // 1 against 3, 1, 1, 3
	} {
		if got := signFlip(c.gain, rng, 100); got != c.want {
			t.Errorf("gains %v: p = %g, want %g", c.gain, got, c.want)
		}
	}
	// Many groups: 60 that all agree, and 60 of which half do. Counted, and drawn where there are too many sums to count.
	for _, unit := range []int{1, 1_000_000} {
		agree, cancel := make([]int, 60), make([]int, 60)
		for g := range agree {
			agree[g], cancel[g] = unit, unit*(1-2*(g%2))
		}
		want := math.Ldexp(1, -59)
		if unit > 1 {
			want = 1.0 / 1000
		}
		if got := signFlip(agree, rng, 999); got != want {
			t.Errorf("60 groups agree: p = %g, want %g", got, want)
		}
		if got := signFlip(cancel, rng, 999); math.Abs(got-1) > 1e-12 {
			t.Errorf("gains that cancel: p = %g, want 1", got)
		}
	}
}

// Where there is no difference, p is below 0.05 in about 5 % of cases at most, though the two
// pairs of a group always agree, which McNemar's test does not know.
func TestSignFlipKeepsItsLevel(t *testing.T) {
	const trials, groups = 600, 30
	rng := rand.New(rand.NewPCG(5, 5))
	var flips, pairs int
	for range trials {
		gain := make([]int, groups)
		first, second := 0, 0
		for g := range gain {
			switch rng.IntN(4) {
			case 0:
				gain[g], first = 2, first+2
			case 1:
				gain[g], second = -2, second+2
			}
		}
		if signFlip(gain, rng, 400) <= 0.05 {
			flips++
		}
		if McNemar(first, second) <= 0.05 {
			pairs++
		}
	}
	// 3.5 standard errors of 600 trials at 5 % are 3 points.
	if share := float64(flips) / trials; share > 0.08 {
		t.Errorf("sign flips reject in %.1f %% of cases without a difference", 100*share)
	}
	if pairs < flips {
		t.Errorf("McNemar's test rejects %d times, sign flips %d: pairs that agree should deceive the first", pairs, flips)
	}
}

func TestHolmByHand(t *testing.T) {
	got := Holm([]float64{0.01, 0.04, 0.03, 0.5})
	for i, want := range []float64{0.04, 0.09, 0.09, 0.5} {
		if math.Abs(got[i]-want) > 1e-15 {
			t.Errorf("Holm: %v, want 0.04 0.09 0.09 0.5", got)
		}
	}
}

// Adjusted values are no smaller than given, at most 1, in the same order, and Bonferroni's
// are no smaller than they.
func TestHolmProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.Float64Range(0, 1), 0, 9).Draw(t, "p")
		adjusted := Holm(p)
		for i := range p {
			if adjusted[i] < p[i] || adjusted[i] > 1 || adjusted[i] > p[i]*float64(len(p))+1e-12 && adjusted[i] > maxOfSmaller(p, i) {
				t.Fatalf("Holm(%v) = %v", p, adjusted)
			}
			for j := range p {
				if p[i] < p[j] && adjusted[i] > adjusted[j] {
					t.Fatalf("Holm(%v) = %v: order changed", p, adjusted)
				}
			}
		}
	})
}

// maxOfSmaller is the largest Bonferroni bound up to p[i]: Holm takes the largest so far.
func maxOfSmaller(p []float64, i int) float64 {
	var largest float64
	for _, x := range p {
		if x <= p[i] {
			largest = max(largest, min(1, x*float64(len(p))))
		}
	}
	return largest
}

// Tests of properties are one family, those of a pooled row another.
func TestHolmFamilies(t *testing.T) {
	table, err := Models([]*File{madeUp(3, 40, 1, "p", "q"), madeUp(3, 40, 0.5, "p", "q"), madeUp(3, 40, 0.5, "p", "q")}, []string{"a", "b", "c"}, Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	var p, holm []float64
	for _, r := range table.Rows {
		if !r.Pooled {
			for _, d := range r.Differences {
				p, holm = append(p, d.McNemar.P), append(holm, d.McNemar.Holm)
			}
		}
	}
	want := Holm(p)
	for i := range want {
		if len(p) != 4 || holm[i] != want[i] || holm[i] <= p[i] {
			t.Fatalf("p %v adjusted to %v, want %v: two properties and two columns are four tests", p, holm, want)
		}
	}
	all, _ := table.Row(All)
	if d := all.Differences[0]; d.McNemar.P != McNemar(d.FirstBetter, d.SecondBetter) || d.McNemar.Holm != min(1, 2*d.McNemar.P) {
		t.Errorf("all: %+v of %d and %d", d.McNemar, d.First, d.Second)
	}
}
