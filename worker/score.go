package worker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// scoreBatch is how many windows are scored at a time: enough to keep every core busy, little memory.
const scoreBatch = 8

// Score does a scoring job whose spec is complete, with the model at modelPath.
func (j Jobs) Score(ctx context.Context, spec *surmisev1.ScoreSpec, modelPath string, r Reports) (*compare.File, error) {
	pairs, err := localPath(spec.GetPairs())
	if err != nil {
		return nil, fmt.Errorf("score.pairs: %w", err)
	}
	if err := j.allowed(pairs); err != nil {
		return nil, fmt.Errorf("score.pairs: %w", err)
	}
	if !strings.HasPrefix(spec.GetModel(), "jobs/") { // a job's model lies where the coordinator keeps artifacts
		if modelPath, err = localPath(modelPath); err != nil {
			return nil, fmt.Errorf("score.model: %w", err)
		}
		if err := j.allowed(modelPath); err != nil {
			return nil, fmt.Errorf("score.model: %w", err)
		}
	}
	videos, err := plausibility.ReadPairs(pairs, j.DataRoots)
	if err != nil {
		return nil, fmt.Errorf("score.pairs: %w", err)
	}
	trained, err := plausibility.OpenModel(modelPath)
	if err != nil {
		return nil, fmt.Errorf("score.model: %w", err)
	}
	cfg, err := scoreConfig(spec, trained.Config)
	if err != nil {
		return nil, err
	}
	cfg.Videos, cfg.Model, cfg.Decoder = videos, trained.Record, video.Decoder()
	threads := int(spec.GetThreads())
	network, err := trained.Network(cfg.Spec, scoreBatch, threads)
	if err != nil {
		return nil, fmt.Errorf("building model %s: %w", modelPath, err)
	}
	defer func() { _ = network.Close() }()
	cfg.Predictor = network
	if !spec.GetSkipTwin() {
		untrained := trained.Twin(spec.GetSeed())
		twin, err := untrained.Network(cfg.Spec, scoreBatch, threads)
		if err != nil {
			return nil, fmt.Errorf("building the untrained twin of %s: %w", modelPath, err)
		}
		defer func() { _ = twin.Close() }()
		cfg.Twin, cfg.TwinModel = twin, untrained.Record
	}
	cfg.Progress = func(p plausibility.Progress) {
		r.Progress(&surmisev1.Progress{
			Phase: "scoring", Step: int32(p.Done), Steps: int32(p.Total),
			Videos: int32(p.Total), UnusableVideos: int32(p.Skipped),
		})
	}
	return plausibility.Score(ctx, cfg)
}

// scoreConfig maps a complete spec, field by field, and fills in what the API leaves to the model: window, contexts and
// top_tokens.
func scoreConfig(s *surmisev1.ScoreSpec, m model.Config) (plausibility.Config, error) {
	spec := plausibility.Spec{
		Window:    int(s.GetWindow()),
		Stride:    int(s.GetStride()),
		FrameStep: int(s.GetFrameStep()),
		FPS:       s.GetFps(),
		TopTokens: int(s.GetTopTokens()),
	}
	for _, c := range s.GetContexts() {
		spec.Contexts = append(spec.Contexts, int(c))
	}
	if spec.Window == 0 {
		spec.Window = m.Frames
	}
	next := m.Objective == model.NextTubelet
	if next && len(spec.Contexts) > 0 {
		return plausibility.Config{}, fmt.Errorf("score.contexts: %v, want none: the model is a next_tubelet one, which sees every past", spec.Contexts)
	}
	if !next && len(spec.Contexts) == 0 {
		spec.Contexts = quarters(spec.Window, m.Tubelet)
	}
	if next && s.TopTokens == nil {
		spec.TopTokens = compare.NextTubeletTopTokens
	}
	if err := spec.Validate(); err != nil {
		return plausibility.Config{}, fmt.Errorf("score.%w", err)
	}
	return plausibility.Config{Spec: spec, Batch: scoreBatch, Size: m.Size, Patch: m.Patch, Tubelet: m.Tubelet}, nil
}

// quarters is a quarter, half and three quarters of window in frames, each cut down to whole tubelets, without repeats,
// at least one tubelet and less than the window.
func quarters(window, tubelet int) []int {
	var out []int
	for q := 1; q <= 3; q++ {
		c := max(window*q/4/tubelet, 1) * tubelet
		if c < window && (len(out) == 0 || c > out[len(out)-1]) {
			out = append(out, c)
		}
	}
	return out
}

// allowed refuses a path outside the data roots, links resolved.
func (j Jobs) allowed(path string) error {
	if len(j.DataRoots) == 0 {
		return nil
	}
	real, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if resolved, err := filepath.EvalSymlinks(real); err == nil {
		real = resolved
	} else if !os.IsNotExist(err) {
		return fmt.Errorf("%q: %w", path, err)
	}
	for _, root := range j.DataRoots {
		root, err := filepath.Abs(root)
		if err != nil {
			return fmt.Errorf("data root %q: %w", root, err)
		}
		if resolved, err := filepath.EvalSymlinks(root); err == nil {
			root = resolved
		}
		if below, err := filepath.Rel(root, real); err == nil && filepath.IsLocal(below) {
			return nil
		}
	}
	return fmt.Errorf("%q lies outside the folders that may be read (%s)", path, strings.Join(j.DataRoots, ", "))
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
