// Package golden gives tests the numeric reference data of the published code.
//
// The data lies in testdata/golden at the root of the module (see its README); the
// environment variable SURMISE_GOLDEN names another folder with the same files, whose
// shapes may differ: tests take every shape from the files.
package golden

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
)

// Path returns where the named file of the golden data is.
func Path(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SURMISE_GOLDEN")
	if dir == "" {
		dir = filepath.Join(moduleRoot(t), "testdata", "golden")
	}
	return filepath.Join(dir, name)
}

// moduleRoot is the nearest folder with a go.mod, from that of the test on, which is where go test runs it. The path of
// this source file would not do: builds with -trimpath do not know it.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("golden data: no go.mod above this test's folder")
		}
		dir = parent
	}
}

// JSON decodes a manifest into v.
func JSON(t testing.TB, name string, v any) {
	t.Helper()
	raw, err := os.ReadFile(Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// Tensor is one tensor of a golden file; exactly one of F32 and I64 is set.
type Tensor struct {
	Shape []int
	F32   []float32
	I64   []int64
}

// Tensors reads a .safetensors file by tensor name.
func Tensors(t testing.TB, name string) map[string]Tensor {
	t.Helper()
	out := map[string]Tensor{}
	ints, err := checkpoint.ReadSafetensorsInt64(Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range ints {
		out[x.Name] = Tensor{Shape: x.Shape, I64: x.Data}
	}
	floats, _, err := checkpoint.ReadSafetensors(Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range floats {
		out[x.Name] = Tensor{Shape: x.Shape, F32: x.Data}
	}
	return out
}
