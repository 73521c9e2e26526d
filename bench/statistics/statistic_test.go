package main

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

func mapOf(tubelets int, values ...float32) heat.Map {
	return heat.Map{Tubelets: tubelets, Height: 1, Width: len(values) / tubelets, Values: values}
}

// Two tokens, three tubelets; the videos of the first pair part in the second tubelet. What follows the event costs 3
// where the object is and 1 where it is not, and the event itself 1 more, which is less than the object does: only
// against the same content is it found.
func quadruplet() *pair {
	there, gone := mapOf(3, 5, 1, 3, 1, 3, 1), mapOf(3, 5, 1, 1, 1, 1, 1)
	vanishes, appears := mapOf(3, 5, 1, 2, 1, 1, 1), mapOf(3, 5, 1, 4, 1, 3, 1)
	first := &pair{possible: there, impossible: vanishes, parting: 1}
	second := &pair{possible: gone, impossible: appears, parting: 1}
	first.others, second.others = second, first
	return first
}

func TestStatistics(t *testing.T) {
	p := quadruplet()
	got := map[string]float64{}
	for _, s := range statistics() {
		if _, twice := got[s.name]; twice {
			t.Errorf("two statistics are named %q", s.name)
		}
		got[s.name] = s.judge(*p)
	}
	for name, want := range map[string]float64{
		"peak, top 1":                                    0,         // 5 in both, before they part
		"peak, top 2":                                    0,         // (5+1)/2
		"mean of tubelets, top 1":                        -1,        // (5+2+1)/3 against (5+3+3)/3
		"peak after parting, top 1":                      -1,        // 2 against 3
		"mean after parting, top 1":                      -1.5,      // (2+1)/2 against 3
		"peak of 1 at parting, top 2":                    -0.5,      // (2+1)/2 against (3+1)/2
		"largest step above the past, top 1":             -1.5,      // 1-(5+2)/2 = -2.5 against 3-(5+3)/2 = -1
		"largest above the past's largest, top 1":        -1,        // -3 against -2
		"difference of maps, 1 at parting, top 1":        0 - 1,     // nowhere more, 1 less
		"difference of maps, all at parting, top 1":      0 - 2,     // 2 less in the last tubelet
		"same end, peak of 1, top 1":                     1,         // 2 against 1
		"same end, difference of maps, all, top 1":       1 - 0,     // 1 more at the event, as much after it
		"group, peak after parting, top 1":               2 + 4 - 4, // against 3 + 1
		"group, mean of 2 at parting, top 1":             1.5 + 3.5 - 4,
		"group, difference of maps, 1 at parting, top 1": 2, // 2+4-3-1 at the first token, 0 at the other: 2 more, 0 less
	} {
		if x, ok := got[name]; !ok || math.Abs(x-want) > 1e-6 {
			t.Errorf("%s: %g (%t), want %g", name, x, ok, want)
		}
	}
}

// A statistic that knew which video is which would find something in labels exchanged.
func TestStatisticsKnowNoLabels(t *testing.T) {
	p := quadruplet()
	exchanged := &pair{possible: p.impossible, impossible: p.possible, parting: 1}
	exchanged.others = &pair{possible: p.others.impossible, impossible: p.others.possible, parting: 1, others: exchanged}
	for _, s := range statistics() {
		there, back := s.judge(*p), s.judge(*exchanged)
		if strings.HasPrefix(s.name, "same end") {
			// The possible video of the one pair and the impossible one of the other end alike: exchanged, the question is
			// about the two videos of the other end.
			there = s.judge(*p.others)
		}
		if math.Abs(there+back) > 1e-6 {
			t.Errorf("%s: %g, and %g with labels exchanged", s.name, there, back)
		}
	}
}

func TestTableOfAScoreFile(t *testing.T) {
	f, maps := &compare.File{Version: compare.Version, Spec: compare.Spec{Window: 8, Stride: 8, FrameStep: 1}, Size: 8, Decoder: "made up",
		Sets: []compare.Set{{Name: compare.ModelSet}, {Name: compare.TwinSet}}}, &heat.Maps{}
	p := quadruplet()
	for g := range 3 {
		for i, m := range []heat.Map{p.possible, p.impossible, p.others.possible, p.others.impossible} {
			f.Videos = append(f.Videos, compare.Video{Path: fmt.Sprint(g, i), Label: 1 - i%2, Group: fmt.Sprint(g), Property: "permanence", Pair: fmt.Sprint(i / 2),
				Frames: 8, WindowStart: []float64{0}, TubeletStart: []float64{0.1, 0.2, 0.3}, Divergence: &compare.Place{Second: 0.25}})
			for s := range f.Sets {
				f.Sets[s].Scores = append(f.Sets[s].Scores, compare.Scores{Surprise: [][]float64{{1}}, Peak: [][]float64{{1}}, Curve: []float64{1, 1, 1}})
			}
			maps.Add(map[string]heat.Map{compare.ModelSet: m, compare.TwinSet: p.possible})
		}
	}
	f.Data = compare.Digest(f.Videos)
	folder := t.TempDir()
	if err := maps.Save(filepath.Join(folder, "maps.safetensors"), f); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "scores.json")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(&out, []string{path}, "", 100); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"peak, top 1 ":                      "0.0",   // ties
		"peak after parting, top 1 ":        "50.0",  // content decides: it appears in the one pair, vanishes in the other
		"same end, peak of 1, top 1 ":       "100.0", // the event does
		"group, peak after parting, top 1 ": "100.0",
	} {
		found := false
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, name) {
				found = strings.HasPrefix(strings.TrimSpace(line[len(name):]), want+" [") && strings.Contains(line, "/ 0.0")
			}
		}
		if !found {
			t.Errorf("no line %q with %s for the model and 0.0 for the twin in\n%s", name, want, out.String())
		}
	}
	f.Maps = nil
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	if err := run(&out, []string{path}, "", 100); err == nil || !strings.Contains(err.Error(), "has none") {
		t.Errorf("without maps: %v", err)
	}
}
