package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// state makes a small checkpoint whose every number follows from its step.
func state(step int) (Manifest, []Tensor, []Tensor) {
	numbers := func(n, of int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(of*1000 + i)
		}
		return v
	}
	m := Manifest{
		Step:         step,
		Config:       json.RawMessage(`{"model": {"dim": 4}, "steps": 100}`),
		Seed:         math.MaxUint64, // JSON must not round it
		Threads:      2,
		Precision:    "bf16",
		DataPosition: int64(step) * 16,
		Metrics:      map[string]float64{"loss": 0.5},
	}
	model := []Tensor{{"encoder.weight", []int{4, 3}, numbers(12, step)}, {"encoder.bias", []int{4}, numbers(4, -step)}}
	return m, model, []Tensor{{"m.encoder.weight", []int{4, 3}, numbers(12, 7*step)}}
}

func mustSave(t *testing.T, dir string, step int) string {
	t.Helper()
	m, model, optimizer := state(step)
	path, err := Save(dir, m, model, optimizer)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// check compares a loaded checkpoint with what state made.
func check(c *Checkpoint) error {
	m, model, optimizer := state(c.Manifest.Step)
	got := c.Manifest
	if !equal(c.Model, sorted(model)) || !equal(c.Optimizer, sorted(optimizer)) {
		return fmt.Errorf("step %d: the tensors are not those saved", m.Step)
	}
	if got.Seed != m.Seed || got.Threads != m.Threads || got.Precision != m.Precision || got.DataPosition != m.DataPosition || got.Metrics["loss"] != 0.5 {
		return fmt.Errorf("step %d: the manifest is %+v, saved was %+v", m.Step, got, m)
	}
	if want := `{"model":{"dim":4},"steps":100}`; string(got.Config) != want {
		return fmt.Errorf("step %d: config %s, want %s", m.Step, got.Config, want)
	}
	return nil
}

func TestSaveAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "run")
	path := mustSave(t, dir, 100)
	if want := filepath.Join(dir, "step-00000100"); path != want {
		t.Errorf("saved to %s, want %s", path, want)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(c); err != nil {
		t.Error(err)
	}
	if names := names(t, dir); !slices.Equal(names, []string{"step-00000100"}) {
		t.Errorf("the folder holds %v", names)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSaveOverAnExistingStep(t *testing.T) {
	dir := t.TempDir()
	path := mustSave(t, dir, 1)
	mustSave(t, dir, 1) // the same again is no error

	m, model, optimizer := state(1)
	model[0].Data[0]++
	if _, err := Save(dir, m, model, optimizer); err == nil || !strings.Contains(err.Error(), "other tensors") {
		t.Errorf("overwriting a whole checkpoint: error %v", err)
	}

	if err := os.Truncate(filepath.Join(path, modelFile), 10); err != nil {
		t.Fatal(err)
	}
	mustSave(t, dir, 1)
	if _, err := Load(path); err != nil {
		t.Errorf("a damaged checkpoint was not replaced: %v", err)
	}
	if names := names(t, dir); len(names) != 1 {
		t.Errorf("the folder holds %v", names)
	}
}

func TestSaveRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Manifest, []Tensor)
		want   string
	}{
		"no config":      {func(m *Manifest, _ []Tensor) { m.Config = nil }, "config"},
		"config no JSON": {func(m *Manifest, _ []Tensor) { m.Config = json.RawMessage("{") }, "config"},
		"config a list":  {func(m *Manifest, _ []Tensor) { m.Config = json.RawMessage(" [1]") }, "not a JSON object"},
		"negative step":  {func(m *Manifest, _ []Tensor) { m.Step = -1 }, "step"},
		"NaN metric":     {func(m *Manifest, _ []Tensor) { m.Metrics["loss"] = math.NaN() }, `metric "loss" is NaN`},
		"misshapen":      {func(_ *Manifest, model []Tensor) { model[0].Shape = []int{5} }, `"encoder.weight"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m, model, optimizer := state(1)
			c.change(&m, model)
			if _, err := Save(dir, m, model, optimizer); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			wantEmpty(t, dir)
		})
	}
}

// Every way of damaging a checkpoint is noticed, by an error that names the file.
func TestLoadNoticesDamage(t *testing.T) {
	edit := func(name, old, new string) func(string) error {
		return func(path string) error {
			path = filepath.Join(path, name)
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !bytes.Contains(text, []byte(old)) {
				return fmt.Errorf("%s does not contain %q", name, old)
			}
			return os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(new), 1), 0o600)
		}
	}
	flipLast := func(name string) func(string) error {
		return func(path string) error {
			path = filepath.Join(path, name)
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text[len(text)-1] ^= 1
			return os.WriteFile(path, text, 0o600)
		}
	}
	for name, c := range map[string]struct {
		damage func(path string) error
		want   string
	}{
		"weight bit":           {flipLast(modelFile), "model.safetensors is damaged"},
		"moment bit":           {flipLast(optimizerFile), "optimizer.safetensors is damaged"},
		"tensor renamed":       {edit(modelFile, "encoder.bias", "encoder.bios"), "model.safetensors is damaged"},
		"model cut":            {func(p string) error { return os.Truncate(filepath.Join(p, modelFile), 400) }, "model.safetensors"},
		"model missing":        {func(p string) error { return os.Remove(filepath.Join(p, modelFile)) }, "model.safetensors"},
		"optimizer missing":    {func(p string) error { return os.Remove(filepath.Join(p, optimizerFile)) }, "optimizer.safetensors"},
		"manifest missing":     {func(p string) error { return os.Remove(filepath.Join(p, manifestFile)) }, "manifest.json"},
		"manifest cut":         {func(p string) error { return os.Truncate(filepath.Join(p, manifestFile), 20) }, "manifest.json"},
		"other config":         {edit(manifestFile, `"dim": 4`, `"dim": 8`), `was written with config {"model":{"dim":4}`},
		"other step":           {edit(manifestFile, `"step": 5`, `"step": 6`), "is of step 5"},
		"unknown field":        {edit(manifestFile, `"seed"`, `"sead"`), "sead"},
		"later version":        {edit(manifestFile, `"version": 1`, `"version": 2`), "version 2"},
		"no digest":            {edit(manifestFile, `"optimizer.safetensors"`, `"../optimizer.safetensors"`), "no digest of optimizer.safetensors"},
		"text after manifest":  {edit(manifestFile, "\n}\n", "\n}\n{}"), "after the JSON object"},
		"model is a folder":    {func(p string) error { return replaceByFolder(filepath.Join(p, modelFile)) }, "not a regular file"},
		"manifest is a folder": {func(p string) error { return replaceByFolder(filepath.Join(p, manifestFile)) }, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			older := mustSave(t, dir, 4)
			path := mustSave(t, dir, 5)
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got error %v, want one with the path and %q", err, c.want)
			}
			if got, ok, err := Latest(dir); !ok || err != nil || got.Path != older {
				t.Errorf("the latest is %+v, %v, %v, want %s", got, ok, err, older)
			}
		})
	}
}

func replaceByFolder(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

func TestLatest(t *testing.T) {
	dir := t.TempDir()
	for _, missing := range []string{dir, filepath.Join(dir, "none")} {
		if c, ok, err := Latest(missing); c != nil || ok || err != nil {
			t.Errorf("without checkpoints: %+v, %v, %v", c, ok, err)
		}
	}
	for _, step := range []int{0, 90, 100, 123456789} {
		path := mustSave(t, dir, step)
		if got, ok, err := Latest(dir); !ok || err != nil || got.Path != path || got.Manifest.Step != step {
			t.Errorf("after step %d: %+v, %v, %v", step, got, ok, err)
		}
	}
	for _, stray := range []string{"step-1000000000x", "step-1", "step-00000200.bak", tempPrefix + "step-00000300"} {
		if err := os.Mkdir(filepath.Join(dir, stray), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := Latest(dir); err != nil || got.Manifest.Step != 123456789 {
		t.Errorf("with strays: %+v, %v", got, err)
	}
}

// A run whose checkpoints are all damaged must not start from step 0 over them as if nothing were wrong.
func TestLatestWithNothingWhole(t *testing.T) {
	dir := t.TempDir()
	for step := range 2 {
		if err := os.Remove(filepath.Join(mustSave(t, dir, step), modelFile)); err != nil {
			t.Fatal(err)
		}
	}
	_, ok, err := Latest(dir)
	if ok || err == nil || !strings.Contains(err.Error(), "step-00000000") || !strings.Contains(err.Error(), "step-00000001") {
		t.Errorf("got %v, %v, want an error naming both", ok, err)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for step := 1; step <= 6; step++ {
		mustSave(t, dir, step)
	}
	// Damaged ones do not count: two whole ones stay although step 5 is damaged.
	if err := os.Truncate(filepath.Join(dir, "step-00000005", modelFile), 3); err != nil {
		t.Fatal(err)
	}
	if err := Prune(dir, 2); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, dir), []string{"step-00000004", "step-00000005", "step-00000006"}; !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
	if err := Prune(dir, 0); err == nil {
		t.Error("pruning down to nothing is no error")
	}
	if err := Prune(filepath.Join(dir, "none"), 1); err != nil {
		t.Errorf("a folder that does not exist yet: %v", err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	leftover := filepath.Join(dir, tempPrefix+"step-00000007")
	for _, sweep := range []func(){
		func() {
			if err := Sweep(dir); err != nil {
				t.Error(err)
			}
		},
		func() { mustSave(t, dir, 7) },
	} {
		if err := os.Mkdir(leftover, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(leftover, modelFile), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		sweep()
		if _, err := os.Stat(leftover); !os.IsNotExist(err) {
			t.Errorf("the leftover is still there (%v)", err)
		}
	}
	if err := Sweep(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a folder that does not exist yet: %v", err)
	}
}

func TestLoadModel(t *testing.T) {
	dir := t.TempDir()
	path := mustSave(t, dir, 3)
	_, model, _ := state(3)
	alone := filepath.Join(dir, "model.safetensors")
	if err := os.Rename(filepath.Join(path, modelFile), alone); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(alone, filepath.Join(path, modelFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(path, optimizerFile)); err != nil { // scoring does not need it
		t.Fatal(err)
	}
	for _, path := range []string{path, alone} {
		m, err := LoadModel(path)
		if err != nil {
			t.Fatal(err)
		}
		if !equal(m.Tensors, sorted(model)) || string(m.Config) != `{"model":{"dim":4},"steps":100}` || m.Step != 3 || m.Digest.SHA256 == "" {
			t.Errorf("%s: read %v", path, m)
		}
	}

	foreign := filepath.Join(dir, "foreign.safetensors")
	if _, err := WriteSafetensors(foreign, model, nil); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(dir, "list.safetensors")
	if _, err := WriteSafetensors(whole, model, map[string]string{"surmise.config": "[]"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		foreign: "surmise.config", whole: "not a JSON object", dir: "name one of them",
		t.TempDir(): "manifest.json", filepath.Join(dir, "none"): "no such file",
	} {
		if _, err := LoadModel(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one with the path and %q", path, err, want)
		}
	}
}

func TestAssign(t *testing.T) {
	model := func() []Tensor {
		return []Tensor{{"w", []int{2}, make([]float32, 2)}, {"b", nil, make([]float32, 1)}}
	}
	w, b := Tensor{"w", []int{2}, []float32{1, 2}}, Tensor{"b", nil, []float32{3}}

	dst := model()
	if err := Assign(dst, []Tensor{b, w}); err != nil {
		t.Fatal(err)
	}
	if !equal(dst, []Tensor{w, b}) {
		t.Errorf("assigned %v", dst)
	}

	if err := Match([]Tensor{{Name: "w", Shape: []int{2}}, {Name: "b"}}, []Tensor{b, w}); err != nil {
		t.Errorf("shapes alone: %v", err)
	}
	if err := Assign([]Tensor{{Name: "w", Shape: []int{2}}, {Name: "b"}}, []Tensor{b, w}); err == nil || !strings.Contains(err.Error(), "room for 0") {
		t.Errorf("no room for the values: got %v", err)
	}

	many := []Tensor{w, b}
	for i := range 7 {
		many = append(many, Tensor{Name: fmt.Sprint("x", i), Data: []float32{1}})
	}
	for name, c := range map[string]struct {
		src  []Tensor
		want string
	}{
		"missing":  {[]Tensor{w}, `missing tensor "b"`},
		"extra":    {many, `no tensor "x0", "x1", "x2", "x3", "x4" and 2 more`},
		"shape":    {[]Tensor{{"w", []int{1, 2}, []float32{1, 2}}, b}, `"w": shape [1 2], the model needs [2]`},
		"repeated": {[]Tensor{w, b, w}, `"w": given twice`},
	} {
		t.Run(name, func(t *testing.T) {
			dst := model()
			if err := Assign(dst, c.src); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			if !equal(dst, model()) {
				t.Errorf("a refused assignment changed the model to %v", dst)
			}
		})
	}
}

// What another program wrote is no checkpoint, and there is a way to make it one.
func TestLoadModelOfOtherPrograms(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(t.TempDir(), "model.pth")
	if err := os.WriteFile(file, []byte("PK\x03\x04 and so on, which is no header"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, file} {
		if _, err := LoadModel(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "surmise import") {
			t.Errorf("got %v, want an error with %s and what imports it", err, path)
		}
	}
}
