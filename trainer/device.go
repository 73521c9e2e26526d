package trainer

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
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

// bytes are the clips that an accelerator is given as bytes: a quarter of what has to be sent. Pixels that were scaled are
// rounded by it, by no more than products round them in these precisions; fp32 gets them as they are.
func (s *stepper) bytes(precision cpu.Precision) G.Nodes {
	if precision == cpu.FP32 || s.encoder != nil || s.model.Clip == nil {
		return nil
	}
	return G.Nodes{s.model.Clip}
}

// toBytes undoes the normalisation of clips [B,3,…], whose planes have plane values of one colour, on some threads.
func toBytes(dst []byte, clips []float32, plane, threads int) error {
	if len(clips) != len(dst) {
		return fmt.Errorf("clips of %d values, want %d", len(clips), len(dst))
	}
	scale, shift := video.Normalisation()
	var all errgroup.Group
	all.SetLimit(max(1, threads))
	for at := 0; at < len(clips); at += plane {
		all.Go(func() error {
			c := at / plane % len(scale)
			out, in := dst[at:at+plane], clips[at:at+plane]
			for i, x := range in {
				switch v := (x-shift[c])/scale[c] + 0.5; {
				case v >= 256:
					out[i] = 255
				case v >= 1:
					out[i] = uint8(v)
				case v < 1:
					out[i] = 0
				default:
					return fmt.Errorf("value %d of clip %d is %g", (at+i)%(plane*len(scale)), at/(plane*len(scale)), x)
				}
			}
			return nil
		})
	}
	return all.Wait()
}
