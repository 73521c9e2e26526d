// Declarations of the native kernels. Shapes and meanings are documented once, at the Go functions of kernel.go.
#ifndef SURMISE_KERNELS_H
#define SURMISE_KERNELS_H

#include <stdint.h>

typedef struct {
	float scale, beta1, beta1c, beta2, beta2c, eps, decay, step, root, momentum, momentumc;
} adamw_t;

// What a product does with a finished sum v; HALF: c, and extra where there is one, are bfloat16.
enum {
	SET,        // c = v
	ADD,        // c += v
	BIAS,       // c = v + bias
	BIAS_ADD,   // c = v + bias + extra
	BIAS_GELU,  // extra = v + bias, c = GELU(extra)
	GELU_GRAD,  // c = v GELU'(extra), extra = GELU(extra)
	SCALE_ROWS, // c = v factor[row]
	SCORES,     // c = v factor[0], with row maxima; inside attention only
	HALF = 16,
	SET_HALF = SET | HALF,
	BIAS_HALF = BIAS | HALF,
	BIAS_GELU_HALF = BIAS_GELU | HALF,
	GELU_GRAD_HALF = GELU_GRAD | HALF,
	SCALE_ROWS_HALF = SCALE_ROWS | HALF,
};

// The result of a product and what it is combined with.
typedef struct {
	void *c; // [m, n], row stride ldc
	long ldc, n;
	const float *bias; // [n]
	void *extra;       // [m, n], row stride ld_extra
	long ld_extra;
	const float *factor; // [m]
	long panel;          // elements from a panel to the next; 0: as many as the product reads
} product_t;

// KERNELS lists every kernel that exists once per instruction set: X(result, name, parameters, arguments).
#define KERNELS(X) \
	X(void, gelu, (float *out, const float *x, long n), (out, x, n)) \
	X(void, gelu_grad, (float *dx, const float *x, const float *dy, long n), (dx, x, dy, n)) \
	X(void, swiglu, (void *y, const void *a, const void *b, int half, long n), (y, a, b, half, n)) \
	X(void, swiglu_grad, (void *dx, const void *a, const void *b, const void *dy, int half, int of, long n), \
	  (dx, a, b, dy, half, of, n)) \
	X(void, rotate, (void *y, const void *x, int half, const int32_t *token, const float *c, const float *s, long rows, \
	  long heads, long dim, long turned), (y, x, half, token, c, s, rows, heads, dim, turned)) \
	X(void, layer_norm, (void *y, int half, const float *x, long m, long n, const float *gamma, const float *beta, float eps), \
	  (y, half, x, m, n, gamma, beta, eps)) \
	X(void, layer_norm_grad, (float *dx, const float *base, const float *x, const void *dy, int half, long m, long n, \
	  const float *gamma, float eps, float *dgamma, float *dbeta), \
	  (dx, base, x, dy, half, m, n, gamma, eps, dgamma, dbeta)) \
	X(void, panels_by_rows, (void *panels, const void *src, long k, long n, long ld, int half), \
	  (panels, src, k, n, ld, half)) \
	X(void, panels_by_columns, (void *panels, const void *src, long k, long n, long ld, int half), \
	  (panels, src, k, n, ld, half)) \
	X(void, narrow_rows, (uint16_t *dst, const float *src, long n), (dst, src, n)) \
	X(void, product, (int pairs, int kind, long m, long k, const void *a, long lda, const void *panels, const product_t *o), \
	  (pairs, kind, m, k, a, lda, panels, o)) \
	X(void, product_sum, (int half, float *c, long m, long n, long k, const void *a, const void *b, uint32_t *scratch), \
	  (half, c, m, n, k, a, b, scratch)) \
	X(long, product_sum_scratch, (long m, long n), (m, n)) \
	X(long, attention_scratch, (int half, long keys, long dim, long block), (half, keys, dim, block)) \
	X(void, attention, (int half, void *out, const void *qkv, const int32_t *offsets, const int32_t *bounds, \
	  const int32_t *queries, long segments, long heads, long dim, long block, uint32_t *scratch), \
	  (half, out, qkv, offsets, bounds, queries, segments, heads, dim, block, scratch)) \
	X(void, attention_grad, (int half, void *dqkv, const void *qkv, const void *dout, const int32_t *offsets, long segments, \
	  long heads, long dim, long block, uint32_t *scratch), \
	  (half, dqkv, qkv, dout, offsets, segments, heads, dim, block, scratch)) \
	X(void, scatter_add, (float *dst, const float *src, long n, const int32_t *idx, long rows), (dst, src, n, idx, rows)) \
	X(void, add, (float *dst, const float *a, const float *b, long n), (dst, a, b, n)) \
	X(void, scale, (float *dst, const float *a, float factor, long n), (dst, a, factor, n)) \
	X(void, column_sum, (float *dst, const void *x, int half, long m, long n), (dst, x, half, m, n)) \
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
	long panel; // columns of a panel
#define X(result, name, params, args) result(*name) params;
	KERNELS(X)
#undef X
} kernel_table;

// One entry per kernel, through the table of the instruction set in use.
#define X(result, name, params, args) result surmise_##name params;
KERNELS(X)
#undef X

// Tables that exist in this build; all but the baseline on amd64 only.
extern const kernel_table surmise_baseline, surmise_avx2, surmise_avx512, surmise_avx512bf16, surmise_amx;

// surmise_library_product is C[m,n] = A[m,k] B[n,k]ᵀ, row-major, on the calling thread alone.
int surmise_library_product(long m, long n, long k, const float *a, const float *b, float *c);

// surmise_product_into is surmise_product for contiguous matrices: what Go calls, without a struct of pointers.
void surmise_product_into(int pairs, int kind, long m, long n, long k, const void *a, const void *panels, void *c,
	const float *bias, void *beside);

// surmise_select chooses level 0 (baseline), 1 (AVX2), 2 (AVX-512), 3 (AVX-512 BF16) or 4 (AMX BF16); it returns 0 where
// the processor or the system lacks it.
int surmise_select(int level);
const char *surmise_selected(void);
long surmise_panel(void); // columns of a panel
void surmise_library_version(int version[3]);
void surmise_flush_to_zero(void);

#endif
