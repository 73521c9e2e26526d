#ifndef SURMISE_RESAMPLE_H
#define SURMISE_RESAMPLE_H

#include <stdint.h>

/*
 * Bring a region of width columns and three interleaved colours to rows × cols pixels. Row y is the sum over k < row_taps
 * of row_weights[y*row_taps+k] times the region's row row_first[y]+k; columns likewise.
 * src is the region's first byte, stride the bytes from row to row. line has 3*width+1 floats and is written to.
 *
 * Bytes are rounded and clamped, colours in the order of src or, with swap, the other way round.
 */
void surmise_resample_bytes(const uint8_t *src, long stride, int width, int rows, int row_taps, const int32_t *row_first,
                            const float *row_weights, int cols, int col_taps, const int32_t *col_first,
                            const float *col_weights, float *line, uint8_t *dst, int swap);

/* The same to three planes, plane floats apart: dst[c*plane + y*cols + x] = value * scale[c] + shift[c]. */
void surmise_resample_floats(const uint8_t *src, long stride, int width, int rows, int row_taps, const int32_t *row_first,
                            const float *row_weights, int cols, int col_taps, const int32_t *col_first,
                            const float *col_weights, float *line, float *dst, long plane, const float *scale,
                             const float *shift);

#endif
