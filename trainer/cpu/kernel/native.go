//go:build cgo && !nonative

package kernel

/*
#cgo CFLAGS: -fno-strict-aliasing
#cgo !sanitize CFLAGS: -O3
#cgo sanitize CFLAGS: -DSANITIZE
#cgo LDFLAGS: -ldnnl -lgomp -lm
#cgo noescape surmise_library_product
#cgo nocallback surmise_library_product
#cgo noescape surmise_attention
#cgo nocallback surmise_attention
#cgo noescape surmise_attention_grad
#cgo nocallback surmise_attention_grad
#cgo noescape surmise_product_sum_scratch
#cgo nocallback surmise_product_sum_scratch
#cgo noescape surmise_attention_scratch
#cgo nocallback surmise_attention_scratch
#cgo noescape surmise_panels_by_rows
#cgo nocallback surmise_panels_by_rows
#cgo noescape surmise_panels_by_columns
#cgo nocallback surmise_panels_by_columns
#cgo noescape surmise_narrow_rows
#cgo nocallback surmise_narrow_rows
#cgo noescape surmise_product_into
#cgo nocallback surmise_product_into
#cgo noescape surmise_product_sum
#cgo nocallback surmise_product_sum
#cgo noescape surmise_gelu
#cgo nocallback surmise_gelu
#cgo noescape surmise_gelu_grad
#cgo nocallback surmise_gelu_grad
#cgo noescape surmise_swiglu
#cgo nocallback surmise_swiglu
#cgo noescape surmise_swiglu_grad
#cgo nocallback surmise_swiglu_grad
#cgo noescape surmise_rotate
#cgo nocallback surmise_rotate
#cgo noescape surmise_layer_norm
#cgo nocallback surmise_layer_norm
#cgo noescape surmise_layer_norm_grad
#cgo nocallback surmise_layer_norm_grad
#cgo noescape surmise_scatter_add
#cgo nocallback surmise_scatter_add
#cgo noescape surmise_add
#cgo nocallback surmise_add
#cgo noescape surmise_scale
#cgo nocallback surmise_scale
#cgo noescape surmise_column_sum
#cgo nocallback surmise_column_sum
#cgo noescape surmise_lp_sum
#cgo nocallback surmise_lp_sum
#cgo noescape surmise_lp_grad
#cgo nocallback surmise_lp_grad
#cgo noescape surmise_row_abs_error
#cgo nocallback surmise_row_abs_error
#cgo noescape surmise_sum_squares
#cgo nocallback surmise_sum_squares
#cgo noescape surmise_adamw_ema
#cgo nocallback surmise_adamw_ema
#include "kernels.h"
*/
import "C"

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"unsafe"
)

// implementation is what the exported functions run.
type implementation = native

// Native tells whether this build has native kernels.
const Native = true

// native calls the C kernels. Its methods pass shapes on; kernel.go has cut every slice to the extent they cover.
type native struct{}

// level is an instruction set of the native kernels.
type level int

const (
	baseline level = iota
	avx2
	avx512
	avx512bf16
	amx
)

var levelNames = [...]string{baseline: "baseline", avx2: "avx2", avx512: "avx512", avx512bf16: "avx512bf16", amx: "amx"}

// setup chooses the widest instruction set of this processor, or the one that is wanted.
func (native) setup() error {
	widest, least := amx, baseline
	if wanted := os.Getenv(LevelVariable); wanted != "" {
		at := slices.Index(levelNames[:], wanted)
		if at < 0 {
			return fmt.Errorf("%s is %q, want one of %s", LevelVariable, wanted, strings.Join(levelNames[:], ", "))
		}
		widest, least = level(at), level(at)
	}
	for l := widest; l >= least; l-- {
		if use(l) {
			nativeBF16 = l >= avx512bf16
			return nil
		}
	}
	return fmt.Errorf("%s is %s, which this processor does not have, or the system does not allow", LevelVariable, levelNames[least])
}

var nativeBF16 bool

func (native) nativeBF16() bool { return nativeBF16 }

// use switches all kernels of the process to a level and reports whether the processor has it.
func use(l level) bool { return C.surmise_select(C.int(l)) != 0 }

func (native) features() string {
	var version [3]C.int
	C.surmise_library_version(&version[0])
	return fmt.Sprintf("%s kernels, oneDNN %d.%d.%d", C.GoString(C.surmise_selected()), version[0], version[1], version[2])
}

// setFlushToZero acts on the thread that runs it.
func (native) setFlushToZero() { C.surmise_flush_to_zero() }

func floats(s []float32) *C.float { return (*C.float)(unsafe.SliceData(s)) }
func ints(s []int32) *C.int32_t   { return (*C.int32_t)(unsafe.SliceData(s)) }
func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func (native) libraryProduct(c, a, b []float32, m, n, k int) bool {
	return C.surmise_library_product(C.long(m), C.long(n), C.long(k), floats(a), floats(b), floats(c)) != 0
}

func (native) gelu(out, x []float32) {
	C.surmise_gelu(floats(out), floats(x), C.long(len(x)))
}

func (native) geluGrad(dx, x, dy []float32) {
	C.surmise_gelu_grad(floats(dx), floats(x), floats(dy), C.long(len(x)))
}

func (native) narrow(dst []uint16, src []float32) {
	C.surmise_narrow_rows((*C.uint16_t)(unsafe.SliceData(dst)), floats(src), C.long(len(src)))
}

// cells is where a matrix begins, and whether it is bfloat16.
func cells(c Cells) (unsafe.Pointer, C.int) {
	if c.Half() {
		return unsafe.Pointer(unsafe.SliceData(c.H)), 1
	}
	return unsafe.Pointer(unsafe.SliceData(c.F)), 0
}

func (native) panelFloats(k, n int, half bool) int {
	if half {
		k = (k + 1) / 2
	}
	panel := int(C.surmise_panel())
	return (n + panel - 1) / panel * panel * k
}

func (native) packRows(panels []float32, b Cells, k, n int) {
	p, half := cells(b)
	C.surmise_panels_by_rows(unsafe.Pointer(floats(panels)), p, C.long(k), C.long(n), C.long(n), half)
}

func (native) packColumns(panels []float32, b Cells, k, n int) {
	p, half := cells(b)
	C.surmise_panels_by_columns(unsafe.Pointer(floats(panels)), p, C.long(k), C.long(n), C.long(k), half)
}

func (native) product(finish Finish, c, a Cells, m, n, k int, panels, bias []float32, beside Cells) {
	kind := [...]C.int{Plain: C.SET, Adding: C.ADD, WithBias: C.BIAS, WithResidual: C.BIAS_ADD, WithGELU: C.BIAS_GELU, WithGELUGrad: C.GELU_GRAD}[finish]
	if c.Half() {
		kind |= C.HALF
	}
	pc, _ := cells(c)
	pa, pairs := cells(a)
	pe, _ := cells(beside)
	C.surmise_product_into(pairs, kind, C.long(m), C.long(n), C.long(k), pa, unsafe.Pointer(floats(panels)), pc, floats(bias), pe)
}

func (native) productSum(c []float32, a, b Cells, m, n, k int, scratch []float32) {
	pa, half := cells(a)
	pb, _ := cells(b)
	C.surmise_product_sum(half, floats(c), C.long(m), C.long(n), C.long(k), pa, pb, (*C.uint32_t)(unsafe.Pointer(floats(scratch))))
}

func (native) productSumScratch(m, n int) int {
	return int(C.surmise_product_sum_scratch(C.long(m), C.long(n)))
}

func (native) layerNorm(y Cells, x []float32, m, n int, gamma, beta []float32, eps float32) {
	p, half := cells(y)
	C.surmise_layer_norm(p, half, floats(x), C.long(m), C.long(n), floats(gamma), floats(beta), C.float(eps))
}

func (native) layerNormGrad(dx, base, x []float32, dy Cells, m, n int, gamma []float32, eps float32, dgamma, dbeta []float32) {
	p, half := cells(dy)
	C.surmise_layer_norm_grad(floats(dx), floats(base), floats(x), p, half, C.long(m), C.long(n), floats(gamma), C.float(eps),
		floats(dgamma), floats(dbeta))
}

func (native) swiGLU(y, a, b Cells, n int) {
	py, half := cells(y)
	pa, _ := cells(a)
	pb, _ := cells(b)
	C.surmise_swiglu(py, pa, pb, half, C.long(n))
}

func (native) swiGLUGrad(dx, a, b, dy Cells, of, n int) {
	px, half := cells(dx)
	pa, _ := cells(a)
	pb, _ := cells(b)
	py, _ := cells(dy)
	C.surmise_swiglu_grad(px, pa, pb, py, half, C.int(of), C.long(n))
}

func (native) rotate(y, x Cells, tokens []int32, c, s []float32, heads, headDim, turned int) {
	py, half := cells(y)
	px, _ := cells(x)
	C.surmise_rotate(py, px, half, ints(tokens), floats(c), floats(s), C.long(len(tokens)), C.long(heads), C.long(headDim), C.long(turned))
}

func (native) attentionScratch(longest, headDim, block int, half bool) int {
	return int(C.surmise_attention_scratch(flag(half), C.long(longest), C.long(headDim), C.long(block)))
}

func (native) attention(out, qkv Cells, offsets, bounds, queries []int32, heads, headDim, block int, scratch []float32) {
	po, _ := cells(out)
	pq, half := cells(qkv)
	C.surmise_attention(half, po, pq, ints(offsets), ints(bounds), ints(queries), C.long(len(offsets)-1), C.long(heads),
		C.long(headDim), C.long(block), (*C.uint32_t)(unsafe.Pointer(floats(scratch))))
}

func (native) attentionGrad(dqkv, qkv, dout Cells, offsets []int32, heads, headDim, block int, scratch []float32) {
	pd, _ := cells(dqkv)
	pq, half := cells(qkv)
	po, _ := cells(dout)
	C.surmise_attention_grad(half, pd, pq, po, ints(offsets), C.long(len(offsets)-1),
		C.long(heads), C.long(headDim), C.long(block), (*C.uint32_t)(unsafe.Pointer(floats(scratch))))
}

func (native) scatterAdd(dst, src []float32, n int, idx []int32) {
	C.surmise_scatter_add(floats(dst), floats(src), C.long(n), ints(idx), C.long(len(idx)))
}

func (native) add(dst, a, b []float32) {
	C.surmise_add(floats(dst), floats(a), floats(b), C.long(len(dst)))
}

func (native) scale(dst, a []float32, factor float32) {
	C.surmise_scale(floats(dst), floats(a), C.float(factor), C.long(len(dst)))
}

func (native) columnSum(dst []float32, x Cells, m, n int) {
	p, half := cells(x)
	C.surmise_column_sum(floats(dst), p, half, C.long(m), C.long(n))
}

func (native) lpSum(pred, target []float32, exponent float64) float64 {
	return float64(C.surmise_lp_sum(floats(pred), floats(target), C.long(len(pred)), C.double(exponent)))
}

func (native) lpGrad(dpred, pred, target []float32, weight float32, exponent float64) {
	C.surmise_lp_grad(floats(dpred), floats(pred), floats(target), C.long(len(pred)), C.float(weight), C.double(exponent))
}

func (native) rowAbsError(dst, pred, target []float32, m, n int) {
	C.surmise_row_abs_error(floats(dst), floats(pred), floats(target), C.long(m), C.long(n))
}

func (native) sumSquares(x []float32) float64 {
	return float64(C.surmise_sum_squares(floats(x), C.long(len(x))))
}

func (native) adamWEMA(p, g, m, v, ema []float32, h AdamW) {
	settings := C.adamw_t{
		scale: C.float(h.Scale),
		beta1: C.float(h.Beta1), beta1c: C.float(1 - h.Beta1),
		beta2: C.float(h.Beta2), beta2c: C.float(1 - h.Beta2),
		eps:      C.float(h.Eps),
		decay:    C.float(1 - h.LR*h.WeightDecay),
		step:     C.float(h.LR / h.Correction1),
		root:     C.float(1 / math.Sqrt(h.Correction2)),
		momentum: C.float(h.Momentum), momentumc: C.float(1 - h.Momentum),
	}
	C.surmise_adamw_ema(floats(p), floats(g), floats(m), floats(v), floats(ema), C.long(len(p)), settings)
}
