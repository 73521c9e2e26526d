// The one source of the vector kernels, in GCC's vector extensions. Each kernels_*.c file includes it once, after
// naming an instruction set and defining
//
//	LANES       floats per vector
//	SPLAT(x)    vector of LANES copies of x
//	VMAX(a, b)  a > b ? a : b per lane, so that a NaN in b stays
//	VSQRT(a)    square root per lane
//	CHOOSE(mask, yes, no)  per lane; mask is the result of a comparison
//	NARROW(v)   to bfloat16, where there is an instruction for it
//	DOT_PAIRS(sum, x, b)  sum plus the products of pairs of bfloat16, likewise
//	AMX         where pairs are multiplied on tiles (amx_impl.h)
//	TABLE       name of the table it defines
//	TABLE_NAME  what Features prints
//
// All sums run in a fixed order: the same input gives the same bits on the same instruction set.

#ifdef __FAST_MATH__
#error "exponentials, rounding and what is no number need the order and the values of IEEE 754: leave -ffast-math out"
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float vec_mem __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const vec_mem *)p; }
INLINE void store(float *p, vec v) { *(vec_mem *)p = v; }

// load_part and store_part touch only the first n < LANES floats; the other lanes read as 0.
INLINE vec load_part(const float *p, long n) {
	float t[LANES] = {0};
	memcpy(t, p, n * sizeof(float));
	return load(t);
}
INLINE void store_part(float *p, vec v, long n) { memcpy(p, &v, n * sizeof(float)); }

INLINE float lane_sum(vec v) {
	float t[LANES];
	store(t, v);
	for (int width = LANES / 2; width; width /= 2)
		for (int i = 0; i < width; i++) t[i] += t[i + width];
	return t[0];
}
INLINE float lane_max(vec v) {
	float t[LANES];
	store(t, v);
	for (int width = LANES / 2; width; width /= 2)
		for (int i = 0; i < width; i++) t[i] = t[i] > t[i + width] ? t[i] : t[i + width];
	return t[0];
}
INLINE vec vabs(vec v) { return (vec)((ivec)v & 0x7fffffff); }

// EACH runs its body for every vector of n floats: i is the offset, `full` whether all lanes are there, `left` how
// many are. GET and PUT in the body are a whole load or store, or a partial one at the end. n must not name i.
#define GET(p) (full ? load((p) + i) : load_part((p) + i, left))
#define PUT(p, v) (full ? store((p) + i, (v)) : store_part((p) + i, (v), left))
#define EACH(n, body) \
	do { \
		long i = 0, left = LANES; \
		for (; i + LANES <= (n); i += LANES) { \
			const int full = 1; \
			body \
		} \
		left = (n) - i; \
		if (left > 0) { \
			const int full = 0; \
			body \
		} \
		(void)left; \
	} while (0)

#define LOG2E 1.44269504088896341f

// What follows is done stage by stage for several vectors at once: their chains of operations are long, and a processor
// looks only some sixty instructions ahead for something to do meanwhile. (GELU of 392x768 on Zen 3: 38 cycles a vector one
// by one.) ALL runs a stage for every vector.
enum { SEVERAL = 4 };
#define ALL(stage) \
	do { \
		_Pragma("GCC unroll 4") for (int j = 0; j < count; j++) { stage; } \
	} while (0)

// exp2_rough is exp2_neg with a relative error of 1e-4, a twentieth of what rounding to bfloat16 adds afterwards: Q is of
// degree 2, minimax by our own iteration.
INLINE void exp2_rough(const int count, vec *y) {
	const float magic = 12582912.0f; // see exp2_neg
	vec shifted[SEVERAL], f[SEVERAL], q[SEVERAL];
	ALL(y[j] = VMAX(SPLAT(-126.0f), y[j]));
	ALL(shifted[j] = y[j] + magic);
	ALL(f[j] = y[j] - (shifted[j] - magic));
	ALL(q[j] = f[j] * 5.50086062e-2f + 2.42211008e-1f);
	ALL(q[j] = q[j] * f[j] + 6.93282967e-1f);
	ALL(q[j] = q[j] * f[j] + 1.0f);
	ALL(y[j] = (vec)((ivec)q[j] + ((ivec)shifted[j] << 23)));
}

// exp2_neg is y = 2^y for y <= 0: within 2 ulp down to -126, 2^-126 below. NaN for NaN, if its lowest nine bits are 0, as in
// those that instructions make and in all of bfloat16: those bits become the exponent. It splits y into a whole number and f in [-1/2, 1/2]; 2^f = 1 + f Q(f), Q (degree 5) being our own Chebyshev interpolation, error 1e-8 before rounding.
INLINE void exp2_neg(const int count, vec *y) {
	const float magic = 12582912.0f; // 1.5 * 2^23: adding it rounds to a whole number, left in the low bits
	vec shifted[SEVERAL], f[SEVERAL], f2[SEVERAL], high[SEVERAL], middle[SEVERAL];
	ALL(y[j] = VMAX(SPLAT(-126.0f), y[j]));
	ALL(shifted[j] = y[j] + magic);
	ALL(f[j] = y[j] - (shifted[j] - magic));
	ALL(f2[j] = f[j] * f[j]; high[j] = f[j] * 1.54531634e-4f + 1.33908633e-3f);
	ALL(middle[j] = f[j] * 9.61808302e-3f + 5.55035695e-2f);
	ALL(high[j] = high[j] * f2[j] + middle[j]; middle[j] = f[j] * 2.40226507e-1f + 6.93147182e-1f);
	ALL(high[j] = (high[j] * f2[j] + middle[j]) * f[j] + 1.0f);
	ALL(y[j] = (vec)((ivec)high[j] + ((ivec)shifted[j] << 23)));
}

// normal_tail gives Phi(-a), the normal distribution's tail, for a >= 0, and e = exp(-a²/2). With t = 1/(1 + 0.295 a),
// Phi(-a) = t P(t) e, the form of Abramowitz and Stegun 7.1.26; P (degree 7) is our own Chebyshev interpolation of
// erfcx(a/√2)/(2t) on a <= 13, error 1e-8 before rounding. Being the tail itself, it keeps its relative accuracy where
// erf would cancel.
INLINE void normal_tail(const int count, const vec *a, vec *tail, vec *e) {
	vec t[SEVERAL], t2[SEVERAL], p[SEVERAL];
	ALL(t[j] = 1.0f / (a[j] * 0.295f + 1.0f); e[j] = a[j] * a[j] * (-0.5f * LOG2E));
	exp2_neg(count, e);
	ALL(t2[j] = t[j] * t[j]; p[j] = t[j] * (0.5f * 0.0740156067f) - 0.5f * 0.342968994f);
	ALL(p[j] = p[j] * t2[j] + (t[j] * (0.5f * 0.492144437f) - 0.5f * 0.176590432f));
	ALL(p[j] = p[j] * t2[j] + (t[j] * (0.5f * 0.292686409f) + 0.5f * 0.186440137f));
	ALL(p[j] = p[j] * t2[j] + (t[j] * (0.5f * 0.239101401f) + 0.5f * 0.235171455f));
	ALL(tail[j] = p[j] * (t[j] * e[j]));
}
// gelu_of is x = x Phi(x): max(x, 0) - |x| Phi(-|x|) on both sides of 0.
INLINE void gelu_of(const int count, vec *x) {
	vec a[SEVERAL], e[SEVERAL], tail[SEVERAL];
	ALL(a[j] = vabs(x[j]));
	normal_tail(count, a, tail, e);
	ALL(x[j] = VMAX(SPLAT(0.0f), x[j]) - a[j] * tail[j]);
}
// gelu_slope is x = Phi(x) + x phi(x), and value GELU(x) where there is one: both come of the same tail.
INLINE void gelu_slope(const int count, vec *x, vec *value) {
	vec a[SEVERAL], e[SEVERAL], tail[SEVERAL];
	ALL(a[j] = vabs(x[j]));
	normal_tail(count, a, tail, e);
	if (value) ALL(value[j] = VMAX(SPLAT(0.0f), x[j]) - a[j] * tail[j]);
	ALL(x[j] = CHOOSE(x[j] > 0.0f, 1.0f - tail[j], tail[j]) + x[j] * e[j] * 0.3989422804014327f); // 1/√(2π)
}

#include "product_impl.h"

static void gelu(float *out, const float *x, long n) {
	long i = 0;
	for (; i + SEVERAL * LANES <= n; i += SEVERAL * LANES) {
		vec v[SEVERAL];
		const int count = SEVERAL;
		ALL(v[j] = load(x + i + j * LANES));
		gelu_of(count, v);
		ALL(store(out + i + j * LANES, v[j]));
	}
	const long rest = n - i;
	out += i;
	x += i;
	EACH(rest, vec v = GET(x); gelu_of(1, &v); PUT(out, v););
}

static void gelu_grad(float *dx, const float *x, const float *dy, long n) {
	long i = 0;
	for (; i + SEVERAL * LANES <= n; i += SEVERAL * LANES) {
		vec v[SEVERAL];
		const int count = SEVERAL;
		ALL(v[j] = load(x + i + j * LANES));
		gelu_slope(count, v, 0);
		ALL(store(dx + i + j * LANES, load(dy + i + j * LANES) * v[j]));
	}
	const long rest = n - i;
	dx += i;
	x += i;
	dy += i;
	EACH(rest, vec v = GET(x); gelu_slope(1, &v, 0); PUT(dx, GET(dy) * v););
}

// logistic_of gives σ(x) = 1/(1 + e^-x) and σ(-x), each from e^-|x|, so that neither cancels.
INLINE void logistic_of(vec x, vec *sigma, vec *rest) {
	vec e = vabs(x) * -LOG2E;
	exp2_neg(1, &e);
	vec large = 1.0f / (e + 1.0f), small = e * large;
	*sigma = CHOOSE(x > 0.0f, large, small);
	*rest = CHOOSE(x > 0.0f, small, large);
}

INLINE void swiglu_rows(void *y, const void *a, const void *b, const int half, long n) {
	EACH(n, vec x = load_any(half, a, i, left); vec sigma; vec rest; logistic_of(x, &sigma, &rest);
		store_any(half, y, i, x * sigma * load_any(half, b, i, left), left););
}
static void swiglu(void *y, const void *a, const void *b, int half, long n) {
	if (half)
		swiglu_rows(y, a, b, 1, n);
	else
		swiglu_rows(y, a, b, 0, n);
}

INLINE void swiglu_grad_rows(void *dx, const void *a, const void *b, const void *dy, const int half, int of, long n) {
	EACH(n, vec x = load_any(half, a, i, left); vec sigma; vec rest; logistic_of(x, &sigma, &rest);
		vec g = load_any(half, dy, i, left) * sigma;
		if (of == 0) g *= load_any(half, b, i, left) * (x * rest + 1.0f);
		else g *= x;
		store_any(half, dx, i, g, left););
}
static void swiglu_grad(void *dx, const void *a, const void *b, const void *dy, int half, int of, long n) {
	if (half)
		swiglu_grad_rows(dx, a, b, dy, 1, of, n);
	else
		swiglu_grad_rows(dx, a, b, dy, 0, of, n);
}

// neighbours exchanges the lanes of every pair (2m, 2m+1).
INLINE vec neighbours(vec v) {
	ivec order;
	for (int i = 0; i < LANES; i++) order[i] = i ^ 1;
	return __builtin_shuffle(v, order);
}
// rotate_rows: turned is even, and so is LANES, so a pair never lies in two vectors.
INLINE void rotate_rows(void *y, const void *x, const int half, const int32_t *token, const float *c, const float *s,
	long rows, long heads, long dim, long turned) {
	const long tail = dim - turned, width = heads * dim, size = half ? 2 : 4;
	for (long r = 0; r < rows; r++) {
		const float *cr = c + token[r] * turned, *sr = s + token[r] * turned;
		for (long h = 0; h < 2 * heads; h++) { // of queries, then of keys
			const long at = r * 3 * width + h * dim, rest = at + turned;
			EACH(turned, vec v = load_any(half, x, at + i, left);
				store_any(half, y, at + i, v * GET(cr) + neighbours(v) * GET(sr), left););
			if (y != x) memcpy((char *)y + rest * size, (const char *)x + rest * size, tail * size);
		}
		const long values = r * 3 * width + 2 * width;
		if (y != x) memcpy((char *)y + values * size, (const char *)x + values * size, width * size);
	}
}
static void rotate(void *y, const void *x, int half, const int32_t *token, const float *c, const float *s, long rows,
	long heads, long dim, long turned) {
	if (half)
		rotate_rows(y, x, 1, token, c, s, rows, heads, dim, turned);
	else
		rotate_rows(y, x, 0, token, c, s, rows, heads, dim, turned);
}

// sum_of adds n floats in four interleaved vector sums.
INLINE float sum_of(const float *x, long n) {
	vec s0 = SPLAT(0.0f), s1 = s0, s2 = s0, s3 = s0;
	long i = 0;
	for (; i + 4 * LANES <= n; i += 4 * LANES) {
		s0 += load(x + i);
		s1 += load(x + i + LANES);
		s2 += load(x + i + 2 * LANES);
		s3 += load(x + i + 3 * LANES);
	}
	for (; i + LANES <= n; i += LANES) s0 += load(x + i);
	if (i < n) s1 += load_part(x + i, n - i);
	return lane_sum((s0 + s1) + (s2 + s3));
}

// row_statistics gives mean and 1/√(variance + eps) of one row, in two passes, so that a large mean costs no more digits
// than its own sum does. Where the squares overflow 1/√ is NaN: it would be 0, and a network that diverged would train
// on with gradients of 0.
INLINE void row_statistics(const float *x, long n, float eps, float *mean, float *rstd) {
	float mu = sum_of(x, n) / (float)n;
	vec s0 = SPLAT(0.0f), s1 = s0;
	long i = 0;
	for (; i + 2 * LANES <= n; i += 2 * LANES) {
		vec a = load(x + i) - mu, b = load(x + i + LANES) - mu;
		s0 += a * a;
		s1 += b * b;
	}
	float rest = 0;
	for (; i < n; i++) rest += (x[i] - mu) * (x[i] - mu);
	*mean = mu;
	const float variance = (lane_sum(s0 + s1) + rest) / (float)n;
	*rstd = variance < INFINITY ? 1.0f / sqrtf(variance + eps) : NAN;
}

static void layer_norm(void *y, int half, const float *x, long m, long n, const float *gamma, const float *beta, float eps) {
	for (long r = 0; r < m; r++, x += n) {
		float mean, rstd;
		row_statistics(x, n, eps, &mean, &rstd);
		if (half && gamma && beta)
			EACH(n, store_any(1, y, r * n + i, (GET(x) - mean) * rstd * GET(gamma) + GET(beta), left););
		else if (gamma && beta)
			EACH(n, store_any(0, y, r * n + i, (GET(x) - mean) * rstd * GET(gamma) + GET(beta), left););
		else
			EACH(n, vec v = (GET(x) - mean) * rstd; if (gamma) v *= GET(gamma); if (beta) v += GET(beta);
				store_any(half, y, r * n + i, v, left););
	}
}

// norm_grad: with x̂ = (x - mean) rstd and g = dy gamma, dx = base + rstd (g - mean(g) - x̂ mean(g x̂)).
INLINE void norm_grad(float *dx, const float *base, const float *x, const void *dy, const int half, long m, long n,
	const float *gamma, float eps, float *dgamma, float *dbeta) {
	for (long r = 0; r < m; r++, x += n) {
		float mean, rstd;
		row_statistics(x, n, eps, &mean, &rstd);
		vec sum = SPLAT(0.0f), dot = sum;
		EACH(n,
			vec xhat = (GET(x) - mean) * rstd; vec d = load_any(half, dy, r * n + i, left);
			if (dgamma) PUT(dgamma, GET(dgamma) + d * xhat);
			if (dbeta) PUT(dbeta, GET(dbeta) + d);
			vec g = d; if (gamma) g *= GET(gamma);
			sum += g; dot += g * xhat;);
		if (!dx) continue;
		float mean_g = lane_sum(sum) / (float)n, mean_gx = lane_sum(dot) / (float)n;
		EACH(n,
			vec xhat = (GET(x) - mean) * rstd;
			vec g = load_any(half, dy, r * n + i, left); if (gamma) g *= GET(gamma);
			vec v = (g - mean_g - xhat * mean_gx) * rstd; if (base) v += GET(base);
			PUT(dx, v););
		dx += n;
		if (base) base += n;
	}
}

static void layer_norm_grad(float *dx, const float *base, const float *x, const void *dy, int half, long m, long n,
	const float *gamma, float eps, float *dgamma, float *dbeta) {
	if (half)
		norm_grad(dx, base, x, dy, 1, m, n, gamma, eps, dgamma, dbeta);
	else
		norm_grad(dx, base, x, dy, 0, m, n, gamma, eps, dgamma, dbeta);
}

// visible is the number of leading keys that query row i of a segment sees; width keys are in the tile.
INLINE long visible(long i, long block, long width) {
	if (block <= 0) return width;
	long seen = (i / block + 1) * block;
	return seen < width ? seen : width;
}

#include "attention_impl.h"

static void scatter_add(float *dst, const float *src, long n, const int32_t *idx, long rows) {
	for (long r = 0; r < rows; r++, src += n) {
		float *row = dst + idx[r] * n;
		EACH(n, PUT(row, GET(row) + GET(src)););
	}
}

static void add(float *dst, const float *a, const float *b, long n) { EACH(n, PUT(dst, GET(a) + GET(b));); }

static void scale(float *dst, const float *a, float factor, long n) { EACH(n, PUT(dst, GET(a) * factor);); }

// column_sum adds eight rows as a tree before they meet the running sum, for accuracy and fewer passes over dst.
INLINE void sum_columns(float *dst, const void *x, const int half, long m, long n) {
#define ROW(k) load_any(half, x, (r + (k)) * n + i, left)
	long r = 0;
	for (; r + 8 <= m; r += 8)
		EACH(n, vec a = (ROW(0) + ROW(1)) + (ROW(2) + ROW(3)); vec b = (ROW(4) + ROW(5)) + (ROW(6) + ROW(7));
			PUT(dst, GET(dst) + (a + b)););
	for (; r < m; r++) EACH(n, PUT(dst, GET(dst) + ROW(0)););
#undef ROW
}
static void column_sum(float *dst, const void *x, int half, long m, long n) {
	if (half)
		sum_columns(dst, x, 1, m, n);
	else
		sum_columns(dst, x, 0, m, n);
}

// Long sums add blocks of this many floats in single precision and the blocks in double.
enum { SUM_BLOCK = 1024 };

#define BLOCK_SUM(total, n, value) \
	for (long first = 0; first < (n); first += SUM_BLOCK) { \
		long count = (n)-first < SUM_BLOCK ? (n)-first : SUM_BLOCK; \
		vec sum0 = SPLAT(0.0f), sum1 = sum0, sum2; \
		EACH(count, sum2 = sum1; sum1 = sum0 + (value); sum0 = sum2;); \
		(total) += (double)lane_sum(sum0) + (double)lane_sum(sum1); \
	}

static double lp_sum(const float *pred, const float *target, long n, double exponent) {
	double total = 0;
	if (exponent == 1) {
		BLOCK_SUM(total, n, vabs(GET(pred + first) - GET(target + first)))
	} else if (exponent == 2) {
		BLOCK_SUM(total, n, (GET(pred + first) - GET(target + first)) * (GET(pred + first) - GET(target + first)))
	} else {
		for (long i = 0; i < n; i++) total += pow(fabs((double)pred[i] - (double)target[i]), exponent);
	}
	return total / exponent;
}

static void lp_grad(float *dpred, const float *pred, const float *target, long n, float weight, double exponent) {
	if (exponent == 1) {
		// The sign of 0 is 0; a NaN difference fails both comparisons and is added back so that it stays a NaN.
		EACH(n, vec d = GET(pred) - GET(target);
			vec sign = (vec)((d > 0.0f) & (ivec)SPLAT(1.0f)) - (vec)((d < 0.0f) & (ivec)SPLAT(1.0f));
			PUT(dpred, CHOOSE(d == d, sign * weight, d)););
	} else if (exponent == 2) {
		EACH(n, PUT(dpred, (GET(pred) - GET(target)) * weight););
	} else {
		for (long i = 0; i < n; i++) {
			double d = (double)pred[i] - (double)target[i];
			dpred[i] = d == 0 ? 0 : (float)((double)weight * copysign(pow(fabs(d), exponent - 1), d));
		}
	}
}

static void row_abs_error(float *dst, const float *pred, const float *target, long m, long n) {
	for (long r = 0; r < m; r++, pred += n, target += n) {
		vec sum = SPLAT(0.0f);
		EACH(n, sum += vabs(GET(pred) - GET(target)););
		dst[r] = lane_sum(sum) / (float)n;
	}
}

static double sum_squares(const float *x, long n) {
	double total = 0;
	BLOCK_SUM(total, n, GET(x + first) * GET(x + first))
	return total;
}

static void adamw_ema(float *p, const float *g, float *m, float *v, float *ema, long n, adamw_t h) {
	EACH(n, vec gi = GET(g) * h.scale;
		vec mi = GET(m) * h.beta1 + gi * h.beta1c;
		vec vi = GET(v) * h.beta2 + gi * gi * h.beta2c;
		vec pi = GET(p) * h.decay - mi * h.step / (VSQRT(vi) * h.root + h.eps);
		PUT(m, mi); PUT(v, vi); PUT(p, pi);
		if (ema) PUT(ema, GET(ema) * h.momentum + pi * h.momentumc););
}

const kernel_table TABLE = {
	.name = TABLE_NAME,
	.panel = NR,
#define X(result, name, params, args) .name = name,
	KERNELS(X)
#undef X
};
