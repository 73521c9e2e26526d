package video

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/surmise-ml/surmise/video/source"
)

// threeFiles is a folder of three small videos of different size and length.
func threeFiles(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for i, size := range []int{48, 64, 50} {
		made := pattern(t, fmt.Sprintf("%d.mp4", i), size, 40, 15, 20+10*i, "-c:v", "libx264", "-pix_fmt", "yuv420p")
		copyFile(t, made, filepath.Join(dir, filepath.Base(made)), 0)
	}
	return dir
}

// A clip is the same whoever asks, in whatever order, at whatever time, with frames in memory or decoded anew.
func TestSampleIsPure(t *testing.T) {
	dir := threeFiles(t)
	for _, by := range []Spec{{FrameStep: 2}, {FPS: 7.5}} {
		spec := Spec{Data: []string{dir}, Size: 24, Frames: 8, FrameStep: by.FrameStep, FPS: by.FPS, Flip: true}
		inMemory := mustOpen(t, spec)
		spec.CacheMiB = -1
		decoding := mustOpen(t, spec)
		const clips = 12
		want := make([][]float32, clips)
		infos := make([]SampleInfo, clips)
		for i := range want {
			want[i] = make([]float32, inMemory.ClipSize())
			var err error
			if infos[i], err = inMemory.Sample(context.Background(), 5, int64(i), want[i]); err != nil {
				t.Fatal(err)
			}
			if len(infos[i].Numbers) != 8 || !slices.IsSorted(infos[i].Numbers) {
				t.Errorf("frames %v", infos[i].Numbers)
			}
		}
		var group sync.WaitGroup
		for i := clips - 1; i >= 0; i-- {
			group.Go(func() {
				got := make([]float32, decoding.ClipSize())
				info, err := decoding.Sample(context.Background(), 5, int64(i), got)
				if err != nil {
					t.Error(err)
				}
				if fmt.Sprint(info) != fmt.Sprint(infos[i]) {
					t.Errorf("clip %d: %+v, was %+v", i, info, infos[i])
				}
				if !slices.Equal(got, want[i]) {
					t.Errorf("clip %d differs", i)
				}
			})
		}
		group.Wait()

		other := make([]float32, inMemory.ClipSize())
		if _, err := inMemory.Sample(context.Background(), 6, 0, other); err != nil {
			t.Fatal(err)
		}
		if slices.Equal(other, want[0]) {
			t.Error("another seed gives the same clip")
		}
	}
}

func TestEpochVisitsEveryFileOnce(t *testing.T) {
	d := mustOpen(t, Spec{Data: []string{threeFiles(t)}, Size: 8, Frames: 4})
	dst := make([]float32, d.ClipSize())
	orders := map[string]bool{}
	for epoch := range 20 {
		var paths []string
		for i := range d.Len() {
			info, err := d.Sample(context.Background(), 1, int64(epoch*d.Len()+i), dst)
			if err != nil {
				t.Fatal(err)
			}
			if info.Epoch != int64(epoch) {
				t.Errorf("epoch %d, want %d", info.Epoch, epoch)
			}
			paths = append(paths, filepath.Base(info.Path))
		}
		orders[strings.Join(paths, " ")] = true
		slices.Sort(paths)
		if got := strings.Join(paths, " "); got != "0.mp4 1.mp4 2.mp4" {
			t.Errorf("epoch %d visits %s", epoch, got)
		}
	}
	if len(orders) < 4 { // of 6; 20 draws miss three or more once in 10,000 seeds
		t.Errorf("20 epochs in %d orders", len(orders))
	}
}

// The whole way of one clip, against the definition: ffmpeg's frames, cropped, resized and normalised plainly.
func TestSampleAgainstDefinition(t *testing.T) {
	path := pattern(t, "lossless.mkv", 61, 37, 15, 12, "-c:v", "ffv1", "-pix_fmt", "bgr0")
	d := mustOpen(t, Spec{Data: []string{path}, Size: 16, Frames: 4, FrameStep: 3, Flip: true, CacheMiB: -1, ShortSide: -1})
	frames := ffmpegFrames(t, path)
	mean, std := []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	flips := map[bool]bool{}
	for index := range int64(6) {
		dst := make([]float32, d.ClipSize())
		info, err := d.Sample(context.Background(), 3, index, dst)
		if err != nil {
			t.Fatal(err)
		}
		flips[info.Flip] = true
		for c := range 3 {
			for k, number := range info.Numbers {
				pix := frames[number*61*37*3 : (number+1)*61*37*3]
				for y := range 16 {
					for x := range 16 {
						want := (plainResize(pix, 61, info.Crop, 16, info.Flip, y, x, c)/255 - mean[c]) / std[c]
						if got := float64(dst[((c*4+k)*16+y)*16+x]); math.Abs(got-want) > 0.02 { // one of 255
							t.Fatalf("clip %d c %d t %d y %d x %d: %g, want %g", index, c, k, y, x, got, want)
						}
					}
				}
			}
		}
	}
	if len(flips) != 2 {
		t.Errorf("flips in six clips: %v", flips)
	}
}

func TestUnusableFiles(t *testing.T) {
	dir := threeFiles(t)
	bad := write(t, filepath.Join(dir, "zz.mp4"), "hello world")
	spec := Spec{Data: []string{dir}, Size: 8, Frames: 4, MaxUnusable: 0.25}
	calls := 0
	d, err := OpenDataset(context.Background(), decoders, spec, func(done, total int) {
		if calls++; done != calls || total != 4 {
			t.Errorf("progress %d of %d at call %d", done, total, calls)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.Len() != 3 || len(d.Verdicts()) != 4 {
		t.Errorf("%d usable of %d, want 3 of 4", d.Len(), len(d.Verdicts()))
	}
	if v := d.Verdicts()[3]; v.Path != bad || v.Usable || v.Reason == "" {
		t.Errorf("verdict %+v", v)
	}
	for _, share := range []float64{0, 0.24, -1} { // 0 is the default, 0.2
		spec.MaxUnusable = share
		_, err = OpenDataset(context.Background(), decoders, spec, nil)
		var unusable *UnusableError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "not an MP4") {
			t.Errorf("max_unusable %g: %v; want it to name %s and why", share, err, bad)
		}
	}
}

func TestClipLongerThanVideo(t *testing.T) {
	path := pattern(t, "short.mp4", 48, 40, 15, 30, "-c:v", "libx264")
	open := func(s Spec) error {
		s.Data, s.Size = []string{path}, 8
		_, err := OpenDataset(context.Background(), decoders, s, nil)
		return err
	}
	for _, c := range []struct {
		spec Spec
		want string
	}{
		{Spec{Frames: 16, FrameStep: 4}, "16 frames at step 4 span 61 frames, the file has 30"},
		{Spec{Frames: 16, FrameStep: 2}, "16 frames at step 2 span 31 frames, the file has 30"},
		{Spec{Frames: 16, FPS: 5}, "16 frames at 5 fps span 3 s"},
		{Spec{Frames: 16, FPS: 30}, "too slow: 15 fps measured"},
		{Spec{Frames: 30}, ""},
		{Spec{Frames: 15, FrameStep: 2}, ""},
		{Spec{Frames: 30, FPS: 15}, ""},
		{Spec{Frames: 10, FPS: 5}, ""},
	} {
		err := open(c.spec)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%+v: %v, want %q", c.spec, err, c.want)
		}
	}
}

func TestSpecFields(t *testing.T) {
	good := Spec{Data: []string{"x"}, Size: 64, Frames: 16}
	if err := good.WithDefaults().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Spec){
		"data":            func(s *Spec) { s.Data = nil },
		"size":            func(s *Spec) { s.Size = 0 },
		"frames":          func(s *Spec) { s.Frames = maxFrames + 1 },
		"frame_step":      func(s *Spec) { s.FrameStep = -1 },
		"fps":             func(s *Spec) { s.FPS = math.NaN() },
		"scale_min":       func(s *Spec) { s.ScaleMin = 1.5 },
		"scale_max":       func(s *Spec) { s.ScaleMax = 0.1 },
		"aspect_min":      func(s *Spec) { s.AspectMin = -1 },
		"aspect_max":      func(s *Spec) { s.AspectMax = math.Inf(1) },
		"brightness":      func(s *Spec) { s.Brightness = -1 },
		"contrast":        func(s *Spec) { s.Contrast = 11 },
		"saturation":      func(s *Spec) { s.Saturation = math.NaN() },
		"hue":             func(s *Spec) { s.Hue = 0.6 },
		"short_side":      func(s *Spec) { s.ShortSide = maxShortSide + 1 },
		"clips_per_video": func(s *Spec) { s.ClipsPerVideo = -1 },
		"windows":         func(s *Spec) { s.Windows = "some" },
		"weights":         func(s *Spec) { s.Weights = []float64{1, 2} },
		"weights[0]":      func(s *Spec) { s.Weights = []float64{-1} },
		"max_unusable":    func(s *Spec) { s.MaxUnusable = 1.1 },
		"cache_mib":       func(s *Spec) { s.CacheMiB = maxCacheMiB + 1 },
	} {
		s := good
		change(&s)
		if err := s.WithDefaults().Validate(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: error %v", field, err)
		}
	}
	good.FrameStep, good.FPS = 2, 3
	if err := good.WithDefaults().Validate(); err == nil || !strings.Contains(err.Error(), "both set") {
		t.Errorf("frame_step and fps: error %v", err)
	}
}

// A file that goes bad after it was inspected is an error with its name, in Sample and through a Feed, and
// is counted; no other clip takes its place.
func TestFileFailsLater(t *testing.T) {
	dir := threeFiles(t)
	d := mustOpen(t, Spec{Data: []string{dir}, Size: 8, Frames: 4, CacheMiB: -1})
	gone := filepath.Join(dir, "1.mp4")
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "2.mp4") // now smaller and shorter than it was
	copyFile(t, filepath.Join(dir, "0.mp4"), other, 0)
	dst := make([]float32, d.ClipSize())
	failed := map[string]string{}
	for i := range int64(3) {
		info, err := d.Sample(context.Background(), 1, i, dst)
		var bad *FileError
		if errors.As(err, &bad) && bad.Path == info.Path {
			failed[bad.Path] = bad.Reason
		} else if err != nil {
			t.Error(err)
		}
	}
	if len(failed) != 2 || !strings.Contains(failed[gone], "no such file") || !strings.Contains(failed[other], "changed since it was inspected") {
		t.Errorf("failed: %v", failed)
	}
	if len(d.failed) != 2 || !d.failed[gone] || !d.failed[other] {
		t.Errorf("remembered as failed: %v", d.failed)
	}
	feed, err := NewFeed(context.Background(), d, FeedOptions{Seed: 1, Batch: 3, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	for range 2 {
		var bad *FileError
		if _, _, err := feed.Next(context.Background()); !errors.As(err, &bad) {
			t.Errorf("feed: %v, want a *FileError", err)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := pattern(t, "small.mkv", 64, 48, 15, 30, "-c:v", "ffv1")
	for i := range 8 { // 276,480 bytes each, decoded
		copyFile(t, path, filepath.Join(dir, fmt.Sprintf("%d.mkv", i)), 0)
	}
	d := mustOpen(t, Spec{Data: []string{dir}, Size: 8, Frames: 4, ShortSide: -1, CacheMiB: 1})
	if kept := kept(d); kept != 0 { // 1/16 MiB is a file's share
		t.Errorf("%d bytes kept of files above their share", kept)
	}
	room := memory{perFile: 1 << 20}
	room.left.Store(600_000)
	var all []*keeper
	for range 3 {
		k := &keeper{room: &room}
		if _, _, err := decoders.examine(context.Background(), source.Item{Path: path}, defaultLimits, 0, k.keep); err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	if got := []int{len(all[0].all()), len(all[1].all()), len(all[2].all())}; !slices.Equal(got, []int{276480, 276480, 0}) {
		t.Errorf("kept %v", got)
	}
	if left := room.left.Load(); left != 600_000-2*276_480 {
		t.Errorf("%d bytes left", left)
	}
	all[0].drop()
	all[1].drop()
	if left := room.left.Load(); left != 600_000 {
		t.Errorf("%d bytes left after all were dropped", left)
	}
}

func kept(d *Dataset) int {
	total := 0
	for _, f := range d.files {
		total += len(f.pix)
	}
	return total
}
