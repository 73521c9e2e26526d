//go:build !cgo || nonative

package kernel

import "testing"

// eachLevel runs f with the only kernels of this build.
func eachLevel(t *testing.T, f func(*testing.T)) {
	t.Helper()
	t.Run("go", f)
}
