package sweep_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/coordinator/sweep"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func request(t testing.TB, text string) *surmisev1.SubmitSweepRequest {
	t.Helper()
	r := &surmisev1.SubmitSweepRequest{}
	if err := protojson.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func expand(t testing.TB, text string) []sweep.Child {
	t.Helper()
	r, err := sweep.Complete(request(t, text))
	if err != nil {
		t.Fatal(err)
	}
	children, err := sweep.Expand(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return children
}

func TestChildrenAreEveryCombinationInOrder(t *testing.T) {
	children := expand(t, `{"train":{"data":["d"]},"seeds":["7","18446744073709551615"],"parameters":[
		{"path":"train.model.depth","grid":[2,4]},
		{"path":"train.preset","grid":["nano","tiny"]}]}`)
	var got []string
	for _, c := range children {
		train := c.Spec.GetTrain()
		got = append(got, fmt.Sprint(train.Model.Depth, " ", train.Preset, " ", train.Seed))
		want := map[string]string{"train.model.depth": fmt.Sprint(train.Model.Depth), "train.preset": strconv.Quote(train.Preset), "train.seed": fmt.Sprint(train.Seed)}
		if !maps.Equal(c.Values, want) {
			t.Errorf("values %v, want %v", c.Values, want)
		}
	}
	const last = "18446744073709551615"
	want := []string{"2 nano 7", "2 nano " + last, "2 tiny 7", "2 tiny " + last, "4 nano 7", "4 nano " + last, "4 tiny 7", "4 tiny " + last}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	// Defaults that depend on a parameter are filled in after it is set.
	if a, b := children[0].Spec.GetTrain(), children[2].Spec.GetTrain(); a.Batch != 16 || b.Batch != 8 {
		t.Errorf("batches %d and %d, want those of the presets", a.Batch, b.Batch)
	}
}

func TestAnyFieldIsSet(t *testing.T) {
	base := `"train":{"data":["d"],"mask":{"kind":"multiblock3d","blocks":[{"count":8},{"count":2}]},"sampling":{"weights":[1]}}`
	for path, c := range map[string]struct {
		value string
		get   func(*surmisev1.TrainSpec) any
	}{
		"train.steps":                         {`5`, func(s *surmisev1.TrainSpec) any { return s.Steps }},
		"train.truncate":                      {`true`, func(s *surmisev1.TrainSpec) any { return s.Truncate }},
		"train.optimizer.ema_start":           {`0`, func(s *surmisev1.TrainSpec) any { return s.Optimizer.GetEmaStart() }},
		"train.mask.blocks[1].spatial_scale":  {`0.25`, func(s *surmisev1.TrainSpec) any { return s.Mask.Blocks[1].SpatialScale }},
		"train.sampling.weights[0]":           {`3`, func(s *surmisev1.TrainSpec) any { return s.Sampling.Weights[0] }},
		"train.data":                          {`["e","f"]`, func(s *surmisev1.TrainSpec) any { return strings.Join(s.Data, "+") }},
		"train.eval":                          {`{"pairs":"p.csv"}`, func(s *surmisev1.TrainSpec) any { return s.Eval.GetPairs() }},
		"train.mask.blocks":                   {`[{"count":3}]`, func(s *surmisev1.TrainSpec) any { return s.Mask.Blocks[0].Count }},
		"train.optimizer.learning_rate":       {`0.5`, func(s *surmisev1.TrainSpec) any { return s.Optimizer.LearningRate }},
		"train.optimizer.final_learning_rate": {`0.25`, func(s *surmisev1.TrainSpec) any { return s.Optimizer.GetFinalLearningRate() }},
	} {
		want := map[string]any{
			"train.steps": int32(5), "train.truncate": true, "train.optimizer.ema_start": 0.0, "train.mask.blocks[1].spatial_scale": 0.25,
			"train.sampling.weights[0]": 3.0, "train.data": "e+f", "train.eval": "p.csv", "train.mask.blocks": int32(3),
			"train.optimizer.learning_rate": 0.5, "train.optimizer.final_learning_rate": 0.25,
		}[path]
		value := c.value
		weights := base
		if path == "train.data" {
			weights = strings.Replace(base, `"weights":[1]`, `"weights":[1,2]`, 1)
		}
		children := expand(t, fmt.Sprintf(`{%s,"parameters":[{"path":%q,"grid":[%s]}]}`, weights, path, value))
		if got := c.get(children[0].Spec.GetTrain()); got != want {
			t.Errorf("%s = %s: got %v, want %v", path, value, got, want)
		}
	}
}

const randomSweep = `{"train":{"data":["d"]},"samples":%d,"sample_seed":3,"parameters":[
	{"path":"train.optimizer.learning_rate","log_uniform":{"min":0.00001,"max":0.1}},
	{"path":"train.optimizer.ema_start","uniform":{"min":0.9,"max":0.99}},
	{"path":"train.optimizer.warmup_steps","integer":{"min":1,"max":3}},
	{"path":"train.precision","choice":["fp32","bf16"]}]}`

func TestDrawsFollowFromTheSeedAndFillTheirRanges(t *testing.T) {
	const n = 2000
	children := expand(t, fmt.Sprintf(randomSweep, n))
	again := expand(t, fmt.Sprintf(randomSweep, n+1))
	decades, warmups, precisions := map[int]int{}, map[int32]int{}, map[string]int{}
	for i, c := range children {
		if !proto.Equal(c.Spec, again[i].Spec) {
			t.Fatalf("child %d differs when one more is drawn", i)
		}
		o := c.Spec.GetTrain().Optimizer
		if o.LearningRate < 1e-5 || o.LearningRate >= 0.1 || o.GetEmaStart() < 0.9 || o.GetEmaStart() >= 0.99 {
			t.Fatalf("child %d out of range: %v", i, o)
		}
		if c.Values["train.optimizer.learning_rate"] != strconv.FormatFloat(o.LearningRate, 'g', -1, 64) {
			t.Fatalf("child %d: %v", i, c.Values)
		}
		decades[int(math.Floor(math.Log10(o.LearningRate)))]++
		warmups[o.GetWarmupSteps()]++
		precisions[c.Spec.GetTrain().Precision]++
	}
	// Each decade has a quarter, each warm-up a third, each precision half: 6 standard deviations are below 130 of 2000.
	for name, c := range map[string]struct{ counts, want int }{
		"decades": {len(decades), 4}, "warm-ups": {len(warmups), 3}, "precisions": {len(precisions), 2},
	} {
		if c.counts != c.want {
			t.Errorf("%s: %d values, want %d", name, c.counts, c.want)
		}
	}
	for _, counts := range [][]int{slices.Collect(maps.Values(decades)), slices.Collect(maps.Values(warmups)), slices.Collect(maps.Values(precisions))} {
		for _, got := range counts {
			if want := n / len(counts); got < want-130 || got > want+130 {
				t.Errorf("%v of %d are far from even", counts, n)
			}
		}
	}
}

func TestErrorsNameTheFieldAndThePath(t *testing.T) {
	parameter := func(p string) string { return `{"train":{"data":["d"]},"parameters":[` + p + `]}` }
	for name, c := range map[string]struct{ request, field, problem string }{
		"beyond exact numbers": {parameter(`{"path":"train.seed","grid":[9007199254740993]}`), "parameters[0].grid[0]", "write it as a string"},
		"unknown field":        {parameter(`{"path":"train.optimzer.learning_rate","grid":[1]}`), "parameters[0].path", `train.optimzer.learning_rate: TrainSpec has no field "optimzer"`},
		"another kind":         {parameter(`{"path":"score.stride","grid":[1]}`), "parameters[0].path", `score.stride: the base job is no "score" job`},
		"the whole job":        {parameter(`{"path":"train","grid":[{}]}`), "parameters[0].path", "names the whole job"},
		"below a number":       {parameter(`{"path":"train.steps.x","grid":[1]}`), "parameters[0].path", `"steps" has no fields`},
		"index of no list":     {parameter(`{"path":"train.steps[0]","grid":[1]}`), "parameters[0].path", "no list"},
		"index beyond":         {parameter(`{"path":"train.mask.blocks[2].count","grid":[1]}`), "parameters[0].path", "beyond the base job's 0"},
		"bad index":            {parameter(`{"path":"train.data[x]","grid":["a"]}`), "parameters[0].path", "NAME[INDEX]"},
		"wrong type":           {parameter(`{"path":"train.steps","grid":[1,"many"]}`), "parameters[0].grid[1]", `train.steps: invalid value for int32 field`},
		"too large":            {parameter(`{"path":"train.steps","grid":[1e12]}`), "parameters[0].grid[0]", "train.steps"},
		"null":                 {parameter(`{"path":"train.steps","grid":[null]}`), "parameters[0].grid[0]", "null"},
		"empty grid":           {parameter(`{"path":"train.steps","grid":[]}`), "parameters[0].grid", "got 0"},
		"child refused":        {parameter(`{"path":"train.model.dim","grid":[128,100]}`), "parameters[0]", "child 1 with train.model.dim = 100: train.model.dim"},
		"base refused":         {`{"train":{},"parameters":[{"path":"train.steps","grid":[1]}]}`, "train.data", "(child 0)"},
		"same field twice":     {parameter(`{"path":"train.steps","grid":[1]},{"path":"train.steps","grid":[2]}`), "parameters[1].path", "overlaps train.steps"},
		"part of another":      {parameter(`{"path":"train.model.dim","grid":[8]},{"path":"train.model","grid":[{}]}`), "parameters[1].path", "overlaps"},
		"uniform of an int":    {parameter(`{"path":"train.steps","uniform":{"min":1,"max":2}}`), "parameters[0].uniform", "use integer"},
		"uniform of a text":    {parameter(`{"path":"train.preset","uniform":{"min":1,"max":2}}`), "parameters[0].uniform", "no number"},
		"empty range":          {parameter(`{"path":"train.optimizer.ema_end","uniform":{"min":1,"max":1}}`), "parameters[0].uniform", "min below max"},
		"logarithm of zero":    {parameter(`{"path":"train.optimizer.ema_end","log_uniform":{"min":0,"max":1}}`), "parameters[0].log_uniform.min", "above 0"},
		"integer beyond":       {parameter(`{"path":"train.steps","integer":{"min":"1","max":"3000000000"}}`), "parameters[0].integer", "beyond"},
		"no samples":           {parameter(`{"path":"train.steps","integer":{"min":1,"max":2}}`), "samples", "got 0"},
		"needless samples":     {`{"train":{"data":["d"]},"samples":3}`, "samples", "got 3"},
		"seeds twice":          {`{"train":{"data":["d"]},"seeds":[1],"parameters":[{"path":"train.seed","grid":[1]}]}`, "seeds", "train.seed"},
		"too many":             {`{"train":{"data":["d"]},"samples":5001,"seeds":[1,2],"parameters":[{"path":"train.steps","integer":{"min":1,"max":2}}]}`, "parameters", "more than 10000 children"},
		"collapse of scoring":  {`{"score":{"pairs":"p","model":"m"},"collapse":{"min_effective_rank":2}}`, "collapse", "training"},
		"halving no metric":    {`{"score":{"pairs":"p","model":"m"},"halving":{"min_steps":2}}`, "metric", "needs one"},
		"halving by nothing":   {`{"train":{"data":["d"]},"halving":{"min_steps":2},"metric":{"name":"accuracy"}}`, "metric.name", "accuracy"},
		"halving that ends no": {`{"train":{"data":["d"]},"halving":{"min_steps":2,"reduction":1}}`, "halving.reduction", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := sweep.Complete(request(t, c.request))
			if err == nil {
				_, err = sweep.Expand(context.Background(), r)
			}
			var faults jobspec.Errors
			if !errors.As(err, &faults) {
				t.Fatalf("got %v", err)
			}
			if faults[0].Field != c.field || !strings.Contains(faults[0].Problem, c.problem) {
				t.Errorf("got %q: %q\nwant %q: …%q…", faults[0].Field, faults[0].Problem, c.field, c.problem)
			}
		})
	}
}

func TestManyCombinationsAreRefusedBeforeTheyAreMade(t *testing.T) {
	values := strings.Repeat("1,", 9999) + "1"
	var parameters []string
	for _, path := range []string{"steps", "batch", "threads", "log_every", "checkpoint_every", "model.dim", "model.depth", "model.heads"} {
		parameters = append(parameters, fmt.Sprintf(`{"path":"train.%s","grid":[%s]}`, path, values))
	}
	_, err := sweep.Expand(t.Context(), request(t, `{"train":{"data":["d"]},"parameters":[`+strings.Join(parameters, ",")+`]}`))
	if err == nil || !strings.Contains(err.Error(), "more than 10000") {
		t.Errorf("got %v", err)
	}
}

func TestLargeSweepsAreRefusedWhileTheyAreMade(t *testing.T) {
	path := `"` + strings.Repeat("x", 4000)
	var data []string
	for i := range 200 {
		data = append(data, fmt.Sprintf(`%s%d"`, path, i))
	}
	var seeds string
	for i := range 200 {
		seeds += fmt.Sprintf("%d,", i)
	}
	large := `{"train":{"data":[` + strings.Join(data, ",") + `]},"seeds":[` + strings.TrimSuffix(seeds, ",") + `]}`
	if _, err := sweep.Expand(t.Context(), request(t, large)); err == nil || !strings.Contains(err.Error(), "of 200 children take more than 67108864 bytes") {
		t.Errorf("got %v", err)
	}
	choice := strings.Repeat(path+`",`, 600)
	larger := `{"train":{"data":["d"]},"samples":1,"parameters":[{"path":"train.preset","choice":[` + strings.TrimSuffix(choice, ",") + `]}]}`
	if _, err := sweep.Expand(t.Context(), request(t, larger)); err == nil || !strings.Contains(err.Error(), "want at most 2097152") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sweep.Expand(ctx, request(t, `{"train":{"data":["d"]},"seeds":[1,2]}`)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzExpand: whatever is asked for, the answer is children that are complete or an error, in bounded time.
func FuzzExpand(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(randomSweep, 2)))
	f.Add([]byte(`{"train":{"data":["d"]},"seeds":["1"],"parameters":[{"path":"train.mask.blocks[0].count","grid":[1,"x",null]}]}`))
	f.Add([]byte(`{"score":{"pairs":"p","model":"m"},"parameters":[{"path":"score.contexts","choice":[[1],[2,3]]}],"samples":3}`))
	f.Add([]byte(`{"train":{"data":["d"]},"samples":1,"parameters":[{"path":"train.seed","integer":{"min":"-9223372036854775808","max":"9223372036854775807"}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := &surmisev1.SubmitSweepRequest{}
		if protojson.Unmarshal(text, r) != nil || jobspec.Validate(r) != nil {
			return
		}
		r.Samples, r.Seeds = min(r.Samples, 20), r.Seeds[:min(len(r.Seeds), 3)] // for speed
		complete, err := sweep.Complete(r)
		if err != nil {
			return
		}
		children, err := sweep.Expand(context.Background(), complete)
		if err != nil {
			return
		}
		for _, c := range children {
			if _, err := jobspec.Complete(c.Spec); err != nil {
				t.Fatalf("a child is refused when submitted alone: %v", err)
			}
		}
	})
}

func BenchmarkExpand10000(b *testing.B) {
	r := request(b, fmt.Sprintf(randomSweep, 10000))
	for b.Loop() {
		if _, err := sweep.Expand(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
