package trainer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"strings"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// Run trains a model on videos and keeps its checkpoints in dir. cfg is complete: zero
// is a value (see Config.Defaults). If dir holds a checkpoint, the run goes on from the
// newest whole one; with the same config, number of threads and resolved precision its
// weights end bit-identical to those of an undisturbed run. A checkpoint of another
// config, or of other videos, is refused.
//
// When ctx ends, a checkpoint is written and Run returns ctx's cause. Errors name the
// field, file or tensor; no checkpoint is damaged by any of them.
func Run(ctx context.Context, cfg Config, dir string, hooks Hooks) (Result, error) {
	cfg, err := cfg.prepare(hooks.Device)
	if err != nil {
		return Result{}, err
	}
	masks, err := newMasks(cfg)
	if err != nil {
		return Result{}, fmt.Errorf("config: %w", err)
	}
	part, err := newShare(cfg, hooks.Group)
	if err != nil {
		return Result{}, fmt.Errorf("config: %w", err)
	}
	if part.leads() {
		claim, err := checkpoint.Claim(dir)
		if err != nil {
			return Result{}, err
		}
		defer func() { _ = claim.Close() }() // it ends with the process in any case
		if err := checkpoint.Sweep(dir); err != nil {
			return Result{}, err
		}
	} else {
		hooks.Progress, hooks.Checkpoint, hooks.Evaluate, hooks.Indexing = nil, nil, nil, nil
	}
	precision, err := ResolvePrecision(cfg.Precision, hooks.Device)
	if err != nil {
		return Result{}, err
	}
	if part.group != nil && hooks.Device != nil {
		return Result{}, fmt.Errorf("config: several processes train one model on CPUs only, and this one was given %s: ask for device cpu", hooks.Device.Name())
	}
	s, err := newStepper(ctx, cfg, masks.groups(), precision, part, hooks.Device, false) // before the videos: a model too large is known at once
	if err != nil {
		return Result{}, err
	}
	defer func() {
		if err := s.close(); err != nil { // the run is over, and what it saved is whole
			slog.WarnContext(ctx, "closing what a training run was computed on", "error", err)
		}
	}()
	if err := s.fits(ctx, masks); err != nil {
		return Result{}, err
	}
	s.due = func(step int) bool { return cfg.reports(step) || cfg.saves(step) || hooks.evaluates(cfg, step) }
	if m, path, ok := checkpoint.LatestManifest(dir); ok && part.leads() { // before the videos too: another config is known at once
		if err := s.sameRunAs(m, path); err != nil {
			return Result{}, fmt.Errorf("resume from %s: %w", dir, err)
		}
	}
	decoders, done := video.OwnPool(hooks.Decoders)
	defer done()
	data, err := video.OpenDataset(ctx, decoders, cfg.Data, hooks.Indexing)
	if err != nil {
		return Result{}, fmt.Errorf("open the training videos: %w", err)
	}
	result := Result{Verdicts: data.Verdicts()}
	s.dataset = identify(result.Verdicts)
	if hooks.Indexed != nil {
		if err := hooks.Indexed(result.Verdicts); err != nil {
			return result, err
		}
	}
	resumed, err := s.begin(dir)
	if err != nil {
		return result, ofTheHour(err, result.Verdicts)
	}

	var clips video.Sampler = data
	if s.encoder != nil {
		clips = s.encoder.sampler(data, hooks.Features)
	}
	feed, err := video.NewFeed(ctx, sampled{clips, part}, video.FeedOptions{
		Seed: cfg.Seed, First: int64(resumed) * int64(part.clips), Batch: part.clips, Workers: cfg.Threads, Bytes: s.asBytes})
	if err != nil {
		return result, err
	}
	defer feed.Close()

	report := newReporter(cfg, data, hooks)
	saved := resumed // the step of the newest checkpoint
	save := func(step int) error {
		if together, err := s.leaveToTheFirst(step); together || err != nil {
			saved = step
			return err
		}
		path, err := s.save(dir, step)
		if err != nil {
			return err
		}
		saved, result.Checkpoint = step, path
		if hooks.Checkpoint != nil {
			return hooks.Checkpoint(path, step)
		}
		return nil
	}
	evaluate := func(step int) error {
		if !hooks.evaluates(cfg, step) {
			return nil
		}
		defer report.pause()()
		weights, _, err := s.tensors()
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		err = hooks.Evaluate(ctx, step, weights)
		if ctx.Err() != nil && step < cfg.Steps {
			return nil // the loop stops, and keeps the step, as it does at any time
		}
		return err
	}
	if err := evaluate(resumed); err != nil {
		return result, err
	}
	for step := resumed + 1; step <= cfg.Steps; step++ {
		clips, waited, err := feed.Next(ctx)
		visible, hidden, maskErr := masks.batch(ctx, step)
		stop, apart := part.stopTogether(ctx.Err() != nil) // which may have cut either short
		if apart != nil {
			return result, fmt.Errorf("step %d: %w", step, apart)
		}
		if stop {
			stopped := cmp.Or(context.Cause(ctx), errStoppedElsewhere)
			if saved < step-1 {
				if err := save(step - 1); err != nil { // the caller knows why the run stops, but not this
					slog.ErrorContext(context.WithoutCancel(ctx), "the run was stopped, and its last steps are lost", "steps", step-1-saved, "error", err)
					stopped = errors.Join(stopped, err)
				}
			}
			if part.group != nil {
				stopped = stoppedTogether{stopped}
			}
			return result, stopped
		}
		if err := errors.Join(err, maskErr); err != nil {
			return result, fmt.Errorf("step %d: %w", step, err)
		}
		f, err := s.step(step, clips, visible, hidden)
		if err != nil {
			return result, err
		}
		report.step(step, f, waited, s)
		result.Last = report.last
		if s.encoder != nil {
			result.Encoded = s.encoder.encoded
		}
		if cfg.saves(step) {
			if err := save(step); err != nil {
				return result, err
			}
		}
		if err := evaluate(step); err != nil {
			return result, err
		}
	}
	if last := result.Last.Collapse; last.Collapsed() && s.encoder == nil {
		slog.WarnContext(ctx, "the model looks collapsed: all clips are nearly alike to it, so its surprise says nothing; try a lower learning rate",
			"effective_rank", fmt.Sprintf("%.3g", last.EffectiveRank), "feature_std", fmt.Sprintf("%.3g", last.FeatureStd), "cosine", fmt.Sprintf("%.3g", last.Cosine),
			"clip_share", fmt.Sprintf("%.3g", last.ClipShare))
	}
	if result.Checkpoint == "" && resumed >= cfg.Steps { // resumed at the end
		slog.InfoContext(ctx, "nothing was left to do: all steps of the run were done before", "steps", cfg.Steps, "checkpoint", s.resumedFrom)
		result.Checkpoint = s.resumedFrom
	}
	return result, nil
}

// newStepper builds the training graph with fresh weights, in a precision that ResolvePrecision has given, on an accelerator or, if
// on is nil, on the CPU machine, which times its operations if told to.
func newStepper(ctx context.Context, cfg Config, groups int, precision cpu.Precision, part share, on xla.Device, profile bool) (_ *stepper, err error) {
	t, err := newTraining(cfg, groups, part.size)
	if err != nil {
		return nil, err
	}
	t.Program.Results = append(t.Program.Results, t.Target) // for the monitors
	s := &stepper{precision: precision, model: t, share: part}
	if s.startsFrom, err = cfg.openInit(); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	defer func() {
		if err != nil && s.startsFrom != nil {
			err = errors.Join(err, s.startsFrom.Close())
		}
	}()
	options := cpu.Options{Threads: cfg.Threads, Precision: precision, Profile: profile}
	if part.group != nil {
		options.Peers = part.group
	}
	if cfg.Model.FrozenEncoder {
		if s.encoder, err = openEncoder(ctx, &cfg, part.clips, precision, on); err != nil {
			return nil, fmt.Errorf("encoder: %w", err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, s.encoder.close())
			}
		}()
		options.Weights, options.Release = s.encoder.weights(t.Graph), s.encoder.file.Release
	}
	if on != nil {
		var pixels G.Nodes
		if s.asBytes = s.takesBytes(); s.asBytes {
			pixels = G.Nodes{t.Clip}
		}
		s.pipeline, err = newPipeline(ctx, t.Program, on, precision, cfg.LogEvery, pixels...)
		s.m = s.pipeline
	} else {
		s.m, err = cpu.Compile(t.Program, options)
	}
	var tooLarge *cpu.MemoryError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("the model is too large: %w: lower threads, batch, model.frames, model.size, model.dim or model.depth", err)
	}
	if err != nil {
		return nil, err
	}
	s.cfg = cfg
	cfg.Model.InitInto(cfg.Seed, func(name string) []float32 {
		if s.frozen(name) {
			return nil
		}
		return s.m.Floats(t.Params[name])
	})
	if s.pipeline != nil && s.encoder != nil {
		s.encoder.load(s.pipeline, t.Graph)
	}
	return s, nil
}

// expected is the steps whose masks are looked at before the first: the most tokens of so many batches are nearly the most
// of all, and drawing them takes far less time than a compilation.
const expected = 256

// fits holds what an accelerator has against what the steps will take, and has it make room for the masks of those that
// come first.
func (s *stepper) fits(ctx context.Context, m masks) error {
	if s.pipeline == nil {
		return nil
	}
	for step := 1; step <= min(expected, s.cfg.Steps); step++ {
		visible, hidden, err := m.batch(ctx, step)
		if err == nil {
			err = s.model.Pack(s.pipeline, visible, hidden)
		}
		if err == nil {
			err = s.pipeline.Expect()
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if len(hidden) == 0 {
			break // all batches are alike
		}
	}
	return s.tooLarge(s.pipeline.Check())
}

// tooLarge says which settings make a model smaller where that is what is wrong.
func (s *stepper) tooLarge(err error) error {
	if e := (*xla.TooLargeError)(nil); errors.As(err, &e) {
		return fmt.Errorf("the model is too large: %w: lower batch, model.frames, model.size, model.dim or model.depth", err)
	}
	return err
}

// frozen tells whether a tensor is a frozen encoder's.
func (s *stepper) frozen(name string) bool {
	return s.encoder != nil && strings.HasPrefix(name, model.EncoderPrefix)
}

// tensors lists the machine's weights, and AdamW's moments, by name, after all steps that were begun. The data is the
// machine's own memory, or a frozen encoder's file; valid until the next step.
func (s *stepper) tensors() (weights, moments []checkpoint.Tensor, err error) {
	if s.pipeline != nil {
		if err := s.pipeline.Fetch(); err != nil {
			return nil, nil, fmt.Errorf("read the weights: %w", err)
		}
	}
	for _, p := range s.cfg.Model.Params() {
		if s.frozen(p.Name) {
			weights = append(weights, s.encoder.tensors[p.Name])
			continue
		}
		weights = append(weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: s.m.Floats(s.model.Params[p.Name])})
		for i, n := range s.model.Moments[p.Name] {
			if n != nil {
				moments = append(moments, checkpoint.Tensor{Name: fmt.Sprintf("moment%d.%s", i+1, p.Name), Shape: p.Shape, Data: s.m.Floats(n)})
			}
		}
	}
	return weights, moments, nil
}

// save writes the checkpoint of the newest step.
func (s *stepper) save(dir string, step int) (string, error) {
	config, err := json.Marshal(s.cfg)
	if err != nil {
		return "", fmt.Errorf("save checkpoint: %w", err)
	}
	weights, moments, err := s.tensors()
	if err != nil {
		return "", fmt.Errorf("save checkpoint: %w", err)
	}
	m := checkpoint.Manifest{Step: step, Config: config, Seed: s.cfg.Seed, Threads: s.cfg.Threads, Precision: string(s.precision),
		Dataset: s.dataset, DataPosition: int64(step) * int64(s.cfg.Batch)}
	if loss := s.figures().loss; !math.IsNaN(loss) { // of this step, also where no figures were due
		m.Metrics = map[string]float64{"loss": loss}
	}
	return checkpoint.Save(dir, m, weights, moments)
}

// errStoppedElsewhere ends this process's part of a run that another one was told to end.
var errStoppedElsewhere = errors.New("another process of this run was told to stop")

// stoppedTogether is why a run of a group ended after a step that its processes agreed on.
type stoppedTogether struct{ error }

func (s stoppedTogether) Unwrap() error { return s.error }

// StoppedTogether tells whether Run ended on all processes of a group because one of them was told to stop. After any other
// error, of a context that ended before the first step too, the others wait for this process.
func StoppedTogether(err error) bool {
	var together stoppedTogether
	return errors.As(err, &together)
}

// begin resumes, and gives all processes of the run what the first one begins with. It returns the steps that are done.
func (s *stepper) begin(dir string) (resumed int, err error) {
	if err := s.share.sameRun(s.cfg, s.precision, s.dataset); err != nil {
		return 0, err
	}
	if s.share.leads() {
		if resumed, err = s.resume(dir); err != nil {
			return 0, fmt.Errorf("resume from %s: %w", dir, err)
		}
		if s.resumedFrom == "" && s.cfg.Init.From != "" {
			if err := s.start(); err != nil {
				return 0, fmt.Errorf("init: %s: %w", s.cfg.Init.From, err)
			}
		}
	}
	if s.share.group == nil {
		return resumed, nil
	}
	weights, moments, err := s.tensors()
	if err != nil {
		return 0, err
	}
	weights = slices.DeleteFunc(weights, func(t checkpoint.Tensor) bool { return s.frozen(t.Name) })
	if resumed, err = s.share.spread(resumed, weights, moments); err != nil {
		return 0, fmt.Errorf("give all processes the same weights: %w", err)
	}
	return resumed, nil
}

// start gives the machine the weights of the model that the run begins with.
func (s *stepper) start() error {
	if s.startsFrom == nil {
		return fs.ErrNotExist
	}
	weights, _, err := s.tensors()
	if err != nil {
		return err
	}
	defer s.startsFrom.Release()
	return startFrom(weights, s.startsFrom)
}

// leaveToTheFirst compares the weights of all processes of the run, and says whether this one leaves a checkpoint to
// another.
func (s *stepper) leaveToTheFirst(step int) (bool, error) {
	if s.share.group == nil {
		return false, nil
	}
	weights, _, err := s.tensors()
	if err != nil {
		return false, err
	}
	return !s.share.leads(), s.share.sameWeights(step, weights)
}

// sameRunAs refuses a checkpoint of another config with the field's name.
func (s *stepper) sameRunAs(m checkpoint.Manifest, path string) error {
	if err := sameRun(m.Config, trainedIn(m), s.cfg, s.precision); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// resume loads the newest whole checkpoint of dir, if there is one, and returns the steps that are done. A checkpoint of
// another config or other videos is refused with the field's name.
func (s *stepper) resume(dir string) (int, error) {
	c, ok, err := checkpoint.Latest(dir)
	if err != nil || !ok {
		return 0, err
	}
	if err := s.sameRunAs(c.Manifest, c.Path); err != nil {
		return 0, err
	}
	if err := s.load(c); err != nil {
		return 0, fmt.Errorf("%s: %w", c.Path, err)
	}
	s.resumedFrom = c.Path
	return c.Manifest.Step, nil
}

// load gives the machine the weights and moments of a checkpoint of the same config. One of other videos is refused.
func (s *stepper) load(c *checkpoint.Checkpoint) error {
	trained := trainedIn(c.Manifest)
	if err := sameVideos(c.Manifest.Dataset, s.dataset); err != nil {
		return err
	}
	if c.Manifest.Threads != s.cfg.Threads {
		slog.Warn("resuming with another number of threads: sums round differently, so the weights will not be bit-identical",
			"checkpoint", c.Path, "threads", s.cfg.Threads, "checkpoint_threads", c.Manifest.Threads)
	}
	if trained != s.precision {
		slog.Warn("resuming where precision auto means another: products round differently, so the weights will not be bit-identical",
			"checkpoint", c.Path, "precision", s.precision, "checkpoint_precision", trained)
	}
	if want := int64(c.Manifest.Step) * int64(s.cfg.Batch); c.Manifest.DataPosition != want {
		return fmt.Errorf("data_position is %d, want %d after %d steps of %d clips", c.Manifest.DataPosition, want, c.Manifest.Step, s.cfg.Batch)
	}
	weights, moments, err := s.tensors()
	if err != nil {
		return err
	}
	if err := checkpoint.Match(weights, c.Model); err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	// A frozen encoder is not read back: its digest is part of the config, and its memory is not ours to write to.
	ours := func(all []checkpoint.Tensor) []checkpoint.Tensor {
		return slices.DeleteFunc(all, func(t checkpoint.Tensor) bool { return s.frozen(t.Name) })
	}
	if err := checkpoint.Assign(ours(weights), ours(c.Model)); err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	if err := checkpoint.Assign(moments, c.Optimizer); err != nil {
		return fmt.Errorf("optimiser: %w", err)
	}
	return nil
}
