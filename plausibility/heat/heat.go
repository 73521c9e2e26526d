// Package heat keeps the surprise of every token of every video: where in a frame, and
// when, a model was surprised.
//
//	heat.go     maps, and the file that they are kept in
//	colour.go   maps -> colours over frames
//
// Letters: M tubelets of a video, H and W the token grid of one.
package heat

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
)

// MaxValues bounds the surprises that Maps holds: 256 MiB of float32.
const MaxValues = 64 << 20

// Map is the surprise of one video's tokens to one model.
type Map struct {
	Tubelets, Height, Width int       // M, H, W
	Values                  []float32 // [M,H,W], along Video.TubeletStart; mean over windows and contexts
}

// Tubelet returns the values of one, [H,W].
func (m Map) Tubelet(i int) []float32 { return m.Values[i*m.Height*m.Width:][:m.Height*m.Width] }

// Range returns the smallest and the largest value.
func (m Map) Range() (low, high float32) { return slices.Min(m.Values), slices.Max(m.Values) }

// Maps holds the maps of a score file's videos, by set.
type Maps struct {
	bySet  map[string][]Map // in the order of the file's videos
	values int
	full   bool
}

// Add appends the maps of the next video, one per set. Once a video does not fit, it and
// all that follow are left out.
func (m *Maps) Add(sets map[string]Map) {
	size := 0
	for _, one := range sets {
		size += len(one.Values)
	}
	if m.full = m.full || m.values+size > MaxValues; m.full {
		return
	}
	m.values += size
	if m.bySet == nil {
		m.bySet = map[string][]Map{}
	}
	for name, one := range sets {
		m.bySet[name] = append(m.bySet[name], one)
	}
}

// Videos is how many videos it holds.
func (m *Maps) Videos() int { return len(m.bySet[compare.ModelSet]) }

// Of returns the map of a video of the score file to a set's model.
func (m *Maps) Of(set string, video int) (Map, bool) {
	if m == nil || video < 0 || video >= len(m.bySet[set]) {
		return Map{}, false
	}
	return m.bySet[set][video], true
}

const format = "surmise maps 1"

// Save writes the maps of f's videos to path, whole or not at all, and has f name them.
// It is a safetensors file with a tensor "SET/VIDEO" of [M,H,W] for each.
func (m *Maps) Save(path string, f *compare.File) error {
	var tensors []checkpoint.Tensor
	for set, videos := range m.bySet {
		for i, one := range videos {
			tensors = append(tensors, checkpoint.Tensor{Name: set + "/" + strconv.Itoa(i), Shape: []int{one.Tubelets, one.Height, one.Width}, Data: one.Values})
		}
	}
	digest, err := checkpoint.WriteSafetensors(path, tensors, map[string]string{"format": format, "data_sha256": f.Data})
	if err != nil {
		return fmt.Errorf("writing the maps of surprise: %w", err)
	}
	f.Maps = &compare.MapsFile{Name: filepath.Base(path), SHA256: digest.SHA256, Videos: m.Videos()}
	return nil
}

// Load reads the maps that a score file in folder names. A file that does not belong to
// it, by its digest or its shapes, is an error.
func Load(folder string, f *compare.File) (*Maps, error) {
	if f.Maps == nil {
		return nil, fmt.Errorf("maps of surprise: the score file has none; score with maps")
	}
	if f.Maps.Name != filepath.Base(f.Maps.Name) || strings.HasPrefix(f.Maps.Name, ".") {
		return nil, fmt.Errorf("maps of surprise: name %q, want a file beside the scores", f.Maps.Name)
	}
	path := filepath.Join(folder, f.Maps.Name)
	digest, err := sha256OfFile(path)
	if err != nil {
		return nil, fmt.Errorf("maps of surprise: %w", err)
	}
	if digest != f.Maps.SHA256 {
		return nil, fmt.Errorf("maps of surprise: %s has sha256 %s, the scores were saved with %s", path, digest, f.Maps.SHA256)
	}
	tensors, metadata, err := checkpoint.ReadSafetensors(path)
	if err != nil {
		return nil, fmt.Errorf("maps of surprise: %w", err)
	}
	if metadata["format"] != format || metadata["data_sha256"] != f.Data {
		return nil, fmt.Errorf("maps of surprise: %s is %q of data %s, want %q of %s", path, metadata["format"], metadata["data_sha256"], format, f.Data)
	}
	return fromTensors(tensors, f)
}

// fromTensors sorts tensors by set and video, and holds their shapes and values against f.
func fromTensors(tensors []checkpoint.Tensor, f *compare.File) (*Maps, error) {
	byName := map[string]checkpoint.Tensor{}
	for _, t := range tensors {
		byName[t.Name] = t
	}
	m := &Maps{bySet: map[string][]Map{}}
	for _, set := range f.Sets {
		for i := range f.Maps.Videos {
			name := set.Name + "/" + strconv.Itoa(i)
			t, ok := byName[name]
			if !ok {
				return nil, fmt.Errorf("maps of surprise: no tensor %q", name)
			}
			delete(byName, name)
			if len(t.Shape) != 3 || t.Shape[0] != len(f.Videos[i].TubeletStart) || t.Shape[1] < 1 || t.Shape[2] < 1 {
				return nil, fmt.Errorf("maps of surprise: tensor %q is %v, want %d tubelets of a grid", name, t.Shape, len(f.Videos[i].TubeletStart))
			}
			for _, x := range t.Data {
				if x64 := float64(x); math.IsNaN(x64) || math.IsInf(x64, 0) || x < 0 {
					return nil, fmt.Errorf("maps of surprise: tensor %q holds %g, want finite and not negative", name, x)
				}
			}
			m.bySet[set.Name] = append(m.bySet[set.Name], Map{t.Shape[0], t.Shape[1], t.Shape[2], t.Data})
		}
	}
	if len(byName) > 0 {
		return nil, fmt.Errorf("maps of surprise: tensor %q belongs to no video of the scores", slices.Min(slices.Collect(maps.Keys(byName))))
	}
	return m, nil
}
