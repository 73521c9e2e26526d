package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// keepCheckpoints is how many checkpoints of an attempt stay on disk: one to go on from, one in case that is damaged.
const keepCheckpoints = 2

// Train does a training job whose spec is complete, with its checkpoints, event files and evaluations below dir; it goes
// on from the newest checkpoint there.
func (j Jobs) Train(ctx context.Context, spec *surmisev1.TrainSpec, dir string, r Reports) (trainer.Result, error) {
	path, _ := jobspec.Model(&surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Train{Train: spec}})
	return j.train(ctx, spec, path, dir, filepath.Join(dir, verdictsFile), r)
}

const verdictsFile = "verdicts.json"

// train does the same with the model that the job reads, if it does, at the path source, and writes what it found of the
// videos to the file verdicts.
func (j Jobs) train(ctx context.Context, spec *surmisev1.TrainSpec, source, dir, verdicts string, r Reports) (_ trainer.Result, err error) {
	cfg, spec, err := j.trainConfig(spec, source, dir)
	if err != nil {
		return trainer.Result{}, err
	}
	on, err := j.open(spec.GetDevice())
	if err != nil {
		return trainer.Result{}, fmt.Errorf("train.%w", err)
	}
	defer closeDevice(on, &err)
	if err := cfg.ValidateHere(on); err != nil {
		return trainer.Result{}, fmt.Errorf("train.%w", err)
	}
	if j.Group != nil && j.Group.Rank() > 0 {
		result, err := trainer.Run(ctx, cfg, dir, trainer.Hooks{Decoders: j.Decoders, Features: j.Features, Group: j.Group, Device: on})
		return result, dataFault(err)
	}
	curves := &curves{jobs: j, reports: r, dir: filepath.Join(dir, eventsArtifact)}
	defer curves.close()
	decoders, done := video.OwnPool(j.Decoders)
	defer done()
	hooks := trainer.Hooks{Decoders: decoders, Features: j.Features, Group: j.Group, Device: on}
	var held []plausibility.Video // out, to evaluate on
	if spec.GetEval() != nil {
		e, err := j.newEvaluator(spec, cfg, filepath.Join(dir, evaluationsArtifact), decoders, curves, on)
		if err != nil {
			return trainer.Result{}, err
		}
		defer e.close()
		hooks.Evaluate, hooks.EvaluateEvery = e.evaluate, int(spec.GetEval().GetEvery())
		held = e.cfg.Videos
	}
	hooks.Indexed = func(all []video.Verdict) error {
		if err := writeJSON(verdicts, all); err != nil {
			return infrastructure("writing the verdicts: %w", err)
		}
		sayUnusable(ctx, all, verdicts)
		return keptApart(ctx, all, held)
	}
	var published []int // steps of this run's checkpoints
	hooks.Indexing = func(done, total int) {
		r.Progress(&surmisev1.Progress{Phase: "indexing", Step: int32(done), Steps: int32(total)})
	}
	hooks.Progress = curves.step
	hooks.Checkpoint = func(path string, step int) error {
		if curves.err != nil {
			return curves.err // an attempt that went on from here would have a gap in its curves
		}
		published = append(published, step)
		r.Checkpoint(&surmisev1.Checkpoint{Step: int32(step), Path: path})
		if err := checkpoint.Prune(dir, keep(published, int(r.Recorded()))); err != nil {
			return infrastructure("%w", err)
		}
		return nil
	}
	result, err := trainer.Run(ctx, cfg, dir, hooks)
	if err == nil {
		err = curves.err
	}
	if err == nil { // there is a folder of curves even where nothing was left to do
		if made := os.MkdirAll(curves.dir, 0o755); made != nil {
			err = infrastructure("%w", made)
		}
	}
	return result, dataFault(err)
}

// dataFault begins an error about the data with the field of the job that names it; others stay as they are.
func dataFault(err error) error {
	var name *source.NameError
	var unusable *video.UnusableError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("train.data[%d]: %w", name.Index, name)
	case errors.As(err, &unusable):
		return fmt.Errorf("train.data: %w", unusable)
	}
	return err
}

// keep is how many of the newest checkpoints must stay: never fewer than reach back to the one that the coordinator
// recorded last, which the next attempt would be given.
func keep(published []int, recorded int) int {
	n := 0
	for i := len(published) - 1; i >= 0; i-- {
		n++
		if published[i] <= recorded {
			return max(n, keepCheckpoints)
		}
	}
	return n + keepCheckpoints // nothing of this run is recorded yet: what it went on from stays
}

// TrainConfig maps a complete spec, field by field. It adds nothing of its own but what the API leaves to the model: the
// published width of an MLP, and one mask token for every group of blocks as published.
func TrainConfig(t *surmisev1.TrainSpec, roots []string) (trainer.Config, error) {
	m, s, o := t.GetModel(), t.GetSampling(), t.GetOptimizer()
	data := make([]string, len(t.GetData()))
	for i, name := range t.GetData() {
		var err error
		if data[i], err = localPath(name); err != nil {
			return trainer.Config{}, fmt.Errorf("train.data[%d]: %w", i, err)
		}
	}
	mask := jobspec.Masks(t.GetMask())
	cfg := trainer.Config{
		Model: model.Config{
			Objective: m.GetObjective(),
			Size:      int(m.GetSize()),
			Frames:    int(m.GetFrames()),
			Patch:     int(m.GetPatch()),
			Tubelet:   int(m.GetTubelet()),
			Dim:       int(m.GetDim()),
			Depth:     int(m.GetDepth()),
			Heads:     int(m.GetHeads()),
			PredDim:   int(m.GetPredDim()),
			PredDepth: int(m.GetPredDepth()),
			PredHeads: int(m.GetPredHeads()),
			Positions: m.GetPositions(),
			Target:    target(m.GetTarget()),
			MLP:       mlp(m.GetMlp()),
			PredMLP:   mlp(m.GetPredMlp()),
		},
		Data: video.Spec{
			Data:          data,
			Size:          int(m.GetSize()),
			Frames:        int(m.GetFrames()),
			FrameStep:     int(s.GetFrameStep()),
			FPS:           s.GetFps(),
			ScaleMin:      s.GetScaleMin(),
			ScaleMax:      s.GetScaleMax(),
			AspectMin:     s.GetAspectMin(),
			AspectMax:     s.GetAspectMax(),
			Flip:          s.GetFlip(),
			Brightness:    s.GetBrightness(),
			Contrast:      s.GetContrast(),
			Saturation:    s.GetSaturation(),
			Hue:           s.GetHue(),
			ShortSide:     int(s.GetShortSide()),
			ClipsPerVideo: int(s.GetClipsPerVideo()),
			Windows:       s.GetWindows(),
			Weights:       s.GetWeights(),
			MaxUnusable:   s.GetMaxUnusable(),
			Roots:         roots,
		},
		Mask:             mask,
		Steps:            int(t.GetSteps()),
		Batch:            int(t.GetBatch()),
		Seed:             t.GetSeed(),
		Threads:          int(t.GetThreads()),
		Precision:        precision(t.GetPrecision()),
		LearningRate:     o.GetLearningRate(),
		StartLR:          o.GetStartLearningRate(),
		FinalLR:          o.GetFinalLearningRate(),
		WarmupSteps:      int(o.GetWarmupSteps()),
		WeightDecay:      o.GetWeightDecay(),
		FinalWeightDecay: o.GetFinalWeightDecay(),
		EMAStart:         o.GetEmaStart(),
		EMAEnd:           o.GetEmaEnd(),
		ScheduleScale:    cmp.Or(o.GetScheduleScale(), 1),
		ClipAfter:        int(o.GetClipAfter()),
		ClipNorm:         o.GetClipNorm(),
		LossExponent:     o.GetLossExponent(),
		VarianceCoeff:    o.GetVarianceCoeff(),
		LogEvery:         int(t.GetLogEvery()),
		CheckpointEvery:  int(t.GetCheckpointEvery()),
		Truncate:         t.GetTruncate(),
	}
	if s.GetMaxUnusable() == 0 {
		cfg.Data.MaxUnusable = -1 // zero stands for the default there
	}
	if cfg.Model.Objective == model.Masked {
		cfg.Model.MaskTokens = max(1, len(mask.Blocks)) // causal groups are contexts, as scoring has them, and it has one token for all
	}
	cfg.Model = cfg.Model.WithDefaults()
	if t.GetEncoder() != nil || t.GetInit() != nil {
		return cfg, nil // see Jobs.trainConfig, which knows the model there
	}
	return cfg, cfg.Validate()
}

// mlp is a kind of MLP in the words of a model's config, where the usual one has none.
func mlp(word string) string {
	if word == model.GELU {
		return ""
	}
	return word
}

// target is what a model predicts, in the words of its config.
func target(word string) string {
	if word == "representation" {
		return model.Representation
	}
	return word
}

// precision is that of a complete spec. One without was stored before there was a choice.
func precision(word string) cpu.Precision { return cpu.Precision(cmp.Or(word, string(cpu.FP32))) }

// localPath takes a path or a file:// URI to a path. Other schemes are left for the one who opens it to refuse.
func localPath(name string) (string, error) {
	if !strings.HasPrefix(name, "file://") {
		return name, nil
	}
	u, err := url.Parse(name)
	if err != nil {
		return "", fmt.Errorf("%q: %w", name, err)
	}
	if u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", fmt.Errorf("%q: want file:///PATH on this machine", name)
	}
	return u.Path, nil
}

func trainProgress(p trainer.Progress) *surmisev1.Progress {
	out := &surmisev1.Progress{
		Phase:          "training",
		Step:           int32(p.Step),
		Steps:          int32(p.Steps),
		Loss:           p.Loss,
		LossJepa:       p.LossJEPA,
		LossVariance:   p.LossVariance,
		LearningRate:   p.LearningRate,
		GradNorm:       p.GradNorm,
		ClipsPerSecond: p.ClipsPerSecond,
		StepSeconds:    p.StepSeconds,
		DataWaitShare:  p.DataWaitShare,
		EffectiveRank:  p.EffectiveRank,
		FeatureStd:     p.FeatureStd,
		Cosine:         p.Cosine,
		Videos:         int32(p.Videos),
		UnusableVideos: int32(p.Unusable),
	}
	if p.Collapse != (trainer.Collapse{}) { // pixels have no monitors
		out.ClipShare = &p.ClipShare
	}
	if p.ETA > 0 {
		out.Eta = durationpb.New(p.ETA)
	}
	return out
}

func trainMetrics(p trainer.Progress) map[string]float64 {
	return map[string]float64{
		"step":             float64(p.Step),
		"loss":             p.Loss,
		"loss_jepa":        p.LossJEPA,
		"loss_variance":    p.LossVariance,
		"clips_per_second": p.ClipsPerSecond,
		"effective_rank":   p.EffectiveRank,
		"feature_std":      p.FeatureStd,
		"cosine":           p.Cosine,
		"clip_share":       p.ClipShare,
		"videos":           float64(p.Videos),
		"unusable_videos":  float64(p.Unusable),
	}
}
