package plausibility

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// Model is a checkpoint's weights and what they are.
type Model struct {
	Config  model.Config
	Record  compare.Model
	Rate    Rate // of the clips it was trained on; zero: not known
	weights []checkpoint.Tensor
	file    *checkpoint.Model // that Close closes; nil: none
	release func()            // lets go of what was read of the file that the weights lie in; nil: they lie in memory
	inPlace bool              // nobody changes the weights: networks read them where they lie
	began   began             // what training began with

	// Device is the accelerator that networks and embedders made of the model run on, which stays the caller's; nil: the
	// CPU. Weights are copied there.
	Device xla.Device
}

// Rate is how clips are taken from a video: every FrameStep-th frame, or FPS frames a second.
type Rate struct {
	FrameStep int     `json:"frame_step"`
	FPS       float64 `json:"fps"`
}

// Or is the rate, or another one where it is zero. A video seen faster or slower than training saw videos is another one.
func (r Rate) Or(other Rate) Rate {
	if r == (Rate{}) {
		return other
	}
	return r
}

// EveryFrame is the rate that stands in for one that is not known.
var EveryFrame = Rate{FrameStep: 1}

// began names the model whose weights training began with, as a checkpoint's config does; zero: fresh ones.
type began struct {
	From   string `json:"from"`
	SHA256 string `json:"sha256"` // of the weights' file
}

// OpenModel opens a checkpoint folder or a single .safetensors file (see
// checkpoint.LoadModel). A config that is no model's, and a tensor that is missing,
// extra or of another shape, are errors that name the field or tensor. The model must
// be closed, after every network made from it: weights are read where they lie.
func OpenModel(path string) (_ *Model, err error) {
	c, err := checkpoint.LoadModel(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	var config struct {
		Model *model.Config `json:"model"`
		Seed  uint64        `json:"seed"`
		Data  Rate          `json:"data"`
		Init  began         `json:"init"`
	}
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return nil, fmt.Errorf("model %s: its config: %w", path, err)
	}
	if config.Model == nil {
		return nil, fmt.Errorf("model %s: its config has no field model", path)
	}
	m := &Model{Config: *config.Model, Rate: config.Data, weights: c.Tensors, file: c, release: c.Release, inPlace: true, began: config.Init, Record: compare.Model{
		Name: filepath.Base(filepath.Clean(path)), SHA256: c.Digest.SHA256, Step: c.Step, Seed: config.Seed, Config: c.Config}}
	if err := m.Config.Validate(); err != nil {
		return nil, fmt.Errorf("model %s: its config: %w", path, err)
	}
	if err := checkpoint.Match(shapes(m.Config), m.weights); err != nil {
		return nil, fmt.Errorf("model %s: %w", path, err)
	}
	return m, nil
}

// Close ends the use of the model.
func (m *Model) Close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// shapes lists a model's tensors by name and shape, without values: a file may claim to
// be a model that no memory holds.
func shapes(c model.Config) []checkpoint.Tensor {
	var out []checkpoint.Tensor
	for _, p := range c.Params() {
		out = append(out, checkpoint.Tensor{Name: p.Name, Shape: p.Shape})
	}
	return out
}

// Twin returns the model as it is before training: with the seed that training used, the model before its first step. A
// frozen encoder, which training leaves alone, is the model's own; all else is drawn from seed. Where training began with
// another model it is that one, and seed has no part in it, as long as its weights can still be had: located says where what
// the checkpoint names lies, or refuses it. The note says that the twin is of such weights, or of fresh ones for want of them;
// it is empty otherwise. The twin must be closed, and before the model.
func (m *Model) Twin(seed uint64, located func(path string) (string, error)) (twin *Model, note string) {
	if m.began.From == "" {
		return m.fresh(seed), ""
	}
	twin, err := m.asBegun(located)
	if err != nil {
		return m.fresh(seed), fmt.Sprintf("the untrained twin is drawn anew, with seed %d: it is not the model before training, which began with the weights of %s (sha256 %.12s): %v",
			seed, m.began.From, m.began.SHA256, err)
	}
	return twin, "the untrained twin is the model that training began with, " + m.began.From
}

// fresh returns the same model with fresh weights, but for a frozen encoder's.
func (m *Model) fresh(seed uint64) *Model {
	t := &Model{Config: m.Config, inPlace: true, Device: m.Device, Record: compare.Model{Name: compare.TwinSet, Seed: seed, Config: m.Record.Config}}
	given := map[string]checkpoint.Tensor{}
	if m.Config.FrozenEncoder {
		for _, w := range m.weights {
			if strings.HasPrefix(w.Name, model.EncoderPrefix) {
				given[w.Name] = w
				t.release = m.release
			}
		}
	}
	drawn := map[string][]float32{}
	for _, p := range m.Config.Params() {
		if _, ok := given[p.Name]; !ok {
			drawn[p.Name] = make([]float32, p.Size())
		}
	}
	m.Config.InitInto(seed, func(name string) []float32 { return drawn[name] })
	for _, p := range m.Config.Params() {
		w, ok := given[p.Name]
		if !ok {
			w = checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: drawn[p.Name]}
		}
		t.weights = append(t.weights, w)
	}
	return t
}

// asBegun returns the model with the weights that training began with. A target encoder that those have not, because the
// encoder was frozen and gave the targets too, began as a copy of that.
func (m *Model) asBegun(located func(path string) (string, error)) (_ *Model, err error) {
	path, err := located(m.began.From)
	if err != nil {
		return nil, err
	}
	file, err := checkpoint.LoadModel(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if file.Digest.SHA256 != m.began.SHA256 {
		return nil, fmt.Errorf("what lies there has sha256 %.12s", file.Digest.SHA256)
	}
	t := &Model{Config: m.Config, file: file, release: file.Release, inPlace: true, Device: m.Device,
		Record: compare.Model{Name: compare.TwinSet, SHA256: file.Digest.SHA256, Seed: m.Record.Seed, Config: m.Record.Config}}
	given := map[string]checkpoint.Tensor{}
	for _, w := range file.Tensors {
		given[w.Name] = w
	}
	for _, p := range m.Config.Params() {
		w, ok := given[p.Name]
		if rest, target := strings.CutPrefix(p.Name, model.TargetPrefix); target && !ok {
			w = given[model.EncoderPrefix+rest]
			w.Name = p.Name
		}
		t.weights = append(t.weights, w)
	}
	return t, checkpoint.Match(shapes(m.Config), t.weights)
}

// NewModel is a model whose weights are in memory: tensors by name, as a checkpoint holds
// them. It does not copy them; networks made of it do.
func NewModel(config model.Config, record compare.Model, weights []checkpoint.Tensor) *Model {
	return &Model{Config: config, Record: record, weights: weights}
}

// load copies a model's weights into a machine.
func load(machine graph.Buffers, g *model.Graph, m *Model) error {
	var slots []checkpoint.Tensor
	for _, p := range m.Config.Params() {
		if n := g.Params[p.Name]; n != nil {
			slots = append(slots, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: machine.Floats(n)})
		}
	}
	var weights []checkpoint.Tensor
	for _, w := range m.weights {
		if g.Params[w.Name] != nil {
			weights = append(weights, w)
		}
	}
	return checkpoint.Assign(slots, weights)
}

// largeMemory is what a machine may take without a word, bytes.
const largeMemory = 1 << 30

// resolve is what a precision means on the model's device.
func (m *Model) resolve(p cpu.Precision) (cpu.Precision, error) {
	p = cmp.Or(p, cpu.FP32)
	if m.Device == nil {
		return p.Resolve()
	}
	parsed, err := xla.ParsePrecision(string(p))
	return cpu.Precision(parsed), err
}

// compile puts a graph of the model on its device or, by default, on the CPU machine. There, weights that nobody changes
// stay where they lie, for most in a mapped file. What a large model takes beside them is said before it is used.
func (m *Model) compile(g *model.Graph, o cpu.Options) (machine, error) {
	if err := checkpoint.Match(shapes(m.Config), m.weights); err != nil {
		return nil, err
	}
	if m.Device != nil {
		return m.compileOnDevice(g, o)
	}
	var read int64 // bytes
	if m.inPlace {
		o.Weights = map[*G.Node][]float32{}
		for _, w := range m.weights {
			if n := g.Params[w.Name]; n != nil {
				o.Weights[n] = w.Data
				read += 4 * int64(len(w.Data))
			}
		}
	}
	o.Release = m.release
	machine, err := cpu.Compile(g.Program, o)
	if err != nil {
		return nil, err
	}
	if needs := machine.Memory(); needs.Bytes()+read > largeMemory {
		slog.Info("a large model", "model", m.Record.Name, "takes", needs.Needs(), "weights_read_in_place_bytes", read)
	}
	if !m.inPlace {
		err = load(machine, g, m)
	}
	if err == nil {
		err = machine.Prepare()
	}
	if err != nil {
		return nil, errors.Join(err, machine.Close())
	}
	return machine, nil
}

// compileOnDevice copies the weights to the device with the first run. Where the memory does not suffice, that run says so.
func (m *Model) compileOnDevice(g *model.Graph, o cpu.Options) (machine, error) {
	machine, err := xla.New(context.Background(), g.Program, m.Device, xla.Options{Precision: xla.Precision(o.Precision), Memory: o.Memory})
	if err != nil {
		return nil, err
	}
	if err := load(machine, g, m); err != nil {
		return nil, errors.Join(err, machine.Close())
	}
	return machine, nil
}
