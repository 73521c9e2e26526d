package video

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/surmise-ml/surmise/video/wire"
)

// Dataset cuts training clips from the usable files of a Spec. Safe for concurrent use.
//
// Small videos are decoded once, and stay in memory until CacheMiB is used up;
// none is evicted, since an epoch visits every file once and the oldest would be the next one needed. The
// others are decoded for each clip, from their start to its last frame. Clips are the same either way.
type Dataset struct {
	pool     *Pool
	spec     Spec
	verdicts []Verdict // of all files, in the order of Resolve
	files    []*file   // the usable ones, in the same order
	room     memory    // for decoded frames

	mu       sync.Mutex
	orders   []epochOrder          // guarded by mu; the latest first
	failures map[string]*FileError // guarded by mu; by path, of files that failed after they were inspected
}

// file is one usable video.
type file struct {
	item          Item
	height, width int // pixels
	frames        int
	times         []float64 // [frames] seconds; nil unless clips are taken by time

	mu    sync.Mutex
	pix   []uint8 // guarded by mu; [frames,height,width,3]; nil unless kept in memory
	tried bool    // guarded by mu; pix is what it will be
}

// SampleInfo says where a training clip came from and what was done to it.
type SampleInfo struct {
	Path    string `json:"path"`
	Label   string `json:"label"`
	Epoch   int64  `json:"epoch"`   // times the dataset was gone through before
	Numbers []int  `json:"numbers"` // [Frames] frame numbers in the file
	Crop    Crop   `json:"crop"`
	Flip    bool   `json:"flip"`
}

// UnusableError refuses a dataset for its unusable files. Its text is a table of them and their reasons.
type UnusableError struct {
	Unusable []Verdict
	Total    int
	Allowed  float64 // share
}

func (e *UnusableError) Error() string {
	const rows = 20
	var b strings.Builder
	if len(e.Unusable) == e.Total {
		fmt.Fprintf(&b, "none of the %d files can be used:", e.Total)
	} else {
		fmt.Fprintf(&b, "%d of %d files cannot be used, a share of %.3g, above max_unusable %.3g:",
			len(e.Unusable), e.Total, float64(len(e.Unusable))/float64(e.Total), max(0, e.Allowed))
	}
	for i, v := range e.Unusable {
		if i == rows {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Unusable)-rows)
			break
		}
		fmt.Fprintf(&b, "\n  %q: %s", v.Path, v.Reason)
	}
	return b.String()
}

// OpenDataset finds the files of a Spec and has pool decode each once, in parallel, to learn whether it can be used.
// The pool must stay open as long as clips are sampled.
// progress, unless nil, is called after each file, one call at a time.
//
// It fails on a field out of range, with a *NameError on a name Resolve refuses, and with an *UnusableError when too many files
// cannot be used, or none can. A video shorter than a clip is one that cannot be used.
func OpenDataset(ctx context.Context, pool *Pool, spec Spec, progress func(done, total int)) (*Dataset, error) {
	spec = spec.WithDefaults()
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	items, err := Resolve(ctx, spec.Data, spec.Roots)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}

	d := &Dataset{pool: pool, spec: spec, verdicts: make([]Verdict, len(items)), failures: map[string]*FileError{}}
	files := make([]*file, len(items))
	d.room.left.Store(int64(max(0, spec.CacheMiB)) << 20)
	d.room.perFile = d.room.left.Load() / 16 // a few long videos must not take it all
	err = forEach(ctx, pool.Size(), len(items), progress, func(ctx context.Context, i int) error {
		kept := keeper{room: &d.room}
		v, t, err := pool.judge(ctx, items[i].Path, kept.keep)
		if err != nil {
			return err
		}
		files[i] = &file{item: items[i], height: v.Height, width: v.Width, frames: v.Frames}
		if spec.FPS > 0 {
			files[i].times = t.times
		}
		if v.Usable {
			if misfit := d.misfit(files[i], v); misfit != nil {
				v.refuse(misfit)
			}
		}
		if v.Usable {
			files[i].pix, files[i].tried = kept.all(), kept.begun
		} else {
			kept.drop()
		}
		d.verdicts[i] = v
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}

	var unusable []Verdict
	for i, v := range d.verdicts {
		if v.Usable {
			d.files = append(d.files, files[i])
		} else {
			unusable = append(unusable, v)
		}
	}
	if len(d.files) == 0 || float64(len(unusable)) > max(0, spec.MaxUnusable)*float64(len(items)) {
		return nil, fmt.Errorf("dataset: %w", &UnusableError{unusable, len(items), spec.MaxUnusable})
	}
	return d, nil
}

// Verdicts returns what was found of every file, unusable ones included, in the order of Resolve.
func (d *Dataset) Verdicts() []Verdict { return slices.Clone(d.verdicts) }

// Len returns the number of usable files, which is the number of clips in an epoch.
func (d *Dataset) Len() int { return len(d.files) }

// ClipSize returns the length of Sample's dst: 3*Frames*Size*Size.
func (d *Dataset) ClipSize() int { return 3 * d.spec.Frames * d.spec.Size * d.spec.Size }

// Failures returns the files that Sample could not read although they were usable when the dataset was
// opened, by path.
func (d *Dataset) Failures() []FileError {
	d.mu.Lock()
	defer d.mu.Unlock()
	var failures []FileError
	for _, failure := range d.failures {
		failures = append(failures, *failure)
	}
	slices.SortFunc(failures, func(a, b FileError) int { return strings.Compare(a.Path, b.Path) })
	return failures
}

// Sample fills dst [3,Frames,Size,Size] with training clip number index: a random window of the file whose
// turn it is, one random crop for all its frames, resized, flipped or not, normalised. Every epoch visits each
// file once, in an order of its own.
//
// The clip depends on (seed, index) and the dataset alone, whoever asks for it and when. A file that cannot be
// read any more is a *FileError, and is remembered in Failures.
func (d *Dataset) Sample(ctx context.Context, seed uint64, index int64, dst []float32) (SampleInfo, error) {
	if index < 0 {
		return SampleInfo{}, fmt.Errorf("sample clip %d: want an index of 0 or more", index)
	}
	if len(dst) != d.ClipSize() {
		return SampleInfo{}, fmt.Errorf("sample clip %d: a buffer of %d floats, want %d", index, len(dst), d.ClipSize())
	}
	epoch, turn := index/int64(len(d.files)), index%int64(len(d.files))
	f := d.files[d.order(seed, epoch)[turn]]
	rng := newRand(seed, clipStream, uint64(index))
	info := SampleInfo{
		Path: f.item.Path, Label: f.item.Label, Epoch: epoch,
		Numbers: d.numbers(f, rng.IntN(d.starts(f))),
		Crop:    randomCrop(rng, f.height, f.width, d.spec),
		Flip:    d.spec.Flip && rng.IntN(2) == 1,
	}
	if err := d.fill(ctx, f, info, dst); err != nil {
		var bad *FileError
		if errors.As(err, &bad) {
			d.mu.Lock()
			d.failures[bad.Path] = bad
			d.mu.Unlock()
		}
		return info, fmt.Errorf("sample clip %d: %w", index, err)
	}
	return info, nil
}

// fill reads the frames that info names and transforms them into dst [3,Frames,Size,Size].
func (d *Dataset) fill(ctx context.Context, f *file, info SampleInfo, dst []float32) error {
	plane := d.spec.Size * d.spec.Size
	stride := d.spec.Frames * plane
	resize := newResampler(f.width, info.Crop, d.spec.Size, info.Flip)
	pix, err := d.resident(ctx, f)
	if err != nil {
		return err
	}
	if pix != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		frameBytes := f.height * f.width * 3
		for t, number := range info.Numbers {
			resize.normalised(dst[t*plane:], stride, pix[number*frameBytes:(number+1)*frameBytes])
		}
		return nil
	}
	t := 0 // frames filled
	request := wire.Request{Path: f.item.Path, MaxPixels: defaultLimits.pixels, MaxFrames: defaultLimits.frames,
		Numbers: slices.Compact(slices.Clone(info.Numbers)), Inspected: true}
	_, err = d.pool.decode(ctx, request, func() { t = 0 }, func(fr frame) error {
		if fr.height != f.height || fr.width != f.width {
			return fault(f.item.Path, Changed, " since it was inspected: frames of %dx%d, were %dx%d", fr.width, fr.height, f.width, f.height)
		}
		for ; t < len(info.Numbers) && info.Numbers[t] == fr.number; t++ {
			resize.normalised(dst[t*plane:], stride, fr.pix)
		}
		return nil
	})
	if err == nil && t < len(info.Numbers) {
		err = fault(f.item.Path, Changed, " since it was inspected: no frame %d, had %d", info.Numbers[t], f.frames)
	}
	return err
}

// resident returns a file's frames if they are kept in memory. A file whose verdict was known when the dataset was
// opened is decoded whole at its first use, if there is room.
func (d *Dataset) resident(ctx context.Context, f *file) ([]uint8, error) {
	f.mu.Lock() // a second clip of the same file waits rather than decode it too
	defer f.mu.Unlock()
	if f.tried {
		return f.pix, nil
	}
	size := int64(f.frames) * int64(f.height) * int64(f.width) * 3
	if size > d.room.perFile || size > d.room.left.Load() {
		f.tried = true
		return nil, nil
	}
	kept := keeper{room: &d.room}
	request := wire.Request{Path: f.item.Path, MaxPixels: defaultLimits.pixels, MaxFrames: defaultLimits.frames, Step: 1, Inspected: true}
	wrong := false
	done, err := d.pool.decode(ctx, request, func() { wrong = false }, func(fr frame) error {
		if wrong = wrong || fr.height != f.height || fr.width != f.width || fr.number >= f.frames; !wrong {
			kept.keep(fr)
		}
		return nil
	})
	if err == nil && (wrong || done.Frames != f.frames) {
		err = fault(f.item.Path, Changed, " since it was inspected: %d frames of %dx%d, were %d of %dx%d", done.Frames, done.Width, done.Height, f.frames, f.width, f.height)
	}
	if err != nil {
		kept.drop()
		return nil, err
	}
	f.pix, f.tried = kept.all(), true
	return f.pix, nil
}

// misfit says why no clip can be cut from a file that decodes well, or nothing.
func (d *Dataset) misfit(f *file, v Verdict) *FileError {
	s := d.spec
	if s.FPS > 0 {
		const slack = 0.9 // measured rates vary with the length
		switch {
		case v.FPS == 0:
			return fault(v.Path, TooShort, ": its time stamps do not advance, so it cannot be sampled by fps")
		case v.FPS < slack*s.FPS:
			return fault(v.Path, TooSlow, ": %.4g fps measured, and clips of %.4g fps would repeat frames", v.FPS, s.FPS)
		case d.starts(f) < 1:
			return fault(v.Path, TooShort, ": the clip is longer than the video: %d frames at %.4g fps span %.4g s, the file has %.4g s",
				s.Frames, s.FPS, float64(s.Frames-1)/s.FPS, f.times[len(f.times)-1]-f.times[0])
		}
		return nil
	}
	if d.starts(f) < 1 {
		return fault(v.Path, TooShort, ": the clip is longer than the video: %d frames at step %d span %d frames, the file has %d",
			s.Frames, s.FrameStep, (s.Frames-1)*s.FrameStep+1, f.frames)
	}
	return nil
}

// starts counts the frames, from the first on, at which a clip can begin.
func (d *Dataset) starts(f *file) int {
	if d.spec.FPS == 0 {
		return f.frames - (d.spec.Frames-1)*d.spec.FrameStep
	}
	latest := f.times[len(f.times)-1] - float64(d.spec.Frames-1)/d.spec.FPS + timeTolerance
	return sort.Search(len(f.times), func(i int) bool { return f.times[i] > latest })
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
	ticks := ticker{start: f.times[start], fps: d.spec.FPS}
	for i := start; len(numbers) < d.spec.Frames; {
		if ticks.reached(f.times[i]) {
			numbers = append(numbers, i)
		} else {
			i++
		}
	}
	return numbers
}

// epochOrder is the order in which one epoch visits the files.
type epochOrder struct {
	seed  uint64
	epoch int64
	files []int
}

// order returns the permutation of an epoch. The last two are kept: prefetching asks for two epochs at once
// where one ends.
func (d *Dataset) order(seed uint64, epoch int64) []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.orders {
		if o.seed == seed && o.epoch == epoch {
			return o.files
		}
	}
	files := newRand(seed, orderStream, uint64(epoch)).Perm(len(d.files))
	d.orders = append([]epochOrder{{seed, epoch, files}}, d.orders[:min(1, len(d.orders))]...)
	return files
}

// Independent random streams of one seed.
const (
	orderStream uint64 = 1 + iota
	clipStream
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

// memory is the room left for decoded frames, in bytes.
type memory struct {
	left    atomic.Int64
	perFile int64
}

// keeper collects the frames of one file while it is inspected, and gives up when there is no room.
type keeper struct {
	room  *memory
	pix   []uint8
	begun bool // frames have been seen
	full  bool
}

func (k *keeper) keep(f frame) {
	if f.number == 0 { // anew
		k.drop()
		k.full, k.begun = false, true
	}
	if k.full {
		return
	}
	n := int64(len(f.pix))
	if int64(len(k.pix))+n > k.room.perFile {
		k.drop()
		return
	}
	k.pix = append(k.pix, f.pix...)
	if k.room.left.Add(-n) < 0 {
		k.drop()
	}
}

// drop gives the room back.
func (k *keeper) drop() {
	k.room.left.Add(int64(len(k.pix)))
	k.pix, k.full = nil, true
}

// all returns the frames without spare capacity, or nil.
func (k *keeper) all() []uint8 {
	if k.full {
		return nil
	}
	return append(make([]uint8, 0, len(k.pix)), k.pix...)
}
