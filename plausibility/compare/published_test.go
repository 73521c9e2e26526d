package compare

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
)

func TestGoldenPublishedMetrics(t *testing.T) {
	var want struct {
		ContextLengths []int                                    `json:"context_lengths"`
		Metrics        map[string]map[string]map[string]float64 `json:"metrics"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	if len(want.Metrics) == 0 {
		t.Fatal("manifest holds no metrics")
	}
	data := golden.Tensors(t, "vjepa_surprise.safetensors")
	for name, contexts := range want.Metrics {
		losses, labelTensor := data["metrics."+name+".losses"], data["metrics."+name+".labels"] // [N,C,W], [N]
		n, c, w := losses.Shape[0], losses.Shape[1], losses.Shape[2]
		labels := make([]int, n)
		for i := range labels {
			labels[i] = int(labelTensor.I64[i])
		}
		at := func(i, k, j int) float32 { return losses.F32[(i*c+k)*w+j] }
		rows := map[string][][]float32{}
		for i := range n {
			filtered := make([]float32, w)
			for j := range w {
				filtered[j] = at(i, 0, j)
			}
			for k := range c {
				row := make([]float32, w)
				for j := range w {
					row[j] = at(i, k, j)
					filtered[j] = min(filtered[j], row[j])
				}
				context := "ctx" + strconv.Itoa(want.ContextLengths[k])
				rows[context] = append(rows[context], row)
			}
			rows["filtered"] = append(rows["filtered"], filtered)
		}
		for context, metrics := range contexts {
			t.Run(name+"/"+context, func(t *testing.T) {
				got, err := Published(rows[context], labels)
				if err != nil {
					t.Fatal(err)
				}
				values := map[string]float64{
					"Relative Accuracy (avg)":      got.RelativeAccuracyAvg,
					"Relative Accuracy (max)":      got.RelativeAccuracyMax,
					"Absolute Accuracy (max)":      got.AbsoluteAccuracyMax,
					"Classifier threhshold":        got.Threshold,
					"Best Absolute Accuracy (max)": got.BestAbsoluteAccuracyMax,
					"Best Classifier threhshold":   got.BestThreshold,
					"AUPRC (avg)":                  got.AUPRCAvg,
					"AUPRC (max)":                  got.AUPRCMax,
					"AUROC (avg)":                  got.AUROCAvg,
					"AUROC (max)":                  got.AUROCMax,
				}
				for key, w := range metrics {
					g, ok := values[key]
					if !ok {
						t.Errorf("metric %q is not computed", key)
					} else if math.Abs(g-w) > 1e-6 {
						t.Errorf("%s = %.9g, want %.9g", key, g, w)
					}
				}
			})
		}
	}
}

// The published code's own matching, from the frames on. The recorded quadruplet is video 0
// of the golden data and three copies, changed where its construction says.
func TestGoldenQuadruplet(t *testing.T) {
	var want struct {
		Frames     int `json:"frames"`
		Quadruplet struct {
			BreakingPoints [3]int    `json:"breaking_points"`
			Matches        [2][2]int `json:"matches"`
			Construction   string    `json:"construction"` // "… on frames [4,T), [T-6,T), [4,T-6) …"
		} `json:"quadruplet"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	spans := regexp.MustCompile(`\[(\d+|T-\d+),(T|T-\d+)\)`).FindAllStringSubmatch(want.Quadruplet.Construction, -1)
	if len(spans) != 3 {
		t.Fatalf("construction %q, want three spans of frames", want.Quadruplet.Construction)
	}
	frame := func(text string) int {
		back, fromEnd := strings.CutPrefix(text, "T")
		n, err := strconv.Atoi(cmp.Or(back, "0"))
		if err != nil {
			t.Fatal(err)
		}
		if fromEnd {
			n += want.Frames
		}
		return n
	}
	videos := golden.Tensors(t, "vjepa_surprise.safetensors")["videos"] // [video,3,T,S,S]
	frames, plane := videos.Shape[2], videos.Shape[3]*videos.Shape[4]
	zero := videos.F32[:3*frames*plane]
	changed := func(from, to int) []float32 {
		out := slices.Clone(zero)
		for c := range 3 {
			for i := (c*frames + from) * plane; i < (c*frames+to)*plane; i++ {
				out[i] += 0.5
			}
		}
		return out
	}
	var points [3]int
	for i, span := range spans {
		points[i] = PublishedBreakingPoint(zero, changed(frame(span[1]), frame(span[2])), frames)
	}
	if points != want.Quadruplet.BreakingPoints {
		t.Errorf("breaking points %v, want %v", points, want.Quadruplet.BreakingPoints)
	}
	if got := PublishedMatches(points); got != want.Quadruplet.Matches {
		t.Errorf("matches %v, want %v", got, want.Quadruplet.Matches)
	}
	if got := PublishedBreakingPoint(zero, zero, frames); got != frames {
		t.Errorf("a video differs from itself at frame %d", got)
	}
}

func TestPublishedMatchesByHand(t *testing.T) {
	for points, want := range map[[3]int][2][2]int{
		{9, 4, 4}: {{0, 1}, {2, 3}}, {4, 9, 4}: {{0, 2}, {1, 3}}, {4, 4, 9}: {{0, 3}, {1, 2}},
		{5, 5, 5}: {{0, 1}, {2, 3}}, {4, 9, 9}: {{0, 2}, {1, 3}}, // of equal ones the first
	} {
		if got := PublishedMatches(points); got != want {
			t.Errorf("breaking points %v: %v, want %v", points, got, want)
		}
	}
	// One pixel brighter by one and another darker by one: the published rule sees nothing.
	a, b := make([]float32, 3*2*2), make([]float32, 3*2*2)
	b[2], b[3] = 1, -1
	if got := PublishedBreakingPoint(a, b, 2); got != 2 {
		t.Errorf("differences that cancel: frame %d, want none", got)
	}
	b[3] = 0
	if got := PublishedBreakingPoint(a, b, 2); got != 1 {
		t.Errorf("a difference in frame 1: frame %d", got)
	}
}

// From recorded surprises to what is said of videos: mean and largest window, and the
// smallest context of each window.
func TestGoldenAggregations(t *testing.T) {
	var want struct {
		Contexts []int                           `json:"context_lengths"`
		Frames   int                             `json:"frames_per_clip"`
		Pairs    map[string]map[string][]float64 `json:"pair_summary"`
		Filtered [][]float64                     `json:"filtered_min_over_contexts"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	surprise := golden.Tensors(t, "vjepa_surprise.safetensors")["surprise"] // [video,C,W]
	videos, contexts, windows := surprise.Shape[0], surprise.Shape[1], surprise.Shape[2]
	set := &Set{}
	for v := range videos {
		var s Scores
		for c := range contexts {
			row := make([]float64, windows)
			for w := range row {
				row[w] = float64(surprise.F32[(v*contexts+c)*windows+w])
			}
			s.Surprise = append(s.Surprise, row)
		}
		set.Scores = append(set.Scores, s)
	}
	file := &File{Spec: Spec{Window: want.Frames, Contexts: want.Contexts}}
	check := func(a Aggregation, want []float64) {
		t.Helper()
		got, err := set.Videos(file, a)
		if err != nil {
			t.Fatal(err)
		}
		for v := range want {
			if math.Abs(got[v]-want[v]) > 1e-6 {
				t.Errorf("%s of video %d: %.9g, want %.9g", a, v, got[v], want[v])
			}
		}
	}
	for _, c := range want.Contexts {
		check(Aggregation{"avg", c}, want.Pairs["ctx"+strconv.Itoa(c)]["mean"])
		check(Aggregation{"max", c}, want.Pairs["ctx"+strconv.Itoa(c)]["max"])
	}
	var mean, largest []float64
	for _, row := range want.Filtered {
		var sum float64
		for _, x := range row {
			sum += x
		}
		mean, largest = append(mean, sum/float64(len(row))), append(largest, slices.Max(row))
	}
	check(Aggregation{Name: "filtered_avg"}, mean)
	check(Aggregation{Name: "filtered_max"}, largest)
}

// The recorded metrics, from score files that hold the recorded surprises: one property per
// recording, videos of their own lengths where the recording has trailing zeros, listed in
// another order than the recording has.
func TestGoldenPublishedTable(t *testing.T) {
	var want struct {
		Contexts []int                                    `json:"context_lengths"`
		Frames   int                                      `json:"frames_per_clip"`
		Metrics  map[string]map[string]map[string]float64 `json:"metrics"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	data := golden.Tensors(t, "vjepa_surprise.safetensors")
	f := &File{Version: Version, Spec: Spec{Window: want.Frames, Stride: 2, FrameStep: 1, Contexts: want.Contexts}, Size: 32, Decoder: "none",
		Sets: []Set{{Name: ModelSet}}}
	for name := range want.Metrics {
		losses, labels := data["metrics."+name+".losses"], data["metrics."+name+".labels"].I64 // [N,C,W], [N]
		n, contexts, windows := losses.Shape[0], losses.Shape[1], losses.Shape[2]
		var seen [2]int // pairs are matched by order within each class
		for i := range n {
			label := int(labels[i])
			s := Scores{}
			length := 0
			for c := range contexts {
				row := make([]float64, windows)
				for w := range row {
					if row[w] = float64(losses.F32[(i*contexts+c)*windows+w]); row[w] != 0 {
						length = max(length, w+1)
					}
				}
				s.Surprise = append(s.Surprise, row)
			}
			for c := range s.Surprise {
				s.Surprise[c] = s.Surprise[c][:length]
			}
			s.Peak = s.Surprise
			f.Videos = append(f.Videos, Video{Path: strconv.Itoa(i), Label: label, Group: name + strconv.Itoa(seen[label]), Property: name,
				Frames: 1, WindowStart: make([]float64, length)})
			seen[label]++
			f.Sets[0].Scores = append(f.Sets[0].Scores, s)
		}
	}
	f.Data = Digest(f.Videos)
	rows, err := PublishedTable(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(want.Metrics)*(len(want.Contexts)+1) {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		context := "filtered"
		if r.Context != context {
			context = "ctx" + r.Context
		}
		w := want.Metrics[r.Property][context]
		for key, got := range map[string]float64{
			"Relative Accuracy (avg)": r.Metrics.RelativeAccuracyAvg, "Relative Accuracy (max)": r.Metrics.RelativeAccuracyMax,
			"Absolute Accuracy (max)": r.Metrics.AbsoluteAccuracyMax, "Best Absolute Accuracy (max)": r.Metrics.BestAbsoluteAccuracyMax,
			"AUROC (avg)": r.Metrics.AUROCAvg, "AUROC (max)": r.Metrics.AUROCMax, "AUPRC (avg)": r.Metrics.AUPRCAvg, "AUPRC (max)": r.Metrics.AUPRCMax,
		} {
			if r.Problem != "" || math.Abs(got-w[key]) > 1e-6 {
				t.Errorf("%s, context %s: %s = %.9g, want %.9g (%s)", r.Property, r.Context, key, got, w[key], r.Problem)
			}
		}
	}
	var text strings.Builder
	if err := WritePublished(&text, rows); err != nil || !strings.Contains(text.String(), "filtered") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

func TestPublishedTableNamesWhatIsMissing(t *testing.T) {
	rows, err := PublishedTable(madeUp(1, 3, 1, "p"))
	if err != nil || len(rows) != 3 || !strings.Contains(rows[0].Problem, "6 possible videos") {
		t.Errorf("%+v, %v: six pairs are too few for the threshold", rows, err)
	}
	f := madeUp(1, 6, 1, "p")
	for i := range f.Videos {
		f.Videos[i].Pair = ""
	}
	f.Data = Digest(f.Videos)
	if rows, err := PublishedTable(f); err != nil || !strings.Contains(rows[0].Problem, "want one-to-one") {
		t.Errorf("%+v, %v: pairs are not one-to-one", rows, err)
	}
	f.Spec.Contexts = nil
	for s := range f.Sets {
		for i := range f.Sets[s].Scores {
			f.Sets[s].Scores[i].Surprise, f.Sets[s].Scores[i].Peak = f.Sets[s].Scores[i].Surprise[:1], f.Sets[s].Scores[i].Peak[:1]
		}
	}
	if _, err := PublishedTable(f); err == nil || !strings.Contains(err.Error(), "no context lengths") {
		t.Errorf("a model without contexts: %v", err)
	}
}
