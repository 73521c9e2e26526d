package exchange

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/model"
)

// goldenShape is what a forward manifest says of its model, which checkpoints do not.
type goldenShape struct {
	Config struct {
		Img, Patch, Frames, Tubelet, Dim, Depth, Heads, Pdim, Pdepth, Pheads, Ntok int
	}
}

func shapeOf(t *testing.T, name string) goldenShape {
	t.Helper()
	var m goldenShape
	golden.JSON(t, name+".json", &m)
	if m.Config.Pheads == 0 {
		m.Config.Pheads = m.Config.Heads
	}
	return m
}

// imported imports a source into a file and loads it again.
func imported(t *testing.T, from string, o Options) (*checkpoint.Model, *Import) {
	t.Helper()
	i, err := Open(from, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	out := filepath.Join(t.TempDir(), "model.safetensors")
	if _, err := i.Write(out); err != nil {
		t.Fatal(err)
	}
	m, err := checkpoint.LoadModel(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m, i
}

func byName(m *checkpoint.Model) map[string]checkpoint.Tensor {
	out := map[string]checkpoint.Tensor{}
	for _, t := range m.Tensors {
		out[t.Name] = t
	}
	return out
}

// Every published layout gives, bit for bit, the weights that the reference data has, and the configuration of its model.
func TestGoldenImports(t *testing.T) {
	v1, v2 := shapeOf(t, "vjepa1_forward"), shapeOf(t, "vjepa2_forward")
	for _, c := range []struct {
		from, weights string
		shape         goldenShape
		o             Options
		noTarget      bool
	}{
		// All but the heads is recognised: the grid and the kind of positions by the table's numbers.
		{"vjepa1_ckpt.pth.tar", "vjepa1_forward", v1, Options{Heads: v1.Config.Heads}, false},
		{"vjepa1_ckpt_legacy.pth.tar", "vjepa1_forward", v1, Options{Heads: v1.Config.Heads}, false},
		{"vjepa2_ckpt.pt", "vjepa2_forward", v2, Options{Heads: v2.Config.Heads, PredHeads: v2.Config.Pheads, Frames: v2.Config.Frames, Size: v2.Config.Img}, false},
		{"vjepa2_hf", "vjepa2_forward", v2, Options{}, true},
	} {
		t.Run(c.from, func(t *testing.T) {
			want := golden.Tensors(t, c.weights+".safetensors")
			m, i := imported(t, golden.Path(t, c.from), c.o)
			g := c.shape.Config
			config := i.Config
			if config.Size != g.Img || config.Frames != g.Frames || config.Patch != g.Patch || config.Tubelet != g.Tubelet || config.Dim != g.Dim || config.Depth != g.Depth ||
				config.Heads != g.Heads || config.PredDim != g.Pdim || config.PredDepth != g.Pdepth || config.PredHeads != g.Pheads || config.MLPRatio != 4 || config.PredMLPRatio != 0 {
				t.Errorf("config %+v, want %+v", config, g)
			}
			wantPositions := map[string]string{"vjepa1_forward": model.SinCosUniform, "vjepa2_forward": model.RoPE}[c.weights]
			if config.Positions != wantPositions {
				t.Errorf("positions %s, want %s", config.Positions, wantPositions)
			}
			tensors := byName(m)
			for name, got := range tensors {
				source := name
				if rest, ok := strings.CutPrefix(name, model.TargetPrefix); ok && c.noTarget {
					source = model.EncoderPrefix + rest
				}
				if w := want[source]; !slices.Equal(got.Shape, w.Shape) || !sameBits(got.Data, w.F32) {
					t.Errorf("%s: %v is not what the reference has, %v", name, got.Shape, w.Shape)
				}
			}
			if len(tensors) != len(config.Params()) {
				t.Errorf("%d tensors, want %d", len(tensors), len(config.Params()))
			}
			if stands := i.Provenance.Encoders == Encoder; stands != c.noTarget {
				t.Errorf("provenance: %+v", i.Provenance)
			}
		})
	}
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// What is exported and imported again is the same, bit for bit.
func TestGoldenRoundTrips(t *testing.T) {
	v1, v2 := shapeOf(t, "vjepa1_forward").Config, shapeOf(t, "vjepa2_forward").Config
	for _, c := range []struct {
		from string
		o    Options
		to   []string
	}{
		{"vjepa1_ckpt.pth.tar", Options{Heads: v1.Heads}, []string{VJEPA}},
		{"vjepa2_ckpt.pt", Options{Heads: v2.Heads, PredHeads: v2.Pheads, Frames: v2.Frames, Size: v2.Img}, []string{VJEPA, HF}},
		{"vjepa2_hf", Options{}, []string{HF, VJEPA}},
	} {
		first, i := imported(t, golden.Path(t, c.from), c.o)
		model1 := filepath.Join(t.TempDir(), "first.safetensors")
		if _, err := i.Write(model1); err != nil {
			t.Fatal(err)
		}
		for _, format := range c.to {
			for _, which := range []string{Encoder, TargetEncoder} {
				t.Run(c.from+" as "+format+" with "+which, func(t *testing.T) {
					out := filepath.Join(t.TempDir(), "exported")
					notes, err := Export(model1, out, ExportOptions{Format: format, Which: which})
					if err != nil {
						t.Fatal(err)
					}
					o := c.o
					if format == VJEPA {
						o.Heads, o.PredHeads, o.Frames, o.Size = i.Config.Heads, i.Config.PredHeads, i.Config.Frames, i.Config.Size
					} else {
						o = Options{}
					}
					second, again := imported(t, out, o)
					if again.Config != i.Config {
						t.Errorf("config %+v, want %+v", again.Config, i.Config)
					}
					want := byName(first)
					for name, got := range byName(second) {
						source := name
						if format == HF { // one encoder stands for both
							if rest, ok := strings.CutPrefix(name, map[string]string{Encoder: model.TargetPrefix, TargetEncoder: model.EncoderPrefix}[which]); ok {
								source = map[string]string{Encoder: model.EncoderPrefix, TargetEncoder: model.TargetPrefix}[which] + rest
							}
						}
						if !sameBits(got.Data, want[source].Data) {
							t.Errorf("%s is not what was exported", name)
						}
					}
					if format == HF && i.Provenance.Encoders == Both && len(notes) == 0 {
						t.Error("nothing says that an encoder is left out")
					}
				})
			}
		}
	}
}

// A folder that was imported and exported again is the same folder, tensor by tensor.
func TestGoldenHFExport(t *testing.T) {
	_, i := imported(t, golden.Path(t, "vjepa2_hf"), Options{})
	dir := t.TempDir()
	file, out := filepath.Join(dir, "m.safetensors"), filepath.Join(dir, "hf")
	if _, err := i.Write(file); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(file, out, ExportOptions{Format: HF}); err != nil {
		t.Fatal(err)
	}
	want := golden.Tensors(t, "vjepa2_hf/model.safetensors")
	got, metadata, err := checkpoint.ReadSafetensors(filepath.Join(out, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || metadata["format"] != "pt" {
		t.Errorf("%d tensors and metadata %v, want %d and format pt", len(got), metadata, len(want))
	}
	for _, x := range got {
		if w := want[x.Name]; !slices.Equal(x.Shape, w.Shape) || !sameBits(x.Data, w.F32) {
			t.Errorf("%s %v: other than in the folder it came from, %v", x.Name, x.Shape, w.Shape)
		}
	}
	var a map[string]any
	golden.JSON(t, "vjepa2_hf/config.json", &a)
	h := readConfig(t, filepath.Join(out, "config.json"))
	for key, v := range h {
		if _, ok := a[key]; ok && key != "architectures" && v != a[key] {
			t.Errorf("config.json: %s is %v, want %v", key, v, a[key])
		}
	}
}
