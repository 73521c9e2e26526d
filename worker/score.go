package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// ScoreBatch is how many windows are scored at a time on a CPU, and at least elsewhere: enough to keep a few cores busy, little
// memory.
const ScoreBatch = 8

// BatchOn is how many windows of a model are scored at a time on an accelerator, or on the CPU, nil: what starting and
// waiting cost is shared by as many windows as have some ten thousand tokens together.
func BatchOn(on xla.Device, m model.Config) int {
	const tokens, most = 1 << 15, 64
	if on == nil {
		return ScoreBatch
	}
	return max(ScoreBatch, min(most, tokens/m.Tokens()))
}

// Score does a scoring job whose spec is complete, with the model at modelPath, and writes its score file to path, whole
// or not at all; what else the spec asks for lies beside it (see Beside).
func (j Jobs) Score(ctx context.Context, spec *surmisev1.ScoreSpec, modelPath, path string, r Reports) (_ *compare.File, err error) {
	on, err := j.open(spec.GetDevice())
	if err != nil {
		return nil, fmt.Errorf("score.%w", err)
	}
	defer closeDevice(on, &err)
	machine, err := machineOptions(spec.GetThreads(), spec.GetPrecision(), on)
	if err != nil {
		return nil, fmt.Errorf("score.%w", err)
	}
	decoders, done := video.OwnPool(j.Decoders)
	defer done()
	source, err := j.videos(ctx, spec, decoders)
	if err != nil {
		return nil, err
	}
	trained, err := j.openModel(spec.GetModel(), modelPath)
	if err != nil {
		return nil, fmt.Errorf("score.model: %w", err)
	}
	defer func() { _ = trained.Close() }() // of a file that was only read
	trained.Device = on
	batch := BatchOn(on, trained.Config)
	scores, err := j.scoreBy(ctx, batch, spec, trained, source, decoders, machine, modelPath, path, r)
	if tooLarge := (*xla.TooLargeError)(nil); errors.As(err, &tooLarge) && batch > ScoreBatch {
		slog.InfoContext(ctx, "scoring in smaller batches, which fit the accelerator", "windows", ScoreBatch, "instead_of", batch)
		scores, err = j.scoreBy(ctx, ScoreBatch, spec, trained, source, decoders, machine, modelPath, path, r)
	}
	return scores, err
}

// scoreBy scores in batches of so many windows.
func (j Jobs) scoreBy(ctx context.Context, batch int, spec *surmisev1.ScoreSpec, trained *plausibility.Model, source scoreVideos, decoders *video.Pool,
	machine cpu.Options, modelPath, path string, r Reports) (*compare.File, error) {
	cfg, err := scoreConfig(spec, trained.Config, plausibility.Rate{FrameStep: source.frameStep}.Or(trained.Rate).Or(plausibility.EveryFrame))
	if err != nil {
		return nil, err
	}
	cfg.Batch = batch
	cfg.Videos, cfg.Folder, cfg.Dataset = source.videos, source.folder, source.dataset
	if trained.Rate == (plausibility.Rate{}) && spec.GetFrameStep() == 0 && spec.GetFps() == 0 && source.frameStep == 0 && cfg.Spec.Protocol == "" {
		cfg.Notes = append(cfg.Notes, rateUnknown)
	}
	if note := j.trainedOn(ctx, trained, cfg.Videos); note != "" {
		cfg.Notes = append(cfg.Notes, note)
	}
	cfg.Model, cfg.Decoder, cfg.Precision = trained.Record, video.Decoder(), string(machine.Precision)
	network, err := trained.Network(cfg.Spec, batch, machine)
	if err != nil {
		return nil, fmt.Errorf("building model %s: %w", modelPath, err)
	}
	defer func() { _ = network.Close() }()
	cfg.Predictor = network
	if !spec.GetSkipTwin() {
		untrained, note := trained.Twin(twinSeed(spec.Seed, trained), j.beside(spec.GetModel(), modelPath))
		defer func() { _ = untrained.Close() }() // of a file that was only read
		if note != "" {
			cfg.Notes = append(cfg.Notes, note)
		}
		twin, err := untrained.Network(cfg.Spec, batch, machine)
		if err != nil {
			return nil, fmt.Errorf("building the untrained twin of %s: %w", modelPath, err)
		}
		defer func() { _ = twin.Close() }()
		cfg.Twin, cfg.TwinModel = twin, untrained.Record
	}
	if spec.GetCopyLastFrame() {
		last, err := trained.CopyLast(cfg.Spec, batch, machine)
		if err != nil {
			return nil, fmt.Errorf("building the targets of %s: %w", modelPath, err)
		}
		defer func() { _ = last.Close() }()
		cfg.CopyLast = last
	}
	cfg.Read, cfg.Count, cfg.Local = decoders.ReadFrames, decoders.CountFrames, decoders.Local
	cfg.Progress = func(p plausibility.Progress) {
		r.Progress(&surmisev1.Progress{
			Phase: "scoring", Step: int32(p.Done), Steps: int32(p.Total),
			Videos: int32(p.Total), UnusableVideos: int32(p.Skipped),
		})
	}
	scores, err := plausibility.Score(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for _, note := range scores.Notes {
		slog.Warn("scores to be read with care", "model", trained.Record.Name, "note", note)
	}
	if cfg.Controls != nil {
		if err := cfg.Controls.File.Save(Beside(path, controlsArtifact)); err != nil {
			return nil, infrastructure("%w", err)
		}
	}
	if cfg.Maps != nil {
		if err := cfg.Maps.Save(Beside(path, mapsArtifact), scores); err != nil {
			return nil, infrastructure("%w", err)
		}
	}
	if err := scores.Save(path); err != nil { // last: with it the others are there
		return nil, infrastructure("%w", err)
	}
	return scores, nil
}

// rateUnknown says how videos are read for a model that does not say how it saw those of its training.
const rateUnknown = "the model does not say at which rate it was trained; rate unknown: every frame is taken, unless fps or frame_step is given"

// twinSeed is the seed of a model's untrained twin: the one given, or that of its training.
func twinSeed(given *uint64, trained *plausibility.Model) uint64 {
	if given != nil {
		return *given
	}
	return trained.Record.Seed
}

// beside says where the model lies that the training of another one, of that name and at that path, began with: below the
// data roots, or, where the coordinator keeps that one, among its other jobs' artifacts.
func (j Jobs) beside(name, path string) func(string) (string, error) {
	if attempts := filepath.Join(path, "..", "..", ".."); strings.HasPrefix(name, "jobs/") && filepath.Base(attempts) == "attempts" && len(j.DataRoots) > 0 {
		j.DataRoots = append(slices.Clone(j.DataRoots), filepath.Join(attempts, "..", ".."))
	}
	return j.located
}

// Beside is where a score file's companion lies: "maps", the surprise of every token, or "controls", a score file of
// altered videos.
func Beside(scores, artifact string) string {
	stem := strings.TrimSuffix(scores, ".json")
	if artifact == mapsArtifact {
		return stem + ".maps.safetensors"
	}
	return stem + "." + artifact + ".json"
}

// openModel opens the model that a spec names, which lies at path. A job's model lies where the coordinator keeps
// artifacts, any other below the data roots.
func (j Jobs) openModel(name, path string) (*plausibility.Model, error) {
	if !strings.HasPrefix(name, "jobs/") {
		var err error
		if path, err = j.located(path); err != nil {
			return nil, err
		}
	}
	return plausibility.OpenModel(path)
}

// scoreConfig maps a complete spec, field by field. What the API leaves to the model, window, contexts and top_tokens, is
// as in compare.DefaultSpec, or as the protocol says. usual is the rate where the spec gives none: the dataset's, or that of
// the model's training.
func scoreConfig(s *surmisev1.ScoreSpec, m model.Config, usual plausibility.Rate) (plausibility.Config, error) {
	if w := int(s.GetWindow()); w != 0 && w != m.Frames {
		return plausibility.Config{}, fmt.Errorf("score.window: %d frames, but the model's clips have %d, and no other number will do", w, m.Frames)
	}
	next := m.Objective == model.NextTubelet
	if next && len(s.GetContexts()) > 0 {
		return plausibility.Config{}, fmt.Errorf("score.contexts: %v, want none: the model is a next_tubelet one, which sees every past", s.GetContexts())
	}
	spec := compare.DefaultSpec(m.Frames, m.Tubelet, next)
	spec.Stride = int(s.GetStride())
	settled := false
	if name := s.GetProtocol(); name != "" {
		protocol, err := compare.FindProtocol(name)
		if err == nil {
			spec, err = protocol.For(m.Frames, m.Tubelet, next)
		}
		if err != nil {
			return plausibility.Config{}, fmt.Errorf("score.%w", err)
		}
		settled = protocol.Fixed()
	}
	if !settled {
		rate := plausibility.Rate{FrameStep: int(s.GetFrameStep()), FPS: s.GetFps()}.Or(usual)
		spec.FrameStep, spec.FPS = rate.FrameStep, rate.FPS
	}
	if len(s.GetContexts()) > 0 {
		spec.Contexts = nil
	}
	for _, c := range s.GetContexts() {
		spec.Contexts = append(spec.Contexts, int(c))
	}
	if s.TopTokens != nil {
		spec.TopTokens = int(s.GetTopTokens())
	}
	if err := spec.Validate(); err != nil {
		return plausibility.Config{}, fmt.Errorf("score.%w", err)
	}
	if spec.Stride > spec.Window {
		return plausibility.Config{}, fmt.Errorf("score.stride: %d frames, above the window of %d: no window would cover the frames between", spec.Stride, spec.Window)
	}
	cfg := plausibility.Config{Spec: spec, Batch: ScoreBatch, MaxFrames: int(s.GetMaxFrames()), Size: m.Size, Patch: m.Patch, Tubelet: m.Tubelet}
	if s.GetMaps() {
		cfg.Maps = &heat.Maps{}
	}
	var kinds []string
	for _, c := range []struct {
		kind  string
		asked bool
	}{{plausibility.Reencode, s.GetReencode()}, {plausibility.Recolour, s.GetRecolour()}, {plausibility.TimeReversal, s.GetTimeReversal()}} {
		if c.asked {
			kinds = append(kinds, c.kind)
		}
	}
	if len(kinds) > 0 {
		cfg.Controls = &plausibility.Controls{Kinds: kinds}
	}
	return cfg, nil
}
