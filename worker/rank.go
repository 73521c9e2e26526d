package worker

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// Rank does a ranking job whose spec is complete, with the model at modelPath.
func (j Jobs) Rank(ctx context.Context, spec *surmisev1.RankSpec, modelPath string, r Reports) (_ []plausibility.Ranking, err error) {
	on, err := j.open(spec.GetDevice())
	if err != nil {
		return nil, fmt.Errorf("rank.%w", err)
	}
	defer closeDevice(on, &err)
	machine, err := machineOptions(spec.GetThreads(), spec.GetPrecision(), on)
	if err != nil {
		return nil, fmt.Errorf("rank.%w", err)
	}
	sets := make([]plausibility.RankSet, len(spec.GetSets()))
	for i, s := range spec.GetSets() {
		if sets[i], err = j.rankSet(s); err != nil {
			return nil, fmt.Errorf("rank.sets[%d].%w", i, err)
		}
	}
	trained, err := j.openModel(spec.GetModel(), modelPath)
	if err != nil {
		return nil, fmt.Errorf("rank.model: %w", err)
	}
	defer func() { _ = trained.Close() }() // of a file that was only read
	trained.Device = on
	m := trained.Config
	windows := compare.DefaultSpec(m.Frames, m.Tubelet, m.Objective == model.NextTubelet)
	rate := plausibility.Rate{FrameStep: int(spec.GetFrameStep()), FPS: spec.GetFps()}.Or(trained.Rate).Or(plausibility.EveryFrame)
	if trained.Rate == (plausibility.Rate{}) && spec.GetFrameStep() == 0 && spec.GetFps() == 0 {
		slog.Warn("futures to be read with care", "model", trained.Record.Name, "note", rateUnknown)
	}
	windows.FrameStep, windows.FPS = rate.FrameStep, rate.FPS
	network, err := trained.Network(windows, ScoreBatch, machine)
	if err != nil {
		return nil, fmt.Errorf("building model %s: %w", modelPath, err)
	}
	defer func() { _ = network.Close() }()
	decoders, done := video.OwnPool(j.Decoders)
	defer done()
	ranker := plausibility.Ranker{Predictor: network, Spec: windows, Size: m.Size, Patch: m.Patch, Tubelet: m.Tubelet,
		ContextFrames: int(spec.GetContextFrames()), Measure: spec.GetMeasure(), Batch: ScoreBatch, Seed: spec.GetSeed(), Read: decoders.ReadFrames}
	if spec.GetTwin() {
		untrained, note := trained.Twin(twinSeed(spec.Seed, trained), j.beside(spec.GetModel(), modelPath))
		defer func() { _ = untrained.Close() }() // of a file that was only read
		if note != "" {
			slog.Warn("futures to be read with care", "model", trained.Record.Name, "note", note)
		}
		twin, err := untrained.Network(windows, ScoreBatch, machine)
		if err != nil {
			return nil, fmt.Errorf("building the untrained twin of %s: %w", modelPath, err)
		}
		defer func() { _ = twin.Close() }()
		ranker.Twin = twin
	}
	var rankings []plausibility.Ranking
	for i, set := range sets {
		ranking, err := ranker.Rank(ctx, set)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("rank.sets[%d]: %w", i, err)
		}
		ranking.Context = spec.Sets[i].GetContext()
		for k := range ranking.Futures {
			if set.Make == "" {
				ranking.Futures[k].Name = spec.Sets[i].Candidates[ranking.Futures[k].Candidate]
			}
		}
		rankings = append(rankings, ranking)
		r.Progress(&surmisev1.Progress{Phase: "ranking", Step: int32(i + 1), Steps: int32(len(sets))})
	}
	return rankings, nil
}

// rankSet holds the paths of a set below the data roots.
func (j Jobs) rankSet(s *surmisev1.RankSet) (plausibility.RankSet, error) {
	below := func(name string) (string, error) {
		path, err := localPath(name)
		if err != nil {
			return "", err
		}
		return source.Below(j.DataRoots, path)
	}
	out := plausibility.RankSet{Make: s.GetMake()}
	var err error
	if out.Context, err = below(s.GetContext()); err != nil {
		return out, fmt.Errorf("context: %w", err)
	}
	for i, c := range s.GetCandidates() {
		path, err := below(c)
		if err != nil {
			return out, fmt.Errorf("candidates[%d]: %w", i, err)
		}
		out.Candidates = append(out.Candidates, path)
	}
	return out, nil
}

func (j Jobs) runRank(ctx context.Context, spec *surmisev1.RankSpec, a Assignment, r Reports) (*surmisev1.Result, error) {
	rankings, err := j.Rank(ctx, spec, a.ModelPath, r)
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(RankingsMessage(rankings, spec.GetTwin()))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(a.ArtifactDir, "ranking.json")
	if err := durable.WriteBytes(path, 0o644, append(text, '\n')); err != nil {
		return nil, infrastructure("writing the ranking: %w", err)
	}
	artifact, err := fileArtifact(rankingArtifact, path)
	if err != nil {
		return nil, infrastructure("%w", err)
	}
	metrics := map[string]float64{"sets": float64(len(rankings))}
	for _, s := range plausibility.SummarizeRankings(rankings, spec.GetTwin()) {
		metrics[s.Make+".true_future_first"] = s.Interval.Value
		metrics[s.Make+".chance"] = s.Chance
		if s.Twin != nil {
			metrics["twin_"+s.Make+".true_future_first"] = s.Twin.Value
		}
	}
	return &surmisev1.Result{Artifacts: []*surmisev1.Artifact{artifact}, Metrics: metrics}, nil
}

// RankingsMessage is rankings as the API gives them.
func RankingsMessage(rankings []plausibility.Ranking, twin bool) *surmisev1.Rankings {
	out := &surmisev1.Rankings{}
	for _, r := range rankings {
		m := &surmisev1.Ranking{Context: r.Context, Make: r.Make, Frames: int32(r.Frames), ContextFrames: int32(r.ContextFrames)}
		for _, f := range r.Futures {
			future := &surmisev1.RankedFuture{Name: f.Name, Candidate: int32(f.Candidate), Energy: f.Energy, Margin: f.Margin, Mean: f.Mean, Peak: f.Peak}
			if twin {
				future.TwinEnergy = &f.Twin
			}
			m.Futures = append(m.Futures, future)
		}
		out.Rankings = append(out.Rankings, m)
	}
	return out
}
