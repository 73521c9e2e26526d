package plausibility

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// wholeWindows are the errors and targets of windows that are computed each from its own frames, in one stage.
func wholeWindows(t *testing.T, m *Model, windows []Window, precision cpu.Precision) ([]WindowErrors, []float32) {
	t.Helper()
	spec := specFor(m.Config.Objective)
	s, err := model.NewScoring(m.Config, len(windows), max(1, len(spec.Contexts)))
	if err != nil {
		t.Fatal(err)
	}
	s.Program.Results = append(s.Program.Results, s.Target)
	machine, err := m.compile(s.Graph, cpu.Options{Threads: 1, Precision: precision})
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	if err := (&Network{spec: spec, config: m.Config, scoring: s, machine: machine, batch: len(windows)}).layOut(nil); err != nil {
		t.Fatal(err)
	}
	clips, size := machine.Floats(s.Clip), m.Config.ClipValues()
	for i, w := range windows {
		w.Of.Normalize(clips[i*size:(i+1)*size], w.From, m.Config.Frames)
	}
	if err := machine.Run(); err != nil {
		t.Fatal(err)
	}
	var out []WindowErrors
	for w := range windows {
		errs := make(WindowErrors, s.Groups)
		for g := range errs {
			first, last, tokens := s.PredictedRows(machine, w*s.Groups+g)
			errs[g] = ContextErrors{Tokens: slices.Clone(tokens), Errors: slices.Clone(machine.Floats(s.Errors)[first:last])}
			if len(spec.Contexts) > 0 {
				errs[g].Context = spec.Contexts[g]
			}
		}
		out = append(out, errs)
	}
	return out, slices.Clone(machine.Floats(s.Target))
}

// modelOf is smallModel with other settings.
func modelOf(objective string, change func(*model.Config)) *Model {
	m := smallModel(objective)
	config := m.Config
	change(&config)
	m = &Model{Config: config}
	rng := rand.New(rand.NewPCG(1, 2))
	init := config.Init(1)
	for _, p := range config.Params() {
		x := init[p.Name]
		for i := range x {
			x[i] += float32(0.1 * rng.NormFloat64())
		}
		m.weights = append(m.weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: x})
	}
	return m
}

// Work that overlapping windows share changes no bit of any error: whatever the model and the precision, whether windows
// begin a tubelet apart, more, or a frame, so that they share tubelets with every other one only. And the two stages give
// what one pass over the window gives, to the last bit but for masked models with a table of positions: patch embedding,
// bias and position are added up in another order, which rounds differently.
func TestOverlappingWindowsAreExact(t *testing.T) {
	kinds := map[string]func(*model.Config){
		"as it is": func(*model.Config) {},
		"pixels":   func(c *model.Config) { c.Target = model.Pixels },
		"raw":      func(c *model.Config) { c.Target = model.RawPixels },
		"frozen":   func(c *model.Config) { c.FrozenEncoder = true },
		"rotary":   func(c *model.Config) { c.Positions = model.RoPEInterleaved; c.Dim, c.PredDim = 48, 48 },
		"deep":     func(c *model.Config) { c.Dim, c.Heads, c.Depth, c.PredDim, c.PredDepth = 24, 3, 2, 24, 2 },
	}
	for _, precision := range []cpu.Precision{cpu.FP32, cpu.BF16} {
		t.Run(string(precision), func(t *testing.T) {
			if _, err := precision.Resolve(); err != nil {
				t.Skip(err)
			}
			for _, objective := range []string{model.Masked, model.NextTubelet} {
				for name, change := range kinds {
					t.Run(objective+" "+name, func(t *testing.T) { overlappingAreExact(t, modelOf(objective, change), precision) })
				}
			}
		})
	}
}

func overlappingAreExact(t *testing.T, m *Model, precision cpu.Precision) {
	net, err := m.Network(specFor(m.Config.Objective), 3, cpu.Options{Threads: 2, Precision: precision})
	if err != nil {
		t.Fatal(err)
	}
	frames := &givenFrames{randomWindows(m.Config, 4), 4 * m.Config.Frames}
	for _, stride := range []int{1, 2, 4, 18} {
		var windows []Window
		for from := 0; from+m.Config.Frames <= frames.frames; from += stride {
			windows = append(windows, Window{Of: frames, From: from})
		}
		want, _ := wholeWindows(t, m, windows, precision)
		got, err := net.Surprise(t.Context(), windows)
		if err != nil {
			t.Fatal(err)
		}
		tolerance := 0.0
		if m.Config.Objective == model.Masked && !m.Config.Rotary() {
			tolerance = map[cpu.Precision]float64{cpu.FP32: 1e-6, cpu.BF16: 1e-2}[precision]
		}
		if d := largestDifference(t, got, want); d > tolerance {
			t.Errorf("stride %d: errors differ by %g from those of whole windows", stride, d)
		}
		var alone []Window // the same frames, and nothing known of them
		for _, w := range windows {
			of := *frames
			alone = append(alone, Window{Of: &of, From: w.From})
		}
		if want, err = net.Surprise(t.Context(), alone); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("stride %d: other errors than of windows that share nothing, %v", stride, err)
		}
	}
	if err := net.Close(); err != nil {
		t.Error(err)
	}
}

// largestDifference is that between two errors of the same token.
func largestDifference(t *testing.T, got, want []WindowErrors) float64 {
	t.Helper()
	var largest float64
	if len(got) != len(want) {
		t.Fatalf("%d windows, want %d", len(got), len(want))
	}
	for w := range want {
		for c, x := range want[w] {
			if len(got[w]) != len(want[w]) || got[w][c].Context != x.Context || !slices.Equal(got[w][c].Tokens, x.Tokens) {
				t.Fatalf("window %d: other contexts or tokens", w)
			}
			for i, e := range x.Errors {
				largest = max(largest, math.Abs(float64(e-got[w][c].Errors[i])))
			}
		}
	}
	return largest
}

// A tubelet of a video is computed once, however many windows hold it; that of another video is another one.
func TestTubeletsAreComputedOnce(t *testing.T) {
	m := smallModel(model.NextTubelet)
	net, err := m.Network(specFor(model.NextTubelet), 3, cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	count := &countedFrames{given: &givenFrames{randomWindows(m.Config, 3), 18}}
	windows := func(of Frames) []Window {
		return []Window{{Of: of}, {Of: of, From: 2}, {Of: of, From: 4}, {Of: of, From: 6}, {Of: of, From: 8}}
	} // 7 tubelets
	for range 2 {
		if _, err := net.Surprise(t.Context(), windows(count)); err != nil {
			t.Fatal(err)
		}
	}
	// The first batch is the windows from 0, 2 and 4, the second those from 6 and 8. Where it begins anew, the tubelets at 6 and 8
	// are still known from the one before.
	if want := map[int]int{0: 2, 2: 2, 4: 2, 6: 1, 8: 1, 10: 2, 12: 2}; !reflect.DeepEqual(count.calls, want) {
		t.Errorf("tubelets were read %v times, want %v", count.calls, want)
	}
	other := &countedFrames{given: count.given}
	if _, err := net.Surprise(t.Context(), windows(other)); err != nil {
		t.Fatal(err)
	}
	if len(other.calls) != 7 {
		t.Errorf("of another video %d tubelets were read, want 7", len(other.calls))
	}
}

// countedFrames counts how often a tubelet is read.
type countedFrames struct {
	given *givenFrames
	calls map[int]int
}

func (f *countedFrames) Normalize(dst []float32, from, count int) {
	if f.calls == nil {
		f.calls = map[int]int{}
	}
	f.calls[from]++
	f.given.Normalize(dst, from, count)
}

// Weights that are exchanged leave nothing known of the old ones.
func TestReload(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		m, other := smallModel(objective), modelOf(objective, func(*model.Config) {})
		for _, w := range other.weights {
			for i := range w.Data {
				w.Data[i] *= 0.9
			}
		}
		windows := randomWindows(m.Config, 2)
		net, err := m.Network(specFor(objective), 2, cpu.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		same := apart(m.Config, windows)
		if _, err := net.Surprise(t.Context(), same); err != nil {
			t.Fatal(err)
		}
		if err := net.Reload(other); err != nil {
			t.Fatal(err)
		}
		got, err := net.Surprise(t.Context(), same)
		if err != nil {
			t.Fatal(err)
		}
		if want := surprise(t, other, 2, windows); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: other errors than the model whose weights were loaded", objective)
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkOverlap times windows that begin a tubelet apart beside the same windows as if each were of a video of its own,
// in turns, and reports how many times as fast they are.
func BenchmarkOverlap(b *testing.B) {
	for _, name := range []string{"demo", "nano", "tiny"} {
		for _, precision := range []cpu.Precision{cpu.FP32, cpu.BF16} {
			b.Run(fmt.Sprintf("%s/%s", name, precision), func(b *testing.B) {
				shape, err := model.Preset(name)
				if err != nil {
					b.Fatal(err)
				}
				spec := Spec{Window: shape.Frames}
				if shape.Objective == model.Masked {
					spec.Contexts = []int{2, 4, 6, 8, 10}
				}
				n, err := (&Model{Config: shape}).fresh(0).Network(spec, 16, cpu.Options{Precision: precision})
				if err != nil {
					b.Fatal(err)
				}
				defer n.Close()
				var took [2]time.Duration
				for b.Loop() {
					clip := noise(shape.Frames+31*shape.Tubelet, shape.Size)
					for kind := range took {
						var windows []Window
						for from := 0; from+shape.Frames <= clip.Frames; from += shape.Tubelet {
							of := clip
							if kind == 1 {
								alone := *clip
								of = &alone
							}
							windows = append(windows, Window{Of: clipFrames{of}, From: from})
						}
						began := time.Now()
						if _, err := n.Surprise(b.Context(), windows); err != nil {
							b.Fatal(err)
						}
						took[kind] += time.Since(began)
					}
				}
				b.ReportMetric(float64(took[1])/float64(took[0]), "times-as-fast")
			})
		}
	}
}
