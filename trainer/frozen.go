package trainer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// validateEncoder wants clips that come again as they were where the encoder is frozen: of others nothing can be kept.
func (c Config) validateEncoder() error {
	if c.Model.FrozenEncoder != (c.Encoder.From != "") {
		return fmt.Errorf("encoder.from is %q with model.frozen_encoder %v: want both or neither", c.Encoder.From, c.Model.FrozenEncoder)
	}
	if !c.Model.FrozenEncoder {
		return nil
	}
	if c.Data.Windows != video.UniformWindows {
		return fmt.Errorf("sampling.windows is %q, want %s with a frozen encoder, whose output is computed once for each clip", c.Data.Windows, video.UniformWindows)
	}
	for _, f := range []struct {
		name        string
		value, want float64
	}{
		{"scale_min", c.Data.ScaleMin, 1}, {"scale_max", c.Data.ScaleMax, 1}, {"aspect_min", c.Data.AspectMin, 1}, {"aspect_max", c.Data.AspectMax, 1},
		{"brightness", c.Data.Brightness, 0}, {"contrast", c.Data.Contrast, 0}, {"saturation", c.Data.Saturation, 0}, {"hue", c.Data.Hue, 0},
	} {
		if f.value != f.want {
			return fmt.Errorf("sampling.%s is %g, want %g with a frozen encoder, whose output is computed once for each clip: random crops and colours make every clip another (flip may be set)",
				f.name, f.value, f.want)
		}
	}
	return nil
}

// frozenEncoder is the target encoder of a checkpoint, whose weights lie in its mapped file. It turns clips into features
// [N,D], once for each clip as long as there is room to keep them. Used by the training goroutine, its sampler by those
// of the feed.
type frozenEncoder struct {
	file      *checkpoint.Model
	tensors   map[string]checkpoint.Tensor // encoder.… of the model in training
	embedding *model.Embedding
	machine   encoderMachine
	key       string // what features depend on beside the clip
	encoded   int    // clips that it was run on
	from      *featureSampler
}

// encoderMachine runs an encoder on the first clips of a batch.
type encoderMachine interface {
	graph.Machine
	SetClips(n int) error
}

// openEncoder opens the encoder of a config, for so many clips at once, on an accelerator or the CPU (on is nil), and
// notes its digest there.
func openEncoder(ctx context.Context, cfg *Config, clips int, precision cpu.Precision, on xla.Device) (_ *frozenEncoder, err error) {
	path := cfg.Encoder.From
	file, source, err := cfg.Encoder.open()
	if err != nil {
		return nil, err
	}
	e := &frozenEncoder{file: file, tensors: map[string]checkpoint.Tensor{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	if _, err := cfg.Model.OnEncoder(source); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, t := range file.Tensors {
		if name, ok := strings.CutPrefix(t.Name, source.TargetNetwork()); ok {
			t.Name = model.EncoderPrefix + name
			e.tensors[t.Name] = t
		}
	}
	for _, p := range cfg.Model.Params() {
		if strings.HasPrefix(p.Name, model.EncoderPrefix) && len(e.tensors[p.Name].Data) != p.Size() {
			return nil, fmt.Errorf("%s: tensor %q: %d values, the model needs %d", path, p.Name, len(e.tensors[p.Name].Data), p.Size())
		}
	}
	if e.embedding, err = model.NewEmbedding(cfg.Model, clips, model.EncoderPrefix); err != nil {
		return nil, err
	}
	by := kernel.Features()
	if on != nil {
		by = on.Name()
		var m *xla.Machine
		if m, err = newPipeline(ctx, e.embedding.Program, on, precision, 1); err == nil {
			e.load(m, e.embedding.Graph)
			e.machine = m
		}
	} else {
		var m *cpu.Machine
		m, err = cpu.Compile(e.embedding.Program, cpu.Options{Threads: cfg.Threads, Precision: precision,
			Weights: e.weights(e.embedding.Graph), Release: file.Release})
		if err == nil {
			e.machine = m
		}
	}
	if err != nil {
		return nil, fmt.Errorf("for batches of %d clips: %w", clips, err)
	}
	e.embedding.Pack(e.machine)
	e.key = fmt.Sprintf("features 1\nencoder %s, objective %s\n%s with %s\n", file.Digest.SHA256, cfg.Model.Objective, precision, by)
	return e, nil
}

// load copies the encoder's weights into a machine that cannot read them where they lie.
func (e *frozenEncoder) load(m graph.Buffers, g *model.Graph) {
	for n, weights := range e.weights(g) {
		copy(m.Floats(n), weights)
	}
}

// weights are where the encoder's parameters in a graph lie.
func (e *frozenEncoder) weights(g *model.Graph) map[*G.Node][]float32 {
	out := map[*G.Node][]float32{}
	for name, t := range e.tensors {
		if n := g.Params[name]; n != nil {
			out[n] = t.Data
		}
	}
	return out
}

func (e *frozenEncoder) close() error {
	var err error
	if e.machine != nil {
		err = e.machine.Close()
	}
	return errors.Join(err, e.file.Close())
}

// featureSampler is a feed's source of clips that gives features in place of pixels where they are kept. An item is one
// number, hasFeatures or hasPixels, then features [N,D] and pixels [3,T,H,W], each at a place of its own for objective
// Masked, which always needs pixels and whose features may be missing, and at the same place otherwise.
type featureSampler struct {
	data   *video.Dataset
	cache  *Features // may be nil
	key    string
	masked bool
	values int      // features of a clip
	names  sync.Map // of clips whose features are on their way: index to name. To ask again might bring a video back
}

const (
	hasPixels   float32 = 0
	hasFeatures float32 = 1
)

// sampler makes the encoder's source of clips.
func (e *frozenEncoder) sampler(data *video.Dataset, cache *Features) video.Sampler {
	c := e.embedding.Config
	e.from = &featureSampler{data: data, cache: cache, key: e.key, masked: c.Objective == model.Masked, values: c.FeatureValues()}
	return e.from
}

// pixels is where an item's pixels begin.
func (s *featureSampler) pixels() int {
	if s.masked {
		return 1 + s.values
	}
	return 1
}

// ClipSize implements video.Sampler.
func (s *featureSampler) ClipSize() int { return max(1+s.values, s.pixels()+s.data.ClipSize()) }

// Sample implements video.Sampler.
func (s *featureSampler) Sample(ctx context.Context, seed uint64, index int64, dst []float32) (video.SampleInfo, error) {
	dst[0] = hasPixels
	if s.cache != nil {
		name, err := s.name(ctx, seed, index)
		if err != nil {
			return video.SampleInfo{}, err
		}
		if s.cache.get(name, dst[1:1+s.values]) {
			dst[0] = hasFeatures
			if !s.masked {
				return video.SampleInfo{}, nil
			}
		} else {
			s.names.Store(index, name)
		}
	}
	return s.data.Sample(ctx, seed, index, dst[s.pixels():s.pixels()+s.data.ClipSize()])
}

// name is under what the features of a clip are kept.
func (s *featureSampler) name(ctx context.Context, seed uint64, index int64) (string, error) {
	clip, err := s.data.ClipKey(ctx, seed, index)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(s.key + clip))
	return hex.EncodeToString(sum[:]), nil
}

// input fills in the features, and the pixels that the graph needs, of a batch of items that begins with clip number
// first of the run. Clips without features are encoded, all in one run of the encoder, and kept.
func (e *frozenEncoder) input(m graph.Buffers, t *model.Training, first int64, items []float32) error {
	s := e.from
	item, clip := s.ClipSize(), s.data.ClipSize()
	features := m.Floats(t.Features) // [B,N·D]
	if len(items) != t.Clips*item {
		return fmt.Errorf("clips of %d values, want %d", len(items), t.Clips*item)
	}
	var missing []int
	encode := e.machine.Floats(e.embedding.Clip)
	for i := range t.Clips {
		x := items[i*item : (i+1)*item]
		pixels := x[s.pixels():]
		if s.masked {
			copy(m.Floats(t.Clip)[i*clip:(i+1)*clip], pixels)
		}
		if x[0] == hasFeatures {
			copy(features[i*s.values:], x[1:1+s.values])
			continue
		}
		copy(encode[len(missing)*clip:(len(missing)+1)*clip], pixels)
		missing = append(missing, i)
	}
	if len(missing) == 0 {
		return nil
	}
	if err := e.machine.SetClips(len(missing)); err != nil {
		return err
	}
	if err := e.machine.Run(); err != nil {
		return fmt.Errorf("frozen encoder: %w", err)
	}
	e.encoded += len(missing)
	tokens := e.machine.Floats(e.embedding.Tokens)
	for k, i := range missing {
		values := tokens[k*s.values : (k+1)*s.values]
		copy(features[i*s.values:], values)
		if s.cache == nil {
			continue
		}
		if name, ok := s.names.LoadAndDelete(first + int64(i)); ok {
			s.cache.put(name.(string), values)
		}
	}
	return nil
}
