// Package trainer is one training run: clips in, checkpoints out. Read train.go.
package trainer

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/surmise-ml/surmise/masking"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/parallel"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// Config is everything that a run's result depends on, beside the videos themselves.
// Run takes every field as it is; Defaults fills in zero ones for those who write a
// Config by hand.
type Config struct {
	Model model.Config `json:"model"`
	Data  video.Spec   `json:"data"` // Size and Frames are the model's
	Mask  masking.Spec `json:"mask"` // for objective masked; default V-JEPA's two mask groups

	Encoder Source `json:"encoder,omitzero"` // of a frozen encoder, for a model with FrozenEncoder: the target encoder there
	Init    Source `json:"init,omitzero"`    // of the weights to begin with; zero: fresh ones, drawn from Seed

	Steps   int    `json:"steps"`   // optimiser steps
	Batch   int    `json:"batch"`   // clips per step
	Seed    uint64 `json:"seed"`    // of weights, clips and masks
	Threads int    `json:"threads"` // 0: as many as the process may use; see Threads

	Precision cpu.Precision `json:"precision"` // of products and what lies between them; default auto. TF32 takes an accelerator

	LearningRate     float64 `json:"learning_rate"`       // peak
	StartLR          float64 `json:"start_learning_rate"` // at the start of the warmup
	FinalLR          float64 `json:"final_learning_rate"` // at the end of the cosine
	WarmupSteps      int     `json:"warmup_steps"`
	WeightDecay      float64 `json:"weight_decay"`       // at the start of its cosine
	FinalWeightDecay float64 `json:"final_weight_decay"` // at its end
	EMAStart         float64 `json:"ema_start"`          // momentum of the target encoder, linear in the step
	EMAEnd           float64 `json:"ema_end"`
	ScheduleScale    float64 `json:"schedule_scale"` // schedules run over ScheduleScale · Steps; default 1. V-JEPA stops them early with 1.25 (its ipe_scale)
	ClipNorm         float64 `json:"clip_norm"`      // largest gradient norm, encoder and predictor apart; 0: no clipping
	ClipAfter        int     `json:"clip_after"`     // steps before clipping begins
	LossExponent     float64 `json:"loss_exponent"`  // default 1
	VarianceCoeff    float64 `json:"variance_coeff"` // weight of the variance regulariser

	LogEvery        int  `json:"log_every"`        // steps between progress reports
	CheckpointEvery int  `json:"checkpoint_every"` // steps between checkpoints; 0: only at the end
	Truncate        bool `json:"truncate"`         // cut masks to the batch minimum as published; drops late frames
}

// Source names a model that weights are read from.
type Source struct {
	From   string `json:"from"`   // checkpoint folder or .safetensors file; may move
	SHA256 string `json:"sha256"` // of the weights' file; filled in by Run, which refuses another one if it is given
}

// AdamW's constants are those of the published configurations.
const (
	beta1   = 0.9
	beta2   = 0.999
	adamEps = 1e-8
)

// Defaults fills in what was left zero, with the defaults of the API (see job.proto).
func (c Config) Defaults() Config {
	c.Model = c.Model.WithDefaults()
	c.Data.Size, c.Data.Frames = c.Model.Size, c.Model.Frames
	if c.Model.Objective == model.Masked && c.Mask.Kind == "" {
		c.Mask.Kind = "multiblock3d"
	}
	setDefault(&c.Steps, 600)
	setDefault(&c.Batch, 16)
	setDefault(&c.Precision, cpu.Auto)
	setDefault(&c.LearningRate, 1e-3)
	setDefault(&c.StartLR, c.LearningRate/5)
	setDefault(&c.FinalLR, min(1e-6, c.LearningRate))
	setDefault(&c.WarmupSteps, c.Steps/10)
	setDefault(&c.WeightDecay, 0.04)
	setDefault(&c.FinalWeightDecay, 0.4)
	setDefault(&c.EMAStart, 0.99)
	setDefault(&c.EMAEnd, 1)
	setDefault(&c.ScheduleScale, 1)
	setDefault(&c.LossExponent, 1)
	setDefault(&c.LogEvery, 10)
	c.Data = c.Data.WithDefaults()
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first impossible field, by name, before any work.
func (c Config) Validate() error {
	if err := c.Model.Validate(); err != nil {
		return err
	}
	if c.Data.Size != c.Model.Size || c.Data.Frames != c.Model.Frames {
		return fmt.Errorf("data gives clips of %d frames of %d px, the model takes %d frames of %d px",
			c.Data.Frames, c.Data.Size, c.Model.Frames, c.Model.Size)
	}
	if err := c.validateEncoder(); err != nil {
		return err
	}
	if c.Init.From != "" && c.Model.FrozenEncoder {
		return fmt.Errorf("init.from is %q with a frozen encoder: want one of the two", c.Init.From)
	}
	for _, f := range []struct {
		name               string
		value, least, most int
	}{
		{"steps", c.Steps, 1, 1e8}, {"batch", c.Batch, 1, 4096}, {"threads", c.Threads, 0, 1024},
		{"warmup_steps", c.WarmupSteps, 0, c.Steps},
		{"clip_after", c.ClipAfter, 0, 1e8}, {"log_every", c.LogEvery, 1, 1e8}, {"checkpoint_every", c.CheckpointEvery, 0, 1e8},
	} {
		if f.value < f.least || f.value > f.most {
			return fmt.Errorf("%s is %d, want %d to %d", f.name, f.value, f.least, f.most)
		}
	}
	for _, f := range []struct {
		name               string
		value, least, most float64
	}{
		{"learning_rate", c.LearningRate, 0, 10}, {"start_learning_rate", c.StartLR, 0, 10}, {"final_learning_rate", c.FinalLR, 0, 10},
		{"weight_decay", c.WeightDecay, 0, 10}, {"final_weight_decay", c.FinalWeightDecay, 0, 10},
		{"ema_start", c.EMAStart, 0, 1}, {"ema_end", c.EMAEnd, 0, 1}, {"clip_norm", c.ClipNorm, 0, 1e6},
		{"schedule_scale", c.ScheduleScale, 1, 100}, {"loss_exponent", c.LossExponent, 1, 8}, {"variance_coeff", c.VarianceCoeff, 0, 1e6},
	} {
		if math.IsNaN(f.value) || f.value < f.least || f.value > f.most {
			return fmt.Errorf("%s is %g, want %g to %g", f.name, f.value, f.least, f.most)
		}
	}
	switch c.Precision {
	case cpu.Auto, cpu.FP32, cpu.BF16, tf32:
		return nil
	}
	return fmt.Errorf("precision is %q, want auto, fp32, tf32 or bf16", c.Precision)
}

// ValidateHere reports the first field that this machine, with an accelerator if on is not nil, cannot give, by name: a
// config may have been written on another one.
func (c Config) ValidateHere(on xla.Device) error {
	if _, err := Threads(c.Threads); err != nil {
		return err
	}
	_, err := ResolvePrecision(c.Precision, on)
	return err
}

// Threads returns what a setting of threads means on this machine: 0 is every core that
// the process may use. More than those is an error: they would only take turns.
func Threads(setting int) (int, error) {
	cores := min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) // affinity, and the limit of a container
	switch {
	case setting < 0 || setting > cores:
		return 0, fmt.Errorf("threads is %d, want 1 to %d, the cores that this process may use, or 0 for all of them", setting, cores)
	case setting == 0:
		return cores, nil
	}
	return setting, nil
}

// prepare validates a config for a run on this machine, or on its accelerator, and settles its threads.
func (c Config) prepare(on xla.Device) (Config, error) {
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("config: %w", err)
	}
	if err := c.ValidateHere(on); err != nil {
		return c, fmt.Errorf("config: %w", err)
	}
	var err error
	c.Threads, err = Threads(c.Threads)
	return c, err
}

// Progress is what a run says of itself at every log line.
type Progress struct {
	Step, Steps    int     // done, to do
	Loss           float64 // of the newest step: LossJEPA + VarianceCoeff · LossVariance
	LossJEPA       float64
	LossVariance   float64
	LearningRate   float64
	GradNorm       float64 // of encoder and predictor together, before clipping
	ClipsPerSecond float64 // since the last report
	StepSeconds    float64 // mean since the last report
	DataWaitShare  float64 // share of the time since the last report spent waiting for clips, 0 to 1
	Collapse

	ETA      time.Duration
	Videos   int // usable files
	Unusable int // files that are not, named in Result.Verdicts
}

// Hooks are called from the training goroutine, which waits for them.
type Hooks struct {
	Indexing   func(done, total int)             // while the videos are inspected
	Indexed    func([]video.Verdict) error       // once they are, with what was found of each; an error ends the run
	Progress   func(Progress)                    // every LogEvery steps, and at the end
	Checkpoint func(path string, step int) error // after each checkpoint is on disk; an error ends the run
	// Evaluate is called with the weights before the first step, every EvaluateEvery steps, and after the last one. A
	// resumed run calls it first for the step it begins at, if that is one of those. The weights are the run's own memory:
	// valid until it returns, and to be left alone. An error ends the run.
	Evaluate      func(ctx context.Context, step int, weights []checkpoint.Tensor) error
	EvaluateEvery int // 0: never
	// Group is the processes that train the model together, each on its share of every batch; nil: this one alone. The
	// first one reports and writes checkpoints; the others do nothing of that. When Run fails in one of them the others
	// wait for it, until its caller calls Group.Abort.
	Group    parallel.Group
	Features *Features        // keeps what a frozen encoder gives of clips; nil: it is computed every time
	Decoders *video.Pool      // that read the videos; default the run's own
	Device   xla.Device       // accelerator to train on, which stays the caller's; nil: the CPU
	Now      func() time.Time // the clock that rates and ETA are measured with; default time.Now
}

// Result is what a run that came to its end leaves behind.
type Result struct {
	Checkpoint string          // folder of the last checkpoint
	Last       Progress        // figures of the last report
	Verdicts   []video.Verdict // one for every file that was looked at
	Encoded    int             // clips that a frozen encoder had to be run on
}
