package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/model"
)

const (
	hfConfig  = "config.json"
	hfWeights = "model.safetensors"
	hfIndex   = "model.safetensors.index.json"

	maxHFConfigBytes = 1 << 20
	maxHFIndexBytes  = 16 << 20
	maxShards        = 1000
)

// hfModel is what of a VJEPA2Config says what the model computes. Fields for training alone, and those of heads on top,
// are passed over.
type hfModel struct {
	Architectures []string `json:"architectures"`
	ModelType     string   `json:"model_type"`
	PatchSize     int      `json:"patch_size"`
	CropSize      int      `json:"crop_size"`
	ImageSize     int      `json:"image_size"` // written again for its readers
	Frames        int      `json:"frames_per_clip"`
	Tubelet       int      `json:"tubelet_size"`
	Dim           int      `json:"hidden_size"`
	Channels      int      `json:"in_chans"`
	Heads         int      `json:"num_attention_heads"`
	Depth         int      `json:"num_hidden_layers"`
	MLPRatio      float64  `json:"mlp_ratio"`
	NormEps       float64  `json:"layer_norm_eps"`
	QKVBias       *bool    `json:"qkv_bias"`
	Activation    string   `json:"hidden_act"`
	PredDim       int      `json:"pred_hidden_size"`
	PredHeads     int      `json:"pred_num_attention_heads"`
	PredDepth     int      `json:"pred_num_hidden_layers"`
	MaskTokens    int      `json:"pred_num_mask_tokens"`
	PredMLPRatio  float64  `json:"pred_mlp_ratio"`
	DType         string   `json:"torch_dtype,omitempty"`
}

// hfDefaults are VJEPA2Config's own (configuration_vjepa2.py): a file may leave out what equals them.
func hfDefaults() hfModel {
	bias := true
	return hfModel{PatchSize: 16, CropSize: 256, Frames: 64, Tubelet: 2, Dim: 1024, Channels: 3, Heads: 16, Depth: 24, MLPRatio: 4, NormEps: 1e-6,
		QKVBias: &bias, Activation: "gelu", PredDim: 384, PredHeads: 12, PredDepth: 12, MaskTokens: 10, PredMLPRatio: 4}
}

// config is the model of the file, or an error that names the field that ours has no equal for.
func (h hfModel) config() (model.Config, error) {
	switch {
	case h.ModelType != "vjepa2":
		return model.Config{}, fmt.Errorf("model_type is %q, want vjepa2", h.ModelType)
	case !slices.Contains(h.Architectures, "VJEPA2Model"):
		return model.Config{}, fmt.Errorf("architectures are %q, want VJEPA2Model", h.Architectures)
	case h.QKVBias == nil || !*h.QKVBias:
		return model.Config{}, errors.New("qkv_bias is false: attention without a bias is not supported")
	case h.Activation != "gelu":
		return model.Config{}, fmt.Errorf("hidden_act is %q, want gelu", h.Activation)
	case h.Channels != 3:
		return model.Config{}, fmt.Errorf("in_chans is %d, want 3", h.Channels)
	case h.Depth < 1 || h.PredDepth < 1 || h.MaskTokens < 1 || h.NormEps <= 0: // what a zero would make a default of ours
		return model.Config{}, fmt.Errorf("num_hidden_layers %d, pred_num_hidden_layers %d, pred_num_mask_tokens %d and layer_norm_eps %g: want more than 0",
			h.Depth, h.PredDepth, h.MaskTokens, h.NormEps)
	}
	c := model.Config{Objective: model.Masked, Size: h.CropSize, Frames: h.Frames, Patch: h.PatchSize, Tubelet: h.Tubelet, Dim: h.Dim, Depth: h.Depth,
		Heads: h.Heads, PredDim: h.PredDim, PredDepth: h.PredDepth, PredHeads: h.PredHeads, MLPRatio: h.MLPRatio, MaskTokens: h.MaskTokens,
		Positions: model.RoPE, MaskToken: model.MaskTokenFirst}
	if h.PredMLPRatio != h.MLPRatio {
		c.PredMLPRatio = h.PredMLPRatio
	}
	if h.NormEps != 1e-6 {
		c.NormEps = h.NormEps
	}
	return c, c.Validate()
}

// piece is a stretch of a tensor of ours that is a stretch of one of transformers'.
type piece struct {
	ours        string // without the network's prefix
	at          int    // first number in ours
	theirs      string
	theirShape  []int
	theirAt     int
	count       int
	theirPrefix string // of the network
}

// hfPieces says where each tensor of encoder and predictor lies in the layout of transformers: queries, keys and values
// apart, mask tokens together.
func hfPieces(c model.Config) (out []piece) {
	for _, p := range c.Params() {
		prefix, name, _ := splitNetwork(p.Name)
		if prefix == model.TargetPrefix {
			continue
		}
		one := piece{ours: name, theirShape: p.Shape, count: p.Size(), theirPrefix: prefix}
		if i, ok := strings.CutPrefix(name, "mask_tokens."); ok {
			one.theirs, one.theirShape = "embeddings.mask_tokens", []int{c.MaskTokens, 1, 1, c.PredDim}
			_, _ = fmt.Sscanf(i, "%d", &one.theirAt)
			one.theirAt *= c.PredDim
			out = append(out, one)
			continue
		}
		block, rest, inBlock := cutBlock(name)
		if kind, isQKV := strings.CutPrefix(rest, "attn.qkv."); inBlock && isQKV {
			for i, part := range []string{"query", "key", "value"} {
				third := one
				third.theirs = "layer." + block + ".attention." + part + "." + kind
				third.theirShape = append([]int{p.Shape[0] / 3}, p.Shape[1:]...)
				third.count = p.Size() / 3
				third.at = i * third.count
				out = append(out, third)
			}
			continue
		}
		one.theirs = hfName(prefix, name)
		if inBlock {
			one.theirs = "layer." + block + "." + strings.Replace(rest, "attn.proj", "attention.proj", 1)
		}
		out = append(out, one)
	}
	return out
}

// cutBlock takes the number out of blocks.3.norm1.weight or predictor_blocks.3.norm1.weight.
func cutBlock(name string) (number, rest string, ok bool) {
	for _, prefix := range []string{"blocks.", "predictor_blocks."} {
		if after, ok := strings.CutPrefix(name, prefix); ok {
			number, rest, _ = strings.Cut(after, ".")
			return number, rest, true
		}
	}
	return "", "", false
}

// hfName is the name of a tensor outside the blocks.
func hfName(prefix, name string) string {
	for _, pair := range [][3]string{
		{model.EncoderPrefix, "patch_embed.proj.", "embeddings.patch_embeddings.proj."},
		{model.EncoderPrefix, "norm.", "layernorm."},
		{model.PredictorPrefix, "predictor_embed.", "embeddings.predictor_embeddings."},
		{model.PredictorPrefix, "predictor_norm.", "layernorm."},
		{model.PredictorPrefix, "predictor_proj.", "proj."},
	} {
		if rest, ok := strings.CutPrefix(name, pair[1]); ok && prefix == pair[0] {
			return pair[2] + rest
		}
	}
	return name
}

// readHF reads a folder of transformers.
func readHF(dir string) (_ *source, err error) {
	h := hfDefaults()
	text, err := readSmall(filepath.Join(dir, hfConfig), maxHFConfigBytes)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("%s: %w", hfConfig, err)
	}
	c, err := h.config()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", hfConfig, err)
	}
	s := &source{config: &c, networks: map[string]network{}, Provenance: Provenance{Format: HF, Files: map[string]checkpoint.Digest{}}}
	digest, err := checkpoint.FileDigest(filepath.Join(dir, hfConfig))
	if err != nil {
		return nil, err
	}
	s.Files[hfConfig] = digest
	files, err := openShards(dir)
	s.close = func() error {
		var errs []error
		for _, f := range files {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err != nil {
		return nil, err
	}
	return s, s.hf(c, files)
}

// hf holds the shards' tensors against the model, and makes its tensors of theirs.
func (s *source) hf(c model.Config, files []*checkpoint.File) error {
	want, got := map[string][]int{}, map[string][]int{}
	holder := map[string]*checkpoint.File{}
	pieces := hfPieces(c)
	for _, p := range pieces {
		want[p.theirPrefix+p.theirs] = p.theirShape
	}
	for _, f := range files {
		for _, t := range f.Tensors {
			if holder[t.Name] != nil {
				return fmt.Errorf("tensor %q is in two files", t.Name)
			}
			if !t.Floating() {
				return fmt.Errorf("tensor %q holds numbers of type %s, want floating-point ones", t.Name, t.DType)
			}
			got[t.Name], holder[t.Name] = t.Shape, f
		}
		digest, err := f.Digest()
		if err != nil {
			return err
		}
		s.Files[filepath.Base(f.Path)] = digest
	}
	if err := checkpoint.Compare(want, got); err != nil {
		return err
	}
	parts := map[string][]piece{}
	for _, p := range pieces {
		parts[p.theirPrefix+p.ours] = append(parts[p.theirPrefix+p.ours], p)
	}
	for _, param := range c.Params() {
		pieces := parts[param.Name]
		if len(pieces) == 0 {
			continue // of the target encoder
		}
		prefix, name, _ := splitNetwork(param.Name)
		s.add(prefix, name, tensor{param.Shape, func(dst []float32) error {
			for _, p := range pieces {
				full := p.theirPrefix + p.theirs
				size := checkpoint.Info{Shape: p.theirShape}.Elements()
				if p.count == size {
					if err := holder[full].Read(full, dst[p.at:p.at+p.count]); err != nil {
						return err
					}
					continue
				}
				values := make([]float32, size) // mask tokens: a few rows
				if err := holder[full].Read(full, values); err != nil {
					return err
				}
				copy(dst[p.at:p.at+p.count], values[p.theirAt:])
			}
			return nil
		}})
	}
	return nil
}

// openShards opens the files of a folder: one, or those that an index names.
func openShards(dir string) (files []*checkpoint.File, err error) {
	text, err := readSmall(filepath.Join(dir, hfIndex), maxHFIndexBytes)
	if errors.Is(err, os.ErrNotExist) {
		f, err := checkpoint.Open(filepath.Join(dir, hfWeights))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("neither %s nor %s (a pytorch_model.bin is not read: save it as safetensors)", hfWeights, hfIndex)
		}
		if err != nil {
			return nil, err
		}
		return []*checkpoint.File{f}, nil
	}
	if err != nil {
		return nil, err
	}
	var index struct {
		Map map[string]string `json:"weight_map"` // tensor -> file
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", hfIndex, err)
	}
	names := slices.Compact(slices.Sorted(maps.Values(index.Map)))
	if len(names) == 0 || len(names) > maxShards {
		return nil, fmt.Errorf("%s names %d files, want 1 to %d", hfIndex, len(names), maxShards)
	}
	for _, name := range names {
		if name != filepath.Base(name) || strings.ContainsAny(name, `/\`) || !strings.HasSuffix(name, ".safetensors") {
			return nil, fmt.Errorf("%s names the file %q, want a .safetensors file beside it", hfIndex, name)
		}
	}
	there := map[string]bool{} // tensors
	for _, name := range names {
		f, err := checkpoint.Open(filepath.Join(dir, name))
		if err != nil {
			return files, err
		}
		files = append(files, f)
		for _, t := range f.Tensors {
			there[t.Name] = true
			if index.Map[t.Name] != name {
				return files, fmt.Errorf("%s says that tensor %q is in %q, it is in %s", hfIndex, t.Name, index.Map[t.Name], name)
			}
		}
	}
	for tensor, name := range index.Map {
		if !there[tensor] { // in the file that the index names, or it would have been refused above
			return files, fmt.Errorf("%s says that tensor %q is in %s, it is not", hfIndex, tensor, name)
		}
	}
	return files, nil
}

// readSmall reads a text file of at most so many bytes.
func readSmall(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, fmt.Errorf("%s: no regular file of at most %d bytes", path, most)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
