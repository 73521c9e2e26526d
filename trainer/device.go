package trainer

import (
	"context"
	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
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

// newPipeline puts a program on an accelerator; clips are inputs that it is given as bytes. A run that is told to stop
// still has to read its weights: the machine's waiting does not end with ctx.
func newPipeline(ctx context.Context, p *graph.Program, on xla.Device, precision cpu.Precision, clips ...*G.Node) (*xla.Machine, error) {
	o := xla.Options{Precision: xla.Precision(precision), Pixels: map[*G.Node]xla.Pixels{}}
	scale, shift := video.Normalisation()
	for _, n := range clips {
		o.Pixels[n] = xla.Pixels{Scale: scale[:], Shift: shift[:]}
	}
	return xla.New(context.WithoutCancel(ctx), p, on, o)
}

// takesBytes says whether an accelerator is given clips as bytes: a quarter of what has to be sent. Pixels that were scaled
// are rounded by it, by no more than products round them in these precisions; fp32 gets them as they are.
func (s *stepper) takesBytes() bool {
	return s.precision != cpu.FP32 && s.encoder == nil && s.model.Clip != nil
}
