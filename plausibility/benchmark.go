package plausibility

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// BenchmarkOptions says what is timed.
type BenchmarkOptions struct {
	Windows int         // of a pass, at most MaxBenchmarkWindows
	Passes  int         // timed, after one to warm up
	Batch   int         // windows per run of the model
	Machine cpu.Options // Threads is at least 1
	Device  xla.Device  // accelerator; nil: the CPU
}

// BenchmarkResult is the speed of scoring windows of random frames.
type BenchmarkResult struct {
	Precision        cpu.Precision `json:"precision"` // that the setting means here: fp32 or bf16; tf32 on an accelerator
	Device           string        `json:"device"`    // "cpu", or the accelerator's name
	Threads          int           `json:"threads"`
	Kernels          string        `json:"kernels,omitempty"` // of the CPU machine
	Windows          int           `json:"windows"`           // of a pass
	Batch            int           `json:"batch"`             // windows per run of the model
	Contexts         []int         `json:"contexts"`          // frames the model sees of a window; empty for next_tubelet, which sees every past
	Passes           int           `json:"passes"`            // measured, after the first
	ScoreSeconds     float64       `json:"score_s"`           // median of the passes over all windows
	WindowsPerSecond float64       `json:"windows_per_s"`
	GFLOPPerPass     float64       `json:"gflop_per_pass"` // matrix products, counted from the graph
	GFLOPS           float64       `json:"gflops_per_s"`   // of the median pass
	MachineBytes     int           `json:"machine_bytes"`  // buffers of the machine
}

// MaxBenchmarkWindows bounds the frames that a benchmark holds in memory.
const MaxBenchmarkWindows = 1000

// Benchmark times the scoring of one video of random frames, decoded beforehand, with a
// model of the given shape and fresh weights: windows are cut, normalised and run
// through target encoder, encoder and predictor, and their errors reduced to surprise.
// A masked model sees one tubelet of each window, two, and so on up to five eighths of it: of 16 frames the 2, 4, 6, 8 and
// 10 that are published for IntPhys (arXiv:2502.11831).
func Benchmark(ctx context.Context, shape model.Config, o BenchmarkOptions) (BenchmarkResult, error) {
	switch {
	case o.Windows < 1 || o.Windows > MaxBenchmarkWindows:
		return BenchmarkResult{}, fmt.Errorf("windows is %d, want 1 to %d", o.Windows, MaxBenchmarkWindows)
	case o.Passes < 1:
		return BenchmarkResult{}, fmt.Errorf("passes is %d, want at least 1", o.Passes)
	case o.Machine.Threads < 1:
		return BenchmarkResult{}, fmt.Errorf("threads is %d, want at least 1", o.Machine.Threads)
	}
	if err := shape.Validate(); err != nil {
		return BenchmarkResult{}, err
	}
	next := shape.Objective == model.NextTubelet
	spec := compare.DefaultSpec(shape.Frames, shape.Tubelet, next)
	spec.Contexts = []int{}
	if !next {
		for seen := shape.Tubelet; seen <= max(shape.Tubelet, shape.Frames*5/8); seen += shape.Tubelet {
			spec.Contexts = append(spec.Contexts, seen)
		}
	}
	m := (&Model{Config: shape, Device: o.Device}).fresh(0)
	net, err := m.Network(spec, o.Batch, o.Machine)
	if err != nil {
		return BenchmarkResult{}, err
	}
	defer func() { _ = net.Close() }()
	r := BenchmarkResult{Precision: net.Precision(), Device: "cpu", Threads: o.Machine.Threads, Windows: o.Windows, Batch: o.Batch,
		Contexts: spec.Contexts, Passes: o.Passes, MachineBytes: net.bytes()}
	if o.Device != nil {
		r.Device = o.Device.Name()
	} else {
		r.Kernels = kernel.Features()
	}

	c := Config{Spec: spec, Size: shape.Size, Patch: shape.Patch, Tubelet: shape.Tubelet,
		Predictor: net, Model: m.Record, Batch: o.Batch, Decoder: "none"}
	c.setDefaults()
	if err := c.validate(); err != nil {
		return r, err
	}
	s := newScorer(&c)
	clip := noise(spec.Window+(o.Windows-1)*spec.Stride, shape.Size)
	var times []float64
	for pass := range o.Passes + 1 {
		net.flops = 0
		again := *clip // another video of the same frames: nothing is known of it
		began := time.Now()
		one, err := s.begin(ctx, Video{Path: "random frames"}, decodedVideo{clip: &again})
		if err == nil {
			_, err = s.finish(ctx, []*videoScores{one})
		}
		if err != nil {
			return r, err
		}
		if pass > 0 {
			times = append(times, time.Since(began).Seconds())
		}
	}
	slices.Sort(times)
	r.ScoreSeconds, r.GFLOPPerPass = times[len(times)/2], net.flops/1e9
	r.WindowsPerSecond, r.GFLOPS = float64(o.Windows)/r.ScoreSeconds, r.GFLOPPerPass/r.ScoreSeconds
	return r, nil
}

// noise is a video of random pixels at 25 frames a second.
func noise(frames, size int) *video.Clip {
	c := &video.Clip{Frames: frames, Height: size, Width: size, Pix: make([]uint8, frames*size*size*3)}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range c.Pix {
		c.Pix[i] = uint8(rng.Uint32())
	}
	for f := range frames {
		c.Times = append(c.Times, float64(f)/25)
	}
	return c
}
