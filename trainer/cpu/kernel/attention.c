//go:build cgo && !nonative

#include "kernels.h"

// Attention works on tiles of query rows so that the scores of a tile stay in the L2 cache (half a megabyte and up):
// about TILE_FLOATS scores, but at least TILE_ROWS rows, below which the products lose their speed.
enum { TILE_FLOATS = 1 << 16, TILE_ROWS = 64 };

// The row stride of a tile: whole vectors of any width, and no multiple of 512 bytes, which would put a column into
// few of the cache's sets. AttentionScratch in kernel.go counts with both limits and with this stride.
static long tile_stride(long keys) {
	long ld = (keys + 15) / 16 * 16;
	return ld % 128 ? ld : ld + 16;
}

// tile_rows: block-causal tiles are whole blocks where one fits, so that no product covers keys that all rows hide.
static long tile_rows(long keys, long block) {
	long rows = TILE_FLOATS / tile_stride(keys);
	if (rows < TILE_ROWS || block > 0) rows = TILE_ROWS;
	if (block > 0 && rows > block) rows -= rows % block;
	return rows < keys ? rows : keys;
}

static long seen_keys(long last_row, long block, long keys) {
	if (block <= 0) return keys;
	long seen = (last_row / block + 1) * block;
	return seen < keys ? seen : keys;
}

void surmise_attention(float *out, const float *qkv, const int32_t *offsets, long segments, long heads, long dim,
	long block, float *scratch) {
	const long width = heads * dim, stride = 3 * width;
	const float scale = 1.0f / __builtin_sqrtf((float)dim);
	for (long segment = 0; segment < segments; segment++) {
		const long start = offsets[segment], keys = offsets[segment + 1] - start;
		const long ld = tile_stride(keys), rows = tile_rows(keys, block);
		float *scores = scratch, *inverse = scores + rows * ld; // [rows, ld], [rows]
		for (long head = 0; head < heads; head++) {
			const float *q = qkv + start * stride + head * dim, *k = q + width, *v = k + width;
			float *o = out + start * width + head * dim;
			for (long first = 0; first < keys; first += rows) {
				const long m = keys - first < rows ? keys - first : rows;
				const long seen = seen_keys(first + m - 1, block, keys);
				surmise_product(0, 1, m, seen, dim, q + first * stride, stride, k, stride, 0, scores, ld);
				surmise_softmax_tile(scores, inverse, m, seen, ld, first, block, scale);
				surmise_product(0, 0, m, dim, seen, scores, ld, v, stride, 0, o + first * width, width);
				surmise_scale_rows(o + first * width, m, dim, width, inverse);
			}
		}
	}
}

void surmise_attention_grad(float *dqkv, const float *qkv, const float *dout, const int32_t *offsets, long segments,
	long heads, long dim, long block, float *scratch) {
	const long width = heads * dim, stride = 3 * width;
	const float scale = 1.0f / __builtin_sqrtf((float)dim);
	for (long segment = 0; segment < segments; segment++) {
		const long start = offsets[segment], keys = offsets[segment + 1] - start;
		const long ld = tile_stride(keys), rows = tile_rows(keys, block);
		float *p = scratch, *d = p + rows * ld, *inverse = d + rows * ld; // [rows, ld], [rows, ld], [rows]
		if (keys == 0) continue;
		for (long head = 0; head < heads; head++) {
			const long at = start * stride + head * dim;
			const float *q = qkv + at, *k = q + width, *v = k + width;
			float *dq = dqkv + at, *dk = dq + width, *dv = dk + width;
			const float *go = dout + start * width + head * dim;
			// Last tile first: it sees every key, so it can set dk and dv, and the others add to them.
			float beta = 0;
			for (long first = (keys - 1) / rows * rows; first >= 0; first -= rows, beta = 1) {
				const long m = keys - first < rows ? keys - first : rows;
				const long seen = seen_keys(first + m - 1, block, keys);
				const float *qt = q + first * stride, *gt = go + first * width;
				surmise_product(0, 1, m, seen, dim, qt, stride, k, stride, 0, p, ld);
				surmise_softmax_tile(p, inverse, m, seen, ld, first, block, scale);
				surmise_product(0, 1, m, seen, dim, gt, width, v, stride, 0, d, ld);
				surmise_softmax_tile_grad(p, d, inverse, m, seen, ld, first, block, scale);
				surmise_product(1, 0, seen, dim, m, p, ld, gt, width, beta, dv, stride);
				surmise_product(1, 0, seen, dim, m, d, ld, qt, stride, beta, dk, stride);
				surmise_product(0, 0, m, dim, seen, d, ld, k, stride, 0, dq + first * stride, stride);
			}
		}
	}
}
