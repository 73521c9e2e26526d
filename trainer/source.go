package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/model"
)

// Models that weights are read from: a frozen encoder's, and the one that a run begins with.

// SourceConfig is what the file of the model at path says of it: its shape, for model.Config's OnEncoder and StartingFrom,
// and the rate of the clips it was trained on, zero where that is not known.
func SourceConfig(path string) (Config, error) {
	file, c, err := openModel(path)
	if err != nil {
		return c, err
	}
	return c, file.Close()
}

// Begun is the config of the run that has left checkpoints in dir; ok is false where there are none.
func Begun(dir string) (c Config, ok bool) {
	m, _, ok := checkpoint.LatestManifest(dir)
	if !ok || json.Unmarshal(m.Config, &c) != nil {
		return Config{}, false
	}
	return c, true
}

// open maps the file of a model, and notes its digest; another one than was noted is an error.
func (s *Source) open() (*checkpoint.Model, model.Config, error) {
	file, c, err := openModel(s.From)
	if err != nil {
		return nil, c.Model, err
	}
	if s.SHA256 != "" && s.SHA256 != file.Digest.SHA256 {
		return nil, c.Model, errors.Join(fmt.Errorf("%s has sha256 %s, want %s", s.From, file.Digest.SHA256, s.SHA256), file.Close())
	}
	s.SHA256 = file.Digest.SHA256
	return file, c.Model, nil
}

// openModel maps a model's file and checks that it holds the tensors that its config says.
func openModel(path string) (_ *checkpoint.Model, c Config, err error) {
	file, err := checkpoint.LoadModel(path)
	if err != nil {
		return nil, c, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("model %s: %w", path, err), file.Close())
		}
	}()
	var config struct {
		Model *model.Config `json:"model"`
		Data  struct {
			FrameStep int     `json:"frame_step"`
			FPS       float64 `json:"fps"`
		} `json:"data"`
	}
	if err := json.Unmarshal(file.Config, &config); err != nil {
		return nil, c, fmt.Errorf("its config: %w", err)
	}
	if config.Model == nil {
		return nil, c, errors.New("its config has no field model")
	}
	c.Model, c.Data.FrameStep, c.Data.FPS = *config.Model, config.Data.FrameStep, config.Data.FPS
	if err := c.Model.Validate(); err != nil {
		return nil, c, fmt.Errorf("its config: %w", err)
	}
	if height, width := c.Model.Frame(); height != width {
		return nil, c, fmt.Errorf("it takes frames of %d×%d px; clips are squares", height, width)
	}
	var shapes []checkpoint.Tensor
	for _, p := range c.Model.Params() {
		shapes = append(shapes, checkpoint.Tensor{Name: p.Name, Shape: p.Shape})
	}
	return file, c, checkpoint.Match(shapes, file.Tensors)
}

// openInit opens the model whose weights a run of this config begins with, and notes its digest there; nil: fresh weights.
// So is what is gone and has its digest noted: a run that goes on from a checkpoint of its own does not need it.
func (c *Config) openInit() (*checkpoint.Model, error) {
	if c.Init.From == "" {
		return nil, nil
	}
	file, of, err := c.Init.open()
	if errors.Is(err, fs.ErrNotExist) && c.Init.SHA256 != "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := c.Model.StartingFrom(of); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.Init.From, err), file.Close())
	}
	return file, nil
}

// startFrom gives the tensors of a model the weights of another one. A target encoder that the other has not, because
// its encoder was frozen and gave the targets too, is a copy of that.
func startFrom(weights []checkpoint.Tensor, of *checkpoint.Model) error {
	given := map[string]checkpoint.Tensor{}
	for _, t := range of.Tensors {
		given[t.Name] = t
	}
	all := slices.Clone(of.Tensors)
	for _, t := range weights {
		name, ok := strings.CutPrefix(t.Name, model.TargetPrefix)
		if _, there := given[t.Name]; ok && !there {
			t = given[model.EncoderPrefix+name]
			t.Name = model.TargetPrefix + name
			all = append(all, t)
		}
	}
	return checkpoint.Assign(weights, all)
}
