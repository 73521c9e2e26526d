// Matrix products of the step, included by kernels_impl.h once per instruction set.
//
// A product C[m,n] = A[m,k] B[k,n] reads B from panels: NR columns of it, laid out k-major and filled up with zeros, so
// that the inner loop reads memory in order. A stays where it is. Panels of weights are made once a step and shared by
// all clips; a tile of C is finished in registers, and what follows it in the graph (bias, GELU, residual) is done
// there, so that no pass over C is left.
//
// An operand is float32, or bfloat16 in pairs: two neighbours along k are one 32-bit element, of which there are
// k' = (k+1)/2. Sums are float32 in either.

enum { NR = 2 * LANES }; // columns of a panel
#if LANES == 16
enum { MR = 12 }; // rows of a tile: 24 of 32 registers hold sums
#else
enum { MR = 6 }; // 12 of 16
#endif

typedef uint32_t uvec __attribute__((vector_size(4 * LANES), may_alias));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), may_alias));
typedef uint16_t half_mem __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE uint16_t half_of(float x) {
	uint32_t u;
	memcpy(&u, &x, 4);
	if (x != x) return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
INLINE float float_of(uint16_t h) {
	uint32_t u = (uint32_t)h << 16;
	float x;
	memcpy(&x, &u, 4);
	return x;
}
INLINE vec wide(half_vec h) { return (vec)(__builtin_convertvector(h, uvec) << 16); }
// narrow rounds to nearest, ties to even; a NaN stays one.
INLINE half_vec narrow(vec v) {
#ifdef NARROW
	return NARROW(v);
#else
	uvec u = (uvec)v, rounded = u + 0x7fff + (u >> 16 & 1);
	return __builtin_convertvector((uvec)CHOOSE(v == v, (vec)rounded, (vec)(u | 0x400000)) >> 16, half_vec);
#endif
}
INLINE vec load_half(const uint16_t *p) { return wide(*(const half_mem *)p); }
INLINE void store_half(uint16_t *p, vec v) { *(half_mem *)p = narrow(v); }
INLINE vec load_half_part(const uint16_t *p, long n) {
	uint16_t t[LANES] = {0};
	memcpy(t, p, n * sizeof *p);
	return load_half(t);
}
INLINE void store_half_part(uint16_t *p, vec v, long n) {
	uint16_t t[LANES];
	store_half(t, v);
	memcpy(p, t, n * sizeof *p);
}

// load_any and store_any touch n <= LANES elements of a row that is float32 or, with half set, bfloat16.
INLINE vec load_any(const int half, const void *p, long at, long n) {
	if (half) return n >= LANES ? load_half((const uint16_t *)p + at) : load_half_part((const uint16_t *)p + at, n);
	return n >= LANES ? load((const float *)p + at) : load_part((const float *)p + at, n);
}
INLINE void store_any(const int half, void *p, long at, vec v, long n) {
	if (half)
		n >= LANES ? store_half((uint16_t *)p + at, v) : store_half_part((uint16_t *)p + at, v, n);
	else
		n >= LANES ? store((float *)p + at, v) : store_part((float *)p + at, v, n);
}

// finish does with one vector of C what the product's kind says; it covers row and n columns from col on.
INLINE void finish(const int kind, vec v, const product_t *o, long row, long col, long n) {
	const int half = (kind & HALF) != 0;
	const long at = row * o->ldc + col, beside = row * o->ld_extra + col;
	switch (kind & ~HALF) {
	case SET: break;
	case ADD: v += load_any(0, o->c, at, n); break;
	case BIAS: v += load_any(0, o->bias, col, n); break;
	case BIAS_ADD: v += load_any(0, o->bias, col, n) + load_any(0, o->extra, beside, n); break;
	case BIAS_GELU:
		v += load_any(0, o->bias, col, n);
		store_any(half, o->extra, beside, v, n);
		gelu_of(1, &v);
		break;
	case GELU_GRAD: {
		vec slope = load_any(half, o->extra, beside, n), value;
		gelu_slope(1, &slope, &value);
		store_any(half, o->extra, beside, value, n);
		v *= slope;
		break;
	}
	case SCALE_ROWS: v *= o->factor[row]; break;
	case SCORES: { // whole vectors, -inf behind the last column; the row's maximum, lane by lane, is in extra
		float *max = (float *)o->extra + row * LANES;
		v *= o->factor[0];
		if (n < LANES) {
			float t[LANES];
			store(t, v);
			for (long i = n; i < LANES; i++) t[i] = -INFINITY;
			v = load(t);
		}
		store(max, VMAX(load(max), v));
		store((float *)o->c + at, v);
		return;
	}
	}
	store_any(half, o->c, at, v, n);
}

// touch fetches what finish will write or read of a row.
INLINE void touch(const int kind, const product_t *o, long row, long col) {
	const long size = kind & HALF ? 2 : 4;
	const char *c = (const char *)o->c + (row * o->ldc + col) * size;
	__builtin_prefetch(c, 1);
	if (NR * size > 64) __builtin_prefetch(c + 64, 1);
	const int with = kind & ~HALF;
	if (with != BIAS_ADD && with != BIAS_GELU && with != GELU_GRAD) return;
	const char *beside = (const char *)o->extra + (row * o->ld_extra + col) * size;
	__builtin_prefetch(beside, with != BIAS_ADD);
	if (NR * size > 64) __builtin_prefetch(beside + 64, with != BIAS_ADD);
}

// finish_edge is finish for rows of a panel that C ends in.
__attribute__((noinline)) static void finish_edge(int kind, const float *sums, int mr, const product_t *o, long row, long col) {
	const long left = o->n - col;
	for (int i = 0; i < mr; i++, sums += NR) {
		finish(kind, load(sums), o, row + i, col, left < LANES ? left : LANES);
		if (left > LANES) finish(kind, load(sums + LANES), o, row + i, col + LANES, left - LANES);
	}
}

// finish_rows is finish for rows of a whole panel; GELU and its gradient take SEVERAL vectors at once.
INLINE void finish_rows(const int kind, const float *sums, long rows, const product_t *of, long row, long col) {
	const product_t to = *of, *o = &to; // in registers, see tile
	const int half = (kind & HALF) != 0, with = kind & ~HALF;
	long i = 0;
	if (with == BIAS_GELU || with == GELU_GRAD) {
		const vec bias0 = with == BIAS_GELU ? load(o->bias + col) : SPLAT(0.0f);
		const vec bias1 = with == BIAS_GELU ? load(o->bias + col + LANES) : SPLAT(0.0f);
#pragma GCC unroll 1
		for (; i + 2 <= rows; i += 2) {
			enum { count = SEVERAL }; // two rows of two vectors
			vec v[SEVERAL];
#define AT(ld) ((row + i + j / 2) * (ld) + col + j % 2 * LANES)
			if (with == BIAS_GELU) {
				ALL(v[j] = load(sums + (i + j / 2) * NR + j % 2 * LANES) + (j % 2 ? bias1 : bias0));
				ALL(store_any(half, o->extra, AT(o->ld_extra), v[j], LANES));
				gelu_of(count, v);
				ALL(store_any(half, o->c, AT(o->ldc), v[j], LANES));
			} else {
				vec value[SEVERAL];
				ALL(v[j] = load_any(half, o->extra, AT(o->ld_extra), LANES));
				gelu_slope(count, v, value);
				ALL(store_any(half, o->extra, AT(o->ld_extra), value[j], LANES));
				ALL(store_any(half, o->c, AT(o->ldc), load(sums + (i + j / 2) * NR + j % 2 * LANES) * v[j], LANES));
			}
#undef AT
		}
	}
#pragma GCC unroll 1
	for (; i < rows; i++) {
		finish(kind, load(sums + i * NR), o, row + i, col, LANES);
		finish(kind, load(sums + i * NR + LANES), o, row + i, col + LANES, LANES);
	}
}

// multiply adds x·b to *sum: products of float32, or of bfloat16 pairs.
INLINE void multiply(const int pairs, vec *sum, uint32_t x, uvec b) {
	if (!pairs) {
		float f;
		memcpy(&f, &x, 4);
		*sum += SPLAT(f) * (vec)b;
		return;
	}
#ifdef DOT_PAIRS
	*sum = DOT_PAIRS(*sum, x, b);
#else
	const float low = float_of((uint16_t)x), high = float_of((uint16_t)(x >> 16));
	*sum += SPLAT(low) * (vec)(b << 16);
	*sum += SPLAT(high) * (vec)(b & 0xffff0000u);
#endif
}

// tile is rows [mr, vectors·LANES] of C, of a panel's first vector or of both: element i of step p of A is a[i*rs + p*cs].
INLINE void tile(const int pairs, const int kind, const int mr, const int vectors, long k, const uint32_t *a, long rs, long cs,
	const uint32_t *panel, const product_t *o, long row, long col) {
	// The result's lines arrive while the sums are computed: outside the caches, where activations of a clip lie, a store
	// would wait for each.
	for (int i = 0; i < mr; i++) touch(kind, o, row + i, col);
	vec sum[2 * MR][2];
#pragma GCC unroll 24
	for (int i = 0; i < mr; i++) sum[i][0] = sum[i][1] = SPLAT(0.0f);
	for (long p = 0; p < k; p++, a += cs, panel += NR) {
		const uvec b0 = (uvec)load((const float *)panel), b1 = vectors == 2 ? (uvec)load((const float *)(panel + LANES)) : b0;
#pragma GCC unroll 24
		for (int i = 0; i < mr; i++) {
			multiply(pairs, &sum[i][0], a[i * rs], b0);
			if (vectors == 2) multiply(pairs, &sum[i][1], a[i * rs], b1);
		}
	}
	const int plain = kind != BIAS_GELU && kind != GELU_GRAD && kind != BIAS_GELU_HALF && kind != GELU_GRAD_HALF;
	const int edge = o->n - col < vectors * LANES;
	if (plain && !edge) {
		const product_t to = *o; // stays in registers: what is stored may lie anywhere, but not here
#pragma GCC unroll 24
		for (int i = 0; i < mr; i++) {
			if (kind == SCORES && vectors == 2) { // finish for both, with one look at the maximum
				float *max = (float *)to.extra + (row + i) * LANES, *c = (float *)to.c + (row + i) * to.ldc + col;
				const vec v0 = sum[i][0] * to.factor[0], v1 = sum[i][1] * to.factor[0];
				store(max, VMAX(load(max), VMAX(v0, v1)));
				store(c, v0);
				store(c + LANES, v1);
				continue;
			}
			finish(kind, sum[i][0], &to, row + i, col, LANES);
			if (vectors == 2) finish(kind, sum[i][1], &to, row + i, col + LANES, LANES);
		}
		return;
	}
	// What is long, or at the edge, is not written out for every row.
	float sums[2 * MR * NR];
#pragma GCC unroll 24
	for (int i = 0; i < mr; i++) {
		store(sums + i * NR, sum[i][0]);
		if (vectors == 2) store(sums + i * NR + LANES, sum[i][1]);
	}
	if (edge || vectors == 1) {
		finish_edge(kind, sums, mr, o, row, col);
		return;
	}
	finish_rows(kind, sums, mr, o, row, col);
}

// A block of rows of A is taken through all panels before the next, so that it stays in the first half of the
// second-level cache while panels stream past it.
enum { BLOCK_ELEMENTS = 1 << 15 };

// rows_by_panels is C for all rows; k counts elements.
INLINE void rows_by_panels(const int pairs, const int kind, long m, long k, const uint32_t *a, long rs, long cs,
	const uint32_t *panels, const product_t *o) {
	long block = BLOCK_ELEMENTS / (k > 0 ? k : 1) / MR * MR;
	if (block < MR) block = MR;
	for (long first = 0; first < m; first += block) {
		const long last = first + block < m ? first + block : m;
		const uint32_t *panel = panels;
		for (long col = 0; col < o->n; col += NR, panel += o->panel ? o->panel : NR * k) {
			long i = first;
#define ROWS(mr, vectors) \
	for (; i + (mr) <= last; i += (mr)) tile(pairs, kind, mr, vectors, k, a + i * rs, rs, cs, panel, o, i, col)
			if (o->n - col <= LANES) { // half of the panel is zeros: as many sums, of twice the rows
				ROWS(2 * MR, 1);
				ROWS(MR, 1);
				ROWS(4, 1);
				ROWS(1, 1);
				continue;
			}
			ROWS(MR, 2);
#if LANES == 16
			ROWS(8, 2);
#endif
			ROWS(4, 2);
			ROWS(2, 2);
			ROWS(1, 2);
#undef ROWS
		}
	}
}

#ifdef AMX
#include "amx_impl.h"
#endif

// One function per kind: the compiler sees kind as a constant.
#define BY_KIND(pairs, kind) \
	__attribute__((noinline)) static void product_##pairs##_##kind(long m, long k, const uint32_t *a, long rs, long cs, \
		const uint32_t *panels, const product_t *o) { \
		PRODUCT_##pairs(kind, m, k, a, rs, cs, panels, o); \
	}
#define PRODUCT_0(kind, m, k, a, rs, cs, panels, o) rows_by_panels(0, kind, m, k, a, rs, cs, panels, o)
#ifdef AMX
#define PRODUCT_1 rows_on_tiles
#else
#define PRODUCT_1(kind, m, k, a, rs, cs, panels, o) rows_by_panels(1, kind, m, k, a, rs, cs, panels, o)
#endif
#define KINDS(X, pairs) \
	X(pairs, SET) X(pairs, ADD) X(pairs, BIAS) X(pairs, BIAS_ADD) X(pairs, BIAS_GELU) X(pairs, GELU_GRAD) \
	X(pairs, SCALE_ROWS) X(pairs, SCORES)
#define HALF_KINDS(X) \
	X(1, SET_HALF) X(1, BIAS_HALF) X(1, BIAS_GELU_HALF) X(1, GELU_GRAD_HALF) X(1, SCALE_ROWS_HALF)
KINDS(BY_KIND, 0)
KINDS(BY_KIND, 1)
HALF_KINDS(BY_KIND)
#undef BY_KIND

static void product_elements(const int pairs, int kind, long m, long k, const uint32_t *a, long rs, long cs,
	const uint32_t *panels, const product_t *o) {
	switch (kind + (pairs ? 100 : 0)) {
#define CASE(pairs, kind) \
	case kind + 100 * pairs: product_##pairs##_##kind(m, k, a, rs, cs, panels, o); return;
		KINDS(CASE, 0)
		KINDS(CASE, 1)
		HALF_KINDS(CASE)
#undef CASE
	default: __builtin_trap(); // a kind that nothing does would leave C as it was
	}
}

// transpose_rows writes element p of rows 0..count-1 of src, row stride rs, to dst[p*NR + row] for p < k: a panel from a
// matrix that is stored by columns. Columns beyond count are zero.
INLINE void transpose_rows(uint32_t *dst, const uint32_t *src, long rs, long count, long k) {
	typedef uint32_t four __attribute__((vector_size(16), may_alias));
	typedef uint32_t four_mem __attribute__((vector_size(16), aligned(4), may_alias));
	for (long row = 0; row < NR; row += 4) {
		const uint32_t *s = src + row * rs;
		uint32_t *d = dst + row;
		if (row + 4 > count) {
			for (long p = 0; p < k; p++)
				for (long i = 0; i < 4; i++) d[p * NR + i] = row + i < count ? s[i * rs + p] : 0;
			continue;
		}
		long p = 0;
		for (; p + 4 <= k; p += 4, d += 4 * NR) {
			const four a = *(const four_mem *)(s + p), b = *(const four_mem *)(s + rs + p);
			const four c = *(const four_mem *)(s + 2 * rs + p), e = *(const four_mem *)(s + 3 * rs + p);
			const four ab = __builtin_shuffle(a, b, (four){0, 4, 1, 5}), AB = __builtin_shuffle(a, b, (four){2, 6, 3, 7});
			const four ce = __builtin_shuffle(c, e, (four){0, 4, 1, 5}), CE = __builtin_shuffle(c, e, (four){2, 6, 3, 7});
			*(four_mem *)d = __builtin_shuffle(ab, ce, (four){0, 1, 4, 5});
			*(four_mem *)(d + NR) = __builtin_shuffle(ab, ce, (four){2, 3, 6, 7});
			*(four_mem *)(d + 2 * NR) = __builtin_shuffle(AB, CE, (four){0, 1, 4, 5});
			*(four_mem *)(d + 3 * NR) = __builtin_shuffle(AB, CE, (four){2, 3, 6, 7});
		}
		for (; p < k; p++, d += NR)
			for (long i = 0; i < 4; i++) d[i] = s[i * rs + p];
	}
}

// pair_rows interleaves two rows of n bfloat16 into n pairs; high nil stands for zeros.
INLINE void pair_rows(uint32_t *dst, const uint16_t *low, const uint16_t *high, long n) {
	long i = 0;
	for (; i + LANES <= n; i += LANES) {
		uvec u = __builtin_convertvector(*(const half_mem *)(low + i), uvec);
		if (high) u |= __builtin_convertvector(*(const half_mem *)(high + i), uvec) << 16;
		store((float *)(dst + i), (vec)u);
	}
	for (; i < n; i++) dst[i] = low[i] | (high ? (uint32_t)high[i] << 16 : 0);
}

// narrow_row rounds n float32 to bfloat16.
INLINE void narrow_row(uint16_t *dst, const float *src, long n) {
	long i = 0;
	for (; i + LANES <= n; i += LANES) store_half(dst + i, load(src + i));
	for (; i < n; i++) dst[i] = half_of(src[i]);
}

static void narrow_rows(uint16_t *dst, const float *src, long n) { narrow_row(dst, src, n); }

// panels_by_rows packs B stored by rows, B[p,j] = src[p*ld + j]: float32, or bfloat16 into pairs of rows.
static void panels_by_rows(void *panels, const void *src, long k, long n, long ld, int half) {
	uint32_t *dst = panels;
	for (long col = 0; col < n; col += NR) {
		const long count = n - col < NR ? n - col : NR;
		if (half) {
			const uint16_t *s = (const uint16_t *)src + col;
			for (long p = 0; p < k; p += 2, dst += NR) {
				pair_rows(dst, s + p * ld, p + 1 < k ? s + (p + 1) * ld : 0, count);
				for (long j = count; j < NR; j++) dst[j] = 0;
			}
			continue;
		}
		const uint32_t *s = (const uint32_t *)src + col;
		if (count == NR) {
			for (long p = 0; p < k; p++, s += ld, dst += NR) {
				store((float *)dst, load((const float *)s));
				store((float *)(dst + LANES), load((const float *)(s + LANES)));
			}
			continue;
		}
		for (long p = 0; p < k; p++, s += ld, dst += NR)
			for (long j = 0; j < NR; j++) dst[j] = j < count ? s[j] : 0;
	}
}

// panels_by_columns packs B stored by columns, B[p,j] = src[j*ld + p]: float32, or bfloat16 whose pairs along k are
// whole elements, so k is even.
static void panels_by_columns(void *panels, const void *src, long k, long n, long ld, int half) {
	if (half) k /= 2, ld /= 2;
	uint32_t *dst = panels;
	const uint32_t *s = src;
	for (long col = 0; col < n; col += NR, dst += NR * k, s += NR * ld)
		transpose_rows(dst, s, ld, n - col < NR ? n - col : NR, k);
}

static void product(int pairs, int kind, long m, long k, const void *a, long lda, const void *panels, const product_t *o) {
	if (pairs) k /= 2, lda /= 2;
	product_elements(pairs, kind, m, k, a, lda, 1, panels, o);
}

// product_sum adds to C[m,n] the product of A [k,m] transposed and B [k,n], both stored by rows: gradients of weights
// from k rows of tokens, STRIP_ROWS at a time. scratch holds B's panels, pairs of A's rows where they are bfloat16, and
// strips of A that a panel is multiplied with one after the other, so that it is read from the nearest cache.
enum { STRIP_ROWS = 256 };

static long product_sum_scratch(long m, long n) {
	return STRIP_ROWS * ((n + NR - 1) / NR * NR + (m + MR - 1) / MR * MR) + STRIP_ROWS / 2 * m;
}

static void product_sum(int half, float *c, long m, long n, long k, const void *a, const void *b, uint32_t *scratch) {
	uint32_t *panels = scratch, *strips = panels + (n + NR - 1) / NR * NR * STRIP_ROWS;
	uint32_t *pairs = strips + (m + MR - 1) / MR * MR * STRIP_ROWS;
	for (long first = 0; first < k; first += STRIP_ROWS) {
		const long rows = k - first < STRIP_ROWS ? k - first : STRIP_ROWS, elements = half ? (rows + 1) / 2 : rows;
		const uint32_t *s = (const uint32_t *)a + first * m; // [elements, m]
		if (half) {
			const uint16_t *h = (const uint16_t *)a + first * m;
			for (long p = 0; p < elements; p++)
				pair_rows(pairs + p * m, h + 2 * p * m, 2 * p + 1 < rows ? h + (2 * p + 1) * m : 0, m);
			s = pairs;
			panels_by_rows(panels, (const uint16_t *)b + first * n, rows, n, n, 1);
		} else {
			panels_by_rows(panels, (const float *)b + first * n, rows, n, n, 0);
		}
#ifdef AMX
		if (half) {
			const product_t o = {.c = c, .ldc = n, .n = n};
			product_elements(1, ADD, m, elements, s, 1, m, panels, &o);
			continue;
		}
#endif
		for (long i = 0; i < m; i += MR) { // strips are [elements, MR]
			uint32_t *strip = strips + i * elements;
			const long count = m - i < MR ? m - i : MR;
			if (count == MR)
				for (long p = 0; p < elements; p++) memcpy(strip + p * MR, s + p * m + i, MR * sizeof *s);
			else
				for (long p = 0; p < elements; p++) memcpy(strip + p * MR, s + p * m + i, count * sizeof *s);
		}
		for (long col = 0; col < n; col += NR)
			for (long i = 0; i < m; i += MR) {
				const product_t o = {.c = c + i * n + col, .ldc = n, .n = n - col < NR ? n - col : NR};
				product_elements(half, ADD, m - i < MR ? m - i : MR, elements, strips + i * elements, 1, MR, panels + col * elements, &o);
			}
	}
}
