package trainer

import (
	"context"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// tf32 is a precision that accelerators alone have; see xla.InTF32.
const tf32 = cpu.Precision(xla.InTF32)

// ResolvePrecision is what a precision means on an accelerator or, if on is nil, on this processor.
func ResolvePrecision(p cpu.Precision, on xla.Device) (cpu.Precision, error) {
	if on == nil {
		return p.Resolve()
	}
	parsed, err := xla.ParsePrecision(string(p))
	return cpu.Precision(parsed), err
}

// newPipeline puts a program on an accelerator. A run that is told to stop still has to read its weights: the machine's
// waiting does not end with ctx.
func newPipeline(ctx context.Context, p *graph.Program, on xla.Device, precision cpu.Precision) (*xla.Machine, error) {
	return xla.New(context.WithoutCancel(ctx), p, on, xla.Options{Precision: xla.Precision(precision)})
}
