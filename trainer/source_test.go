package trainer

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/parallel"
)

// trainedOnce is a short run that has left a model: its config, and its last checkpoint.
func trainedOnce(t *testing.T, change func(*Config)) (Config, string) {
	t.Helper()
	cfg := smallRun(t, model.Masked)
	cfg.Steps, cfg.CheckpointEvery, cfg.EMAStart, cfg.EMAEnd, cfg.LearningRate = 2, 0, 0.5, 0.5, 1e-2
	change(&cfg)
	r, err := Run(t.Context(), cfg, t.TempDir(), Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, r.Checkpoint
}

// continuation is a run of six steps with the videos of cfg and the weights of a model, of the size and frames given if
// they are not 0.
func continuation(t *testing.T, cfg Config, from string, size, frames int) Config {
	t.Helper()
	of, err := SourceConfig(from)
	if err != nil {
		t.Fatal(err)
	}
	shape, err := model.Config{Size: size, Frames: frames}.StartingFrom(of.Model)
	if err != nil {
		t.Fatal(err)
	}
	data := cfg.Data
	data.Size, data.Frames, data.ShortSide = 0, 0, 0
	return Config{Model: shape, Data: data, Mask: cfg.Mask, Init: Source{From: from},
		Steps: 6, Batch: 3, Seed: 8, Threads: cfg.Threads, CheckpointEvery: 1, LogEvery: 1, ClipNorm: 1}.Defaults()
}

// first runs cfg and returns its weights before the first step.
func first(t *testing.T, cfg Config) map[string][]float32 {
	t.Helper()
	got := map[string][]float32{}
	_, err := Run(t.Context(), cfg, t.TempDir(), Hooks{EvaluateEvery: 1000, Evaluate: func(_ context.Context, step int, weights []checkpoint.Tensor) error {
		for _, x := range weights {
			if step == 0 {
				got[x.Name] = slices.Clone(x.Data)
			}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRunsBeginWithTheWeightsOfAnother(t *testing.T) {
	frozen := frozenRun(t, model.NextTubelet)
	frozen.Steps, frozen.WarmupSteps = 2, 0
	_, onFrozen := losses(t, frozen, t.TempDir(), nil)
	for name, c := range map[string]struct {
		change       func(*Config)
		size, frames int
		from         string // in place of a run of the changed config
	}{
		"masked":       {change: func(*Config) {}},
		"next tubelet": {change: func(c *Config) { *c = smallRun(t, model.NextTubelet); c.Steps, c.WarmupSteps = 2, 0 }},
		"pixels":       {change: func(c *Config) { c.Model.Target = model.Pixels }},
		"of another size": {
			change: func(c *Config) { c.Model.Positions, c.Model.MLP, c.Model.NormEps = model.RoPE, model.SwiGLU, 1e-5 }, size: 24, frames: 12},
		"frozen": {change: func(c *Config) { *c = frozen }, from: onFrozen.Checkpoint},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, from := frozen, c.from
			if from == "" {
				cfg, from = trainedOnce(t, c.change)
			}
			cfg = continuation(t, cfg, from, c.size, c.frames)
			if c.size != 0 && (cfg.Model.Size != c.size || cfg.Model.Frames != c.frames || cfg.Model.NormEps != 1e-5) {
				t.Errorf("the model is %+v", cfg.Model)
			}
			got := first(t, cfg)
			source, err := checkpoint.Load(from)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range source.Model {
				if !slices.Equal(got[x.Name], x.Data) {
					t.Errorf("%s is not what the model has that the run begins with", x.Name)
				}
				if name, ok := strings.CutPrefix(x.Name, model.EncoderPrefix); ok && c.from != "" && !slices.Equal(got[model.TargetPrefix+name], x.Data) {
					t.Errorf("%s%s is no copy of the encoder that was frozen", model.TargetPrefix, name)
				}
			}
			if len(got) != len(cfg.Model.Params()) {
				t.Errorf("%d tensors, want %d", len(got), len(cfg.Model.Params()))
			}
		})
	}
}

// Processes that train one model begin with the weights of the same one, wherever each of them has its file.
func TestContinuationsAreShared(t *testing.T) {
	cfg, from := trainedOnce(t, func(*Config) {})
	cfg = continuation(t, cfg, from, 0, 0)
	cfg.Batch, cfg.Threads, cfg.Steps, cfg.CheckpointEvery = 4, 1, 2, 0
	want := reported(t, cfg, t.TempDir(), nil)
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	got, dir := map[int]Progress{}, t.TempDir()
	for _, err := range runTogether(t.Context(), 2, func(ctx context.Context, g parallel.Group) error {
		cfg := cfg
		if g.Rank() == 1 {
			cfg.Init.From = copied
		}
		_, err := Run(ctx, cfg, dir, Hooks{Group: g, Progress: func(p Progress) { got[p.Step] = p }})
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for step, w := range want {
		if math.Abs(got[step].Loss-w.Loss) > 2e-4*w.Loss {
			t.Errorf("step %d: loss %g of two processes, %g of one", step, got[step].Loss, w.Loss)
		}
	}
}

// A run that began with a model's weights goes on from its own checkpoints, wherever the model lies then, and on no other
// model's.
func TestContinuationsGoOnWhereTheyWere(t *testing.T) {
	cfg, from := trainedOnce(t, func(*Config) {})
	cfg = continuation(t, cfg, from, 0, 0)
	whole, parts := t.TempDir(), t.TempDir()
	want, _ := losses(t, cfg, whole, nil)
	fresh := cfg
	fresh.Init = Source{}
	if got, _ := losses(t, fresh, t.TempDir(), nil); got[0] == want[0] {
		t.Errorf("the first loss is that of fresh weights, %g", got[0])
	}

	exact := cfg
	exact.Precision, exact.Steps, exact.CheckpointEvery = cpu.FP32, 1, 0
	onCPU, onDevice := reported(t, exact, t.TempDir(), nil)[1].Loss, reported(t, exact, t.TempDir(), emulated(t))[1].Loss
	if math.Abs(onDevice-onCPU) > 1e-4*onCPU {
		t.Errorf("on an accelerator the first loss is %g, on the CPU %g", onDevice, onCPU)
	}

	stopAfter(t, 3, cfg, parts)
	moved := filepath.Join(t.TempDir(), "moved.safetensors")
	data, err := os.ReadFile(filepath.Join(from, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(moved, data, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Init.From = moved
	losses(t, cfg, parts, nil)
	a, b := load(t, whole, cfg.Steps), load(t, parts, cfg.Steps)
	if !reflect.DeepEqual(a.Model, b.Model) || !reflect.DeepEqual(a.Optimizer, b.Optimizer) {
		t.Error("a run that was stopped ends with other weights or moments")
	}
	file, err := checkpoint.LoadModel(moved)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var made Config
	if err := json.Unmarshal(b.Manifest.Config, &made); err != nil || made.Init.SHA256 != file.Digest.SHA256 {
		t.Errorf("the checkpoint says that the run began with %+v (%v), want the digest %s", made.Init, err, file.Digest.SHA256)
	}
	// Gone, it is not needed; for a fresh start it is.
	gone := cfg
	gone.Init = Source{From: filepath.Join(t.TempDir(), "gone.safetensors"), SHA256: made.Init.SHA256}
	if _, err := Run(t.Context(), gone, parts, Hooks{}); err != nil {
		t.Errorf("resumed without the model that it began with: %v", err)
	}
	if _, err := Run(t.Context(), gone, t.TempDir(), Hooks{}); err == nil || !strings.Contains(err.Error(), "gone.safetensors") {
		t.Errorf("begun without the model: %v", err)
	}
	cfg.Init.From = anotherEncoder(t, file)
	if _, err := Run(t.Context(), cfg, parts, Hooks{}); err == nil || !strings.Contains(err.Error(), "init.sha256") {
		t.Errorf("resumed with another model to begin with: %v", err)
	}
}

func TestContinuationsThatCannotBe(t *testing.T) {
	trained, from := trainedOnce(t, func(*Config) {})
	good := continuation(t, trained, from, 0, 0)
	frozen := frozenRun(t, model.Masked)
	for want, change := range map[string]func(*Config){
		"init.from":                      func(c *Config) { *c = frozen; c.Init.From = from },
		"model.depth is 3, the weights'": func(c *Config) { c.Model.Depth = 3 },
		"model.pred_mlp is swiglu":       func(c *Config) { c.Model.PredMLP = model.SwiGLU },
		"model.target is pixels":         func(c *Config) { c.Model.Target = model.Pixels },
		"model.frames is 4":              func(c *Config) { c.Model.Frames, c.Data.Frames = 4, 4 },
		"model.norm_eps is 0.001":        func(c *Config) { c.Model.NormEps = 1e-3 },
		"has sha256":                     func(c *Config) { c.Init.SHA256 = "0" },
		"no such file":                   func(c *Config) { c.Init.From = "/nowhere" },
	} {
		c := good
		change(&c)
		if _, err := Run(t.Context(), c, t.TempDir(), Hooks{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
