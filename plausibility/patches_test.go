package plausibility

import (
	"math/rand/v2"
	"testing"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// BenchmarkPatchEmbedding measures what share of a window's products is the embedding of its patches, which is all that
// overlapping windows of a masked model have in common: its encoders add positions, which differ, right after it.
func BenchmarkPatchEmbedding(b *testing.B) {
	for _, name := range []string{"demo", "nano", "tiny", "small"} {
		b.Run(name, func(b *testing.B) {
			shape, err := model.Preset(name)
			if err != nil {
				b.Fatal(err)
			}
			t, h, w := shape.Grid()
			spec, rows := Spec{Window: shape.Frames}, 2*t*h*w // rows embedded: whole clips, by encoder and target encoder
			if shape.Objective == model.Masked {
				spec.Contexts = []int{2, 4, 6, 8, 10}
				rows = (t + 1 + 2 + 3 + 4 + 5) * h * w // the target encoder sees all, the encoder each context
			}
			n, err := (&Model{Config: shape}).Twin(0).Network(spec, 1, cpu.Options{Threads: 1, Precision: cpu.Auto})
			if err != nil {
				b.Fatal(err)
			}
			defer n.Close()
			window := make([]float32, shape.ClipValues())
			for i := range window {
				window[i] = float32(rand.NormFloat64())
			}
			for b.Loop() {
				if _, err := n.Surprise(b.Context(), window, 1); err != nil {
					b.Fatal(err)
				}
			}
			patch := 2 * float64(rows*3*shape.Tubelet*shape.Patch*shape.Patch*shape.Dim)
			b.ReportMetric(100*patch/n.machine.ProductFLOPs(), "%products")
		})
	}
}
