package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/parallel"
	"github.com/surmise-ml/surmise/trainer/parallel/paralleltest"
)

// runTogether has a group of processes, here goroutines, do one run, and returns what each came to. Where one fails the
// group has failed, as the program has it.
func runTogether(ctx context.Context, size int, run func(ctx context.Context, g parallel.Group) error) []error {
	errs := make([]error, size)
	var all sync.WaitGroup
	for i, g := range paralleltest.New(size) {
		all.Go(func() {
			if errs[i] = run(ctx, g); errs[i] != nil {
				g.Abort(errs[i])
			}
		})
	}
	all.Wait()
	return errs
}

// Processes that share every batch do the run that one does alone, but for rounding: the same losses, the same weights
// on each, and checkpoints that any number of them may go on from.
func TestSharedBatches(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		for _, truncate := range []bool{false, true} {
			if truncate && objective != model.Masked {
				continue
			}
			t.Run(fmt.Sprintf("%s, truncate %v", objective, truncate), func(t *testing.T) {
				cfg := smallRun(t, objective)
				cfg.Batch, cfg.Threads, cfg.Truncate, cfg.VarianceCoeff, cfg.Steps = 4, 1, truncate, 0.1, 6
				losses := func(dir string, size int) []Progress {
					var reports []Progress
					for _, err := range runTogether(t.Context(), size, func(ctx context.Context, g parallel.Group) error {
						hooks := Hooks{Group: g, Progress: func(p Progress) { reports = append(reports, p) }}
						if size == 1 {
							hooks.Group = nil
						}
						cfg := cfg
						cfg.Threads = 1 + g.Rank()%2*(min(2, cores(t))-1) // they need not have as many
						_, err := Run(ctx, cfg, dir, hooks)
						return err
					}) {
						if err != nil {
							t.Fatal(err)
						}
					}
					return reports
				}
				alone, two, four := t.TempDir(), t.TempDir(), t.TempDir()
				want := losses(alone, 1)
				for size, dir := range map[int]string{2: two, 4: four} {
					got := losses(dir, size)
					if len(got) != cfg.Steps {
						t.Fatalf("%d processes made %d reports, want %d, by the first alone", size, len(got), cfg.Steps)
					}
					for i := range got {
						for what, x := range map[string][2]float64{"loss": {got[i].Loss, want[i].Loss}, "variance": {got[i].LossVariance, want[i].LossVariance}, "gradient norm": {got[i].GradNorm, want[i].GradNorm}} {
							if math.Abs(x[0]-x[1]) > 2e-4*math.Abs(x[1]) {
								t.Errorf("%d processes, step %d: %s %g, alone %g", size, i+1, what, x[0], x[1])
							}
						}
					}
				}

				// From the middle, with another number of processes.
				cfg.Steps = 8
				cfg.ScheduleScale = 1 // schedules run over steps: both of these runs are new ones
				part, whole := t.TempDir(), t.TempDir()
				wantEnd := losses(whole, 2)
				ctx, stop := context.WithCancelCause(t.Context())
				enough := errors.New("enough")
				for i, err := range runTogether(ctx, 4, func(ctx context.Context, g parallel.Group) error {
					_, err := Run(ctx, cfg, part, Hooks{Group: g, Progress: func(p Progress) {
						if p.Step == 4 {
							stop(enough)
						}
					}})
					if StoppedTogether(err) && (errors.Is(err, enough) || errors.Is(err, errStoppedElsewhere)) {
						return nil
					}
					return fmt.Errorf("not stopped: %w", err)
				}) {
					if err != nil {
						t.Fatalf("process %d: %v", i, err)
					}
				}
				gotEnd := losses(part, 1)
				if len(gotEnd) == 0 || gotEnd[0].Step <= 4 || len(gotEnd) >= cfg.Steps {
					t.Fatalf("the second part reports %d steps", len(gotEnd))
				}
				last := len(wantEnd) - 1
				if got, want := gotEnd[len(gotEnd)-1].Loss, wantEnd[last].Loss; math.Abs(got-want) > 5e-4*want {
					t.Errorf("stopped, and resumed by another number: loss %g, want %g", got, want)
				}
			})
		}
	}
}

// Gradients are clipped alike whatever the threads that squares are added up in.
func TestSharedGradientsAreClippedAlike(t *testing.T) {
	if cores(t) < 2 {
		t.Skip("needs two cores")
	}
	cfg := smallRun(t, model.NextTubelet)
	cfg.Batch, cfg.Steps, cfg.ClipNorm, cfg.ClipAfter = 4, 30, 1e-3, 0
	dir := t.TempDir()
	for rank, err := range runTogether(t.Context(), 2, func(ctx context.Context, g parallel.Group) error {
		cfg := cfg
		cfg.Threads = 1 + g.Rank()
		_, err := Run(ctx, cfg, dir, Hooks{Group: g})
		return err
	}) {
		if err != nil {
			t.Errorf("process %d: %v", rank, err)
		}
	}
}

// What the processes do not have in common is an error on each of them, before the first step.
func TestSharedBatchesAgree(t *testing.T) {
	base := smallRun(t, model.NextTubelet)
	base.Batch, base.Threads, base.Steps = 4, 1, 2
	for want, change := range map[string]func(cfg *Config, rank int){
		"batch is 3, which 2 processes do not share evenly": func(cfg *Config, _ int) { cfg.Batch = 3 },
		"the config: the 2 processes":                       func(cfg *Config, rank int) { cfg.Seed += uint64(rank) },
		"the precision: the 2 processes": func(cfg *Config, rank int) {
			cfg.Precision = []cpu.Precision{cpu.FP32, cpu.BF16}[rank]
		},
	} {
		if _, err := ResolvePrecision(cpu.BF16, nil); err != nil && strings.Contains(want, "precision") {
			t.Logf("processes of two precisions are left out here: %v", err)
			continue
		}
		errs := runTogether(t.Context(), 2, func(ctx context.Context, g parallel.Group) error {
			cfg := base
			change(&cfg, g.Rank())
			_, err := Run(ctx, cfg, filepath.Join(t.TempDir(), "run"), Hooks{Group: g})
			return err
		})
		if slices.Contains(errs, nil) || !strings.Contains(errors.Join(errs...).Error(), want) {
			t.Errorf("%v, want both to say %q", errs, want)
		}
	}
}
