package trainer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/surmise-ml/surmise/masking"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/synth"
)

// childEnv holds the folder of a run that this test binary is to do in place of its tests.
const childEnv = "SURMISE_TEST_TRAIN"

func TestMain(m *testing.M) {
	video.ServeIfAsked()
	if dir := os.Getenv(childEnv); dir != "" {
		if err := trainChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// trainChild does the run of dir/config.json in dir/run and prints a line after every checkpoint.
func trainChild(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return err
	}
	var cfg Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return err
	}
	_, err = Run(context.Background(), cfg, filepath.Join(dir, "run"), Hooks{Checkpoint: func(_ string, step int) error {
		_, err := fmt.Println("checkpoint", step)
		return err
	}})
	return err
}

// smallRun is a run of a few seconds on a few synthetic clips.
func smallRun(t *testing.T, objective string) Config {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "clips")
	if _, err := synth.Generate(t.Context(), synth.Options{Dir: dir, Clips: 6, Seed: 5, Size: 32}, nil); err != nil {
		t.Fatal(err)
	}
	return Config{
		Model: model.Config{Objective: objective, Size: 32, Frames: 8, Dim: 24, Depth: 2, Heads: 3, PredDim: 24, PredDepth: 1, PredHeads: 3},
		Data:  video.Spec{Data: []string{filepath.Join(dir, "clips")}},
		Steps: 8, Batch: 3, Seed: 7, Threads: min(2, cores(t)), CheckpointEvery: 1, LogEvery: 1, ClipNorm: 1,
	}.Defaults()
}

// cores is how many threads a run may ask for here.
func cores(t *testing.T) int {
	t.Helper()
	n, err := Threads(0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func load(t *testing.T, dir string, step int) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Load(filepath.Join(dir, fmt.Sprintf("step-%08d", step)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// weightsOf is the digest of the weights and moments after a step of a run.
func weightsOf(t *testing.T, dir string, step int) string {
	t.Helper()
	return fmt.Sprint(load(t, dir, step).Manifest.Files)
}

func TestTrainingLowersTheLossAndRepeatsItself(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		t.Run(objective, func(t *testing.T) {
			cfg := smallRun(t, objective)
			cfg.Steps, cfg.CheckpointEvery = 20, 0
			var losses []float64
			run := func(dir string, threads int) string {
				cfg.Threads = threads
				losses = nil
				r, err := Run(t.Context(), cfg, dir, Hooks{Progress: func(p Progress) { losses = append(losses, p.Loss) }})
				if err != nil {
					t.Fatal(err)
				}
				if r.Last.Step != cfg.Steps || r.Last.Videos != 6 || r.Last.EffectiveRank < 1 || math.IsNaN(r.Last.Cosine) {
					t.Errorf("last report: %+v", r.Last)
				}
				return weightsOf(t, dir, cfg.Steps)
			}
			first := run(t.TempDir(), cfg.Threads)
			if again := run(t.TempDir(), cfg.Threads); again != first {
				t.Errorf("the same run gave other weights: %s and %s", first, again)
			}
			if len(losses) != cfg.Steps || losses[len(losses)-1] > 0.9*losses[0] {
				t.Errorf("losses %v: want %d of them, falling", losses, cfg.Steps)
			}
		})
	}
}

// stopAfter runs a training that is asked to stop after so many steps, and does.
func stopAfter(t *testing.T, step int, cfg Config, dir string) {
	t.Helper()
	stop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := Run(ctx, cfg, dir, Hooks{Progress: func(p Progress) {
		if p.Step == step {
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) {
		t.Fatalf("got %v, want the cause of the cancellation", err)
	}
}

func TestCancelledRunGoesOnWhereItWas(t *testing.T) {
	cfg := smallRun(t, model.Masked)
	whole, parts := t.TempDir(), t.TempDir()
	if _, err := Run(t.Context(), cfg, whole, Hooks{}); err != nil {
		t.Fatal(err)
	}
	cfg.CheckpointEvery = 0
	stopAfter(t, 3, cfg, parts)
	if c, ok, err := checkpoint.Latest(parts); err != nil || !ok || c.Manifest.Step != 3 {
		t.Fatalf("the checkpoint of the cancelled run is %+v (%v), want that of step 3", c, err)
	}
	if _, err := Run(t.Context(), cfg, parts, Hooks{}); err != nil {
		t.Fatal(err)
	}
	// The files' digests differ, because the config in their metadata does.
	got, want := load(t, parts, cfg.Steps), load(t, whole, cfg.Steps)
	if !reflect.DeepEqual(got.Model, want.Model) || !reflect.DeepEqual(got.Optimizer, want.Optimizer) {
		t.Error("weights or moments differ after a stop and a resume")
	}
}

// A run that is killed with SIGKILL, again and again, ends with the weights of an undisturbed one.
func TestKilledRunEndsWithTheSameWeights(t *testing.T) {
	cfg := smallRun(t, model.Masked)
	raw, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	whole, killed := t.TempDir(), t.TempDir()
	for _, dir := range []string{whole, killed} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(dir string, killAfter string) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == killAfter {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); killAfter == "" && err != nil {
			t.Fatal(err)
		}
	}
	run(whole, "")
	for _, after := range []string{"checkpoint 2", "checkpoint 5", ""} {
		run(killed, after)
	}
	if got, want := weightsOf(t, filepath.Join(killed, "run"), cfg.Steps), weightsOf(t, filepath.Join(whole, "run"), cfg.Steps); got != want {
		t.Errorf("weights differ after two kills: %s and %s", got, want)
	}
}

func TestCheckpointOfAnotherRunIsRefused(t *testing.T) {
	cfg := smallRun(t, model.Masked)
	cfg.Steps = 1
	dir := t.TempDir()
	if _, err := Run(t.Context(), cfg, dir, Hooks{}); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Config){
		"model.dim":     func(c *Config) { c.Model.Dim = 48 },
		"seed":          func(c *Config) { c.Seed = 8 },
		"learning_rate": func(c *Config) { c.LearningRate = 0.5 },
		"mask.blocks":   func(c *Config) { c.Mask = masking.Spec{Kind: "multiblock3d", Blocks: masking.DefaultBlocks()[:1]} },
		"data.flip":     func(c *Config) { c.Data.Flip = true },
	} {
		other := cfg
		change(&other)
		if _, err := Run(t.Context(), other, dir, Hooks{}); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("resumed with another %s: got %v, want an error that names it", field, err)
		}
	}
	cfg.LogEvery, cfg.Threads = 5, 1 // neither changes what is trained
	if _, err := Run(t.Context(), cfg, dir, Hooks{}); err != nil {
		t.Errorf("resumed with another log_every and threads: %v", err)
	}
}

// A file more or less in the training folder gives every later step other clips.
func TestCheckpointOfOtherVideosIsRefused(t *testing.T) {
	cfg := smallRun(t, model.NextTubelet)
	cfg.Steps, cfg.CheckpointEvery = 3, 0
	dir := t.TempDir()
	stop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := Run(ctx, cfg, dir, Hooks{Progress: func(Progress) { cancel(stop) }}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	clips, err := os.ReadDir(cfg.Data.Data[0])
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(cfg.Data.Data[0], clips[0].Name())
	aside := filepath.Join(t.TempDir(), clips[0].Name())
	if err := os.Rename(first, aside); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), cfg, dir, Hooks{}); err == nil || !strings.Contains(err.Error(), "data: the videos have changed: it was trained on 6 usable files") {
		t.Errorf("resumed without %s: got %v, want an error that says so", clips[0].Name(), err)
	}
	// Another clip under the name of the first.
	second, err := os.ReadFile(filepath.Join(cfg.Data.Data[0], clips[1].Name()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, second, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), cfg, dir, Hooks{}); err == nil || !strings.Contains(err.Error(), "holds something else") {
		t.Errorf("resumed with another clip as %s: %v", clips[0].Name(), err)
	}
	if err := os.Rename(aside, first); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), cfg, dir, Hooks{}); err != nil {
		t.Errorf("resumed with the videos put back: %v", err)
	}
}

// What resume takes must be this run's in every part.
func TestResumeIsStrict(t *testing.T) {
	cfg := Config{Model: tinyModel(), Batch: 2, Threads: 1}.Defaults()
	s, err := newStepper(t.Context(), cfg, 1, cpu.FP32, alone(cfg), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	if done, err := s.resume(t.TempDir()); done != 0 || err != nil {
		t.Errorf("an empty folder: %d, %v, want a start from 0", done, err)
	}
	good := t.TempDir()
	if _, err := s.save(good, 4); err != nil {
		t.Fatal(err)
	}
	if done, err := s.resume(good); done != 4 || err != nil {
		t.Errorf("an own checkpoint: %d, %v, want 4 steps done", done, err)
	}
	for want, change := range map[string]func(c *checkpoint.Checkpoint){
		"data_position is 7, want 8": func(c *checkpoint.Checkpoint) { c.Manifest.DataPosition = 7 },
		"data: the videos":           func(c *checkpoint.Checkpoint) { c.Manifest.Dataset.Files = 3 },
		"unknown field \"dropout\"":  func(c *checkpoint.Checkpoint) { c.Manifest.Config = json.RawMessage(`{"dropout":0.1}`) },
		"encoder.norm.bias":          func(c *checkpoint.Checkpoint) { c.Model = without(c.Model, "encoder.norm.bias") },
		"moment2.encoder.norm.bias":  func(c *checkpoint.Checkpoint) { c.Optimizer = without(c.Optimizer, "moment2.encoder.norm.bias") },
	} {
		c := load(t, good, 4)
		change(c)
		dir := t.TempDir()
		if _, err := checkpoint.Save(dir, c.Manifest, c.Model, c.Optimizer); err != nil {
			t.Fatal(err)
		}
		if _, err := s.resume(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %s", err, want)
		}
	}
}

func without(tensors []checkpoint.Tensor, name string) []checkpoint.Tensor {
	return slices.DeleteFunc(tensors, func(x checkpoint.Tensor) bool { return x.Name == name })
}

// A clip's masks depend on its place in the run alone: not on what was drawn before,
// nor on how clips are cut into batches.
func TestMasksFollowFromTheClip(t *testing.T) {
	draw := func(batch, step int, seed uint64) (visible, hidden [][]int32) {
		m, err := newMasks(Config{Model: model.Config{Objective: model.Masked}, Batch: batch, Seed: seed}.Defaults())
		if err != nil {
			t.Fatal(err)
		}
		if visible, hidden, err = m.batch(t.Context(), step); err != nil {
			t.Fatal(err)
		}
		if len(visible) != batch*m.groups() || len(hidden) != len(visible) {
			t.Fatalf("%d and %d token lists, want %d", len(visible), len(hidden), batch*m.groups())
		}
		return visible, hidden
	}
	visible, hidden := draw(4, 2, 9) // clips 4 to 7
	for step, first := range map[int]int{3: 0, 4: 2} {
		v, h := draw(2, step, 9)
		if n := len(v); !reflect.DeepEqual(v, visible[first*n/2:][:n]) || !reflect.DeepEqual(h, hidden[first*n/2:][:n]) {
			t.Errorf("step %d of batches of 2 has other masks than the same clips in batches of 4", step)
		}
	}
	if v, _ := draw(4, 2, 10); reflect.DeepEqual(v, visible) {
		t.Error("another seed gave the same masks")
	}
	if v, _ := draw(4, 3, 9); reflect.DeepEqual(v, visible) {
		t.Error("the next step has the same masks")
	}
}

func TestModelTooLargeForMemoryIsRefused(t *testing.T) {
	cfg := Config{Model: model.Config{Dim: 8192, Heads: 64, Depth: 128, PredDim: 8192, PredHeads: 64, PredDepth: 128}, Data: video.Spec{Data: []string{"x"}}}.Defaults()
	_, err := Run(t.Context(), cfg, t.TempDir(), Hooks{})
	var tooLarge *cpu.MemoryError
	if !errors.As(err, &tooLarge) || !strings.Contains(err.Error(), "model.dim") {
		t.Errorf("got %v, want a MemoryError with the settings to lower", err)
	}
}

func TestImpossibleConfigsAreNamed(t *testing.T) {
	for field, change := range map[string]func(*Config){
		"model.patch":             func(c *Config) { c.Model.Patch = 7 },
		"model.heads":             func(c *Config) { c.Model.Heads = 5 },
		"loss_exponent":           func(c *Config) { c.LossExponent = 0.5 },
		"batch":                   func(c *Config) { c.Batch = -1 },
		`precision is "fp16"`:     func(c *Config) { c.Precision = "fp16" },
		`precision is ""`:         func(c *Config) { c.Precision = "" },
		"learning_rate":           func(c *Config) { c.LearningRate = math.NaN() },
		"ratio":                   func(c *Config) { c.Mask = masking.Spec{Kind: "tube", Ratio: 1} },
		"no such folder":          func(c *Config) { c.Data.Data = []string{"/no such folder"} },
		"mask.kind":               func(c *Config) { c.Model = model.Config{}.WithDefaults(); c.Mask.Kind = "tube" },
		"model.mask_tokens is -1": func(c *Config) { c.Model.MaskTokens = -1 },
	} {
		cfg := Config{Model: model.Config{Objective: model.Masked}, Data: video.Spec{Data: []string{"x"}}}.Defaults()
		change(&cfg)
		if _, err := Run(t.Context(), cfg, t.TempDir(), Hooks{}); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want an error that names %s", err, field)
		}
	}
}

// A setting that only another machine could give ends a run before its videos are looked at.
func TestMoreThanThisMachineHasIsRefused(t *testing.T) {
	all := cores(t)
	cfg := Config{Model: tinyModel(), Data: video.Spec{Data: []string{"/no such folder"}}}.Defaults()
	cfg.Threads = all + 1
	want := fmt.Sprintf("threads is %d, want 1 to %d", all+1, all)
	if _, err := Run(t.Context(), cfg, t.TempDir(), Hooks{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("training: got %v, want an error that says %q", err, want)
	}
	if _, err := Benchmark(t.Context(), cfg, 1, nil); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("benchmark: got %v, want an error that says %q", err, want)
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("the config is in order, on another machine: %v", err)
	}

	cfg.Threads, cfg.Precision = all, cpu.BF16
	_, err := Run(t.Context(), cfg, t.TempDir(), Hooks{})
	if _, lacking := cpu.BF16.Resolve(); lacking == nil {
		t.Log("this processor has bf16: that a missing one is refused goes untested")
	} else if err == nil || !strings.Contains(err.Error(), lacking.Error()) {
		t.Errorf("got %v, want an error that says %q", err, lacking)
	}
}

// A run records the precision it had, and goes on in no other without a word.
func TestResumeKeepsThePrecision(t *testing.T) {
	here, err := cpu.Auto.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := map[cpu.Precision]cpu.Precision{cpu.FP32: cpu.BF16, cpu.BF16: cpu.FP32}[here]
	cfg := Config{Model: tinyModel(), Batch: 2, Threads: 1}.Defaults()
	s, err := newStepper(t.Context(), cfg, 1, here, alone(cfg), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	good := t.TempDir()
	if _, err := s.save(good, 4); err != nil {
		t.Fatal(err)
	}
	if got := load(t, good, 4).Manifest; got.Precision != string(here) || !strings.Contains(string(got.Config), `"precision":"auto"`) {
		t.Fatalf("the manifest says precision %q and config %s, want %s, from auto", got.Precision, got.Config, here)
	}

	const refused = "made with precision "
	for _, c := range []struct {
		asked, was cpu.Precision // of the checkpoint, "" if it does not say
		now        cpu.Precision // asked for; means the same as auto here
		want       string        // an error or a warning that says so; "" for neither
	}{
		{cpu.Auto, here, cpu.Auto, ""},
		{cpu.Auto, here, here, ""},
		{here, here, cpu.Auto, ""},
		{cpu.Auto, elsewhere, cpu.Auto, "checkpoint_precision=" + string(elsewhere)},
		{cpu.Auto, elsewhere, here, refused + `"auto (` + string(elsewhere) + `)", this run has "` + string(here) + `"`},
		{elsewhere, elsewhere, cpu.Auto, refused + `"` + string(elsewhere) + `", this run has "auto (` + string(here) + `)"`},
		{elsewhere, elsewhere, here, refused + `"` + string(elsewhere) + `", this run has "` + string(here) + `"`},
	} {
		name := fmt.Sprintf("%s (%s), then %s", c.asked, c.was, c.now)
		c0 := load(t, good, 4)
		c0.Manifest.Precision = string(c.was)
		c0.Manifest.Config = withPrecision(t, c0.Manifest.Config, c.asked)
		got := s.resumeIn(t, c0, c.now)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: said %q, want %q", name, got, c.want)
		}
	}

	// A checkpoint of before there was a choice is an fp32 one.
	old := load(t, good, 4)
	old.Manifest.Precision = ""
	old.Manifest.Config = withPrecision(t, old.Manifest.Config, "")
	got := s.resumeIn(t, old, cpu.Auto)
	if want := map[cpu.Precision]string{cpu.FP32: "", cpu.BF16: refused + `"fp32", this run has "auto (bf16)"`}[here]; !strings.Contains(got, want) || want == "" && got != "" {
		t.Errorf("an old checkpoint: said %q, want %q", got, want)
	}
}

// withPrecision replaces the precision of a checkpoint's config; "" removes it.
func withPrecision(t *testing.T, config json.RawMessage, p cpu.Precision) json.RawMessage {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "precision")
	if p != "" {
		fields["precision"] = json.RawMessage(`"` + p + `"`)
	}
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// resumeIn resumes a checkpoint under a precision and returns what that said: its error or its warnings.
func (s *stepper) resumeIn(t *testing.T, c *checkpoint.Checkpoint, asked cpu.Precision) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := checkpoint.Save(dir, c.Manifest, c.Model, c.Optimizer); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	other := *s
	other.cfg.Precision = asked
	if _, err := other.resume(dir); err != nil {
		return err.Error()
	}
	return log.String()
}

// tinyModel trains a step in a moment.
func tinyModel() model.Config {
	return model.Config{Size: 16, Frames: 4, Dim: 16, Depth: 1, Heads: 2, PredDim: 16, PredDepth: 1}
}

// A step that is refused, for a loss that is no number or a finite one whose gradient
// overflows, leaves everything as it was.
func TestStepsThatAreNotFiniteChangeNoWeight(t *testing.T) {
	for what, spoil := range map[string]func(s *stepper, clips []float32){
		"loss": func(_ *stepper, clips []float32) { clips[5] = float32(math.NaN()) },
		"gradient norm of the encoder": func(s *stepper, _ []float32) {
			for i := range s.m.Floats(s.model.Params["predictor.predictor_proj.weight"]) {
				s.m.Floats(s.model.Params["predictor.predictor_proj.weight"])[i] *= 1e30
			}
		},
	} {
		t.Run(what, func(t *testing.T) { refuseStep(t, what, spoil) })
	}
}

func refuseStep(t *testing.T, what string, spoil func(s *stepper, clips []float32)) {
	cfg := Config{Model: tinyModel(), Batch: 2, Threads: 1}.Defaults()
	s, err := newStepper(t.Context(), cfg, 1, cpu.FP32, alone(cfg), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	clips := make([]float32, 2*cfg.Model.ClipValues())
	for i := range clips {
		clips[i] = float32(i%17) / 17
	}
	spoil(s, clips)
	before := map[string][]float32{}
	weights, moments, err := s.tensors()
	if err != nil {
		t.Fatal(err)
	}
	weights = append(weights, moments...)
	for _, w := range weights {
		before[w.Name] = slices.Clone(w.Data)
	}
	_, err = s.step(1, video.Batch{Floats: clips}, nil, nil)
	var notFinite *NotFiniteError
	if !errors.As(err, &notFinite) || notFinite.What != what || notFinite.Step != 1 || !strings.Contains(err.Error(), "step 1: "+what+" is ") {
		t.Errorf("got %v, want a NotFiniteError that names the step and the %s", err, what)
	}
	for _, w := range weights {
		if !slices.Equal(w.Data, before[w.Name]) {
			t.Errorf("%s changed", w.Name)
		}
	}
}

// findingMachine says where it first met a value that is not finite, and counts updates.
type findingMachine struct {
	graph.Machine
	found   bool
	runs    int
	updates int
}

func (m *findingMachine) Run() error {
	m.runs++
	return m.Machine.Run()
}

func (m *findingMachine) Update() error {
	m.updates++
	return m.Machine.Update()
}

func (m *findingMachine) FirstNonFinite() (op, tensor string, ok bool) {
	if m.runs == 0 || m.updates > 0 {
		return "", "", false
	}
	return "linear", "encoder.blocks.0.attn.qkv", m.found
}

// The error names the step, and the operation and tensor where the machine knows them; no update follows.
func TestTheErrorSaysWhereValuesStoppedBeingFinite(t *testing.T) {
	cfg := Config{Model: tinyModel(), Batch: 2, Threads: 1}.Defaults()
	s, err := newStepper(t.Context(), cfg, 1, cpu.FP32, alone(cfg), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	clips := make([]float32, 2*cfg.Model.ClipValues())
	clips[3] = float32(math.Inf(1))
	for _, found := range []bool{true, false} {
		m := &findingMachine{Machine: s.m, found: found}
		finding := *s
		finding.m = m
		_, err := finding.step(7, video.Batch{Floats: clips}, nil, nil)
		want := NotFiniteError{What: "loss", Step: 7}
		text := "step 7: loss is NaN; the weights"
		if found {
			want.Op, want.Tensor = "linear", "encoder.blocks.0.attn.qkv"
			text = "step 7: loss is NaN: operation linear was the first to give a value that is not finite, in tensor encoder.blocks.0.attn.qkv; the weights"
		}
		var got *NotFiniteError
		if !errors.As(err, &got) {
			t.Fatalf("got %v, want a NotFiniteError", err)
		}
		if !math.IsNaN(got.Value) || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("got %q, want it to begin with %q", err, text)
		}
		if got := (NotFiniteError{What: got.What, Step: got.Step, Op: got.Op, Tensor: got.Tensor}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if m.updates != 0 {
			t.Errorf("%d updates followed", m.updates)
		}
	}
}

// The checkpoint before a step that is not finite stays, whole, and is the newest.
func TestTheLastGoodCheckpointStays(t *testing.T) {
	cfg := smallRun(t, model.NextTubelet)
	dir := t.TempDir()
	stop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := Run(ctx, cfg, dir, Hooks{Progress: func(p Progress) {
		if p.Step == 2 {
			cancel(stop)
		}
	}}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	c := load(t, dir, 2) // as two steps more of a run that diverges might leave it
	for _, w := range c.Model {
		if w.Name == "predictor.predictor_proj.weight" {
			for i := range w.Data {
				w.Data[i] *= 1e30
			}
		}
	}
	c.Manifest.Step, c.Manifest.DataPosition = 4, 4*int64(cfg.Batch)
	if _, err := checkpoint.Save(dir, c.Manifest, c.Model, c.Optimizer); err != nil {
		t.Fatal(err)
	}
	good := weightsOf(t, dir, 4)
	_, err := Run(t.Context(), cfg, dir, Hooks{})
	var notFinite *NotFiniteError
	if !errors.As(err, &notFinite) || notFinite.Step != 5 {
		t.Fatalf("got %v, want a NotFiniteError of step 5", err)
	}
	if c, ok, err := checkpoint.Latest(dir); err != nil || !ok || c.Manifest.Step != 4 {
		t.Errorf("the newest checkpoint is %+v (%v), want that of step 4", c, err)
	}
	if now := weightsOf(t, dir, 4); now != good {
		t.Errorf("the checkpoint changed: %s, then %s", good, now)
	}
}

func TestClipsOfAnotherSizeAreRefused(t *testing.T) {
	cfg := Config{Model: tinyModel(), Batch: 2, Threads: 1}.Defaults()
	s, err := newStepper(t.Context(), cfg, 1, cpu.FP32, alone(cfg), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	if _, err := s.step(1, video.Batch{Floats: make([]float32, 7)}, nil, nil); err == nil || !strings.Contains(err.Error(), "7 values") {
		t.Errorf("got %v, want an error that names the size", err)
	}
}

func TestCollapseMonitors(t *testing.T) {
	for _, shape := range []struct{ perClip, d int }{{32, 16}, {500, 512}} { // also where the rank is that of some tokens
		testCollapseMonitors(t, shape.perClip, shape.d)
	}
}

func testCollapseMonitors(t *testing.T, perClip, d int) {
	t.Helper()
	const clips = 4
	rng := rand.New(rand.NewPCG(1, 2))
	random, constant, perClipConstant := make([]float32, clips*perClip*d), make([]float32, clips*perClip*d), make([]float32, clips*perClip*d)
	ofPlace := make([]float32, clips*perClip*d)
	for i := range random {
		random[i] = float32(rng.NormFloat64())
		constant[i] = float32(i % d)
		ofPlace[i] = random[i%(perClip*d)]
	}
	for b := range clips { // every clip one direction of its own
		for i := range perClip {
			perClipConstant[(b*perClip+i)*d+b] = 3
		}
	}
	for name, x := range map[string]struct {
		data                []float32
		rank, cosine, share float64
	}{
		"random": {random, float64(min(d, rankSide)), 0, 1}, "constant": {constant, 1, 1, 0}, "one direction a clip": {perClipConstant, clips, 0, 1},
	} {
		c := measureCollapse(x.data, clips, d)
		slack := 0.05
		if d > rankSide && x.rank > clips { // not many more features than tokens: the singular values of a random matrix differ
			slack = 0.2
		}
		if math.Abs(c.EffectiveRank-x.rank) > slack*x.rank || math.Abs(c.Cosine-x.cosine) > 0.02 {
			t.Errorf("%s: rank %g, cosine %g, want about %g and %g", name, c.EffectiveRank, c.Cosine, x.rank, x.cosine)
		}
		if math.Abs(c.ClipShare-x.share) > 0.05 {
			t.Errorf("%s: share between clips %g, want about %g", name, c.ClipShare, x.share)
		}
		if c.Collapsed() != (name == "constant") {
			t.Errorf("%s: collapsed %t", name, c.Collapsed())
		}
	}
	// Every clip is one, and no other monitor sees it.
	if c := measureCollapse(ofPlace, clips, d); c.ClipShare > 1e-6 || !c.Collapsed() || c.EffectiveRank < 10 || c.Cosine > 0.1 {
		t.Errorf("tokens of their place alone: %+v, collapsed %t", c, c.Collapsed())
	}
	if c := measureCollapse(constant, clips, d); c.FeatureStd > 1e-6 {
		t.Errorf("constant tokens have spread %g", c.FeatureStd)
	}
	if c := measureCollapse(random, clips, d); math.Abs(c.FeatureStd-1) > 0.05 {
		t.Errorf("normal tokens have spread %g, want 1", c.FeatureStd)
	}
}

// Two runs in one folder would take turns at its checkpoints.
func TestOneRunInAFolder(t *testing.T) {
	cfg := smallRun(t, model.NextTubelet)
	cfg.Steps, cfg.WarmupSteps = 2, 0
	dir := t.TempDir()
	second := func() error {
		_, err := Run(t.Context(), cfg, dir, Hooks{})
		return err
	}
	_, err := Run(t.Context(), cfg, dir, Hooks{Progress: func(p Progress) {
		if p.Step == 1 {
			if err := second(); err == nil || !strings.Contains(err.Error(), "another process trains in "+dir) {
				t.Errorf("a second run in the same folder: %v", err)
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := second(); err != nil {
		t.Errorf("once the first has ended: %v", err)
	}
}

// Videos that have changed only because one of them could not be looked at now are no fault of the run.
func TestOtherVideosOfTheHour(t *testing.T) {
	pool := video.NewPool(video.PoolOptions{Size: 1})
	defer pool.Close()
	loop := filepath.Join(t.TempDir(), "gone.mp4")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	missing := pool.Inspect(t.Context(), loop) // what the system answers may be otherwise later
	if !missing.OfTheHour() {
		t.Fatalf("%+v", missing)
	}
	changed := sameVideos(checkpoint.Dataset{Files: 2, SHA256: "a"}, checkpoint.Dataset{Files: 1, SHA256: "b"})
	var machine *video.DecoderError
	if err := ofTheHour(changed, []video.Verdict{{Usable: true}, missing}); !errors.As(err, &machine) || !strings.Contains(err.Error(), "gone.mp4") {
		t.Errorf("%v", err)
	}
	for _, verdicts := range [][]video.Verdict{nil, {{Usable: true}, {Kind: video.Truncated}}} {
		if err := ofTheHour(changed, verdicts); errors.As(err, &machine) {
			t.Errorf("%v: %v", verdicts, err)
		}
	}
	if err := ofTheHour(errors.New("another fault"), []video.Verdict{missing}); errors.As(err, &machine) {
		t.Error("any fault of a run is the machine's")
	}
}
