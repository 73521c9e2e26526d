//go:build cgo && !nonative

// Four lanes: SSE2 on amd64, NEON on arm64, whatever the compiler makes of it elsewhere.
#define LANES 4
#define SPLAT(x) ((vec){(x), (x), (x), (x)})
#define VMAX(a, b) CHOOSE((a) > (b), (a), (b))
#define VSQRT(a) square_root(a)
#define CHOOSE(mask, yes, no) ((vec)(((mask) & (ivec)(yes)) | (~(mask) & (ivec)(no))))
#define TABLE surmise_baseline
#define TABLE_NAME "baseline"
#include <math.h>
typedef float four __attribute__((vector_size(16)));
static inline four square_root(four a) { return (four){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
#include "kernels_impl.h"
