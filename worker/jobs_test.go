package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/tensorboard"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/synth"
)

func complete(t *testing.T, text string) *surmisev1.JobSpec {
	t.Helper()
	spec := &surmisev1.JobSpec{}
	if err := protojson.Unmarshal([]byte(text), spec); err != nil {
		t.Fatal(err)
	}
	spec, err := jobspec.Complete(spec)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// ran is what a job leaves that must not fail, in a folder of its own; modelPath is the model that it names, if any.
func ran(t *testing.T, jobs Jobs, text, modelPath string) *surmisev1.Result {
	t.Helper()
	a := Assignment{Job: "jobs/a", Epoch: 1, Spec: complete(t, text), ArtifactDir: t.TempDir(), ModelPath: modelPath}
	r, err := jobs.Run(t.Context(), a, &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTrainConfigOfTheSmallestJob(t *testing.T) {
	cfg, err := TrainConfig(complete(t, `{"train":{"data":["clips"]}}`).GetTrain(), []string{"/data"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (model.Config{}).WithDefaults(); cfg.Model != want {
		t.Errorf("model %+v, want the demo's %+v", cfg.Model, want)
	}
	wantData := video.Spec{Data: []string{"clips"}, Size: 64, Frames: 16, FrameStep: 1, ScaleMin: 0.3, ScaleMax: 1,
		AspectMin: 0.75, AspectMax: 1.35, ShortSide: 128, ClipsPerVideo: 1, Windows: "random", MaxUnusable: 0.2, Roots: []string{"/data"}}
	if !reflect.DeepEqual(cfg.Data, wantData) {
		t.Errorf("data %+v, want %+v", cfg.Data, wantData)
	}
	cfg.Model, cfg.Data = model.Config{}, video.Spec{}
	got := fmt.Sprintf("%+v", cfg)
	for _, part := range []string{"Steps:600", "Batch:16", "Seed:0", "Threads:0", "Precision:auto", "LearningRate:0.001", "StartLR:0.0002", "FinalLR:1e-06",
		"WarmupSteps:60", "WeightDecay:0.04", "FinalWeightDecay:0.4", "EMAStart:0.99", "EMAEnd:1", "ScheduleScale:1", "ClipNorm:10",
		"LossExponent:1", "VarianceCoeff:0", "LogEvery:10", "CheckpointEvery:100", "Truncate:false"} {
		if !strings.Contains(got, part+" ") && !strings.HasSuffix(got, part+"}") {
			t.Errorf("config lacks %s: %s", part, got)
		}
	}
}

func TestTrainConfigOfAMaskedJob(t *testing.T) {
	cfg, err := TrainConfig(complete(t, `{"train":{"data":["file:///v%20ids/a.mp4"],"preset":"tiny","model":{"positions":"sincos"},
		"mask":{"blocks":[{"count":3,"spatialScale":0.4,"temporalScale":0.5,"aspectMin":1,"aspectMax":2}]},
		"sampling":{"fps":8,"maxUnusable":0},"optimizer":{"warmupSteps":0}}}`).GetTrain(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Model.MaskTokens != 1 || cfg.Model.Positions != model.SinCos || cfg.Model.Objective != model.Masked {
		t.Errorf("model %+v", cfg.Model)
	}
	if b := cfg.Mask.Blocks; len(b) != 1 || b[0].NumBlocks != 3 || b[0].SpatialScale != [2]float64{0.4, 0.4} ||
		b[0].TemporalScale != [2]float64{0.5, 0.5} || b[0].AspectRatio != [2]float64{1, 2} {
		t.Errorf("mask %+v", cfg.Mask)
	}
	if cfg.Data.Data[0] != "/v ids/a.mp4" || cfg.Data.FPS != 8 || cfg.Data.FrameStep != 0 || cfg.Data.MaxUnusable >= 0 {
		t.Errorf("data %+v: want the URI's path, 8 frames/s, and no unusable file allowed", cfg.Data)
	}
	if cfg.WarmupSteps != 0 {
		t.Errorf("warmup_steps %d, want the 0 that was asked for", cfg.WarmupSteps)
	}
}

// Every field of the API must reach the config: a new one that nobody maps would be ignored in silence.
func TestEveryFieldIsMapped(t *testing.T) {
	base := complete(t, `{"train":{"data":["clips"],"model":{"objective":"masked"},"mask":{"kind":"multiblock3d"}}}`).GetTrain()
	baseCfg, err := TrainConfig(base, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := map[protoreflect.FullName]func(*surmisev1.TrainSpec){ // where 7 or so will not do
		"surmise.v1.TrainSpec.preset":             nil, // only where defaults come from
		"surmise.v1.TrainSpec.device":             nil, // for Jobs, which opens it
		"surmise.v1.EvalSpec.pairs":               nil, // for the evaluator, not the trainer
		"surmise.v1.EvalSpec.every":               nil,
		"surmise.v1.EvalSpec.stride":              nil,
		"surmise.v1.EncoderSpec.from":             nil, // for Jobs.trainConfig, which opens it
		"surmise.v1.EncoderSpec.frozen":           nil,
		"surmise.v1.InitSpec.from":                nil,
		"surmise.v1.ModelSpec.mlp":                func(s *surmisev1.TrainSpec) { s.Model.Mlp = "swiglu" },
		"surmise.v1.ModelSpec.pred_mlp":           func(s *surmisev1.TrainSpec) { s.Model.PredMlp = "swiglu" },
		"surmise.v1.ModelSpec.target":             func(s *surmisev1.TrainSpec) { s.Model.Target = "pixels" },
		"surmise.v1.TrainSpec.precision":          func(s *surmisev1.TrainSpec) { s.Precision = "bf16" },
		"surmise.v1.TrainSpec.steps":              func(s *surmisev1.TrainSpec) { s.Steps = 700 },
		"surmise.v1.ModelSpec.objective":          func(s *surmisev1.TrainSpec) { s.Model.Objective = "next_tubelet" },
		"surmise.v1.ModelSpec.positions":          func(s *surmisev1.TrainSpec) { s.Model.Positions = "sincos" },
		"surmise.v1.ModelSpec.size":               func(s *surmisev1.TrainSpec) { s.Model.Size = 32 },
		"surmise.v1.ModelSpec.frames":             func(s *surmisev1.TrainSpec) { s.Model.Frames = 8 },
		"surmise.v1.ModelSpec.patch":              func(s *surmisev1.TrainSpec) { s.Model.Patch = 16 },
		"surmise.v1.ModelSpec.tubelet":            func(s *surmisev1.TrainSpec) { s.Model.Tubelet = 4 },
		"surmise.v1.ModelSpec.dim":                func(s *surmisev1.TrainSpec) { s.Model.Dim = 64 },
		"surmise.v1.ModelSpec.heads":              func(s *surmisev1.TrainSpec) { s.Model.Heads = 4 },
		"surmise.v1.ModelSpec.pred_dim":           func(s *surmisev1.TrainSpec) { s.Model.PredDim = 64 },
		"surmise.v1.ModelSpec.pred_heads":         func(s *surmisev1.TrainSpec) { s.Model.PredHeads = 4 },
		"surmise.v1.MaskSpec.kind":                func(s *surmisev1.TrainSpec) { s.Mask.Kind = "tube" },
		"surmise.v1.MaskSpec.blocks":              func(s *surmisev1.TrainSpec) { s.Mask.Blocks = s.Mask.Blocks[:1] },
		"surmise.v1.MaskSpec.ratio":               func(s *surmisev1.TrainSpec) { s.Mask.Ratio = 0.5 },
		"surmise.v1.SamplingSpec.scale_min":       func(s *surmisev1.TrainSpec) { s.Sampling.ScaleMin = 0.1 },
		"surmise.v1.SamplingSpec.scale_max":       func(s *surmisev1.TrainSpec) { s.Sampling.ScaleMax = 0.9 },
		"surmise.v1.SamplingSpec.aspect_min":      func(s *surmisev1.TrainSpec) { s.Sampling.AspectMin = 0.9 },
		"surmise.v1.SamplingSpec.windows":         func(s *surmisev1.TrainSpec) { s.Sampling.Windows = "uniform" },
		"surmise.v1.SamplingSpec.weights":         func(s *surmisev1.TrainSpec) { s.Sampling.Weights = []float64{2} },
		"surmise.v1.SamplingSpec.hue":             func(s *surmisev1.TrainSpec) { s.Sampling.Hue = 0.1 },
		"surmise.v1.SamplingSpec.max_unusable":    func(s *surmisev1.TrainSpec) { s.Sampling.MaxUnusable = proto.Float64(0.9) },
		"surmise.v1.OptimizerSpec.ema_start":      func(s *surmisev1.TrainSpec) { s.Optimizer.EmaStart = proto.Float64(0.5) },
		"surmise.v1.OptimizerSpec.ema_end":        func(s *surmisev1.TrainSpec) { s.Optimizer.EmaEnd = proto.Float64(0.995) },
		"surmise.v1.OptimizerSpec.schedule_scale": func(s *surmisev1.TrainSpec) { s.Optimizer.ScheduleScale = 1.25 },
		"surmise.v1.OptimizerSpec.clip_after":     func(s *surmisev1.TrainSpec) { s.Optimizer.ClipAfter = 3 },
		"surmise.v1.OptimizerSpec.warmup_steps":   func(s *surmisev1.TrainSpec) { s.Optimizer.WarmupSteps = proto.Int32(3) },
	}
	var walk func(get func(*surmisev1.TrainSpec) protoreflect.Message, d protoreflect.MessageDescriptor)
	walk = func(get func(*surmisev1.TrainSpec) protoreflect.Message, d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if f.Message() != nil && !f.IsList() {
				walk(func(s *surmisev1.TrainSpec) protoreflect.Message { return get(s).Mutable(f).Message() }, f.Message())
				continue
			}
			changed := proto.CloneOf(base)
			if change, ok := other[f.FullName()]; ok {
				if change == nil {
					continue
				}
				change(changed)
			} else {
				set(get(changed), f)
			}
			cfg, err := TrainConfig(changed, nil)
			if err != nil {
				t.Errorf("%s: %v", f.FullName(), err)
			} else if reflect.DeepEqual(cfg, baseCfg) {
				t.Errorf("%s does not reach trainer.Config", f.FullName())
			}
		}
	}
	walk(func(s *surmisev1.TrainSpec) protoreflect.Message { return s.ProtoReflect() }, base.ProtoReflect().Descriptor())
}

// set gives a field a value other than any default.
func set(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	value := func() protoreflect.Value {
		switch f.Kind() {
		case protoreflect.StringKind:
			return protoreflect.ValueOfString("other")
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(2.5)
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(7)
		}
		return protoreflect.ValueOfInt32(7)
	}()
	if f.IsList() {
		m.Mutable(f).List().Append(value)
		return
	}
	m.Set(f, value)
}

func TestScoreConfig(t *testing.T) {
	next, masked := model.Config{}.WithDefaults(), model.Config{Objective: model.Masked}.WithDefaults()
	for name, c := range map[string]struct {
		spec   string
		model  model.Config
		want   compare.Spec
		refuse string
	}{
		"next tubelet": {`{}`, next, compare.Spec{Window: 16, Stride: 2, FrameStep: 1, TopTokens: 4}, ""},
		"masked":       {`{}`, masked, compare.Spec{Window: 16, Stride: 2, FrameStep: 1, Contexts: []int{2, 4, 6, 8, 10}}, ""},
		"given": {`{"window":16,"stride":4,"fps":12,"contexts":[2,6],"topTokens":9}`, masked,
			compare.Spec{Window: 16, Stride: 4, FPS: 12, Contexts: []int{2, 6}, TopTokens: 9}, ""},
		"all tokens":              {`{"topTokens":0}`, next, compare.Spec{Window: 16, Stride: 2, FrameStep: 1}, ""},
		"another window":          {`{"window":8}`, next, compare.Spec{}, "score.window: 8 frames, but the model's clips have 16"},
		"contexts, next tubelet":  {`{"contexts":[4]}`, next, compare.Spec{}, "score.contexts: [4], want none"},
		"context fills the model": {`{"contexts":[16]}`, masked, compare.Spec{}, "score.contexts[0]: 16 frames"},
		"published": {`{"protocol":"intphys"}`, masked,
			compare.Spec{Protocol: "intphys", ProtocolVersion: 1, Window: 16, Stride: 2, FrameStep: 2, Contexts: []int{2, 4, 6, 8, 10}, MaxFrames: 49}, ""},
		"published, next tubelet": {`{"protocol":"intphys"}`, next, compare.Spec{}, "score.protocol: intphys predicts after contexts"},
		"published, too long":     {`{"protocol":"inflevel"}`, masked, compare.Spec{}, "score.protocol: inflevel takes windows of 32 frames"},
		"continuous": {`{"protocol":"continuous","fps":6}`, masked,
			compare.Spec{Protocol: "continuous", ProtocolVersion: 1, Window: 16, Stride: 2, FPS: 6, Contexts: []int{2, 4, 6, 8, 10, 12, 14}}, ""},
		"continuous, next tubelet": {`{"protocol":"continuous","topTokens":0}`, next,
			compare.Spec{Protocol: "continuous", ProtocolVersion: 1, Window: 16, Stride: 2, FrameStep: 1}, ""},
		"frames between windows":  {`{"stride":17}`, next, compare.Spec{}, "score.stride: 17 frames, above the window of 16"},
		"no frame in two windows": {`{"stride":16}`, next, compare.Spec{Window: 16, Stride: 16, FrameStep: 1, TopTokens: 4}, ""},
		"a dataset":               {`{"dataset":"grasp"}`, next, compare.Spec{Window: 16, Stride: 2, FrameStep: 10, TopTokens: 4}, ""},
		"a dataset, given":        {`{"dataset":"grasp","frameStep":3}`, next, compare.Spec{Window: 16, Stride: 2, FrameStep: 3, TopTokens: 4}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			from, usual := `"pairs":"p.csv"`, plausibility.Rate{FrameStep: 1}
			if strings.Contains(c.spec, "dataset") {
				from, usual.FrameStep = `"root":"r"`, 10
			}
			given := strings.Replace(c.spec, "{", `{"score":{`+from+`,"model":"m",`, 1)
			given = strings.Replace(given, ",}", "}", 1) + "}"
			cfg, err := scoreConfig(complete(t, given).GetScore(), c.model, usual)
			if c.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), c.refuse) {
					t.Errorf("error %v, want %q", err, c.refuse)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(cfg.Spec, c.want) {
				t.Errorf("spec %+v (%v), want %+v", cfg.Spec, err, c.want)
			}
		})
	}
}

// What a scoring job asks of the machine; a spec of before there was a choice is for fp32.
func TestScoreMachine(t *testing.T) {
	auto, err := cpu.Auto.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	all, err := trainer.Threads(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec *surmisev1.ScoreSpec
		want cpu.Options
	}{
		{&surmisev1.ScoreSpec{}, cpu.Options{Threads: all, Precision: cpu.FP32}},
		{&surmisev1.ScoreSpec{Threads: 1, Precision: "auto"}, cpu.Options{Threads: 1, Precision: auto}},
		{&surmisev1.ScoreSpec{Precision: "fp32"}, cpu.Options{Threads: all, Precision: cpu.FP32}},
	} {
		if got, err := machineOptions(c.spec.GetThreads(), c.spec.GetPrecision(), nil); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: got %+v (%v), want %+v", c.spec, got, err, c.want)
		}
	}
	train := complete(t, `{"train":{"data":["clips"]}}`).GetTrain()
	train.Precision = ""
	if old, err := TrainConfig(train, nil); err != nil || old.Precision != cpu.FP32 {
		t.Errorf("an old training spec: precision %q (%v), want fp32", old.Precision, err)
	}
}

// A setting that this machine cannot give is the job's fault, and named.
func TestMoreThanThisMachineHasIsTheJobsFault(t *testing.T) {
	all, err := trainer.Threads(0)
	if err != nil {
		t.Fatal(err)
	}
	const data, pairs = `"data":["/no such folder"]`, `"pairs":"/no such file","model":"m"`
	threads := fmt.Sprintf("threads is %d, want 1 to %d", all+1, all)
	cases := map[string]string{
		fmt.Sprintf(`{"train":{%s,"threads":%d}}`, data, all+1):  "train." + threads,
		fmt.Sprintf(`{"score":{%s,"threads":%d}}`, pairs, all+1): "score." + threads,
	}
	if _, lacking := cpu.BF16.Resolve(); lacking == nil {
		t.Log("this processor has bf16: that a missing one is refused goes untested")
	} else {
		cases[fmt.Sprintf(`{"train":{%s,"precision":"bf16"}}`, data)] = "train." + lacking.Error()
		cases[fmt.Sprintf(`{"score":{%s,"precision":"bf16"}}`, pairs)] = "score." + lacking.Error()
	}
	for spec, want := range cases {
		_, err := Jobs{}.Run(t.Context(), Assignment{Job: "jobs/a", Epoch: 1, Spec: complete(t, spec), ArtifactDir: filepath.Join(t.TempDir(), "1")}, &recorder{})
		if err == nil || !strings.HasPrefix(err.Error(), want) || IsInfrastructure(err) {
			t.Errorf("%s: error %v (infrastructure %v), want the job's, beginning with %q", spec, err, IsInfrastructure(err), want)
		}
	}
}

func TestKeepReachesBackToTheRecordedCheckpoint(t *testing.T) {
	for _, c := range []struct {
		published []int
		recorded  int
		want      int
	}{
		{[]int{10}, -1, 3},             // the one that was resumed from may be all that the coordinator knows
		{[]int{10, 20, 30}, 30, 2},     // in step
		{[]int{10, 20, 30}, 20, 2},     //
		{[]int{10, 20, 30, 40}, 10, 4}, // the coordinator was away
		{[]int{10, 20, 30}, -1, 5},
	} {
		if got := keep(c.published, c.recorded); got != c.want {
			t.Errorf("keep(%v, %d) = %d, want %d", c.published, c.recorded, got, c.want)
		}
	}
}

func TestBlame(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("save: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), true},
		{fmt.Errorf("read: %w", syscall.EIO), true},
		{fmt.Errorf("train.data[0]: %w", &source.AwayError{Err: errors.New("the server answers 503")}), true},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.EFBIG}, true}, // ulimit -f, or a quota of some file systems
		{infrastructure("no room"), true},
		{&fs.PathError{Op: "open", Path: "clips", Err: syscall.ENOENT}, false},
		{&fs.PathError{Op: "open", Path: "clips", Err: syscall.EACCES}, false},
		{errors.New("loss is NaN"), false},
		{&PanicError{Value: "x"}, false},
	} {
		if got := IsInfrastructure(c.err); got != c.want {
			t.Errorf("IsInfrastructure(%v) = %v", c.err, got)
		}
	}
}

// recorder is Reports that notes everything, and may end the job at a checkpoint.
type recorder struct {
	phases      []string
	checkpoints []*surmisev1.Checkpoint
	at          func(step int32)
}

func (r *recorder) Progress(p *surmisev1.Progress) {
	if len(r.phases) == 0 || r.phases[len(r.phases)-1] != p.Phase {
		r.phases = append(r.phases, p.Phase)
	}
}

func (r *recorder) Checkpoint(c *surmisev1.Checkpoint) {
	r.checkpoints = append(r.checkpoints, c)
	if r.at != nil {
		r.at(c.Step)
	}
}

func (r *recorder) Recorded() int32 {
	if len(r.checkpoints) == 0 {
		return -1
	}
	return r.checkpoints[len(r.checkpoints)-1].Step
}

const tinyTrain = `{"train":{"data":[%q],"steps":6,"batch":2,"threads":1,"checkpointEvery":2,"logEvery":1,
	"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}}}`

func tinyVideos(t *testing.T) synth.Summary {
	t.Helper()
	videos, err := synth.Generate(t.Context(), synth.Options{Dir: t.TempDir(), Clips: 4, Pairs: 2, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return videos
}

// A job that is stopped and given to another attempt ends with the weights of one that was not, and its model scores.
func TestTrainResumeAndScore(t *testing.T) {
	videos := tinyVideos(t)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	jobs := Jobs{DataRoots: []string{filepath.Dir(videos.PairsCSV)}}

	whole := filepath.Join(t.TempDir(), "attempts", "1")
	undisturbed := &recorder{}
	want, err := jobs.Run(t.Context(), Assignment{Job: "jobs/a", Epoch: 1, Spec: spec, ArtifactDir: whole}, undisturbed)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(undisturbed.phases, []string{"indexing", "training"}) || len(undisturbed.checkpoints) != 3 {
		t.Errorf("phases %v, %d checkpoints; want indexing, training, 3", undisturbed.phases, len(undisturbed.checkpoints))
	}
	if left, err := filepath.Glob(filepath.Join(whole, "checkpoints", "step-*")); err != nil || len(left) != keepCheckpoints {
		t.Errorf("checkpoints left %v (%v), want %d", left, err, keepCheckpoints)
	}

	dir := t.TempDir()
	ctx, stop := context.WithCancelCause(t.Context())
	first := &recorder{at: func(step int32) {
		if step == 4 {
			stop(ErrDrained)
		}
	}}
	_, err = jobs.Run(ctx, Assignment{Job: "jobs/b", Epoch: 1, Spec: spec, ArtifactDir: filepath.Join(dir, "1")}, first)
	if !errors.Is(err, ErrDrained) {
		t.Fatalf("a drained job ended with %v", err)
	}
	newest := first.checkpoints[len(first.checkpoints)-1]
	second := &recorder{}
	result, err := jobs.Run(t.Context(), Assignment{Job: "jobs/b", Epoch: 2, Spec: spec, ArtifactDir: filepath.Join(dir, "2"), ResumeFrom: newest}, second)
	if err != nil {
		t.Fatal(err)
	}
	if len(second.checkpoints) != 1 {
		t.Errorf("the second attempt made %d checkpoints, want 1: it did not go on from step %d", len(second.checkpoints), newest.Step)
	}
	modelOf := func(r *surmisev1.Result) string { return r.Artifacts[0].Path }
	if got, want := digest(t, modelOf(result)), digest(t, modelOf(want)); got != want {
		t.Errorf("weights %s, want those of the undisturbed run, %s", got, want)
	}
	var verdicts []video.Verdict
	if text, err := os.ReadFile(result.Artifacts[1].Path); err != nil || json.Unmarshal(text, &verdicts) != nil || len(verdicts) != 4 {
		t.Errorf("verdicts %v (%v), want 4", verdicts, err)
	}

	score := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/b","stride":8}}`, videos.PairsCSV))
	scored, err := jobs.Run(t.Context(), Assignment{Job: "jobs/c", Epoch: 1, Spec: score, ArtifactDir: filepath.Join(dir, "3"), ModelPath: modelOf(result)}, &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	file, err := compare.Load(scored.Artifacts[0].Path)
	if err != nil || len(file.Videos) != 4 || len(file.Sets) != 2 {
		t.Fatalf("scores %+v (%v), want 4 videos, model and twin", file, err)
	}
	here, err := cpu.Auto.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := checkpoint.Load(modelOf(result)); err != nil || c.Manifest.Precision != string(here) || file.Precision != string(here) {
		t.Errorf("the checkpoint records precision %q (%v), the scores %q, want %s", c.Manifest.Precision, err, file.Precision, here)
	}
	for _, v := range file.Videos {
		if filepath.IsAbs(v.Path) || file.Folder != filepath.Dir(videos.PairsCSV) {
			t.Errorf("the score file holds %q of %q, want the path that the pairs file names", v.Path, file.Folder)
		}
	}
	for _, name := range []string{"pairwise_accuracy", "twin_pairwise_accuracy", "auroc", "pairs"} {
		if _, ok := scored.Metrics[name]; !ok {
			t.Errorf("no figure %s in %v", name, scored.Metrics)
		}
	}
}

// A pairs file and data roots as a person at a shell names them: one relative, one absolute.
func TestScoreTakesRelativePaths(t *testing.T) {
	videos := tinyVideos(t)
	root := filepath.Dir(videos.PairsCSV)
	run := &recorder{}
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	spec.GetTrain().Steps = 1
	trained, err := Jobs{}.Train(t.Context(), spec.GetTrain(), filepath.Join(root, "run"), run)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	model, err := filepath.Rel(root, trained.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	score := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":8,"skipTwin":true}}`, filepath.Base(videos.PairsCSV), model)).GetScore()
	for _, roots := range [][]string{{root}, {"."}, nil} {
		if _, err := (Jobs{DataRoots: roots}).Score(t.Context(), score, score.Model, filepath.Join(t.TempDir(), "scores.json"), run); err != nil {
			t.Errorf("roots %q: %v", roots, err)
		}
	}
	if _, err := (Jobs{DataRoots: []string{videos.ClipsDir}}).Score(t.Context(), score, score.Model, filepath.Join(t.TempDir(), "scores.json"), run); err == nil || !strings.HasPrefix(err.Error(), "score.pairs: ") {
		t.Errorf("pairs outside the root: %v", err)
	}
}

// Videos without labels are scored as those of pairs are, and named below the folder that holds all.
func TestScoreWithoutLabels(t *testing.T) {
	videos := tinyVideos(t)
	root := filepath.Dir(videos.PairsCSV)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	spec.GetTrain().Steps = 1
	jobs := Jobs{DataRoots: []string{root}}
	trained, err := jobs.Train(t.Context(), spec.GetTrain(), filepath.Join(root, "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := plausibility.ReadPairs(videos.PairsCSV, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "broken.avi"), []byte("no video"), 0o644); err != nil {
		t.Fatal(err)
	}
	result := ran(t, jobs, fmt.Sprintf(`{"score":{"videos":[%q,%q,"file://%s"],"model":%q,"stride":4,"maps":true}}`,
		filepath.Dir(made[0].Path), filepath.Join(root, "broken.avi"), made[0].Path, trained.Checkpoint), trained.Checkpoint)
	file, err := compare.Load(result.Artifacts[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Videos) != len(made) || !file.Unlabelled() || file.Folder != root || !strings.HasPrefix(file.Videos[0].Path, "pairs/") ||
		len(file.Skipped) != 1 || file.Skipped[0].Path != "broken.avi" || result.Artifacts[1].Name != mapsArtifact {
		t.Errorf("%d videos in %s, the first %+v, skipped %+v, artifacts %v", len(file.Videos), file.Folder, file.Videos[0], file.Skipped, result.Artifacts)
	}
	for _, name := range []string{"mean_surprise", "largest_surprise", "twin_mean_surprise", "videos", "skipped_videos"} {
		if _, ok := result.Metrics[name]; !ok {
			t.Errorf("no figure %s in %v", name, result.Metrics)
		}
	}
	labelled := ran(t, jobs, fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":4}}`, videos.PairsCSV, trained.Checkpoint), trained.Checkpoint)
	ordinary, err := compare.Load(labelled.Artifacts[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	surprise := map[string][][]float64{}
	for i, v := range ordinary.Videos {
		surprise[v.SHA256] = ordinary.Sets[0].Scores[i].Surprise
	}
	for i, v := range file.Videos {
		if got, want := file.Sets[0].Scores[i].Surprise, surprise[v.SHA256]; !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s surprises by %v without a label, %v with one", v.Path, got, want)
		}
	}
	listing, err := compare.List(file, ordinary, compare.Options{})
	if err != nil || listing.Reference.Videos != len(made)/2 || listing.Reference.Shared != len(made)/2 {
		t.Errorf("listed by its possible videos: %+v, %v", listing, err)
	}
	for names, want := range map[string]string{
		`"` + filepath.Dir(root) + `"`:                                     "score.videos[0]: ",
		`"` + made[0].Path + `","` + filepath.Join(root, "nope.avi") + `"`: "score.videos[1]: ",
		`"s3://bucket/a.mp4"`:                                              "score.videos",
	} {
		score := complete(t, fmt.Sprintf(`{"score":{"videos":[%s],"model":%q}}`, names, trained.Checkpoint)).GetScore()
		if _, err := jobs.Score(t.Context(), score, score.Model, filepath.Join(t.TempDir(), "scores.json"), &recorder{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", names, err, want)
		}
	}
}

// The videos of a benchmark, in its layout, are scored under a protocol, and the file says so; a root outside the data
// roots is refused.
func TestScoreDataset(t *testing.T) {
	videos := tinyVideos(t)
	root := filepath.Dir(videos.PairsCSV)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	spec.GetTrain().Steps = 1
	trained, err := Jobs{}.Train(t.Context(), spec.GetTrain(), filepath.Join(root, "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := plausibility.ReadPairs(videos.PairsCSV, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range made[:2] { // a possible video and an impossible one
		folder := filepath.Join(root, "grasp", "level2", []string{"P_Gravity", "IP_Gravity"}[i])
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(v.Path, filepath.Join(folder, "000.avi")); err != nil {
			t.Fatal(err)
		}
	}
	score := complete(t, fmt.Sprintf(`{"score":{"dataset":"grasp","root":%q,"model":%q,"protocol":"continuous","frameStep":1,"skipTwin":true}}`,
		filepath.Join(root, "grasp"), trained.Checkpoint)).GetScore()
	file, err := (Jobs{DataRoots: []string{root}}).Score(t.Context(), score, score.Model, filepath.Join(t.TempDir(), "scores.json"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Videos) != 2 || file.Dataset.Name != "grasp" || len(file.Dataset.Notes) != 1 || file.Spec.Protocol != "continuous" || file.Folder != filepath.Join(root, "grasp", "level2") {
		t.Errorf("%d videos of %+v in %s, spec %+v", len(file.Videos), file.Dataset, file.Folder, file.Spec)
	}
	if _, err := (Jobs{DataRoots: []string{videos.ClipsDir}}).Score(t.Context(), score, score.Model, filepath.Join(t.TempDir(), "scores.json"), &recorder{}); err == nil || !strings.HasPrefix(err.Error(), "score.root: ") {
		t.Errorf("a dataset outside the data roots: %v", err)
	}
}

func digest(t *testing.T, path string) string {
	t.Helper()
	c, err := checkpoint.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c.Manifest.Files["model.safetensors"].SHA256
}

// A newest checkpoint that was damaged on the way is passed over for the one before it.
func TestResumePastADamagedCheckpoint(t *testing.T) {
	videos := tinyVideos(t)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	dir := t.TempDir()
	first := &recorder{}
	if _, err := (Jobs{}).Run(t.Context(), Assignment{Job: "jobs/a", Epoch: 1, Spec: spec, ArtifactDir: filepath.Join(dir, "1")}, first); err != nil {
		t.Fatal(err)
	}
	newest := first.checkpoints[len(first.checkpoints)-1]
	if err := os.Truncate(filepath.Join(newest.Path, "model.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	second := &recorder{}
	if _, err := (Jobs{}).Run(t.Context(), Assignment{Job: "jobs/a", Epoch: 2, Spec: spec, ArtifactDir: filepath.Join(dir, "2"), ResumeFrom: newest}, second); err != nil {
		t.Fatal(err)
	}
	if len(second.checkpoints) != 1 || second.checkpoints[0].Step != 6 {
		t.Errorf("checkpoints %v, want step 6 made again from step 4", second.checkpoints)
	}
}

func TestBadJobsNameTheFault(t *testing.T) {
	videos := tinyVideos(t)
	root := filepath.Dir(videos.PairsCSV)
	notAVideo := filepath.Join(root, "notes.mp4")
	if err := os.WriteFile(notAVideo, []byte("no video"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ spec, want string }{
		"missing folder": {`{"train":{"data":["` + root + `/nope"]}}`, "train.data[0]: \"" + root + "/nope\""},
		"second name":    {`{"train":{"data":["` + videos.ClipsDir + `","/etc"]}}`, "train.data[1]: \"/etc\""},
		"no video":       {`{"train":{"data":["` + notAVideo + `"]}}`, "train.data: none of the 1 files"},
		"too short":      {`{"train":{"data":["` + videos.ClipsDir + `"],"model":{"frames":64}}}`, "clip-000000"},
		"remote":         {`{"train":{"data":["s3://bucket/x"]}}`, "s3://bucket/x"},
		"missing pairs":  {`{"score":{"pairs":"` + root + `/nope.csv","model":"` + root + `"}}`, "nope.csv"},
		"pairs outside":  {`{"score":{"pairs":"/etc/passwd","model":"` + root + `"}}`, "score.pairs"},
		"no model":       {`{"score":{"pairs":"` + videos.PairsCSV + `","model":"` + root + `/nope"}}`, "score.model"},
		"not a model":    {`{"score":{"pairs":"` + videos.PairsCSV + `","model":"` + notAVideo + `"}}`, "score.model"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := complete(t, c.spec)
			dir := filepath.Join(t.TempDir(), "1")
			_, err := Jobs{DataRoots: []string{root}}.Run(t.Context(),
				Assignment{Job: "jobs/a", Epoch: 1, Spec: spec, ArtifactDir: dir, ModelPath: spec.GetScore().GetModel()}, &recorder{})
			if err == nil || !strings.HasPrefix(err.Error(), "score.") && !strings.HasPrefix(err.Error(), "train.") {
				t.Fatalf("error %v, want it to begin with the field", err)
			}
			if !strings.Contains(err.Error(), c.want) || IsInfrastructure(err) {
				t.Errorf("error %v (infrastructure %v), want the job's, naming %s", err, IsInfrastructure(err), c.want)
			}
		})
	}
}

// A ranking job ends with an order per set, whose energies rise, and names what the job named.
func TestRankJob(t *testing.T) {
	videos := tinyVideos(t)
	root := filepath.Dir(videos.PairsCSV)
	jobs := Jobs{DataRoots: []string{root}}
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	spec.GetTrain().Steps = 1
	trained, err := jobs.Train(t.Context(), spec.GetTrain(), filepath.Join(t.TempDir(), "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	clips, err := filepath.Glob(filepath.Join(videos.ClipsDir, "*"))
	if err != nil || len(clips) < 3 {
		t.Fatalf("clips %v, %v", clips, err)
	}
	rank := complete(t, fmt.Sprintf(`{"rank":{"model":"jobs/a","twin":true,"precision":"fp32","sets":[
		{"context":%q,"make":"time-direction"},{"context":%q,"make":"speed"},{"context":%q,"make":"shuffle"},
		{"context":%q,"candidates":[%q,"file://%s",%q]}]}}`, clips[0], clips[0], clips[1], clips[0], clips[0], clips[1], clips[2]))
	run := &recorder{}
	result, err := jobs.Run(t.Context(), Assignment{Job: "jobs/r", Epoch: 1, Spec: rank, ArtifactDir: filepath.Join(t.TempDir(), "1"), ModelPath: trained.Checkpoint}, run)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(result.Artifacts[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	rankings := &surmisev1.Rankings{}
	if err := protojson.Unmarshal(text, rankings); err != nil {
		t.Fatal(err)
	}
	counts := []int{2, 4, 4, 3}
	for i, r := range rankings.Rankings {
		if len(r.Futures) != counts[i] || r.Context != rank.GetRank().Sets[i].Context || r.ContextFrames != 4 {
			t.Errorf("set %d: %v", i, r)
		}
		for k, f := range r.Futures {
			if !(f.Energy > 0) || k > 0 && f.Energy < r.Futures[k-1].Energy || f.GetTwinEnergy() <= 0 {
				t.Errorf("set %d: %v", i, r.Futures)
			}
			if i == 3 && f.Name != rank.GetRank().Sets[3].Candidates[f.Candidate] {
				t.Errorf("candidate %d is called %s", f.Candidate, f.Name)
			}
		}
	}
	if result.Artifacts[0].Name != "ranking" || result.Metrics["sets"] != 4 || result.Metrics["speed.chance"] != 0.25 || !slices.Equal(run.phases, []string{"ranking"}) {
		t.Errorf("result %v, phases %v", result, run.phases)
	}
	for want, change := range map[string]func(*surmisev1.RankSpec){
		"rank.sets[1].context: ":      func(s *surmisev1.RankSpec) { s.Sets[1].Context = "/etc/passwd" },
		"rank.sets[3].candidates[2]:": func(s *surmisev1.RankSpec) { s.Sets[3].Candidates[2] = "https://example.org/a.avi" },
		"rank.sets[0]: ranking: cont": func(s *surmisev1.RankSpec) { s.ContextFrames = 7 },
	} {
		spec := proto.CloneOf(rank).GetRank()
		change(spec)
		if _, err := jobs.Rank(t.Context(), spec, trained.Checkpoint, &recorder{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want an error that begins with %q", err, want)
		}
	}
}

// Maps and controls lie beside the scores and are artifacts of their own; pixel models are scored like any other.
func TestScoreJobWithMapsAndControls(t *testing.T) {
	videos := tinyVideos(t)
	jobs := Jobs{DataRoots: []string{filepath.Dir(videos.PairsCSV)}}
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	spec.GetTrain().Steps, spec.GetTrain().Model.Target = 2, "pixels"
	trained, err := jobs.Train(t.Context(), spec.GetTrain(), filepath.Join(t.TempDir(), "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	if trained.Last.EffectiveRank != 0 {
		t.Errorf("a pixel model has effective rank %g", trained.Last.EffectiveRank)
	}
	score := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/a","stride":4,"maps":true,"copyLastFrame":true,"reencode":true,"recolour":true,"timeReversal":true}}`, videos.PairsCSV))
	result, err := jobs.Run(t.Context(), Assignment{Job: "jobs/s", Epoch: 1, Spec: score, ArtifactDir: filepath.Join(t.TempDir(), "1"), ModelPath: trained.Checkpoint}, &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range result.Artifacts {
		names = append(names, a.Name)
	}
	if !slices.Equal(names, []string{"scores", "maps", "controls"}) {
		t.Fatalf("artifacts %v", names)
	}
	scores, err := compare.Load(result.Artifacts[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if len(scores.Sets) != 3 || scores.Sets[2].Name != compare.CopySet {
		t.Errorf("%d sets", len(scores.Sets))
	}
	maps, err := heat.Load(filepath.Dir(result.Artifacts[0].Path), scores)
	if err != nil || maps.Videos() != 4 {
		t.Errorf("maps of %d videos (%v), want 4", maps.Videos(), err)
	}
	controls, err := compare.Load(result.Artifacts[2].Path)
	if err != nil || len(controls.Videos) != 2*3*2 {
		t.Errorf("%d control videos (%v), want an altered copy of two possible videos for each of three kinds", len(controls.Videos), err)
	}
}

// evaluations notes the evaluations that reports carry.
type evaluations struct {
	recorder
	seen []*surmisev1.Evaluation
}

func (e *evaluations) Progress(p *surmisev1.Progress) {
	e.recorder.Progress(p)
	if v := p.GetEvaluation(); v != nil && (len(e.seen) == 0 || e.seen[len(e.seen)-1].Step != v.Step) {
		e.seen = append(e.seen, v)
	}
}

// Pairs are scored before the first step, every few steps and at the end: in reports, in event files and as score files,
// through a resume; and the weights are those of a run that nobody looked at.
func TestTrainEvaluates(t *testing.T) {
	videos := tinyVideos(t)
	jobs := Jobs{DataRoots: []string{filepath.Dir(videos.PairsCSV)}}
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	plain, err := jobs.Train(t.Context(), spec.GetTrain(), filepath.Join(t.TempDir(), "plain"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	spec.GetTrain().Eval = &surmisev1.EvalSpec{Pairs: videos.PairsCSV, Every: 4, Stride: 4}
	dir := t.TempDir()
	ctx, stop := context.WithCancelCause(t.Context())
	first := &evaluations{recorder: recorder{at: func(step int32) {
		if step == 4 {
			stop(ErrDrained)
		}
	}}}
	if _, err := jobs.Run(ctx, Assignment{Job: "jobs/e", Epoch: 1, Spec: spec, ArtifactDir: filepath.Join(dir, "1")}, first); !errors.Is(err, ErrDrained) {
		t.Fatalf("a drained job ended with %v", err)
	}
	second := &evaluations{}
	result, err := jobs.Run(t.Context(), Assignment{Job: "jobs/e", Epoch: 2, Spec: spec, ArtifactDir: filepath.Join(dir, "2"), ResumeFrom: first.checkpoints[len(first.checkpoints)-1]}, second)
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, result.Artifacts[0].Path) != digest(t, plain.Checkpoint) {
		t.Error("evaluation changed the weights")
	}
	artifacts := map[string]string{}
	for _, a := range result.Artifacts {
		artifacts[a.Name] = a.Path
	}
	curves, err := tensorboard.Read(artifacts["events"])
	if err != nil {
		t.Fatal(err)
	}
	var losses []int
	for _, p := range curves["train/loss"] {
		losses = append(losses, p.Step)
	}
	if !slices.Equal(losses, []int{1, 2, 3, 4, 5, 6}) || len(curves["collapse/effective_rank"]) != 6 {
		t.Errorf("losses of steps %v in the event files", losses)
	}
	for i, step := range []int{0, 4, 6} {
		file, err := compare.Load(filepath.Join(artifacts["evaluations"], fmt.Sprintf("step-%08d.json", step)))
		if err != nil {
			t.Fatal(err)
		}
		if file.Sets[0].Model.Step != step || len(file.Videos) != 4 {
			t.Errorf("step %d: model %+v, %d videos", step, file.Sets[0].Model, len(file.Videos))
		}
		table, err := compare.Summarize(file, compare.Options{Resamples: 100})
		if err != nil {
			t.Fatal(err)
		}
		all, _ := table.Row(compare.All)
		if p := curves["eval/accuracy"]; len(p) != 3 || p[i].Step != step || p[i].Value != float64(float32(all.Cells[0].Accuracy.Value)) {
			t.Errorf("accuracies in the event files %v, want %g at step %d", p, all.Cells[0].Accuracy.Value, step)
		}
	}
	last := second.seen[len(second.seen)-1]
	if first.seen[0].Step != 0 || last.Step != 6 || last.Pairs != 2 || last.AccuracyHigh < last.Accuracy || !slices.Contains(second.phases, "evaluating") {
		t.Errorf("reports said %v, then %v, in phases %v", first.seen, second.seen, second.phases)
	}

	// Before the first step the model is the untrained twin of its own seed.
	model := strings.TrimSuffix(artifacts["model"], "/")
	twin := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":4}}`, videos.PairsCSV, model)).GetScore()
	scored, err := (Jobs{}).Score(t.Context(), twin, model, filepath.Join(t.TempDir(), "scores.json"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	zero, err := compare.Load(filepath.Join(artifacts["evaluations"], "step-00000000.json"))
	if err != nil || !reflect.DeepEqual(zero.Sets[0].Scores, scored.Sets[1].Scores) {
		t.Errorf("the evaluation before the first step is not the twin's (%v)", err)
	}
	final, err := compare.Load(filepath.Join(artifacts["evaluations"], "step-00000006.json"))
	if err != nil || !reflect.DeepEqual(final.Sets[0].Scores, scored.Sets[0].Scores) {
		t.Errorf("the evaluation after the last step is not the model's score (%v)", err)
	}

	spec.GetTrain().Eval.Pairs = "/no/such.csv"
	if _, err := (Jobs{}).Train(t.Context(), spec.GetTrain(), filepath.Join(t.TempDir(), "run"), &recorder{}); err == nil || !strings.HasPrefix(err.Error(), "train.eval.pairs: ") {
		t.Errorf("pairs that are not there: %v", err)
	}
}

// A model is scored at the rate that it was trained at, unless the job says otherwise; a video at another rate is another one.
func TestScoresAtTheRateOfTraining(t *testing.T) {
	videos := tinyVideos(t)
	trained := ran(t, Jobs{}, fmt.Sprintf(`{"train":{"data":[%q],"steps":1,"batch":2,"threads":1,"sampling":{"fps":4},
		"model":{"size":32,"frames":4,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}}}`, videos.ClipsDir), "").Artifacts[0].Path
	for given, want := range map[string]compare.Spec{``: {FPS: 4}, `,"frameStep":1`: {FrameStep: 1}, `,"fps":8`: {FPS: 8}} {
		result := ran(t, Jobs{}, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/b","skipTwin":true%s}}`, videos.PairsCSV, given), trained)
		scores, err := compare.Load(result.Artifacts[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		if scores.Spec.FPS != want.FPS || scores.Spec.FrameStep != want.FrameStep {
			t.Errorf("a score job with %q takes every %d. frame or %g a second, want %d or %g", given, scores.Spec.FrameStep, scores.Spec.FPS, want.FrameStep, want.FPS)
		}
	}
}

// logged collects what is logged until the test ends.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &out
}

// What is found of the videos is on disk, and the unusable ones are named, before the first step.
func TestTrainNamesWhatItCannotUse(t *testing.T) {
	videos := tinyVideos(t)
	said := logged(t)
	dir := t.TempDir()
	for _, name := range []string{"a.mp4", "b.mp4"} {
		if err := os.WriteFile(filepath.Join(videos.ClipsDir, name), []byte("no video"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	spec.GetTrain().Steps, spec.GetTrain().Sampling.MaxUnusable = 1, proto.Float64(0.9)
	var before []video.Verdict
	if _, err := (Jobs{}).Train(t.Context(), spec.GetTrain(), dir, &recorder{at: func(step int32) {
		if text, err := os.ReadFile(filepath.Join(dir, "verdicts.json")); step == 1 && err == nil {
			_ = json.Unmarshal(text, &before)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if len(before) < 3 || before[0].Usable || before[0].Reason == "" {
		t.Errorf("verdicts at the first step: %+v", before)
	}
	if text := said.String(); !strings.Contains(text, "a.mp4") || !strings.Contains(text, "b.mp4") || !strings.Contains(text, "unreadable") {
		t.Errorf("said %s", text)
	}
}

// What surprise is measured on is not trained on.
func TestEvaluationIsKeptApart(t *testing.T) {
	videos := tinyVideos(t)
	both := filepath.Dir(videos.PairsCSV)
	spec := complete(t, fmt.Sprintf(tinyTrain, both))
	spec.GetTrain().Steps = 1
	spec.GetTrain().Eval = &surmisev1.EvalSpec{Pairs: videos.PairsCSV, Every: 1, Stride: 4}
	_, err := (Jobs{}).Train(t.Context(), spec.GetTrain(), t.TempDir(), &recorder{})
	if err == nil || IsInfrastructure(err) || !strings.HasPrefix(err.Error(), "train.eval.pairs: 4 of its 4 videos are among train.data") {
		t.Errorf("training on the impossible videos: %v", err)
	}

	pairs, err := plausibility.ReadPairs(videos.PairsCSV, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range pairs {
		if v.Label == 1 {
			spec.GetTrain().Data = []string{videos.ClipsDir, v.Path}
			break
		}
	}
	said := logged(t)
	if _, err := (Jobs{}).Train(t.Context(), spec.GetTrain(), t.TempDir(), &recorder{}); err != nil {
		t.Fatal(err)
	}
	if text := said.String(); !strings.Contains(text, "videos of the evaluation are trained on too") {
		t.Errorf("said %s", text)
	}
}

// Scores of videos that the model was trained on say so.
func TestScoresOfTrainingVideosSaySo(t *testing.T) {
	videos := tinyVideos(t)
	jobs := Jobs{}
	spec := complete(t, fmt.Sprintf(tinyTrain, filepath.Dir(videos.PairsCSV)))
	spec.GetTrain().Steps = 1
	trained, err := jobs.Train(t.Context(), spec.GetTrain(), filepath.Join(t.TempDir(), "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	score := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":4,"skipTwin":true}}`, videos.PairsCSV, trained.Checkpoint))
	f, err := jobs.Score(t.Context(), score.GetScore(), trained.Checkpoint, filepath.Join(t.TempDir(), "scores.json"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.Notes, func(note string) bool {
		return strings.HasPrefix(note, "4 of 4 videos, the first of them ") && strings.HasSuffix(note, "lie in what the model was trained on")
	}) {
		t.Errorf("notes %q", f.Notes)
	}
}
