package video

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// Verdict says whether a file can be used, and what was found by decoding it.
type Verdict struct {
	Path     string  `json:"path"`
	Usable   bool    `json:"usable"`
	Reason   string  `json:"reason"`     // why not; empty when usable
	Codec    string  `json:"codec"`      // as the container names it
	Width    int     `json:"width"`      // pixels, after rotation
	Height   int     `json:"height"`     // pixels, after rotation
	FPS      float64 `json:"fps"`        // mean rate, from the frames' time stamps; 0 when they do not advance
	Duration float64 `json:"duration_s"` // seconds, first frame to the end of the last
	Frames   int     `json:"frames"`     // really decoded
}

// Inspect decodes a file from end to end and says whether it can be used. The reason for an unusable one
// begins with one of: unreadable, no video stream, no frames, truncated, frame size changes, too large,
// too short, not inspected (ctx ended first). OpenDataset adds too slow.
func Inspect(ctx context.Context, path string) Verdict {
	v, _ := inspect(ctx, path, defaultLimits, nil)
	return v
}

// InspectAll inspects files in parallel, one per core, and returns their verdicts in the order of paths.
// progress, unless nil, is called after each file, one call at a time. The error is ctx's.
func InspectAll(ctx context.Context, paths []string, progress func(done, total int)) ([]Verdict, error) {
	verdicts := make([]Verdict, len(paths))
	err := forEach(ctx, len(paths), progress, func(i int) {
		verdicts[i], _ = inspect(ctx, paths[i], defaultLimits, nil)
	})
	return verdicts, err
}

// forEach calls do(0), …, do(n-1) on as many goroutines as there are cores, until ctx ends.
func forEach(ctx context.Context, n int, progress func(done, total int), do func(i int)) error {
	var (
		next   atomic.Int64
		owners sync.WaitGroup
		mu     sync.Mutex
		done   int // guarded by mu
	)
	for range min(n, runtime.GOMAXPROCS(0)) {
		owners.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				do(i)
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

// inspect also returns each frame's time, and hands every frame to keep unless that is nil.
func inspect(ctx context.Context, path string, lim limits, keep func(frame)) (Verdict, []float64) {
	var times []float64
	s, err := scan(ctx, reading{path: path, lim: lim, visit: func(f frame) error {
		times = append(times, f.time)
		if keep != nil {
			keep(f)
		}
		return nil
	}})
	v := Verdict{Path: path, Codec: s.codec, Width: s.width, Height: s.height, Frames: s.frames}
	v.FPS, v.Duration = rate(times)
	var bad *FileError
	switch {
	case errors.As(err, &bad):
		v.Reason = bad.Reason
	case err != nil:
		v.Reason = "not inspected: " + err.Error()
	case s.frames == 1:
		v.Reason = "too short: one frame (a still picture, or the cover of a sound file)"
	default:
		v.Usable = true
	}
	return v, times
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
	return intervals / span, span * (intervals + 1) / intervals
}
