// OpenCV's FFmpeg backend decodes with as many threads as the machine has processors, as sysconf tells, whatever this
// process may use and whatever OpenCV is told elsewhere. There is one decoder process per core already: more threads
// only wait for each other, and each keeps frames of its own, which on a machine of 64 processors is a gigabyte at
// 1920x1080. So libraries of a decoder process are told of one processor. The linker lets them find this function before
// the C library's, because the program comes first.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int one;

void surmise_one_processor(void) { atomic_store(&one, 1); }

long sysconf(int name) {
	static _Atomic(long (*)(int)) next;
	if (name == _SC_NPROCESSORS_ONLN && atomic_load(&one))
		return 1;
	long (*call)(int) = atomic_load(&next);
	if (!call) {
		call = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
		atomic_store(&next, call);
	}
	return call(name);
}
