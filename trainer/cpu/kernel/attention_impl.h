// Multi-head attention in tiles of query rows, included by kernels_impl.h once per instruction set. The scores of a
// tile are all that exists of them at any time. Keys and values of a head are laid out in panels once, for all tiles.

// Tiles hold about TILE_SCORES scores, which with the panels stay in a second-level cache of half a megabyte, but at
// least TILE_ROWS rows: every tile of the backward pass goes over the gradients of all its keys.
#ifdef AMX
enum { TILE_SCORES = 1 << 15, TILE_ROWS = 64, ROW_UNIT = 32, MOST_TILE_ROWS = 512 }; // MOST: amx_impl.h stages 256 pairs
#else
enum { TILE_SCORES = 1 << 15, TILE_ROWS = 48, ROW_UNIT = MR, MOST_TILE_ROWS = TILE_SCORES };
#endif

INLINE long whole(long n, long unit) { return (n + unit - 1) / unit * unit; }

// tile_rows: block-causal tiles are whole blocks where one fits, so that no product covers keys that all rows hide.
static long tile_rows(long keys, long block) {
	long rows = TILE_SCORES / whole(keys + !keys, NR) / ROW_UNIT * ROW_UNIT;
	if (rows < TILE_ROWS || block > 0) rows = TILE_ROWS;
	if (rows > MOST_TILE_ROWS) rows = MOST_TILE_ROWS;
	if (block > 0 && rows > block) rows -= rows % block;
	return rows < keys ? rows : keys;
}

// head is one head of one segment. Matrices of tokens are [keys, dim] with row strides of elements; float32, or bfloat16.
typedef struct {
	int half;
	long keys, dim, block;
	float scale;
	long ld;                       // row stride of a tile of scores
	float *scores, *max, *inverse; // [rows, ld], [rows, LANES], [rows]
} head_t;

// elements of a matrix with the given extent along k
INLINE long along(int half, long k) { return half ? (k + 1) / 2 : k; }

INLINE const void *cell(int half, const void *p, long at) {
	return half ? (const void *)((const uint16_t *)p + at) : (const void *)((const float *)p + at);
}

// scores_of sets a tile to scale·log2(e)·QKᵀ and collects the maximum of each row, lane by lane; q is [m, dim].
__attribute__((noinline)) static void scores_of(const head_t *h, long m, long seen, const void *q, long ldq,
	const uint32_t *keys) {
	for (long i = 0; i < m * LANES; i++) h->max[i] = -INFINITY;
	const product_t o = {.c = h->scores, .ldc = h->ld, .n = seen, .factor = &h->scale, .extra = h->max};
	if (h->half)
		product(1, SCORES, m, h->dim, q, ldq, keys, &o);
	else
		product(0, SCORES, m, h->dim, q, ldq, keys, &o);
}

// softmax_tile turns a tile of scores, already times log2(e), into 2^(s - max) and stores 1/sum of each row. Keys that a
// row does not see become 0, as do columns up to a whole panel. Row r is query row first + r of its segment. With half set
// the result goes, in bfloat16, to narrowed [rows, ld]; otherwise it takes the scores' place. With rough set it is bfloat16
// in the end.
INLINE void softmax_rows(const int half, const int rough, const head_t *h, long rows, long width, long first, uint16_t *narrowed) {
	for (long r = 0; r < rows; r++, narrowed += half ? h->ld : 0) {
		float *s = h->scores + r * h->ld;
		void *to = half ? (void *)narrowed : (void *)s;
		const long seen = visible(first + r, h->block, width), end = whole(seen, LANES);
		float max;
		if (seen == width) {
			max = lane_max(load(h->max + r * LANES)); // scores_of left -inf behind the last key
		} else {
			for (long i = seen; i < end; i++) s[i] = -INFINITY;
			vec most = load(s);
			for (long i = LANES; i < end; i += LANES) most = VMAX(most, load(s + i));
			max = lane_max(most);
		}
		vec sum0 = SPLAT(0.0f), sum1 = sum0;
		long i = 0;
		for (; i + SEVERAL * LANES <= end; i += SEVERAL * LANES) {
			enum { count = SEVERAL };
			vec v[SEVERAL];
			ALL(v[j] = load(s + i + j * LANES) - max);
			if (rough) exp2_rough(count, v);
			else exp2_neg(count, v);
			ALL(store_any(half, to, i + j * LANES, v[j], LANES));
			sum0 += v[0] + v[1];
			sum1 += v[2] + v[3];
		}
		for (; i < end; i += LANES) {
			vec v = load(s + i) - max;
			if (rough) exp2_rough(1, &v);
			else exp2_neg(1, &v);
			store_any(half, to, i, v, LANES);
			sum0 += v;
		}
		// both end at 2^-126: what is hidden must be 0
		const long hidden = whole(width, NR) - seen;
		memset(half ? (void *)(narrowed + seen) : (void *)(s + seen), 0, hidden * (half ? sizeof *narrowed : sizeof *s));
		h->inverse[r] = 1.0f / lane_sum(sum0 + sum1);
	}
}
static void softmax_tile(const head_t *h, long rows, long width, long first) { softmax_rows(0, 0, h, rows, width, first, 0); }
static void softmax_tile_rough(const head_t *h, long rows, long width, long first) { softmax_rows(0, 1, h, rows, width, first, 0); }
static void softmax_tile_half(const head_t *h, long rows, long width, long first, uint16_t *narrowed) {
	softmax_rows(1, 1, h, rows, width, first, narrowed);
}

// row_grad prepares softmax_tile_grad of row r: 1/sum, and the sum of P dP. Hidden columns of d become 0.
INLINE float row_grad(const head_t *h, float *d, long r, long width, long first, float *norm) {
	const float *p = h->scores + r * h->ld;
	const long seen = visible(first + r, h->block, width), end = whole(seen, LANES), last = whole(width, NR);
	for (long i = seen; i < last; i++) d[i] = 0;
	vec sum0 = SPLAT(0.0f), sum1 = sum0;
	long i = 0;
	for (; i + 2 * LANES <= end; i += 2 * LANES) {
		sum0 += load(p + i) * load(d + i);
		sum1 += load(p + i + LANES) * load(d + i + LANES);
	}
	if (i < end) sum0 += load(p + i) * load(d + i);
	*norm = h->inverse[r];
	return lane_sum(sum0 + sum1) * *norm;
}

// softmax_tile_grad takes p from softmax_tile and d = dP and leaves in p the normalised probabilities and in d the
// gradient of the scores before scaling: P (dP - sum(P dP)) scale.
static void softmax_tile_grad(const head_t *h, float *d, long rows, long width, long first, float scale) {
	for (long r = 0; r < rows; r++, d += h->ld) {
		float *p = h->scores + r * h->ld, norm;
		const float dot = row_grad(h, d, r, width, first, &norm);
		const long end = whole(visible(first + r, h->block, width), LANES);
		for (long i = 0; i < end; i += LANES) {
			vec q = load(p + i) * norm;
			store(p + i, q);
			store(d + i, q * ((load(d + i) - dot) * scale));
		}
	}
}

// softmax_tile_grad_half is softmax_tile_grad in bfloat16, as the products after it read it: P and the gradient in pairs
// of rows, [rows/2, ld], and the gradient by rows too, [rows, ld].
static void softmax_tile_grad_half(const head_t *h, float *d, long rows, long width, long first, float scale, uint32_t *p_pairs,
	uint32_t *d_pairs, uint16_t *narrowed) {
	const long ld = h->ld, last = whole(width, NR);
	for (long r = 0; r < rows; r += 2, p_pairs += ld, d_pairs += ld) {
		const int two = r + 1 < rows;
		const float *p0 = h->scores + r * ld, *p1 = p0 + ld;
		float *d0 = d + r * ld, *d1 = d0 + ld, norm0, norm1 = 0;
		uint16_t *n0 = narrowed + r * ld, *n1 = n0 + ld;
		const float dot0 = row_grad(h, d0, r, width, first, &norm0), dot1 = two ? row_grad(h, d1, r + 1, width, first, &norm1) : 0;
		for (long i = 0; i < last; i += LANES) {
			const vec q0 = load(p0 + i) * norm0;
			const half_vec g0 = narrow(q0 * ((load(d0 + i) - dot0) * scale));
			uvec q = __builtin_convertvector(narrow(q0), uvec), g = __builtin_convertvector(g0, uvec);
			*(half_mem *)(n0 + i) = g0;
			if (two) {
				const vec q1 = load(p1 + i) * norm1;
				const half_vec g1 = narrow(q1 * ((load(d1 + i) - dot1) * scale));
				q |= __builtin_convertvector(narrow(q1), uvec) << 16;
				g |= __builtin_convertvector(g1, uvec) << 16;
				*(half_mem *)(n1 + i) = g1;
			}
			store((float *)(p_pairs + i), (vec)q);
			store((float *)(d_pairs + i), (vec)g);
		}
	}
}

// reserve takes n elements of scratch, a whole number of cache lines.
INLINE void *reserve(uint32_t **scratch, long n) {
	void *p = *scratch;
	*scratch += whole(n, 16);
	return p;
}

// layout divides scratch for the longest segment; with scratch nil it only counts, in 32-bit elements.
typedef struct {
	uint32_t *keys, *values;         // panels of Kᵀ and, forward, of V, backward, of Vᵀ
	uint32_t *key_rows;              // backward: panels of K
	uint32_t *query_rows, *out_rows; // backward: panels of a tile of Q and of dO
	float *d;                        // backward: a tile of dP
	uint16_t *narrow;                // half: a tile in bfloat16, [rows, ld]
	void *picked;                    // forward: a tile of chosen queries, [rows, dim]
	uint32_t *p_pairs, *d_pairs;     // half, backward: pairs of rows of P and dS, [rows/2, ld]
	float *dk, *dv;                  // half, backward: sums, [keys, dim]
	long elements;
} layout_t;

static layout_t lay_out(head_t *h, long keys, int backward, uint32_t *scratch) {
	layout_t l = {0};
	uint32_t *const begin = scratch;
	const long rows = tile_rows(keys, h->block), ld = whole(keys, NR), columns = whole(h->dim, NR);
	h->ld = ld;
	h->scores = reserve(&scratch, rows * ld);
	h->max = reserve(&scratch, rows * LANES);
	h->inverse = reserve(&scratch, rows);
	l.keys = reserve(&scratch, along(h->half, h->dim) * ld);
	l.values = reserve(&scratch, backward ? along(h->half, h->dim) * ld : along(h->half, keys) * columns);
	if (h->half) l.narrow = reserve(&scratch, rows * ld / 2);
	if (!backward) l.picked = reserve(&scratch, rows * along(h->half, h->dim));
	if (backward) {
		l.key_rows = reserve(&scratch, along(h->half, keys) * columns);
		l.query_rows = reserve(&scratch, rows * columns);
		l.out_rows = reserve(&scratch, rows * columns);
		l.d = reserve(&scratch, rows * ld);
		if (h->half) {
			l.p_pairs = reserve(&scratch, (rows + 1) / 2 * ld);
			l.d_pairs = reserve(&scratch, (rows + 1) / 2 * ld);
			l.dk = reserve(&scratch, keys * h->dim);
			l.dv = reserve(&scratch, keys * h->dim);
		}
	}
	l.elements = scratch - begin;
	return l;
}

static long attention_scratch(int half, long keys, long dim, long block) {
	head_t h = {.half = half, .dim = dim, .block = block};
	// a shorter segment has more rows to a tile: the product of the two stays below that of TILE_SCORES
	const long backward = lay_out(&h, keys, 1, 0).elements, forward = lay_out(&h, keys, 0, 0).elements;
	return (backward > forward ? backward : forward) + 4 * (TILE_SCORES + TILE_SCORES / NR * (LANES + 2 * whole(dim, NR)));
}

// pick copies the rows of q that queries name to [m, dim].
static void pick(int half, void *to, const void *q, long stride, const int32_t *queries, long m, long dim) {
	for (long i = 0; i < m; i++)
		memcpy((void *)cell(half, to, i * dim), cell(half, q, queries[i] * stride), dim * (half ? sizeof(uint16_t) : sizeof(float)));
}

// attention of every row of a segment, or, where queries are given, of those: bounds [segments+1] say which are a segment's,
// queries which of its rows they are.
static void attention(int half, void *out, const void *qkv, const int32_t *offsets, const int32_t *bounds, const int32_t *queries,
	long segments, long heads, long dim, long block, uint32_t *scratch) {
	const long width = heads * dim, stride = 3 * width;
	head_t h = {.half = half, .dim = dim, .block = block, .scale = LOG2E / sqrtf((float)dim)};
	for (long segment = 0; segment < segments; segment++) {
		const long start = offsets[segment], keys = h.keys = offsets[segment + 1] - start;
		const layout_t l = lay_out(&h, keys, 0, scratch);
		const long rows = tile_rows(keys, block);
		const long from = queries ? bounds[segment] : start, count = queries ? bounds[segment + 1] - from : keys;
		for (long head = 0; head < heads; head++) {
			const void *q = cell(half, qkv, start * stride + head * dim);
			const void *o = cell(half, out, from * width + head * dim);
			panels_by_columns(l.keys, cell(half, q, width), dim, keys, stride, half);
			panels_by_rows(l.values, cell(half, q, 2 * width), keys, dim, stride, half);
			for (long first = 0; first < count; first += rows) {
				const long m = count - first < rows ? count - first : rows;
				const long seen = visible(first + m - 1, block, keys);
				if (queries) {
					pick(half, l.picked, q, stride, queries + from + first, m, dim);
					scores_of(&h, m, seen, l.picked, dim, l.keys);
				} else {
					scores_of(&h, m, seen, cell(half, q, first * stride), stride, l.keys);
				}
				const product_t to = {.c = (void *)cell(half, o, first * width), .ldc = width, .n = dim,
					.factor = h.inverse, .panel = along(half, keys) * NR};
				if (half) {
					softmax_tile_half(&h, m, seen, first, l.narrow);
					product(1, SCALE_ROWS_HALF, m, seen + (seen & 1), l.narrow, h.ld, l.values, &to);
				} else {
					softmax_tile(&h, m, seen, first);
					product(0, SCALE_ROWS, m, seen, h.scores, h.ld, l.values, &to);
				}
			}
		}
	}
}

static void attention_grad(int half, void *dqkv, const void *qkv, const void *dout, const int32_t *offsets, long segments,
	long heads, long dim, long block, uint32_t *scratch) {
	const long width = heads * dim, stride = 3 * width;
	const float scale = 1.0f / sqrtf((float)dim);
	head_t h = {.half = half, .dim = dim, .block = block, .scale = LOG2E * scale};
	for (long segment = 0; segment < segments; segment++) {
		const long start = offsets[segment], keys = h.keys = offsets[segment + 1] - start;
		const layout_t l = lay_out(&h, keys, 1, scratch);
		const long rows = tile_rows(keys, block), ld = h.ld;
		if (keys == 0) continue;
		for (long head = 0; head < heads; head++) {
			const long at = start * stride + head * dim;
			const void *q = cell(half, qkv, at), *go = cell(half, dout, start * width + head * dim);
			const void *dq = cell(half, dqkv, at), *dk = cell(half, dq, width), *dv = cell(half, dq, 2 * width);
			panels_by_columns(l.keys, cell(half, q, width), dim, keys, stride, half);
			panels_by_columns(l.values, cell(half, q, 2 * width), dim, keys, stride, half);
			panels_by_rows(l.key_rows, cell(half, q, width), keys, dim, stride, half);
			product_t to_dk = {.c = half ? l.dk : (void *)dk, .ldc = half ? dim : stride, .n = dim};
			product_t to_dv = {.c = half ? l.dv : (void *)dv, .ldc = half ? dim : stride, .n = dim};
			// Last tile first: it sees every key, so it can set dk and dv, and the others add to them.
			int kind = SET;
			for (long first = (keys - 1) / rows * rows; first >= 0; first -= rows, kind = ADD) {
				const long m = keys - first < rows ? keys - first : rows;
				const long seen = visible(first + m - 1, block, keys);
				const void *qt = cell(half, q, first * stride), *gt = cell(half, go, first * width);
				panels_by_rows(l.query_rows, qt, m, dim, stride, half);
				panels_by_rows(l.out_rows, gt, m, dim, width, half);
				scores_of(&h, m, seen, qt, stride, l.keys);
				if (half)
					softmax_tile_rough(&h, m, seen, first);
				else
					softmax_tile(&h, m, seen, first);
				const product_t to_d = {.c = l.d, .ldc = ld, .n = seen};
				product(half, SET, m, dim, gt, width, l.values, &to_d);
				const product_t to_dq = {.c = (void *)cell(half, dq, first * stride), .ldc = stride, .n = dim,
					.panel = along(half, keys) * NR};
				if (!half) {
					softmax_tile_grad(&h, l.d, m, seen, first, scale);
					product_elements(0, kind, seen, m, (const uint32_t *)h.scores, 1, ld, l.out_rows, &to_dv);
					product_elements(0, kind, seen, m, (const uint32_t *)l.d, 1, ld, l.query_rows, &to_dk);
					product(0, SET, m, seen, l.d, ld, l.key_rows, &to_dq);
					continue;
				}
				softmax_tile_grad_half(&h, l.d, m, seen, first, scale, l.p_pairs, l.d_pairs, l.narrow);
				product_elements(1, kind, seen, along(1, m), l.p_pairs, 1, ld, l.out_rows, &to_dv);
				product_elements(1, kind, seen, along(1, m), l.d_pairs, 1, ld, l.query_rows, &to_dk);
				product(1, SET_HALF, m, seen + (seen & 1), l.narrow, ld, l.key_rows, &to_dq);
			}
			if (half)
				for (long i = 0; i < keys; i++) {
					narrow_row((uint16_t *)dk + i * stride, l.dk + i * dim, dim);
					narrow_row((uint16_t *)dv + i * stride, l.dv + i * dim, dim);
				}
		}
	}
}
