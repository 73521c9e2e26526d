// Package checkpoint keeps the state of a training run on disk, as safetensors files and a manifest.
//
// A run's folder holds one folder per checkpoint:
//
//	step-00000100/
//	    model.safetensors      weights; its metadata repeats the config, so the file can travel alone
//	    optimizer.safetensors  moments and whatever else training needs to go on exactly
//	    manifest.json          config, step, seed, position, and the digest of each file
//
// A checkpoint is written to a temporary folder, synced, and renamed: it exists whole or not at all,
// after a kill, a power cut or a full disk. Load checks every digest. One process at a time may write
// to a run's folder; any number may read.
//
// The package knows nothing of models: tensors are names, shapes and numbers, the config is JSON.
package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/internal/durable"
)

const (
	manifestVersion  = 1
	maxManifestBytes = 16 << 20

	modelFile     = "model.safetensors"
	optimizerFile = "optimizer.safetensors"
	manifestFile  = "manifest.json"

	stepPrefix = "step-"
	tempPrefix = durable.Unfinished // of folders being written or removed

	configKey = "surmise.config"
	stepKey   = "surmise.step"
)

// Manifest describes a checkpoint.
type Manifest struct {
	Version      int                `json:"version"`             // of this layout; set by Save
	Step         int                `json:"step"`                // optimiser steps taken, from 0
	Config       json.RawMessage    `json:"config"`              // what the run was started with; a JSON object
	Seed         uint64             `json:"seed"`                // every random number of the run follows from it
	Threads      int                `json:"threads"`             // sums are bit-identical only with as many
	Precision    string             `json:"precision,omitempty"` // number format that it was trained in; "": fp32
	Dataset      Dataset            `json:"dataset,omitzero"`    // what the clips were cut from
	DataPosition int64              `json:"data_position"`       // training clips consumed so far
	Metrics      map[string]float64 `json:"metrics,omitempty"`   // of the last step; finite
	Files        map[string]Digest  `json:"files"`               // by file name; set by Save
}

// Dataset identifies the files that a run trains on. The same seed and position give the same clips only
// from the same files in the same order.
type Dataset struct {
	Files  int    `json:"files"`  // that could be used
	SHA256 string `json:"sha256"` // of name, frames, size and rate of each, in their order
	// Content is the SHA-256 of the fingerprints of what each holds, in their order; empty where that is not known.
	Content string `json:"content,omitempty"`
}

// Checkpoint is one checkpoint in memory.
type Checkpoint struct {
	Path      string
	Manifest  Manifest
	Model     []Tensor
	Optimizer []Tensor
}

// Save writes a checkpoint for m.Step below dir and returns its folder. Nothing is left behind on error.
// A damaged checkpoint of the same step is replaced. A whole one with the same tensors is kept as it is;
// one with other tensors is an error, because two runs are then writing to one folder.
func Save(dir string, m Manifest, model, optimizer []Tensor) (path string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save checkpoint of step %d: %w", m.Step, err)
		}
	}()
	if m.Config, err = checkManifest(m); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := durable.Sync(filepath.Dir(dir)); err != nil { // dir may be new
		return "", err
	}
	if err := Sweep(dir); err != nil {
		return "", err
	}
	final := filepath.Join(dir, stepName(m.Step))
	temp := filepath.Join(dir, tempPrefix+stepName(m.Step))
	if err := os.Mkdir(temp, 0o755); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()

	m.Version, m.Files = manifestVersion, map[string]Digest{}
	metadata := map[string]string{configKey: string(m.Config), stepKey: strconv.Itoa(m.Step)}
	if m.Files[modelFile], err = WriteSafetensors(filepath.Join(temp, modelFile), model, metadata); err != nil {
		return "", err
	}
	if m.Files[optimizerFile], err = WriteSafetensors(filepath.Join(temp, optimizerFile), optimizer, nil); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return "", err
	}
	if err := durable.WriteBytes(filepath.Join(temp, manifestFile), 0o644, append(text, '\n')); err != nil {
		return "", err
	}

	if _, err := os.Lstat(final); err == nil {
		if old, err := Load(final); err == nil {
			if !maps.Equal(old.Manifest.Files, m.Files) {
				return "", fmt.Errorf("%s exists and holds other tensors; is another run using this folder?", final)
			}
			return final, nil
		}
		if err := discard(final); err != nil {
			return "", err
		}
	}
	return final, durable.Rename(temp, final)
}

// Load reads the checkpoint in the folder path and checks it: digests, layout, and that the weights
// belong to the manifest. Errors name the file or tensor.
func Load(path string) (*Checkpoint, error) {
	m, model, err := loadModel(path)
	if err != nil {
		return nil, fmt.Errorf("load checkpoint %s: %w", path, err)
	}
	optimizer, err := readVerified(path, optimizerFile, m)
	if err != nil {
		return nil, fmt.Errorf("load checkpoint %s: %w", path, err)
	}
	return &Checkpoint{Path: path, Manifest: m, Model: model.floats, Optimizer: optimizer.floats}, nil
}

// Model is the weights of a trained model, without what only training needs.
type Model struct {
	Tensors []Tensor        // in a file that is mapped into memory, where the system can: not to be changed
	Config  json.RawMessage // of the run that made it, a JSON object
	Step    int             // optimiser steps behind it
	Digest  Digest          // of the weights' file
	file    *File
}

// Close ends the use of the model's tensors.
func (m *Model) Close() error { return m.file.Close() }

// Release lets the system take back the memory of tensors that were read; what is used again is read again.
func (m *Model) Release() { m.file.Release() }

// foreign is what to do with what is no checkpoint.
const foreign = "surmise import makes one of a checkpoint of another program"

// LoadModel opens a model. path is the folder of a checkpoint, or a single .safetensors file whose
// metadata holds the config under "surmise.config" and may hold the step under "surmise.step". It must be closed.
func LoadModel(path string) (_ *Model, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("load model %s: %w", path, err)
		}
	}()
	name := path
	var manifest Manifest
	if info.IsDir() {
		if manifest, err = readManifest(path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w; %s", err, foreign)
			}
			return nil, err
		}
		name = filepath.Join(path, modelFile)
	}
	f, err := Open(name)
	if err != nil {
		if !info.IsDir() {
			err = fmt.Errorf("%w; %s", err, foreign)
		}
		return nil, err
	}
	m := &Model{file: f}
	if info.IsDir() {
		err = m.belongsTo(manifest)
	} else {
		err = m.standsAlone()
	}
	if err == nil {
		err = m.tensors()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// belongsTo takes config and step from a checkpoint's manifest, and holds the file against it.
func (m *Model) belongsTo(manifest Manifest) (err error) {
	want, ok := manifest.Files[modelFile]
	if !ok {
		return fmt.Errorf("%s has no digest of %s", manifestFile, modelFile)
	}
	if m.Digest, err = m.file.Digest(); err != nil {
		return err
	}
	if m.Digest != want {
		return damaged(modelFile, m.Digest, want)
	}
	m.Config, m.Step = manifest.Config, manifest.Step
	return sameRun(m.file.Metadata, manifest)
}

// standsAlone takes config and step from the file's own metadata.
func (m *Model) standsAlone() (err error) {
	text, ok := m.file.Metadata[configKey]
	if !ok {
		return fmt.Errorf("no %q in its metadata, so its shape is unknown; was it written by Surmise? (surmise import reads checkpoints of other programs)", configKey)
	}
	if m.Config, err = compactObject([]byte(text)); err != nil {
		return fmt.Errorf("metadata %q: %w", configKey, err)
	}
	if text, ok := m.file.Metadata[stepKey]; ok {
		if m.Step, err = strconv.Atoi(text); err != nil || m.Step < 0 {
			return fmt.Errorf("metadata %q is %q, want a number of steps", stepKey, clip(text))
		}
	}
	m.Digest, err = m.file.Digest()
	return err
}

func (m *Model) tensors() error {
	for _, t := range m.file.Tensors {
		if t.DType != dtypeF32 {
			return fmt.Errorf("tensor %q: numbers of type %s in a file of weights, want %s", clip(t.Name), t.DType, dtypeF32)
		}
		values, err := m.file.Values(t.Name)
		if err != nil {
			return err
		}
		m.Tensors = append(m.Tensors, Tensor{t.Name, t.Shape, values})
	}
	return nil
}

// Latest loads the newest whole checkpoint in dir. Damaged ones are passed over with a warning in the log. ok is false
// when dir is missing or has no checkpoint. When there are checkpoints and none is whole it returns an error that names
// each fault: to start afresh is for a person to decide.
func Latest(dir string) (_ *Checkpoint, ok bool, err error) {
	paths, err := list(dir)
	if err != nil {
		return nil, false, fmt.Errorf("find the latest checkpoint: %w", err)
	}
	var faults []error
	for _, path := range paths {
		c, err := Load(path)
		if err == nil {
			return c, true, nil
		}
		slog.Warn("damaged checkpoint passed over", "path", path, "error", err)
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return nil, false, fmt.Errorf("no checkpoint in %s is whole: %w", dir, errors.Join(faults...))
	}
	return nil, false, nil
}

// LatestManifest is that of the newest checkpoint in dir whose manifest can be read, with the checkpoint's path; ok is false
// where there is none. The checkpoint itself may be damaged.
func LatestManifest(dir string) (m Manifest, path string, ok bool) {
	paths, err := list(dir)
	if err != nil {
		return Manifest{}, "", false
	}
	for _, path := range paths {
		if m, err := readManifest(path); err == nil {
			return m, path, true
		}
	}
	return Manifest{}, "", false
}

// Prune removes the checkpoints in dir that are older than the newest keep whole ones. Whole means here
// that all files are present and as long as the manifest says; digests are left to Load.
func Prune(dir string, keep int) error {
	if keep < 1 {
		return fmt.Errorf("prune checkpoints in %s: keep is %d, at least 1 must stay", dir, keep)
	}
	paths, err := list(dir)
	if err != nil {
		return fmt.Errorf("prune checkpoints: %w", err)
	}
	for _, path := range paths {
		switch {
		case keep == 0:
			if err := discard(path); err != nil {
				return fmt.Errorf("prune checkpoints: %w", err)
			}
		case looksWhole(path):
			keep--
		}
	}
	return nil
}

// Sweep removes what a killed process left unfinished in dir. Save does it too; call it when a run
// starts, so that a leftover does not wait on the disk for the first checkpoint.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("sweep unfinished checkpoints: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("sweep unfinished checkpoints: %w", err)
			}
		}
	}
	return nil
}

// Remove removes the checkpoint in the folder path.
func Remove(path string) error {
	if err := discard(filepath.Clean(path)); err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	return nil
}

// discard removes a checkpoint. It is renamed first: a kill half-way must not leave a damaged one.
func discard(path string) error {
	dir, name := filepath.Split(path)
	doomed := filepath.Join(dir, tempPrefix+"removed-"+name)
	if err := os.Rename(path, doomed); err != nil {
		return err
	}
	return os.RemoveAll(doomed)
}

// list returns the checkpoint folders in dir, newest first, whole or not.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var steps []int
	for _, e := range entries {
		step, err := strconv.Atoi(strings.TrimPrefix(e.Name(), stepPrefix))
		if err == nil && e.IsDir() && e.Name() == stepName(step) {
			steps = append(steps, step)
		}
	}
	slices.Sort(steps)
	slices.Reverse(steps)
	paths := make([]string, len(steps))
	for i, step := range steps {
		paths[i] = filepath.Join(dir, stepName(step))
	}
	return paths, nil
}

func stepName(step int) string { return fmt.Sprintf("%s%08d", stepPrefix, step) }

// checkManifest refuses what Save could not write or Load not read, and returns the config in compact form.
func checkManifest(m Manifest) (json.RawMessage, error) {
	if m.Step < 0 || m.DataPosition < 0 {
		return nil, fmt.Errorf("step %d and data position %d must not be below 0", m.Step, m.DataPosition)
	}
	for name, v := range m.Metrics {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("metric %q is %v", name, v)
		}
	}
	config, err := compactObject(m.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return config, nil
}

// compactObject checks that text is one JSON object and strips its white space, so that equal configs
// written differently compare equal.
func compactObject(text []byte) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, fmt.Errorf("not valid JSON: %w", err)
	}
	if b.Bytes()[0] != '{' {
		return nil, fmt.Errorf("not a JSON object: %s", clip(b.String()))
	}
	return b.Bytes(), nil
}

func readManifest(path string) (Manifest, error) {
	var m Manifest
	name := filepath.Join(path, manifestFile)
	f, size, err := openRegular(name)
	if errors.Is(err, os.ErrNotExist) {
		if inside, _ := list(path); len(inside) > 0 {
			return m, fmt.Errorf("this folder holds checkpoints; name one of them, such as %s", inside[0])
		}
	}
	if err != nil {
		return m, err
	}
	defer f.Close()
	if size > maxManifestBytes {
		return m, fmt.Errorf("%s: %d bytes are over the limit of %d", name, size, maxManifestBytes)
	}
	dec := json.NewDecoder(io.LimitReader(f, maxManifestBytes))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return m, fmt.Errorf("%s: %w", name, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return m, fmt.Errorf("%s: text after the JSON object", name)
	}
	if m.Version != manifestVersion {
		return m, fmt.Errorf("%s: version %d, this program reads version %d", name, m.Version, manifestVersion)
	}
	if m.Config, err = checkManifest(m); err != nil {
		return m, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// looksWhole is the cheap check: a readable manifest, and files as long as it says.
func looksWhole(path string) bool {
	m, err := readManifest(path)
	if err != nil {
		return false
	}
	for _, name := range []string{modelFile, optimizerFile} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil || info.Size() != m.Files[name].Bytes {
			return false
		}
	}
	return true
}

// loadModel reads manifest and weights of a checkpoint folder and checks that they belong together.
func loadModel(path string) (Manifest, *contents, error) {
	m, err := readManifest(path)
	if err != nil {
		return m, nil, err
	}
	c, err := readVerified(path, modelFile, m)
	if err != nil {
		return m, nil, err
	}
	return m, c, sameRun(c.metadata, m)
}

// sameRun tells whether a weights' file repeats the config and step of its manifest.
func sameRun(metadata map[string]string, m Manifest) error {
	if got, want := metadata[configKey], string(m.Config); got != want {
		return fmt.Errorf("%s was written with config %s, %s says %s", modelFile, clip(got), manifestFile, clip(want))
	}
	if got, want := metadata[stepKey], strconv.Itoa(m.Step); got != want {
		return fmt.Errorf("%s is of step %s, %s says %s", modelFile, clip(got), manifestFile, want)
	}
	return nil
}

func damaged(name string, got, want Digest) error {
	return fmt.Errorf("%s is damaged: %d bytes with sha256 %s, the manifest says %d and %s", name, got.Bytes, got.SHA256, want.Bytes, clip(want.SHA256))
}

// readVerified reads one of a checkpoint's files and holds it against the manifest's digest.
func readVerified(path, name string, m Manifest) (*contents, error) {
	want, ok := m.Files[name]
	if !ok {
		return nil, fmt.Errorf("%s has no digest of %s", manifestFile, name)
	}
	c, got, err := readSafetensors(filepath.Join(path, name))
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, damaged(name, got, want)
	}
	return c, onlyFloats(c)
}

func onlyFloats(c *contents) error {
	if len(c.ints) > 0 {
		return fmt.Errorf("tensor %q: int64 numbers in a file of weights", c.ints[0].Name)
	}
	return nil
}
