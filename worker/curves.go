package worker

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/tensorboard"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// curves passes on what a run measures: to those who watch the job, and to the event files.
type curves struct {
	jobs    Jobs
	reports Reports
	dir     string                // of the event files
	events  *tensorboard.Writer   // nil until something is measured: a run that is refused leaves no file
	newest  *surmisev1.Evaluation // repeated with every report: one report may overtake another
	err     error                 // of writing events; ends the run at the next checkpoint
}

// step takes a log line of the trainer.
func (c *curves) step(p trainer.Progress) {
	message := trainProgress(p)
	message.Evaluation = c.newest
	c.reports.Progress(message)
	figures := map[string]float64{
		"train/loss": p.Loss, "train/loss_jepa": p.LossJEPA, "train/loss_variance": p.LossVariance,
		"train/learning_rate": p.LearningRate, "train/grad_norm": p.GradNorm,
		"speed/clips_per_second": p.ClipsPerSecond, "speed/data_wait_share": p.DataWaitShare,
	}
	if p.EffectiveRank > 0 { // pixels have no monitors
		figures["collapse/effective_rank"], figures["collapse/feature_std"], figures["collapse/cosine"] = p.EffectiveRank, p.FeatureStd, p.Cosine
		figures["collapse/clip_share"] = p.ClipShare
	}
	c.add(p.Step, figures)
}

func (c *curves) add(step int, figures map[string]float64) {
	var err error
	if c.events == nil {
		c.events, err = tensorboard.Create(c.dir, c.jobs.now())
	}
	if err == nil {
		err = c.events.Add(step, c.jobs.now(), figures)
	}
	if err != nil && c.err == nil {
		c.err = infrastructure("%w", err)
	}
}

func (c *curves) close() {
	if c.events != nil {
		_ = c.events.Close()
	}
}

// evaluated takes the table of an evaluation.
func (c *curves) evaluated(step, steps, skipped int, t *compare.Table, seconds float64) error {
	all, ok := t.Row(compare.All)
	if !ok {
		return fmt.Errorf("evaluating step %d: the table has no row %s", step, compare.All)
	}
	cell := all.Cells[0]
	c.newest = &surmisev1.Evaluation{Step: int32(step), Accuracy: cell.Accuracy.Value, AccuracyLow: cell.Accuracy.Low, AccuracyHigh: cell.Accuracy.High,
		GroupAccuracy: cell.GroupAccuracy.Value, Auroc: cell.AUROC.Value, Pairs: int32(all.Pairs), Measure: t.Aggregation.String(), Seconds: seconds, SkippedVideos: int32(skipped)}
	c.reports.Progress(&surmisev1.Progress{Phase: "evaluating", Step: int32(step), Steps: int32(steps), Evaluation: proto.CloneOf(c.newest)})
	figures := map[string]float64{
		"eval/accuracy": cell.Accuracy.Value, "eval/accuracy_low": cell.Accuracy.Low, "eval/accuracy_high": cell.Accuracy.High,
		"eval/group_accuracy": cell.GroupAccuracy.Value, "eval/auroc": cell.AUROC.Value,
	}
	for _, row := range t.Rows {
		if row.Name != compare.All && row.Name != "" {
			figures["eval_by_property/"+row.Name] = row.Cells[0].Accuracy.Value
		}
	}
	c.add(step, figures)
	return c.err
}

// evaluator scores a pairs file with the weights of a training run.
type evaluator struct {
	cfg     plausibility.Config
	train   trainer.Config
	network *plausibility.Network
	dir     string // of the score files
	curves  *curves
	said    bool // what was skipped
}

func (j Jobs) newEvaluator(spec *surmisev1.TrainSpec, train trainer.Config, dir string, decoders *video.Pool, c *curves, on xla.Device) (*evaluator, error) {
	source, err := j.pairs(spec.GetEval().GetPairs())
	if err != nil {
		return nil, fmt.Errorf("train.eval.pairs: %w", err)
	}
	score := &surmisev1.ScoreSpec{Stride: spec.GetEval().GetStride(), FrameStep: spec.GetSampling().GetFrameStep(), Fps: spec.GetSampling().GetFps()}
	cfg, err := scoreConfig(score, train.Model, plausibility.Rate{FrameStep: 1})
	if err != nil {
		return nil, fmt.Errorf("train.eval: %w", err)
	}
	machine, err := machineOptions(spec.GetThreads(), spec.GetPrecision(), on)
	if err != nil {
		return nil, fmt.Errorf("train.%w", err)
	}
	untrained := plausibility.NewModel(train.Model, compare.Model{}, initial(train))
	untrained.Device = on
	network, err := untrained.Network(cfg.Spec, ScoreBatch, machine)
	if err != nil {
		return nil, fmt.Errorf("train.eval: building the model: %w", err)
	}
	cfg.Videos, cfg.Folder, cfg.Decoder, cfg.Precision = source.videos, source.folder, video.Decoder(), string(machine.Precision)
	cfg.Predictor, cfg.Read, cfg.Count, cfg.Local = network, decoders.ReadFrames, decoders.CountFrames, decoders.Local
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, infrastructure("making the folder of evaluations: %w", err)
	}
	return &evaluator{cfg: cfg, train: train, network: network, dir: dir, curves: c}, nil
}

// initial are fresh weights, which stand in for those that the evaluator is given.
func initial(c trainer.Config) []checkpoint.Tensor {
	var out []checkpoint.Tensor
	weights := c.Model.Init(c.Seed)
	for _, p := range c.Model.Params() {
		out = append(out, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: weights[p.Name]})
	}
	return out
}

// evaluate is the trainer's hook.
func (e *evaluator) evaluate(ctx context.Context, step int, weights []checkpoint.Tensor) error {
	began := e.curves.jobs.now()
	e.cfg.Model = compare.Model{Name: fmt.Sprintf("step %d", step), Step: step, Seed: e.train.Seed}
	if err := e.network.Reload(plausibility.NewModel(e.train.Model, e.cfg.Model, weights)); err != nil {
		return fmt.Errorf("evaluating step %d: %w", step, err)
	}
	scores, err := plausibility.Score(ctx, e.cfg)
	if err != nil {
		return fmt.Errorf("evaluating step %d: %w", step, err)
	}
	if err := scores.Save(filepath.Join(e.dir, fmt.Sprintf("step-%08d.json", step))); err != nil {
		return infrastructure("evaluating step %d: %w", step, err)
	}
	table, err := compare.Summarize(scores, compare.Options{Seed: e.train.Seed, Resamples: evalResamples, Done: ctx.Done()})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("evaluating step %d: %w", step, err)
	}
	e.saySkipped(ctx, scores.Skipped)
	return e.curves.evaluated(step, e.train.Steps, len(scores.Skipped), table, math.Max(0, e.curves.jobs.now().Sub(began).Seconds()))
}

// saySkipped logs, once a run, what the evaluations go without.
func (e *evaluator) saySkipped(ctx context.Context, skipped []compare.Skipped) {
	if len(skipped) == 0 || e.said {
		return
	}
	e.said = true
	slog.WarnContext(ctx, "the evaluation goes without videos that could not be scored, and the rest of their groups", "videos", len(skipped),
		"first", skipped[0].Path, "reason", skipped[0].Reason)
}

// evalResamples are enough for a curve; a final table takes more.
const evalResamples = 2000

func (e *evaluator) close() { _ = e.network.Close() }
