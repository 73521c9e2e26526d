// Package report shows scores: one HTML page that holds everything it needs, and
// pictures for papers and slides.
//
//	report.go     what a page shows; typical pairs with their frames
//	html.go       the page
//	listing.go    the page of videos without labels
//	figures.go    figures, for the page and as PNG and SVG
//	pairchart.go  the curves of a pair, or of one video, above the frames
//	data.go       the same numbers as JSON and CSV
//
// The page loads nothing from anywhere: styles, charts and frames are in the file.
package report

import (
	"context"
	"fmt"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// Page is what a report shows. Only Title and Table must be set.
type Page struct {
	Title    string
	Made     string // when and by what version, as it should read
	Table    *compare.Table
	File     *compare.File // where the scores came from
	FixedBy  string        // what fixed the statistic before the scores were seen, if that is not the default of the scores; "": --measure chose it
	Training []Step        // of the model, in order
	Pairs    []Pair

	Evaluations  []Evaluation          // accuracy over training steps, in order
	Localisation *compare.Localisation // when and where surprise peaks
	Controls     *compare.Table        // of videos in which nothing impossible happens
	Baseline     *compare.Table        // the model beside another, such as one that predicts pixels
	Rankings     []Ranked              // of made futures

	Facts []Fact // further provenance, such as the command that reproduces the page
}

// Step is one log line of the training run.
type Step struct {
	Step          int
	Loss          float64
	EffectiveRank float64 // of the representations; falls towards 1 as they collapse
	FeatureStd    float64 // mean standard deviation of a feature over tokens
	Cosine        float64 // mean cosine between representations of different tokens
}

// Evaluation is how well the model of one training step told pairs apart.
type Evaluation struct {
	Step     int              `json:"step"`
	Accuracy compare.Interval `json:"accuracy"` // pooled over all pairs
}

// Ranked is how often the true future of a clip was the most plausible among made ones.
type Ranked struct {
	Made   string            `json:"made"`
	Sets   int               `json:"sets"`
	First  compare.Interval  `json:"true_future_first"`
	Chance float64           `json:"chance"`
	Twin   *compare.Interval `json:"untrained_twin,omitempty"`
}

// Fact is a line of the provenance table.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Pair is a possible and an impossible video side by side.
type Pair struct {
	Property, Group      string
	Margin               float64 // surprise of the impossible video minus the possible one's
	Possible, Impossible Curve
	EventSeconds         float64 // when the event happens; negative if not known
	FrameSeconds         []float64
}

// Curve is one video's surprise over time, with some of its frames.
type Curve struct {
	Path     string
	Seconds  []float64 // [n] starts of tubelets
	Surprise []float64 // [n]
	Frames   [][]byte  // JPEG or PNG, one per Pair.FrameSeconds; empty without a source of frames
	Heat     [][]byte  // PNG to lay over each of Frames, nil where nothing was predicted; empty if not known

	Video int // its place in the score file
}

// FrameSource takes single frames out of videos, as JPEG or PNG.
type FrameSource interface {
	Frames(ctx context.Context, path string, seconds []float64) ([][]byte, error)
}

const framesShown = 10

// TypicalPairs picks a pair per property to show, at most n: the one whose margin
// is the median, not the best. events says when the event of a video happens, in
// seconds by where the video lies (see compare.File.Location); where it does not, it is
// when the pair parts. frames may be nil.
func TypicalPairs(ctx context.Context, f *compare.File, a compare.Aggregation, n int, events map[string]float64, frames FrameSource) ([]Pair, error) {
	typical, err := f.Typical(a, n)
	if err != nil {
		return nil, fmt.Errorf("choosing pairs to show: %w", err)
	}
	model, _ := f.Set(compare.ModelSet)
	var pairs []Pair
	for _, m := range typical {
		possible, impossible := &f.Videos[m.Possible], &f.Videos[m.Impossible]
		p := Pair{Property: m.Property, Group: m.Group, Margin: m.Margin, EventSeconds: -1,
			Possible:   Curve{Path: possible.Path, Seconds: possible.TubeletStart, Surprise: model.Scores[m.Possible].Curve, Video: m.Possible},
			Impossible: Curve{Path: impossible.Path, Seconds: impossible.TubeletStart, Surprise: model.Scores[m.Impossible].Curve, Video: m.Impossible},
		}
		if at, ok := events[f.Location(impossible)]; ok {
			p.EventSeconds = at
		} else if impossible.Divergence != nil {
			p.EventSeconds = impossible.Divergence.Second
		}
		if frames != nil {
			p.FrameSeconds = spread(p.span())
			if p.Possible.Frames, err = stills(ctx, frames, f.Location(possible), p.FrameSeconds); err != nil {
				return nil, err
			}
			if p.Impossible.Frames, err = stills(ctx, frames, f.Location(impossible), p.FrameSeconds); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// spread are the times at which frames between two are shown, in seconds.
func spread(from, to float64) (seconds []float64) {
	for i := range framesShown {
		seconds = append(seconds, from+(to-from)*(float64(i)+0.5)/framesShown)
	}
	return seconds
}

// MapSource has the surprise of a video's tokens to a set's model, if it was kept.
type MapSource interface {
	Of(set string, video int) (heat.Map, bool)
}

// AddHeat draws the surprise of the model over the frames of pairs that have any, with
// one scale for both videos of a pair. Pairs without maps stay as they are.
func AddHeat(pairs []Pair, maps MapSource) error {
	for i := range pairs {
		p := &pairs[i]
		possible, ok := maps.Of(compare.ModelSet, p.Possible.Video)
		impossible, both := maps.Of(compare.ModelSet, p.Impossible.Video)
		if !ok || !both {
			continue
		}
		burns := heat.ScaleOf(possible, impossible)
		var err error
		if p.Possible.Heat, err = over(p.FrameSeconds, p.Possible, possible, burns); err != nil {
			return err
		}
		if p.Impossible.Heat, err = over(p.FrameSeconds, p.Impossible, impossible, burns); err != nil {
			return err
		}
	}
	return nil
}

// over is what lies over the frames at the given times: the newest tubelet begun.
func over(seconds []float64, c Curve, m heat.Map, s heat.Scale) ([][]byte, error) {
	if m.Tubelets != len(c.Seconds) {
		return nil, fmt.Errorf("surprise over %s: a map of %d tubelets for a curve of %d", c.Path, m.Tubelets, len(c.Seconds))
	}
	out := make([][]byte, len(c.Frames))
	for i := range out {
		newest := -1
		for t, start := range c.Seconds {
			if start <= seconds[i] {
				newest = t
			}
		}
		if newest < 0 {
			continue
		}
		var err error
		if out[i], err = s.PNG(m.Tubelet(newest), m.Height, m.Width); err != nil {
			return nil, fmt.Errorf("surprise over %s: %w", c.Path, err)
		}
	}
	return out, nil
}

func stills(ctx context.Context, frames FrameSource, path string, seconds []float64) ([][]byte, error) {
	out, err := frames.Frames(ctx, path, seconds)
	if err == nil && len(out) != len(seconds) {
		err = fmt.Errorf("got %d of %s, want %d", len(out), path, len(seconds))
	}
	if err != nil {
		return nil, fmt.Errorf("frames for the report: %w", err)
	}
	return out, nil
}

// span is the time both curves cover, in seconds.
func (p *Pair) span() (from, to float64) {
	first := true
	for _, c := range []Curve{p.Possible, p.Impossible} {
		for _, t := range c.Seconds {
			if first {
				from, to, first = t, t, false
			}
			from, to = min(from, t), max(to, t)
		}
	}
	return from, to
}
