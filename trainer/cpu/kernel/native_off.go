//go:build !cgo || nonative

package kernel

import (
	"fmt"
	"os"
)

// implementation is what the exported functions run.
type implementation = reference

// Native tells whether this build has native kernels.
const Native = false

func (reference) setup() error {
	if wanted := os.Getenv(LevelVariable); wanted != "" {
		return fmt.Errorf("%s is %q, and the kernels of this build are in Go alone", LevelVariable, wanted)
	}
	return nil
}

func (reference) nativeBF16() bool { return false }

func (reference) setFlushToZero() {}

func (reference) features() string { return "plain Go" }

func (reference) panelFloats(k, n int, _ bool) int { return k * n }

func (reference) productSumScratch(int, int) int { return 0 }

func (reference) attentionScratch(longest, _, _ int, _ bool) int { return longest }
