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

FOR_EACH_PROCESSOR
static void columns(const uint8_t *src, long stride, int n, const float *weights, int count, float *restrict line) {
	const uint8_t *row = src;
	float w = weights[0];
	for (int i = 0; i < n; i++)
		line[i] = w * (float)row[i];
	int k = 1;
	for (; k + 1 < count; k += 2) {
		const uint8_t *a = src + (long)k * stride, *b = a + stride;
		float wa = weights[k], wb = weights[k + 1];
		for (int i = 0; i < n; i++)
			line[i] += wa * (float)a[i] + wb * (float)b[i];
	}
	if (k < count) {
		const uint8_t *a = src + (long)k * stride;
		float wa = weights[k];
		for (int i = 0; i < n; i++)
			line[i] += wa * (float)a[i];
	}
}

static inline pixel across(const float *line, const float *weights, int count) {
	pixel sum = {0, 0, 0, 0};
	for (int k = 0; k < count; k++) {
		pixel p;
		memcpy(&p, line + 3 * k, sizeof p); // one float of the next pixel comes along and is not used
		float w = weights[k];
		sum += p * (pixel){w, w, w, w};
	}
	return sum;
}

static inline uint8_t rounded(float v) {
	v += 0.5f;
	return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

void surmise_resample_bytes(const uint8_t *src, long stride, int width, int rows, int row_taps, const int32_t *row_first,
                            const float *row_weights, int cols, int col_taps, const int32_t *col_first,
                            const float *col_weights, float *line, uint8_t *dst, int swap) {
	int first = swap ? 2 : 0, last = 2 - first;
	line[3 * width] = 0;
	for (int y = 0; y < rows; y++) {
		columns(src + (long)row_first[y] * stride, stride, 3 * width, row_weights + (long)y * row_taps,
		        row_taps, line);
		for (int x = 0; x < cols; x++, dst += 3) {
			pixel p = across(line + 3 * (long)col_first[x], col_weights + (long)x * col_taps,
			                 col_taps);
			dst[first] = rounded(p[0]);
			dst[1] = rounded(p[1]);
			dst[last] = rounded(p[2]);
		}
	}
}

void surmise_resample_floats(const uint8_t *src, long stride, int width, int rows, int row_taps, const int32_t *row_first,
                            const float *row_weights, int cols, int col_taps, const int32_t *col_first,
                            const float *col_weights, float *line, float *dst, long plane, const float *scale,
                             const float *shift) {
	line[3 * width] = 0;
	for (int y = 0; y < rows; y++) {
		columns(src + (long)row_first[y] * stride, stride, 3 * width, row_weights + (long)y * row_taps,
		        row_taps, line);
		float *out = dst + (long)y * cols;
		for (int x = 0; x < cols; x++) {
			pixel p = across(line + 3 * (long)col_first[x], col_weights + (long)x * col_taps,
			                 col_taps);
			for (int c = 0; c < 3; c++)
				out[c * plane + x] = p[c] * scale[c] + shift[c];
		}
	}
}
