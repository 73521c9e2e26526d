package kernel

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cells makes normal elements of either kind between canaries.
func (b *buffers) cells(n int, half bool) Cells {
	x := b.normal(n)
	if !half {
		return f32(x)
	}
	h := b.halves(n)
	reference{}.narrow(h.H, x)
	return h
}

// halves is an uninitialised bfloat16 matrix between canaries.
func (b *buffers) halves(n int) Cells {
	whole := slices.Repeat([]uint16{halfCanary}, n+2*margin)
	b.wholeHalf = append(b.wholeHalf, whole)
	return Cells{H: whole[margin : margin+n : margin+n]}
}

func (b *buffers) like(c Cells, n int) Cells {
	if c.Half() {
		return b.halves(n)
	}
	return f32(b.empty(n))
}

func (b *buffers) cloneCells(c Cells) Cells {
	if !c.Half() {
		return f32(b.clone(c.F))
	}
	d := b.halves(len(c.H))
	copy(d.H, c.H)
	return d
}

// nearCells allows two roundings to bfloat16 beyond the tolerance where got is one.
func nearCells(t rapid.TB, what string, got, want Cells, tolerance float64) {
	t.Helper()
	if got.Half() {
		tolerance += 1. / 128
	}
	near(t, what, float32s(got), float32s(want), tolerance)
}

func TestProduct(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		size := rapid.IntRange(0, 70)
		m, n, k := size.Draw(rt, "m"), size.Draw(rt, "n"), size.Draw(rt, "k")
		half := rapid.Bool().Draw(rt, "half")
		if half {
			k += k % 2
		}
		halfResult := half && rapid.Bool().Draw(rt, "half result")
		finish := Finish(rapid.IntRange(int(Plain), int(WithGELUGrad)).Draw(rt, "finish"))
		if finish == Adding || finish == WithResidual {
			halfResult = false
		}
		a, weights, bias := b.cells(m*k, half), b.cells(n*k, half), b.normal(n)
		c, beside := b.cells(m*n, halfResult), b.cells(m*n, halfResult)
		want, wantBeside := b.cloneCells(c), b.cloneCells(beside)
		scale := math.Sqrt(float64(k) + 1)

		byColumns := rapid.Bool().Draw(rt, "by columns")
		panels, plain := b.empty(PanelFloats(k, n, half)), b.empty(k*n)
		if byColumns {
			PackColumns(panels, weights, k, n)
			reference{}.packColumns(plain, weights, k, n)
		} else {
			PackRows(panels, weights, k, n)
			reference{}.packRows(plain, weights, k, n)
		}
		inPlace := finish == WithResidual && rapid.Bool().Draw(rt, "in place")
		if inPlace {
			c = beside
		}
		Product(finish, c, a, m, n, k, panels, bias, beside)
		if m > 0 && n > 0 {
			withBias := bias
			if finish == Plain || finish == Adding || finish == WithGELUGrad {
				withBias = nil
			}
			reference{}.product(finish, want, a, m, n, k, plain, withBias, wantBeside)
		}
		nearCells(rt, "c", c, want, 4e-6*scale)
		if !inPlace {
			nearCells(rt, "beside", beside, wantBeside, 4e-6*scale)
		}
		b.check(rt)
	})
}

// Sizes that take several blocks of rows and panels of every width.
func TestProductLarge(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, s := range []struct{ m, n, k int }{{301, 50, 520}, {97, 200, 96}, {33, 17, 1024}} {
			for _, half := range []bool{false, true} {
				b := &buffers{rng: newRand(7)}
				a, w, bias, panels := b.cells(s.m*s.k, half), b.cells(s.n*s.k, half), b.normal(s.n), b.empty(PanelFloats(s.k, s.n, half))
				c, want, plain := b.like(a, s.m*s.n), b.like(a, s.m*s.n), b.empty(s.n*s.k)
				PackColumns(panels, w, s.k, s.n)
				reference{}.packColumns(plain, w, s.k, s.n)
				Product(WithBias, c, a, s.m, s.n, s.k, panels, bias, Cells{})
				reference{}.product(WithBias, want, a, s.m, s.n, s.k, plain, bias, Cells{})
				nearCells(t, "c", c, want, 1e-5*math.Sqrt(float64(s.k)))
				b.check(t)
			}
		}
	})
}

func TestProductSum(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		size := rapid.IntRange(0, 50)
		m, n, k := size.Draw(rt, "m"), size.Draw(rt, "n"), rapid.IntRange(0, 900).Draw(rt, "k")
		half := rapid.Bool().Draw(rt, "half")
		x, y, c := b.cells(k*m, half), b.cells(k*n, half), b.normal(m*n)
		want := b.clone(c)
		ProductSum(c, x, y, m, n, k, b.empty(ProductSumScratch(m, n)))
		if m > 0 && n > 0 && k > 0 {
			reference{}.productSum(want, x, y, m, n, k, nil)
		}
		near(rt, "c", c, want, 1e-5*math.Sqrt(float64(k)+1))
		b.check(rt)
	})
}

func TestNarrow(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		bits := rapid.SliceOf(rapid.Uint32()).Draw(rt, "bits")
		x := b.empty(len(bits))
		for i, u := range bits {
			x[i] = math.Float32frombits(u)
		}
		got := b.halves(len(x))
		Narrow(got.H, x)
		for i, v := range x {
			back := float64(math.Float32frombits(uint32(got.H[i]) << 16))
			if v != v {
				if back == back {
					rt.Fatalf("NaN %08x became %04x", bits[i], got.H[i])
				}
				continue
			}
			// The nearest of the two neighbours, by definition.
			low := math.Float32frombits(bits[i] & 0xffff0000)
			high := math.Float32frombits(bits[i]&0xffff0000 + 0x10000)
			down, up := math.Abs(float64(v)-float64(low)), math.Abs(float64(high)-float64(v))
			switch {
			case math.Abs(float64(v)) < 1.2e-38 && back == 0: // processors may take subnormal numbers for 0
			case math.IsInf(float64(v), 0) || math.IsInf(float64(high), 0):
			case down < up && back != float64(low), up < down && back != float64(high),
				down == up && got.H[i]&1 != 0:
				rt.Fatalf("%v (%08x) became %v", v, bits[i], back)
			}
		}
		b.check(rt)
	})
}

func TestHalfRows(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		m, n := sizes(rt)
		x, gamma, beta := b.normal(m*n), b.normal(n), b.normal(n)
		const eps = 1e-3
		y, want := b.halves(m*n), b.halves(m*n)
		LayerNorm(y, x, m, n, gamma, beta, eps)
		reference{}.layerNorm(want, x, m, n, gamma, beta, eps)
		nearCells(rt, "y", y, want, 1e-4)

		dy, base := b.cells(m*n, true), b.normal(m*n)
		dx, wantDX := b.empty(m*n), b.empty(m*n)
		dgamma, dbeta := b.normal(n), b.normal(n)
		wantDGamma, wantDBeta, sum := b.clone(dgamma), b.clone(dbeta), b.clone(dbeta)
		LayerNormGrad(dx, base, x, dy, m, n, gamma, eps, dgamma, dbeta)
		reference{}.layerNormGrad(wantDX, base, x, dy, m, n, gamma, eps, wantDGamma, wantDBeta)
		near(rt, "dgamma", dgamma, wantDGamma, 1e-4)
		near(rt, "dbeta", dbeta, wantDBeta, 1e-5)
		largest := 1.0
		for _, v := range wantDX {
			largest = math.Max(largest, math.Abs(float64(v)))
		}
		near(rt, "dx", dx, wantDX, 1e-3*largest)
		ColumnSum(sum, dy, m, n)
		near(rt, "column sum", sum, wantDBeta, 1e-5)
		LayerNormGrad(base, base, x, dy, m, n, gamma, eps, nil, nil)
		near(rt, "dx in place of base", base, dx, 0)
		b.check(rt)
	})
}

// Attention on bfloat16 against the reference on the same numbers. Its probabilities are rounded once more, to 8 bits.
func TestHalfAttention(t *testing.T) {
	each(t, func(rt *rapid.T) {
		b := newBuffers(rt)
		offsets := []int32{0}
		for range rapid.IntRange(1, 3).Draw(rt, "segments") {
			offsets = append(offsets, offsets[len(offsets)-1]+rapid.Int32Range(0, 130).Draw(rt, "rows"))
		}
		heads, dim, block := rapid.IntRange(1, 3).Draw(rt, "heads"), 2*rapid.IntRange(1, 12).Draw(rt, "dim"), rapid.IntRange(0, 60).Draw(rt, "block")
		rows, width := int(offsets[len(offsets)-1]), heads*dim
		qkv, dout := b.cells(rows*3*width, true), b.cells(rows*width, true)
		out, dqkv, want, wantGrad := b.halves(rows*width), b.halves(rows*3*width), b.halves(rows*width), b.halves(rows*3*width)
		scratch := b.empty(AttentionScratch(130, dim, block, true))
		Attention(out, qkv, offsets, heads, dim, block, scratch)
		AttentionGrad(dqkv, qkv, dout, offsets, heads, dim, block, scratch)
		reference{}.attention(want, qkv, offsets, nil, nil, heads, dim, block, make([]float32, 130))
		reference{}.attentionGrad(wantGrad, qkv, dout, offsets, heads, dim, block, make([]float32, 130))
		nearCells(rt, "out", out, want, 1e-2)
		if block == 0 { // every other row
			bounds, queries := []int32{0}, []int32{}
			for s := range len(offsets) - 1 {
				for i := int32(0); i < offsets[s+1]-offsets[s]; i += 2 {
					queries = append(queries, i)
				}
				bounds = append(bounds, int32(len(queries)))
			}
			some := b.halves(len(queries) * width)
			AttentionOf(some, qkv, offsets, bounds, queries, heads, dim, scratch)
			for s := range len(offsets) - 1 {
				for i := bounds[s]; i < bounds[s+1]; i++ {
					if row := int(offsets[s] + queries[i]); !slices.Equal(some.H[int(i)*width:][:width], out.H[row*width:][:width]) {
						rt.Fatalf("query %d of segment %d differs from the same row among all", queries[i], s)
					}
				}
			}
		}
		nearCells(rt, "dqkv", dqkv, wantGrad, 5e-2)
		b.check(rt)
	})
}
