// What the files of AVX-512 have in common, after the pragma that names their instructions.

#include <immintrin.h>

#define LANES 16
#define SPLAT(x) ((vec)_mm512_set1_ps(x))
#define VMAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define VSQRT(a) ((vec)_mm512_sqrt_ps((__m512)(a)))
#define CHOOSE(mask, yes, no) ((vec)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)(mask)), (__m512)(no), (__m512)(yes)))
#ifdef BF16
#define NARROW(v) ((half_vec)_mm512_cvtneps_pbh((__m512)(v)))
#define DOT_PAIRS(sum, x, b) ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32((int)(x)), (__m512bh)(b)))
#endif
