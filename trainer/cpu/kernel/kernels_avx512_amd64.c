//go:build cgo && !nonative && !sanitize

#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#include "avx512.h"

#define TABLE surmise_avx512
#define TABLE_NAME "AVX-512"
#include "kernels_impl.h"
