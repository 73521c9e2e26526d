package compare

import (
	"fmt"
	"math/rand/v2"
)

// madeUp is a score file of quadruplets whose outcome is known: in a share
// `right` of the pairs the impossible video surprises the model more; the twin
// guesses. Each group has content of its own, larger than the event.
func madeUp(seed uint64, groups int, right float64, properties ...string) *File {
	rng := rand.New(rand.NewPCG(seed, 1))
	f := &File{
		Version: Version,
		Spec:    Spec{Window: 8, Stride: 2, FrameStep: 1, Contexts: []int{2, 4}},
		Size:    64, Decoder: "made up", Skipped: []Skipped{},
		Sets: []Set{{Name: ModelSet, Model: Model{Name: "tiny", Step: 100}}, {Name: TwinSet}},
	}
	const windows = 3
	matrix := func(x float64) [][]float64 {
		m := make([][]float64, 2)
		for c := range m {
			for w := range windows {
				m[c] = append(m[c], x+0.01*float64(w)+0.001*float64(c))
			}
		}
		return m
	}
	for g := range groups {
		property := properties[g%len(properties)]
		content := rng.Float64()
		for pair := range 2 {
			event, twinEvent := 0.1, 0.1
			if rng.Float64() >= right {
				event = -event
			}
			if rng.Float64() >= 0.5 {
				twinEvent = -twinEvent
			}
			for _, label := range []int{1, 0} {
				x, y := 1+content+float64(pair), 1+content+float64(pair)
				if label == 0 {
					x, y = x+event, y+twinEvent
				}
				f.Videos = append(f.Videos, Video{
					Path: fmt.Sprintf("%03d-%d-%d.mp4", g, pair, label), Label: label, Group: fmt.Sprint(g), Property: property,
					Pair: fmt.Sprint(pair), SHA256: fmt.Sprintf("%d/%d/%d", g, pair, label), Frames: 12,
					WindowStart: []float64{0, 0.1, 0.2}, TubeletStart: []float64{0.2, 0.3},
				})
				for s, v := range []float64{x, y} {
					f.Sets[s].Scores = append(f.Sets[s].Scores, Scores{Surprise: matrix(v), Peak: matrix(v + 1), Curve: []float64{v, v}})
				}
			}
		}
	}
	f.Data = Digest(f.Videos)
	return f
}
