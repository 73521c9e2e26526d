//go:build cgo && !nonative && !sanitize

#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,amx-tile,amx-bf16,avx2,fma")
#define BF16 1
#include "avx512.h"

#define AMX 1
#define TABLE surmise_amx
#define TABLE_NAME "AMX BF16 and AVX-512"
#include "kernels_impl.h"
