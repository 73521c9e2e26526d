package kernel

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// The sizes are those of one clip: 392 tokens (tiny preset, 8x7x7), width 192 with 3 heads, and 512 tokens of the
// demo, width 128.

func random(n int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(n), 0))
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(rng.NormFloat64())
	}
	return s
}

// measure runs f and reports GFLOP/s for the given FLOP per call (0: none) and GB/s for the given bytes.
func measure(b *testing.B, flop, bytes int, f func()) {
	if err := Setup(); err != nil {
		b.Fatal(err)
	}
	runtime.LockOSThread() // as the machine's threads are; never unlocked, for the mode stays with the thread
	SetFlushToZero()
	f()
	b.SetBytes(int64(bytes))
	for b.Loop() {
		f()
	}
	if flop > 0 {
		b.ReportMetric(float64(flop)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
	}
}

// BenchmarkProduct has the library's products of the same sizes beside ours.
func BenchmarkProduct(b *testing.B) {
	for _, s := range []struct{ m, n, k int }{
		{392, 576, 192}, {392, 192, 192}, {392, 768, 192}, {392, 192, 768}, {512, 384, 128}, {512, 128, 512}, {1568, 1152, 384}, {100, 576, 192},
	} {
		if err := Setup(); err != nil {
			b.Fatal(err)
		}
		x, w, y, bias := random(s.m*s.k), random(s.n*s.k), random(s.m*s.n), random(s.n)
		panels, back := random(PanelFloats(s.k, s.n, false)), random(PanelFloats(s.n, s.k, false))
		z, scratch := random(s.m*s.n), random(ProductSumScratch(s.n, s.k))
		flop := 2 * s.m * s.n * s.k
		size := fmt.Sprintf("%dx%dx%d", s.m, s.n, s.k)
		b.Run("pack/"+size, func(b *testing.B) { measure(b, 0, 8*s.n*s.k, func() { PackColumns(panels, f32(w), s.k, s.n) }) })
		PackColumns(panels, f32(w), s.k, s.n)
		PackRows(back, f32(w), s.n, s.k)
		b.Run("y=xW'/"+size, func(b *testing.B) {
			measure(b, flop, 0, func() { Product(WithBias, f32(y), f32(x), s.m, s.n, s.k, panels, bias, Cells{}) })
		})
		b.Run("gelu/"+size, func(b *testing.B) {
			measure(b, flop, 0, func() { Product(WithGELU, f32(y), f32(x), s.m, s.n, s.k, panels, bias, f32(z)) })
		})
		b.Run("dx=dyW/"+size, func(b *testing.B) {
			measure(b, flop, 0, func() { Product(Plain, f32(x), f32(y), s.m, s.k, s.n, back, nil, Cells{}) })
		})
		b.Run("dW+=dy'x/"+size, func(b *testing.B) {
			measure(b, flop, 0, func() { clear(w); ProductSum(w, f32(y), f32(x), s.n, s.k, s.m, scratch) })
		})
		b.Run("library y=xW'/"+size, func(b *testing.B) {
			measure(b, flop, 0, func() { LibraryProduct(y, x, w, s.m, s.n, s.k) })
		})
	}
}

func BenchmarkAttention(b *testing.B) {
	for _, half := range []bool{false, true} {
		for _, s := range []struct{ rows, heads, dim, block int }{{392, 3, 64, 0}, {512, 2, 64, 64}, {512, 2, 64, 0}, {1568, 6, 64, 0}, {392, 6, 32, 0}, {1568, 6, 16, 0}} {
			width := s.heads * s.dim
			cells := func(n int) Cells {
				x := random(n)
				if !half {
					return f32(x)
				}
				narrow := Cells{H: make([]uint16, n)}
				Narrow(narrow.H, x)
				return narrow
			}
			qkv, out, dqkv := cells(s.rows*3*width), cells(s.rows*width), cells(s.rows*3*width)
			scratch := random(AttentionScratch(s.rows, s.dim, s.block, half))
			offsets := []int32{0, int32(s.rows)}
			pairs := 0
			for i := range s.rows {
				seen := s.rows
				if s.block > 0 {
					seen = min(seen, (i/s.block+1)*s.block)
				}
				pairs += seen
			}
			name := fmt.Sprintf("%dx%dx%d,block%d", s.rows, s.heads, s.dim, s.block)
			if half {
				name += ",bf16"
			}
			b.Run("forward/"+name, func(b *testing.B) {
				measure(b, 4*pairs*width, 0, func() { Attention(out, qkv, offsets, s.heads, s.dim, s.block, scratch) })
			})
			b.Run("gradient/"+name, func(b *testing.B) {
				measure(b, 10*pairs*width, 0, func() { AttentionGrad(dqkv, qkv, out, offsets, s.heads, s.dim, s.block, scratch) })
			})
		}
	}
}

func BenchmarkRows(b *testing.B) {
	const m, n, wide = 392, 192, 768
	x, y, dy, gamma, beta := random(m*n), random(m*n), random(m*n), random(n), random(n)
	pre, out, bias := random(m*wide), random(m*wide), random(wide)
	const size = 4 * m * n
	for _, c := range []struct {
		name  string
		bytes int
		f     func()
	}{
		{"LayerNorm", 2 * size, func() { LayerNorm(f32(y), x, m, n, gamma, beta, 1e-6) }},
		{"LayerNormGrad", 3 * size, func() { LayerNormGrad(y, nil, x, f32(dy), m, n, gamma, 1e-6, beta, beta) }},
		{"GELU768", 8 * size, func() { GELU(out, pre) }},
		{"GELUGrad768", 12 * size, func() { GELUGrad(out, pre, out) }},
		{"Add", 3 * size, func() { Add(y, x, dy) }},
		{"Scale", 2 * size, func() { Scale(y, x, 0.5) }},
		{"ColumnSum768", 4 * size, func() { ColumnSum(bias, f32(pre), m, wide) }},
		{"LpSum1", 2 * size, func() { LpSum(x, y, 1) }},
		{"LpGrad1", 3 * size, func() { LpGrad(dy, x, y, 0.1, 1) }},
		{"RowAbsError", 2 * size, func() { RowAbsError(bias, x, y, m, n) }},
		{"SumSquares", size, func() { SumSquares(x) }},
		{"AddOne", 12, func() { Add(y[:1], x[:1], x[:1]) }}, // the cost of a call
	} {
		b.Run(c.name, func(b *testing.B) { measure(b, 0, c.bytes, c.f) })
	}
}

// BenchmarkAdamWEMA runs over more parameters than any cache holds.
func BenchmarkAdamWEMA(b *testing.B) {
	const n = 5_000_000
	p, g, m, v, ema := random(n), random(n), make([]float32, n), make([]float32, n), random(n)
	h := AdamW{Scale: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, LR: 1e-5, WeightDecay: 0.04, Correction1: 0.1, Correction2: 0.001, Momentum: 0.99}
	measure(b, 0, 9*4*n, func() { AdamWEMA(p, g, m, v, ema, h) })
}

func BenchmarkPatchify(b *testing.B) {
	clip := random(3 * 16 * 112 * 112)
	dst := random(len(clip))
	measure(b, 0, 8*len(clip), func() { Patchify(f32(dst), clip, 3, 16, 112, 112, 2, 16, nil) })
}
