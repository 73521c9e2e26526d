// Declarations of the native kernels. Shapes and meanings are documented once, at the Go functions of kernel.go.
#ifndef SURMISE_KERNELS_H
#define SURMISE_KERNELS_H

#include <stdint.h>

typedef struct {
	float scale, beta1, beta1c, beta2, beta2c, eps, decay, step, root, momentum, momentumc;
} adamw_t;

// KERNELS lists every kernel that exists once per instruction set: X(result, name, parameters, arguments).
#define KERNELS(X) \
	X(void, bias_add, (float *y, long m, long n, const float *bias), (y, m, n, bias)) \
	X(void, bias_gelu, (float *out, float *pre, long m, long n, const float *bias), (out, pre, m, n, bias)) \
	X(void, gelu, (float *out, const float *x, long n), (out, x, n)) \
	X(void, gelu_grad, (float *dx, const float *x, const float *dy, long n), (dx, x, dy, n)) \
	X(void, layer_norm, (float *y, const float *x, long m, long n, const float *gamma, const float *beta, float eps), \
	  (y, x, m, n, gamma, beta, eps)) \
	X(void, layer_norm_grad, (float *dx, const float *x, const float *dy, long m, long n, const float *gamma, float eps, \
	  float *dgamma, float *dbeta), (dx, x, dy, m, n, gamma, eps, dgamma, dbeta)) \
	X(void, softmax_tile, (float *s, float *inverse, long rows, long width, long ld, long first, long block, float scale), \
	  (s, inverse, rows, width, ld, first, block, scale)) \
	X(void, softmax_tile_grad, (float *p, float *d, const float *inverse, long rows, long width, long ld, long first, \
	  long block, float scale), (p, d, inverse, rows, width, ld, first, block, scale)) \
	X(void, scale_rows, (float *y, long m, long n, long ld, const float *factor), (y, m, n, ld, factor)) \
	X(void, scatter_add, (float *dst, const float *src, long n, const int32_t *idx, long rows), (dst, src, n, idx, rows)) \
	X(void, add, (float *dst, const float *a, const float *b, long n), (dst, a, b, n)) \
	X(void, scale, (float *dst, const float *a, float factor, long n), (dst, a, factor, n)) \
	X(void, column_sum, (float *dst, const float *x, long m, long n), (dst, x, m, n)) \
	X(double, lp_sum, (const float *pred, const float *target, long n, double exponent), (pred, target, n, exponent)) \
	X(void, lp_grad, (float *dpred, const float *pred, const float *target, long n, float weight, double exponent), \
	  (dpred, pred, target, n, weight, exponent)) \
	X(void, row_abs_error, (float *dst, const float *pred, const float *target, long m, long n), \
	  (dst, pred, target, m, n)) \
	X(double, sum_squares, (const float *x, long n), (x, n)) \
	X(void, adamw_ema, (float *p, const float *g, float *m, float *v, float *ema, long n, adamw_t h), \
	  (p, g, m, v, ema, n, h))

typedef struct {
	const char *name;
#define X(result, name, params, args) result(*name) params;
	KERNELS(X)
#undef X
} kernel_table;

// One entry per kernel, through the table of the instruction set in use.
#define X(result, name, params, args) result surmise_##name params;
KERNELS(X)
#undef X

// Tables that exist in this build; avx2 and avx512 on amd64 only.
extern const kernel_table surmise_baseline, surmise_avx2, surmise_avx512;

// surmise_product is C[m,n] = op(A) op(B) + beta*C, row-major, on the calling thread alone.
void surmise_product(int trans_a, int trans_b, long m, long n, long k, const float *a, long lda, const float *b,
	long ldb, float beta, float *c, long ldc);

void surmise_attention(float *out, const float *qkv, const int32_t *offsets, long segments, long heads, long dim,
	long block, float *scratch);
void surmise_attention_grad(float *dqkv, const float *qkv, const float *dout, const int32_t *offsets, long segments,
	long heads, long dim, long block, float *scratch);

// surmise_select chooses level 0 (baseline), 1 (AVX2) or 2 (AVX-512); it returns 0 where the processor lacks it.
int surmise_select(int level);
const char *surmise_selected(void);
void surmise_product_version(int version[3]);
void surmise_flush_to_zero(void);

#endif
