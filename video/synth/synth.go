// Package synth makes video clips of simple two-dimensional physics: clips in
// which nothing impossible happens, to train on, and matched groups of possible
// and impossible videos, to test what was learnt.
//
// Worlds are drawn at random (scene.go, property.go) and simulated first
// (simulate.go, package physics: pure, no pictures), then drawn with OpenCV
// (draw.go) and written as video files (encode.go). The random numbers of each clip and each group are a stream of
// its own, so the result does not depend on the number of cores, and the first
// clips of a larger set are those of a smaller one.
package synth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Options says what to make. Zero values mean the defaults given.
type Options struct {
	// Dir is the folder to fill; it is made if missing. It must not hold an
	// earlier result.
	Dir string
	// Clips is the number of possible clips to train on, 0 to 200,000.
	Clips int
	// Pairs is the number of matched possible/impossible pairs, 0 to 50,000. A
	// group holds two pairs; with an odd number the last group holds one.
	Pairs int
	// Seed decides everything. Clips and pairs never share random numbers,
	// whatever their seeds.
	Seed uint64
	// Size is the side of the square frame in pixels, even, 32 to 512; 0 means 64.
	Size int
	// Frames per video, 16 to 256; 0 means 32.
	Frames int
	// FPS is the frame rate written into the files, 1 to 120 frames per second;
	// 0 means 16. Motion is set per clip, so it does not depend on FPS.
	FPS float64
	// Properties to test, of [Properties]; groups take turns. Empty means all.
	Properties []string
	// Difficulty of clips and pairs, of [Difficulties]; empty means middle.
	Difficulty string
}

// Summary says what was made. Paths are within Options.Dir, and empty for what
// was not asked for.
type Summary struct {
	Clips    int    `json:"clips"`
	Pairs    int    `json:"pairs"`
	Groups   int    `json:"groups"`
	Bytes    int64  `json:"bytes"`     // size of all videos
	ClipsDir string `json:"clips_dir"` // folder of the training clips
	PairsCSV string `json:"pairs_csv"` // index of the pairs
	Events   string `json:"events"`    // parameters and event frame of every video
}

const (
	maxClips = 200_000
	maxPairs = 50_000

	clipsDir   = "clips"
	pairsDir   = "pairs"
	pairsFile  = "pairs.csv"
	eventsFile = "events.jsonl"
)

// Generate makes the clips and pairs:
//
//	Dir/clips/clip-000000.avi …     possible, for training
//	Dir/pairs/colour-00000-p1.avi … p1 and p2 possible, i1 and i2 impossible
//	Dir/pairs.csv                   path,label,group,property; label 1 is possible
//	Dir/events.jsonl                one line per video, see event
//
// Rows 2i and 2i+1 of pairs.csv are a pair: the possible video, and the
// impossible one that is the same up to the event. All is made in a temporary
// folder within Dir and moved into place when whole; an error or a cancelled
// context leaves nothing behind. progress, if not nil, is told the videos
// written so far and their total, from one goroutine at a time.
func Generate(ctx context.Context, o Options, progress func(done, total int)) (Summary, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return Summary{}, err
	}
	dir, err := filepath.Abs(o.Dir) // FFmpeg reads "a:b" as a protocol
	if err != nil {
		return Summary{}, fmt.Errorf("resolving synth folder %q: %w", o.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Summary{}, fmt.Errorf("making synth folder: %w", err)
	}
	for _, name := range []string{clipsDir, pairsDir, eventsFile, pairsFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return Summary{}, fmt.Errorf("synth folder %q already holds %s; choose another folder, or remove it first", dir, name)
		}
	}
	partial, err := os.MkdirTemp(dir, ".partial-")
	if err != nil {
		return Summary{}, fmt.Errorf("making synth folder: %w", err)
	}
	defer os.RemoveAll(partial)

	events, bytes, err := makeVideos(ctx, o, partial, progress)
	if err != nil {
		return Summary{}, err
	}
	summary := Summary{Clips: o.Clips, Pairs: o.Pairs, Groups: (o.Pairs + 1) / 2, Bytes: bytes}
	if err := writeEvents(filepath.Join(partial, eventsFile), events); err != nil {
		return Summary{}, err
	}
	made := []string{eventsFile}
	summary.Events = filepath.Join(dir, eventsFile)
	if o.Clips > 0 {
		made = append(made, clipsDir)
		summary.ClipsDir = filepath.Join(dir, clipsDir)
	}
	if o.Pairs > 0 {
		if err := writePairs(filepath.Join(partial, pairsFile), events); err != nil {
			return Summary{}, err
		}
		made = append(made, pairsDir, pairsFile)
		summary.PairsCSV = filepath.Join(dir, pairsFile)
	}
	return summary, publish(partial, dir, made)
}

// makeVideos writes all videos below dir, on all cores, and returns their
// events in the order of the files.
func makeVideos(ctx context.Context, o Options, dir string, progress func(done, total int)) (events []event, bytes int64, err error) {
	for _, sub := range []string{clipsDir, pairsDir} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, 0, fmt.Errorf("making synth folder: %w", err)
		}
	}
	groups := (o.Pairs + 1) / 2
	tasks := o.Clips + groups // task i is clip i, then group i-Clips
	total := o.Clips + 2*o.Pairs
	perTask := make([][]event, tasks)

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	var mu sync.Mutex // guards done, bytes and calls of progress
	done := 0
	for range min(runtime.GOMAXPROCS(0), tasks) {
		workers.Go(func() {
			p := newPainter(o.Size)
			defer p.close()
			for task := range next {
				videos, err := o.plan(task)
				if err != nil {
					stop(err)
					return
				}
				for _, v := range videos {
					if ctx.Err() != nil {
						return
					}
					n, err := p.encode(filepath.Join(dir, v.Path), v, o)
					if err != nil {
						stop(fmt.Errorf("writing synthetic video %s: %w", v.Path, err))
						return
					}
					perTask[task] = append(perTask[task], v)
					mu.Lock()
					done, bytes = done+1, bytes+n
					if progress != nil {
						progress(done, total)
					}
					mu.Unlock()
				}
			}
		})
	}
feed:
	for task := range tasks {
		select {
		case next <- task:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	return slices.Concat(perTask...), bytes, nil
}

// plan draws the worlds of one task and lists the videos to make of them.
func (o Options) plan(task int) ([]event, error) {
	if task < o.Clips {
		v, err := o.planClip(task)
		if err != nil {
			return nil, err
		}
		return []event{v}, nil
	}
	number := task - o.Clips
	videos, err := o.planGroup(number)
	if err != nil {
		return nil, err
	}
	return videos[:min(len(videos), 2*(o.Pairs-2*number))], nil
}

// planClip draws a scene with nothing to prove, or takes one possible world of
// a group that is never shown: so training clips hold the physics that groups
// test, and half of them are like the possible videos of the pairs in all.
func (o Options) planClip(number int) (event, error) {
	rng := stream("clip "+o.Difficulty, o.Seed, number)
	w, err := o.clipWorld(rng)
	if err != nil {
		return event{}, fmt.Errorf("clip %d: %w", number, err)
	}
	return o.event(event{
		Path:  fmt.Sprintf("%s/clip-%06d%s", clipsDir, number, extension),
		Label: possible,
		World: w,
	}), nil
}

func (o Options) clipWorld(rng *rand.Rand) (world, error) {
	if rng.IntN(2) == 0 {
		return samplePlay(rng, levels[o.Difficulty], o.Frames)
	}
	g, err := sampleGroup(rng, levels[o.Difficulty], pick(rng, Properties()), o.Frames)
	return g.Worlds[rng.IntN(2)], err
}

// planGroup lists the videos of a group, each impossible one after the possible
// one that it follows up to the event.
func (o Options) planGroup(number int) ([]event, error) {
	property := o.Properties[number%len(o.Properties)]
	number /= len(o.Properties)
	g, err := sampleGroup(stream("pair "+o.Difficulty+" "+property, o.Seed, number), levels[o.Difficulty], property, o.Frames)
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", number, err)
	}
	name := fmt.Sprintf("%s-%05d", property, number)
	var videos []event
	for i, w := range g.Worlds {
		v := o.event(event{Group: name, Property: property, EventFrame: g.Event, World: w})
		v.Label, v.Path = possible, fmt.Sprintf("%s/%s-p%d%s", pairsDir, name, i+1, extension)
		videos = append(videos, v)
		v.Label, v.Path = impossible, fmt.Sprintf("%s/%s-i%d%s", pairsDir, name, i+1, extension)
		v.After = &g.Worlds[1-i]
		videos = append(videos, v)
	}
	return videos, nil
}

// stream returns the random numbers of one clip or group. Other purposes,
// seeds or numbers give other keys, and so unrelated streams.
func stream(purpose string, seed uint64, number int) *rand.Rand {
	key := binary.LittleEndian.AppendUint64([]byte("surmise synth "+purpose+" "), seed)
	key = binary.LittleEndian.AppendUint64(key, uint64(number))
	return rand.New(rand.NewChaCha8(sha256.Sum256(key)))
}

func (o Options) withDefaults() Options {
	if o.Size == 0 {
		o.Size = 64
	}
	if o.Frames == 0 {
		o.Frames = 32
	}
	if o.FPS == 0 {
		o.FPS = 16
	}
	if o.Difficulty == "" {
		o.Difficulty = middle
	}
	if len(o.Properties) == 0 {
		o.Properties = Properties()
	}
	return o
}

func (o Options) validate() error {
	if o.Dir == "" {
		return errors.New("synth: dir is empty: name the folder to fill")
	}
	for _, f := range []struct {
		name             string
		value, low, high int
	}{
		{"clips", o.Clips, 0, maxClips},
		{"pairs", o.Pairs, 0, maxPairs},
		{"size", o.Size, 32, 512},
		{"frames", o.Frames, 16, 256},
	} {
		if f.value < f.low || f.value > f.high {
			return fmt.Errorf("synth: %s is %d: must be between %d and %d", f.name, f.value, f.low, f.high)
		}
	}
	if o.Clips == 0 && o.Pairs == 0 {
		return errors.New("synth: clips and pairs are both 0: nothing to make")
	}
	if o.Size%2 != 0 {
		return fmt.Errorf("synth: size is %d: must be even, OpenCV cuts odd frames when writing", o.Size)
	}
	if !(o.FPS >= 1 && o.FPS <= 120) {
		return fmt.Errorf("synth: fps is %v: must be between 1 and 120", o.FPS)
	}
	if _, ok := levels[o.Difficulty]; !ok {
		return fmt.Errorf("synth: difficulty is %q: must be one of %s", o.Difficulty, strings.Join(Difficulties(), ", "))
	}
	known := Properties()
	for i, p := range o.Properties {
		if !slices.Contains(known, p) {
			return fmt.Errorf("synth: properties[%d] is %q: must be one of %s", i, p, strings.Join(known, ", "))
		}
		if slices.Contains(o.Properties[:i], p) {
			return fmt.Errorf("synth: properties[%d] is %q, which is listed twice", i, p)
		}
	}
	return nil
}
