package exchange

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/model"
)

// TestMain serves as the child process of TestMemoryOfAnImport: it imports and prints the most memory it had, bytes.
func TestMain(m *testing.M) {
	from := os.Getenv("IMPORT_FROM")
	if from == "" {
		os.Exit(m.Run())
	}
	i, err := Open(from, Options{Heads: 8, PredHeads: 8, Frames: 4, Size: 32})
	if os.Getenv("IMPORT_HF") != "" {
		i, err = Open(from, Options{})
	}
	if err == nil {
		_, err = i.Write(from + ".imported")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(peak())
}

// peak is VmHWM: the most memory that the process had, of its own and mapped from files.
func peak() int64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// An import has one tensor in memory at a time, whatever the size of the model and the layout it comes from.
func TestMemoryOfAnImport(t *testing.T) {
	c := small()
	c.Dim, c.Heads, c.Depth, c.MLPRatio = 384, 8, 6, 4
	c.PredDim, c.PredHeads, c.PredMLPRatio = 48, 8, 0
	from := saved(t, c)
	for _, format := range []string{VJEPA, HF} {
		path := filepath.Join(t.TempDir(), "checkpoint")
		if _, err := Export(from, path, ExportOptions{Format: format, Which: map[string]string{HF: model.EncoderPrefix[:len(model.EncoderPrefix)-1]}[format]}); err != nil {
			t.Fatal(err)
		}
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), "IMPORT_FROM="+path)
		if format == HF {
			child.Env = append(child.Env, "IMPORT_HF=1")
		}
		child.Stderr = os.Stderr
		out, err := child.Output()
		if err != nil {
			t.Fatal(err)
		}
		taken, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + ".imported")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d MiB for a model of %d MiB", format, taken>>20, info.Size()>>20)
		if taken > info.Size()/2 { // a Go program by itself takes 15 MB
			t.Errorf("%s: the import took %d bytes, the model has %d", format, taken, info.Size())
		}
	}
}
