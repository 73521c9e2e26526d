package trainer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/model"
)

// The weights are handed out before the first step, every few steps and at the end, and the time that takes is in no rate.
func TestEvaluate(t *testing.T) {
	cfg := smallRun(t, model.NextTubelet)
	cfg.Steps, cfg.LogEvery, cfg.CheckpointEvery = 5, 1, 2
	now := time.Unix(0, 0)
	var steps []int
	const watched = "encoder.patch_embed.proj.weight"
	var first, last []float32
	hooks := Hooks{
		EvaluateEvery: 2,
		Evaluate: func(_ context.Context, step int, weights []checkpoint.Tensor) error {
			steps = append(steps, step)
			now = now.Add(time.Hour)
			for _, x := range weights {
				if x.Name == watched {
					last = slices.Clone(x.Data)
				}
			}
			if step == 0 {
				first = last
			}
			return nil
		},
		Now: func() time.Time { now = now.Add(time.Second); return now },
		Progress: func(p Progress) {
			if p.StepSeconds > 10 {
				t.Errorf("step %d took %g s: the evaluation is in it", p.Step, p.StepSeconds)
			}
		},
	}
	dir := t.TempDir()
	if _, err := Run(t.Context(), cfg, dir, hooks); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(steps, []int{0, 2, 4, 5}) {
		t.Errorf("evaluated after steps %v", steps)
	}
	if len(first) == 0 || !slices.Equal(first, cfg.Model.Init(cfg.Seed)[watched]) {
		t.Errorf("%s before the first step is not what training begins with", watched)
	}
	for _, x := range load(t, dir, 5).Model {
		if x.Name == watched && !slices.Equal(last, x.Data) {
			t.Errorf("%s after the last step is not what the checkpoint holds", watched)
		}
	}
}

// An error of the evaluation ends the run; an end of the context during it leaves a checkpoint of the step, at which the
// next run evaluates again.
func TestEvaluateThatFailsOrIsStopped(t *testing.T) {
	cfg := smallRun(t, model.NextTubelet)
	cfg.Steps, cfg.CheckpointEvery = 4, 0
	broken := errors.New("the pairs are gone")
	_, err := Run(t.Context(), cfg, t.TempDir(), Hooks{EvaluateEvery: 2, Evaluate: func(_ context.Context, step int, _ []checkpoint.Tensor) error {
		if step == 2 {
			return broken
		}
		return nil
	}})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the evaluation's error", err)
	}

	dir := t.TempDir()
	stopped := errors.New("asked to stop")
	ctx, stop := context.WithCancelCause(t.Context())
	_, err = Run(ctx, cfg, dir, Hooks{EvaluateEvery: 2, Evaluate: func(ctx context.Context, step int, _ []checkpoint.Tensor) error {
		if step == 2 {
			stop(stopped)
			return context.Cause(ctx)
		}
		return nil
	}})
	if !errors.Is(err, stopped) || load(t, dir, 2).Manifest.Step != 2 {
		t.Errorf("got %v, want the cause and a checkpoint of step 2", err)
	}
	var steps []int
	result, err := Run(t.Context(), cfg, dir, Hooks{EvaluateEvery: 2, Evaluate: func(_ context.Context, step int, _ []checkpoint.Tensor) error {
		steps = append(steps, step)
		return nil
	}})
	if err != nil || !slices.Equal(steps, []int{2, 4}) || !strings.HasSuffix(result.Checkpoint, "step-00000004") {
		t.Errorf("the resumed run evaluated steps %v (%v)", steps, err)
	}
}
