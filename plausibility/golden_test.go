package plausibility

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/exchange"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/xlatest"
)

// The published procedure on the published code's weights, video by video, context by
// context, window by window (testdata/golden/README.md, vjepa_surprise).
func TestGoldenSurprise(t *testing.T) {
	var manifest struct {
		Config struct {
			Img, Patch, Frames, Tubelet, Dim, Depth, Heads, Pdim, Pdepth, Pheads int
			MLPRatio                                                             float64 `json:"mlp_ratio"`
		}
		Stride   int
		Contexts []int `json:"context_lengths"`
	}
	golden.JSON(t, "vjepa_surprise.json", &manifest)
	data := golden.Tensors(t, "vjepa_surprise.safetensors")
	weights := golden.Tensors(t, "vjepa1_forward.safetensors")
	g := manifest.Config
	m := &Model{Config: model.Config{Objective: model.Masked, Size: g.Img, Frames: g.Frames, Patch: g.Patch, Tubelet: g.Tubelet,
		Dim: g.Dim, Depth: g.Depth, Heads: g.Heads, PredDim: g.Pdim, PredDepth: g.Pdepth, PredHeads: g.Pheads, MLPRatio: g.MLPRatio}}
	if m.Config.PredHeads == 0 {
		m.Config.PredHeads = g.Heads
	}
	m.Config = m.Config.WithDefaults()
	for _, p := range m.Config.Params() {
		m.weights = append(m.weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: weights[p.Name].F32})
	}
	checkSurprise(t, m, data["videos"], data["surprise"].F32, manifest.Contexts, manifest.Stride)
}

// A model imported from a published V-JEPA 2 checkpoint, opened as surmise score and score jobs open it, on the published
// procedure (vjepa2_surprise).
func TestGoldenSurpriseOfAnImport(t *testing.T) {
	var shape struct {
		Config struct{ Img, Frames, Heads, Pheads int }
	}
	golden.JSON(t, "vjepa2_forward.json", &shape)
	var manifest struct {
		Stride   int
		Contexts []int `json:"context_lengths"`
	}
	golden.JSON(t, "vjepa2_surprise.json", &manifest)
	want := golden.Tensors(t, "vjepa2_surprise.safetensors")
	videos := golden.Tensors(t, "vjepa_surprise.safetensors")
	i, err := exchange.Open(golden.Path(t, "vjepa2_ckpt.pt"), exchange.Options{Heads: shape.Config.Heads, PredHeads: shape.Config.Pheads,
		Frames: shape.Config.Frames, Size: shape.Config.Img})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if _, err := i.Write(path); err != nil {
		t.Fatal(err)
	}
	m, err := OpenModel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !strings.Contains(string(m.Record.Config), "vjepa2_ckpt.pt") {
		t.Errorf("the record does not say where the model came from: %s", m.Record.Config)
	}
	checkSurprise(t, m, videos["videos"], want["surprise"].F32, manifest.Contexts, manifest.Stride)
}

// checkSurprise scores videos [V,3,frames,S,S] and wants surprise [V,contexts,windows].
func checkSurprise(t *testing.T, m *Model, videos golden.Tensor, want []float32, contexts []int, stride int) {
	t.Helper()
	frames, window := videos.Shape[2], m.Config.Frames
	spec := Spec{Window: window, Stride: stride, Contexts: contexts}
	starts := WindowStarts(frames, window, stride)
	if len(want) != videos.Shape[0]*len(contexts)*len(starts) {
		t.Fatalf("%d windows of %d videos with %d contexts, want %d values", len(starts), videos.Shape[0], len(contexts), len(want))
	}
	device, err := xlatest.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	for batch, on := range map[int]xla.Device{4: nil, len(starts): nil, 3: device} {
		m.Device = on
		net, err := m.Network(spec, batch, cpu.Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer net.Close()
		for v := range videos.Shape[0] {
			length := len(videos.F32) / videos.Shape[0]
			of := &givenFrames{pix: videos.F32[v*length : (v+1)*length], frames: frames}
			var windows []Window
			for _, from := range starts {
				windows = append(windows, Window{Of: of, From: from})
			}
			got, err := net.Surprise(t.Context(), windows)
			if err != nil {
				t.Fatal(err)
			}
			r := newReducer(spec, m.Config)
			for w := range got {
				reduced, err := r.reduce(got[w], nil)
				if err != nil {
					t.Fatal(err)
				}
				for c, s := range reduced {
					want := float64(want[(v*len(contexts)+c)*len(starts)+w])
					if math.Abs(s.surprise-want) > 1e-6 {
						t.Errorf("video %d, context %d, window %d: surprise %.8f, want %.8f", v, contexts[c], w, s.surprise, want)
					}
				}
			}
		}
	}
}

func newReducer(spec Spec, c model.Config) *reducer {
	t, h, w := c.Grid()
	return &reducer{spec: spec, tubelets: t, tubeletTokens: h * w, sorted: make([]float32, h*w)}
}
