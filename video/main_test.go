package video

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// decoders serve all tests that need no others.
var decoders *Pool

func TestMain(m *testing.M) {
	ServeIfAsked()
	fakeIfAsked()
	decoders = NewPool(PoolOptions{})
	dir, err := os.MkdirTemp("", "video-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	made.dir = dir
	code := m.Run()
	decoders.Close()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// made holds the files that tests share, each made once by ffmpeg.
var made struct {
	sync.Mutex
	dir   string
	files map[string]string
}

// encode makes a file with ffmpeg from arguments that stand before the file's name; -bitexact keeps it the same.
func encode(t testing.TB, name string, args ...string) string {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	key := name + "\x00" + strings.Join(args, "\x00")
	if path, ok := made.files[key]; ok {
		return path
	}
	dir, err := os.MkdirTemp(made.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	full := append([]string{"-v", "error", "-nostdin", "-y"}, args...)
	command := exec.CommandContext(t.Context(), "ffmpeg", append(full, "-bitexact", path)...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("ffmpeg %v: %v\n%s", args, err, stderr.String())
	}
	if made.files == nil {
		made.files = map[string]string{}
	}
	made.files[key] = path
	return path
}

// pattern makes a moving test picture of so many frames.
func pattern(t testing.TB, name string, width, height, fps, frames int, more ...string) string {
	t.Helper()
	args := []string{"-f", "lavfi", "-i", fmt.Sprintf("testsrc=size=%dx%d:rate=%d", width, height, fps), "-frames:v", fmt.Sprint(frames)}
	return encode(t, name, append(args, more...)...)
}

// ffmpegFrames decodes a file with the ffmpeg program: an implementation of decoding that is not ours.
func ffmpegFrames(t testing.TB, path string) []byte {
	t.Helper()
	command := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-nostdin", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "passthrough", "-sws_flags", "bicubic", "-")
	out, err := command.Output()
	if err != nil {
		t.Fatalf("ffmpeg -i %s: %v", path, err)
	}
	return out
}

// write makes a file of the given content.
func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// copyFile puts a copy of a file, or of its first n bytes if n > 0, elsewhere.
func copyFile(t testing.TB, from, to string, n int) string {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		content = content[:n]
	}
	return write(t, to, string(content))
}

func mustOpen(t testing.TB, spec Spec) *Dataset {
	t.Helper()
	d, err := OpenDataset(context.Background(), decoders, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
