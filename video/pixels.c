#include "pixels.h"

/* Written for compilers to make vectors of it: no branches, and the sum that finds what is no number goes along. */
int surmise_pixels(uint8_t *restrict dst, const float *restrict src, long n, float by, float plus) {
  int bad = 0;
  for (long i = 0; i < n; i++) {
    float v = src[i] * by + plus;
    bad |= v != v;
    v = v > 0 ? v : 0;
    v = v < 255 ? v : 255;
    dst[i] = (uint8_t)(int32_t)v;
  }
  return bad;
}
