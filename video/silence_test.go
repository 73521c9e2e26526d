package video

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// FFmpeg writes what it thinks of a damaged file past Go to the process's standard error, so a process of its own looks.
func TestFFmpegIsSilent(t *testing.T) {
	const variable = "SURMISE_TEST_INSPECT"
	if path := os.Getenv(variable); path != "" {
		decoders.Inspect(t.Context(), path)
		return
	}
	whole := encode(t, "whole.avi", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=25:duration=3", "-c:v", "mjpeg")
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(data) / 5; i < len(data)/4; i++ {
		data[i] ^= 0x55
	}
	damaged := filepath.Join(t.TempDir(), "damaged.avi")
	if err := os.WriteFile(damaged, data, 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFFmpegIsSilent$")
	child.Env = append(os.Environ(), variable+"="+damaged)
	var stderr bytes.Buffer
	child.Stderr = &stderr
	if out, err := child.Output(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v\n%s\nstandard error:\n%s", err, out, &stderr)
	}
}
