// Package jobspec checks a job's specification and fills in its defaults, once, for the coordinator that stores the job
// and for commands that run it in their own process.
package jobspec

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/surmise-ml/surmise/masking"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// A FieldError says what is wrong with one field.
type FieldError struct {
	Field   string // path below the specification, such as "train.model.patch"
	Problem string // names the value
}

// Errors is every fault found in a specification.
type Errors []FieldError

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Field + ": " + f.Problem
	}
	return strings.Join(lines, "; ")
}

// Complete returns a copy of spec with every default filled in, as the comments of job.proto state them. An error is an
// Errors unless a rule itself is broken. Left to the worker, which has the model: a scoring job's window, contexts and
// top_tokens, and what its protocol or dataset settles; a ranking job's context_frames; frame_step and fps of both, and the
// seed, which for the twin is that of the model's training; and threads, 0 for all that it has.
func Complete(spec *surmisev1.JobSpec) (*surmisev1.JobSpec, error) {
	if err := Validate(spec); err != nil {
		return nil, err
	}
	spec = proto.CloneOf(spec)
	var errs Errors
	switch kind := spec.Kind.(type) {
	case *surmisev1.JobSpec_Train:
		errs = completeTrain(kind.Train)
	case *surmisev1.JobSpec_Score:
		errs = completeScore(kind.Score)
	case *surmisev1.JobSpec_Rank:
		errs = completeRank(kind.Rank)
	}
	errs = append(errs, secretsInURIs("", spec.ProtoReflect())...)
	if errs != nil {
		return nil, errs
	}
	return spec, nil
}

// Model is the model that a job reads, and the field that names it: the one to be scored or ranked with, a training job's
// frozen encoder, or the one whose weights training begins with. Both are "" for a job that reads none.
func Model(spec *surmisev1.JobSpec) (name, field string) {
	switch train := spec.GetTrain(); {
	case train.GetEncoder() != nil:
		return train.GetEncoder().GetFrom(), "train.encoder.from"
	case train.GetInit() != nil:
		return train.GetInit().GetFrom(), "train.init.from"
	case spec.GetRank() != nil:
		return spec.GetRank().GetModel(), "rank.model"
	case spec.GetScore() != nil:
		return spec.GetScore().GetModel(), "score.model"
	}
	return "", ""
}

// secretsInURIs faults every text that is a URI with a password: a job is stored, listed and logged. The fault does not
// show it.
func secretsInURIs(path string, m protoreflect.Message) Errors {
	var errs Errors
	check := func(field string, v protoreflect.Value) {
		u, err := url.Parse(v.String())
		if err == nil && u.Scheme != "" && u.User != nil {
			errs = append(errs, FieldError{field, "must not hold a user name or password: a worker finds them in its environment"})
		}
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := path + string(field.Name())
		switch {
		case !m.Has(field) || field.IsMap():
		case field.IsList():
			for j := range m.Get(field).List().Len() {
				element, at := m.Get(field).List().Get(j), fmt.Sprintf("%s[%d]", name, j)
				if field.Message() != nil {
					errs = append(errs, secretsInURIs(at+".", element.Message())...)
				} else if field.Kind() == protoreflect.StringKind {
					check(at, element)
				}
			}
		case field.Message() != nil:
			errs = append(errs, secretsInURIs(name+".", m.Get(field).Message())...)
		case field.Kind() == protoreflect.StringKind:
			check(name, m.Get(field))
		}
	}
	return errs
}

// Validate holds a message against the rules written in its .proto file. An error is an Errors unless a rule itself is
// broken.
func Validate(m proto.Message) error {
	err := protovalidate.Validate(m)
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	var errs Errors
	for _, v := range invalid.Violations {
		field := protovalidate.FieldPathString(v.Proto.GetField())
		if field == "" && v.RuleDescriptor == nil {
			field = "(message)"
		}
		problem := strings.Replace(v.Proto.GetMessage(), "in list [, ", "in list [", 1) // that it may be left empty goes without saying
		if got := short(v.FieldValue); got != "" {
			problem += ", got " + got
		}
		errs = append(errs, FieldError{field, problem})
	}
	return errs
}

// short is a value for an error: how many a list or map holds, nothing for messages and long texts.
func short(v protoreflect.Value) string {
	if !v.IsValid() {
		return ""
	}
	switch v := v.Interface().(type) {
	case protoreflect.List:
		return strconv.Itoa(v.Len())
	case protoreflect.Map:
		return strconv.Itoa(v.Len())
	case protoreflect.Message:
		return ""
	default:
		text := fmt.Sprint(v)
		if len(text) > 64 {
			return ""
		}
		return text
	}
}

// A preset is where the defaults of a training job come from.
type preset struct {
	batch int32
	model *surmisev1.ModelSpec
}

// presets are the shapes of trainer/model.Preset, which this package does not import; a
// test of the worker holds the two together.
func presetOf(name string) preset {
	masked := func(batch, size, patch, dim, depth, heads, predDim, predDepth, predHeads int32) preset {
		return preset{batch, &surmisev1.ModelSpec{
			Objective: "masked", Size: size, Frames: 16, Patch: patch, Tubelet: 2, Dim: dim, Depth: depth, Heads: heads,
			PredDim: predDim, PredDepth: predDepth, PredHeads: predHeads, Positions: "uniform",
		}}
	}
	switch name {
	case "nano":
		return masked(16, 64, 8, 96, 4, 3, 48, 2, 3)
	case "tiny":
		return masked(8, 112, 16, 192, 12, 3, 96, 6, 3)
	case "small":
		return masked(2, 224, 16, 384, 12, 6, 192, 6, 6)
	}
	return preset{16, &surmisev1.ModelSpec{
		Objective: "next_tubelet", Size: 64, Frames: 16, Patch: 8, Tubelet: 2,
		Dim: 128, Depth: 4, Heads: 2, PredDim: 128, PredDepth: 3, PredHeads: 2, Positions: "uniform",
	}}
}

// maxDataBytes keeps a job, which is sent whole and in lists, well below what a message may hold.
const maxDataBytes = 1 << 20

func bytesOf(names []string) (sum int) {
	for _, name := range names {
		sum += len(name)
	}
	return sum
}

// maxEvaluations keeps the files of a run's evaluations well below what one artifact may hold.
const maxEvaluations = 4000

func completeTrain(t *surmisev1.TrainSpec) Errors {
	var errs Errors
	if size := bytesOf(t.Data); size > maxDataBytes {
		errs = append(errs, FieldError{"train.data", fmt.Sprintf("must hold at most %d bytes of paths, got %d: name folders, globs or a CSV index", maxDataBytes, size)})
	}
	setDefault(&t.Preset, "demo")
	preset := presetOf(t.Preset)
	setDefault(&t.Steps, 600)
	setDefault(&t.Batch, preset.batch)
	setDefault(&t.LogEvery, 10)
	setDefault(&t.CheckpointEvery, 100)
	setDefault(&t.Precision, "auto")
	setDefault(&t.Device, "auto")

	if t.Model == nil {
		t.Model = &surmisev1.ModelSpec{}
	}
	if t.Mask != nil {
		setDefault(&t.Model.Objective, "masked")
	}
	if t.Encoder != nil {
		if t.Model.Target == "pixels" || t.Model.Target == "raw_pixels" {
			errs = append(errs, FieldError{"train.model.target", "must be representation with train.encoder, got " + t.Model.Target})
		}
		setDefault(&t.Model.PredMlp, "gelu")
		preset.model = predictorOf(preset.model)
	}
	if t.Init != nil {
		if t.Encoder != nil {
			errs = append(errs, FieldError{"train.init", "excludes train.encoder: train on from a model, or train a predictor on a frozen encoder"})
		}
		preset.model = &surmisev1.ModelSpec{} // its checkpoint says, as a frozen encoder's does
	}
	errs = append(errs, completeModel(t.Model, preset.model)...)

	if t.Model.Objective == "next_tubelet" && t.Mask != nil {
		errs = append(errs, FieldError{"train.mask", "needs train.model.objective masked, got next_tubelet"})
	}
	if t.Model.Objective == "masked" {
		if t.Mask == nil {
			t.Mask = &surmisev1.MaskSpec{}
		}
		errs = append(errs, completeMask(t.Mask, t.Model)...)
	}

	if t.Sampling == nil {
		t.Sampling = &surmisev1.SamplingSpec{}
	}
	if t.Encoder != nil {
		errs = append(errs, completeFrozenSampling(t.Sampling)...)
	}
	errs = append(errs, completeSampling(t.Sampling, t.Model.Size, len(t.Data))...)

	if t.Optimizer == nil {
		t.Optimizer = &surmisev1.OptimizerSpec{}
	}
	errs = append(errs, completeOptimizer(t.Optimizer, t.Steps)...)
	if t.Eval != nil {
		setDefault(&t.Eval.Every, 100)
		if n := t.Steps / t.Eval.Every; n > maxEvaluations {
			errs = append(errs, FieldError{"train.eval.every", fmt.Sprintf("must give at most %d evaluations in %d steps, got every %d steps", maxEvaluations, t.Steps, t.Eval.Every)})
		}
		if t.Model.Frames != 0 { // else a checkpoint says
			setDefault(&t.Eval.Stride, max(1, t.Model.Frames/2))
			if t.Eval.Stride > t.Model.Frames {
				errs = append(errs, FieldError{"train.eval.stride", fmt.Sprintf("must not exceed train.model.frames %d, the window, or no window covers the frames between, got %d", t.Model.Frames, t.Eval.Stride)})
			}
		}
	}
	return errs
}

// predictorOf is a preset without what a frozen encoder's checkpoint settles, which is not known here: it stays zero
// until the worker has filled it in and completes the job again.
func predictorOf(m *surmisev1.ModelSpec) *surmisev1.ModelSpec {
	return &surmisev1.ModelSpec{Objective: m.Objective, PredDim: m.PredDim, PredDepth: m.PredDepth, PredHeads: m.PredHeads}
}

// completeFrozenSampling has every clip come again as it was, since what a frozen encoder gives of it is computed once.
func completeFrozenSampling(s *surmisev1.SamplingSpec) Errors {
	setDefault(&s.Windows, "uniform")
	setDefault(&s.ScaleMin, 1)
	setDefault(&s.ScaleMax, 1)
	setDefault(&s.AspectMin, 1)
	setDefault(&s.AspectMax, 1)
	var errs Errors
	if s.Windows != "uniform" {
		errs = append(errs, FieldError{"train.sampling.windows", fmt.Sprintf("must be uniform with train.encoder, whose output is computed once for each clip, got %s", s.Windows)})
	}
	for _, f := range []struct {
		field       string
		value, want float64
	}{
		{"scale_min", s.ScaleMin, 1}, {"scale_max", s.ScaleMax, 1}, {"aspect_min", s.AspectMin, 1}, {"aspect_max", s.AspectMax, 1},
		{"brightness", s.Brightness, 0}, {"contrast", s.Contrast, 0}, {"saturation", s.Saturation, 0}, {"hue", s.Hue, 0},
	} {
		if f.value != f.want {
			errs = append(errs, FieldError{"train.sampling." + f.field, fmt.Sprintf("must be %g with train.encoder, whose output is computed once for each clip, got %g", f.want, f.value)})
		}
	}
	return errs
}

func completeModel(m, preset *surmisev1.ModelSpec) Errors {
	setDefault(&m.Objective, preset.Objective)
	setDefault(&m.Size, preset.Size)
	setDefault(&m.Frames, preset.Frames)
	setDefault(&m.Patch, preset.Patch)
	setDefault(&m.Tubelet, preset.Tubelet)
	setDefault(&m.Dim, preset.Dim)
	setDefault(&m.Depth, preset.Depth)
	setDefault(&m.Heads, preset.Heads)
	setDefault(&m.PredDim, preset.PredDim)
	setDefault(&m.PredDepth, preset.PredDepth)
	setDefault(&m.PredHeads, preset.PredHeads)
	setDefault(&m.Positions, preset.Positions)
	if preset.Objective != "" { // else the checkpoint of the model to train on from says
		setDefault(&m.Target, "representation")
	}
	if preset.Size != 0 { // else that, or a frozen encoder's
		setDefault(&m.Mlp, "gelu")
		setDefault(&m.PredMlp, m.Mlp)
	}

	var errs Errors
	multiple := func(field string, value int32, of string, unit int32) {
		if value != 0 && unit != 0 && value%unit != 0 {
			errs = append(errs, FieldError{"train.model." + field, fmt.Sprintf("must be a multiple of %s %d, got %d", of, unit, value)})
		}
	}
	multiple("size", m.Size, "patch", m.Patch)
	multiple("frames", m.Frames, "tubelet", m.Tubelet)
	multiple("dim", m.Dim, "heads", m.Heads)
	multiple("pred_dim", m.PredDim, "pred_heads", m.PredHeads)
	if strings.HasPrefix(m.Positions, "rope") {
		for _, f := range []struct {
			field        string
			width, heads int32
		}{{"dim", m.Dim, m.Heads}, {"pred_dim", m.PredDim, m.PredHeads}} {
			if f.heads != 0 && f.width != 0 && f.width/f.heads < 6 {
				errs = append(errs, FieldError{"train.model." + f.field, fmt.Sprintf("must give each of %d heads at least 6 features for positions %s, got %d", f.heads, m.Positions, f.width)})
			}
		}
	}
	if n := tokensOf(m); n > maxTokens {
		errs = append(errs, FieldError{"train.model.size", fmt.Sprintf("must give a clip at most %d tokens, got %d of %d frames by %d px: take larger tubelets or patches, or fewer frames", maxTokens, n, m.Tubelet, m.Patch)})
	}
	if m.Objective == "next_tubelet" && m.Tubelet != 0 && m.Frames != 0 && m.Frames/m.Tubelet < 2 {
		errs = append(errs, FieldError{"train.model.frames", fmt.Sprintf("next_tubelet needs at least two tubelets of %d frames, got %d frames", m.Tubelet, m.Frames)})
	}
	return errs
}

func completeMask(m *surmisev1.MaskSpec, model *surmisev1.ModelSpec) Errors {
	var errs Errors
	setDefault(&m.Kind, "multiblock3d")
	foreign := func(field, kind string, given bool) {
		if given && m.Kind != kind {
			errs = append(errs, FieldError{"train.mask." + field, fmt.Sprintf("belongs to kind %s, got kind %s", kind, m.Kind)})
		}
	}
	foreign("blocks", "multiblock3d", len(m.Blocks) > 0)
	foreign("ratio", "tube", m.Ratio != 0)
	foreign("context_tubelets", "causal", len(m.ContextTubelets) > 0)

	known := model.Size != 0 && model.Frames != 0 && model.Patch != 0 && model.Tubelet != 0 // else a frozen encoder's checkpoint says
	var tubelets int32
	if known {
		tubelets = model.Frames / model.Tubelet
	}
	switch m.Kind {
	case "multiblock3d":
		if len(m.Blocks) == 0 {
			m.Blocks = []*surmisev1.MaskBlocks{{Count: 8, SpatialScale: 0.15}, {Count: 2, SpatialScale: 0.7}}
		}
		for i, b := range m.Blocks {
			setDefault(&b.Count, 1)
			setDefault(&b.SpatialScale, 0.15)
			setDefault(&b.TemporalScale, 1)
			setDefault(&b.AspectMin, 0.75)
			setDefault(&b.AspectMax, 1.5)
			errs = append(errs, ordered(fmt.Sprintf("train.mask.blocks[%d].aspect_min", i), b.AspectMin, b.AspectMax)...)
		}
	case "tube":
		setDefault(&m.Ratio, 0.9)
	case "causal":
		if !known {
			break
		}
		if tubelets < 2 {
			return append(errs, FieldError{"train.model.frames", fmt.Sprintf("a causal mask needs at least two tubelets of %d frames, got %d frames", model.Tubelet, model.Frames)})
		}
		if len(m.ContextTubelets) == 0 {
			for _, c := range masking.DefaultContexts(int(tubelets)) {
				m.ContextTubelets = append(m.ContextTubelets, int32(c))
			}
		}
	}
	if known && len(errs) == 0 {
		errs = checkMask(m, model)
	}
	return errs
}

// maxTokens is how many tokens a clip may have.
const maxTokens = 1 << 16

// checkMask says what masks cannot be drawn on the model's grid, which is for others to judge.
func checkMask(m *surmisev1.MaskSpec, model *surmisev1.ModelSpec) Errors {
	side := int(model.Size / model.Patch)
	grid := masking.Grid{T: int(model.Frames / model.Tubelet), H: side, W: side}
	if tokensOf(model) > maxTokens { // to draw on it would take long
		return nil
	}
	_, err := masking.New(Masks(m), grid)
	var field *masking.FieldError
	if !errors.As(err, &field) || strings.HasPrefix(field.Field, "grid") {
		return nil
	}
	name := strings.NewReplacer("num_blocks", "count", "aspect_ratio", "aspect_min").Replace(field.Field)
	return Errors{{"train.mask." + name, fmt.Sprintf("%s, got %v", field.Reason, field.Value)}}
}

// tokensOf is how many tokens a clip has; 0 where that is not known yet.
func tokensOf(m *surmisev1.ModelSpec) int64 {
	if m.Patch == 0 || m.Tubelet == 0 {
		return 0
	}
	side := int64(m.Size / m.Patch)
	return side * side * int64(m.Frames/m.Tubelet)
}

// Masks maps a complete mask spec, field by field.
func Masks(m *surmisev1.MaskSpec) masking.Spec {
	spec := masking.Spec{Kind: m.GetKind(), Ratio: m.GetRatio()}
	for _, b := range m.GetBlocks() {
		spec.Blocks = append(spec.Blocks, masking.BlockSpec{
			NumBlocks:     int(b.GetCount()),
			SpatialScale:  [2]float64{b.GetSpatialScale(), b.GetSpatialScale()},
			TemporalScale: [2]float64{b.GetTemporalScale(), b.GetTemporalScale()},
			AspectRatio:   [2]float64{b.GetAspectMin(), b.GetAspectMax()},
		})
	}
	for _, c := range m.GetContextTubelets() {
		spec.ContextTubelets = append(spec.ContextTubelets, int(c))
	}
	return spec
}

func completeSampling(s *surmisev1.SamplingSpec, size int32, names int) Errors {
	if s.Fps == 0 {
		setDefault(&s.FrameStep, 1)
	}
	setDefault(&s.ScaleMin, min(0.3, orOne(s.ScaleMax)))
	setDefault(&s.ScaleMax, 1)
	setDefault(&s.AspectMin, 0.75)
	setDefault(&s.AspectMax, 1.35)
	setOptional(&s.MaxUnusable, 0.2)
	setDefault(&s.ClipsPerVideo, 1)
	setDefault(&s.Windows, "random")
	setDefault(&s.ShortSide, 2*size)
	if n := len(s.Weights); n > 0 && n != names {
		return Errors{{"train.sampling.weights", fmt.Sprintf("must be one for each of the %d names in train.data, or none, got %d", names, n)}}
	}
	if len(s.Weights) > 0 && slices.Max(s.Weights) == 0 {
		return Errors{{"train.sampling.weights", "must not all be 0"}}
	}
	return append(ordered("train.sampling.scale_min", s.ScaleMin, s.ScaleMax),
		ordered("train.sampling.aspect_min", s.AspectMin, s.AspectMax)...)
}

func orOne(v float64) float64 {
	if v == 0 {
		return 1
	}
	return v
}

func completeOptimizer(o *surmisev1.OptimizerSpec, steps int32) Errors {
	setDefault(&o.LearningRate, 1e-3)
	setOptional(&o.StartLearningRate, o.LearningRate/5)
	setOptional(&o.FinalLearningRate, min(1e-6, o.LearningRate))
	setOptional(&o.WarmupSteps, steps/10)
	setOptional(&o.WeightDecay, 0.04)
	setOptional(&o.FinalWeightDecay, 0.4)
	setOptional(&o.EmaStart, 0.99)
	setOptional(&o.EmaEnd, 1)
	setOptional(&o.ClipNorm, 10)
	setDefault(&o.LossExponent, 1)
	if *o.WarmupSteps > steps {
		return Errors{{"train.optimizer.warmup_steps", fmt.Sprintf("must not exceed steps %d, got %d", steps, *o.WarmupSteps)}}
	}
	return ordered("train.optimizer.ema_start", *o.EmaStart, *o.EmaEnd)
}

func completeScore(s *surmisev1.ScoreSpec) Errors {
	var errs Errors
	fault := func(field, problem string, args ...any) {
		errs = append(errs, FieldError{"score." + field, fmt.Sprintf(problem, args...)})
	}
	for i := 1; i < len(s.Contexts); i++ {
		if s.Contexts[i] <= s.Contexts[i-1] {
			fault(fmt.Sprintf("contexts[%d]", i), "must be above the one before, %d, got %d", s.Contexts[i-1], s.Contexts[i])
		}
	}
	switch {
	case s.Dataset == "" && s.Pairs == "" && len(s.Videos) == 0:
		fault("pairs", "is required unless a dataset or videos are named")
	case s.Dataset != "" && s.Pairs != "":
		fault("pairs", "must be empty with score.dataset %s, got %q", s.Dataset, s.Pairs)
	case len(s.Videos) > 0 && s.Pairs != "":
		fault("videos", "must be empty with score.pairs %q, got %d names", s.Pairs, len(s.Videos))
	case len(s.Videos) > 0 && s.Dataset != "":
		fault("videos", "must be empty with score.dataset %s, got %d names", s.Dataset, len(s.Videos))
	}
	if size := bytesOf(s.Videos); size > maxDataBytes {
		fault("videos", "must hold at most %d bytes of paths, got %d: name folders, globs or a CSV index", maxDataBytes, size)
	}
	for _, control := range []struct {
		field string
		asked bool
	}{{"reencode", s.Reencode}, {"recolour", s.Recolour}, {"time_reversal", s.TimeReversal}} {
		if control.asked && len(s.Videos) > 0 {
			fault(control.field, "must be false with score.videos: controls are of possible videos, and those have no labels")
		}
	}
	switch {
	case s.Dataset == "" && s.Root != "":
		fault("root", "belongs to score.dataset, which is empty, got %q", s.Root)
	case s.Dataset != "" && s.Root == "":
		fault("root", "is required with score.dataset %s", s.Dataset)
	}
	if s.Protocol != "" {
		settled := []struct {
			field string
			given bool
		}{{"window", s.Window != 0}, {"stride", s.Stride != 0}, {"contexts", len(s.Contexts) > 0}}
		if s.Protocol != "continuous" {
			settled = append(settled, []struct {
				field string
				given bool
			}{{"frame_step", s.FrameStep != 0}, {"fps", s.Fps != 0}, {"top_tokens", s.TopTokens != nil}}...)
		}
		for _, f := range settled {
			if f.given {
				fault(f.field, "is settled by score.protocol %s and must be left empty", s.Protocol)
			}
		}
	}
	setDefault(&s.Precision, "auto")
	setDefault(&s.Device, "auto")
	if s.Protocol == "" {
		setDefault(&s.Stride, 2)
	}
	setDefault(&s.MaxFrames, 1024)
	if s.Window != 0 && s.Protocol == "" && s.Stride > s.Window {
		fault("stride", "must not exceed window %d, or no window covers the frames between, got %d", s.Window, s.Stride)
	}
	for i, c := range s.Contexts {
		if s.Window != 0 && c >= s.Window {
			fault(fmt.Sprintf("contexts[%d]", i), "must be below window %d, got %d", s.Window, c)
		}
	}
	return errs
}

// maxCandidates keeps the answer of a ranking job below what a message may hold.
const maxCandidates = 20_000

// madeCandidates is at most how many futures are made of one clip.
const madeCandidates = 4

func completeRank(r *surmisev1.RankSpec) Errors {
	setDefault(&r.Measure, "mean")
	setDefault(&r.Precision, "auto")
	setDefault(&r.Device, "auto")
	size, candidates := 0, 0
	for _, s := range r.Sets {
		size += len(s.Context)
		for _, c := range s.Candidates {
			size += len(c)
		}
		candidates += len(s.Candidates)
		if s.Make != "" {
			candidates += madeCandidates
		}
	}
	var errs Errors
	if size > maxDataBytes {
		errs = append(errs, FieldError{"rank.sets", fmt.Sprintf("must hold at most %d bytes of paths, got %d: rank in several jobs", maxDataBytes, size)})
	}
	if candidates > maxCandidates {
		errs = append(errs, FieldError{"rank.sets", fmt.Sprintf("must hold at most %d candidates, got %d: rank in several jobs", maxCandidates, candidates)})
	}
	return errs
}

// ordered faults field when its value lies above the end of its range.
func ordered(field string, low, high float64) Errors {
	if low <= high && !math.IsInf(high, 0) {
		return nil
	}
	return Errors{{field, fmt.Sprintf("must not exceed the end of its range %g, got %g", high, low)}}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func setOptional[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
