//go:build cgo && !nonative

package kernel

import "testing"

// eachLevel runs f with the kernels of every instruction set this processor has.
func eachLevel(t *testing.T, f func(*testing.T)) {
	t.Helper()
	defer native{}.setup()
	for l, name := range []string{"baseline", "avx2", "avx512", "avx512bf16", "amx"} {
		t.Run(name, func(t *testing.T) {
			if !use(level(l)) {
				t.Skipf("this processor has no %s", name)
			}
			f(t)
		})
	}
}
