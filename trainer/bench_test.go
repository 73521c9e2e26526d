package trainer

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/surmise-ml/surmise/trainer/model"
)

// BenchmarkStep times whole training steps of each preset on random clips.
func BenchmarkStep(b *testing.B) {
	for _, preset := range []struct {
		name  string
		batch int
	}{{"demo", 16}, {"nano", 16}, {"tiny", 8}, {"small", 2}} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads=%d", preset.name, threads), func(b *testing.B) {
				shape, err := model.Preset(preset.name)
				if err != nil {
					b.Fatal(err)
				}
				cfg := Config{Model: shape, Batch: preset.batch, Threads: threads, Steps: 1000}.Defaults()
				m, err := newMasks(cfg)
				if err != nil {
					b.Fatal(err)
				}
				s, err := newStepper(cfg, m.groups())
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = s.m.Close() }()
				rng := rand.New(rand.NewPCG(1, 1))
				clips := make([]float32, cfg.Batch*shape.ClipValues())
				for i := range clips {
					clips[i] = float32(rng.NormFloat64())
				}
				step := 0
				for b.Loop() {
					step++
					context, pred, err := m.batch(step)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := s.step(step, clips, context, pred); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cfg.Batch)*float64(b.N)/b.Elapsed().Seconds(), "clips/s")
				b.ReportAllocs()
			})
		}
	}
}
