//go:build cgo && !nonative

#include "kernels.h"

#include <dnnl.h>

void surmise_library_version(int version[3]) {
	const dnnl_version_t *v = dnnl_version();
	version[0] = v->major;
	version[1] = v->minor;
	version[2] = v->patch;
}

extern void omp_set_num_threads(int);

int surmise_library_product(long m, long n, long k, const float *a, const float *b, float *c) {
	static __thread int prepared;
	if (!prepared) {
		// libgomp keeps the thread count per calling thread and gives each its own pool: ask for one thread before its
		// first use.
		omp_set_num_threads(1);
		prepared = 1;
	}
	return dnnl_sgemm('N', 'T', m, n, k, 1.0f, a, k, b, k, 0.0f, c, n) == dnnl_success;
}
