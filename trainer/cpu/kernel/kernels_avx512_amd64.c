//go:build cgo && !nonative && !sanitize

#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#include <immintrin.h>

#define LANES 16
#define SPLAT(x) ((vec)_mm512_set1_ps(x))
#define VMAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define VSQRT(a) ((vec)_mm512_sqrt_ps((__m512)(a)))
#define CHOOSE(mask, yes, no) ((vec)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)(mask)), (__m512)(no), (__m512)(yes)))
#define TABLE surmise_avx512
#define TABLE_NAME "AVX-512"
#include "kernels_impl.h"
