package plausibility

import (
	"context"
	"math"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
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
		Starts   []int `json:"window_starts"`
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
	spec := Spec{Window: g.Frames, Stride: manifest.Stride, Contexts: manifest.Contexts}
	for _, batch := range []int{4, len(manifest.Starts)} {
		net, err := m.Network(spec, batch, cpu.Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer net.Close()
		videos := data["videos"] // [video,3,frames,S,S]
		frames, plane := videos.Shape[2], g.Img*g.Img
		for v := range videos.Shape[0] {
			starts := WindowStarts(frames, g.Frames, manifest.Stride)
			if len(starts) != len(manifest.Starts) {
				t.Fatalf("%d windows, want %d", len(starts), len(manifest.Starts))
			}
			var windows []float32
			for _, from := range starts {
				for c := range 3 {
					at := ((v*3+c)*frames + from) * plane
					windows = append(windows, videos.F32[at:at+g.Frames*plane]...)
				}
			}
			got, err := net.Surprise(context.Background(), windows, len(starts))
			if err != nil {
				t.Fatal(err)
			}
			r := newReducer(spec, m.Config)
			for w := range got {
				reduced, err := r.reduce(got[w])
				if err != nil {
					t.Fatal(err)
				}
				for c, s := range reduced {
					want := float64(data["surprise"].F32[(v*len(manifest.Contexts)+c)*len(starts)+w])
					if math.Abs(s.surprise-want) > 1e-6 {
						t.Errorf("video %d, context %d, window %d: surprise %.8f, want %.8f", v, manifest.Contexts[c], w, s.surprise, want)
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
