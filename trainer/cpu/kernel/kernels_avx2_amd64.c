//go:build cgo && !nonative

#pragma GCC target("avx2,fma")
#include <immintrin.h>

#define LANES 8
#define SPLAT(x) ((vec)_mm256_set1_ps(x))
#define VMAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define VSQRT(a) ((vec)_mm256_sqrt_ps((__m256)(a)))
#define CHOOSE(mask, yes, no) ((vec)_mm256_blendv_ps((__m256)(no), (__m256)(yes), (__m256)(mask)))
#define TABLE surmise_avx2
#define TABLE_NAME "AVX2+FMA"
#include "kernels_impl.h"
