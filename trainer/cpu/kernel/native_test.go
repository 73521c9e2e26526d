//go:build cgo && !nonative

package kernel

import (
	"strings"
	"testing"
)

// A level is for all kernels of the process, so that another machine's bits can be had here.
func TestLevelByName(t *testing.T) {
	defer func() {
		if err := (native{}).setup(); err != nil {
			t.Error(err)
		}
	}()
	for l, name := range levelNames {
		t.Run(name, func(t *testing.T) {
			has := use(level(l))
			t.Setenv(LevelVariable, name)
			err := native{}.setup()
			if has != (err == nil) || err != nil && !strings.Contains(err.Error(), "SURMISE_KERNELS is "+name) {
				t.Errorf("the processor has it: %t; %v", has, err)
			}
			if has && nativeBF16 != (level(l) >= avx512bf16) {
				t.Errorf("bfloat16 is native: %t", nativeBF16)
			}
		})
	}
	t.Setenv(LevelVariable, "sse9")
	if err := (native{}).setup(); err == nil || !strings.Contains(err.Error(), `SURMISE_KERNELS is "sse9", want one of baseline, avx2,`) {
		t.Errorf("an unknown level: %v", err)
	}
	t.Setenv(LevelVariable, "")
}

// eachLevel runs f with the kernels of every instruction set this processor has.
func eachLevel(t *testing.T, f func(*testing.T)) {
	t.Helper()
	defer func() {
		if err := (native{}).setup(); err != nil {
			t.Error(err)
		}
	}()
	for l, name := range levelNames {
		t.Run(name, func(t *testing.T) {
			if !use(level(l)) {
				t.Skipf("this processor has no %s", name)
			}
			f(t)
		})
	}
}
