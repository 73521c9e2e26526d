// Package kernel holds the single-threaded kernels that the CPU machine runs a graph with.
//
// Every kernel exists as plain Go (kernel_generic.go), which is the reference and serves builds with CGO_ENABLED=0 or
// the tag nonative, and as native code (kernels_impl.h, product_impl.h, attention_impl.h) in the instruction set that
// the processor offers: AMX, AVX-512 with or without its bfloat16, AVX2 with FMA, or the compiler's baseline.
//
// Rows of tokens are float32 or, in a machine of reduced precision, bfloat16; see Cells. Sums are float32 in either.
//
// Kernels keep to the calling thread, allocate nothing on the Go heap and return no errors: the caller has checked
// shapes before. A buffer that is too short is a fault of the program and panics here, before native code sees it.
// Matrices are row-major; ld is a row stride in elements. Inputs and outputs may not overlap unless a kernel says so.
// A NaN in an input reaches the output, but for one of float32 that no instruction makes: attention may lose those whose
// lowest nine bits are set. For the same input and instruction set every kernel returns the same bits.
package kernel

import (
	"fmt"
	"sync"
)

var setup = sync.OnceValue(implementation{}.setup)

// LevelVariable is the variable of the environment that names an instruction set below the widest, to repeat the bits of another
// machine or to rule a kernel out: baseline, avx2, avx512, avx512bf16 or amx.
const LevelVariable = "SURMISE_KERNELS"

// Setup chooses the widest instruction set that this processor has, or the one that LevelVariable names. It is called before
// the first kernel; without it the baseline runs. Calls after the first do nothing, and give the error of the first: of a
// name that is unknown, or of what this processor does not have.
func Setup() error { return setup() }

// Cells are the elements of a matrix, row-major: float32 in F, or bfloat16 (the upper half of a float32) in H, which begins at a
// multiple of 4 bytes, as pairs are read. The other one is nil.
type Cells struct {
	F []float32
	H []uint16
}

// Half tells whether the elements are bfloat16.
func (c Cells) Half() bool { return c.H != nil }

// cut is the first n elements; it panics where there are fewer.
func (c Cells) cut(n int) Cells {
	if c.Half() {
		return Cells{H: cut(c.H, n)}
	}
	return Cells{F: cut(c.F, n)}
}

// Narrow rounds src to bfloat16, to nearest and ties to even; subnormal numbers may become 0. A NaN stays one. dst has
// the length of src.
func Narrow(dst []uint16, src []float32) { implementation{}.narrow(cut(dst, len(src)), src) }

// Finish is what a product does with a finished sum v before it is stored.
type Finish int

const (
	Plain        Finish = iota // c = v
	Adding                     // c += v; c is float32
	WithBias                   // c = v + bias
	WithResidual               // c = v + bias + beside; c and beside are float32; c may be beside
	WithGELU                   // beside = v + bias, c = GELU(beside); both of one kind
	WithGELUGrad               // c = v GELU'(beside), beside = GELU(beside); both of one kind
)

// PanelFloats is the size of the panels of a [k,n] matrix, in float32 elements whatever the kind.
func PanelFloats(k, n int, half bool) int { return implementation{}.panelFloats(k, n, half) }

// PackRows lays b [k,n] out for Product, in panels of at least PanelFloats.
func PackRows(panels []float32, b Cells, k, n int) {
	implementation{}.packRows(cut(panels, PanelFloats(k, n, b.Half())), b.cut(k*n), k, n)
}

// PackColumns lays out the transpose of b [n,k]: the weights of a linear map with k inputs and n outputs. k is even for
// bfloat16.
func PackColumns(panels []float32, b Cells, k, n int) {
	if b.Half() && k%2 != 0 {
		panic(fmt.Sprintf("kernel: bfloat16 weights of %d inputs, want an even number", k))
	}
	implementation{}.packColumns(cut(panels, PanelFloats(k, n, b.Half())), b.cut(k*n), k, n)
}

// Product computes A B for a [m,k] and the panels of a [k,n] matrix of the same kind as a, and finishes it into c [m,n].
// bias is [n] and beside [m,n] where finish has them. k is even for bfloat16. c is float32 where a is.
func Product(finish Finish, c, a Cells, m, n, k int, panels, bias []float32, beside Cells) {
	half := a.Half()
	switch {
	case half && k%2 != 0:
		panic(fmt.Sprintf("kernel: bfloat16 product over %d elements, want an even number", k))
	case c.Half() && (!half || finish == Adding || finish == WithResidual):
		panic(fmt.Sprintf("kernel: product with finish %d of float32 into bfloat16", finish))
	}
	if m == 0 || n == 0 {
		return
	}
	if finish == WithBias || finish == WithResidual || finish == WithGELU {
		bias = cut(bias, n)
	} else {
		bias = nil
	}
	switch finish {
	case WithResidual, WithGELU, WithGELUGrad:
		if beside.Half() != c.Half() {
			panic(fmt.Sprintf("kernel: product with finish %d of two kinds", finish))
		}
		beside = beside.cut(m * n)
	default:
		beside = Cells{}
	}
	implementation{}.product(finish, c.cut(m*n), a.cut(m*k), m, n, k, cut(panels, PanelFloats(k, n, half)), bias, beside)
}

// ProductSum adds Aᵀ B to c [m,n], for a [k,m] and b [k,n] of one kind: the gradient of weights over k rows of tokens.
// scratch holds ProductSumScratch floats.
func ProductSum(c []float32, a, b Cells, m, n, k int, scratch []float32) {
	if a.Half() != b.Half() {
		panic("kernel: sum of products of two kinds")
	}
	if m == 0 || n == 0 || k == 0 {
		return
	}
	implementation{}.productSum(cut(c, m*n), a.cut(k*m), b.cut(k*n), m, n, k, cut(scratch, ProductSumScratch(m, n)))
}

// ProductSumScratch is the number of floats of scratch that ProductSum needs for a sum of [m,n].
func ProductSumScratch(m, n int) int { return implementation{}.productSumScratch(m, n) }

// LibraryProduct sets c [m,n] to A Bᵀ, for a [m,k] and b [n,k], by a library, oneDNN in native builds, on the calling thread:
// what the machine's speed is measured with, beside Product. It says whether the library did it: one that may not make code, or
// has no memory, does nothing.
func LibraryProduct(c, a, b []float32, m, n, k int) bool {
	if m == 0 || n == 0 {
		return true
	}
	if k == 0 { // an empty sum; libraries differ on it
		clear(cut(c, m*n))
		return true
	}
	return implementation{}.libraryProduct(cut(c, m*n), cut(a, m*k), cut(b, n*k), m, n, k)
}

// GELU sets out to x Φ(x), Φ the normal distribution function: the exact GELU, not the tanh form. Its error is below
// 3e-7 max(1, |x|), of finite x. out and x have the same length and may be the same slice.
func GELU(out, x []float32) {
	implementation{}.gelu(cut(out, len(x)), x)
}

// GELUGrad sets dx = dy (Φ(x) + x φ(x)), φ the normal density, for |x| up to 1e30. All have the length of x; dx may be dy.
func GELUGrad(dx, x, dy []float32) {
	implementation{}.geluGrad(cut(dx, len(x)), x, cut(dy, len(x)))
}

// SwiGLU sets y to SiLU(a) b, SiLU(a) = a/(1+e^-a). All are of one kind and have n elements; y may be a or b.
func SwiGLU(y, a, b Cells, n int) {
	oneKind("SwiGLU", y, a, b)
	implementation{}.swiGLU(y.cut(n), a.cut(n), b.cut(n), n)
}

// SwiGLUGrad sets dx to the gradient of SwiGLU with respect to a, for of 0, or b, for of 1, given dy. All are of one kind
// and have n elements; dx may be any of the others.
func SwiGLUGrad(dx, a, b, dy Cells, of, n int) {
	oneKind("SwiGLUGrad", dx, a, b, dy)
	implementation{}.swiGLUGrad(dx.cut(n), a.cut(n), b.cut(n), dy.cut(n), of, n)
}

// Rotate turns the queries and keys of packed rows by the positions of their tokens. With D = heads*headDim:
//
//	y, x   [rows, 3D]: all queries, all keys, all values, each head-major; of one kind; y may be x
//	tokens [rows]
//	c, s   [tokens there are, turned]; turned is even and at most headDim
//
// Channel j < turned of a head becomes c[j] x[j] + s[j] x[j^1], with the rows of c and s that the token names; all other
// channels and the values are copied.
func Rotate(y, x Cells, tokens []int32, c, s []float32, heads, headDim, turned int) {
	oneKind("Rotate", y, x)
	if turned%2 != 0 || turned > headDim {
		panic(fmt.Sprintf("kernel: rotation of %d of %d features of a head, want an even number", turned, headDim))
	}
	n := len(tokens) * 3 * heads * headDim
	for _, t := range tokens {
		_, _ = cut(c[int(t)*turned:], turned), cut(s[int(t)*turned:], turned)
	}
	implementation{}.rotate(y.cut(n), x.cut(n), tokens, c, s, heads, headDim, turned)
}

// oneKind panics unless all are float32 or all bfloat16.
func oneKind(what string, first Cells, others ...Cells) {
	for _, c := range others {
		if c.Half() != first.Half() {
			panic("kernel: " + what + " of two kinds")
		}
	}
}

// LayerNorm sets each row of y [m,n] to (x - mean)/√(variance + eps) * gamma + beta with the statistics of that row of
// x [m,n] (variance over n, not n-1). gamma and beta are [n] or nil. y may be x. A row whose squares overflow float32
// becomes NaN in native code, not zeros: a step that diverged is refused.
func LayerNorm(y Cells, x []float32, m, n int, gamma, beta []float32, eps float32) {
	implementation{}.layerNorm(y.cut(m*n), cut(x, m*n), m, n, optional(gamma, n), optional(beta, n), eps)
}

// LayerNormGrad sets dx [m,n] to base plus the gradient of LayerNorm with respect to x [m,n], given dy [m,n], and adds
// those of gamma and beta to dgamma and dbeta [n]. dx, base, dgamma and dbeta may each be nil and are then left out;
// gamma is nil where LayerNorm had none. The statistics are computed from x again. dx may be base or dy.
func LayerNormGrad(dx, base, x []float32, dy Cells, m, n int, gamma []float32, eps float32, dgamma, dbeta []float32) {
	implementation{}.layerNormGrad(optional(dx, m*n), optional(base, m*n), cut(x, m*n), dy.cut(m*n), m, n, optional(gamma, n), eps,
		optional(dgamma, n), optional(dbeta, n))
}

// Attention is multi-head self-attention inside segments of packed rows. With D = heads*headDim:
//
//	out     [rows, D]
//	qkv     [rows, 3D]: all queries, all keys, all values, each head-major
//	offsets [segments+1]: ascending row bounds; segment s is rows offsets[s] to offsets[s+1]-1
//	scratch at least AttentionScratch of the longest segment
//
// out and qkv are of one kind; headDim is even for bfloat16. Scores are scaled by headDim^-0.5. block 0 lets every row
// see its whole segment; a positive block makes attention block-causal: row i of a segment sees row j of it if
// j/block <= i/block. Rows outside the segments are not touched.
func Attention(out, qkv Cells, offsets []int32, heads, headDim, block int, scratch []float32) {
	rows, longest := checkOffsets(offsets)
	if rows == 0 {
		return
	}
	checkKinds(qkv, headDim, out)
	width := heads * headDim
	implementation{}.attention(out.cut(rows*width), qkv.cut(rows*3*width), offsets, nil, nil, heads, headDim, block,
		cut(scratch, AttentionScratch(longest, headDim, block, qkv.Half())))
}

// AttentionOf is Attention, with block 0, for some queries of each segment alone:
//
//	out     [len(queries), D]
//	bounds  [segments+1]: ascending; the queries of segment s are bounds[s] to bounds[s+1]-1
//	queries row inside its segment of each
func AttentionOf(out, qkv Cells, offsets, bounds, queries []int32, heads, headDim int, scratch []float32) {
	rows, longest := checkOffsets(offsets)
	count, _ := checkOffsets(bounds)
	if len(bounds) != len(offsets) || count > len(queries) {
		panic(fmt.Sprintf("kernel: %d queries in %d segments, want %d in %d", len(queries), len(bounds)-1, count, len(offsets)-1))
	}
	if count == 0 {
		return
	}
	for s := range len(offsets) - 1 {
		for _, q := range queries[bounds[s]:bounds[s+1]] {
			if n := offsets[s+1] - offsets[s]; q < 0 || q >= n {
				panic(fmt.Sprintf("kernel: query %d of a segment of %d rows", q, n))
			}
		}
	}
	checkKinds(qkv, headDim, out)
	width := heads * headDim
	implementation{}.attention(out.cut(count*width), qkv.cut(rows*3*width), offsets, bounds, queries, heads, headDim, 0,
		cut(scratch, AttentionScratch(longest, headDim, 0, qkv.Half())))
}

// AttentionGrad sets dqkv [rows, 3D] to the gradient of Attention with respect to qkv, given dout [rows, D], all of one
// kind. The probabilities are computed again, tile by tile; the other arguments are those of Attention.
func AttentionGrad(dqkv, qkv, dout Cells, offsets []int32, heads, headDim, block int, scratch []float32) {
	rows, longest := checkOffsets(offsets)
	if rows == 0 {
		return
	}
	checkKinds(qkv, headDim, dqkv, dout)
	width := heads * headDim
	implementation{}.attentionGrad(dqkv.cut(rows*3*width), qkv.cut(rows*3*width), dout.cut(rows*width), offsets, heads, headDim,
		block, cut(scratch, AttentionScratch(longest, headDim, block, qkv.Half())))
}

func checkKinds(qkv Cells, headDim int, others ...Cells) {
	if qkv.Half() && headDim%2 != 0 {
		panic(fmt.Sprintf("kernel: bfloat16 attention with %d features to a head, want an even number", headDim))
	}
	for _, c := range others {
		if c.Half() != qkv.Half() {
			panic("kernel: attention of two kinds")
		}
	}
}

// AttentionScratch is the number of floats of scratch that Attention and AttentionGrad need for segments of at most
// maxSegmentRows rows.
func AttentionScratch(maxSegmentRows, headDim, block int, half bool) int {
	if maxSegmentRows == 0 {
		return 0
	}
	return implementation{}.attentionScratch(maxSegmentRows, headDim, block, half)
}

// GatherRows copies row srcBase+idx[i] of src [rows,n] to row i of dst [len(idx),n].
func GatherRows[T float32 | uint16](dst, src []T, n int, idx []int32, srcBase int) {
	for i, row := range idx {
		copy(cut(dst[i*n:], n), cut(src[(srcBase+int(row))*n:], n))
	}
}

// ScatterAddRows adds row i of src [len(idx),n] to row dstBase+idx[i] of dst [rows,n], in the order of i.
func ScatterAddRows(dst, src []float32, n int, idx []int32, dstBase int) {
	dst = dst[dstBase*n:]
	for _, row := range idx {
		_ = cut(dst[int(row)*n:], n)
	}
	implementation{}.scatterAdd(dst, cut(src, len(idx)*n), n, idx)
}

// Add sets dst = a + b; all have the length of dst, and dst may be a or b.
func Add(dst, a, b []float32) {
	implementation{}.add(dst, cut(a, len(dst)), cut(b, len(dst)))
}

// Accumulate adds a to dst; both have the length of dst.
func Accumulate(dst, a []float32) {
	implementation{}.add(dst, dst, cut(a, len(dst)))
}

// Scale sets dst = factor * a; both have the length of dst, and dst may be a.
func Scale(dst, a []float32, factor float32) {
	implementation{}.scale(dst, cut(a, len(dst)), factor)
}

// ColumnSum adds the sum over the rows of x [m,n] to dst [n].
func ColumnSum(dst []float32, x Cells, m, n int) {
	implementation{}.columnSum(cut(dst, n), x.cut(m*n), m, n)
}

// LpSum is the sum of |pred - target|^exponent / exponent. Both have the length of pred. Exponents 1 and 2 are fast.
func LpSum(pred, target []float32, exponent float64) float64 {
	return implementation{}.lpSum(pred, cut(target, len(pred)), exponent)
}

// LpGrad sets dpred = weight |pred - target|^(exponent-1) sign(pred - target): weight times the gradient of LpSum.
// It is 0 where pred equals target. All have the length of pred.
func LpGrad(dpred, pred, target []float32, weight float32, exponent float64) {
	implementation{}.lpGrad(cut(dpred, len(pred)), pred, cut(target, len(pred)), weight, exponent)
}

// RowAbsError sets dst[i] [m] to the mean over n of |pred - target| in row i; pred and target are [m,n].
func RowAbsError(dst, pred, target []float32, m, n int) {
	implementation{}.rowAbsError(cut(dst, m), cut(pred, m*n), cut(target, m*n), m, n)
}

// SumSquares is the sum of x². Elements beyond 1.8e19 overflow to +Inf.
func SumSquares(x []float32) float64 {
	return implementation{}.sumSquares(x)
}

// AdamW holds the settings of one AdamWEMA step. None has a default.
type AdamW struct {
	Scale                    float64 // factor on the gradient, for clipping; 1: none
	Beta1, Beta2             float64 // decay of the first and second moment
	Eps                      float64 // added to the root of the second moment
	LR                       float64 // learning rate of this step
	WeightDecay              float64 // decoupled: p shrinks by LR*WeightDecay
	Correction1, Correction2 float64 // bias corrections 1-β₁^t and 1-β₂^t; t counts from 1
	Momentum                 float64 // share of the old value kept by ema
}

// AdamWEMA makes one AdamW step (Loshchilov and Hutter, 2019, in PyTorch's order of operations) and moves the
// exponential moving average after it, in one pass:
//
//	s = Scale g;  m = β₁ m + (1-β₁) s;  v = β₂ v + (1-β₂) s²
//	p = (1 - LR WeightDecay) p - LR/Correction1 * m / (√v/√Correction2 + Eps)
//	ema = Momentum ema + (1-Momentum) p
//
// All have the length of p; ema nil leaves the last line out.
func AdamWEMA(p, g, m, v, ema []float32, h AdamW) {
	n := len(p)
	implementation{}.adamWEMA(p, cut(g, n), cut(m, n), cut(v, n), optional(ema, n), h)
}

// Patchify cuts clip [c,t,h,w] into tubelets and lays each out as a row of
// dst [(t/tubelet)*(h/patch)*(w/patch), c*tubelet*patch*patch]: rows in order (t,h,w), columns in order (c,dt,dy,dx),
// which is how the weights of the patch embedding are stored. t, h and w are multiples of the tubelet and patch size.
// scratch holds one row where dst is bfloat16.
func Patchify(dst Cells, clip []float32, c, t, h, w, tubelet, patch int, scratch []float32) {
	column := c * tubelet * patch * patch
	clip = cut(clip, c*t*h*w)
	at := 0
	for t0 := 0; t0 < t; t0 += tubelet {
		for h0 := 0; h0 < h; h0 += patch {
			for w0 := 0; w0 < w; w0, at = w0+patch, at+column {
				var row []float32
				if dst.Half() {
					row = cut(scratch, column)
				} else {
					row = cut(dst.F[at:], column)
				}
				left := row
				for channel := range c {
					for dt := range tubelet {
						frame := clip[(channel*t+t0+dt)*h*w:]
						for dy := range patch {
							copy(left[:patch], frame[(h0+dy)*w+w0:])
							left = left[patch:]
						}
					}
				}
				if dst.Half() {
					Narrow(dst.H[at:at+column], row)
				}
			}
		}
	}
}

// SetFlushToZero makes the calling thread treat subnormal floats as 0, which keeps the arithmetic at full speed. The
// caller has locked its goroutine to the thread. It does nothing in a build without native code.
func SetFlushToZero() { implementation{}.setFlushToZero() }

// Features names the instruction set of the kernels and the product library, for logs and benchmark reports.
func Features() string {
	_ = Setup() // what is wrong is for those to say who run kernels
	return implementation{}.features()
}

// cut is s[:n] that panics beyond the length of s, not only beyond its capacity: buffers are parts of one arena.
func cut[T any](s []T, n int) []T { return s[:n:len(s)] }

// optional cuts s to n elements and leaves nil alone.
func optional(s []float32, n int) []float32 {
	if s == nil {
		return nil
	}
	return cut(s, n)
}

// checkOffsets returns the last row bound and the length of the longest segment.
func checkOffsets(offsets []int32) (rows, longest int) {
	if len(offsets) == 0 {
		return 0, 0
	}
	for i, end := range offsets[1:] {
		length := int(end - offsets[i])
		if length < 0 || offsets[i] < 0 {
			panic(fmt.Sprintf("kernel: segment %d runs from row %d to row %d", i, offsets[i], end))
		}
		longest = max(longest, length)
	}
	return int(offsets[len(offsets)-1]), longest
}

// NativeBF16 tells whether this processor multiplies bfloat16 matrices itself.
func NativeBF16() bool {
	if Setup() != nil {
		return false
	}
	return implementation{}.nativeBF16()
}
