package trainer

import (
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// BenchmarkStep times whole training steps of each preset on random clips.
func BenchmarkStep(b *testing.B) {
	for _, preset := range []struct {
		name  string
		batch int
	}{{"demo", 16}, {"nano", 16}, {"tiny", 8}, {"small", 2}} {
		b.Run(preset.name, func(b *testing.B) {
			shape, err := model.Preset(preset.name)
			if err != nil {
				b.Fatal(err)
			}
			r, err := Benchmark(b.Context(), Config{Model: shape, Batch: preset.batch}.Defaults(), b.N, nil)
			if err != nil {
				b.Fatal(err)
			}
			if err := r.MeasureRoofline(time.Second); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(r.StepSeconds*1e9, "ns/op")
			b.ReportMetric(r.ClipsPerSecond, "clips/s")
			b.ReportMetric(r.GFLOPS, "GFLOP/s")
			b.ReportMetric(r.RooflineShare, "roofline-share")
		})
	}
}

func TestBenchmark(t *testing.T) {
	shape := model.Config{Objective: model.Masked, Size: 32, Frames: 4, Dim: 24, Depth: 1, Heads: 3, PredDim: 24, PredDepth: 1, PredHeads: 3}
	r, err := Benchmark(t.Context(), Config{Model: shape, Batch: 2, Threads: 1, Precision: cpu.FP32}.Defaults(), 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MeasureRoofline(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if r.StepSeconds <= 0 || r.StepP95 < r.StepSeconds || r.GFLOPPerStep <= 0 || r.RooflineShare <= 0 || r.RooflineShare > 1.5 || r.Steps != 3 ||
		r.DataWaitShare < 0 || r.DataWaitShare >= 1 || r.Precision != cpu.FP32 {
		t.Errorf("got %+v", r)
	}
	if _, err := Benchmark(t.Context(), Config{Model: shape}.Defaults(), 0, nil); err == nil || !strings.Contains(err.Error(), "steps") {
		t.Errorf("no steps: got %v, want an error that names them", err)
	}
}
