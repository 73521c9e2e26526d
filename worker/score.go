package worker

import (
	"context"
	"encoding/json"
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
	"github.com/surmise-ml/surmise/video/source"
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
	source, err := j.videos(spec)
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
	scores, err := j.scoreBy(ctx, batch, spec, trained, source, machine, modelPath, path, r)
	if tooLarge := (*xla.TooLargeError)(nil); errors.As(err, &tooLarge) && batch > ScoreBatch {
		slog.InfoContext(ctx, "scoring in smaller batches, which fit the accelerator", "windows", ScoreBatch, "instead_of", batch)
		scores, err = j.scoreBy(ctx, ScoreBatch, spec, trained, source, machine, modelPath, path, r)
	}
	return scores, err
}

// scoreBy scores in batches of so many windows.
func (j Jobs) scoreBy(ctx context.Context, batch int, spec *surmisev1.ScoreSpec, trained *plausibility.Model, source scoreVideos, machine cpu.Options,
	modelPath, path string, r Reports) (*compare.File, error) {
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
	decoders, done := video.OwnPool(j.Decoders)
	defer done()
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

// trainedOn is a note where videos lie in what the model was trained on, as far as the names in its checkpoint still stand for
// files here; "" otherwise. Surprise at what was seen in training says little of what was not.
func (j Jobs) trainedOn(ctx context.Context, trained *plausibility.Model, videos []plausibility.Video) string {
	var config struct {
		Data struct {
			Data []string `json:"data"`
		} `json:"data"`
	}
	if json.Unmarshal(trained.Record.Config, &config) != nil {
		return ""
	}
	seen := map[string]bool{}
	for _, name := range config.Data.Data {
		if source.IsURI(name) {
			continue
		}
		items, err := source.Resolve(ctx, []string{name}, j.DataRoots, nil)
		if err != nil { // moved, or not for this job to see
			continue
		}
		for _, item := range items {
			seen[whole(item.Name())] = true
		}
	}
	n, first := 0, ""
	for _, v := range videos {
		if !seen[whole(v.Path)] {
			continue
		}
		if n++; n == 1 {
			first = v.Path
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d videos, the first of them %s, lie in what the model was trained on", n, len(videos), first)
}

// scoreVideos is what a job scores.
type scoreVideos struct {
	videos    []plausibility.Video
	folder    string           // absolute; what their names are relative to
	dataset   *compare.Dataset // nil for a pairs file
	frameStep int              // of the dataset, for a job that names no other; 0 for a pairs file
}

// videos reads the pairs file or the dataset.
func (j Jobs) videos(spec *surmisev1.ScoreSpec) (scoreVideos, error) {
	if spec.GetDataset() == "" {
		out, err := j.pairs(spec.GetPairs())
		if err != nil {
			return out, fmt.Errorf("score.pairs: %w", err)
		}
		return out, nil
	}
	path, err := j.located(spec.GetRoot())
	if err != nil {
		return scoreVideos{}, fmt.Errorf("score.root: %w", err)
	}
	d, err := plausibility.ReadDataset(spec.GetDataset(), path, j.DataRoots)
	if err != nil {
		return scoreVideos{}, fmt.Errorf("score.root: %w", err)
	}
	return scoreVideos{d.Videos, d.Folder, &compare.Dataset{Name: d.Name, Notes: d.Notes}, d.FrameStep}, nil
}

// pairs reads a pairs file.
func (j Jobs) pairs(name string) (scoreVideos, error) {
	path, err := j.located(name)
	if err != nil {
		return scoreVideos{}, err
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return scoreVideos{}, err
	}
	videos, err := plausibility.ReadPairs(path, j.DataRoots)
	return scoreVideos{videos: videos, folder: folder}, err
}

// located is the path of what a job names, which must lie below the data roots.
func (j Jobs) located(name string) (string, error) {
	path, err := localPath(name)
	if err == nil {
		_, err = source.Below(j.DataRoots, path)
	}
	return path, err
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

// scoreMetrics are the pooled figures, and the accuracy of every property.
func scoreMetrics(t *compare.Table) map[string]float64 {
	out := map[string]float64{}
	all, ok := t.Row(compare.All)
	if !ok {
		return out
	}
	for c, name := range t.Columns {
		prefix := ""
		if name == compare.TwinSet {
			prefix = "twin_"
		}
		cell := all.Cells[c]
		out[prefix+"pairwise_accuracy"] = cell.Accuracy.Value
		out[prefix+"pairwise_accuracy_low"] = cell.Accuracy.Low
		out[prefix+"pairwise_accuracy_high"] = cell.Accuracy.High
		out[prefix+"auroc"] = cell.AUROC.Value
	}
	out["pairs"] = float64(all.Pairs)
	const most = 900 // of the 1000 figures that a result may hold
	for _, row := range t.Rows {
		if row.Name != compare.All && len(out) < most && len(row.Name) <= 200 {
			out["pairwise_accuracy."+row.Name] = row.Cells[0].Accuracy.Value
		}
	}
	return out
}
