package video

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/surmise-ml/surmise/video/source"
)

// Dataset cuts training clips from the usable files of a Spec. Safe for concurrent use.
//
// Frames are kept where there is room: on disk when the pool has Clips, else in memory until CacheMiB is used up, where
// none is evicted, since an epoch visits every file once and the oldest would be the next one needed. Of other videos
// the frames of each clip are decoded, found by seeking. Clips are the same either way: every frame that is decoded
// again is held to the digest that the inspection, which read from the start, found for it.
type Dataset struct {
	pool     *Pool
	spec     Spec
	verdicts []Verdict // of all files, in the order of source.Resolve
	files    []*file   // the usable ones, in the same order
	room     memory    // for decoded frames

	order *schedule

	mu     sync.Mutex
	failed map[string]bool // guarded by mu; by path, the files that failed after they were inspected
}

// file is one usable video.
type file struct {
	item          source.Item
	height, width int // pixels, once the shorter side is at most Spec.ShortSide
	frames        int
	track         track
	shard         string // name of its frames on disk; "" without Clips

	mu    sync.Mutex
	pix   []uint8 // guarded by mu; [frames,height,width,3]; nil unless kept in memory
	tried bool    // guarded by mu; frames are kept by now, or will not be
	seeks int     // guarded by mu; how many of seekPlans have failed
}

// SampleInfo says where a training clip came from and what was done to it.
type SampleInfo struct {
	Path    string `json:"path"`
	Label   string `json:"label"`
	Source  int    `json:"source"`  // which of Spec.Data
	Window  int    `json:"window"`  // which of the clips of this video and epoch
	Epoch   int64  `json:"epoch"`   // times the dataset was gone through before
	Numbers []int  `json:"numbers"` // [Frames] frame numbers in the file
	Crop    Crop   `json:"crop"`
	Flip    bool   `json:"flip"`
	Jitter  Jitter `json:"jitter"`
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
// It fails on a field out of range, with a *source.NameError on a name source.Resolve refuses, and with an *UnusableError when too many files
// cannot be used, or none can. A video shorter than a clip is one that cannot be used.
func OpenDataset(ctx context.Context, pool *Pool, spec Spec, progress func(done, total int)) (*Dataset, error) {
	spec = spec.WithDefaults()
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	items, err := pool.Resolve(ctx, spec.Data, spec.Roots)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}

	d := &Dataset{pool: pool, spec: spec, verdicts: make([]Verdict, len(items)), failed: map[string]bool{}}
	d.files = make([]*file, len(items))
	d.room.left.Store(int64(max(0, spec.CacheMiB)) << 20)
	d.room.perFile = d.room.left.Load() / 16 // a few long videos must not take it all
	err = forEach(ctx, pool.Size(), len(items), progress, func(ctx context.Context, i int) error {
		return d.open(ctx, i, items[i])
	})
	if err == nil {
		err = d.reopenKilled(ctx, items)
	}
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}

	var unusable []Verdict
	var usable []*file
	for i, v := range d.verdicts {
		if v.Usable {
			usable = append(usable, d.files[i])
		} else {
			unusable = append(unusable, v)
		}
	}
	if len(usable) == 0 || float64(len(unusable))/float64(len(items)) > max(0, spec.MaxUnusable) {
		var refusal error = &UnusableError{unusable, len(items), spec.MaxUnusable}
		if slices.ContainsFunc(unusable, func(v Verdict) bool { return v.killed }) { // a machine short of memory, say, says nothing of the files
			refusal = &DecoderError{refusal}
		}
		return nil, fmt.Errorf("dataset: %w", refusal)
	}
	d.files = usable
	if d.order, err = newSchedule(usable, spec); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	return d, nil
}

// reopenKilled judges the files whose decoders were killed once more, one by one: a run must not go without a video because
// memory was short when it began. Where several are killed again, it still is.
func (d *Dataset) reopenKilled(ctx context.Context, items []source.Item) error {
	const several = 3
	var again []Verdict
	for i, v := range d.verdicts {
		if !v.killed {
			continue
		}
		if err := d.open(ctx, i, items[i]); err != nil {
			return err
		}
		if d.verdicts[i].killed {
			again = append(again, d.verdicts[i])
		}
		if len(again) == several {
			return &DecoderError{fmt.Errorf("the decoders of %d files were killed twice, as a system that is short of memory does, the first of %q", several, again[0].Path)}
		}
	}
	return nil
}

// open judges file i, and keeps its frames where there is room for them.
func (d *Dataset) open(ctx context.Context, i int, item source.Item) error {
	f := &file{item: item}
	d.files[i] = f
	keep := d.keepWhileInspected(ctx, f)
	v, t, err := d.pool.judge(ctx, item, d.spec.ShortSide, keep.put)
	if err != nil {
		keep.drop()
		return err
	}
	f.height, f.width = fit(v.Height, v.Width, d.spec.ShortSide)
	f.frames, f.track = v.Frames, t
	if v.Usable {
		if misfit := d.misfit(f, v); misfit != nil {
			v.refuse(misfit)
		}
	}
	if v.Usable {
		f.pix, f.tried = keep.finish()
	} else {
		keep.drop()
	}
	d.verdicts[i] = v
	d.pool.stats.judged(v.Kind)
	return nil
}

// Verdicts returns what was found of every file, unusable ones included, in the order of source.Resolve.
func (d *Dataset) Verdicts() []Verdict { return slices.Clone(d.verdicts) }

// Files returns the number of usable files.
func (d *Dataset) Files() int { return len(d.files) }

// Len returns the number of clips in an epoch: ClipsPerVideo of each usable file, or about as many when sources have
// weights.
func (d *Dataset) Len() int { return d.order.clips }

// ClipSize returns the length of Sample's dst: 3*Frames*Size*Size.
func (d *Dataset) ClipSize() int { return 3 * d.spec.Frames * d.spec.Size * d.spec.Size }

// Sample fills dst [3,Frames,Size,Size] with training clip number index: a window of the file whose turn it is, one
// random crop for all its frames, resized, flipped or not, its colours changed, normalised. Every epoch visits each file ClipsPerVideo
// times, or as often as the weight of its source says, in an order of its own.
//
// The clip depends on (seed, index) and the dataset alone, whoever asks for it and when. A file that cannot be
// read any more is a *FileError, and is counted once in PoolStats.
func (d *Dataset) Sample(ctx context.Context, seed uint64, index int64, dst []float32) (SampleInfo, error) {
	if index < 0 {
		return SampleInfo{}, fmt.Errorf("sample clip %d: want an index of 0 or more", index)
	}
	if len(dst) != d.ClipSize() {
		return SampleInfo{}, fmt.Errorf("sample clip %d: a buffer of %d floats, want %d", index, len(dst), d.ClipSize())
	}
	f, info := d.plan(seed, index)
	if err := ofTheMachine(d.fill(ctx, f, info, dst)); err != nil {
		var bad *FileError
		if errors.As(err, &bad) {
			d.mu.Lock()
			known := d.failed[bad.Path]
			d.failed[bad.Path] = true
			d.mu.Unlock()
			if !known {
				d.pool.stats.judged(bad.Kind)
			}
		}
		return info, fmt.Errorf("sample clip %d: %w", index, err)
	}
	return info, nil
}

// plan is what Sample makes of (seed, index): of which file, and how.
func (d *Dataset) plan(seed uint64, index int64) (*file, SampleInfo) {
	turn := d.order.at(seed, index)
	f := d.files[turn.file]
	rng := newRand(seed, clipStream, uint64(index))
	return f, SampleInfo{
		Path: f.item.Name(), Label: f.item.Label, Source: f.item.Source, Window: turn.window, Epoch: index / int64(d.Len()),
		Numbers: d.numbers(f, d.start(f, turn.window, rng)),
		Crop:    randomCrop(rng, f.height, f.width, d.spec),
		Flip:    d.spec.Flip && rng.IntN(2) == 1,
		Jitter:  randomJitter(rng, d.spec),
	}
}

// ClipKey digests all that the pixels of Sample's clip depend on: the file with its size and time of change, the frames
// taken from it, and what is done to them. Clips of one key are alike, in every run and process.
func (d *Dataset) ClipKey(ctx context.Context, seed uint64, index int64) (string, error) {
	if index < 0 {
		return "", fmt.Errorf("key of clip %d: want an index of 0 or more", index)
	}
	f, info := d.plan(seed, index)
	identity, err := d.identity(ctx, f.item)
	if err != nil {
		return "", fmt.Errorf("key of clip %d: %w", index, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "clip 2\n%q\n%d %d %d\n%v\n%+v %v %+v\n%d px, short side %d\n%s\n", info.Path, identity.size, identity.modified, identity.changed,
		info.Numbers, info.Crop, info.Flip, info.Jitter, d.spec.Size, d.spec.ShortSide, Decoder())
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fill transforms the frames that info names into dst [3,Frames,Size,Size].
func (d *Dataset) fill(ctx context.Context, f *file, info SampleInfo, dst []float32) error {
	plane := d.spec.Size * d.spec.Size
	stride := d.spec.Frames * plane
	resize := newResampler(f.width, info.Crop, d.spec.Size, info.Flip)
	t := 0
	return d.read(ctx, f, info.Numbers, func() { t = 0 }, func(number int, pix []uint8) {
		for ; t < len(info.Numbers) && info.Numbers[t] == number; t++ {
			resize.jittered(dst[t*plane:], stride, pix, info.Jitter)
		}
	})
}

// misfit says why no clip can be cut from a file that decodes well, or nothing.
func (d *Dataset) misfit(f *file, v Verdict) *FileError {
	s := d.spec
	if s.FPS > 0 {
		if v.FPS == 0 {
			return fault(v.Path, TooShort, ": its time stamps do not advance, so it cannot be sampled by fps")
		}
		keeps := pace{fps: s.FPS}
		for _, t := range f.track.times {
			keeps.add(t)
		}
		slow := tooSlow(v.Path, keeps.stretch(true), s.FPS)
		switch {
		case slow != nil:
			return slow
		case d.starts(f) < 1:
			return fault(v.Path, TooShort, ": the clip is longer than the video: %d frames at %.4g fps span %.4g s, the file has %.4g s",
				s.Frames, s.FPS, float64(s.Frames-1)/s.FPS, f.track.times[len(f.track.times)-1]-f.track.times[0])
		}
		return nil
	}
	if d.starts(f) < 1 {
		return fault(v.Path, TooShort, ": the clip is longer than the video: %d frames at step %d span %d frames, the file has %d",
			s.Frames, s.FrameStep, (s.Frames-1)*s.FrameStep+1, f.frames)
	}
	return nil
}
