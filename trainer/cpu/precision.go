package cpu

import (
	"fmt"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
)

// Precision is the number format of a machine's products and of what lies between them. Weights, moments, sums over
// clips, statistics and the residual stream are float32 in either.
type Precision string

const (
	Auto Precision = "auto" // BF16 where the processor multiplies bfloat16 itself, FP32 elsewhere
	FP32 Precision = "fp32"
	BF16 Precision = "bf16"
)

// Resolve returns what p means on this processor, FP32 or BF16. BF16 on a processor that has no instructions for it,
// and any other word, is an error.
func (p Precision) Resolve() (Precision, error) {
	if err := kernel.Setup(); err != nil {
		return "", err
	}
	switch {
	case p == FP32, p == BF16 && kernel.NativeBF16():
		return p, nil
	case p == Auto && kernel.NativeBF16():
		return BF16, nil
	case p == Auto:
		return FP32, nil
	case p == BF16:
		return "", fmt.Errorf("precision is %q, which takes a processor with AVX512_BF16 or AMX; this one has %s: use fp32 or auto", p, kernel.Features())
	}
	return "", fmt.Errorf("precision is %q, want auto, fp32 or bf16", p)
}
