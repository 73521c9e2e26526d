package video

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
)

// Where clips of a video begin.
const (
	RandomWindows  = "random"  // anywhere
	UniformWindows = "uniform" // at equal distances, the same in every epoch
)

// turn is what one clip of an epoch is cut from.
type turn struct{ file, window int }

// schedule is the order in which epochs visit files. Safe for concurrent use.
//
// Without weights an epoch is a permutation of all turns. With them each source has a quota of every epoch, as its
// weight says, and its own permutations, one after the other: where an epoch ends in the middle of one, the next goes
// on, so that over the epochs every file of a source has the same number of turns.
type schedule struct {
	clips   int // in an epoch
	all     []turn
	sources []weighted // empty without weights

	mu     sync.Mutex
	epochs []epochOrder // guarded by mu; the latest first
}

type weighted struct {
	turns []turn
	quota int // of an epoch
}

type epochOrder struct {
	seed  uint64
	epoch int64
	turns []turn
}

// maxTurns bounds the memory of an epoch's order, 16 bytes a clip and several at once: 64 clips of each of a million files.
const maxTurns = 1 << 26

func newSchedule(files []*file, spec Spec) (*schedule, error) {
	s := &schedule{sources: make([]weighted, len(spec.Weights))}
	total := 0.0
	for _, w := range spec.Weights {
		total += w
	}
	if n := int64(len(files)) * int64(spec.ClipsPerVideo); n > maxTurns {
		return nil, fmt.Errorf("clips_per_video: %d of each of %d files make an epoch of %d clips, want at most %d", spec.ClipsPerVideo, len(files), n, int64(maxTurns))
	}
	for i, f := range files {
		for window := range spec.ClipsPerVideo {
			s.all = append(s.all, turn{i, window})
			if len(spec.Weights) > 0 {
				source := &s.sources[f.item.Source]
				source.turns = append(source.turns, turn{i, window})
			}
		}
	}
	s.clips = len(s.all)
	if len(spec.Weights) == 0 {
		return s, nil
	}
	s.clips = 0
	for i, quota := range quotas(spec.Weights, total, len(s.all)) {
		if quota > 0 && len(s.sources[i].turns) == 0 {
			return nil, fmt.Errorf("weights[%d]: %g, but %q has no usable video that is not in one before it", i, spec.Weights[i], spec.Data[i])
		}
		s.sources[i].quota = quota
		s.clips += quota
	}
	return s, nil
}

// quotas shares n turns out by weight: each its whole part, the rest to the largest remainders, and at least one to
// each that weighs anything.
func quotas(weights []float64, total float64, n int) []int {
	out, order, given := make([]int, len(weights)), make([]int, len(weights)), 0
	remainder := make([]float64, len(weights))
	for i, w := range weights {
		exact := w / total * float64(n)
		out[i], order[i] = int(exact), i
		remainder[i] = exact - float64(out[i])
		given += out[i]
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(remainder[b], remainder[a]) })
	for _, i := range order {
		if given < n && remainder[i] > 0 {
			out[i]++
			given++
		}
	}
	for i, w := range weights {
		if w > 0 && out[i] == 0 {
			out[i] = 1
		}
	}
	return out
}

// at returns the turn of clip number index of a run.
func (s *schedule) at(seed uint64, index int64) turn {
	return s.epoch(seed, index/int64(s.clips))[index%int64(s.clips)]
}

// epoch returns the turns of an epoch. The last two are kept: prefetching asks for two epochs at once where one ends.
func (s *schedule) epoch(seed uint64, epoch int64) []turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.epochs {
		if o.seed == seed && o.epoch == epoch {
			return o.turns
		}
	}
	turns := s.draw(seed, epoch)
	s.epochs = append([]epochOrder{{seed, epoch, turns}}, s.epochs[:min(1, len(s.epochs))]...)
	return turns
}

func (s *schedule) draw(seed uint64, epoch int64) []turn {
	turns := s.all
	if len(s.sources) > 0 {
		turns = nil
		for i, source := range s.sources {
			n := int64(len(source.turns))
			var order []int
			for j := epoch * int64(source.quota); j < (epoch+1)*int64(source.quota); j++ {
				if order == nil || j%n == 0 {
					order = newRand(seed, sourceStream+uint64(i), uint64(j/n)).Perm(int(n))
				}
				turns = append(turns, source.turns[order[j%n]])
			}
		}
	}
	drawn := make([]turn, len(turns))
	for i, j := range newRand(seed, orderStream, uint64(epoch)).Perm(len(turns)) {
		drawn[i] = turns[j]
	}
	return drawn
}

// starts counts the frames, from the first on, at which a clip can begin.
func (d *Dataset) starts(f *file) int {
	if d.spec.FPS == 0 {
		return f.frames - (d.spec.Frames-1)*d.spec.FrameStep
	}
	times := f.track.times
	last := times[len(times)-1]
	return sort.Search(len(times), func(i int) bool { // as numbers counts, to the last bit: it must not run past the end
		end := ticker{start: times[i], fps: d.spec.FPS, next: d.spec.Frames - 1}
		return !end.due(last)
	})
}

// start is the frame at which a clip begins: anywhere, or, when windows are uniform, in the middle of its share of the
// places where one can.
func (d *Dataset) start(f *file, window int, rng *rand.Rand) int {
	starts := d.starts(f)
	if d.spec.Windows == UniformWindows {
		return (2*window + 1) * (starts - 1) / (2 * d.spec.ClipsPerVideo)
	}
	return rng.IntN(starts)
}

// numbers lists the frames of the clip that begins at frame start, ascending.
func (d *Dataset) numbers(f *file, start int) []int {
	numbers := make([]int, 0, d.spec.Frames)
	if d.spec.FPS == 0 {
		for t := range d.spec.Frames {
			numbers = append(numbers, start+t*d.spec.FrameStep)
		}
		return numbers
	}
	ticks := ticker{start: f.track.times[start], fps: d.spec.FPS}
	for i := start; len(numbers) < d.spec.Frames; {
		if ticks.reached(f.track.times[i]) {
			numbers = append(numbers, i)
		} else {
			i++
		}
	}
	return numbers
}

// Independent random streams of one seed.
const (
	orderStream uint64 = 1 + iota
	clipStream
	sourceStream uint64 = 1 << 32 // and one for each source after it
)

// newRand starts the generator for number n of a stream. The seed words are mixed because PCG's first outputs
// resemble each other for neighbouring ones.
func newRand(seed, stream, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(mix(seed+mix(stream)), mix(n+mix(seed))))
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
