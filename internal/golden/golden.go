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
	"runtime"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
)

// Path returns where the named file of the golden data is.
func Path(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SURMISE_GOLDEN")
	if dir == "" {
		_, file, _, ok := runtime.Caller(0)
		if !ok {
			t.Fatal("golden data: this file's path is not known")
		}
		dir = filepath.Join(filepath.Dir(file), "..", "..", "testdata", "golden")
	}
	return filepath.Join(dir, name)
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
