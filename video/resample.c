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

// columns sums count rows of n bytes, four at a time: line is written once and read seldom.
INLINE void columns(const uint8_t *src, long stride, int n, const float *weights, int count, float *restrict line) {
	int k = count & 3;
	const uint8_t *a = src, *b = a + stride, *c = b + stride;
	switch (k) {
	case 0:
		memset(line, 0, sizeof *line * n);
		break;
	case 1:
		for (int i = 0; i < n; i++)
			line[i] = weights[0] * (float)a[i];
		break;
	case 2:
		for (int i = 0; i < n; i++)
			line[i] = weights[0] * (float)a[i] + weights[1] * (float)b[i];
		break;
	case 3:
		for (int i = 0; i < n; i++)
			line[i] = weights[0] * (float)a[i] + weights[1] * (float)b[i] + weights[2] * (float)c[i];
		break;
	}
	for (; k < count; k += 4) {
		const uint8_t *p = src + (long)k * stride, *q = p + stride, *r = q + stride, *s = r + stride;
		float wp = weights[k], wq = weights[k + 1], wr = weights[k + 2], ws = weights[k + 3];
		for (int i = 0; i < n; i++)
			line[i] += (wp * (float)p[i] + wq * (float)q[i]) + (wr * (float)r[i] + ws * (float)s[i]);
	}
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
	pixel sum[4] = {{0}, {0}, {0}, {0}};
	const float *from[4];
	for (int j = 0; j < 4; j++)
		from[j] = line + 3 * (long)first[j];
	for (int k = 0; k < count; k++)
		for (int j = 0; j < 4; j++) {
			pixel p;
			memcpy(&p, from[j] + 3 * k, sizeof p);
			float w = weights[j * count + k];
			sum[j] += p * (pixel){w, w, w, w};
		}
	memcpy(out, sum, sizeof sum);
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
			across4(line, col_first + x, col_weights + (long)x * col_taps, col_taps, p);
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
			across4(line, col_first + x, col_weights + (long)x * col_taps, col_taps, p);
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
