package checkpoint_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
)

// The file was written by the reference library from PyTorch, its manifest lists every tensor, and
// the rotation it records can be computed from its own inputs: so names, types, shapes and values are
// all checked against something this package did not write.
func TestGoldenReferenceFile(t *testing.T) {
	var manifest struct {
		Files []struct {
			Tensors map[string]struct {
				DType string
				Shape []int
			}
		}
	}
	golden.JSON(t, "rope.json", &manifest)
	path := golden.Path(t, "rope.safetensors")
	floats, metadata, err := checkpoint.ReadSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	ints, err := checkpoint.ReadSafetensorsInt64(path)
	if err != nil {
		t.Fatal(err)
	}
	if metadata["format"] != "pt" {
		t.Errorf("metadata is %v, want format pt", metadata)
	}
	want := manifest.Files[0].Tensors
	if len(floats)+len(ints) != len(want) {
		t.Errorf("read %d tensors, the manifest lists %d", len(floats)+len(ints), len(want))
	}
	byName := map[string][]float32{}
	for _, f := range floats {
		if w := want[f.Name]; w.DType != "F32" || !slices.Equal(w.Shape, f.Shape) {
			t.Errorf("%s: read as F32 %v, the manifest says %+v", f.Name, f.Shape, w)
		}
		byName[f.Name] = f.Data
	}
	var pos []int64 // position of each of the P rows of x and out
	for _, i := range ints {
		if w := want[i.Name]; w.DType != "I64" || !slices.Equal(w.Shape, i.Shape) {
			t.Errorf("%s: read as I64 %v, the manifest says %+v", i.Name, i.Shape, w)
		}
		if i.Name == "pos" {
			pos = i.Data
		}
	}
	for name, omega := range byName { // omega [K], x and out [1, 2, P, D], D = 2K
		size, ok := strings.CutPrefix(name, "omega.")
		if !ok {
			continue
		}
		K, D := len(omega), 2*len(omega)
		x, out := byName["x."+size], byName["out."+size]
		for i := range out {
			j := i % D
			r := float64(x[i^1]) // the other of the pair
			if j%2 == 0 {
				r = -r
			}
			sin, cos := math.Sincos(float64(pos[i/D%len(pos)]) * float64(omega[j%K]))
			if got := float64(x[i])*cos + r*sin; math.Abs(got-float64(out[i])) > 2e-5 {
				t.Fatalf("%s: element %d of out is %v, computed %v", size, i, out[i], got)
			}
		}
	}
}
