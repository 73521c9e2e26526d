package worker

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// trainConfig is TrainConfig for a job that may have a frozen encoder, or begin with the weights of a model, which lie at
// path. What their checkpoint settles of the model is filled in, and the job completed again with that: the spec returned
// says it all.
//
// A run that has left checkpoints in dir goes on without the model that it began with, should that be gone.
func (j Jobs) trainConfig(spec *surmisev1.TrainSpec, path, dir string) (trainer.Config, *surmisev1.TrainSpec, error) {
	name, field := jobspec.Model(&surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Train{Train: spec}})
	if name == "" {
		cfg, err := TrainConfig(spec, j.DataRoots)
		return cfg, spec, err
	}
	fault := func(err error) (trainer.Config, *surmisev1.TrainSpec, error) {
		return trainer.Config{}, nil, fmt.Errorf("%s: %w", field, err)
	}
	var begun trainer.Config
	resumes := false
	if spec.GetInit() != nil {
		begun, resumes = trainer.Begun(dir)
	}
	if !strings.HasPrefix(name, "jobs/") { // a job's model lies where the coordinator keeps artifacts
		var err error
		if path, err = j.located(path); err != nil && (!resumes || !errors.Is(err, fs.ErrNotExist)) {
			return fault(err)
		}
	}
	if strings.HasPrefix(path, "jobs/") {
		return fault(fmt.Errorf("%s is known to a coordinator; here name a checkpoint folder or a file", name))
	}
	source, err := trainer.SourceConfig(path)
	of := source.Model
	gone := resumes && errors.Is(err, fs.ErrNotExist)
	if gone {
		slog.Warn("the model that the run began with is gone; it goes on from its own checkpoint", "model", path)
		of, err = begun.Model, nil
	}
	if err != nil {
		return fault(err)
	}
	if spec, err = settle(spec, of); err != nil {
		return trainer.Config{}, nil, err
	}
	cfg, err := TrainConfig(spec, j.DataRoots)
	if err != nil {
		return cfg, nil, err
	}
	if spec.GetInit() != nil {
		cfg.Init.From = path
		if gone {
			cfg.Init.SHA256 = begun.Init.SHA256
		}
		cfg.Model, err = model.Config{Size: cfg.Model.Size, Frames: cfg.Model.Frames}.StartingFrom(of)
	} else {
		cfg.Encoder.From = path
		cfg.Model.MLPRatio = 0 // of the API's models, while the checkpoint says what its encoder has
		cfg.Model, err = cfg.Model.OnEncoder(of)
	}
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return cfg, nil, fmt.Errorf("train.%w", err)
	}
	if its, here := rateOf(source.Data), rateOf(cfg.Data); !resumes && its != (plausibility.Rate{}) && its != here {
		slog.Warn("the model was trained at another rate than this run trains at", "field", field, "model", path,
			"its_frame_step", its.FrameStep, "its_fps", its.FPS, "frame_step", here.FrameStep, "fps", here.FPS)
	}
	return cfg, spec, nil
}

func rateOf(s video.Spec) plausibility.Rate {
	return plausibility.Rate{FrameStep: s.FrameStep, FPS: s.FPS}
}

// settle fills in a job's model from the one that its encoder or its first weights are of, and completes the job. A field
// that says otherwise is an error that names it.
func settle(spec *surmisev1.TrainSpec, of model.Config) (*surmisev1.TrainSpec, error) {
	spec = proto.CloneOf(spec)
	m := spec.GetModel()
	given := model.Config{Size: int(m.GetSize()), Frames: int(m.GetFrames()), Patch: int(m.GetPatch()), Tubelet: int(m.GetTubelet()),
		Dim: int(m.GetDim()), Depth: int(m.GetDepth()), Heads: int(m.GetHeads()), Positions: m.GetPositions(), MLP: m.GetMlp()}
	var whole model.Config
	var err error
	if spec.GetInit() != nil {
		given.PredDim, given.PredDepth, given.PredHeads = int(m.GetPredDim()), int(m.GetPredDepth()), int(m.GetPredHeads())
		given.Objective, given.Target, given.PredMLP = m.GetObjective(), m.GetTarget(), m.GetPredMlp()
		if spec.GetMask() != nil && of.Objective != model.Masked {
			return nil, fmt.Errorf("train.mask: the weights are of a %s model, which takes no masks: leave it out, or begin with another model", of.Objective)
		}
		if whole, err = given.StartingFrom(of); err == nil {
			m.PredDim, m.PredDepth, m.PredHeads = int32(whole.PredDim), int32(whole.PredDepth), int32(whole.PredHeads)
			m.Objective, m.Target, m.PredMlp = whole.Objective, cmp.Or(whole.Target, "representation"), cmp.Or(whole.PredMLP, model.GELU)
		}
	} else {
		whole, err = given.OnEncoder(of)
	}
	if err != nil {
		return nil, fmt.Errorf("train.%w", err)
	}
	m.Size, m.Frames, m.Patch, m.Tubelet = int32(whole.Size), int32(whole.Frames), int32(whole.Patch), int32(whole.Tubelet)
	m.Dim, m.Depth, m.Heads = int32(whole.Dim), int32(whole.Depth), int32(whole.Heads)
	m.Positions, m.Mlp = whole.Positions, cmp.Or(whole.MLP, model.GELU)
	complete, err := jobspec.Complete(&surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Train{Train: spec}})
	var faults jobspec.Errors
	if errors.As(err, &faults) {
		return nil, faults
	}
	if err != nil {
		return nil, err
	}
	return complete.GetTrain(), nil
}
