package heat

import (
	"bytes"
	"fmt"
	"image/png"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
)

func made(n int) (*Maps, *compare.File) {
	m := &Maps{}
	f := &compare.File{Data: "digest", Sets: []compare.Set{{Name: compare.ModelSet}, {Name: compare.TwinSet}}}
	for i := range n {
		f.Videos = append(f.Videos, compare.Video{TubeletStart: []float64{0, 1}})
		one := Map{2, 1, 2, []float32{float32(i), 1, 2, 3}}
		m.Add(map[string]Map{compare.ModelSet: one, compare.TwinSet: one})
	}
	return m, f
}

func TestSaveAndLoad(t *testing.T) {
	m, f := made(3)
	path := filepath.Join(t.TempDir(), "scores.maps.safetensors")
	if err := m.Save(path, f); err != nil {
		t.Fatal(err)
	}
	if f.Maps.Name != "scores.maps.safetensors" || f.Maps.Videos != 3 || len(f.Maps.SHA256) != 64 {
		t.Errorf("the score file names %+v", f.Maps)
	}
	again, err := Load(filepath.Dir(path), f)
	if err != nil {
		t.Fatal(err)
	}
	one, ok := again.Of(compare.TwinSet, 2)
	if !ok || fmt.Sprint(one.Values) != "[2 1 2 3]" || fmt.Sprint(one.Tubelet(1)) != "[2 3]" {
		t.Errorf("got %v, %t", one, ok)
	}
	if _, ok := again.Of(compare.ModelSet, 3); ok {
		t.Error("a fourth video")
	}
	for want, spoil := range map[string]func(*compare.File){
		"has none":       func(f *compare.File) { f.Maps = nil },
		"sha256":         func(f *compare.File) { f.Maps.SHA256 = "0" },
		"beside":         func(f *compare.File) { f.Maps.Name = "../x" },
		"of data digest": func(f *compare.File) { f.Data = "other" },
		"want 1 tubelet": func(f *compare.File) { f.Videos[1].TubeletStart = []float64{0} },
		"no tensor":      func(f *compare.File) { f.Sets = append(f.Sets, compare.Set{Name: compare.CopySet}) },
		"no video":       func(f *compare.File) { f.Maps.Videos = 2 },
	} {
		_, f := made(3)
		if err := m.Save(path, f); err != nil {
			t.Fatal(err)
		}
		spoil(f)
		if _, err := Load(filepath.Dir(path), f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// A hostile file of the right digest still has to fit the scores.
func TestLoadRefusesValues(t *testing.T) {
	_, f := made(1)
	path := filepath.Join(t.TempDir(), "m")
	var tensors []checkpoint.Tensor
	for _, s := range f.Sets {
		tensors = append(tensors, checkpoint.Tensor{Name: s.Name + "/0", Shape: []int{2, 1, 1}, Data: []float32{1, -1}})
	}
	d, err := checkpoint.WriteSafetensors(path, tensors, map[string]string{"format": format, "data_sha256": f.Data})
	if err != nil {
		t.Fatal(err)
	}
	f.Maps = &compare.MapsFile{Name: "m", SHA256: d.SHA256, Videos: 1}
	if _, err := Load(filepath.Dir(path), f); err == nil || !strings.Contains(err.Error(), "not negative") {
		t.Errorf("a negative surprise: %v", err)
	}
}

// What does not fit is left out from there on, and the file says so.
func TestBound(t *testing.T) {
	m, f := made(2)
	m.values = MaxValues - 1
	m.Add(map[string]Map{compare.ModelSet: {1, 1, 2, []float32{1, 2}}})
	m.values = 0
	m.Add(map[string]Map{compare.ModelSet: {1, 1, 1, []float32{1}}}) // would fit, but its place is taken
	if m.Videos() != 2 {
		t.Errorf("%d videos, want 2", m.Videos())
	}
	f.Videos = append(f.Videos, compare.Video{}, compare.Video{})
	path := filepath.Join(t.TempDir(), "m")
	if err := m.Save(path, f); err != nil || f.Maps.Videos != 2 {
		t.Errorf("%v: %+v", err, f.Maps)
	}
	if _, err := Load(filepath.Dir(path), f); err != nil {
		t.Error(err)
	}
}

func TestColours(t *testing.T) {
	s := ScaleOf(Map{1, 1, 2, []float32{1, 5}}, Map{1, 1, 2, []float32{3, 0}})
	if s != (Scale{0, 5}) || s.At(-1) != 0 || s.At(9) != 1 || s.At(2.5) != 0.5 || (Scale{2, 2}).At(2) != 0 {
		t.Errorf("scale %v", s)
	}
	if Colour(0).A != 0 || Colour(1).A < Colour(0.5).A || Colour(1).G != 0 {
		t.Error("the largest surprise is not the strongest red")
	}
	data, err := s.PNG([]float32{0, 5, 0, 0, 0, 0}, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, cold := img.At(0, 0).RGBA()
	_, _, _, hot := img.At(1, 0).RGBA()
	if img.Bounds().Dx() != 3 || img.Bounds().Dy() != 2 || cold != 0 || hot == 0 {
		t.Errorf("%v, opacity %d and %d", img.Bounds(), cold, hot)
	}
	if _, err := s.PNG([]float32{1}, 2, 3); err == nil {
		t.Error("one value for a grid of six: no error")
	}
}
