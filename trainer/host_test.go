package trainer

import (
	"context"
	"testing"

	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// idle is an accelerator that computes nothing, in no time.
type idle struct{}

func (idle) Name() string                 { return "idle" }
func (idle) Memory() (int64, int64, bool) { return 0, 0, false }
func (idle) Close() error                 { return nil }
func (idle) Upload(_ context.Context, t xla.Type, _ []byte) (xla.Buffer, error) {
	return nothing{t}, nil
}
func (idle) Compile(_ context.Context, m xla.Module) (xla.Executable, error) {
	return idleProgram{m}, nil
}

type idleProgram struct{ m xla.Module }

func (p idleProgram) Run(context.Context, []xla.Buffer) ([]xla.Buffer, error) {
	var out []xla.Buffer
	for _, t := range p.m.Results {
		out = append(out, nothing{t})
	}
	return out, nil
}
func (idleProgram) Memory() (m xla.ExecutableMemory, ok bool) { return m, false }
func (idleProgram) Close() error                              { return nil }

type nothing struct{ t xla.Type }

func (n nothing) Type() xla.Type { return n.t }
func (nothing) Download(_ context.Context, dst []byte) error {
	clear(dst)
	return nil
}
func (nothing) Wait(context.Context) error { return nil }
func (nothing) Close() error               { return nil }

// BenchmarkHost is what steps cost the host while an accelerator works.
func BenchmarkHost(b *testing.B) {
	for preset, batch := range map[string]int{"nano": 16, "tiny": 8, "small": 2} {
		b.Run(preset, func(b *testing.B) {
			m, err := model.Preset(preset)
			if err != nil {
				b.Fatal(err)
			}
			cfg := Config{Model: m, Batch: batch, Precision: "bf16"}.Defaults()
			b.ResetTimer()
			r, err := Benchmark(b.Context(), cfg, max(100, b.N), idle{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(1e6*r.StepSeconds, "µs/step")
		})
	}
}
