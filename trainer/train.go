package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/surmise-ml/surmise/masking"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// Run trains a model on videos and keeps its checkpoints in dir. cfg is complete: zero
// is a value (see Config.Defaults). If dir holds a
// checkpoint, the run goes on from the newest whole one; with the same config and
// number of threads its weights end bit-identical to those of an undisturbed run.
//
// When ctx ends, a checkpoint is written and Run returns ctx's cause. Errors name the
// field, file or tensor; no checkpoint is damaged by any of them.
func Run(ctx context.Context, cfg Config, dir string, hooks Hooks) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, fmt.Errorf("config: %w", err)
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.GOMAXPROCS(0)
	}
	masks, err := newMasks(cfg)
	if err != nil {
		return Result{}, fmt.Errorf("config: %w", err)
	}
	if err := checkpoint.Sweep(dir); err != nil {
		return Result{}, err
	}
	data, err := video.OpenDataset(ctx, cfg.Data, hooks.Indexing)
	if err != nil {
		return Result{}, fmt.Errorf("open the training videos: %w", err)
	}
	result := Result{Verdicts: data.Verdicts()}

	s, err := newStepper(cfg, masks.groups())
	if err != nil {
		return result, err
	}
	defer func() { _ = s.m.Close() }()
	done, err := s.resume(dir)
	if err != nil {
		return result, fmt.Errorf("resume from %s: %w", dir, err)
	}

	feed, err := video.NewFeed(ctx, data, video.FeedOptions{
		Seed: cfg.Seed, First: int64(done) * int64(cfg.Batch), Batch: cfg.Batch, Workers: cfg.Threads})
	if err != nil {
		return result, err
	}
	defer feed.Close()

	report := newReporter(cfg, data, hooks)
	saved := done // the step of the newest checkpoint
	save := func(step int) error {
		if result.Checkpoint, err = s.save(dir, step, report.last.Loss); err != nil {
			return err
		}
		saved = step
		if hooks.Checkpoint != nil {
			return hooks.Checkpoint(result.Checkpoint, step)
		}
		return nil
	}
	for step := done + 1; step <= cfg.Steps; step++ {
		clips, waited, err := feed.Next(ctx)
		if ctx.Err() != nil {
			if saved < step-1 {
				return result, errors.Join(context.Cause(ctx), save(step-1))
			}
			return result, context.Cause(ctx)
		}
		if err != nil {
			return result, fmt.Errorf("step %d: %w", step, err)
		}
		context, pred, err := masks.batch(step)
		if err != nil {
			return result, fmt.Errorf("step %d: %w", step, err)
		}
		f, err := s.step(step, clips, context, pred)
		if err != nil {
			return result, err
		}
		report.step(step, f, waited, s)
		result.Last = report.last
		if step == cfg.Steps || cfg.CheckpointEvery > 0 && step%cfg.CheckpointEvery == 0 {
			if err := save(step); err != nil {
				return result, err
			}
		}
	}
	if result.Checkpoint == "" { // resumed at the end: nothing was left to do
		result.Checkpoint, _, err = checkpoint.Latest(dir)
	}
	return result, err
}

// masks draws the masks of every step's batch.
type masks struct {
	cfg Config
	gen masking.Generator
}

func newMasks(cfg Config) (masks, error) {
	spec := cfg.Mask
	if cfg.Model.Objective == model.NextTubelet {
		spec = masking.Spec{Kind: masking.KindNextTubelet}
	}
	t, h, w := cfg.Model.Grid()
	gen, err := masking.New(spec, masking.Grid{T: t, H: h, W: w})
	if err != nil {
		return masks{}, fmt.Errorf("mask: %w", err)
	}
	return masks{cfg, gen}, nil
}

// groups is the number of segments that a clip has in the graph.
func (m masks) groups() int { return max(1, m.gen.Groups()) }

// batch returns the visible and hidden tokens of step's batch, [B·groups], clip-major;
// both empty for objectives without masks. Each clip's masks follow from the seed and
// its place in the run, whatever came before.
func (m masks) batch(step int) (context, pred [][]int32, err error) {
	if m.gen.Groups() == 0 {
		return nil, nil, nil
	}
	batch := make([][]masking.Mask, m.cfg.Batch)
	for i := range batch {
		clip := uint64(step-1)*uint64(m.cfg.Batch) + uint64(i)
		seed := rand.NewPCG(m.cfg.Seed, clip).Uint64()
		if batch[i], err = m.gen.Masks(seed); err != nil {
			return nil, nil, fmt.Errorf("masks of clip %d: %w", clip, err)
		}
	}
	if m.cfg.Truncate {
		batch = masking.Truncate(batch)
	}
	for _, clip := range batch {
		for _, mask := range clip {
			context, pred = append(context, mask.Context), append(pred, mask.Target)
		}
	}
	return context, pred, nil
}

// newStepper builds the training graph with fresh weights on the CPU machine.
func newStepper(cfg Config, groups int) (*stepper, error) {
	t, err := newTraining(cfg, groups)
	if err != nil {
		return nil, err
	}
	t.Program.Results = append(t.Program.Results, t.Target) // for the monitors
	m, err := cpu.Compile(t.Program, cpu.Options{Threads: cfg.Threads})
	if err != nil {
		return nil, err
	}
	for name, x := range cfg.Model.Init(cfg.Seed) {
		copy(m.Floats(t.Params[name]), x)
	}
	return &stepper{cfg: cfg, model: t, m: m}, nil
}

// tensors lists the machine's weights, and AdamW's moments, by name. The data is the
// machine's own memory.
func (s *stepper) tensors() (weights, moments []checkpoint.Tensor) {
	for _, p := range s.cfg.Model.Params() {
		weights = append(weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: s.m.Floats(s.model.Params[p.Name])})
		for i, n := range s.model.Moments[p.Name] {
			if n != nil {
				moments = append(moments, checkpoint.Tensor{Name: fmt.Sprintf("moment%d.%s", i+1, p.Name), Shape: p.Shape, Data: s.m.Floats(n)})
			}
		}
	}
	return weights, moments
}

// save writes the checkpoint of a step that is done.
func (s *stepper) save(dir string, step int, loss float64) (string, error) {
	config, err := json.Marshal(s.cfg)
	if err != nil {
		return "", fmt.Errorf("save checkpoint: %w", err)
	}
	weights, moments := s.tensors()
	m := checkpoint.Manifest{Step: step, Config: config, Seed: s.cfg.Seed, Threads: s.cfg.Threads, DataPosition: int64(step) * int64(s.cfg.Batch)}
	if !math.IsNaN(loss) {
		m.Metrics = map[string]float64{"loss": loss}
	}
	return checkpoint.Save(dir, m, weights, moments)
}

// resume loads the newest whole checkpoint of dir, if there is one, and returns the
// steps that are done. A checkpoint of another config is refused with the field's name.
func (s *stepper) resume(dir string) (int, error) {
	path, ok, err := checkpoint.Latest(dir)
	if err != nil || !ok {
		return 0, err
	}
	c, err := checkpoint.Load(path)
	if err != nil {
		return 0, err
	}
	if err := sameRun(c.Manifest.Config, s.cfg); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if c.Manifest.Threads != s.cfg.Threads {
		slog.Warn("resuming with another number of threads: sums round differently, so the weights will not be bit-identical",
			"checkpoint", path, "threads", s.cfg.Threads, "checkpoint_threads", c.Manifest.Threads)
	}
	if want := int64(c.Manifest.Step) * int64(s.cfg.Batch); c.Manifest.DataPosition != want {
		return 0, fmt.Errorf("%s: data_position is %d, want %d after %d steps of %d clips", path, c.Manifest.DataPosition, want, c.Manifest.Step, s.cfg.Batch)
	}
	weights, moments := s.tensors()
	if err := checkpoint.Assign(weights, c.Model); err != nil {
		return 0, fmt.Errorf("%s: weights: %w", path, err)
	}
	if err := checkpoint.Assign(moments, c.Optimizer); err != nil {
		return 0, fmt.Errorf("%s: optimiser: %w", path, err)
	}
	return c.Manifest.Step, nil
}

// sameRun refuses a checkpoint whose config differs in anything that its weights
// depend on, and names it. Threads, log and checkpoint intervals, and where files may
// be read do not count.
func sameRun(checkpointed json.RawMessage, cfg Config) error {
	var old Config
	if err := json.Unmarshal(checkpointed, &old); err != nil {
		return fmt.Errorf("config of the checkpoint: %w", err)
	}
	for _, c := range []*Config{&old, &cfg} {
		c.Threads, c.LogEvery, c.CheckpointEvery = 0, 0, 0
		c.Data.Roots, c.Data.CacheMiB, c.Data.MaxUnusable = nil, 0, 0
	}
	a, err := flatten(old)
	if err != nil {
		return err
	}
	b, err := flatten(cfg)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(a, b) {
		if a[name] != b[name] {
			return fmt.Errorf("it was made with %s %s, this run has %s: train into another folder, or use the same config", name, orNone(a[name]), orNone(b[name]))
		}
	}
	return nil
}

// reporter turns steps into progress reports.
type reporter struct {
	cfg              Config
	hooks            Hooks
	now              func() time.Time
	last             Progress
	since            time.Time // of the last report
	steps            int       // since then
	waited           time.Duration
	usable, unusable int
}

func newReporter(cfg Config, data *video.Dataset, hooks Hooks) *reporter {
	r := &reporter{cfg: cfg, hooks: hooks, now: hooks.Now, usable: data.Len(), unusable: len(data.Verdicts()) - data.Len()}
	if r.now == nil {
		r.now = time.Now
	}
	r.last.Loss = math.NaN()
	r.since = r.now()
	return r
}

// step takes note of one step, and reports every LogEvery of them, the first and the last.
func (r *reporter) step(step int, f figures, waited time.Duration, s *stepper) {
	r.steps++
	r.waited += waited
	r.last.Loss = f.loss
	if step != 1 && step != r.cfg.Steps && step%r.cfg.LogEvery != 0 {
		return
	}
	now := r.now()
	elapsed := max(now.Sub(r.since), time.Nanosecond)
	each := elapsed / time.Duration(r.steps)
	r.last = Progress{
		Step: step, Steps: r.cfg.Steps,
		Loss: f.loss, LossJEPA: f.jepa, LossVariance: f.variance,
		LearningRate:   float64(s.m.Floats(s.model.Schedule)[graph.LearningRate]),
		GradNorm:       math.Hypot(f.norms[0], f.norms[1]),
		ClipsPerSecond: float64(r.steps*r.cfg.Batch) / elapsed.Seconds(),
		StepSeconds:    each.Seconds(),
		DataWaitShare:  r.waited.Seconds() / elapsed.Seconds(),
		Collapse:       measureCollapse(s.m.Floats(s.model.Target), r.cfg.Batch, r.cfg.Model.Dim),
		ETA:            each * time.Duration(r.cfg.Steps-step),
		Videos:         r.usable, Unusable: r.unusable,
	}
	r.since, r.steps, r.waited = r.now(), 0, 0
	if r.hooks.Progress != nil {
		r.hooks.Progress(r.last)
	}
}
