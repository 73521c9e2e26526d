package trainer

import (
	"context"
	"slices"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

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
// still has to read its weights: the machine's waiting does not end with ctx. No more steps are started at once than there
// are from report to report.
func newPipeline(ctx context.Context, p *graph.Program, on xla.Device, precision cpu.Precision, logEvery int, clips ...*G.Node) (*xla.Machine, error) {
	o := xla.Options{Precision: xla.Precision(precision), Pixels: map[*G.Node]xla.Pixels{}, Tuning: xla.Tuning{Steps: evenly(logEvery, together(p, clips))}}
	scale, shift := video.Normalisation()
	for _, n := range clips {
		o.Pixels[n] = xla.Pixels{Scale: scale[:], Shift: shift[:]}
	}
	return xla.New(context.WithoutCancel(ctx), p, on, o)
}

// evenly is how many steps to start at once, at most most, so that few are computed for nothing between two reports: those
// of a launch that is not full are.
func evenly(logEvery, most int) int {
	launches := (logEvery + most - 1) / most
	return (logEvery + launches - 1) / launches
}

// together is how many steps are started at once where nobody said: a few, so that the host has time for the next while the
// device works, and fewer the larger a step's clips are, for then a step takes long anyway.
func together(p *graph.Program, bytes []*G.Node) int {
	const (
		most  = 5        // half of log_every's default: a report then waits for two launches, and one is made ready beside the other
		inAll = 64 << 20 // bytes of clips
	)
	size := 0
	for _, n := range p.Inputs {
		switch {
		case n.Dtype() != tensor.Float32: // indices
		case slices.Contains(bytes, n):
			size += n.Shape().TotalSize()
		default:
			size += 4 * n.Shape().TotalSize()
		}
	}
	return max(1, min(most, inAll/max(1, size)))
}

// takesBytes says whether an accelerator is given clips as bytes: a quarter of what has to be sent. Pixels that were scaled
// are rounded by it, by no more than products round them in these precisions; fp32 gets them as they are.
func (s *stepper) takesBytes() bool {
	return s.precision != cpu.FP32 && s.encoder == nil && s.model.Clip != nil
}
