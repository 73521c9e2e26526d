package plausibility

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// Config is one scoring run.
type Config struct {
	Videos []Video // see ReadPairs and Unlabelled
	Folder string  // that names in Videos are relative to, absolute, for the record; may be empty
	// Dataset is where the videos came from, for the record; nil for a pairs file.
	Dataset *compare.Dataset
	Spec    Spec

	Size    int // pixels, height and width the model takes
	Patch   int // pixels, height and width of a token
	Tubelet int // frames of a token; divides Spec.Window

	Predictor Predictor
	Model     compare.Model
	Twin      Predictor // the same model untrained: the floor; nil scores none
	TwinModel compare.Model

	Batch     int      // windows per call of a predictor; default 16
	MaxFrames int      // of a video, after sampling; longer ones are skipped by name; default 1024
	Decoder   string   // name and version of the decoder, for the record
	Notes     []string // what is known before of what results should be read with, for the record
	Precision string   // that the predictors compute in, fp32 or bf16, for the record

	CopyLast Predictor  // predicts from the last tubelet seen alone; nil scores none
	Maps     *heat.Maps // collects the surprise of every token; nil keeps none
	Controls *Controls  // what else is done to the possible videos; nil does nothing

	Progress func(Progress) // called after each video; may be nil

	// Read decodes a video; nil means ReadFrames of decoders that Score starts for itself.
	Read func(ctx context.Context, path string, o video.ReadOptions) (*video.Clip, error)
	// Count tells how many frames a video has, for Video.EqualLength; nil means CountFrames of those decoders.
	Count func(ctx context.Context, path string) (int, error)
	// Local returns the file of a video that may lie elsewhere, which stays until release is called; nil means that videos are
	// files, and URIs are refused.
	Local func(ctx context.Context, path string) (file string, release func(), err error)
}

// onlyFiles is a Local.
func onlyFiles(_ context.Context, path string) (string, func(), error) {
	if source.IsURI(path) {
		return "", nil, &video.FileError{Path: path, Kind: video.Unreadable, Reason: "only files on this machine can be read here"}
	}
	return path, func() {}, nil
}

// Progress is how far a scoring run is.
type Progress struct {
	Done, Total int // videos
	Skipped     int // of those done
	Path        string
}

const (
	defaultBatch     = 16
	defaultMaxFrames = 1024
	maxBatchFloats   = 1 << 30 // 4 GiB of float32
	maxVideoBytes    = 4 << 30 // frames of one video
)

func (c *Config) setDefaults() {
	c.Spec = c.Spec.WithDefaults()
	if c.Batch == 0 {
		c.Batch = defaultBatch
	}
	if c.MaxFrames == 0 {
		c.MaxFrames = defaultMaxFrames
	}
	if c.Local == nil {
		c.Local = onlyFiles
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
}

func (c *Config) validate() error {
	if err := c.Spec.Validate(); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	switch {
	case c.Predictor == nil:
		return errors.New("predictor: none")
	case c.Controls.validate() != nil:
		return c.Controls.validate()
	case c.Controls != nil && unlabelled(c.Videos):
		return errors.New("controls: they are of possible videos, and these have no labels")
	case c.Patch < 1 || c.Size < c.Patch || c.Size%c.Patch != 0:
		return fmt.Errorf("size: %d pixels, want a multiple of the patch of %d", c.Size, c.Patch)
	case c.Tubelet < 1 || c.Spec.Window%c.Tubelet != 0:
		return fmt.Errorf("spec.window: %d frames, want a multiple of the tubelet of %d", c.Spec.Window, c.Tubelet)
	case c.Decoder == "":
		return errors.New("decoder: empty")
	case c.Batch < 1:
		return fmt.Errorf("batch: %d windows, want at least 1", c.Batch)
	case c.Spec.Stride > c.Spec.Window:
		return fmt.Errorf("spec.stride: %d frames, above the window of %d: no window would cover the frames between", c.Spec.Stride, c.Spec.Window)
	case c.MaxFrames > defaultMaxFrames && int64(c.MaxFrames) > maxVideoBytes/(3*int64(c.Size)*int64(c.Size)):
		return fmt.Errorf("max_frames: %d of %d×%d pixels take more than %d GiB, want at most %d", c.MaxFrames, c.Size, c.Size, maxVideoBytes>>30, maxVideoBytes/(3*c.Size*c.Size))
	case c.MaxFrames < c.Spec.MaxFrames:
		return fmt.Errorf("max_frames: %d, below the %d that the spec takes", c.MaxFrames, c.Spec.MaxFrames)
	case c.MaxFrames < c.Spec.Window:
		return fmt.Errorf("max_frames: %d, below the window of %d", c.MaxFrames, c.Spec.Window)
	case int64(c.Spec.Window) > 1<<16 || int64(c.Size) > 1<<14,
		int64(c.Batch) > maxBatchFloats/(3*int64(c.Spec.Window)*int64(c.Size)*int64(c.Size)):
		return fmt.Errorf("batch: %d windows of %d frames of %d×%d pixels need more than %d GiB", c.Batch, c.Spec.Window, c.Size, c.Size, maxBatchFloats*4>>30)
	}
	for _, context := range c.Spec.Contexts {
		if context%c.Tubelet != 0 {
			return fmt.Errorf("spec.contexts: %d frames, want multiples of the tubelet of %d", context, c.Tubelet)
		}
	}
	return nil
}

// Score measures every video with the model and its twin and returns the score
// file. A video that cannot be read or is too short or too long is listed in
// Skipped with the reason, and with it the rest of its group; when no group is
// left that is an error. Any other failure, a NaN from the model too, ends the
// run with an error that names the video.
//
// Memory holds the frames of the videos that a batch of windows is taken from, and of
// the next one, which is decoded meanwhile, and small thumbnails and the maps of one group.
func Score(ctx context.Context, c Config) (*compare.File, error) {
	c.setDefaults()
	if c.Read == nil || c.Count == nil {
		decoders, done := video.OwnPool(nil)
		defer done()
		if c.Read == nil {
			c.Read = decoders.ReadFrames
		}
		if c.Count == nil {
			c.Count = decoders.CountFrames
		}
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	groups, err := byGroup(c.Videos)
	if err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	s := newScorer(&c)
	work, ctx := errgroup.WithContext(ctx)
	decoded := make(chan decodedVideo)
	work.Go(func() error {
		defer close(decoded)
		return readAll(ctx, &c, groups, decoded)
	})
	work.Go(func() error {
		for _, g := range groups {
			if err := s.group(ctx, g, decoded); err != nil {
				return err
			}
		}
		return nil
	})
	if err := work.Wait(); err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	f := s.file
	if len(f.Videos) == 0 {
		left := fmt.Sprintf("no group is left of %d", len(groups))
		if unlabelled(c.Videos) {
			left = fmt.Sprintf("no video is left of %d", len(c.Videos))
		}
		return nil, fmt.Errorf("scoring: %s; the first video skipped was %s: %s", left, f.Skipped[0].Path, f.Skipped[0].Reason)
	}
	f.Data = compare.Digest(f.Videos)
	if !f.Unlabelled() {
		review(f)
	}
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	if err := c.Controls.finish(f); err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	return f, nil
}

type scorer struct {
	c          *Config
	predictors []Predictor // of file.Sets
	reducer    reducer
	pending    []pendingWindow // of videos of one group, so that batches are full whatever a video's length
	file       *compare.File
	progress   Progress
}

func newScorer(c *Config) *scorer {
	side := c.Size / c.Patch
	s := &scorer{
		c:          c,
		predictors: []Predictor{c.Predictor},
		reducer:    reducer{spec: c.Spec, tubelets: c.Spec.Window / c.Tubelet, tubeletTokens: side * side},
		file: &compare.File{Version: compare.Version, Spec: c.Spec, Size: c.Size, Grid: &compare.Grid{Tubelet: c.Tubelet, Patch: c.Patch}, Decoder: c.Decoder, Precision: c.Precision, Folder: c.Folder, Dataset: c.Dataset, Notes: slices.Clone(c.Notes),
			Skipped: []compare.Skipped{}, Sets: []compare.Set{{Name: compare.ModelSet, Model: c.Model}}},
		progress: Progress{Total: len(c.Videos)},
	}
	if c.Twin != nil {
		s.predictors = append(s.predictors, c.Twin)
		s.file.Sets = append(s.file.Sets, compare.Set{Name: compare.TwinSet, Model: c.TwinModel})
	}
	if c.CopyLast != nil {
		s.predictors = append(s.predictors, c.CopyLast)
		s.file.Sets = append(s.file.Sets, compare.Set{Name: compare.CopySet, Model: c.Model})
	}
	return s
}

// scoredVideo is one video's part of the score file.
type scoredVideo struct {
	video      compare.Video
	scores     []compare.Scores // per set
	thumbnails [][]uint8
	frames     []uint64            // digest of each frame, where they were stored without loss; else nil
	times      []float64           // of its frames, seconds
	maps       map[string]heat.Map // by set; nil of altered copies
	controls   []controlled        // per kind of control; none of impossible videos
}

// group scores the videos of one group as they are decoded, and enters them into
// the file, all or none; of videos without labels, those that can be scored.
func (s *scorer) group(ctx context.Context, videos []Video, decoded <-chan decodedVideo) error {
	var begun []*videoScores
	s.pending = s.pending[:0]
	reasons := make([]string, len(videos))
	broken := ""
	for i, v := range videos {
		d, ok := <-decoded
		if !ok {
			return nil // the reader has failed, and its error is what Score returns
		}
		switch {
		case d.skip != "" && v.Label == compare.NoLabel:
			s.file.Skipped = append(s.file.Skipped, compare.Skipped{Path: v.name(), Reason: d.skip})
		case d.skip != "":
			reasons[i] = d.skip
			if broken == "" {
				broken = v.name()
			}
		case broken == "":
			one, err := s.begin(ctx, v, d)
			if err == nil && v.Label == 1 {
				err = s.controls(ctx, one, d)
			}
			if err != nil {
				return err
			}
			begun = append(begun, one)
		}
		s.progress.Done++
		s.progress.Path = v.Path
		if d.skip != "" {
			s.progress.Skipped++
		}
		s.c.Progress(s.progress)
	}
	if broken != "" {
		for i, v := range videos {
			if reasons[i] == "" {
				reasons[i] = fmt.Sprintf("its group %q is incomplete without %s", v.Group, broken)
			}
			s.file.Skipped = append(s.file.Skipped, compare.Skipped{Path: v.name(), Group: v.Group, Reason: reasons[i]})
		}
		return nil
	}
	scored, err := s.finish(ctx, begun)
	if err != nil {
		return err
	}
	if !unlabelled(videos) {
		s.pair(videos, scored)
	}
	for _, one := range scored {
		if s.c.Maps != nil {
			s.c.Maps.Add(one.maps)
		}
		s.file.Videos = append(s.file.Videos, one.video)
		for k := range s.file.Sets {
			s.file.Sets[k].Scores = append(s.file.Sets[k].Scores, one.scores[k])
		}
	}
	return nil
}

// pair enters what only the videos of a group tell of one another.
func (s *scorer) pair(videos []Video, scored []scoredVideo) {
	if slices.ContainsFunc(videos, func(v Video) bool { return v.Pair == "" }) {
		for i := range scored {
			scored[i].video.Pair = ""
		}
		match(scored)
	}
	locate(scored, s.c.Size)
	s.contrast(scored)
	s.c.Controls.add(scored)
}

// contrast enters what only all of a group's videos together tell.
func (s *scorer) contrast(group []scoredVideo) {
	for k, set := range s.file.Sets {
		maps := make([]heat.Map, len(group))
		for i := range group {
			maps[i] = group[i].maps[set.Name]
		}
		contrast(s.file, group, k, maps)
	}
}

// sharedStart is how many frames two videos have in common before they differ.
func (v *scoredVideo) sharedStart(other *scoredVideo) int {
	if v.frames == nil || other.frames == nil {
		return sharedStart(v.thumbnails, other.thumbnails)
	}
	n := min(len(v.frames), len(other.frames))
	for i := range n {
		if v.frames[i] != other.frames[i] {
			return i
		}
	}
	return n
}

// match names the pairs of a group by the shared start of its videos, where its
// possible and impossible videos are equally many.
func match(videos []scoredVideo) {
	var possible, impossible []int
	for i, v := range videos {
		if v.video.Label == 1 {
			possible = append(possible, i)
		} else {
			impossible = append(impossible, i)
		}
	}
	shared := make([][]int, len(possible))
	for p := range possible {
		for q := range impossible {
			shared[p] = append(shared[p], videos[possible[p]].sharedStart(&videos[impossible[q]]))
		}
	}
	for p, q := range compare.MatchByStart(shared) {
		pair := strconv.Itoa(p + 1)
		videos[possible[p]].video.Pair = pair
		videos[impossible[q]].video.Pair = pair
	}
}

// videoScores are those of a video whose windows are being scored.
type videoScores struct {
	path     string
	out      scoredVideo
	tracks   []track // per set
	controls []alteredScores
}

// alteredScores are those of an altered copy.
type alteredScores struct {
	kind   string
	scores *videoScores
}

// pendingWindow is a window that waits for its batch to be full.
type pendingWindow struct {
	Window
	video *videoScores
}

// begin has the windows of a video scored, as batches fill.
func (s *scorer) begin(ctx context.Context, v Video, d decodedVideo) (*videoScores, error) {
	spec := s.c.Spec
	one := &videoScores{path: v.Path, out: scoredVideo{
		video: compare.Video{Path: v.name(), Label: v.Label, Group: v.Group, Property: v.Property, Pair: v.Pair, SHA256: d.sha256, Frames: d.clip.Frames, First: d.first,
			FPS: d.clip.File.FPS, Width: d.clip.File.Width, Height: d.clip.File.Height, Codec: d.clip.File.Codec},
		times: d.clip.Times,
	}}
	if v.Label != compare.NoLabel { // to be paired by, when the frames themselves have been let go of
		one.out.thumbnails = thumbnails(d.clip)
		if d.exact {
			one.out.frames = frameDigests(d.clip)
		}
	}
	side := s.c.Size / s.c.Patch
	for range s.predictors {
		one.tracks = append(one.tracks, track{tokens: side * side, tubelet: map[int]*trackedTubelet{}})
		one.out.scores = append(one.out.scores, compare.Scores{Surprise: make([][]float64, spec.NumContexts()), Peak: make([][]float64, spec.NumContexts())})
	}
	frames := clipFrames{d.clip}
	var windows []Window
	if spec.Beginning {
		longest := spec.ShorterContexts(len(spec.Contexts)-1, s.c.Tubelet)
		windows = append(windows, Window{frames, 0, longest})
		for range longest {
			one.out.video.WindowStart = append(one.out.video.WindowStart, d.clip.Times[0])
		}
	}
	for _, from := range WindowStarts(d.clip.Frames, spec.Window, spec.Stride) {
		one.out.video.WindowStart = append(one.out.video.WindowStart, d.clip.Times[from])
		windows = append(windows, Window{Of: frames, From: from})
	}
	for _, w := range windows {
		s.pending = append(s.pending, pendingWindow{w, one})
		if len(s.pending) == s.c.Batch {
			if err := s.flush(ctx); err != nil {
				return nil, err
			}
		}
	}
	return one, nil
}

// flush scores the windows that wait.
func (s *scorer) flush(ctx context.Context) error {
	var windows []Window
	for _, w := range s.pending {
		windows = append(windows, w.Window)
	}
	for k, p := range s.predictors {
		if len(windows) == 0 {
			break
		}
		set := s.file.Sets[k].Name
		errs, err := p.Surprise(ctx, windows)
		if err != nil {
			return fmt.Errorf("video %s: %s: %w", s.pending[0].video.path, set, err)
		}
		if len(errs) != len(windows) {
			return fmt.Errorf("video %s: %s: returned %d windows for %d", s.pending[0].video.path, set, len(errs), len(windows))
		}
		for i, w := range s.pending {
			contexts, err := s.reducer.reduce(errs[i], w.Contexts)
			if err != nil {
				return fmt.Errorf("video %s: %s: window at %.3f s: %w", w.video.path, set, w.video.out.times[w.From], err)
			}
			scores := &w.video.out.scores[k]
			for c, x := range contexts {
				w.video.tracks[k].add(errs[i][c], x.tubelet, w.From, s.c.Tubelet)
				if w.Contexts == nil {
					scores.Surprise[c], scores.Peak[c] = append(scores.Surprise[c], x.surprise), append(scores.Peak[c], x.peak)
					continue
				}
				for row, longer := range s.c.Spec.Contexts { // of the beginning of every row that it is shorter than
					if w.Contexts[c] < longer {
						scores.Surprise[row], scores.Peak[row] = append(scores.Surprise[row], x.surprise), append(scores.Peak[row], x.peak)
					}
				}
			}
		}
	}
	clear(s.pending) // and with it the frames
	s.pending = s.pending[:0]
	return nil
}

// finish scores what is left of a group's windows and gathers what its videos have come to.
func (s *scorer) finish(ctx context.Context, group []*videoScores) ([]scoredVideo, error) {
	if err := s.flush(ctx); err != nil {
		return nil, err
	}
	var out []scoredVideo
	for _, one := range group {
		if err := s.curves(one, true); err != nil {
			return nil, fmt.Errorf("video %s: %w", one.path, err)
		}
		for _, x := range one.controls {
			if err := s.curves(x.scores, false); err != nil { // maps are of the videos themselves
				return nil, fmt.Errorf("video %s: %s: %w", one.path, x.kind, err)
			}
			one.out.controls = append(one.out.controls, controlled{x.kind, x.scores.out.video, x.scores.out.scores})
		}
		out = append(out, one.out)
	}
	return out, nil
}

// curves makes the curves of a video, and its maps, of its windows.
func (s *scorer) curves(one *videoScores, maps bool) error {
	side, tracks, times := s.c.Size/s.c.Patch, one.tracks, one.out.times
	frames := tracks[0].frames()
	for _, f := range frames {
		one.out.video.TubeletStart = append(one.out.video.TubeletStart, times[f])
	}
	if maps {
		one.out.maps = map[string]heat.Map{}
	}
	for k := range tracks {
		name := s.file.Sets[k].Name
		if !slices.Equal(frames, tracks[k].frames()) {
			return fmt.Errorf("%s predicts other tubelets than the model", name)
		}
		one.out.scores[k].Curve = tracks[k].curve()
		one.out.scores[k].PeakAt = tracks[k].peak(times, side, s.c.Patch)
		if maps {
			one.out.maps[name] = tracks[k].mapOf(side)
		}
	}
	return nil
}
