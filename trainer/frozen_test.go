package trainer

import (
	"context"
	"errors"
	"math"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// frozenRun is a run on the encoder of a model that another run has trained a little.
func frozenRun(t *testing.T, objective string) Config {
	t.Helper()
	cfg := smallRun(t, model.Masked)
	cfg.Steps, cfg.CheckpointEvery, cfg.EMAStart, cfg.EMAEnd, cfg.LearningRate = 2, 0, 0.5, 0.5, 1e-2
	source, err := Run(t.Context(), cfg, t.TempDir(), Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	of, err := SourceConfig(source.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	shape, err := model.Config{Objective: objective, PredDim: 24, PredDepth: 1, PredHeads: 3}.OnEncoder(of.Model)
	if err != nil {
		t.Fatal(err)
	}
	on := Config{
		Model: shape, Data: cfg.Data, Encoder: Source{From: source.Checkpoint},
		Steps: 9, Batch: 3, Seed: 7, Threads: cfg.Threads, CheckpointEvery: 1, LogEvery: 1, ClipNorm: 1,
	}
	on.Data.Windows, on.Data.ScaleMin, on.Data.ScaleMax, on.Data.AspectMin, on.Data.AspectMax = "uniform", 1, 1, 1, 1
	return on.Defaults()
}

func openFeatures(t *testing.T, dir string, bytes int64) *Features {
	t.Helper()
	f, err := OpenFeatures(dir, bytes, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// losses runs cfg in dir and returns the loss of every step.
func losses(t *testing.T, cfg Config, dir string, features *Features) ([]float64, Result) {
	t.Helper()
	var out []float64
	r, err := Run(t.Context(), cfg, dir, Hooks{Features: features, Progress: func(p Progress) { out = append(out, p.Loss) }})
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

// Features that were kept give the same run as features that are computed, to the bit, and every clip is encoded once;
// what the encoder weighs is in the checkpoint and does not change.
func TestKeptFeaturesChangeNothing(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		t.Run(objective, func(t *testing.T) {
			cfg := frozenRun(t, objective)
			cfg.CheckpointEvery = 0
			const clips = 6
			folder, without, with := t.TempDir(), t.TempDir(), t.TempDir()
			want, all := losses(t, cfg, without, nil)
			if all.Encoded != cfg.Steps*cfg.Batch {
				t.Errorf("with nothing kept %d clips were encoded, want %d", all.Encoded, cfg.Steps*cfg.Batch)
			}
			got, first := losses(t, cfg, with, openFeatures(t, folder, 0))
			// Clips of the second epoch may be sampled before those of the first are kept: two batches ahead.
			if !slices.Equal(got, want) || first.Encoded < clips || first.Encoded > cfg.Steps*cfg.Batch-3 {
				t.Errorf("losses %v after %d encoded, without a folder %v", got, first.Encoded, want)
			}
			again, second := losses(t, cfg, t.TempDir(), openFeatures(t, folder, 0))
			if !slices.Equal(again, want) || second.Encoded != 0 {
				t.Errorf("from kept features: losses %v after %d encoded, want %v after none", again, second.Encoded, want)
			}
			if weightsOf(t, with, cfg.Steps) != weightsOf(t, without, cfg.Steps) {
				t.Error("kept features gave other weights")
			}
			if want[len(want)-1] >= want[0] {
				t.Errorf("losses do not fall: %v", want)
			}
			source, err := checkpoint.Load(cfg.Encoder.From)
			if err != nil {
				t.Fatal(err)
			}
			targets := map[string][]float32{}
			for _, x := range source.Model {
				targets[x.Name] = x.Data
			}
			for _, x := range load(t, with, cfg.Steps).Model {
				switch name, ok := strings.CutPrefix(x.Name, model.EncoderPrefix); {
				case ok && !slices.Equal(x.Data, targets[model.TargetPrefix+name]):
					t.Errorf("%s is not the target encoder's of the checkpoint it came from", x.Name)
				case strings.HasPrefix(x.Name, model.TargetPrefix):
					t.Errorf("%s: a target encoder beside a frozen one", x.Name)
				}
			}
			for _, x := range load(t, with, cfg.Steps).Optimizer {
				if strings.Contains(x.Name, model.EncoderPrefix) {
					t.Errorf("%s: a moment of a frozen encoder", x.Name)
				}
			}
		})
	}
}

func TestFrozenRunGoesOnWhereItWas(t *testing.T) {
	cfg := frozenRun(t, model.NextTubelet)
	whole, parts := t.TempDir(), t.TempDir()
	losses(t, cfg, whole, nil)
	stop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	folder := t.TempDir()
	_, err := Run(ctx, cfg, parts, Hooks{Features: openFeatures(t, folder, 0), Progress: func(p Progress) {
		if p.Step == 4 {
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) {
		t.Fatalf("got %v, want the cause of the stop", err)
	}
	// The encoder's file may move, but not become another.
	moved := filepath.Join(t.TempDir(), "moved.safetensors")
	data, err := os.ReadFile(filepath.Join(cfg.Encoder.From, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(moved, data, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Encoder.From = moved
	losses(t, cfg, parts, openFeatures(t, folder, 0))
	want, got := load(t, whole, cfg.Steps), load(t, parts, cfg.Steps)
	if !reflect.DeepEqual(got.Model, want.Model) || !reflect.DeepEqual(got.Optimizer, want.Optimizer) {
		t.Error("a run that was stopped ends with other weights or moments")
	}
	other := frozenRun(t, model.NextTubelet)
	other.Data = cfg.Data
	config, err := checkpoint.LoadModel(moved)
	if err != nil {
		t.Fatal(err)
	}
	defer config.Close()
	other.Encoder.From = anotherEncoder(t, config)
	if _, err := Run(t.Context(), other, parts, Hooks{}); err == nil || !strings.Contains(err.Error(), "encoder.sha256") {
		t.Errorf("resumed on another encoder: %v", err)
	}
}

// anotherEncoder writes the model with one weight changed.
func anotherEncoder(t *testing.T, m *checkpoint.Model) string {
	t.Helper()
	tensors := slices.Clone(m.Tensors)
	tensors[0].Data = slices.Clone(tensors[0].Data)
	tensors[0].Data[0]++
	path := filepath.Join(t.TempDir(), "other.safetensors")
	if _, err := checkpoint.WriteSafetensors(path, tensors, map[string]string{"surmise.config": string(m.Config)}); err != nil {
		t.Fatal(err)
	}
	return path
}

// onceRemote gives the files of a folder by URI, each as often as it is sampled, and then no more.
type onceRemote struct {
	folder string
	gone   *atomic.Bool
}

func (r onceRemote) List(context.Context, string) ([]string, error) {
	return nil, errors.New("not asked")
}

func (r onceRemote) Fetch(_ context.Context, uri string) (string, func(), error) {
	if r.gone.Load() {
		return "", nil, errors.New("the server answers 503")
	}
	return filepath.Join(r.folder, path.Base(uri)), func() {}, nil
}

// What was computed of a video that is elsewhere is kept without asking for the video again.
func TestFeaturesOfVideosElsewhere(t *testing.T) {
	cfg := frozenRun(t, model.NextTubelet)
	folder := cfg.Data.Data[0]
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(files) < cfg.Batch {
		t.Fatalf("files %v: %v", files, err)
	}
	cfg.Data.Data = nil
	for _, file := range files[:cfg.Batch] {
		cfg.Data.Data = append(cfg.Data.Data, "https://elsewhere/"+filepath.Base(file))
	}
	cfg.Steps, cfg.WarmupSteps, cfg.CheckpointEvery = 1, 0, 0
	remote := onceRemote{folder, new(atomic.Bool)}
	pool := video.NewPool(video.PoolOptions{Remote: remote})
	defer pool.Close()
	features := openFeatures(t, t.TempDir(), 0)
	e, err := openEncoder(t.Context(), &cfg, cfg.Batch, cpu.FP32, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	data, err := video.OpenDataset(t.Context(), pool, cfg.Data, nil)
	if err != nil {
		t.Fatal(err)
	}
	sampler := e.sampler(data, features)
	items := make([]float32, cfg.Batch*sampler.ClipSize())
	for i := range cfg.Batch {
		if _, err := sampler.Sample(t.Context(), cfg.Seed, int64(i), items[i*sampler.ClipSize():(i+1)*sampler.ClipSize()]); err != nil {
			t.Fatal(err)
		}
	}
	remote.gone.Store(true)
	training, err := newTraining(cfg, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := cpu.Compile(training.Program, cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	if err := e.input(machine, training, 0, items); err != nil {
		t.Errorf("the features are there, and the server is not: %v", err)
	}
	if kept, err := filepath.Glob(filepath.Join(features.dir, "*"+featuresSuffix)); err != nil || len(kept) != cfg.Batch {
		t.Errorf("%d features are kept, want %d: %v", len(kept), cfg.Batch, err)
	}
}

func TestFeaturesAreBoundedAndChecked(t *testing.T) {
	dir := t.TempDir()
	values := []float32{1, -2, float32(math.Inf(1)), 0.1}
	size := int64(featuresHeader + 4*len(values))
	f := openFeatures(t, dir, 3*size+size/2)
	names := []string{strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64), strings.Repeat("d", 64)}
	for _, name := range names {
		f.put(name, values)
	}
	kept := func(f *Features) (out []int) {
		for i, name := range names {
			got := make([]float32, len(values))
			if f.get(name, got) {
				out = append(out, i)
				if !slices.Equal(got, values) {
					t.Errorf("%s: %v, want %v", name, got, values)
				}
			}
		}
		return out
	}
	if got := kept(f); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("of four in room for three %v are kept, want the first three", got)
	}
	for range 3 {
		f.put(names[3], values)
	}
	if f.refused != 3 {
		t.Errorf("the folder, whose files are all in use, was looked at again: %d refused since", f.refused)
	}

	if f.put(strings.Repeat("e", 64), make([]float32, size)); !slices.Equal(kept(f), []int{0, 1, 2}) {
		t.Error("files went for one that the folder can never hold")
	}

	// To one that opens the folder later all are old: they make room, those first that were not used for longest.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f.path(names[1]), old, old); err != nil {
		t.Fatal(err)
	}
	f = openFeatures(t, dir, 3*size+size/2)
	f.put(names[3], values)
	if got := kept(f); !slices.Equal(got, []int{0, 2, 3}) {
		t.Errorf("%v are kept, want all but the oldest", got)
	}

	for what, damage := range map[string]func([]byte) []byte{
		"a bit":       func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"the end":     func(b []byte) []byte { return b[:len(b)-3] },
		"all":         func([]byte) []byte { return nil },
		"more":        func(b []byte) []byte { return append(b, 0) },
		"the length":  func(b []byte) []byte { b[16]++; return b },
		"another key": func(b []byte) []byte { b[24] ^= 1; return b },
	} {
		f.put(names[0], values)
		data, err := os.ReadFile(f.path(names[0]))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.path(names[0]), damage(data), 0o644); err != nil {
			t.Fatal(err)
		}
		if f.get(names[0], make([]float32, len(values))) {
			t.Errorf("damaged (%s), and read", what)
		}
		if _, err := os.Stat(f.path(names[0])); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("damaged (%s), and still there: %v", what, err)
		}
	}
}

// A damaged file in the folder costs its clip another run of the encoder, and changes nothing.
func TestDamagedFeaturesAreComputedAgain(t *testing.T) {
	cfg := frozenRun(t, model.NextTubelet)
	cfg.Steps, cfg.WarmupSteps, cfg.CheckpointEvery = 4, 0, 0
	folder := t.TempDir()
	want, _ := losses(t, cfg, t.TempDir(), openFeatures(t, folder, 0))
	files, err := filepath.Glob(filepath.Join(folder, "*"+featuresSuffix))
	if err != nil || len(files) != 6 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	if err := os.WriteFile(files[2], []byte("surmise features"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, r := losses(t, cfg, t.TempDir(), openFeatures(t, folder, 0))
	if !slices.Equal(got, want) || r.Encoded < 1 || r.Encoded > 2 {
		t.Errorf("losses %v after %d encoded, want %v after one or two", got, r.Encoded, want)
	}
}

func TestFrozenConfigsThatCannotBe(t *testing.T) {
	good := frozenRun(t, model.NextTubelet)
	for want, change := range map[string]func(*Config){
		"sampling.windows":      func(c *Config) { c.Data.Windows = "random" },
		"sampling.scale_min":    func(c *Config) { c.Data.ScaleMin = 0.3 },
		"sampling.hue":          func(c *Config) { c.Data.Hue = 0.1 },
		"encoder.from":          func(c *Config) { c.Encoder.From = "" },
		"model.frozen_encoder":  func(c *Config) { c.Model.FrozenEncoder = false },
		"model.depth is 3":      func(c *Config) { c.Model.Depth = 3 },
		"model.mlp is swiglu":   func(c *Config) { c.Model.MLP = model.SwiGLU },
		"model.target is pixel": func(c *Config) { c.Model.Target = model.Pixels },
		"has sha256":            func(c *Config) { c.Encoder.SHA256 = "0" },
		"no such file":          func(c *Config) { c.Encoder.From = "/nowhere" },
	} {
		c := good
		change(&c)
		if _, err := Run(t.Context(), c, t.TempDir(), Hooks{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
