package plausibility

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

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
	Rate    Rate // of the clips it was trained on, every frame where its checkpoint does not say; zero: it has none
	weights []checkpoint.Tensor
	file    *checkpoint.Model // that the weights lie in; nil: in memory
	inPlace bool              // nobody changes the weights: networks read them where they lie

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

// everyFrame is the rate of a model that does not know its own.
var everyFrame = Rate{FrameStep: 1}

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
	}
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return nil, fmt.Errorf("model %s: its config: %w", path, err)
	}
	if config.Model == nil {
		return nil, fmt.Errorf("model %s: its config has no field model", path)
	}
	m := &Model{Config: *config.Model, Rate: config.Data.Or(everyFrame), weights: c.Tensors, file: c, inPlace: true, Record: compare.Model{
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

// Twin returns the same model with fresh weights: what the architecture alone scores.
func (m *Model) Twin(seed uint64) *Model {
	t := &Model{Config: m.Config, inPlace: true, Device: m.Device, Record: compare.Model{Name: "untrained twin", Seed: seed, Config: m.Record.Config}}
	init := m.Config.Init(seed)
	for _, p := range m.Config.Params() {
		t.weights = append(t.weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: init[p.Name]})
	}
	return t
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
	if m.file != nil {
		o.Release = m.file.Release
	}
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
