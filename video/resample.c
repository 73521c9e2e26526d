// Two passes: all columns of an output row from the input rows it needs, then its pixels from these columns. The first
// works on long runs of bytes, which the compiler turns into vectors; the second takes the three colours of a pixel, and
// a float beside them, as one vector.
//
// No product and sum are contracted, so that processors with and without fused multiply-add give the same pixels.

#include "resample.h"

#include <string.h>

#pragma GCC optimize("fp-contract=off")

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef float pixel __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline)) // into each processor's copy of its caller

// rows_of sums count rows of n bytes onto line, or into it. The compiler unrolls a count that it knows, and keeps the sum of
// a run of bytes in registers.
INLINE void rows_of(const uint8_t *src, long stride, int n, const float *weights, int count, float *restrict line, int onto) {
	for (int i = 0; i < n; i++) {
		float sum = weights[0] * (float)src[i];
		for (int k = 1; k < count; k++)
			sum += weights[k] * (float)src[k * stride + i];
		line[i] = onto ? line[i] + sum : sum;
	}
}

INLINE void columns(const uint8_t *src, long stride, int n, const float *weights, int count, float *restrict line) {
	int k = count > 6 ? (count - 1) % 4 + 1 : count;
	switch (k) {
	case 1: rows_of(src, stride, n, weights, 1, line, 0); break;
	case 2: rows_of(src, stride, n, weights, 2, line, 0); break;
	case 3: rows_of(src, stride, n, weights, 3, line, 0); break;
	case 4: rows_of(src, stride, n, weights, 4, line, 0); break;
	case 5: rows_of(src, stride, n, weights, 5, line, 0); break;
	case 6: rows_of(src, stride, n, weights, 6, line, 0); break;
	}
	for (; k < count; k += 4)
		rows_of(src + (long)k * stride, stride, n, weights + k, 4, line, 1);
}

// across sums count pixels of a line. One float of the next pixel comes along and is not used.
INLINE pixel across(const float *line, const float *weights, int count) {
	pixel sum = {0, 0, 0, 0};
	for (int k = 0; k < count; k++) {
		pixel p;
		memcpy(&p, line + 3 * k, sizeof p);
		float w = weights[k];
		sum += p * (pixel){w, w, w, w};
	}
	return sum;
}

// across4 does it for four pixels side by side, which do not wait for each other.
INLINE void across4(const float *line, const int32_t *first, const float *weights, int count, pixel out[4]) {
	const float *from[4];
	for (int j = 0; j < 4; j++) {
		from[j] = line + 3 * (long)first[j];
		out[j] = (pixel){0, 0, 0, 0};
	}
	for (int k = 0; k < count; k++)
		for (int j = 0; j < 4; j++) {
			pixel p;
			memcpy(&p, from[j] + 3 * k, sizeof p);
			float w = weights[j * count + k];
			out[j] += p * (pixel){w, w, w, w};
		}
}

// across4of is across4 for the counts that reductions up to threefold have, unrolled.
INLINE void across4of(const float *line, const int32_t *first, const float *weights, int count, pixel out[4]) {
	switch (count) {
	case 2: across4(line, first, weights, 2, out); break;
	case 3: across4(line, first, weights, 3, out); break;
	case 4: across4(line, first, weights, 4, out); break;
	case 5: across4(line, first, weights, 5, out); break;
	case 6: across4(line, first, weights, 6, out); break;
	default: across4(line, first, weights, count, out);
	}
}

static inline uint8_t rounded(float v) {
	v += 0.5f;
	return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

FOR_EACH_PROCESSOR
void surmise_resample_bytes(const uint8_t *src, long stride, int width, int rows, int row_taps, const int32_t *row_first,
                            const float *row_weights, int cols, int col_taps, const int32_t *col_first,
                            const float *col_weights, float *line, uint8_t *dst, int swap) {
	int first = swap ? 2 : 0, last = 2 - first;
	line[3 * width] = 0;
	for (int y = 0; y < rows; y++) {
		columns(src + (long)row_first[y] * stride, stride, 3 * width, row_weights + (long)y * row_taps,
		        row_taps, line);
		int x = 0;
		for (; x + 4 <= cols; x += 4) {
			pixel p[4];
			across4of(line, col_first + x, col_weights + (long)x * col_taps, col_taps, p);
			for (int j = 0; j < 4; j++, dst += 3) {
				dst[first] = rounded(p[j][0]);
				dst[1] = rounded(p[j][1]);
				dst[last] = rounded(p[j][2]);
			}
		}
		for (; x < cols; x++, dst += 3) {
			pixel p = across(line + 3 * (long)col_first[x], col_weights + (long)x * col_taps,
			                 col_taps);
			dst[first] = rounded(p[0]);
			dst[1] = rounded(p[1]);
			dst[last] = rounded(p[2]);
		}
	}
}

FOR_EACH_PROCESSOR
void surmise_resample_floats(const uint8_t *src, long stride, int width, int rows, int row_taps, const int32_t *row_first,
                            const float *row_weights, int cols, int col_taps, const int32_t *col_first,
                            const float *col_weights, float *line, float *dst, long plane, const float *scale,
                            const float *shift) {
	pixel by = {scale[0], scale[1], scale[2], 0}, to = {shift[0], shift[1], shift[2], 0};
	line[3 * width] = 0;
	for (int y = 0; y < rows; y++) {
		columns(src + (long)row_first[y] * stride, stride, 3 * width, row_weights + (long)y * row_taps,
		        row_taps, line);
		float *out = dst + (long)y * cols;
		int x = 0;
		for (; x + 4 <= cols; x += 4) {
			pixel p[4];
			across4of(line, col_first + x, col_weights + (long)x * col_taps, col_taps, p);
			for (int j = 0; j < 4; j++)
				p[j] = p[j] * by + to;
			// Four pixels of three colours to three runs of four.
			typedef int32_t order __attribute__((vector_size(16)));
			pixel low01 = __builtin_shuffle(p[0], p[1], (order){0, 4, 1, 5}), high01 = __builtin_shuffle(p[0], p[1], (order){2, 6, 3, 7});
			pixel low23 = __builtin_shuffle(p[2], p[3], (order){0, 4, 1, 5}), high23 = __builtin_shuffle(p[2], p[3], (order){2, 6, 3, 7});
			pixel c0 = __builtin_shuffle(low01, low23, (order){0, 1, 4, 5});
			pixel c1 = __builtin_shuffle(low01, low23, (order){2, 3, 6, 7});
			pixel c2 = __builtin_shuffle(high01, high23, (order){0, 1, 4, 5});
			memcpy(out + x, &c0, sizeof c0);
			memcpy(out + plane + x, &c1, sizeof c1);
			memcpy(out + 2 * plane + x, &c2, sizeof c2);
		}
		for (; x < cols; x++) {
			pixel p = across(line + 3 * (long)col_first[x], col_weights + (long)x * col_taps,
			                 col_taps);
			for (int c = 0; c < 3; c++)
				out[c * plane + x] = p[c] * scale[c] + shift[c];
		}
	}
}
