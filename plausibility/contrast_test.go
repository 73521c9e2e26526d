package plausibility

import (
	"math"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// quadruplet is a group of two pairs on a grid of 2×3 tokens and four tubelets, which part in tubelets 1 and 2. Every token
// of every video surprises by what the video shows, content; event is added to two tokens of the impossible videos from
// their parting on.
func quadruplet(content [4]float32, event float32) ([]scoredVideo, []heat.Map) {
	var videos []scoredVideo
	var maps []heat.Map
	for i := range 4 {
		parting := 1 + i/2
		v := scoredVideo{scores: make([]compare.Scores, 1), video: compare.Video{Label: 1 - i%2, Group: "g", Pair: string(rune('1' + i/2)),
			TubeletStart: []float64{0, 0.1, 0.2, 0.3}, Divergence: &compare.Place{Second: 0.1*float64(parting) + 0.05}}}
		m := heat.Map{Tubelets: 4, Height: 2, Width: 3, Values: make([]float32, 24)}
		for k := range m.Values {
			m.Values[k] = content[i] + float32(k%5)
			if i%2 == 1 && k/6 >= parting && k%6 < 2 {
				m.Values[k] += event
			}
		}
		videos, maps = append(videos, v), append(maps, m)
	}
	return videos, maps
}

func TestContrast(t *testing.T) {
	// Without content of their own, a pair's contrast is the mean over the four worst tokens, of which two hold the event.
	videos, maps := quadruplet([4]float32{}, 6)
	contrast(&compare.File{}, videos, 0, maps)
	for i, want := range []float64{0, 3, 0, 3} {
		if got := videos[i].scores[0].Contrast.Pair; math.Abs(got-want) > 1e-6 {
			t.Errorf("video %d: %g above its pair, want %g", i, got, want)
		}
	}
	// Groups are looked at where the first of their videos part: there only the first pair shows its event, half of it on
	// average over a side.
	if got := videos[3].scores[0].Contrast.Group; math.Abs(got-1.5) > 1e-6 {
		t.Errorf("the impossible side is %g above the other, want 1.5", got)
	}

	// Each of the two ends costs something, whichever video has it. Against that a small event is lost in pairs, and not in
	// groups, where both sides show both ends.
	videos, maps = quadruplet([4]float32{5, 0, 0, 5}, 1)
	contrast(&compare.File{}, videos, 0, maps)
	pair, group := func(i int) float64 { return videos[i].scores[0].Contrast.Pair }, func(i int) float64 { return videos[i].scores[0].Contrast.Group }
	if pair(1) > pair(0) || pair(3) < pair(2) {
		t.Errorf("pairs are judged %g to %g and %g to %g, want by content", pair(0), pair(1), pair(2), pair(3))
	}
	if group(0) >= group(1) || group(0) != group(2) || group(1) != group(3) {
		t.Errorf("groups are judged %g and %g to %g and %g, want by the event", group(0), group(2), group(1), group(3))
	}

	// Labels exchanged, every judgement is the opposite.
	swapped, same := quadruplet([4]float32{5, 0, 0, 5}, 1)
	for i := range swapped {
		swapped[i].video.Label = 1 - swapped[i].video.Label
	}
	contrast(&compare.File{}, swapped, 0, same)
	for i := range videos {
		if got, want := *swapped[i].scores[0].Contrast, *videos[i].scores[0].Contrast; got != want {
			t.Errorf("video %d: %+v with labels exchanged, %+v before", i, got, want)
		}
	}

	// A pair that parts nowhere visibly is judged where its videos differ most, and does not tell the group where to look.
	videos, maps = quadruplet([4]float32{}, 6)
	videos[2].video.Divergence, videos[3].video.Divergence = nil, nil
	contrast(&compare.File{}, videos, 0, maps)
	if got := pair(3); math.Abs(got-3) > 1e-6 {
		t.Errorf("without a parting in sight video 3 is %g above its pair, want 3", got)
	}
	if got := group(3); math.Abs(got-1.5) > 1e-6 {
		t.Errorf("with a pair that parts nowhere the impossible side is %g above the other, want 1.5", got)
	}
	for i := range videos {
		videos[i].video.Divergence = nil
	}
	contrast(&compare.File{}, videos, 0, maps)
	if got := group(3); math.Abs(got-3) > 1e-6 { // tubelets 2 and 3 hold both events
		t.Errorf("where no pair parts the impossible side is %g above the other, want 3", got)
	}

	for name, change := range map[string]func(v []scoredVideo, m []heat.Map){
		"in no pair":        func(v []scoredVideo, _ []heat.Map) { v[2].video.Pair = "3" },
		"in several":        func(v []scoredVideo, _ []heat.Map) { v[2].video.Pair, v[3].video.Pair = "1", "1" },
		"of another length": func(_ []scoredVideo, m []heat.Map) { m[1].Tubelets, m[1].Values = 3, m[1].Values[:18] },
	} {
		videos, maps := quadruplet([4]float32{}, 1)
		change(videos, maps)
		contrast(&compare.File{}, videos, 0, maps)
		for i := range videos {
			if videos[i].scores[0].Contrast != nil {
				t.Errorf("a video %s: video %d has a contrast", name, i)
			}
		}
	}
}
