package jobspec_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func parse(t *testing.T, text string) *surmisev1.JobSpec {
	t.Helper()
	spec := &surmisev1.JobSpec{}
	if err := protojson.Unmarshal([]byte(text), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestDataAloneIsACompleteJob(t *testing.T) {
	given := parse(t, `{"train":{"data":["clips"]}}`)
	before := proto.CloneOf(given)
	spec, err := jobspec.Complete(given)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(given, before) {
		t.Error("Complete changed its argument")
	}
	want := parse(t, `{"train":{"data":["clips"],"steps":600,"batch":16,"preset":"demo","log_every":10,"checkpoint_every":100,"precision":"auto","device":"auto",
		"model":{"objective":"next_tubelet","size":64,"frames":16,"patch":8,"tubelet":2,"dim":128,"depth":4,"heads":2,
			"pred_dim":128,"pred_depth":3,"pred_heads":2,"positions":"uniform","target":"representation","mlp":"gelu","pred_mlp":"gelu"},
		"sampling":{"frame_step":1,"scale_min":0.3,"scale_max":1,"aspect_min":0.75,"aspect_max":1.35,"max_unusable":0.2,"clips_per_video":1,"windows":"random","short_side":128},
		"optimizer":{"learning_rate":0.001,"start_learning_rate":0.0002,"final_learning_rate":0.000001,"warmup_steps":60,
			"weight_decay":0.04,"final_weight_decay":0.4,"ema_start":0.99,"ema_end":1,"clip_norm":10,"loss_exponent":1}}}`)
	if !proto.Equal(spec, want) {
		t.Errorf("got  %v\nwant %v", spec, want)
	}
	again, err := jobspec.Complete(spec)
	if err != nil || !proto.Equal(again, spec) {
		t.Errorf("completing twice: %v, %v", again, err)
	}
}

func TestPrecisionIsTheWorkersChoiceUnlessGiven(t *testing.T) {
	for text, want := range map[string]string{
		`{"train":{"data":["d"]}}`:                                   "auto",
		`{"train":{"data":["d"],"precision":"fp32"}}`:                "fp32",
		`{"train":{"data":["d"],"precision":"bf16"}}`:                "bf16",
		`{"score":{"pairs":"p.csv","model":"m"}}`:                    "auto",
		`{"score":{"pairs":"p.csv","model":"m","precision":"bf16"}}`: "bf16",
	} {
		spec, err := jobspec.Complete(parse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.GetTrain().GetPrecision() + spec.GetScore().GetPrecision(); got != want {
			t.Errorf("%s: precision %q, want %q", text, got, want)
		}
	}
}

func TestMaskMakesTheObjectiveMasked(t *testing.T) {
	spec, err := jobspec.Complete(parse(t, `{"train":{"data":["d"],"mask":{"kind":"causal"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	train := spec.GetTrain()
	if train.Model.Objective != "masked" {
		t.Errorf("objective %q", train.Model.Objective)
	}
	if got := train.Mask.ContextTubelets; len(got) != 3 || got[0] != 2 || got[1] != 4 || got[2] != 6 {
		t.Errorf("context tubelets %v", got)
	}
}

func TestDefaultsOfEvalAndRank(t *testing.T) {
	spec, err := jobspec.Complete(parse(t, `{"train":{"data":["d"],"eval":{"pairs":"p.csv"},"model":{"frames":8}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if e := spec.GetTrain().Eval; e.Every != 100 || e.Stride != 4 {
		t.Errorf("eval %v", e)
	}
	spec, err = jobspec.Complete(parse(t, `{"rank":{"model":"m","sets":[{"context":"a","make":"speed"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := spec.GetRank(); r.Measure != "mean" || r.FrameStep != 0 || r.Precision != "auto" || r.Device != "auto" || r.ContextFrames != 0 {
		t.Errorf("rank %v", r)
	}
}

// The seed of the twin is the model's, which the worker knows; one that is given stays, 0 too.
func TestDefaultsOfScoring(t *testing.T) {
	spec, err := jobspec.Complete(parse(t, `{"score":{"pairs":"p.csv","model":"m"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s := spec.GetScore(); s.Seed != nil || s.Stride != 2 || s.MaxFrames != 1024 {
		t.Errorf("score %v", s)
	}
	if spec, err = jobspec.Complete(parse(t, `{"score":{"pairs":"p.csv","model":"m","seed":0}}`)); err != nil || spec.GetScore().Seed == nil {
		t.Errorf("seed 0: %v, %v", spec, err)
	}
}

func TestZeroIsAValueWhereItMeansSomething(t *testing.T) {
	spec, err := jobspec.Complete(parse(t, `{"train":{"data":["d"],"optimizer":{"weight_decay":0,"clip_norm":0,"warmup_steps":0},"sampling":{"max_unusable":0}}}`))
	if err != nil {
		t.Fatal(err)
	}
	o := spec.GetTrain().Optimizer
	if o.GetWeightDecay() != 0 || o.GetClipNorm() != 0 || o.GetWarmupSteps() != 0 || spec.GetTrain().Sampling.GetMaxUnusable() != 0 {
		t.Errorf("a zero was replaced: %v", spec)
	}
}

func TestFaultsNameTheFieldAndTheValue(t *testing.T) {
	for _, c := range []struct{ spec, field, says string }{
		{`{}`, "kind", "required"},
		{`{"train":{}}`, "train.data", "at least 1 item(s), got 0"},
		{`{"train":{"data":["d"],"mask":{"kind":"causal","context_tubelets":[` + strings.Repeat("1,", 16) + `1]}}}`, "train.mask.context_tubelets", "got 17"},
		{`{"train":{"data":[""]}}`, "train.data[0]", "1 character"},
		{`{"train":{"data":["` + strings.Repeat(strings.Repeat("d", 4000)+`","`, 300) + `d"]}}`, "train.data", "got 1200001"},
		{`{"train":{"data":["d"],"steps":-1}}`, "train.steps", "-1"},
		{`{"train":{"data":["d"],"preset":"huge"}}`, "train.preset", "huge"},
		{`{"train":{"data":["d"],"model":{"patch":7}}}`, "train.model.size", "patch 7, got 64"},
		{`{"train":{"data":["d"],"model":{"frames":15}}}`, "train.model.frames", "15"},
		{`{"train":{"data":["d"],"model":{"dim":100,"heads":3}}}`, "train.model.dim", "100"},
		{`{"train":{"data":["d"],"model":{"dim":36}}}`, "train.model.dim", "multiple of 8, got 36"},
		{`{"train":{"data":["d"],"model":{"pred_dim":20}}}`, "train.model.pred_dim", "multiple of 8, got 20"},
		{`{"train":{"data":["d"],"model":{"frames":2}}}`, "train.model.frames", "two tubelets"},
		{`{"train":{"data":["d"],"model":{"objective":"next_tubelet"},"mask":{}}}`, "train.mask", "next_tubelet"},
		{`{"train":{"data":["d"],"steps":50000,"eval":{"pairs":"p.csv","every":1}}}`, "train.eval.every", "at most 4000 evaluations in 50000 steps"},
		{`{"train":{"data":["d"],"mask":{"blocks":[{"count":257}]}}}`, "train.mask.blocks[0].count", "got 257"},
		{`{"train":{"data":["d"],"mask":{"blocks":[{},{"count":256,"spatial_scale":0.7}]}}}`, "train.mask.blocks[1].count", "got 256"},
		{`{"train":{"data":["d"],"mask":{"blocks":[{"spatial_scale":1}]}}}`, "train.mask.blocks[0].spatial_scale", "no context"},
		{`{"train":{"data":["d"],"mask":{"blocks":[{"spatial_scale":0.001}]}}}`, "train.mask.blocks[0].spatial_scale", "no target"},
		{`{"train":{"data":["d"],"mask":{"kind":"tube","ratio":0.99}}}`, "train.mask.ratio", "0.99"},
		{`{"train":{"data":["d"],"mask":{"kind":"tube","context_tubelets":[1]}}}`, "train.mask.context_tubelets", "causal"},
		{`{"train":{"data":["d"],"mask":{"kind":"causal","context_tubelets":[2,8]}}}`, "train.mask.context_tubelets[1]", "got 8"},
		{`{"train":{"data":["d"],"model":{"size":32},"mask":{"kind":"tube","ratio":0.95}}}`, "train.mask.ratio", "4×4 patches, which leaves no context, got 0.95"},
		{`{"train":{"data":["d"],"model":{"size":1024,"patch":2}}}`, "train.model.size", "at most 65536 tokens, got 2097152"},
		{`{"train":{"data":["d"],"optimizer":{"loss_exponent":0.5}}}`, "train.optimizer.loss_exponent", "at least 1, got 0.5"},
		{`{"train":{"data":["d"],"sampling":{"aspect_min":1e-300}}}`, "train.sampling.aspect_min", "at least 0.001, got 1e-300"},
		{`{"train":{"data":["d"],"sampling":{"fps":3,"frame_step":2}}}`, "train.sampling", "exclude"},
		{`{"train":{"data":["d","e"],"sampling":{"weights":[1]}}}`, "train.sampling.weights", "got 1"},
		{`{"train":{"data":["d"],"sampling":{"weights":[0]}}}`, "train.sampling.weights", "all be 0"},
		{`{"train":{"data":["d"],"sampling":{"hue":0.6}}}`, "train.sampling.hue", "0.5"},
		{`{"train":{"data":["d"],"sampling":{"scale_min":0.9,"scale_max":0.5}}}`, "train.sampling.scale_min", "0.9"},
		{`{"train":{"data":["d"],"optimizer":{"learning_rate":"NaN"}}}`, "train.optimizer.learning_rate", "NaN"},
		{`{"train":{"data":["d"],"steps":5,"optimizer":{"warmup_steps":6}}}`, "train.optimizer.warmup_steps", "6"},
		{`{"train":{"data":["d"],"optimizer":{"ema_start":1,"ema_end":0.5}}}`, "train.optimizer.ema_start", "0.5"},
		{`{"train":{"data":["d"],"precision":"fp16"}}`, "train.precision", "got fp16"},
		{`{"score":{"pairs":"p.csv","model":"m","precision":"BF16"}}`, "score.precision", "got BF16"},
		{`{"train":{"data":["d"],"device":"gpu1"}}`, "train.device", "got gpu1"},
		{`{"score":{"pairs":"p.csv","model":"m","device":"gpu:"}}`, "score.device", "got gpu:"},
		{`{"score":{"pairs":"p.csv"}}`, "score.model", "1 character"},
		{`{"score":{"model":"m"}}`, "score.pairs", "is required unless a dataset or videos are named"},
		{`{"score":{"model":"m","pairs":"p.csv","dataset":"grasp","root":"r"}}`, "score.pairs", `must be empty with score.dataset grasp, got "p.csv"`},
		{`{"score":{"model":"m","pairs":"p.csv","videos":["v"]}}`, "score.videos", `must be empty with score.pairs "p.csv", got 1 names`},
		{`{"score":{"model":"m","dataset":"grasp","root":"r","videos":["v"]}}`, "score.videos", "must be empty with score.dataset grasp, got 1 names"},
		{`{"score":{"model":"m","videos":[""]}}`, "score.videos[0]", "1 character"},
		{`{"score":{"model":"m","videos":["s3://key@bucket/v.mp4"]}}`, "score.videos[0]", "must not hold a user name"},
		{`{"score":{"model":"m","videos":["v"],"timeReversal":true}}`, "score.time_reversal", "must be false with score.videos"},
		{`{"score":{"model":"m","dataset":"grasp"}}`, "score.root", "is required with score.dataset grasp"},
		{`{"score":{"model":"m","pairs":"p.csv","root":"r"}}`, "score.root", `got "r"`},
		{`{"score":{"model":"m","dataset":"GRASP","root":"r"}}`, "score.dataset", "got GRASP"},
		{`{"score":{"model":"m","pairs":"p.csv","protocol":"published"}}`, "score.protocol", "got published"},
		{`{"score":{"model":"m","pairs":"p.csv","protocol":"intphys","stride":4}}`, "score.stride", "is settled by score.protocol intphys"},
		{`{"score":{"model":"m","pairs":"p.csv","protocol":"intphys","fps":4}}`, "score.fps", "is settled by score.protocol intphys"},
		{`{"score":{"model":"m","pairs":"p.csv","protocol":"grasp","topTokens":0}}`, "score.top_tokens", "is settled by score.protocol grasp"},
		{`{"score":{"model":"m","pairs":"p.csv","protocol":"continuous","contexts":[4]}}`, "score.contexts", "is settled by score.protocol continuous"},
		{`{"score":{"pairs":"p.csv","model":"m","window":8,"contexts":[8]}}`, "score.contexts[0]", "got 8"},
		{`{"score":{"pairs":"p.csv","model":"m","window":8,"stride":50}}`, "score.stride", "must not exceed window 8, or no window covers the frames between, got 50"},
		{`{"train":{"data":["d"],"eval":{"pairs":"p.csv","stride":17}}}`, "train.eval.stride", "must not exceed train.model.frames 16"},
		{`{"score":{"pairs":"p.csv","model":"m","maxFrames":1000001}}`, "score.max_frames", "got 1000001"},
		{`{"train":{"data":["d"],"model":{"target":"sound"}}}`, "train.model.target", "got sound"},
		{`{"train":{"data":["d"],"eval":{}}}`, "train.eval.pairs", "1 character"},
		{`{"train":{"data":["d","https://alice:hunter2@host/x.mp4"]}}`, "train.data[1]", "must not hold a user name"},
		{`{"score":{"pairs":"s3://key@bucket/p.csv","model":"m"}}`, "score.pairs", "must not hold a user name"},
		{`{"rank":{"model":"m","sets":[{"context":"http://u:p@h/","make":"speed"}]}}`, "rank.sets[0].context", "must not hold a user name"},
		{`{"rank":{"model":"m"}}`, "rank.sets", "at least 1 item(s), got 0"},
		{`{"score":{"pairs":"p","model":"m","contexts":[2,8,4]}}`, "score.contexts[2]", "must be above the one before, 8, got 4"},
		{`{"score":{"pairs":"p","model":"m","device":"gpu:256"}}`, "score.device", "N from 0 to 255"},
		{`{"train":{"data":["d"],"sampling":{"scale_min":1e-300}}}`, "train.sampling.scale_min", "at least 0.001"},
		{`{"rank":{"model":"m","sets":[{"context":"a"}]}}`, "rank.sets[0]", "two candidates or make"},
		{`{"rank":{"model":"m","sets":[{"context":"a","candidates":["b"]}]}}`, "rank.sets[0]", "two candidates or make"},
		{`{"rank":{"model":"m","sets":[{"context":"a","candidates":["b","c"],"make":"speed"}]}}`, "rank.sets[0]", "two candidates or make"},
		{`{"rank":{"model":"m","sets":[{"context":"a","make":"mirror"}]}}`, "rank.sets[0].make", "got mirror"},
		{`{"rank":{"model":"m","sets":[{"context":"a","make":"speed"}],"measure":"sum"}}`, "rank.measure", "got sum"},
		{`{"rank":{"model":"m","sets":[` + strings.Repeat(`{"context":"a","make":"speed"},`, 5000) + `{"context":"a","make":"speed"}]}}`, "rank.sets", "got 20004"},
		{`{"rank":{"model":"m","sets":[{"context":"` + strings.Repeat("a", 4000) + `","make":"speed"}` + strings.Repeat(`,{"context":"`+strings.Repeat("a", 4000)+`","make":"speed"}`, 300) + `]}}`, "rank.sets", "got 1204000"},
	} {
		_, err := jobspec.Complete(parse(t, c.spec))
		var errs jobspec.Errors
		if !errors.As(err, &errs) {
			t.Errorf("%s: got %v, want a fault in %s", c.spec, err, c.field)
			continue
		}
		if strings.Contains(err.Error(), "0x") {
			t.Errorf("%s: %v tells an address in memory", c.spec, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v tells a password", c.spec, err)
		}
		if errs[0].Field != c.field || !strings.Contains(errs[0].Problem, c.says) {
			t.Errorf("%s: got %v, want %s saying %q", c.spec, errs, c.field, c.says)
		}
	}
}

func TestFrozenEncoderLeavesItsShapeToTheCheckpoint(t *testing.T) {
	spec, err := jobspec.Complete(parse(t, `{"train":{"data":["d"],"preset":"tiny","mask":{"kind":"causal"},"encoder":{"from":"m.safetensors","frozen":true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := parse(t, `{"train":{"data":["d"],"model":{"objective":"masked","pred_dim":96,"pred_depth":6,"pred_heads":3,"target":"representation","pred_mlp":"gelu"},
		"sampling":{"frame_step":1,"scale_min":1,"scale_max":1,"aspect_min":1,"aspect_max":1,"max_unusable":0.2,"clips_per_video":1,"windows":"uniform"}}}`).GetTrain()
	train := spec.GetTrain()
	if !proto.Equal(train.Model, want.Model) || !proto.Equal(train.Sampling, want.Sampling) || len(train.Mask.ContextTubelets) != 0 {
		t.Errorf("got %v, %v, mask %v", train.Model, train.Sampling, train.Mask)
	}

	// What the worker finds in the checkpoint makes it whole.
	m := train.Model
	m.Size, m.Frames, m.Patch, m.Tubelet, m.Dim, m.Depth, m.Heads, m.Positions, m.Mlp = 64, 8, 16, 2, 24, 2, 2, "rope", "gelu"
	if spec, err = jobspec.Complete(spec); err != nil {
		t.Fatal(err)
	}
	if train = spec.GetTrain(); train.Sampling.ShortSide != 128 || len(train.Mask.ContextTubelets) != 3 {
		t.Errorf("short side %d, context tubelets %v", train.Sampling.ShortSide, train.Mask.ContextTubelets)
	}
}

func TestAModelToTrainOnFromLeavesItsShapeToTheCheckpoint(t *testing.T) {
	spec, err := jobspec.Complete(parse(t, `{"train":{"data":["d"],"init":{"from":"jobs/a"},"eval":{"pairs":"p"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	train := spec.GetTrain()
	if name, field := jobspec.Model(spec); name != "jobs/a" || field != "train.init.from" {
		t.Errorf("it reads %s, named in %s", name, field)
	}
	if !proto.Equal(train.Model, &surmisev1.ModelSpec{}) || train.Mask != nil || train.Sampling.ShortSide != 0 || train.Eval.Stride != 0 || train.Batch != 16 {
		t.Errorf("got %v", train)
	}

	// What the worker finds in the checkpoint makes it whole.
	train.Model = parse(t, `{"train":{"data":["d"],"model":{"objective":"masked","size":64,"frames":24,"patch":16,"tubelet":2,"dim":24,"depth":2,"heads":2,
		"pred_dim":24,"pred_depth":1,"pred_heads":2,"positions":"rope","target":"pixels","mlp":"swiglu","pred_mlp":"gelu"}}}`).GetTrain().Model
	want := proto.CloneOf(train.Model)
	if spec, err = jobspec.Complete(spec); err != nil {
		t.Fatal(err)
	}
	train = spec.GetTrain()
	if !proto.Equal(train.Model, want) || train.Mask.GetKind() != "multiblock3d" || train.Sampling.ShortSide != 128 || train.Eval.Stride != 12 {
		t.Errorf("got %v", train)
	}
}

func TestJobsThatAFrozenEncoderCannotDo(t *testing.T) {
	for text, field := range map[string]string{
		`"encoder":{"from":"m"}`:    "train.encoder.frozen",
		`"encoder":{"frozen":true}`: "train.encoder.from",
		`"init":{}`:                 "train.init.from",
		`"encoder":{"from":"m","frozen":true},"init":{"from":"m"}`:              "train.init",
		`"encoder":{"from":"m","frozen":true},"model":{"target":"pixels"}`:      "train.model.target",
		`"encoder":{"from":"m","frozen":true},"sampling":{"windows":"random"}`:  "train.sampling.windows",
		`"encoder":{"from":"m","frozen":true},"sampling":{"scale_min":0.3}`:     "train.sampling.scale_min",
		`"encoder":{"from":"m","frozen":true},"sampling":{"hue":0.1}`:           "train.sampling.hue",
		`"model":{"positions":"rope","dim":32,"heads":8}`:                       "train.model.dim",
		`"model":{"positions":"rope_interleaved","pred_dim":32,"pred_heads":8}`: "train.model.pred_dim",
		`"model":{"mlp":"relu"}`:          "train.model.mlp",
		`"model":{"positions":"learned"}`: "train.model.positions",
		`"encoder":{"from":"m","frozen":true},"model":{"pred_dim":48,"pred_heads":5}`: "train.model.pred_dim",
	} {
		_, err := jobspec.Complete(parse(t, `{"train":{"data":["d"],`+text+`}}`))
		var errs jobspec.Errors
		if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Field != field {
			t.Errorf("%s: got %v, want a fault of %s", text, err, field)
		}
	}
}
