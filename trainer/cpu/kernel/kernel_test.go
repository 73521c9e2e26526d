package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A bench of buffers for one test case: every buffer stands between canaries, NaNs of a payload that no kernel
// produces and that passes through all of them. A write outside a buffer changes one; a read outside puts a NaN into the result.
type buffers struct {
	rng       *rand.Rand
	whole     [][]float32
	wholeHalf [][]uint16
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

const margin = 64 // floats on either side: more than any vector

var canary = math.Float32frombits(0x7fc5a600)

const halfCanary = 0x7fc5

func f32(x []float32) Cells { return Cells{F: x} }

func newBuffers(rt *rapid.T) *buffers {
	return &buffers{rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))}
}

func (b *buffers) empty(n int) []float32 {
	whole := make([]float32, n+2*margin)
	for i := range whole {
		whole[i] = canary
	}
	b.whole = append(b.whole, whole)
	return whole[margin : margin+n : margin+n]
}

func (b *buffers) normal(n int) []float32 {
	s := b.empty(n)
	for i := range s {
		s[i] = float32(b.rng.NormFloat64())
	}
	return s
}

func (b *buffers) clone(s []float32) []float32 {
	c := b.empty(len(s))
	copy(c, s)
	return c
}

func (b *buffers) check(t rapid.TB) {
	t.Helper()
	for i, whole := range b.wholeHalf {
		for j, v := range whole {
			if (j < margin || j >= len(whole)-margin) && v != halfCanary {
				t.Fatalf("bfloat16 buffer %d of %d: write at index %d", i, len(whole)-2*margin, j-margin)
			}
		}
	}
	for i, whole := range b.whole {
		for j, v := range whole {
			if (j < margin || j >= len(whole)-margin) && math.Float32bits(v) != math.Float32bits(canary) {
				t.Fatalf("buffer %d of %d floats: write at index %d", i, len(whole)-2*margin, j-margin)
			}
		}
	}
}

// near fails unless |got - want| <= tolerance * max(1, |want|) everywhere.
func near(t rapid.TB, what string, got, want []float32, tolerance float64) {
	t.Helper()
	for i := range want {
		allowed := tolerance * math.Max(1, math.Abs(float64(want[i])))
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= allowed) {
			t.Fatalf("%s[%d] of %d: %v, want %v (off by %.2g, allowed %.2g)", what, i, len(want), got[i], want[i], d, allowed)
		}
	}
}

func sizes(rt *rapid.T) (m, n int) {
	return rapid.IntRange(0, 19).Draw(rt, "m"), rapid.IntRange(1, 75).Draw(rt, "n")
}

func each(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	eachLevel(t, func(t *testing.T) { rapid.Check(t, property) })
}

func TestLibraryProduct(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		size := rapid.IntRange(0, 40)
		m, n, k := size.Draw(rt, "m"), size.Draw(rt, "n"), size.Draw(rt, "k")
		x, y, c := b.normal(m*k), b.normal(n*k), b.normal(m*n)
		for i := range c { // what is there must not be read
			c[i] = float32(math.NaN())
		}
		plain := b.clone(c)
		LibraryProduct(c, x, y, m, n, k)
		reference{}.libraryProduct(plain, x, y, m, n, k)
		for i := range m {
			for j := range n {
				var want float64
				for p := range k {
					want += float64(x[i*k+p]) * float64(y[j*k+p])
				}
				near(rt, fmt.Sprintf("c[%d,%d]", i, j), c[i*n+j:][:1], []float32{float32(want)}, 1e-5)
				near(rt, "reference", plain[i*n+j:][:1], []float32{float32(want)}, 1e-5)
			}
		}
		b.check(rt)
	})
}

func TestElementwise(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		m, n := sizes(rt)
		x, y, bias := b.normal(m*n), b.normal(m*n), b.normal(n)
		compare := func(what string, tolerance float64, run func(dst []float32, k kernels)) {
			got, want := b.clone(x), b.clone(x)
			run(got, implementation{})
			run(want, reference{})
			near(rt, what, got, want, tolerance)
		}
		compare("add", 0, func(dst []float32, k kernels) { k.add(dst, x, y) })
		compare("accumulate", 0, func(dst []float32, k kernels) { k.add(dst, dst, y) })
		compare("scale", 0, func(dst []float32, k kernels) { k.scale(dst, y, 0.3) })
		compare("gelu", 3e-7, func(dst []float32, k kernels) { k.gelu(dst, dst) })
		compare("gelu gradient", 5e-7, func(dst []float32, k kernels) { k.geluGrad(dst, y, dst) })
		sum, wantSum := b.clone(bias), b.clone(bias)
		ColumnSum(sum, f32(x), m, n)
		reference{}.columnSum(wantSum, f32(x), m, n)
		near(rt, "column sum", sum, wantSum, 4e-6)
		for _, exponent := range []float64{1, 2, 1.5} {
			compare("loss gradient", 1e-6, func(dst []float32, k kernels) { k.lpGrad(dst, x, y, 0.7, exponent) })
			compare("loss gradient at 0", 0, func(dst []float32, k kernels) { k.lpGrad(dst, x, x, 0.7, exponent) })
			got, want := LpSum(x, y, exponent), reference{}.lpSum(x, y, exponent)
			if !(math.Abs(got-want) <= 1e-6*want) {
				rt.Fatalf("LpSum with exponent %v of %d: %v, want %v", exponent, m*n, got, want)
			}
		}
		if got, want := SumSquares(x), (reference{}).sumSquares(x); !(math.Abs(got-want) <= 1e-6*want) {
			rt.Fatalf("SumSquares of %d: %v, want %v", m*n, got, want)
		}
		errors, wantErrors := b.empty(m), b.empty(m)
		RowAbsError(errors, x, y, m, n)
		reference{}.rowAbsError(wantErrors, x, y, m, n)
		near(rt, "row error", errors, wantErrors, 1e-6)
		b.check(rt)
	})
}

func TestSwiGLU(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		n, half := rapid.IntRange(0, 200).Draw(rt, "n"), rapid.Bool().Draw(rt, "half")
		u, v, d := b.cells(n, half), b.cells(n, half), b.cells(n, half)
		for i := range u.F {
			u.F[i] *= 20 // the tails too
		}
		got, want := b.cloneCells(u), b.like(u, n)
		SwiGLU(got, got, v, n)
		reference{}.swiGLU(want, u, v, n)
		nearCells(rt, "SwiGLU", got, want, 1e-6)
		for of := range 2 {
			got, want := b.cloneCells(d), b.like(d, n)
			SwiGLUGrad(got, u, v, got, of, n)
			reference{}.swiGLUGrad(want, u, v, d, of, n)
			nearCells(rt, fmt.Sprintf("gradient for input %d", of), got, want, 2e-6)
		}
		b.check(rt)
	})
}

func TestSwiGLUGradByDifferences(t *testing.T) {
	rng := newRand(7)
	x := make([]float32, 3*9) // a, b, weights of the sum
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	sum := func(v []float64) (s float64) {
		for i := range 9 {
			s += float64(x[18+i]) * v[i] / (1 + math.Exp(-v[i])) * v[9+i]
		}
		return s
	}
	want := gradient(sum, x[:18])
	got := make([]float32, 18)
	for of := range 2 {
		SwiGLUGrad(f32(got[of*9:(of+1)*9]), f32(x[:9]), f32(x[9:18]), f32(x[18:]), of, 9)
	}
	near(t, "gradient", got, want, 1e-5)
}

func TestRotate(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		rows, heads := rapid.IntRange(0, 5).Draw(rt, "rows"), rapid.IntRange(1, 3).Draw(rt, "heads")
		dim := rapid.IntRange(1, 70).Draw(rt, "dim")
		turned := 2 * rapid.IntRange(0, dim/2).Draw(rt, "pairs")
		const grid = 4
		c, s := b.normal(grid*turned), b.normal(grid*turned)
		tokens := make([]int32, rows)
		for i := range tokens {
			tokens[i] = int32(b.rng.IntN(grid))
		}
		in := b.cells(rows*3*heads*dim, rapid.Bool().Draw(rt, "half"))
		want, got := b.like(in, rows*3*heads*dim), b.like(in, rows*3*heads*dim)
		reference{}.rotate(want, in, tokens, c, s, heads, dim, turned)
		Rotate(got, in, tokens, c, s, heads, dim, turned)
		nearCells(rt, "rotated", got, want, 1e-6)
		Rotate(in, in, tokens, c, s, heads, dim, turned)
		near(rt, "rotated in place", float32s(in), float32s(got), 0)
		b.check(rt)
	})
}

// kernels is what both implementations offer to TestElementwise and TestNaN.
type kernels interface {
	gelu(out, x []float32)
	geluGrad(dx, x, dy []float32)
	add(dst, a, b []float32)
	scale(dst, a []float32, factor float32)
	lpGrad(dpred, pred, target []float32, weight float32, exponent float64)
}

// The whole range of GELU, tails and subnormal results included, against float64.
func TestGELUAccuracy(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const n = 1 << 18
		x, y, dx, one := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		for i := range x {
			x[i], one[i] = float32(i-n/2)*(30.0/n), 1
		}
		GELU(y, x)
		GELUGrad(dx, x, one)
		var worst, worstGrad float64
		for i, v := range x {
			v := float64(v)
			phi := 0.5 * math.Erfc(-v/math.Sqrt2)
			worst = math.Max(worst, math.Abs(float64(y[i])-v*phi)/math.Max(1, math.Abs(v)))
			worstGrad = math.Max(worstGrad, math.Abs(float64(dx[i])-phi-v*math.Exp(-v*v/2)/math.Sqrt(2*math.Pi)))
		}
		t.Logf("largest error: GELU %.2g max(1,|x|), gradient %.2g", worst, worstGrad)
		if worst > 1.5e-7 || worstGrad > 3e-7 {
			t.Errorf("errors %.2g and %.2g, allowed 1.5e-7 and 3e-7", worst, worstGrad)
		}
		for _, v := range []float32{-1e38, -100, 0, 100, 1e38} {
			GELU(y[:1], []float32{v})
			if want := max(v, 0); math.Abs(float64(y[0]-want)) > 1e-37 { // a subnormal is as good as 0
				t.Errorf("GELU(%v) = %v, want %v", v, y[0], want)
			}
		}
	})
}

func TestLayerNorm(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		m, n := sizes(rt)
		x, dy := b.normal(m*n), b.normal(m*n)
		shift := rapid.Float32Range(-30, 30).Draw(rt, "shift")
		for i := range x {
			x[i] += shift
		}
		var gamma, beta []float32
		if rapid.Bool().Draw(rt, "affine") {
			gamma, beta = b.normal(n), b.normal(n)
		}
		const eps = 1e-3 // keeps rows of one or two equal elements well conditioned
		y, want := b.empty(m*n), b.empty(m*n)
		LayerNorm(f32(y), x, m, n, gamma, beta, eps)
		reference{}.layerNorm(f32(want), x, m, n, gamma, beta, eps)
		near(rt, "y", y, want, 1e-4) // the shift costs digits before the kernel sees them
		dx, wantDX := b.empty(m*n), b.empty(m*n)
		dgamma, dbeta := b.normal(n), b.normal(n)
		wantDGamma, wantDBeta := b.clone(dgamma), b.clone(dbeta)
		LayerNormGrad(dx, nil, x, f32(dy), m, n, gamma, eps, dgamma, dbeta)
		reference{}.layerNormGrad(wantDX, nil, x, f32(dy), m, n, gamma, eps, wantDGamma, wantDBeta)
		near(rt, "dgamma", dgamma, wantDGamma, 1e-4)
		near(rt, "dbeta", dbeta, wantDBeta, 1e-5)
		for i := range m { // against the row's largest: dx has the factor 1/std
			row, wantRow := dx[i*n:][:n], wantDX[i*n:][:n]
			var largest float64
			for _, v := range wantRow {
				largest = math.Max(largest, math.Abs(float64(v)))
			}
			near(rt, "dx", row, wantRow, 1e-3*math.Max(1, largest))
		}
		again := b.clone(dbeta)
		LayerNormGrad(nil, nil, x, f32(dy), m, n, gamma, eps, nil, again)
		LayerNormGrad(dy, nil, x, f32(dy), m, n, gamma, eps, nil, nil)
		near(rt, "dx in place", dy, dx, 0)
		b.check(rt)
	})
}

// On rows of a transformer's width without a shift the kernel is as good as float32 allows.
func TestLayerNormAccuracy(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		const m, n = 64, 192
		x, dy, y, want := make([]float32, m*n), make([]float32, m*n), make([]float32, m*n), make([]float32, m*n)
		for i := range x {
			x[i], dy[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
		}
		LayerNorm(f32(y), x, m, n, nil, nil, 1e-6)
		reference{}.layerNorm(f32(want), x, m, n, nil, nil, 1e-6)
		near(t, "y", y, want, 1e-6)
		LayerNormGrad(y, nil, x, f32(dy), m, n, nil, 1e-6, nil, nil)
		reference{}.layerNormGrad(want, nil, x, f32(dy), m, n, nil, 1e-6, nil, nil)
		near(t, "dx", y, want, 2e-6)
	})
}

// gradient differentiates a float64 function at x by central differences.
func gradient(f func([]float64) float64, x []float32) []float32 {
	at, grad := make([]float64, len(x)), make([]float32, len(x))
	for i, v := range x {
		at[i] = float64(v)
	}
	for i := range at {
		const h = 1e-5
		v := at[i]
		at[i] = v + h
		up := f(at)
		at[i] = v - h
		grad[i] = float32((up - f(at)) / (2 * h))
		at[i] = v
	}
	return grad
}

func weighted(weights []float32, y []float64) (sum float64) {
	for i, w := range weights {
		sum += float64(w) * y[i]
	}
	return sum
}

func TestGELUGradByDifferences(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		x, dy := b.normal(20), b.normal(20)
		dx := b.empty(20)
		GELUGrad(dx, x, dy)
		near(rt, "dx", dx, gradient(func(x []float64) float64 {
			y := make([]float64, len(x))
			for i, v := range x {
				y[i] = v * (0.5 + 0.5*math.Erf(v/math.Sqrt2))
			}
			return weighted(dy, y)
		}, x), 1e-6)
	})
}

func TestLpGradByDifferences(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		pred, target, d := b.normal(20), b.normal(20), b.empty(20)
		exponent := rapid.SampledFrom([]float64{1, 1.5, 2, 3}).Draw(rt, "exponent")
		for i := range pred { // away from the kink
			if math.Abs(float64(pred[i]-target[i])) < 1e-3 {
				pred[i] += 0.01
			}
		}
		LpGrad(d, pred, target, 0.4, exponent)
		near(rt, "dpred", d, gradient(func(x []float64) (sum float64) {
			for i, v := range x {
				sum += 0.4 * math.Pow(math.Abs(v-float64(target[i])), exponent) / exponent
			}
			return sum
		}, pred), 1e-5)
	})
}

func TestLayerNormGradByDifferences(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		const m, n, eps = 2, 11, 1e-3
		x, gamma, dy := b.normal(m*n), b.normal(n), b.normal(m*n)
		forward := func(x, gamma []float64, beta float64) float64 {
			y := make([]float64, m*n)
			for i := range m {
				var mean, variance float64
				for j := range n {
					mean += x[i*n+j] / n
				}
				for j := range n {
					variance += (x[i*n+j] - mean) * (x[i*n+j] - mean) / n
				}
				for j := range n {
					y[i*n+j] = (x[i*n+j]-mean)/math.Sqrt(variance+eps)*gamma[j] + beta
				}
			}
			return weighted(dy, y)
		}
		double := func(s []float32) []float64 {
			d := make([]float64, len(s))
			for i, v := range s {
				d[i] = float64(v)
			}
			return d
		}
		dx, dgamma, dbeta := b.empty(m*n), b.empty(n), b.empty(n)
		clear(dgamma)
		clear(dbeta)
		LayerNormGrad(dx, nil, x, f32(dy), m, n, gamma, eps, dgamma, dbeta)
		near(rt, "dx", dx, gradient(func(v []float64) float64 { return forward(v, double(gamma), 0) }, x), 1e-4)
		near(rt, "dgamma", dgamma, gradient(func(v []float64) float64 { return forward(double(x), v, 0) }, gamma), 1e-4)
		for j := range n {
			near(rt, "dbeta", dbeta[j:j+1], []float32{dy[j] + dy[n+j]}, 1e-6)
		}
	})
}

// attention64 is attention by its definition, in float64: every pair of rows is tested for visibility.
func attention64(qkv []float64, offsets []int32, heads, dim, block int) []float64 {
	width := heads * dim
	out := make([]float64, len(qkv)/3)
	for s := 1; s < len(offsets); s++ {
		start, end := int(offsets[s-1]), int(offsets[s])
		for h := range heads {
			at := func(row, part, d int) float64 { return qkv[row*3*width+part*width+h*dim+d] }
			for i := start; i < end; i++ {
				var sum float64
				numerator := make([]float64, dim)
				for j := start; j < end; j++ {
					if block > 0 && (j-start)/block > (i-start)/block {
						continue
					}
					var score float64
					for d := range dim {
						score += at(i, 0, d) * at(j, 1, d)
					}
					e := math.Exp(score / math.Sqrt(float64(dim)))
					sum += e
					for d := range dim {
						numerator[d] += e * at(j, 2, d)
					}
				}
				for d := range dim {
					out[i*width+h*dim+d] = numerator[d] / sum
				}
			}
		}
	}
	return out
}

// checkAttention compares attention of random rows, and its gradient, with attention64 and with the reference.
func checkAttention(t rapid.TB, b *buffers, offsets []int32, heads, dim, block int) {
	t.Helper()
	rows, width := int(offsets[len(offsets)-1]), heads*dim
	longest := 0
	for i := 1; i < len(offsets); i++ {
		longest = max(longest, int(offsets[i]-offsets[i-1]))
	}
	qkv, dout := b.normal(rows*3*width), b.normal(rows*width)
	out, dqkv := b.empty(rows*width), b.empty(rows*3*width)
	plain, plainGrad := b.empty(rows*width), b.empty(rows*3*width)
	scratch := b.empty(AttentionScratch(longest, dim, block, false))
	first := int(offsets[0]) // rows before the first segment stay as they are
	Attention(f32(out), f32(qkv), offsets, heads, dim, block, scratch)
	AttentionGrad(f32(dqkv), f32(qkv), f32(dout), offsets, heads, dim, block, scratch)
	reference{}.attention(f32(plain), f32(qkv), offsets, nil, nil, heads, dim, block, scratch)
	reference{}.attentionGrad(f32(plainGrad), f32(qkv), f32(dout), offsets, heads, dim, block, scratch)
	double := make([]float64, len(qkv))
	for i, v := range qkv {
		double[i] = float64(v)
	}
	want := make([]float32, rows*width)
	for i, v := range attention64(double, offsets, heads, dim, block) {
		want[i] = float32(v)
	}
	near(t, "out", out[first*width:], want[first*width:], 3e-6)
	near(t, "reference out", plain[first*width:], want[first*width:], 3e-6)
	checkQueries(t, b, qkv, want, offsets, heads, dim, scratch, block)
	near(t, "dqkv", dqkv[first*3*width:], plainGrad[first*3*width:], 3e-5)
	for _, v := range out[:first*width] {
		if math.Float32bits(v) != math.Float32bits(canary) {
			t.Fatalf("a row before the first segment was written")
		}
	}
	b.check(t)
}

// checkQueries compares AttentionOf, of some rows in any order, with the rows of want.
func checkQueries(t rapid.TB, b *buffers, qkv, want []float32, offsets []int32, heads, dim int, scratch []float32, block int) {
	t.Helper()
	if block != 0 {
		return
	}
	width := heads * dim
	bounds, queries := []int32{0}, []int32{}
	var chosen []float32
	for s := 1; s < len(offsets); s++ {
		for i := offsets[s] - offsets[s-1] - 1; i >= 0; i -= 1 + int32(b.rng.IntN(3)) {
			queries = append(queries, i)
			row := int(offsets[s-1]+i) * width
			chosen = append(chosen, want[row:row+width]...)
		}
		bounds = append(bounds, int32(len(queries)))
	}
	got, plain := b.empty(len(chosen)), b.empty(len(chosen))
	AttentionOf(f32(got), f32(qkv), offsets, bounds, queries, heads, dim, scratch)
	near(t, "chosen queries", got, chosen, 3e-6)
	if len(queries) > 0 {
		reference{}.attention(f32(plain), f32(qkv), offsets, bounds, queries, heads, dim, 0, scratch)
		near(t, "reference of chosen queries", plain, chosen, 3e-6)
	}
}

func TestAttention(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		offsets := []int32{rapid.Int32Range(0, 2).Draw(rt, "first")}
		for range rapid.IntRange(0, 3).Draw(rt, "segments") {
			offsets = append(offsets, offsets[len(offsets)-1]+rapid.Int32Range(0, 45).Draw(rt, "rows"))
		}
		checkAttention(rt, b, offsets, rapid.IntRange(1, 3).Draw(rt, "heads"), rapid.IntRange(1, 20).Draw(rt, "dim"),
			rapid.IntRange(0, 12).Draw(rt, "block"))
	})
}

// Segments that need several tiles of query rows.
func TestAttentionTiles(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, c := range []struct{ rows, block int32 }{{300, 0}, {300, 7}, {200, 90}, {256, 64}, {130, 1}} {
			b := &buffers{rng: rand.New(rand.NewPCG(3, 4))}
			checkAttention(t, b, []int32{0, c.rows, c.rows + 5}, 2, 8, int(c.block))
		}
	})
}

func TestAttentionGradByDifferences(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, block := range []int{0, 1, 3} {
			b := &buffers{rng: rand.New(rand.NewPCG(5, uint64(block)))}
			const heads, dim, rows = 2, 3, 9
			offsets := []int32{0, 2, rows}
			qkv, dout, dqkv := b.normal(rows*3*heads*dim), b.normal(rows*heads*dim), b.empty(rows*3*heads*dim)
			AttentionGrad(f32(dqkv), f32(qkv), f32(dout), offsets, heads, dim, block, b.empty(AttentionScratch(7, dim, block, false)))
			near(t, "dqkv", dqkv, gradient(func(v []float64) float64 {
				return weighted(dout, attention64(v, offsets, heads, dim, block))
			}, qkv), 1e-5)
			b.check(t)
		}
	})
}

func TestAdamWEMA(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		n := rapid.IntRange(0, 70).Draw(rt, "n")
		h := AdamW{Scale: 0.5, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, LR: 1e-2, WeightDecay: 0.1, Momentum: 0.99,
			Correction1: 1 - 0.9*0.9*0.9, Correction2: 1 - 0.999*0.999*0.999}
		p, g, m, v, ema := b.normal(n), b.normal(n), b.normal(n), b.normal(n), b.normal(n)
		for i := range v {
			v[i] *= v[i]
		}
		p2, m2, v2, ema2 := b.clone(p), b.clone(m), b.clone(v), b.clone(ema)
		p3, m3, v3 := b.clone(p), b.clone(m), b.clone(v)
		AdamWEMA(p, g, m, v, ema, h)
		reference{}.adamWEMA(p2, g, m2, v2, ema2, h)
		near(rt, "p", p, p2, 1e-6)
		near(rt, "m", m, m2, 1e-6)
		near(rt, "v", v, v2, 1e-6)
		near(rt, "ema", ema, ema2, 1e-6)
		AdamWEMA(p3, g, m3, v3, nil, h)
		near(rt, "p without average", p3, p, 0)
		b.check(rt)
	})
}

// The first step from zero moments is LR * g/(|g| + eps), whatever the betas.
func TestAdamWFirstStep(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		p, g := []float32{1, 2, -3, 0}, []float32{0.1, -20, 1e-4, 0}
		h := AdamW{Scale: 1, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, LR: 0.01, Correction1: 0.1, Correction2: 0.05}
		AdamWEMA(p, g, make([]float32, 4), make([]float32, 4), nil, h)
		near(t, "p", p, []float32{0.99, 2.01, -3.01, 0}, 1e-5)
	})
}

func TestRows(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		rows, n := rapid.IntRange(1, 20).Draw(rt, "rows"), rapid.IntRange(1, 40).Draw(rt, "n")
		base := rapid.IntRange(0, rows-1).Draw(rt, "base")
		idx := rapid.SliceOfN(rapid.Int32Range(0, int32(rows-base-1)), 0, 30).Draw(rt, "idx")
		src, dst := b.normal(rows*n), b.normal(len(idx)*n)
		GatherRows(dst, src, n, idx, base)
		want := b.clone(src)
		for i, row := range idx {
			near(rt, "gathered", dst[i*n:][:n], src[(base+int(row))*n:][:n], 0)
		}
		reference{}.scatterAdd(want[base*n:], dst, n, idx)
		ScatterAddRows(src, dst, n, idx, base)
		near(rt, "scattered", src, want, 0)
		b.check(rt)
	})
}

func TestPatchify(t *testing.T) {
	const c, tubelet, patch, gt, gh, gw = 3, 2, 4, 2, 3, 5
	const frames, h, w = gt * tubelet, gh * patch, gw * patch
	clip, dst := make([]float32, c*frames*h*w), make([]float32, c*frames*h*w)
	for i := range clip {
		clip[i] = float32(i)
	}
	Patchify(f32(dst), clip, c, frames, h, w, tubelet, patch, nil)
	for token := range gt * gh * gw {
		t0, h0, w0 := token/(gh*gw), token/gw%gh, token%gw
		for column := range c * tubelet * patch * patch {
			dx, dy, dt, channel := column%patch, column/patch%patch, column/(patch*patch)%tubelet, column/(patch*patch*tubelet)
			want := ((channel*frames+t0*tubelet+dt)*h+h0*patch+dy)*w + w0*patch + dx
			if got := dst[token*c*tubelet*patch*patch+column]; got != float32(want) {
				t.Fatalf("token %d column %d: element %v, want %d", token, column, got, want)
			}
		}
	}
}

// Long sums must not lose digits with their length.
func TestLongSums(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		x, zero := make([]float32, 3_000_001), make([]float32, 3_000_001)
		for i := range x {
			x[i] = 0.1
		}
		v := float64(x[0])
		for what, pair := range map[string][2]float64{
			"SumSquares": {SumSquares(x), v * v}, "LpSum 1": {LpSum(x, zero, 1), v}, "LpSum 2": {LpSum(x, zero, 2), v * v / 2},
		} {
			if want := pair[1] * float64(len(x)); math.Abs(pair[0]-want) > 1e-6*want {
				t.Errorf("%s: %v, want %v", what, pair[0], want)
			}
		}
	})
}

// A NaN anywhere must come out, so that a step can be refused before it changes weights.
func TestNaN(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const m, n = 3, 21
		for at := range n {
			x, y := make([]float32, m*n), make([]float32, m*n)
			x[n+at] = float32(math.NaN())
			expect := func(what string, v float32) {
				t.Helper()
				if v == v {
					t.Errorf("%s lost the NaN at column %d: %v", what, at, v)
				}
			}
			GELU(y, x)
			expect("GELU", y[n+at])
			GELUGrad(y, x, x)
			expect("GELUGrad", y[n+at])
			LayerNorm(f32(y), x, m, n, nil, nil, 1e-6)
			expect("LayerNorm", y[n])
			clear(y)
			for _, exponent := range []float64{1, 2, 1.5} {
				expect("LpSum", float32(LpSum(x, y, exponent)))
				d := make([]float32, m*n)
				LpGrad(d, x, y, 1, exponent)
				expect(fmt.Sprint("LpGrad ", exponent), d[n+at])
			}
			expect("SumSquares", float32(SumSquares(x)))
			sum := make([]float32, n)
			ColumnSum(sum, f32(x), m, n)
			expect("ColumnSum", sum[at])
			out := make([]float32, m*n/3)
			Attention(f32(out), f32(x), []int32{0, m}, 1, n/3, 0, make([]float32, AttentionScratch(m, n/3, 0, false)))
			expect("Attention", out[n/3+at%(n/3)])
		}
	})
}

// The same of what works on either kind: in every operand, the first and the last element.
func TestNaNOfEitherKind(t *testing.T) {
	const m, n, k, heads, dim = 7, 40, 36, 2, 18 // with edges
	nan := float32(math.NaN())
	eachLevel(t, func(t *testing.T) {
		for _, half := range []bool{false, true} {
			of := func(rows, columns int) Cells {
				x := make([]float32, rows*columns)
				for i := range x {
					x[i] = float32(i%7)/8 - 0.4
				}
				if !half {
					return f32(x)
				}
				c := Cells{H: make([]uint16, len(x))}
				Narrow(c.H, x)
				return c
			}
			spoil := func(c Cells, at int) Cells {
				if half {
					c.H[at] = 0x7fc0
				} else {
					c.F[at] = nan
				}
				return c
			}
			expect := func(what string, got []float32) {
				t.Helper()
				if !slices.ContainsFunc(got, func(v float32) bool { return v != v }) {
					t.Errorf("bfloat16 %t: %s lost the NaN", half, what)
				}
			}
			panelsOf := func(b Cells) []float32 {
				panels := make([]float32, PanelFloats(k, n, half))
				PackColumns(panels, b, k, n)
				return panels
			}
			finishes := map[string]Finish{"plain": Plain, "bias": WithBias, "GELU": WithGELU, "GELU'": WithGELUGrad}
			if !half {
				finishes["adding"], finishes["residual"] = Adding, WithResidual
			}
			for name, finish := range finishes {
				for _, at := range []int{0, m*k - 1} {
					c := of(m, n)
					Product(finish, c, spoil(of(m, k), at), m, n, k, panelsOf(of(n, k)), make([]float32, n), of(m, n))
					expect("a product, "+name+", of a", float32s(c))
				}
				for _, at := range []int{0, n*k - 1} {
					c := of(m, n)
					Product(finish, c, of(m, k), m, n, k, panelsOf(spoil(of(n, k), at)), make([]float32, n), of(m, n))
					expect("a product, "+name+", of b", float32s(c))
				}
			}
			for _, at := range []int{0, m*n - 1} {
				sums, scratch := make([]float32, n*n), make([]float32, ProductSumScratch(n, n))
				ProductSum(sums, spoil(of(m, n), at), of(m, n), n, n, m, scratch)
				expect("a sum of products, of a", sums)
				clear(sums)
				ProductSum(sums, of(m, n), spoil(of(m, n), at), n, n, m, scratch)
				expect("a sum of products, of b", sums)
				for what, do := range map[string]func(y Cells){
					"SwiGLU of a":  func(y Cells) { SwiGLU(y, spoil(of(m, n), at), of(m, n), m*n) },
					"SwiGLU of b":  func(y Cells) { SwiGLU(y, of(m, n), spoil(of(m, n), at), m*n) },
					"SwiGLU' by a": func(y Cells) { SwiGLUGrad(y, spoil(of(m, n), at), of(m, n), of(m, n), 0, m*n) },
					"SwiGLU' by b": func(y Cells) { SwiGLUGrad(y, of(m, n), of(m, n), spoil(of(m, n), at), 1, m*n) },
					"LayerNorm":    func(y Cells) { LayerNorm(y, float32s(spoil(of(m, n), at)), m, n, nil, nil, 1e-6) },
				} {
					y := of(m, n)
					do(y)
					expect(what, float32s(y))
				}
				dx := make([]float32, m*n)
				LayerNormGrad(dx, nil, float32s(of(m, n)), spoil(of(m, n), at), m, n, nil, 1e-6, nil, nil)
				expect("LayerNorm'", dx)
				ColumnSum(sums[:n], spoil(of(m, n), at), m, n)
				expect("ColumnSum", sums[:n])
			}
			const width = heads * dim
			offsets, scratch := []int32{0, m}, make([]float32, AttentionScratch(m, dim, 0, half))
			for _, at := range []int{0, width, 2 * width, m*3*width - 1} { // in a query, a key, a value, the last value
				out, dqkv := of(m, width), of(m, 3*width)
				Attention(out, spoil(of(m, 3*width), at), offsets, heads, dim, 0, scratch)
				expect(fmt.Sprintf("attention of element %d", at), float32s(out))
				AttentionGrad(dqkv, spoil(of(m, 3*width), at), of(m, width), offsets, heads, dim, 0, scratch)
				expect(fmt.Sprintf("attention' of element %d", at), float32s(dqkv))
				Rotate(dqkv, spoil(of(m, 3*width), at), make([]int32, m), make([]float32, dim), make([]float32, dim), heads, dim, dim)
				expect(fmt.Sprintf("rotation of element %d", at), float32s(dqkv))
			}
			dqkv := of(m, 3*width)
			AttentionGrad(dqkv, of(m, 3*width), spoil(of(m, width), m*width-1), offsets, heads, dim, 0, scratch)
			expect("attention' of its gradient", float32s(dqkv))
		}
		p := []float32{1, 2, 3}
		AdamWEMA(p, []float32{0, nan, 0}, make([]float32, 3), make([]float32, 3), nil, AdamW{Scale: 1, Correction1: 1, Correction2: 1, Eps: 1e-8, LR: 0.1})
		if p[1] == p[1] || p[0] != p[0] {
			t.Errorf("AdamW: %v", p)
		}
		errs := make([]float32, 2)
		RowAbsError(errs, []float32{1, 2, nan, 4}, make([]float32, 4), 2, 2)
		if errs[1] == errs[1] || errs[0] != errs[0] {
			t.Errorf("RowAbsError: %v", errs)
		}
	})
}

// Values whose squares overflow come out right or as NaN, never as a finite row that says nothing of them.
func TestLayerNormOverflow(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const n = 64
		x, y, dx, dy := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		for i := range x {
			x[i], dy[i] = float32(i%5-2)*3e19, float32(i)
		}
		LayerNorm(f32(y), x, 1, n, nil, nil, 1e-6)
		LayerNormGrad(dx, nil, x, f32(dy), 1, n, nil, 1e-6, nil, nil)
		for i := range x {
			if want := float64(i%5-2) / 1.4; y[i] == y[i] && math.Abs(float64(y[i])-want) > 0.05 {
				t.Fatalf("column %d: %g, want about %g or NaN", i, y[i], want)
			}
		}
		if y[0] != y[0] && dx[0] == dx[0] {
			t.Errorf("the row is NaN, its gradient %g", dx[0])
		}
	})
}

// run is a mix of kernels on data from one seed, of float32 or bfloat16, with every buffer shifted by some elements.
func run(shift int, half bool) []float32 {
	const rows, heads, dim, width = 140, 2, 64, 128
	rng := rand.New(rand.NewPCG(8, 9))
	buffer := func(n int) []float32 {
		s := make([]float32, n+shift)[shift:]
		for i := range s {
			s[i] = float32(rng.NormFloat64())
		}
		return s
	}
	cells := func(n int) Cells {
		x := buffer(n)
		if !half {
			return f32(x)
		}
		c := Cells{H: make([]uint16, n+2*shift)[2*shift:]} // pairs of them are read as one
		Narrow(c.H, x)
		return c
	}
	qkv, weights, out, dqkv := cells(rows*3*width), cells(width*4*width), cells(rows*width), cells(rows*3*width)
	product, sums, sum, scratch := cells(rows*4*width), buffer(width*4*width), buffer(4*width), buffer(AttentionScratch(rows, dim, 0, half))
	gamma, residual := buffer(width), buffer(rows*width)
	Rotate(qkv, qkv, make([]int32, rows), buffer(dim), buffer(dim), heads, dim, dim)
	Attention(out, qkv, []int32{0, 9, rows}, heads, dim, 0, scratch)
	AttentionGrad(dqkv, qkv, out, []int32{0, 9, rows}, heads, dim, 0, scratch)
	panels := buffer(PanelFloats(width, 4*width, half))
	PackColumns(panels, weights, width, 4*width)
	Product(WithGELU, product, out, rows, 4*width, width, panels, sum, cells(rows*4*width))
	ProductSum(sums, product, out, 4*width, width, rows, buffer(ProductSumScratch(4*width, width)))
	SwiGLU(product, product, product, rows*4*width)
	ColumnSum(sum, product, rows, 4*width)
	LayerNorm(out, residual, rows, width, gamma, gamma, 1e-6)
	LayerNormGrad(residual, residual, residual, out, rows, width, gamma, 1e-6, gamma, nil)
	return slices.Concat(float32s(out), float32s(dqkv), float32s(product), sums, sum, residual, gamma,
		[]float32{float32(SumSquares(sums)), float32(LpSum(sums, float32s(weights), 1))})
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d is %v, was %v", what, i, got[i], want[i])
		}
	}
}

// The same input gives the same bits wherever its buffers lie and whichever threads run beside it.
func TestDeterminism(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, half := range []bool{false, true} {
			want := run(0, half)
			for shift := 1; shift < 9; shift++ {
				sameBits(t, fmt.Sprintf("bfloat16 %t, buffers shifted by %d elements", half, shift), run(shift, half), want)
			}
			results := make(chan []float32)
			for range 4 {
				go func() {
					runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
					results <- run(0, half)
				}()
			}
			for range 4 {
				sameBits(t, fmt.Sprintf("bfloat16 %t, on a thread of its own", half), <-results, want)
			}
		}
	})
}

func TestNoAllocation(t *testing.T) {
	x, y := make([]float32, 4096), make([]float32, 4096)
	scratch := make([]float32, AttentionScratch(8, 4, 2, false))
	offsets := []int32{0, 3, 8}
	if n := testing.AllocsPerRun(10, func() {
		LibraryProduct(y, x, x, 8, 8, 8)
		GELU(y, x)
		LayerNormGrad(y, nil, x, f32(x), 8, 24, nil, 1e-6, nil, nil)
		Attention(f32(y), f32(x), offsets, 2, 4, 2, scratch)
		AttentionGrad(f32(y), f32(x), f32(x), offsets, 2, 4, 2, scratch)
		ScatterAddRows(y, x, 8, offsets, 1)
		AdamWEMA(y[:64], x, y[64:], y[128:], nil, AdamW{Correction1: 1, Correction2: 1})
	}); Native && n > 0 {
		t.Errorf("%v allocations per run", n)
	}
}

func TestFlushToZero(t *testing.T) {
	if !Native {
		t.Skip("plain Go cannot set the processor's mode")
	}
	result := make(chan float32)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its mode with it
		SetFlushToZero()
		x := []float32{1e-38}
		Scale(x, x, 0.1)
		result <- x[0]
	}()
	if v := <-result; v != 0 {
		t.Errorf("1e-38 * 0.1 = %v, want 0", v)
	}
	x := []float32{1e-38}
	Scale(x, x, 0.1)
	if x[0] == 0 {
		t.Error("another thread flushes to zero too")
	}
}

// A buffer that is too short must panic before native code runs.
func TestShortBuffers(t *testing.T) {
	short, long := make([]float32, 11, 64), make([]float32, 64)
	for what, call := range map[string]func(){
		"library a":  func() { LibraryProduct(long, short, long, 3, 4, 4) },
		"library b":  func() { LibraryProduct(long, long, short, 3, 4, 4) },
		"library c":  func() { LibraryProduct(short, long, long, 3, 4, 4) },
		"GELUGrad":   func() { GELUGrad(long, long, short) },
		"LayerNorm":  func() { LayerNorm(f32(long), short, 3, 4, nil, nil, 0) },
		"Attention":  func() { Attention(f32(short), f32(long), []int32{0, 3}, 1, 4, 0, make([]float32, 1<<20)) },
		"scratch":    func() { Attention(f32(long), f32(long), []int32{0, 3}, 1, 4, 0, short[:2]) },
		"offsets":    func() { Attention(f32(long), f32(long), []int32{3, 0}, 1, 4, 0, long) },
		"SwiGLU":     func() { SwiGLU(f32(long), f32(short), f32(long), 12) },
		"Rotate x":   func() { Rotate(f32(long), f32(short), []int32{0}, long, long, 1, 4, 4) },
		"Rotate c":   func() { Rotate(f32(long), f32(long), []int32{2}, short, long, 1, 4, 4) },
		"GatherRows": func() { GatherRows(long, short, 4, []int32{2}, 0) },
		"negative":   func() { ScatterAddRows(long, long, 4, []int32{-1}, 0) },
	} {
		t.Run(what, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			call()
		})
	}
}
