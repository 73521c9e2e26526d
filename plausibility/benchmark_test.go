package plausibility

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

func TestBenchmark(t *testing.T) {
	for objective, contexts := range map[string][]int{model.Masked: {2, 4}, model.NextTubelet: {}} {
		shape := model.Config{Objective: objective, Size: 16, Frames: 8, Dim: 16, Depth: 1, Heads: 2, PredDim: 16, PredDepth: 1}.WithDefaults()
		o := BenchmarkOptions{Windows: 5, Passes: 3, Batch: 2, Machine: cpu.Options{Threads: 1}}
		r, err := Benchmark(t.Context(), shape, o)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.Contexts, contexts) || r.Contexts == nil {
			t.Errorf("%s: contexts %v, want %v", objective, r.Contexts, contexts)
		}
		if r.Precision != cpu.FP32 || r.Threads != 1 || r.Windows != 5 || r.Passes != 3 || r.Kernels == "" || r.MachineBytes <= 0 ||
			r.ScoreSeconds <= 0 || math.Abs(r.WindowsPerSecond*r.ScoreSeconds-5) > 1e-6 || r.GFLOPS <= 0 {
			t.Errorf("%s: got %+v", objective, r)
		}
		// The work of a pass grows with its windows, the last batch full or not, and the first window has all its tubelets
		// to itself.
		gflop := []float64{r.GFLOPPerPass}
		for _, o.Windows = range []int{10, 15} {
			longer, err := Benchmark(t.Context(), shape, o)
			if err != nil {
				t.Fatal(err)
			}
			gflop = append(gflop, longer.GFLOPPerPass)
		}
		if more := gflop[1] - gflop[0]; math.Abs((gflop[2]-gflop[1])/more-1) > 1e-9 || more >= gflop[0] {
			t.Errorf("%s: %g GFLOP for 5, 10 and 15 windows", objective, gflop)
		}
	}
}

func TestBenchmarkRefusesAndStops(t *testing.T) {
	shape := model.Config{Size: 16, Frames: 8, Dim: 16, Depth: 1, Heads: 2, PredDim: 16, PredDepth: 1}.WithDefaults()
	good := BenchmarkOptions{Windows: 2, Passes: 1, Batch: 2, Machine: cpu.Options{Threads: 1}}
	for want, change := range map[string]func(*BenchmarkOptions){
		"windows is 0":        func(o *BenchmarkOptions) { o.Windows = 0 },
		"windows is 1001":     func(o *BenchmarkOptions) { o.Windows = 1001 },
		"passes is 0":         func(o *BenchmarkOptions) { o.Passes = 0 },
		"threads is 0":        func(o *BenchmarkOptions) { o.Machine.Threads = 0 },
		`precision is "fp16"`: func(o *BenchmarkOptions) { o.Machine.Precision = "fp16" },
		"too large":           func(o *BenchmarkOptions) { o.Machine.Memory = 1 << 10 },
		"batch of 0":          func(o *BenchmarkOptions) { o.Batch = 0 },
	} {
		o := good
		change(&o)
		if _, err := Benchmark(t.Context(), shape, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
	stop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := Benchmark(ctx, shape, good); !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause of the cancellation", err)
	}
}
