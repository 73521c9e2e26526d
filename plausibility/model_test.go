package plausibility

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// smallModel is a model with random weights: mask tokens differ, as after training.
func smallModel(objective string) *Model {
	m := &Model{Config: model.Config{Objective: objective, Size: 16, Frames: 6, Dim: 16, Depth: 1, Heads: 2, PredDim: 16, PredDepth: 1}.WithDefaults()}
	init := m.Config.Init(1)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, p := range m.Config.Params() {
		x := init[p.Name]
		for i := range x {
			x[i] += float32(0.1 * rng.NormFloat64())
		}
		m.weights = append(m.weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: x})
	}
	return m
}

// specFor measures at two context lengths, or at none.
func specFor(objective string) Spec {
	s := Spec{Window: 6}
	if objective == model.Masked {
		s.Contexts = []int{2, 4}
	}
	return s
}

func randomWindows(c model.Config, n int) []float32 {
	rng := rand.New(rand.NewPCG(3, 4))
	out := make([]float32, n*c.ClipValues())
	for i := range out {
		out[i] = float32(rng.NormFloat64())
	}
	return out
}

// givenFrames are frames that are normalised already, [3,frames,S,S].
type givenFrames struct {
	pix    []float32
	frames int
}

func (f *givenFrames) Normalize(dst []float32, from, count int) {
	channel := len(f.pix) / 3
	plane := channel / f.frames
	for c := range 3 {
		copy(dst[c*count*plane:(c+1)*count*plane], f.pix[c*channel+from*plane:])
	}
}

// apart are windows that have no frame in common.
func apart(c model.Config, windows []float32) []Window {
	var out []Window
	for w := range slices.Chunk(windows, c.ClipValues()) {
		out = append(out, Window{Of: &givenFrames{w, c.Frames}})
	}
	return out
}

func surprise(t *testing.T, m *Model, batch int, windows []float32) []WindowErrors {
	t.Helper()
	net, err := m.Network(specFor(m.Config.Objective), batch, cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	got, err := net.Surprise(t.Context(), apart(m.Config, windows))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A window's errors are its own: whatever the batch, full or not, and whoever else is in it.
func TestSurpriseDoesNotDependOnTheBatch(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		m := smallModel(objective)
		windows := randomWindows(m.Config, 5)
		want := surprise(t, m, 1, windows)
		if len(want) != 5 || reflect.DeepEqual(want[0], want[1]) {
			t.Fatalf("%s: %d windows, alike: %t", objective, len(want), reflect.DeepEqual(want[0], want[1]))
		}
		for _, batch := range []int{2, 3, 5, 8} {
			if got := surprise(t, m, batch, windows); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: batches of %d give other errors than windows one by one", objective, batch)
			}
		}
		if got := surprise(t, m, 2, nil); len(got) != 0 {
			t.Errorf("%s: no windows gave %d", objective, len(got))
		}
	}
}

// Scoring uses mask token 0 at every context length, as published: the others change nothing.
func TestScoringUsesTheFirstMaskToken(t *testing.T) {
	m := smallModel(model.Masked)
	windows := randomWindows(m.Config, 2)
	want := surprise(t, m, 2, windows)
	change := func(token string) []WindowErrors {
		for _, x := range m.weights {
			if x.Name == token {
				for i := range x.Data {
					x.Data[i]++
				}
			}
		}
		return surprise(t, m, 2, windows)
	}
	if got := change("predictor.mask_tokens.1"); !reflect.DeepEqual(got, want) {
		t.Error("mask token 1 has a part in the errors")
	}
	if got := change("predictor.mask_tokens.0"); reflect.DeepEqual(got, want) {
		t.Error("mask token 0 has no part in the errors")
	}
}

func TestSurpriseStops(t *testing.T) {
	m := smallModel(model.NextTubelet)
	net, err := m.Network(specFor(model.NextTubelet), 2, cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	windows := apart(m.Config, randomWindows(m.Config, 2))
	stop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := net.Surprise(ctx, windows); !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause of the cancellation", err)
	}
	got, err := net.Surprise(t.Context(), windows) // what was not computed is not taken for known
	if err != nil {
		t.Fatal(err)
	}
	if want := surprise(t, m, 2, randomWindows(m.Config, 2)); !reflect.DeepEqual(got, want) {
		t.Error("a call that was stopped changed the errors of the next")
	}
}

// saved writes a checkpoint with a config of one's own.
func saved(t *testing.T, m *Model, config string) string {
	t.Helper()
	path, err := checkpoint.Save(t.TempDir(), checkpoint.Manifest{Step: 7, Config: json.RawMessage(config)}, m.weights, nil)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenModel(t *testing.T) {
	m := smallModel(model.NextTubelet)
	shape, err := json.Marshal(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenModel(saved(t, m, fmt.Sprintf(`{"model":%s,"seed":3}`, shape)))
	if err != nil {
		t.Fatal(err)
	}
	if opened.Config != m.Config || opened.Record.Step != 7 || opened.Record.Seed != 3 || opened.Record.Name != "step-00000007" {
		t.Errorf("opened %+v, want %+v", opened, m)
	}
	windows := randomWindows(m.Config, 1)
	want := surprise(t, m, 1, windows)
	if got := surprise(t, opened, 1, windows); !reflect.DeepEqual(got, want) {
		t.Error("the opened model gives other errors")
	}
	if got := surprise(t, opened.fresh(1), 1, windows); reflect.DeepEqual(got, want) {
		t.Error("the untrained twin gives the model's errors")
	}

	// A config that claims a model of terabytes is held against the tensors before any memory is taken for it.
	huge := m.Config
	huge.Dim, huge.Depth, huge.PredDim, huge.PredDepth = 8192, 128, 8192, 128
	claim, err := json.Marshal(huge)
	if err != nil {
		t.Fatal(err)
	}
	for want, config := range map[string]string{
		"no field model":          `{"seed":3}`,
		"model.dim is 0":          `{"model":{"objective":"masked","size":16,"frames":6,"patch":8,"tubelet":2}}`,
		"cannot unmarshal string": `{"model":{"dim":"wide"}}`,
		"the model needs":         fmt.Sprintf(`{"model":%s}`, claim),
	} {
		if _, err := OpenModel(saved(t, m, config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
}

// What a network computes in is settled when it is built; the zero value is fp32.
func TestNetworkPrecision(t *testing.T) {
	for _, asked := range []cpu.Precision{"", cpu.Auto, cpu.FP32, cpu.BF16, "fp16"} {
		want, refused := cpu.FP32, error(nil)
		if asked != "" {
			want, refused = asked.Resolve()
		}
		net, err := smallModel(model.NextTubelet).Network(specFor(model.NextTubelet), 2, cpu.Options{Threads: 1, Precision: asked})
		if refused != nil {
			if err == nil || err.Error() != refused.Error() {
				t.Errorf("%q: got %v, want %v", asked, err, refused)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%q: %v", asked, err)
		}
		if net.Precision() != want {
			t.Errorf("%q: computes in %s, want %s", asked, net.Precision(), want)
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestModelTooLargeToScoreIsRefused(t *testing.T) {
	_, err := smallModel(model.Masked).Network(specFor(model.Masked), 2, cpu.Options{Threads: 1, Memory: 1 << 10})
	var tooLarge *cpu.MemoryError
	if !errors.As(err, &tooLarge) || !strings.Contains(err.Error(), "lower threads, give fewer contexts") {
		t.Errorf("got %v, want a MemoryError with the settings to lower", err)
	}
}

// Videos are read as squares, so a model of other frames can be neither scored nor given videos to embed: it says so.
func TestOnlySquareFrames(t *testing.T) {
	m := modelOf(model.Masked, func(c *model.Config) { c.Height, c.Width = 16, 32 })
	const want = "the model takes frames of 16×32 px"
	if _, err := m.Network(specFor(model.Masked), 1, cpu.Options{Threads: 1}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("scoring: got %v, want an error that says %q", err, want)
	}
	if _, err := m.EmbedFiles(t.Context(), filepath.Join(t.TempDir(), "e.safetensors"), []string{"v.mp4"}, EmbedOptions{Read: made(16), Machine: cpu.Options{Threads: 1}}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("embedding: got %v, want an error that says %q", err, want)
	}
}

func TestNetworkRefusesAnotherSpec(t *testing.T) {
	for want, c := range map[string]struct {
		objective string
		spec      Spec
		batch     int
	}{
		"spec.window":        {model.NextTubelet, Spec{Window: 8}, 1},
		"want none for":      {model.NextTubelet, Spec{Window: 6, Contexts: []int{2}}, 1},
		"needs at least one": {model.Masked, Spec{Window: 6}, 1},
		"multiple of 2":      {model.Masked, Spec{Window: 6, Contexts: []int{3}}, 1},
		"batch of 0 clips":   {model.NextTubelet, Spec{Window: 6}, 0},
	} {
		if net, err := smallModel(c.objective).Network(c.spec, c.batch, cpu.Options{Threads: 1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
			if net != nil {
				_ = net.Close()
			}
		}
	}
}
