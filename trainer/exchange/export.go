package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/checkpoint/torch"
	"github.com/surmise-ml/surmise/trainer/model"
)

// ExportOptions say how a model is written.
type ExportOptions struct {
	Format string // VJEPA: a file; HF: a folder
	Which  string // HF, which holds one encoder: Encoder or TargetEncoder; default TargetEncoder, which embeddings are of
}

// Export writes a model of ours, a checkpoint's folder or a .safetensors file, in another layout. What the layout cannot
// say, so that another program would compute something else, is an error that names the field. out must not exist; it
// appears whole or not at all. The notes say what is lost.
func Export(from, out string, o ExportOptions) (notes []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("export %s: %w", from, err)
		}
	}()
	if _, err := os.Lstat(out); err == nil {
		return nil, fmt.Errorf("%s exists", out)
	}
	m, err := checkpoint.LoadModel(from)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	var config struct {
		Model *model.Config `json:"model"`
		Data  Rate          `json:"data"`
	}
	if err := json.Unmarshal(m.Config, &config); err != nil || config.Model == nil {
		return nil, errors.Join(errors.New("its config has no field model"), err)
	}
	c := *config.Model
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("its config: %w", err)
	}
	want, got, tensors := map[string][]int{}, map[string][]int{}, map[string]checkpoint.Tensor{}
	for _, p := range c.Params() {
		want[p.Name] = p.Shape
	}
	for _, t := range m.Tensors {
		got[t.Name], tensors[t.Name] = t.Shape, t
	}
	if err := checkpoint.Compare(want, got); err != nil {
		return nil, err
	}
	if c.Objective != model.Masked {
		return nil, fmt.Errorf("model.objective is %s: only %s models are V-JEPAs, which others can load; surmise embed writes what this one makes of videos", c.Objective, model.Masked)
	}
	if c.Target != model.Representation {
		return nil, fmt.Errorf("model.target is %s: a V-JEPA predicts representations", c.Target)
	}
	switch o.Format {
	case VJEPA:
		notes, err = exportVJEPA(out, c, tensors)
	case HF:
		notes, err = exportHF(out, c, tensors, o.Which)
	default:
		return nil, fmt.Errorf("format is %q, want %s or %s", o.Format, HF, VJEPA)
	}
	if config.Data != (Rate{}) {
		notes = append(notes, fmt.Sprintf("the layout has no rate: the model was trained at %s, which scores of an import have to be told", config.Data))
	}
	return notes, err
}

func exportVJEPA(out string, c model.Config, tensors map[string]checkpoint.Tensor) ([]string, error) {
	if c.NormEps != 0 && c.NormEps != 1e-6 {
		return nil, fmt.Errorf("model.norm_eps is %g: the published classes have 1e-6", c.NormEps)
	}
	err := durable.WriteFile(out, 0o644, func(w io.Writer) error { return torch.Write(w, vjepaDict(tensors, c)) })
	height, width := c.Frame()
	notes := []string{"the layout has no configuration: the published code is told it",
		fmt.Sprintf("heads %d and %d, %d frames of %d×%d px, positions %s, mlp %s", c.Heads, c.PredHeads, c.Frames, width, height, c.Positions, or(c.MLP, model.GELU))}
	return notes, err
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func exportHF(out string, c model.Config, tensors map[string]checkpoint.Tensor, which string) (notes []string, err error) {
	height, width := c.Frame()
	switch {
	case c.Positions != model.RoPE:
		return nil, fmt.Errorf("model.positions is %s: VJEPA2Model has %s alone", c.Positions, model.RoPE)
	case or(c.MLP, model.GELU) != model.GELU || or(c.PredMLP, model.GELU) != model.GELU:
		return nil, fmt.Errorf("model.mlp is %s and model.pred_mlp %s: VJEPA2Model has %s alone", or(c.MLP, model.GELU), or(c.PredMLP, model.GELU), model.GELU)
	case height != width:
		return nil, fmt.Errorf("model.height is %d and model.width %d: VJEPA2Model has one size", height, width)
	case which != "" && which != Encoder && which != TargetEncoder:
		return nil, fmt.Errorf("which is %q, want %s or %s", which, Encoder, TargetEncoder)
	}
	which = or(which, TargetEncoder)
	prefix := model.EncoderPrefix
	if which == TargetEncoder {
		prefix = c.TargetNetwork()
	}
	same := true
	for _, p := range c.Params() {
		if net, name, _ := splitNetwork(p.Name); net == model.EncoderPrefix {
			same = same && slices.Equal(tensors[p.Name].Data, tensors[c.TargetNetwork()+name].Data)
		}
	}
	if !same {
		notes = append(notes, fmt.Sprintf("VJEPA2Model has one encoder: only the %s is written, and surprise takes both", which))
	}
	temp, err := os.MkdirTemp(filepath.Dir(out), durable.Unfinished+filepath.Base(out)+"-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	if err := os.Chmod(temp, 0o755); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(hfOf(c), "", "  ")
	if err != nil {
		return nil, err
	}
	if err := durable.WriteBytes(filepath.Join(temp, hfConfig), 0o644, append(text, '\n')); err != nil {
		return nil, err
	}
	if _, err := checkpoint.WriteSources(filepath.Join(temp, hfWeights), hfSources(c, tensors, prefix), map[string]string{"format": "pt"}); err != nil {
		return nil, err
	}
	return notes, durable.Rename(temp, out)
}

// hfSources are the tensors of a folder of transformers, made of ours.
func hfSources(c model.Config, tensors map[string]checkpoint.Tensor, encoder string) (out []checkpoint.Source) {
	parts := map[string][]piece{}
	var names []string
	for _, p := range hfPieces(c) {
		full := p.theirPrefix + p.theirs
		if parts[full] == nil {
			names = append(names, full)
		}
		parts[full] = append(parts[full], p)
	}
	for _, name := range names {
		pieces := parts[name]
		out = append(out, checkpoint.Source{Name: name, Shape: pieces[0].theirShape, Read: func(dst []float32) error {
			for _, p := range pieces {
				prefix := p.theirPrefix
				if prefix == model.EncoderPrefix {
					prefix = encoder
				}
				copy(dst[p.theirAt:p.theirAt+p.count], tensors[prefix+p.ours].Data[p.at:])
			}
			return nil
		}})
	}
	return out
}

// hfOf is the configuration that VJEPA2Model needs for a model of ours.
func hfOf(c model.Config) hfModel {
	h := hfDefaults()
	h.Architectures, h.ModelType, h.DType = []string{"VJEPA2Model"}, "vjepa2", "float32"
	h.PatchSize, h.CropSize, h.ImageSize, h.Frames, h.Tubelet = c.Patch, c.Size, c.Size, c.Frames, c.Tubelet
	h.Dim, h.Heads, h.Depth, h.MLPRatio = c.Dim, c.Heads, c.Depth, c.MLPRatio
	h.PredDim, h.PredHeads, h.PredDepth, h.MaskTokens, h.PredMLPRatio = c.PredDim, c.PredHeads, c.PredDepth, c.MaskTokens, c.MLPRatio
	if c.PredMLPRatio != 0 {
		h.PredMLPRatio = c.PredMLPRatio
	}
	if c.NormEps != 0 {
		h.NormEps = c.NormEps
	}
	return h
}
