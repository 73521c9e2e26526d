//go:build cgo && !nonative

#include "kernels.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static const kernel_table *table = &surmise_baseline;

#define CALL_void
#define CALL_double return
#define CALL_long return
#define X(result, name, params, args) \
	result surmise_##name params { CALL_##result table->name args; }
KERNELS(X)
#undef X

void surmise_product_into(int pairs, int kind, long m, long n, long k, const void *a, const void *panels, void *c,
	const float *bias, void *beside) {
	const product_t o = {.c = c, .ldc = n, .n = n, .bias = bias, .extra = beside, .ld_extra = n};
	table->product(pairs, kind, m, k, a, k, panels, &o);
}

int surmise_select(int level) {
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (level == 1) {
		if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
		table = &surmise_avx2;
		return 1;
	}
	if (level == 2) {
		if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
			!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
			return 0;
		table = &surmise_avx512;
		return 1;
	}
#endif
	if (level != 0) return 0;
	table = &surmise_baseline;
	return 1;
}

const char *surmise_selected(void) { return table->name; }

long surmise_panel(void) { return table->panel; }

void surmise_flush_to_zero(void) {
#if defined(__x86_64__)
	_mm_setcsr(_mm_getcsr() | 0x8040); // FTZ, bit 15, and DAZ, bit 6
#elif defined(__aarch64__)
	uint64_t fpcr;
	__asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
	__asm__ volatile("msr fpcr, %0" : : "r"(fpcr | 1u << 24)); // FZ
#endif
}
