#include "pixels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FOR_EVERY_WIDTH __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_WIDTH
#endif

/* Written for compilers to make vectors of it: no branches, and the sum that finds what is no number goes along. */
FOR_EVERY_WIDTH int surmise_pixels(uint8_t *restrict dst, const float *restrict src, long n, float by, float plus) {
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
