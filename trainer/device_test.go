package trainer

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/xlatest"
	"github.com/surmise-ml/surmise/video"
)

// emulated is a device for tests, which must have nothing open in the end.
func emulated(t *testing.T) *xlatest.Device {
	t.Helper()
	d, err := xlatest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// reported is what is reported of a run, by step.
func reported(t *testing.T, cfg Config, dir string, on xla.Device) map[int]Progress {
	t.Helper()
	seen := map[int]Progress{}
	if _, err := Run(t.Context(), cfg, dir, Hooks{Device: on, Progress: func(p Progress) { seen[p.Step] = p }}); err != nil {
		t.Fatal(err)
	}
	return seen
}

// A run on an accelerator has the losses, monitors and weights of one on the CPU, and one can take over from the other.
func TestAcceleratorTrainsAsTheCPUDoes(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		t.Run(objective, func(t *testing.T) {
			cfg := smallRun(t, objective)
			cfg.Steps, cfg.LogEvery, cfg.CheckpointEvery, cfg.Precision = 24, 4, 12, cpu.FP32
			d := emulated(t)
			onCPU, onDevice, moved := t.TempDir(), t.TempDir(), t.TempDir()
			want, got := reported(t, cfg, onCPU, nil), reported(t, cfg, onDevice, d)
			if len(want) != 7 || len(got) != len(want) {
				t.Fatalf("%d reports of the CPU, %d of the accelerator", len(want), len(got))
			}
			for step, w := range want {
				g := got[step]
				for what, pair := range map[string][2]float64{"loss": {g.Loss, w.Loss}, "variance": {g.LossVariance, w.LossVariance}, "learning rate": {g.LearningRate, w.LearningRate},
					"gradient norm": {g.GradNorm, w.GradNorm}, "rank": {g.EffectiveRank, w.EffectiveRank}, "cosine": {g.Cosine, w.Cosine}} {
					if math.Abs(pair[0]-pair[1]) > 2e-3*math.Abs(pair[1])+1e-6 {
						t.Errorf("step %d: %s is %g, on the CPU %g", step, what, pair[0], pair[1])
					}
				}
			}
			if d.Runs != len(want) { // the steps between two reports are started together
				t.Errorf("the device was started %d times for %d reports", d.Runs, len(want))
			}

			// Half on the CPU, the other half on the device, four steps at a time.
			first := cfg
			stop := errors.New("half way")
			_, err := Run(t.Context(), first, moved, Hooks{Checkpoint: func(_ string, step int) error {
				if step == 12 {
					return stop
				}
				return nil
			}})
			if !errors.Is(err, stop) {
				t.Fatal(err)
			}
			rest := reported(t, cfg, moved, xla.Tune(d, xla.Tuning{Steps: 4}))
			if _, again := rest[4]; again || math.Abs(rest[24].Loss-want[24].Loss) > 2e-3*want[24].Loss {
				t.Errorf("after the move the loss is %g, on the CPU %g; reports %v", rest[24].Loss, want[24].Loss, rest)
			}
			a, b := load(t, moved, 24), load(t, onCPU, 24)
			for i, x := range a.Model {
				if y := b.Model[i]; furthest(x.Data, y.Data) > 0.02*largest(y.Data)+3e-3 {
					t.Errorf("%s: off by %g, the largest is %g", x.Name, furthest(x.Data, y.Data), largest(y.Data))
				}
			}
		})
	}
}

// A step that is not finite is found when figures are next due, by its number, and no step from it on has changed a weight.
func TestAcceleratorStopsAtTheStepThatIsNotFinite(t *testing.T) {
	cfg := smallRun(t, model.Masked)
	cfg, err := cfg.prepare(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Precision = cpu.FP32
	drawn, err := newMasks(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStepper(t.Context(), cfg, drawn.groups(), cpu.FP32, alone(cfg), emulated(t), false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.due = func(n int) bool { return n == 5 }
	clips := make([]float32, cfg.Batch*cfg.Model.ClipValues())
	for i := range clips {
		clips[i] = float32(math.Sin(float64(i)))
	}
	var after []float32
	for n := 1; n <= 5; n++ {
		visible, hidden, err := drawn.batch(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		input := slices.Clone(clips)
		if n == 3 {
			weights, _, err := s.tensors()
			if err != nil {
				t.Fatal(err)
			}
			after = slices.Clone(weights[len(weights)-1].Data)
			input[7] = float32(math.Inf(1))
		}
		f, err := s.step(n, video.Batch{Floats: input}, visible, hidden)
		var bad *NotFiniteError
		switch {
		case n < 5 && (err != nil || !f.pending):
			t.Fatalf("step %d: %+v, %v", n, f, err)
		case n == 5 && (!errors.As(err, &bad) || bad.Step != 3 || !strings.Contains(bad.What, "loss")):
			t.Fatalf("got %v, want that step 3 is not finite", err)
		}
	}
	weights, _, err := s.tensors()
	if err == nil {
		weights, _, err = s.tensors()
	}
	if err != nil || !slices.Equal(weights[len(weights)-1].Data, after) {
		t.Errorf("weights have changed, or cannot be read: %v", err)
	}
}

// A checkpoint says the loss of its step, also one whose figures nobody has asked for: a run that is stopped saves it.
func TestCheckpointOfAPendingStepHasItsLoss(t *testing.T) {
	cfg := smallRun(t, model.Masked)
	cfg, err := cfg.prepare(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Precision = cpu.FP32
	drawn, err := newMasks(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var losses []float64
	for _, asked := range []bool{true, false} {
		s, err := newStepper(t.Context(), cfg, drawn.groups(), cpu.FP32, alone(cfg), emulated(t), false)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		s.due = func(n int) bool { return n == 1 || asked }
		clips := make([]float32, cfg.Batch*cfg.Model.ClipValues())
		for i := range clips {
			clips[i] = float32(math.Sin(float64(i)))
		}
		for n := 1; n <= 3; n++ {
			visible, hidden, err := drawn.batch(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.step(n, video.Batch{Floats: clips}, visible, hidden); err != nil {
				t.Fatal(err)
			}
		}
		path, err := s.save(t.TempDir(), 3)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := checkpoint.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, saved.Manifest.Metrics["loss"])
	}
	if losses[0] != losses[1] || losses[0] == 0 {
		t.Errorf("losses %v, want the same", losses)
	}
}

// What does not fit is refused before the first step, with the sizes and the batch that would fit.
func TestModelTooLargeForTheAcceleratorIsRefused(t *testing.T) {
	cfg := smallRun(t, model.Masked)
	d := emulated(t)
	d.Free = 2 << 20
	_, err := Run(t.Context(), cfg, t.TempDir(), Hooks{Device: d})
	var tooLarge *xla.TooLargeError
	if !errors.As(err, &tooLarge) || tooLarge.Fits < 1 || tooLarge.Fits >= cfg.Batch {
		t.Fatalf("got %v, want that a smaller batch would fit", err)
	}
	for _, want := range []string{"too large", "a batch of 3 clips", fmt.Sprintf("a batch of %d would fit", tooLarge.Fits), "emulated device", "lower batch"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if d.Uploads+d.Runs > 0 {
		t.Errorf("%d uploads and %d runs", d.Uploads, d.Runs)
	}
}

// Between two reports few steps are computed for nothing: a launch that is not full computes all of its own.
func TestStepsDivideReports(t *testing.T) {
	for _, c := range []struct{ logEvery, most, want int }{{10, 5, 5}, {8, 5, 4}, {12, 5, 4}, {6, 5, 3}, {7, 5, 4}, {1, 5, 1}, {3, 5, 3}, {10, 1, 1}} {
		if got := evenly(c.logEvery, c.most); got != c.want {
			t.Errorf("%d steps from report to report, at most %d at once: %d, want %d", c.logEvery, c.most, got, c.want)
		}
	}
}
