//go:build cgo && !nonative && !sanitize

#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2,fma")
#define BF16 1
#include "avx512.h"

#define TABLE surmise_avx512bf16
#define TABLE_NAME "AVX-512 BF16"
#include "kernels_impl.h"
