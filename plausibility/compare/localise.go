package compare

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Localisation tells whether surprise peaks when and where an impossible video parts
// from the possible one that it is paired with. The pair is only used to know the
// truth: peaks are found in each impossible video by itself.
type Localisation struct {
	Within     int              `json:"within_frames"` // a peak so near the divergence, before or after, is a hit
	Confidence float64          `json:"confidence"`
	Columns    []string         `json:"columns"` // sets of the score file
	Rows       []LocalisationOf `json:"rows"`    // properties in order of first appearance, then All
}

// LocalisationOf is one property, or all.
type LocalisationOf struct {
	Name   string             `json:"name"`
	Videos int                `json:"videos"` // impossible ones whose divergence is known
	Chance float64            `json:"chance"` // share of hits if peaks fell on any tubelet alike
	Cells  []LocalisationCell `json:"cells"`  // per column
}

// LocalisationCell is one set's figures in a row. Distances are NaN-free: without a hit they are 0 and Hits says so.
type LocalisationCell struct {
	HitRate      Interval `json:"hit_rate"`              // share of videos whose peak is a hit, bootstrap over groups
	Hits         int      `json:"hits"`                  // how many that is
	Frames       float64  `json:"median_frames"`         // median over videos of the frames between peak and divergence
	Pixels       float64  `json:"mean_pixels"`           // of the hits: mean distance from peak to divergence, in pixels of File.Size
	PixelsChance float64  `json:"mean_pixels_by_chance"` // of the hits: the same from any token alike
}

// ErrNoPlaces is wrapped when a score file does not say where videos part or surprise peaks.
var ErrNoPlaces = errors.New("the score file holds no places")

// Localize computes the localisation of a score file. within is in frames; 0 means
// two tubelets.
func Localize(f *File, within int, o Options) (*Localisation, error) {
	o, err := o.withDefaults(f.Spec)
	if err != nil {
		return nil, fmt.Errorf("localising surprise: %w", err)
	}
	if f.Grid == nil {
		return nil, fmt.Errorf("localising surprise: %w: it was written by an older version; score the videos again", ErrNoPlaces)
	}
	if within < 0 {
		return nil, fmt.Errorf("localising surprise: within %d frames, want at least 0", within)
	}
	if within == 0 {
		within = 2 * f.Grid.Tubelet
	}
	l := &Localisation{Within: within, Confidence: o.Confidence}
	for _, s := range f.Sets {
		l.Columns = append(l.Columns, s.Name)
	}
	peaks, err := f.peaks(within)
	if err != nil {
		return nil, fmt.Errorf("localising surprise: %w", err)
	}
	if len(peaks) == 0 {
		return nil, fmt.Errorf("localising surprise: %w: no impossible video is known to part from a possible one", ErrNoPlaces)
	}
	var properties []string
	for _, p := range peaks {
		if !slices.Contains(properties, p.property) {
			properties = append(properties, p.property)
		}
	}
	for _, name := range append(properties, All) {
		var own []peak
		for _, p := range peaks {
			if name == All || p.property == name {
				own = append(own, p)
			}
		}
		l.Rows = append(l.Rows, localisationOf(name, own, len(l.Columns), o))
	}
	if err := o.stopped(); err != nil {
		return nil, fmt.Errorf("localising surprise: %w", err)
	}
	return l, nil
}

// peak is what one impossible video contributes.
type peak struct {
	property, group string
	chance          float64     // share of its tubelets that would be hits
	sets            []peakOfSet // per set
}

type peakOfSet struct {
	frames               int // from the peak to the divergence; 0 inside the tubelet
	hit                  bool
	pixels, pixelsChance float64
}

func (f *File) peaks(within int) ([]peak, error) {
	var out []peak
	for i := range f.Videos {
		v := &f.Videos[i]
		if v.Label != 0 || v.Divergence == nil {
			continue
		}
		starts := f.tubeletFrames(v)
		if len(starts) != len(v.TubeletStart) {
			return nil, fmt.Errorf("video %s: %d tubelets, the spec makes %d of its %d frames", v.Path, len(v.TubeletStart), len(starts), v.Frames)
		}
		p := peak{property: v.Property, group: v.Group}
		for _, start := range starts {
			if f.framesApart(start, v.Divergence.Frame) <= within {
				p.chance += 1 / float64(len(starts))
			}
		}
		for _, s := range f.Sets {
			at := s.Scores[i].PeakAt
			if at == nil {
				return nil, fmt.Errorf("%w: video %s has no peak_at for the %s", ErrNoPlaces, v.Path, s.Name)
			}
			frames := f.framesApart(at.Frame, v.Divergence.Frame)
			p.sets = append(p.sets, peakOfSet{frames, frames <= within,
				math.Hypot(at.Row-v.Divergence.Row, at.Column-v.Divergence.Column), f.anyToken(v.Divergence)})
		}
		out = append(out, p)
	}
	return out, nil
}

// maxWindowFrames bounds the frames of all windows of a video together: a million windows of 16.
const maxWindowFrames = 1 << 24

// tubeletFrames are the first frames of the tubelets that a video's curve is about; none if there are more than sense makes.
func (f *File) tubeletFrames(v *Video) []int {
	if v.Frames < f.Spec.Window || (v.Frames-f.Spec.Window)/f.Spec.Stride >= maxWindowFrames/f.Spec.Window {
		return nil
	}
	first := f.Grid.Tubelet // next-tubelet models predict every tubelet but the first
	if len(f.Spec.Contexts) > 0 {
		first = f.Spec.Contexts[0]
	}
	var out []int
	for window := range (v.Frames-f.Spec.Window)/f.Spec.Stride + 1 {
		from, at := window*f.Spec.Stride, first
		if f.Spec.Beginning && from == 0 {
			at = f.Grid.Tubelet
		}
		for t := at; t+f.Grid.Tubelet <= f.Spec.Window; t += f.Grid.Tubelet {
			out = append(out, from+t)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// framesApart is how far a tubelet is from a frame; 0 if it holds the frame.
func (f *File) framesApart(tubelet, frame int) int {
	return max(0, tubelet-frame, frame-(tubelet+f.Grid.Tubelet-1))
}

// anyToken is the mean distance from a point to the middles of all tokens, in pixels.
func (f *File) anyToken(p *Place) float64 {
	patch := float64(f.Grid.Patch)
	var sum, n float64
	for row := patch / 2; row < float64(f.Size); row += patch {
		for column := patch / 2; column < float64(f.Size); column += patch {
			sum += math.Hypot(row-p.Row, column-p.Column)
			n++
		}
	}
	return sum / n
}

func localisationOf(name string, peaks []peak, sets int, o Options) LocalisationOf {
	row := LocalisationOf{Name: name, Videos: len(peaks)}
	index := map[string]int{}
	for _, p := range peaks {
		row.Chance += p.chance / float64(len(peaks))
		if _, ok := index[p.group]; !ok {
			index[p.group] = len(index)
		}
	}
	for s := range sets {
		var cell LocalisationCell
		hits, videos := make([]float64, len(index)), make([]float64, len(index)) // per group
		var frames []int
		for _, p := range peaks {
			g := index[p.group]
			videos[g]++
			frames = append(frames, p.sets[s].frames)
			if p.sets[s].hit {
				hits[g]++
				cell.Hits++
				cell.Pixels += p.sets[s].pixels
				cell.PixelsChance += p.sets[s].pixelsChance
			}
		}
		if cell.Hits > 0 {
			cell.Pixels /= float64(cell.Hits)
			cell.PixelsChance /= float64(cell.Hits)
		}
		cell.Frames = median(frames)
		r := newResampler(o.Seed, uint64(s), len(index))
		var resampled []float64
		for o.more(len(resampled)) {
			var h, n float64
			for g, weight := range r.draw() {
				h, n = h+weight*hits[g], n+weight*videos[g]
			}
			resampled = append(resampled, h/n)
		}
		cell.HitRate = percentileInterval(float64(cell.Hits)/float64(len(peaks)), resampled, len(index), o.Confidence, 0, 1)
		row.Cells = append(row.Cells, cell)
	}
	return row
}

func median(x []int) float64 {
	slices.Sort(x)
	n := len(x)
	return float64(x[(n-1)/2]+x[n/2]) / 2
}
