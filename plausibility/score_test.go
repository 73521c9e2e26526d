package plausibility

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video"
)

// changeDetector is a next-tubelet predictor that expects the last frame of a
// tubelet to go on: the error of a token is the mean change in its place.
type changeDetector struct {
	size, patch, tubelet, window int
	calls                        []int // windows per call
	spoil                        func([]WindowErrors)
}

func (d *changeDetector) Surprise(_ context.Context, windows []Window) ([]WindowErrors, error) {
	d.calls = append(d.calls, len(windows))
	side := d.size / d.patch
	pix := make([]float32, 3*d.window*d.size*d.size) // [3,T,S,S]
	var out []WindowErrors
	for _, w := range windows {
		w.Of.Normalize(pix, w.From, d.window)
		var c ContextErrors
		for t := 1; t < d.window/d.tubelet; t++ {
			for h := range side {
				for x := range side {
					var sum float64
					for ch := range 3 {
						for py := range d.patch {
							for px := range d.patch {
								at := func(frame int) float64 {
									return float64(pix[((ch*d.window+frame)*d.size+h*d.patch+py)*d.size+x*d.patch+px])
								}
								sum += math.Abs(at(t*d.tubelet) - at(t*d.tubelet-1))
							}
						}
					}
					c.Tokens = append(c.Tokens, int32((t*side+h)*side+x))
					c.Errors = append(c.Errors, float32(sum))
				}
			}
		}
		out = append(out, WindowErrors{c})
	}
	if d.spoil != nil {
		d.spoil(out)
	}
	return out, nil
}

// testVideos are made-up clips by file name, with a file of some bytes for each.
type testVideos struct {
	dir   string
	clips map[string]*video.Clip
	fail  map[string]error
}

func (v *testVideos) read(_ context.Context, path string, o video.ReadOptions) (*video.Clip, error) {
	name := filepath.Base(path)
	if err := v.fail[name]; err != nil {
		return nil, err
	}
	return v.clips[name], nil
}

// quadruplets makes n groups: two possible videos of different grey in which
// nothing changes, and impossible ones in which a corner jumps to another grey
// in frame 8.
func quadruplets(t *testing.T, n int) (*testVideos, []Video) {
	t.Helper()
	v := &testVideos{dir: t.TempDir(), clips: map[string]*video.Clip{}, fail: map[string]error{}}
	var videos []Video
	for g := range n {
		group := string(rune('a' + g))
		for _, name := range []string{"0", "1", "2", "3"} {
			grey := uint8(60)
			if name == "1" || name == "3" {
				grey = 160
			}
			clip := solidClip(14, 16, grey)
			label := 1
			if name >= "2" {
				patch(clip, 8, 4, grey+60)
				label = 0
			}
			path := filepath.Join(v.dir, group+name)
			if err := os.WriteFile(path, []byte(path), 0o644); err != nil {
				t.Fatal(err)
			}
			v.clips[group+name] = clip
			videos = append(videos, Video{Path: path, Label: label, Group: group, Property: "colour"})
		}
	}
	return v, videos
}

func testConfig(v *testVideos, videos []Video) (Config, *changeDetector) {
	d := &changeDetector{size: 16, patch: 4, tubelet: 2, window: 8}
	return Config{Videos: videos, Spec: Spec{Window: 8, TopTokens: 1}, Size: 16, Patch: 4, Tubelet: 2,
		Predictor: d, Model: compare.Model{Name: "change"}, Decoder: "test", Batch: 3, Read: v.read}, d
}

func TestScore(t *testing.T) {
	v, videos := quadruplets(t, 12)
	c, d := testConfig(v, videos)
	constant := &changeDetector{size: 16, patch: 4, tubelet: 2, window: 8, spoil: func(w []WindowErrors) {
		for i := range w {
			for j := range w[i][0].Errors {
				w[i][0].Errors[j] = 1
			}
		}
	}}
	c.Twin = constant
	c.Precision = "bf16"
	var progress []Progress
	c.Progress = func(p Progress) { progress = append(progress, p) }
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Videos) != 48 || len(f.Skipped) != 0 {
		t.Fatalf("%d videos scored, %v skipped", len(f.Videos), f.Skipped)
	}
	// 14 frames, window 8, stride 2: 4 windows, 16 in a group, in batches of 3.
	if !reflect.DeepEqual(d.calls[:7], []int{3, 3, 3, 3, 3, 1, 3}) {
		t.Errorf("batches %v, want full ones and the rest for each group", d.calls[:7])
	}
	if last := progress[len(progress)-1]; len(progress) != 48 || last.Done != 48 || last.Total != 48 {
		t.Errorf("%d reports of progress, the last %+v", len(progress), last)
	}
	// Each possible video is matched with the impossible one of its own grey.
	for i, want := range []string{"1", "2", "1", "2"} {
		if f.Videos[i].Pair != want {
			t.Errorf("%s is of pair %q, want %q", f.Videos[i].Path, f.Videos[i].Pair, want)
		}
	}
	impossible := f.Sets[0].Scores[2]
	if want := []float64{0.2, 0.4, 0.6000000000000001, 0.8, 1, 1.2}; !closeTo(f.Videos[2].TubeletStart, want) {
		t.Errorf("tubelets from %v s, want %v", f.Videos[2].TubeletStart, want)
	}
	for i, x := range impossible.Curve {
		if (x > 0) != (f.Videos[2].TubeletStart[i] == 0.8) {
			t.Errorf("surprise %g at %g s; the event is at 0.8 s", x, f.Videos[2].TubeletStart[i])
		}
	}
	if !closeTo(f.Videos[2].WindowStart, []float64{0, 0.2, 0.4, 0.6}) {
		t.Errorf("windows from %v s", f.Videos[2].WindowStart)
	}
	table, err := compare.Summarize(f, compare.Options{Resamples: 500})
	if err != nil {
		t.Fatal(err)
	}
	all, _ := table.Row(compare.All)
	if all.Pairs != 24 || all.Cells[0].Accuracy.Value != 1 || all.Cells[1].Accuracy.Value != 0 {
		t.Errorf("accuracy of the change detector %+v, of constant errors (ties are wrong) %+v", all.Cells[0].Accuracy, all.Cells[1].Accuracy)
	}
	var written bytes.Buffer
	if err := f.Encode(&written); err != nil {
		t.Fatal(err)
	}
	back, err := compare.Decode(&written)
	if err != nil {
		t.Fatal(err)
	}
	if back.Precision != "bf16" {
		t.Errorf("the file says precision %q, want bf16", back.Precision)
	}
	if err := compare.Like(f, back); err != nil {
		t.Errorf("the file is unlike itself: %v", err)
	}
}

func closeTo(got, want []float64) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if math.Abs(got[i]-want[i]) > 1e-9 {
			return false
		}
	}
	return true
}

// Scores do not depend on how windows are batched.
func TestScoreBatchSize(t *testing.T) {
	v, videos := quadruplets(t, 2)
	var files []*compare.File
	for _, batch := range []int{1, 2, 100} {
		c, _ := testConfig(v, videos)
		c.Batch = batch
		f, err := Score(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if !reflect.DeepEqual(files[0], files[1]) || !reflect.DeepEqual(files[0], files[2]) {
		t.Error("scores change with the batch size")
	}
}

func TestScoreSkipsByName(t *testing.T) {
	v, videos := quadruplets(t, 5)
	v.fail["a2"] = &video.FileError{Path: "a2", Reason: "no video stream"}
	v.clips["b0"] = solidClip(7, 16, 9)
	v.clips["c3"].More = true
	if err := os.Remove(videos[12].Path); err != nil { // d0
		t.Fatal(err)
	}
	c, _ := testConfig(v, videos)
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Videos) != 4 || f.Videos[0].Group != "e" {
		t.Errorf("scored %+v, want group e alone", f.Videos)
	}
	reasons := map[string]string{}
	for _, s := range f.Skipped {
		reasons[filepath.Base(s.Path)] = s.Reason
	}
	for name, want := range map[string]string{
		"a2": "no video stream", "a0": `its group "a" is incomplete without ` + videos[2].Path,
		"b0": "7 frames after sampling, a window has 8", "c3": "longer than 1024 frames", "d0": "no such file",
		"d3": "incomplete without",
	} {
		if !strings.Contains(reasons[name], want) {
			t.Errorf("%s was skipped because %q, want %q", name, reasons[name], want)
		}
	}
	if len(f.Skipped) != 16 {
		t.Errorf("%d videos skipped, want 16", len(f.Skipped))
	}

	v.fail["e0"] = &video.FileError{Path: "e0", Reason: "cut off"}
	if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no group is left of 5") {
		t.Errorf("nothing left: %v", err)
	}
}

func TestScoreFails(t *testing.T) {
	v, videos := quadruplets(t, 2)
	for want, change := range map[string]func(*Config, *changeDetector){
		"spec.window: 0":                               func(c *Config, _ *changeDetector) { c.Spec.Window = 0 },
		"spec.window: 7 frames":                        func(c *Config, _ *changeDetector) { c.Spec.Window = 7 },
		"spec.contexts: 3 frames":                      func(c *Config, _ *changeDetector) { c.Spec.Contexts = []int{3} },
		"size: 18 pixels":                              func(c *Config, _ *changeDetector) { c.Size = 18 },
		"predictor: none":                              func(c *Config, _ *changeDetector) { c.Predictor = nil },
		"decoder: empty":                               func(c *Config, _ *changeDetector) { c.Decoder = "" },
		"batch: 1000000000 windows":                    func(c *Config, _ *changeDetector) { c.Batch = 1e9 },
		"spec.stride: 9 frames, above the window of 8": func(c *Config, _ *changeDetector) { c.Spec.Stride = 9 },
		"max_frames: 6000000 of 16×16 pixels take more than 4 GiB": func(c *Config, _ *changeDetector) { c.MaxFrames = 6e6 },
		"max_frames: 3":                       func(c *Config, _ *changeDetector) { c.MaxFrames = 3 },
		"max_frames: 1024, below the 2000":    func(c *Config, _ *changeDetector) { c.Spec.MaxFrames = 2000 },
		`group "a": one video`:                func(c *Config, _ *changeDetector) { c.Videos = c.Videos[3:] },
		"decoder returned 14 frames of 16×16": func(c *Config, _ *changeDetector) { c.Size = 32 },
		"broken disk": func(c *Config, _ *changeDetector) {
			c.Read = func(context.Context, string, video.ReadOptions) (*video.Clip, error) {
				return nil, errors.New("broken disk")
			}
		},
		"a0: model: window at 0.000 s: context 0: error of token 16 is NaN": func(_ *Config, d *changeDetector) {
			d.spoil = func(w []WindowErrors) { w[0][0].Errors[0] = float32(math.NaN()) }
		},
		"untrained twin predicts other tubelets": func(c *Config, d *changeDetector) {
			c.Twin = &changeDetector{size: 16, patch: 4, tubelet: 2, window: 8, spoil: func(w []WindowErrors) {
				for i := range w {
					w[i][0].Tokens, w[i][0].Errors = w[i][0].Tokens[16:], w[i][0].Errors[16:]
				}
			}}
		},
	} {
		c, d := testConfig(v, videos)
		change(&c, d)
		if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// The event of the made videos is in frame 8 of 14.
func TestPairsThatNoWindowCovers(t *testing.T) {
	v, videos := quadruplets(t, 3)
	for stride, want := range map[int]int{2: 0, 5: 0, 7: 6, 8: 6} { // windows of 8 frames from 0 and from stride on, while whole
		c, _ := testConfig(v, videos)
		c.Spec.Stride = stride
		c.Notes = []string{"known before"}
		c.Controls = &Controls{Kinds: []string{Recolour}}
		f, err := Score(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		notes := []string{"known before"}
		if want > 0 {
			notes = append(notes, "6 of 6 pairs part in frames that no window covers: what happens there is not scored")
		}
		if f.UnseenPairs != want || !reflect.DeepEqual(f.Notes, notes) {
			t.Errorf("stride %d: %d pairs, notes %q; want %d", stride, f.UnseenPairs, f.Notes, want)
		}
		if c.Controls.File.UnseenPairs != 0 || c.Controls.File.Notes != nil {
			t.Errorf("stride %d: of the controls %d, %q", stride, c.Controls.File.UnseenPairs, c.Controls.File.Notes)
		}
	}
}

// What tells possible from impossible beside the event is named, and what was found of the files is kept.
func TestGroupsThatDifferInMore(t *testing.T) {
	v, videos := quadruplets(t, 5)
	for _, clip := range v.clips {
		clip.File = video.FileInfo{Codec: "h264", Width: 64, Height: 48, FPS: 30}
	}
	v.clips["a2"].File.FPS, v.clips["a3"].File.FPS = 15, 15
	v.clips["b1"].File.FPS, v.clips["b3"].File.FPS = 15.1, 15 // on both sides
	v.clips["c3"].File.Width = 80
	v.clips["d0"].File.FPS = 0 // not known
	for _, same := range []string{"e1", "e3"} {
		if err := os.WriteFile(filepath.Join(v.dir, same), []byte("the same"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := testConfig(v, videos)
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`in 1 of 5 groups, the first of them "a", possible and impossible videos have other frame rates`,
		`in 1 of 5 groups, the first of them "c", possible and impossible videos have other frame sizes`,
		`in 1 of 5 groups, the first of them "e", a possible and an impossible video are the same file`,
	}
	if !reflect.DeepEqual(f.Notes, want) {
		t.Errorf("notes %q, want %q", f.Notes, want)
	}
	if x := f.Videos[2]; x.FPS != 15 || x.Width != 64 || x.Height != 48 || x.Codec != "h264" {
		t.Errorf("kept of a file: %+v", x)
	}
	var written bytes.Buffer
	if err := f.Encode(&written); err != nil {
		t.Fatal(err)
	}
	if back, err := compare.Decode(&written); err != nil || !reflect.DeepEqual(back.Notes, want) || back.Videos[2].FPS != 15 {
		t.Errorf("read again: %v", err)
	}
}

func TestScoreStopsWhenCancelled(t *testing.T) {
	v, videos := quadruplets(t, 3)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the user")
	c, _ := testConfig(v, videos)
	c.Read = func(ctx context.Context, path string, o video.ReadOptions) (*video.Clip, error) {
		if strings.HasSuffix(path, "b1") {
			cancel(stop)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return v.read(ctx, path, o)
	}
	if _, err := Score(ctx, c); !errors.Is(err, stop) {
		t.Errorf("cancelled run returned %v, want the cause", err)
	}
}

// A disk that cannot be read ends the run: it is no reason to leave a video out.
func TestReadTellsTheMachineFromTheFile(t *testing.T) {
	c := &Config{Local: onlyFiles}
	if d, err := read(t.Context(), c, "/proc/self/mem", 0); !errors.Is(err, syscall.EIO) || d.skip != "" { // it is read from address 0
		t.Errorf("skipped because %q, error %v; want an input/output error", d.skip, err)
	}
	if d, err := read(t.Context(), c, filepath.Join(t.TempDir(), "none.mp4"), 0); err != nil || d.skip == "" {
		t.Errorf("a file that is missing: skipped because %q, error %v", d.skip, err)
	}
}
