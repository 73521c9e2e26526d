//go:build cgo && !nonative

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
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

#if defined(__x86_64__) && !defined(SANITIZE)
static int has_avx512(void) {
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
		__builtin_cpu_supports("avx512vl");
}

static int has_bf16(void) {
	unsigned a, b, c, d;
	return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

// has_amx asks Linux for the right to use tiles, which it grants a process on request (its documentation of x86 xstate).
static int has_amx(void) {
#if defined(__linux__)
	unsigned a, b, c, d;
	if (!has_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 22 & 1)) return 0;
	const int request = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
	return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
	return 0;
#endif
}
#endif

int surmise_select(int level) {
	const kernel_table *wanted = level == 0 ? &surmise_baseline : 0;
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (level == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) wanted = &surmise_avx2;
#if !defined(SANITIZE) // the same source with more lanes, which takes a compiler minutes under a sanitizer
	if (level == 2 && has_avx512()) wanted = &surmise_avx512;
	if (level == 3 && has_bf16()) wanted = &surmise_avx512bf16;
	if (level == 4 && has_amx()) wanted = &surmise_amx;
#endif
#endif
	if (!wanted) return 0;
	table = wanted;
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
