#ifndef SURMISE_PIXELS_H
#define SURMISE_PIXELS_H

#include <stdint.h>

/*
 * dst[i] = by*src[i] + plus, cut off to whole numbers and to 0 to 255. Where plus has a half in it, that rounds. Returns 1 if
 * some src[i] is no number, and then dst[i] has no meaning.
 */
int surmise_pixels(uint8_t *dst, const float *src, long n, float by, float plus);

#endif
