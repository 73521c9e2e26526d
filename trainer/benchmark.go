package trainer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
)

// BenchmarkResult is the speed of training steps on random clips.
type BenchmarkResult struct {
	Threads        int     `json:"threads"`
	Batch          int     `json:"batch"` // clips of a step
	Kernels        string  `json:"kernels"`
	Steps          int     `json:"steps"` // measured, after the first
	ClipsPerSecond float64 `json:"clips_per_s"`
	StepSeconds    float64 `json:"step_s"`          // median
	StepP95        float64 `json:"step_p95_s"`      // 95th percentile
	GFLOPPerStep   float64 `json:"gflop_per_step"`  // matrix products, counted from the graph, mean over steps
	GFLOPS         float64 `json:"gflops_per_s"`    // of the median step
	RooflineGFLOPS float64 `json:"roofline_gflops"` // products alone, measured in the same run
	RooflineShare  float64 `json:"roofline_share"`  // GFLOPS / RooflineGFLOPS
	MachineBytes   int     `json:"machine_bytes"`   // buffers of the CPU machine
}

// Benchmark times steps training steps of a config on random clips, after one to warm up.
func Benchmark(ctx context.Context, cfg Config, steps int) (BenchmarkResult, error) {
	if steps < 1 {
		return BenchmarkResult{}, fmt.Errorf("steps is %d, want at least 1", steps)
	}
	cfg.Steps, cfg.WarmupSteps = steps+1, 0
	cfg, err := cfg.prepare()
	if err != nil {
		return BenchmarkResult{}, err
	}
	masks, err := newMasks(cfg)
	if err != nil {
		return BenchmarkResult{}, fmt.Errorf("config: %w", err)
	}
	s, err := newStepper(cfg, masks.groups())
	if err != nil {
		return BenchmarkResult{}, err
	}
	defer func() { _ = s.m.Close() }()
	machine := s.m.(*cpu.Machine)
	r := BenchmarkResult{Threads: cfg.Threads, Batch: cfg.Batch, Kernels: kernel.Features(), Steps: steps, MachineBytes: machine.Bytes()}

	rng := rand.New(rand.NewPCG(cfg.Seed, 1))
	clips := make([]float32, cfg.Batch*cfg.Model.ClipValues()) // [B,3,T,H,W]
	for i := range clips {
		clips[i] = float32(rng.NormFloat64())
	}
	var times []float64
	for step := 1; step <= cfg.Steps; step++ {
		if err := context.Cause(ctx); err != nil {
			return r, err
		}
		visible, hidden, err := masks.batch(step)
		if err != nil {
			return r, err
		}
		began := time.Now()
		if _, err := s.step(step, clips, visible, hidden); err != nil {
			return r, err
		}
		if step > 1 {
			times = append(times, time.Since(began).Seconds())
			r.GFLOPPerStep += machine.ProductFLOPs() / 1e9 / float64(steps)
		}
	}
	roofline, err := cpu.Roofline(cfg.Threads, time.Second)
	if err != nil {
		return r, err
	}
	slices.Sort(times)
	r.StepSeconds, r.StepP95 = times[len(times)/2], times[min(len(times)-1, len(times)*95/100)]
	r.ClipsPerSecond = float64(cfg.Batch) / r.StepSeconds
	r.GFLOPS, r.RooflineGFLOPS = r.GFLOPPerStep/r.StepSeconds, roofline/1e9
	r.RooflineShare = r.GFLOPS / r.RooflineGFLOPS
	return r, nil
}
