package video

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/surmise-ml/surmise/internal/osfault"
	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// Verdict says whether a file can be used, and what was found by decoding it.
type Verdict struct {
	Path     string  `json:"path"`
	Usable   bool    `json:"usable"`
	Kind     Kind    `json:"kind"`       // why not, of Kinds; empty when usable
	Reason   string  `json:"reason"`     // the same with what was found, for people; begins with Kind
	Codec    string  `json:"codec"`      // as the container names it
	Width    int     `json:"width"`      // pixels, after rotation
	Height   int     `json:"height"`     // pixels, after rotation
	FPS      float64 `json:"fps"`        // mean rate, from the frames' time stamps; 0 when they do not advance
	Duration float64 `json:"duration_s"` // seconds, first frame to the end of the last
	Frames   int     `json:"frames"`     // really decoded; where the frame size changes, those before
	// Content is a fingerprint of what a usable file holds: SHA-256 of its size and of both its ends, 16 hexadecimal digits.
	// Empty where it could not be had.
	Content string `json:"content,omitempty"`

	ofTheHour bool // not to be remembered
	killed    bool // the decoder was, from outside
}

// OfTheHour tells whether a file was refused for what another look at the same bytes may not find: the system did not let it be
// read, or its decoder was silent or killed.
func (v Verdict) OfTheHour() bool { return !v.Usable && v.ofTheHour }

func (v *Verdict) refuse(f *FileError) {
	v.Usable, v.Kind, v.Reason, v.ofTheHour, v.killed = false, f.Kind, f.Reason, f.ofTheHour(), f.passing
}

// Inspect decodes a file from end to end and says whether it can be used.
func (p *Pool) Inspect(ctx context.Context, path string) Verdict {
	v, _, err := p.judge(ctx, source.Item{Path: path}, 0, nil)
	if err != nil {
		v.Path = path
		v.refuse(fault(path, NotInspected, ": %v", err))
	}
	p.stats.judged(v.Kind)
	return v
}

// InspectAll inspects items in parallel, one per process, and returns their verdicts in the order of items.
// progress, unless nil, is called after each file, one call at a time. The error is ctx's, or that no decoder
// could be started.
func (p *Pool) InspectAll(ctx context.Context, items []source.Item, progress func(done, total int)) ([]Verdict, error) {
	verdicts := make([]Verdict, len(items))
	err := forEach(ctx, p.Size(), len(items), progress, func(ctx context.Context, i int) (err error) {
		if verdicts[i], _, err = p.judge(ctx, items[i], 0, nil); err == nil {
			p.stats.judged(verdicts[i].Kind)
		}
		return err
	})
	return verdicts, err
}

// forEach calls do(0), …, do(n-1) on so many goroutines, until ctx ends or one of them fails.
func forEach(ctx context.Context, goroutines, n int, progress func(done, total int), do func(ctx context.Context, i int) error) error {
	var (
		next   atomic.Int64
		owners sync.WaitGroup
		mu     sync.Mutex
		done   int // guarded by mu
	)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	for range min(n, goroutines) {
		owners.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(ctx, i); err != nil {
					stop(err)
					return
				}
				mu.Lock()
				done++
				if progress != nil {
					progress(done, n)
				}
				mu.Unlock()
			}
		})
	}
	owners.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("inspect %d files, %d done: %w", n, done, context.Cause(ctx))
	}
	return nil
}

// track is what an inspection found of every frame: what a later reading is held to.
type track struct {
	times   []float64 // [frames] seconds
	digests []uint32  // [frames] CRC-32C of the pixels as decoded
}

// judge recalls the verdict on an item, or examines it and remembers. A verdict that is recalled shows keep no frames.
func (p *Pool) judge(ctx context.Context, item source.Item, short int, keep func(frame)) (Verdict, track, error) {
	v := Verdict{Path: item.Name()}
	file, release, err := p.local(ctx, item)
	var bad *FileError
	if errors.As(err, &bad) {
		v.refuse(bad)
		return v, track{}, nil
	}
	if err != nil {
		return v, track{}, err
	}
	defer release()
	abs, err := filepath.Abs(file)
	if err != nil {
		return v, track{}, err
	}
	known := item
	if item.URI == "" {
		known.Path = abs // remembered wherever it is named from
	}
	name := known.Name()
	if v, t, ok := p.o.Verdicts.recall(name, abs); ok {
		v.Path = item.Name()
		return v, t, v.identify(item, abs)
	}
	identity, statErr := identityOf(name, abs)
	v, t, err := p.examine(ctx, item, defaultLimits, short, keep)
	if err != nil {
		return v, t, err
	}
	if err := v.identify(item, abs); err != nil {
		return v, t, err
	}
	if statErr == nil {
		if err := p.o.Verdicts.remember(name, abs, identity, v, t); err != nil {
			slog.Warn("a verdict is not remembered", "error", err) // a full disk costs time, not the run
		}
	}
	return v, t, nil
}

// identify sets Content of a usable file, unless it is known. An error is the machine's.
func (v *Verdict) identify(item source.Item, path string) error {
	if !v.Usable || v.Content != "" {
		return nil
	}
	content, err := contentOf(item, path)
	if osfault.OfMachine(err) {
		return &DecoderError{fmt.Errorf("telling what %q holds: %w", item.Name(), err)}
	}
	if err != nil { // decoding it will tell
		slog.Debug("a file cannot be told by its content", "video", item.Name(), "error", err)
	}
	v.Content = content
	return nil
}

// examine decodes a file and judges it. It hands every frame, its shorter side at most short, to keep unless that
// is nil; keep is called with frame 0 again when the reading begins anew. The error is not about the file.
func (p *Pool) examine(ctx context.Context, item source.Item, lim limits, short int, keep func(frame)) (Verdict, track, error) {
	var t track
	path := item.Name()
	request := wire.Request{MaxPixels: lim.pixels, MaxFrames: lim.frames, Step: 1, Digests: true, NoPixels: keep == nil, Short: short}
	done, err := p.decode(ctx, item, request, func() { t = track{} }, func(f frame) error {
		t.times, t.digests = append(t.times, f.time), append(t.digests, f.digest)
		if keep != nil {
			keep(f)
		}
		return nil
	})
	v := Verdict{Path: path, Codec: done.Codec, Width: done.Width, Height: done.Height, Frames: max(done.Frames, len(t.times))}
	v.FPS, v.Duration = rate(t.times)
	var bad *FileError
	switch {
	case errors.As(err, &bad):
		v.refuse(bad)
	case err != nil:
		return v, t, err
	case done.Frames != len(t.times):
		v.refuse(fault(path, Crashed, ": it counts %d frames and delivered %d", done.Frames, len(t.times)))
	case done.Frames == 1:
		v.refuse(fault(path, TooShort, ": one frame (a still picture, or the cover of a sound file)"))
	default:
		v.Usable = true
	}
	return v, t, nil
}

// rate measures frames per second and duration in seconds from time stamps that never decrease.
func rate(times []float64) (fps, duration float64) {
	if len(times) < 2 {
		return 0, 0
	}
	span := times[len(times)-1] - times[0]
	if span <= 0 || math.IsInf(span, 0) || math.IsNaN(span) {
		return 0, 0
	}
	intervals := float64(len(times) - 1)
	const digits = 1e6                        // of a unit: time stamps have fewer
	if math.IsInf(intervals/span*digits, 0) { // times that no camera has
		return 0, 0
	}
	return math.Round(intervals/span*digits) / digits, math.Round(span*(intervals+1)/intervals*digits) / digits
}
