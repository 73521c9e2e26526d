package trainer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// BenchmarkResult is the speed of training steps on random clips.
type BenchmarkResult struct {
	Precision      cpu.Precision `json:"precision"` // that the setting means here: fp32 or bf16; tf32 on an accelerator
	Device         string        `json:"device"`    // "cpu", or the accelerator's name
	Threads        int           `json:"threads"`
	Batch          int           `json:"batch"`             // clips of a step
	Kernels        string        `json:"kernels,omitempty"` // of the CPU machine
	Steps          int           `json:"steps"`             // measured, after the first
	ClipsPerSecond float64       `json:"clips_per_s"`
	StepSeconds    float64       `json:"step_s"`          // median; on an accelerator, of means over pipelineSteps
	StepP95        float64       `json:"step_p95_s"`      // 95th percentile
	GFLOPPerStep   float64       `json:"gflop_per_step"`  // matrix products, counted from the graph, mean over steps
	GFLOPS         float64       `json:"gflops_per_s"`    // of the median step
	RooflineGFLOPS float64       `json:"roofline_gflops"` // products alone, measured in the same run
	RooflineShare  float64       `json:"roofline_share"`  // GFLOPS / RooflineGFLOPS
	DataWaitShare  float64       `json:"data_wait_share"` // share of the time spent waiting for clips, 0 to 1
	MachineBytes   int           `json:"machine_bytes"`   // buffers of the machine
	Losses         []float64     `json:"losses"`          // of every tenth step, warm-up included: the same on all machines, but for rounding

	Operations []cpu.Operation `json:"operations,omitempty"` // where the time of the measured steps went, on the CPU

	device xla.Device
}

// pipelineSteps is how many steps an accelerator is given before it is asked for figures, as training does at its default
// of log_every. Fewer are left to warm up with.
const pipelineSteps = 10

// noise is a source of random clips that costs a copy each: training's prefetch without
// the decoding.
type noise struct {
	clip []float32
}

func newNoise(seed uint64, size int) noise {
	rng := rand.New(rand.NewPCG(seed, 1))
	n := noise{make([]float32, size)}
	for i := range n.clip {
		n.clip[i] = float32(rng.NormFloat64())
	}
	return n
}

// ClipSize and Sample implement video.Sampler.
func (n noise) ClipSize() int { return len(n.clip) }

// Sample gives every clip the same values in another place: speed does not depend on them.
func (n noise) Sample(_ context.Context, _ uint64, index int64, dst []float32) (video.SampleInfo, error) {
	from := int(index*7919) % len(n.clip) // a prime
	copy(dst[copy(dst, n.clip[from:]):], n.clip)
	return video.SampleInfo{}, nil
}

// Benchmark times steps training steps of a config on random clips, after one to warm
// up, on an accelerator or, if on is nil, on the CPU. Clips come ready made, through the prefetch that training has. The roofline is
// left to MeasureRoofline.
func Benchmark(ctx context.Context, cfg Config, steps int, on xla.Device) (BenchmarkResult, error) {
	return benchmark(ctx, cfg, steps, nil, on)
}

// BenchmarkVideos does the same on clips cut from the videos of cfg.Data, as training cuts them. They are inspected
// before the time is taken.
func BenchmarkVideos(ctx context.Context, cfg Config, steps int, decoders *video.Pool, on xla.Device) (BenchmarkResult, error) {
	data, err := video.OpenDataset(ctx, decoders, cfg.Data, nil)
	if err != nil {
		return BenchmarkResult{}, fmt.Errorf("open the videos: %w", err)
	}
	return benchmark(ctx, cfg, steps, data, on)
}

// benchmark takes clips from data; nil: random ones.
func benchmark(ctx context.Context, cfg Config, steps int, data video.Sampler, on xla.Device) (r BenchmarkResult, err error) {
	if steps < 1 {
		return BenchmarkResult{}, fmt.Errorf("steps is %d, want at least 1", steps)
	}
	if cfg.Model.FrozenEncoder { // its features come from elsewhere
		return BenchmarkResult{}, errors.New("a predictor on a frozen encoder cannot be timed")
	}
	warm, each := 1, 1 // steps to warm up, and for each time that is taken
	if on != nil {
		// Steps follow each other without a word, so only many together can be timed.
		warm, each = pipelineSteps, pipelineSteps
		steps = (steps + each - 1) / each * each
	}
	cfg.Steps, cfg.WarmupSteps = warm+steps, 0
	if cfg, err = cfg.prepare(on); err != nil {
		return BenchmarkResult{}, err
	}
	masks, err := newMasks(cfg)
	if err != nil {
		return BenchmarkResult{}, fmt.Errorf("config: %w", err)
	}
	precision, err := ResolvePrecision(cfg.Precision, on)
	if err != nil {
		return BenchmarkResult{}, err
	}
	s, err := newStepper(ctx, cfg, masks.groups(), precision, alone(cfg), on, true)
	if err != nil {
		return BenchmarkResult{}, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.fits(ctx, masks); err != nil {
		return BenchmarkResult{}, err
	}
	s.due = func(step int) bool { return step%each == 0 }
	r = BenchmarkResult{Precision: s.precision, Device: "cpu", Threads: cfg.Threads, Batch: cfg.Batch, Steps: steps, device: on}
	machine, onCPU := s.m.(*cpu.Machine)
	if onCPU {
		r.Kernels, r.MachineBytes = kernel.Features(), machine.Bytes()
	} else {
		r.Device = on.Name()
	}

	if data == nil {
		data = newNoise(cfg.Seed, cfg.Model.ClipValues())
	}
	feed, err := video.NewFeed(ctx, data, video.FeedOptions{Batch: cfg.Batch, Workers: cfg.Threads, Bytes: s.asBytes})
	if err != nil {
		return r, err
	}
	defer feed.Close()
	var times []float64
	var waiting float64
	working, block := 0.0, 0.0
	for step := 1; step <= cfg.Steps; step++ {
		clips, waited, err := feed.Next(ctx)
		if err != nil {
			return r, err
		}
		began := time.Now()
		visible, hidden, err := masks.batch(ctx, step)
		if err != nil {
			return r, err
		}
		f, err := s.step(step, clips, visible, hidden)
		if err != nil {
			return r, err
		}
		if step%pipelineSteps == 0 {
			r.Losses = append(r.Losses, f.loss)
		}
		took := time.Since(began).Seconds()
		if step <= warm {
			if step == 1 && onCPU {
				machine.ResetProfile()
			}
			continue
		}
		working, waiting = working+took, waiting+waited.Seconds()
		if onCPU {
			r.GFLOPPerStep += machine.ProductFLOPs() / 1e9 / float64(steps)
		} else { // the device works while the host waits for clips
			took += waited.Seconds()
			r.GFLOPPerStep += s.pipeline.ProductFLOPs() / 1e9 / float64(steps)
		}
		if block += took; (step-warm)%each == 0 {
			times, block = append(times, block/float64(each)), 0
		}
	}
	if onCPU {
		r.Operations = machine.Operations()
	} else {
		r.MachineBytes = int(s.pipeline.Memory().Total())
	}
	r.DataWaitShare = waiting / (waiting + working)
	slices.Sort(times)
	r.StepSeconds, r.StepP95 = times[len(times)/2], times[min(len(times)-1, len(times)*95/100)]
	r.ClipsPerSecond = float64(cfg.Batch) / r.StepSeconds
	r.GFLOPS = r.GFLOPPerStep / r.StepSeconds
	return r, nil
}

// MeasureRoofline measures products alone, for about length, and sets what the benchmark reached of that.
func (r *BenchmarkResult) MeasureRoofline(length time.Duration) error {
	roofline, err := r.roofline(length)
	if err != nil {
		return err
	}
	r.RooflineGFLOPS = roofline / 1e9
	r.RooflineShare = r.GFLOPS / r.RooflineGFLOPS
	return nil
}

// rooflineSize is the rows of the products that an accelerator is measured by: enough to keep all of it busy.
const rooflineSize = 8192

func (r *BenchmarkResult) roofline(length time.Duration) (float64, error) {
	if r.device == nil {
		return cpu.Roofline(r.Threads, r.Precision, length)
	}
	return xla.Roofline(context.Background(), r.device, xla.Precision(r.Precision), rooflineSize, length)
}
