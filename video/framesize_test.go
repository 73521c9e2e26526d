package video

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// OpenCV itself does not notice: see checkFrameSizes. Files are joined by ffmpeg, packet by packet.
func TestFrameSizeChanges(t *testing.T) {
	for _, c := range []struct {
		extension string
		args      []string
		raw       string // format in which streams can be joined as bytes; "": ffmpeg joins the files
	}{
		{"mp4", []string{"-c:v", "libx264", "-pix_fmt", "yuv420p"}, ""},
		{"mkv", []string{"-c:v", "libx264", "-profile:v", "high", "-pix_fmt", "yuv420p"}, ""},
		{"webm", []string{"-c:v", "libvpx"}, ""},
		{"mkv", []string{"-c:v", "libvpx-vp9"}, ""},
		{"mpg", []string{"-c:v", "mpeg2video"}, ""},
		{"mp4", []string{"-c:v", "libx265", "-x265-params", "log-level=none:bframes=0", "-pix_fmt", "yuv420p"}, "hevc"},
		{"mkv", []string{"-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p"}, "obu"},
		{"avi", []string{"-c:v", "mjpeg", "-pix_fmt", "yuvj420p"}, "mjpeg"},
		{"mov", []string{"-c:v", "mjpeg", "-pix_fmt", "yuvj420p"}, "mjpeg"},
		{"avi", []string{"-c:v", "mpeg4"}, "m4v"},
		{"mp4", []string{"-c:v", "mpeg4"}, "m4v"},
		{"mkv", []string{"-c:v", "png"}, ""},
		{"mov", []string{"-c:v", "prores"}, ""},
		{"mkv", []string{"-c:v", "jpeg2000"}, ""},
		{"mov", []string{"-c:v", "h263", "-s", "SIZE"}, "h263"},
	} {
		t.Run(c.args[1]+"."+c.extension, func(t *testing.T) {
			sizes := [2][2]int{{162, 120}, {82, 60}}
			if c.raw == "h263" {
				sizes = [2][2]int{{176, 144}, {128, 96}}
			}
			extension := c.extension
			if c.raw != "" {
				extension = c.raw
			}
			var files [2]string
			for i, s := range sizes {
				args := slices.Clone(c.args)
				if j := slices.Index(args, "SIZE"); j >= 0 {
					args[j] = fmt.Sprintf("%dx%d", s[0], s[1])
				}
				if c.raw != "" {
					args = append(args, "-f", c.raw)
				}
				files[i] = pattern(t, fmt.Sprintf("%d.%s", s[0], extension), s[0], s[1], 15, 6, args...)
			}
			join := func(first, second string) string {
				if c.raw == "" {
					list := write(t, filepath.Join(t.TempDir(), "list"), fmt.Sprintf("file '%s'\nfile '%s'\n", first, second))
					return encode(t, "joined."+c.extension, "-f", "concat", "-safe", "0", "-i", list, "-c", "copy")
				}
				both := filepath.Join(t.TempDir(), "both")
				for _, from := range []string{first, second} {
					stream, err := os.ReadFile(from)
					if err != nil {
						t.Fatal(err)
					}
					f, err := os.OpenFile(both, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := f.Write(stream); err != nil {
						t.Fatal(err)
					}
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
				}
				return encode(t, "joined."+c.extension, "-f", c.raw, "-r", "15", "-i", both, "-c", "copy")
			}
			for _, order := range [][2]int{{0, 1}, {1, 0}} {
				a, b := sizes[order[0]], sizes[order[1]]
				want := fmt.Sprintf("frame size changes: %dx%d for 6 frames, then %dx%d", a[0], a[1], b[0], b[1])
				v := decoders.Inspect(t.Context(), join(files[order[0]], files[order[1]]))
				if v.Usable || v.Reason != want || v.Kind != SizeChanges || v.Width != a[0] || v.Height != a[1] || v.Frames != 6 {
					t.Errorf("%+v, want %q", v, want)
				}
			}
			if v := decoders.Inspect(t.Context(), join(files[0], files[0])); !v.Usable || v.Frames != 12 || v.Width != sizes[0][0] {
				t.Errorf("one size: %+v", v)
			}
		})
	}
}

// MPEG-2 in an MP4 file goes by MPEG-4's name, and slices of frames above 512 pixels by the codes of its headers.
func TestTallMPEG2InMP4(t *testing.T) {
	path := pattern(t, "tall.mp4", 64, 1024, 25, 12, "-c:v", "mpeg2video")
	if v := decoders.Inspect(t.Context(), path); !v.Usable || v.Frames != 12 || v.Height != 1024 {
		t.Errorf("%+v", v)
	}
}
