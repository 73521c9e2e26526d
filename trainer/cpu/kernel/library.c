//go:build cgo && !nonative

#include "kernels.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

void surmise_library_version(int version[3]) {
	const dnnl_version_t *v = dnnl_version();
	version[0] = v->major;
	version[1] = v->minor;
	version[2] = v->patch;
}

extern void omp_set_num_threads(int);

// What a thread keeps between products: a buffer for operands laid out anew. It goes with the thread.
enum { PAD_FLOATS = 1 << 18, PAD = 16 };
static __thread float *pad_buffer;
static pthread_key_t pad_key;
static pthread_once_t pad_once = PTHREAD_ONCE_INIT;
static void make_pad_key(void) { pthread_key_create(&pad_key, free); }

static void prepare_thread(void) {
	static __thread int prepared;
	if (prepared) return;
	prepared = 1;
	// libgomp keeps the thread count per calling thread and gives each its own pool: ask for one thread before its
	// first use.
	omp_set_num_threads(1);
	pthread_once(&pad_once, make_pad_key);
	pad_buffer = malloc(PAD_FLOATS * sizeof(float)); // without it products are only slower
	pthread_setspecific(pad_key, pad_buffer);
}

// An operand that the library reads down its columns loses up to half the speed when its row stride is a multiple of
// 512 bytes: a column then falls into few of the cache's sets. Such operands are copied to a stride that is not, if
// enough products per element pay for the copy. Measured on Zen 3 (dW of 392 tokens, 512x128): 51 GFLOP/s as it is, 78
// copied, peak 103.
static int wants_pad(long ld, long uses) { return ld % 128 == 0 && uses >= 96; }

static void copy_rows(float *dst, long ld_dst, const float *src, long ld_src, long rows, long columns) {
	for (long i = 0; i < rows; i++) memcpy(dst + i * ld_dst, src + i * ld_src, columns * sizeof(float));
}

void surmise_library_product(int trans_a, int trans_b, long m, long n, long k, const float *a, long lda, const float *b,
	long ldb, float beta, float *c, long ldc) {
	prepare_thread();
	const int pad_a = trans_a && wants_pad(lda, n), pad_b = !trans_b && wants_pad(ldb, m);
	const long row = (pad_a ? m + PAD : 0) + (pad_b ? n + PAD : 0); // floats of the buffer per step of k
	if (!row || !pad_buffer || row > PAD_FLOATS / 64) {
		dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
		return;
	}
	for (long done = 0, step; done < k; done += step, beta = 1) {
		step = k - done < PAD_FLOATS / row ? k - done : PAD_FLOATS / row;
		const float *as = a + done * (trans_a ? lda : 1), *bs = b + done * (trans_b ? 1 : ldb);
		long lda_step = lda, ldb_step = ldb;
		float *free_space = pad_buffer;
		if (pad_a) {
			lda_step = m + PAD;
			copy_rows(free_space, lda_step, as, lda, step, m);
			as = free_space;
			free_space += step * lda_step;
		}
		if (pad_b) {
			ldb_step = n + PAD;
			copy_rows(free_space, ldb_step, bs, ldb, step, n);
			bs = free_space;
		}
		dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, step, 1.0f, as, lda_step, bs, ldb_step, beta, c, ldc);
	}
}
