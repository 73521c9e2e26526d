package compare

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Aggregation reduces the [C,W] matrix of a video to one number: first the
// contexts of each window, then the windows.
//
//	avg           mean over windows               (suits pairs)
//	max           max over windows                (suits single videos)
//	filtered_avg  min over contexts, then mean    (published as "filtered")
//	filtered_max  min over contexts, then max
//	peak          max over time of the tubelet values (Scores.Peak)
//	peak_avg      mean over windows of each window's largest tubelet
//	peak_after_parting  largest tubelet from the one on in which the video parts from that it is paired with
//	peak_at_parting     largest of the first PartingTubelets tubelets from that one on
//	contrast_at_parting by how much it surprises more than the video it is paired with, token by token, where they part;
//	                    whole groups are judged by both of their sides laid over one another (Contrast)
//
// Up to where they part the two videos of a pair look the same and surprise alike: if that is where they surprise most,
// peak ties. The last three look at what differs. Where that begins is found by looking at the pixels of
// both videos (Video.Divergence), not at labels: exchange the two, and it is the same. They are statistics of pairs,
// and say less of a single video, which has no other to part from. A video that parts from none counts whole.
//
// avg, max and the plain peaks take the mean over contexts, or the one context that
// Context names; those of the parting are of tubelets and tokens, whose surprise is a mean over
// contexts. The context is part of the question, fixed beforehand: the published
// headline numbers take the best one on the evaluation data itself, which is an
// oracle.
type Aggregation struct {
	Name    string
	Context int // frames; 0: all contexts
}

// Aggregations lists every aggregation over all contexts that score files of any version have.
func Aggregations() []Aggregation {
	return []Aggregation{{Name: "avg"}, {Name: "max"}, {Name: "filtered_avg"}, {Name: "filtered_max"}, {Name: "peak"}, {Name: "peak_avg"},
		{Name: "peak_after_parting"}, {Name: "peak_at_parting"}}
}

// DefaultAggregation is what a spec is judged by unless asked otherwise: the peak
// for next-tubelet models, filtered_avg with several contexts, avg with one.
func DefaultAggregation(s Spec) Aggregation {
	switch len(s.Contexts) {
	case 0:
		return Aggregation{Name: "peak"}
	case 1:
		return Aggregation{Name: "avg"}
	}
	return Aggregation{Name: "filtered_avg"}
}

// ParseAggregation reads "max", or "max@4" for the context of 4 frames.
func ParseAggregation(text string) (Aggregation, error) {
	name, context, found := strings.Cut(text, "@")
	a := Aggregation{Name: name}
	if found {
		c, err := strconv.Atoi(context)
		if err != nil || c < 1 {
			return a, fmt.Errorf("aggregation %q: context %q, want a number of frames", text, context)
		}
		a.Context = c
	}
	if _, ok := reductions[name]; !ok {
		return a, fmt.Errorf("aggregation: %q, want one of avg, max, filtered_avg, filtered_max, peak, peak_avg, peak_after_parting, peak_at_parting, contrast_at_parting", text)
	}
	if a.Context != 0 && reductions[name].filtered {
		return a, fmt.Errorf("aggregation %q: filtered takes the minimum over contexts, so it takes no context", text)
	}
	if a.Context != 0 && a.OfPairs() {
		return a, fmt.Errorf("aggregation %q: the surprise of a tubelet is a mean over contexts, so it takes no context", text)
	}
	return a, nil
}

func (a Aggregation) String() string {
	if a.Context == 0 {
		return a.Name
	}
	return fmt.Sprintf("%s@%d", a.Name, a.Context)
}

// MarshalText writes what ParseAggregation reads.
func (a Aggregation) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Aggregation) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAggregation(string(text))
	return err
}

type reduction struct {
	peak, filtered, max bool
	contrast            bool
	parting             int // how many tubelets from the parting on, of which the largest counts; 0: windows are reduced
}

// PartingTubelets is how many tubelets peak_at_parting looks at. Where an event falls on the last frame of a tubelet, the
// next one shows most of it; later ones add what the videos hold, not what happened (docs/experiments.md).
const PartingTubelets = 2

var reductions = map[string]reduction{
	"avg":          {},
	"max":          {max: true},
	"filtered_avg": {filtered: true},
	"filtered_max": {filtered: true, max: true},
	"peak":         {peak: true, max: true},
	"peak_avg":     {peak: true},

	"peak_after_parting": {parting: math.MaxInt},
	"peak_at_parting":    {parting: PartingTubelets},

	"contrast_at_parting": {contrast: true},
}

// Videos returns one surprise per video of f, whose set s is, [N].
func (s *Set) Videos(f *File, a Aggregation) ([]float64, error) {
	r, ok := reductions[a.Name]
	if !ok {
		return nil, fmt.Errorf("aggregation: unknown name %q", a.Name)
	}
	row := -1
	if a.Context != 0 {
		for i, c := range f.Spec.Contexts {
			if c == a.Context {
				row = i
			}
		}
		if row < 0 {
			if len(f.Spec.Contexts) == 0 {
				return nil, fmt.Errorf("aggregation %s: the model has no contexts: it sees every past", a)
			}
			return nil, fmt.Errorf("aggregation %s: context %d was not scored, only %v frames", a, a.Context, f.Spec.Contexts)
		}
	}
	out := make([]float64, len(s.Scores))
	for i := range s.Scores {
		if r.contrast {
			if s.Scores[i].Contrast == nil {
				return nil, fmt.Errorf("aggregation %s: video %s has no contrast: it was scored before there was one, it is paired with no video, or one of its group has other tubelets", a, f.Videos[i].Path)
			}
			out[i] = s.Scores[i].Contrast.Pair
			continue
		}
		if r.parting > 0 {
			curve := f.fromParting(&f.Videos[i], s.Scores[i].Curve, r.parting)
			if len(curve) == 0 {
				return nil, fmt.Errorf("aggregation %s: video %s has no curve", a, f.Videos[i].Path)
			}
			out[i] = slices.Max(curve)
			continue
		}
		values := s.Scores[i].Surprise
		if r.peak {
			values = s.Scores[i].Peak
		}
		if row >= 0 {
			values = values[row : row+1]
		}
		out[i] = r.reduce(values)
	}
	return out, nil
}

// whole returns what groups are judged by: one number per video of f, whose set s is, that add up to the group's, [N].
func (s *Set) whole(f *File, a Aggregation) ([]float64, error) {
	videos, err := s.Videos(f, a)
	if err != nil || !reductions[a.Name].contrast {
		return videos, err
	}
	out := make([]float64, len(videos))
	for i := range s.Scores {
		out[i] = s.Scores[i].Contrast.Group
	}
	return out, nil
}

// fromParting is the part of a video's curve that begins with the tubelet in which it parts from the video it is paired
// with, at most n tubelets; the whole curve if there is no such video.
func (f *File) fromParting(v *Video, curve []float64, n int) []float64 {
	parting, ok := f.Parting(v)
	if !ok {
		return curve
	}
	curve = curve[parting:]
	return curve[:min(n, len(curve))]
}

// Parting is the tubelet, along TubeletStart, in which a video of the file parts from the one it is paired with; ok is false
// if it parts from none.
func (f *File) Parting(v *Video) (tubelet int, ok bool) {
	if v.Divergence == nil || len(v.TubeletStart) == 0 {
		return 0, false
	}
	begun := func(t int) bool { return v.TubeletStart[t] <= v.Divergence.Second }
	// Frames of some files have no times of their own, or several have the same. Old score files tell times only.
	if f.Grid != nil {
		if starts := f.tubeletFrames(v); len(starts) == len(v.TubeletStart) {
			begun = func(t int) bool { return starts[t] <= v.Divergence.Frame }
		}
	}
	for t := range v.TubeletStart {
		if begun(t) {
			tubelet = t
		}
	}
	return tubelet, true
}

// OfPairs says whether a statistic of a video needs the one it is paired with.
func (a Aggregation) OfPairs() bool {
	r := reductions[a.Name]
	return r.parting > 0 || r.contrast
}

// reduce takes values [C,W] to one number. Rows may differ in length (see Spec.Beginning).
func (r reduction) reduce(values [][]float64) float64 {
	var sum float64
	largest := math.Inf(-1)
	windows := 0
	for _, row := range values {
		windows = max(windows, len(row))
	}
	for w := range windows {
		x := r.contexts(values, w)
		sum += x
		largest = max(largest, x)
	}
	if r.max {
		return largest
	}
	return sum / float64(windows)
}

// contexts takes window w of values [C,W] to one number: of the rows that are as long.
func (r reduction) contexts(values [][]float64, w int) float64 {
	var sum float64
	smallest, n := math.Inf(1), 0
	for _, row := range values {
		if w < len(row) {
			sum += row[w]
			smallest = min(smallest, row[w])
			n++
		}
	}
	if r.filtered {
		return smallest
	}
	return sum / float64(n)
}
