package exchange

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/checkpoint/torch"
	"github.com/surmise-ml/surmise/trainer/model"
)

// trainingKeys are the entries of a published checkpoint beside its networks: what only training needs.
var trainingKeys = []string{"opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr"}

// readVJEPA reads a dict of state dicts.
func readVJEPA(path string) (*source, error) {
	f, err := torch.Open(path)
	if err != nil {
		return nil, err
	}
	s := &source{networks: map[string]network{}, close: f.Close, Provenance: Provenance{Format: VJEPA, Files: map[string]checkpoint.Digest{}}}
	if err := s.vjepa(f.Root); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	digest, err := checkpoint.FileDigest(path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.Files[filepath.Base(path)] = digest
	return s, nil
}

func (s *source) vjepa(root torch.Value) error {
	dict, ok := root.(*torch.Dict)
	if !ok {
		return fmt.Errorf("%s, want a dict with encoder, predictor and target_encoder", torch.Describe(root))
	}
	seen := map[torch.Value]bool{}
	for _, item := range dict.Items {
		key, _ := item.Key.(torch.String)
		name := string(key)
		if slices.Contains(prefixes, name+".") {
			if err := s.stateDict(name, item.Value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		tensors := torch.Tensors(item.Value, seen)
		switch {
		case slices.Contains(trainingKeys, name) && tensors > 0:
			s.note("%s was left out: %d tensors that only training needs", name, tensors)
		case !slices.Contains(trainingKeys, name) && tensors > 0:
			return fmt.Errorf("extra: %s holds %d tensors and is no network of a V-JEPA", torch.Describe(item.Key), tensors)
		}
	}
	return nil
}

// stateDict adds the tensors of one network. Names lose what wrappers put before them (module. of DistributedDataParallel,
// backbone. of the mask wrapper).
func (s *source) stateDict(name string, v torch.Value) error {
	dict, ok := v.(*torch.Dict)
	if !ok {
		return fmt.Errorf("%s, want a state dict", torch.Describe(v))
	}
	prefix := name + "."
	for _, item := range dict.Items {
		key, isText := item.Key.(torch.String)
		t, isTensor := item.Value.(*torch.Tensor)
		switch {
		case !isText || !isTensor:
			return fmt.Errorf("entry %s is %s, want a tensor", torch.Describe(item.Key), torch.Describe(item.Value))
		case !t.DType.Floating():
			return fmt.Errorf("tensor %q holds numbers of type %s, want floating-point ones", key, t.DType)
		}
		short := unwrapped(string(key))
		if _, twice := s.networks[prefix][short]; twice {
			return fmt.Errorf("tensor %q is there twice, wrapped in different ways", short)
		}
		s.add(prefix, short, tensor{t.Shape, t.Floats})
	}
	return nil
}

func unwrapped(name string) string {
	for {
		short := strings.TrimPrefix(strings.TrimPrefix(name, "module."), "backbone.")
		if short == name {
			return name
		}
		name = short
	}
}

// wrapped is a tensor's name in a published checkpoint.
func wrapped(name string) string { return "module.backbone." + name }

// vjepaDict is a checkpoint as the published training scripts write it, without the optimiser's state.
func vjepaDict(tensors map[string]checkpoint.Tensor, c model.Config) *torch.Dict {
	networks := map[string]*torch.Dict{}
	for _, prefix := range prefixes {
		networks[prefix] = &torch.Dict{}
	}
	for _, p := range c.Params() {
		prefix, name, _ := splitNetwork(p.Name)
		values := tensors[p.Name].Data
		networks[prefix].Set(wrapped(name), &torch.Saved{Shape: p.Shape, Read: func(dst []float32) error { copy(dst, values); return nil }})
	}
	if c.FrozenEncoder { // one network under both names
		networks[model.TargetPrefix] = networks[model.EncoderPrefix]
	}
	root := &torch.Dict{}
	root.Set("encoder", networks[model.EncoderPrefix])
	root.Set("predictor", networks[model.PredictorPrefix])
	root.Set("opt", torch.None{})
	root.Set("scaler", torch.None{})
	root.Set("target_encoder", networks[model.TargetPrefix])
	root.Set("epoch", torch.Int(0))
	return root
}
