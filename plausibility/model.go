package plausibility

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// Model is a checkpoint's weights and what they are.
type Model struct {
	Config  model.Config
	Record  compare.Model
	weights []checkpoint.Tensor
}

// OpenModel reads a checkpoint folder or a single .safetensors file (see
// checkpoint.LoadModel). A config that is no model's, and a tensor that is missing,
// extra or of another shape, are errors that name the field or tensor.
func OpenModel(path string) (*Model, error) {
	c, err := checkpoint.LoadModel(path)
	if err != nil {
		return nil, err
	}
	var config struct {
		Model *model.Config `json:"model"`
		Seed  uint64        `json:"seed"`
	}
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return nil, fmt.Errorf("model %s: its config: %w", path, err)
	}
	if config.Model == nil {
		return nil, fmt.Errorf("model %s: its config has no field model", path)
	}
	m := &Model{Config: *config.Model, weights: c.Tensors, Record: compare.Model{
		Name: filepath.Base(filepath.Clean(path)), SHA256: c.Digest.SHA256, Step: c.Step, Seed: config.Seed, Config: c.Config}}
	if err := m.Config.Validate(); err != nil {
		return nil, fmt.Errorf("model %s: its config: %w", path, err)
	}
	if err := checkpoint.Match(shapes(m.Config), m.weights); err != nil {
		return nil, fmt.Errorf("model %s: %w", path, err)
	}
	return m, nil
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
	t := &Model{Config: m.Config, Record: compare.Model{Name: "untrained twin", Seed: seed, Config: m.Record.Config}}
	init := m.Config.Init(seed)
	for _, p := range m.Config.Params() {
		t.weights = append(t.weights, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: init[p.Name]})
	}
	return t
}

// Network is a model on the CPU machine, ready to score windows. It implements
// Predictor for one caller at a time.
type Network struct {
	spec      Spec
	scoring   *model.Scoring
	machine   *cpu.Machine
	batch     int
	precision cpu.Precision // fp32 or bf16
	copyLast  bool          // see CopyLast
}

// Network builds the model for batches of windows of a spec. It must be closed. The
// precision may be another than the model was trained in.
func (m *Model) Network(spec Spec, batch int, o cpu.Options) (*Network, error) {
	return m.network(spec, batch, o, false)
}

func (m *Model) network(spec Spec, batch int, o cpu.Options, copyLast bool) (*Network, error) {
	spec = spec.WithDefaults()
	next := m.Config.Objective == model.NextTubelet
	switch {
	case spec.Window != m.Config.Frames:
		return nil, fmt.Errorf("spec.window: %d frames, the model takes %d", spec.Window, m.Config.Frames)
	case next && len(spec.Contexts) > 0:
		return nil, fmt.Errorf("spec.contexts: %v, want none for a %s model", spec.Contexts, m.Config.Objective)
	case !next && len(spec.Contexts) == 0:
		return nil, fmt.Errorf("spec.contexts: none, a %s model needs at least one", m.Config.Objective)
	}
	groups := max(1, len(spec.Contexts))
	scoring, err := model.NewScoring(m.Config, batch, groups)
	if err != nil {
		return nil, err
	}
	if copyLast {
		scoring.Program.Results = append(scoring.Program.Results, scoring.Target)
	}
	if o.Precision, err = cmp.Or(o.Precision, cpu.FP32).Resolve(); err != nil {
		return nil, err
	}
	machine, err := cpu.Compile(scoring.Program, o)
	var tooLarge *cpu.MemoryError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("the model is too large to score batches of %d windows: %w: lower threads, give fewer contexts, or score a smaller model", batch, err)
	}
	if err != nil {
		return nil, err
	}
	n := &Network{spec: spec, scoring: scoring, machine: machine, batch: batch, precision: o.Precision, copyLast: copyLast}
	if err := n.load(m); err != nil {
		_ = machine.Close()
		return nil, err
	}
	return n, nil
}

// NewModel is a model whose weights are in memory: tensors by name, as a checkpoint holds
// them. It does not copy them.
func NewModel(config model.Config, record compare.Model, weights []checkpoint.Tensor) *Model {
	return &Model{Config: config, Record: record, weights: weights}
}

// Reload gives the network the weights of another model of the same config.
func (n *Network) Reload(m *Model) error {
	var slots []checkpoint.Tensor
	for _, p := range m.Config.Params() {
		slots = append(slots, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: n.machine.Floats(n.scoring.Params[p.Name])})
	}
	return checkpoint.Assign(slots, m.weights)
}

// load copies the weights in and lays the windows' tokens out, the same for every batch.
func (n *Network) load(m *Model) error {
	if err := n.Reload(m); err != nil {
		return err
	}
	var context, pred [][]int32
	for range n.batch {
		for _, frames := range n.spec.Contexts {
			c, p, err := m.Config.Future(frames)
			if err != nil {
				return fmt.Errorf("spec.contexts: %w", err)
			}
			context, pred = append(context, c), append(pred, p)
		}
	}
	return n.scoring.Pack(n.machine, context, pred)
}

// Surprise implements Predictor.
func (n *Network) Surprise(ctx context.Context, windows []float32, count int) ([]WindowErrors, error) {
	size := n.scoring.Config.ClipValues()
	if count < 0 || len(windows) != count*size {
		return nil, fmt.Errorf("score windows: %d values, want %d windows of %d", len(windows), count, size)
	}
	out := make([]WindowErrors, 0, count)
	for first := 0; first < count; first += n.batch {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		run := min(n.batch, count-first)
		copy(n.machine.Floats(n.scoring.Clip), windows[first*size:(first+run)*size])
		if err := n.machine.SetClips(run); err != nil {
			return nil, err
		}
		if err := n.machine.Run(); err != nil {
			return nil, fmt.Errorf("score windows: %w", err)
		}
		for b := range run {
			out = append(out, n.windowErrors(b))
		}
	}
	return out, nil
}

// windowErrors copies window b's errors out of the machine.
func (n *Network) windowErrors(b int) WindowErrors {
	groups := n.scoring.Groups
	out := make(WindowErrors, groups)
	for g := range groups {
		first, last, tokens := n.scoring.PredictedRows(n.machine, b*groups+g)
		out[g] = ContextErrors{Tokens: append([]int32(nil), tokens...)}
		if n.copyLast {
			out[g].Errors = n.copyErrors(b, g, out[g].Tokens)
		} else {
			out[g].Errors = append([]float32(nil), n.machine.Floats(n.scoring.Errors)[first:last]...)
		}
		if len(n.spec.Contexts) > 0 {
			out[g].Context = n.spec.Contexts[g]
		}
	}
	return out
}

// Precision is what the network computes in: fp32 or bf16.
func (n *Network) Precision() cpu.Precision { return n.precision }

// Close frees the machine.
func (n *Network) Close() error { return n.machine.Close() }
