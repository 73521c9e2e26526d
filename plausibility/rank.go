package plausibility

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video"
)

// Ways to make candidate futures of one clip. The true future is the first of each.
const (
	TimeDirection = "time-direction" // on, or back the way it came
	Speed         = "speed"          // as it was, twice as fast, half as fast, standing still
	Shuffle       = "shuffle"        // in order, and in shuffled orders
)

// Makers lists them.
func Makers() []string { return []string{TimeDirection, Speed, Shuffle} }

// Energies that futures can be ranked by.
const (
	MeanEnergy = "mean" // mean error of the future's tokens
	PeakEnergy = "peak" // largest tubelet, each the mean of its compare.NextTubeletTopTokens worst tokens
)

// Ranker orders candidate futures of a clip by energy: the error of predicting their
// representation from what went before. To take the lowest is inference by minimising
// energy over a discrete set (LeCun 2022, "A Path Towards Autonomous Machine
// Intelligence", section 4). It serves one caller at a time.
type Ranker struct {
	Predictor Predictor
	Twin      Predictor // the same model untrained; nil: none
	Spec      Spec      // Window, Contexts, FrameStep or FPS; the rest is not used

	Size, Patch, Tubelet int    // as in Config
	ContextFrames        int    // of the past; a multiple of Tubelet, below Spec.Window; default half of it
	Measure              string // default MeanEnergy
	Batch                int    // windows per call of a predictor; default 16
	Seed                 uint64 // of shuffled orders

	Read func(ctx context.Context, path string, o video.ReadOptions) (*video.Clip, error) // decodes a video
}

// RankSet is one past and its futures.
type RankSet struct {
	Context    string   // video whose last frames are the past; with Make, its first are
	Candidates []string // videos that begin where it ends; or
	Make       string   // one of Makers
}

// Ranking is a set's futures in ascending order of energy.
type Ranking struct {
	Context, Make string
	Futures       []RankedFuture
	Frames        int // of each future that were compared: those of the shortest
	ContextFrames int
}

// RankedFuture is one candidate.
type RankedFuture struct {
	Name      string
	Candidate int     // its place in the set, from 0
	Energy    float64 // by the ranker's measure
	Margin    float64 // that minus the energy before it in the order; 0 for the first
	Mean      float64 // both measures
	Peak      float64
	Twin      float64 // energy to the twin; 0 without one
}

func (r *Ranker) setDefaults() {
	r.Spec = r.Spec.WithDefaults()
	if r.ContextFrames == 0 && r.Tubelet > 0 {
		r.ContextFrames = max(r.Tubelet, r.Spec.Window/2/r.Tubelet*r.Tubelet)
	}
	r.Measure = cmp.Or(r.Measure, MeanEnergy)
	r.Batch = cmp.Or(r.Batch, defaultBatch)
}

func (r *Ranker) validate() error {
	c := Config{Spec: r.Spec, Size: r.Size, Patch: r.Patch, Tubelet: r.Tubelet, Predictor: r.Predictor, Batch: r.Batch, Decoder: "any"}
	c.setDefaults()
	if err := c.validate(); err != nil {
		return err
	}
	switch {
	case r.ContextFrames < r.Tubelet || r.ContextFrames >= r.Spec.Window || r.ContextFrames%r.Tubelet != 0:
		return fmt.Errorf("context_frames: %d, want a multiple of the tubelet of %d frames below the window of %d", r.ContextFrames, r.Tubelet, r.Spec.Window)
	case r.Measure != MeanEnergy && r.Measure != PeakEnergy:
		return fmt.Errorf("measure: %q, want %s or %s", r.Measure, MeanEnergy, PeakEnergy)
	case r.Read == nil:
		return errors.New("read: none")
	}
	return nil
}

// Rank orders the futures of one set. Errors name the field of the set, and the file.
func (r *Ranker) Rank(ctx context.Context, set RankSet) (Ranking, error) {
	r.setDefaults()
	if err := r.validate(); err != nil {
		return Ranking{}, fmt.Errorf("ranking: %w", err)
	}
	sequences, names, err := r.sequences(ctx, set)
	if err != nil {
		return Ranking{}, err
	}
	out := Ranking{Context: set.Context, Make: set.Make, ContextFrames: r.ContextFrames, Frames: sequences[0].Frames - r.ContextFrames}
	energies, err := r.energies(ctx, r.Predictor, sequences)
	if err != nil {
		return out, err
	}
	twins := make([]energy, len(sequences))
	if r.Twin != nil {
		if twins, err = r.energies(ctx, r.Twin, sequences); err != nil {
			return out, fmt.Errorf("untrained twin: %w", err)
		}
	}
	for i, e := range energies {
		out.Futures = append(out.Futures, RankedFuture{Name: names[i], Candidate: i, Mean: e.mean, Peak: e.peak, Energy: r.measured(e), Twin: r.measured(twins[i])})
	}
	slices.SortStableFunc(out.Futures, func(a, b RankedFuture) int { return cmp.Compare(a.Energy, b.Energy) })
	for i := 1; i < len(out.Futures); i++ {
		out.Futures[i].Margin = out.Futures[i].Energy - out.Futures[i-1].Energy
	}
	return out, nil
}

// energy is the error of predicting a future, by both measures.
type energy struct{ mean, peak float64 }

func (r *Ranker) measured(e energy) float64 {
	if r.Measure == PeakEnergy {
		return e.peak
	}
	return e.mean
}

// sequences are the clips to score, past and future end to end, of equal length.
func (r *Ranker) sequences(ctx context.Context, set RankSet) ([]*video.Clip, []string, error) {
	past, err := r.read(ctx, set.Context)
	if err != nil {
		return nil, nil, fmt.Errorf("context: %w", err)
	}
	if set.Make != "" {
		futures, from, err := r.made(set, past)
		if err != nil {
			return nil, nil, err
		}
		var clips []*video.Clip
		var names []string
		for _, f := range futures {
			clips = append(clips, frames(past, append(upTo(from-r.ContextFrames, from), f.frames...)))
			names = append(names, f.name)
		}
		return clips, names, nil
	}
	if len(set.Candidates) < 2 {
		return nil, nil, fmt.Errorf("candidates: %d, want at least two", len(set.Candidates))
	}
	if past.Frames < r.ContextFrames {
		return nil, nil, fmt.Errorf("context: %s has %d frames after sampling, context_frames is %d", set.Context, past.Frames, r.ContextFrames)
	}
	if past.More {
		return nil, nil, fmt.Errorf("context: %s goes on after %d frames, the most that are read, and its last frames are the past: cut it", set.Context, past.Frames)
	}
	past = frames(past, upTo(past.Frames-r.ContextFrames, past.Frames))
	var futures []*video.Clip
	shortest := defaultMaxFrames
	for i, path := range set.Candidates {
		f, err := r.read(ctx, path)
		if err != nil {
			return nil, nil, fmt.Errorf("candidates[%d]: %w", i, err)
		}
		futures = append(futures, f)
		shortest = min(shortest, f.Frames/r.Tubelet*r.Tubelet)
	}
	if least := r.Spec.Window - r.ContextFrames; shortest < least {
		return nil, nil, fmt.Errorf("candidates: the shortest has %d whole tubelets' frames, want at least %d: window %d minus context_frames %d", shortest, least, r.Spec.Window, r.ContextFrames)
	}
	var clips []*video.Clip
	for _, f := range futures {
		clips = append(clips, join(past, frames(f, upTo(0, shortest))))
	}
	return clips, set.Candidates, nil
}

func (r *Ranker) read(ctx context.Context, path string) (*video.Clip, error) {
	c, err := r.Read(ctx, path, video.ReadOptions{Size: r.Size, FrameStep: r.Spec.FrameStep, FPS: r.Spec.FPS, MaxFrames: defaultMaxFrames})
	if err == nil {
		err = c.CheckRate(r.Spec.FPS)
	}
	if err != nil {
		return nil, err
	}
	if c.Height != r.Size || c.Width != r.Size || len(c.Pix) != c.Frames*r.Size*r.Size*3 {
		return nil, fmt.Errorf("decoder returned %d frames of %d×%d of %s, want %d×%d", c.Frames, c.Height, c.Width, path, r.Size, r.Size)
	}
	return c, nil
}

// madeFuture is a future made of a clip's own frames.
type madeFuture struct {
	name   string
	frames []int // of the clip
}

const shuffles = 3

// made makes the futures of a clip, one window long with the past, and returns where they begin. All go on from the frame
// before without a jump, but for the shuffled ones.
func (r *Ranker) made(set RankSet, clip *video.Clip) (futures []madeFuture, from int, err error) {
	k := r.Spec.Window - r.ContextFrames // frames of a future
	from = r.ContextFrames
	need := from + k
	switch set.Make {
	case TimeDirection: // the way back must not be longer than the way there
		from = max(from, k+1)
		need = from + k
	case Speed:
		need = from + 2*k
	case Shuffle:
		if k < 3 {
			return nil, 0, fmt.Errorf("make: %s needs futures of at least 3 frames, window %d minus context_frames %d leaves %d", Shuffle, r.Spec.Window, r.ContextFrames, k)
		}
	default:
		return nil, 0, fmt.Errorf("make: %q, want one of %s", set.Make, strings.Join(Makers(), ", "))
	}
	if clip.Frames < need {
		return nil, 0, fmt.Errorf("context: %s has %d frames after sampling, make %s needs %d", set.Context, clip.Frames, set.Make, need)
	}
	future := func(name string, at func(i int) int) {
		f := madeFuture{name: name}
		for i := range k {
			f.frames = append(f.frames, at(i))
		}
		futures = append(futures, f)
	}
	last := from - 1 // frame of the past
	switch set.Make {
	case TimeDirection:
		future("forward", func(i int) int { return from + i })
		future("backward", func(i int) int { return last - 1 - i })
	case Speed:
		future("as it was", func(i int) int { return from + i })
		future("twice as fast", func(i int) int { return last + 2*(i+1) })
		future("half as fast", func(i int) int { return last + (i+1)/2 })
		future("standing still", func(int) int { return last })
	case Shuffle:
		future("in order", func(i int) int { return from + i })
		hash := fnv.New64a()
		_, _ = hash.Write(clip.Pix)
		rng := rand.New(rand.NewPCG(r.Seed, hash.Sum64())) // other orders for every clip, wherever it lies
		seen := [][]int{upTo(0, k)}
		for len(seen) <= shuffles {
			order := rng.Perm(k)
			if slices.ContainsFunc(seen, func(s []int) bool { return slices.Equal(s, order) }) {
				continue
			}
			seen = append(seen, order)
			future(fmt.Sprintf("shuffled %d", len(seen)-1), func(i int) int { return from + order[i] })
		}
	}
	return futures, from, nil
}

func upTo(from, to int) []int {
	var out []int
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// frames is a clip of some frames of another, in the given order.
func frames(c *video.Clip, of []int) *video.Clip {
	size := c.Height * c.Width * 3
	out := &video.Clip{Frames: len(of), Height: c.Height, Width: c.Width, Pix: make([]uint8, 0, len(of)*size)}
	for _, f := range of {
		out.Pix = append(out.Pix, c.Pix[f*size:(f+1)*size]...)
	}
	return out
}

func join(a, b *video.Clip) *video.Clip {
	return &video.Clip{Frames: a.Frames + b.Frames, Height: a.Height, Width: a.Width, Pix: slices.Concat(a.Pix, b.Pix)}
}

// energies are those of the sequences' futures, over every window that holds some of
// them. Windows of all sequences share batches, so that no core is idle.
func (r *Ranker) energies(ctx context.Context, p Predictor, sequences []*video.Clip) ([]energy, error) {
	var windows []Window
	var sequence []int // of each window
	side := r.Size / r.Patch
	tracks := make([]track, len(sequences))
	for i, s := range sequences {
		tracks[i] = track{tokens: side * side, tubelet: map[int]*trackedTubelet{}}
		frames := clipFrames{s}
		for from := max(0, r.ContextFrames-r.Spec.Window+r.Tubelet); from+r.Spec.Window <= s.Frames; from += r.Tubelet {
			windows, sequence = append(windows, Window{Of: frames, From: from}), append(sequence, i)
		}
	}
	spec := r.Spec
	spec.TopTokens = compare.NextTubeletTopTokens
	reduce := reducer{spec: spec, tubelets: spec.Window / r.Tubelet, tubeletTokens: side * side}
	for batch := range slices.Chunk(windows, r.Batch) {
		errs, err := p.Surprise(ctx, batch)
		if err != nil {
			return nil, err
		}
		if len(errs) != len(batch) {
			return nil, fmt.Errorf("model returned %d windows for %d", len(errs), len(batch))
		}
		for i, w := range batch {
			contexts, err := reduce.reduce(errs[i], nil)
			if err != nil {
				return nil, fmt.Errorf("candidate %d: %w", sequence[i], err)
			}
			for c, x := range contexts {
				tracks[sequence[i]].add(errs[i][c], x.tubelet, w.From, r.Tubelet)
			}
		}
		sequence = sequence[len(batch):]
	}
	out := make([]energy, len(sequences))
	for i := range tracks {
		out[i] = tracks[i].energyFrom(r.ContextFrames)
	}
	return out, nil
}

// energyFrom is the energy of the tubelets from a frame on: the mean over them of their
// mean errors, and the largest.
func (k *track) energyFrom(frame int) energy {
	var e energy
	var tubelets float64
	for _, f := range k.frames() {
		if f < frame {
			continue
		}
		t := k.tubelet[f]
		var sum, n float64
		for i := range t.errors {
			sum, n = sum+t.errors[i], n+float64(t.counts[i])
		}
		e.mean += sum / n
		e.peak = max(e.peak, t.sum/float64(t.n))
		tubelets++
	}
	e.mean /= tubelets
	return e
}

// RankSummary is how often the true future came first, among the sets of one maker.
type RankSummary struct {
	Make     string
	Sets     int
	First    int              // its energy was below all others'; a tie does not count
	Chance   float64          // one over the number of futures
	Interval compare.Interval // share of First, exact 95 % (Clopper and Pearson)
	Twin     *compare.Interval
}

// SummarizeRankings counts, for each maker that appears, how often the true future was
// the most plausible.
func SummarizeRankings(rankings []Ranking, twin bool) []RankSummary {
	var out []RankSummary
	for _, kind := range Makers() {
		s := RankSummary{Make: kind}
		var twinFirst int
		for _, r := range rankings {
			if r.Make != kind || len(r.Futures) == 0 {
				continue
			}
			s.Sets++
			s.Chance = 1 / float64(len(r.Futures))
			if trueFirst(r, func(f RankedFuture) float64 { return f.Energy }) {
				s.First++
			}
			if trueFirst(r, func(f RankedFuture) float64 { return f.Twin }) {
				twinFirst++
			}
		}
		if s.Sets == 0 {
			continue
		}
		s.Interval = exactInterval(s.First, s.Sets)
		if twin {
			i := exactInterval(twinFirst, s.Sets)
			s.Twin = &i
		}
		out = append(out, s)
	}
	return out
}

func trueFirst(r Ranking, energy func(RankedFuture) float64) bool {
	var actual float64
	for _, f := range r.Futures {
		if f.Candidate == 0 {
			actual = energy(f)
		}
	}
	for _, f := range r.Futures {
		if f.Candidate != 0 && energy(f) <= actual {
			return false
		}
	}
	return true
}

// exactInterval is the 95 % interval of a share by Clopper and Pearson (1934).
func exactInterval(k, n int) compare.Interval {
	i := compare.Interval{Value: float64(k) / float64(n), Low: 0, High: 1}
	if k > 0 {
		i.Low = distuv.Beta{Alpha: float64(k), Beta: float64(n - k + 1)}.Quantile(0.025)
	}
	if k < n {
		i.High = distuv.Beta{Alpha: float64(k + 1), Beta: float64(n - k)}.Quantile(0.975)
	}
	return i
}
