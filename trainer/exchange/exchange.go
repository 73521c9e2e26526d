// Package exchange takes models from files of other programs, and gives ours to them.
//
//	exchange.go   any file -> a model of ours, tensor by tensor, or an error that lists what does not fit
//	vjepa.go      checkpoints of facebookresearch/jepa and vjepa2: torch.save of state dicts, without a configuration
//	hf.go         folders of transformers' VJEPA2Model: config.json and safetensors
//	infer.go      shapes of tensors -> the configuration of a model
//	export.go     a model of ours -> either layout
//
// Every tensor of a source's networks is used, and every tensor of the model is given, or nothing is written. What a
// source does not say, and what was taken for it, is noted in the model that is written.
package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/model"
)

// Formats of files.
const (
	VJEPA   = "vjepa"   // torch.save of a dict with encoder, predictor and target_encoder
	HF      = "hf"      // a folder of transformers
	Surmise = "surmise" // ours: a checkpoint's folder, or a single .safetensors file
)

// Which encoders of a source become the model's encoder and target encoder.
const (
	Both          = "both"           // each from its own; one that is missing, from the other
	Encoder       = "encoder"        // both from the source's encoder
	TargetEncoder = "target_encoder" // both from the source's target encoder
)

// Options say what a source does not. The zero value of a field leaves it to the source, or to what is published.
type Options struct {
	Which     string // Both, Encoder or TargetEncoder; default Both
	Positions string // model.RoPE or model.RoPEInterleaved, which no tensor tells apart; default model.RoPE
	Heads     int    // of the encoder; default that of the published ViT with as many features
	PredHeads int    // of the predictor; default the published number
	Frames    int    // of a clip; position tables are resized to it
	Size      int    // of the frames, px; position tables are resized to it
}

// Provenance is what an imported model's config says of where it came from.
type Provenance struct {
	Format   string                       `json:"format"`
	From     string                       `json:"from"`     // name of the file or folder, without its path
	Files    map[string]checkpoint.Digest `json:"files"`    // that were read, by name
	Encoders string                       `json:"encoders"` // Both, or the one that stands for both
	Notes    []string                     `json:"notes,omitempty"`
	Config   json.RawMessage              `json:"config,omitempty"` // of a source of ours
}

// Training is what a source of ours says of its training, which scoring goes by; of another source it is zero.
type Training struct {
	Data Rate   `json:"data,omitzero"`
	Seed uint64 `json:"seed,omitempty"`
	Init struct {
		From   string `json:"from"`
		SHA256 string `json:"sha256"`
	} `json:"init,omitzero"` // the model whose weights it began with
}

// Rate is how clips were taken from videos: every FrameStep-th frame, or FPS frames a second; zero: not known.
type Rate struct {
	FrameStep int     `json:"frame_step,omitempty"`
	FPS       float64 `json:"fps,omitempty"`
}

func (r Rate) String() string {
	switch {
	case r == Rate{}:
		return "unknown"
	case r.FPS > 0:
		return fmt.Sprintf("%g frames a second", r.FPS)
	}
	return fmt.Sprintf("frame step %d", r.FrameStep)
}

// Import is a model of a source, before its numbers are read. It must be closed.
type Import struct {
	Config     model.Config
	Provenance Provenance
	Training   Training
	Step       int // optimiser steps behind it, where the source says so
	tensors    []checkpoint.Source
	close      func() error
}

// network is a source's tensors of one network, by our names without the network's prefix.
type network map[string]tensor

// tensor is one that can be read.
type tensor struct {
	shape []int
	read  func(dst []float32) error
}

// source is what a layout's reader finds.
type source struct {
	config   *model.Config      // nil: to be inferred
	networks map[string]network // by prefix
	Provenance
	Training
	step  int
	close func() error
}

func (s *source) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// Open finds out what a source is and holds its tensors against the model that they make.
func Open(path string, o Options) (_ *Import, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("import %s: %w", path, err)
		}
	}()
	if o.Which == "" {
		o.Which = Both
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	s, err := read(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.From = filepath.Base(filepath.Clean(path))
	if err := s.chooseEncoders(o.Which); err != nil {
		return nil, err
	}
	config, err := s.configure(o)
	if err != nil {
		return nil, err
	}
	if err := s.compare(config); err != nil {
		return nil, err
	}
	out := &Import{Training: s.Training, Step: s.step, close: s.close}
	if out.Config, err = s.resize(config, o); err != nil {
		return nil, err
	}
	out.tensors = s.sources(out.Config)
	out.Provenance = s.Provenance
	return out, nil
}

func (o Options) check() error {
	switch {
	case !slices.Contains([]string{Both, Encoder, TargetEncoder}, o.Which):
		return fmt.Errorf("which is %q, want %s, %s or %s", o.Which, Both, Encoder, TargetEncoder)
	case o.Positions != "" && o.Positions != model.RoPE && o.Positions != model.RoPEInterleaved:
		return fmt.Errorf("positions is %q, want %s or %s: tables are recognised by their numbers", o.Positions, model.RoPE, model.RoPEInterleaved)
	case o.Heads < 0 || o.PredHeads < 0 || o.Frames < 0 || o.Size < 0:
		return fmt.Errorf("heads %d, pred_heads %d, frames %d and size %d must not be below 0", o.Heads, o.PredHeads, o.Frames, o.Size)
	}
	return nil
}

// read opens a source by what it looks like.
func read(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	}
	switch {
	case info.IsDir() && has("manifest.json"):
		return readOurs(path)
	case info.IsDir() && has("config.json"):
		return readHF(path)
	case info.IsDir():
		return nil, errors.New("a folder without config.json (transformers) or manifest.json (a checkpoint of Surmise)")
	case strings.HasSuffix(path, ".safetensors"):
		return readOurs(path)
	}
	return readVJEPA(path)
}

// readOurs reads a model of ours, which already is what it should become.
func readOurs(path string) (*source, error) {
	m, err := checkpoint.LoadModel(path)
	if err != nil {
		return nil, err
	}
	var config struct {
		Model *model.Config `json:"model"`
		Training
	}
	err = json.Unmarshal(m.Config, &config)
	if err == nil && config.Model == nil {
		err = errors.New("no field model")
	}
	if err == nil {
		err = config.Model.Validate()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("its config: %w", err), m.Close())
	}
	s := &source{config: config.Model, networks: map[string]network{}, step: m.Step, close: m.Close, Training: config.Training,
		Provenance: Provenance{Format: Surmise, Files: map[string]checkpoint.Digest{filepath.Base(path): m.Digest}, Config: m.Config}}
	for _, t := range m.Tensors {
		prefix, name, ok := splitNetwork(t.Name)
		if !ok {
			return nil, errors.Join(fmt.Errorf("tensor %q is of no network", t.Name), m.Close())
		}
		s.add(prefix, name, tensor{t.Shape, func(dst []float32) error { copy(dst, t.Data); return nil }})
	}
	return s, nil
}

// prefixes of the networks.
var prefixes = []string{model.EncoderPrefix, model.PredictorPrefix, model.TargetPrefix}

func splitNetwork(full string) (prefix, name string, ok bool) {
	for _, p := range prefixes {
		if name, ok := strings.CutPrefix(full, p); ok {
			return p, name, true
		}
	}
	return "", "", false
}

func (s *source) add(prefix, name string, t tensor) {
	if s.networks[prefix] == nil {
		s.networks[prefix] = network{}
	}
	s.networks[prefix][name] = t
}

// chooseEncoders makes encoder and target encoder of what the source has.
func (s *source) chooseEncoders(which string) error {
	encoder, target := s.networks[model.EncoderPrefix], s.networks[model.TargetPrefix]
	s.Encoders = which
	if s.config != nil && s.config.OfPixels() { // ours, which has no target encoder
		s.Encoders = Encoder
		return nil
	}
	if s.config != nil && s.config.FrozenEncoder { // the same, and one network for both
		s.Encoders = Encoder
		if encoder == nil || s.networks[model.PredictorPrefix] == nil {
			return errors.New("its encoder is frozen, and it lacks encoder or predictor")
		}
		return nil
	}
	switch {
	case encoder == nil && target == nil:
		return errors.New("it has neither an encoder nor a target encoder")
	case which == Encoder && encoder == nil, which == TargetEncoder && target == nil:
		return fmt.Errorf("it has no %s", which)
	case which == Both && target == nil:
		s.note("the source has no target encoder: its encoder stands for both")
		s.Encoders = Encoder
	case which == Both && encoder == nil:
		s.note("the source has no encoder: its target encoder stands for both")
		s.Encoders = TargetEncoder
	}
	if s.networks[model.PredictorPrefix] == nil {
		return errors.New("it has no predictor, without which nothing is predicted and there is no surprise")
	}
	switch s.Encoders {
	case Encoder:
		s.networks[model.TargetPrefix] = encoder
	case TargetEncoder:
		s.networks[model.EncoderPrefix] = target
	}
	return nil
}

// compare holds the tensors against those of a model.
func (s *source) compare(c model.Config) error {
	want, got := map[string][]int{}, map[string][]int{}
	for _, p := range c.Params() {
		want[p.Name] = p.Shape
	}
	for prefix, n := range s.networks {
		for name, t := range n {
			got[prefix+name] = t.shape
		}
	}
	return checkpoint.Compare(want, got)
}

// resize gives the model clips of another size, if that is asked for.
func (s *source) resize(c model.Config, o Options) (model.Config, error) {
	frames := c.Frames
	height, width := c.Frame()
	if o.Frames != 0 {
		frames = o.Frames
	}
	if o.Size != 0 {
		height, width = o.Size, o.Size
	}
	h, w := c.Frame()
	if frames == c.Frames && height == h && width == w {
		return c, nil
	}
	to, _, err := c.Resize(frames, height, width, nil)
	if err != nil {
		return c, err
	}
	if c.Rotary() {
		return to, nil
	}
	from, next := c.TokenGrid(), to.TokenGrid()
	for prefix, n := range s.networks {
		n = maps.Clone(n)
		for name, t := range n {
			if strings.HasSuffix(name, "pos_embed") {
				d := t.shape[2]
				n[name] = tensor{[]int{1, to.Tokens(), d}, func(dst []float32) error {
					table := make([]float32, c.Tokens()*d)
					if err := t.read(table); err != nil {
						return err
					}
					copy(dst, model.ResizePositions(table, from, next))
					return nil
				}}
			}
		}
		s.networks[prefix] = n
	}
	s.note("position tables were resized from %d frames of %d×%d px", c.Frames, w, h)
	return to, nil
}

// sources are the model's tensors, in the order of its parameters.
func (s *source) sources(c model.Config) (out []checkpoint.Source) {
	for _, p := range c.Params() {
		prefix, name, _ := splitNetwork(p.Name)
		out = append(out, checkpoint.Source{Name: p.Name, Shape: p.Shape, Read: s.networks[prefix][name].read})
	}
	return out
}

// Values is how many numbers the model has, and how many its largest tensor: what is in memory at a time.
func (i *Import) Values() (all, largest int64) {
	for _, p := range i.Config.Params() {
		all += int64(p.Size())
		largest = max(largest, int64(p.Size()))
	}
	return all, largest
}

// Write reads the numbers, one tensor at a time, and writes the model to a file that LoadModel reads. It appears whole or
// not at all.
func (i *Import) Write(path string) (checkpoint.Digest, error) {
	config, err := json.Marshal(struct {
		Model model.Config `json:"model"`
		Training
		Imported Provenance `json:"imported"`
	}{i.Config, i.Training, i.Provenance})
	if err != nil {
		return checkpoint.Digest{}, fmt.Errorf("write model %s: %w", path, err)
	}
	return checkpoint.WriteModel(path, i.tensors, config, i.Step)
}

// Close ends the use of the source.
func (i *Import) Close() error { return i.close() }
