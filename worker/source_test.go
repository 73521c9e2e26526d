package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/model"
)

// A predictor is trained on the frozen encoder of another job's model, evaluated on the way, and scored; the second
// attempt finds what the first has encoded.
func TestTrainOnAFrozenEncoder(t *testing.T) {
	videos := tinyVideos(t)
	features, err := trainer.OpenFeatures(t.TempDir(), 0, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	jobs := Jobs{DataRoots: []string{filepath.Dir(videos.PairsCSV)}, Features: features}
	trained := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,"threads":1,"model":{"objective":"masked","positions":"rope","mlp":"swiglu",
		"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}}}`, videos.ClipsDir), "").Artifacts[0].Path
	for objective, mask := range map[string]string{model.NextTubelet: "", model.Masked: `,"mask":{"kind":"causal"}`} {
		result := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":4,"batch":2,"seed":7,"threads":1,"encoder":{"from":"jobs/a","frozen":true},"eval":{"pairs":%q,"every":2,"stride":8},
			"model":{"objective":%q,"predDim":24,"predDepth":1,"predHeads":2}%s}}`, videos.ClipsDir, videos.PairsCSV, objective, mask), trained)
		m, err := plausibility.OpenModel(result.Artifacts[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		c := m.Config
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if !c.FrozenEncoder || c.Objective != objective || c.Dim != 16 || c.Positions != model.RoPE || c.MLP != model.SwiGLU || c.PredMLP != "" || c.PredDim != 24 {
			t.Errorf("trained %+v", c)
		}
		if objective == model.Masked && c.MaskTokens != 1 {
			t.Errorf("%d mask tokens, want one for all contexts, as in scoring", c.MaskTokens)
		}
		scored := ran(t, jobs, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/b","stride":8}}`, videos.PairsCSV), result.Artifacts[0].Path)
		if scored.Metrics["pairs"] != 2 {
			t.Errorf("%s: scored %v", objective, scored.Metrics)
		}
		// The twin keeps the frozen encoder, and has the seed of the training: it is the model before its first step.
		if before, twin := evaluationBefore(t, result), twinOf(t, scored); !reflect.DeepEqual(before, twin.Scores) || twin.Model.Seed != 7 {
			t.Errorf("%s: the twin of seed %d is not the model before its first step", objective, twin.Model.Seed)
		}
		other := twinOf(t, ran(t, jobs, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/b","stride":8,"seed":0}}`, videos.PairsCSV), result.Artifacts[0].Path))
		if other.Model.Seed != 0 || reflect.DeepEqual(other.Scores, evaluationBefore(t, result)) {
			t.Errorf("%s: the seed that was asked for is 0, the twin's %d", objective, other.Model.Seed)
		}
	}

	for text, want := range map[string]string{
		`"encoder":{"from":"jobs/a","frozen":true},"model":{"dim":32}`:                             "train.model.dim is 32, the frozen encoder's is 16",
		`"encoder":{"from":"jobs/a","frozen":true},"model":{"positions":"sincos"}`:                 "train.model.positions is sincos",
		`"encoder":{"from":"jobs/a","frozen":true},"mask":{"kind":"causal","contextTubelets":[4]}`: "train.mask.context_tubelets[0]",
		`"encoder":{"from":"/elsewhere/model.safetensors","frozen":true}`:                          "train.encoder.from",
	} {
		spec := complete(t, fmt.Sprintf(`{"train":{"data":[%q],%s}}`, videos.ClipsDir, text))
		_, err := jobs.Run(t.Context(), Assignment{Job: "jobs/c", Epoch: 1, Spec: spec, ArtifactDir: t.TempDir(), ModelPath: trained}, &recorder{})
		if err == nil || !strings.Contains(err.Error(), want) || IsInfrastructure(err) {
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}
	spec := complete(t, fmt.Sprintf(`{"train":{"data":[%q],"encoder":{"from":"jobs/a","frozen":true}}}`, videos.ClipsDir)).GetTrain()
	if _, err := jobs.Train(t.Context(), spec, t.TempDir(), &recorder{}); err == nil || !strings.Contains(err.Error(), "known to a coordinator") {
		t.Errorf("a job's model without a coordinator: %v", err)
	}
}

// evaluationBefore is what a training's evaluation at step 0 gave.
func evaluationBefore(t *testing.T, trained *surmisev1.Result) []compare.Scores {
	t.Helper()
	f, err := compare.Load(filepath.Join(trained.Artifacts[3].Path, "step-00000000.json"))
	if err != nil {
		t.Fatal(err)
	}
	return f.Sets[0].Scores
}

// twinOf is the twin's part of a scoring job's scores.
func twinOf(t *testing.T, scored *surmisev1.Result) *compare.Set {
	t.Helper()
	f, err := compare.Load(scored.Artifacts[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	set, ok := f.Set(compare.TwinSet)
	if !ok {
		t.Fatal("no twin was scored")
	}
	return set
}

// The twin of a run that began with a model is that model, if its weights can be had; if not, the scores say so.
func TestTwinOfARunThatBeganWithAModel(t *testing.T) {
	videos := tinyVideos(t)
	root := filepath.Dir(videos.PairsCSV)
	jobs := Jobs{DataRoots: []string{root}}
	const shape = `"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}`
	encoder := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":1,"batch":2,%s}}`, videos.ClipsDir, shape), "").Artifacts[0].Path
	frozen := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":1,"batch":2,"encoder":{"from":"jobs/a","frozen":true},"model":{"predDim":16,"predDepth":1,"predHeads":1}}}`, videos.ClipsDir), encoder).Artifacts[0].Path
	first := filepath.Join(root, "first")
	if err := os.CopyFS(first, os.DirFS(frozen)); err != nil {
		t.Fatal(err)
	}
	result := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":2,"batch":2,"seed":5,"init":{"from":%q},"eval":{"pairs":%q,"stride":8}}}`, videos.ClipsDir, first, videos.PairsCSV), first)
	score := func(jobs Jobs) (*compare.Set, []string) {
		scored := ran(t, jobs, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/b","stride":8}}`, videos.PairsCSV), result.Artifacts[0].Path)
		f, err := compare.Load(scored.Artifacts[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		return twinOf(t, scored), f.Notes
	}
	want := evaluationBefore(t, result)
	twin, notes := score(jobs)
	if !reflect.DeepEqual(twin.Scores, want) || twin.Model.SHA256 == "" || len(notes) != 1 || !strings.Contains(notes[0], "is the model that training began with, "+first) {
		t.Errorf("the twin is not the model that training began with: %q", notes)
	}
	anew := func(jobs Jobs, why string) {
		t.Helper()
		twin, notes := score(jobs)
		if reflect.DeepEqual(twin.Scores, want) || twin.Model.SHA256 != "" || twin.Model.Seed != 5 || len(notes) != 1 ||
			!strings.Contains(notes[0], "the untrained twin is drawn anew, with seed 5: it is not the model before training") || !strings.Contains(notes[0], why) {
			t.Errorf("notes %q of twin %+v, want that it is drawn anew, because %s", notes, twin.Model, why)
		}
	}
	// Where the checkpoint leads is no way out of the data roots.
	elsewhere := t.TempDir()
	if err := os.Rename(first, filepath.Join(elsewhere, "first")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(elsewhere, "first"), first); err != nil {
		t.Fatal(err)
	}
	anew(jobs, "lies outside the folders that may be read")
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	anew(jobs, "no such file")
	if err := os.CopyFS(first, os.DirFS(encoder)); err != nil {
		t.Fatal(err)
	}
	anew(jobs, "what lies there has sha256")
}

// Beside a job's model, whose folder a coordinator gives, lie those of other jobs.
func TestWhereAJobsFirstModelMayLie(t *testing.T) {
	root := t.TempDir()
	jobs := Jobs{DataRoots: []string{filepath.Join(root, "data")}}
	model, other := filepath.Join(root, "jobs", "b", "attempts", "1", "checkpoints", "step-1"), filepath.Join(root, "jobs", "a", "attempts", "1", "checkpoints", "step-1")
	for _, c := range []struct {
		name, path string
		allowed    bool
	}{{"jobs/b", model, true}, {model, model, false}, {"jobs/b", filepath.Join(root, "model"), false}} {
		if _, err := jobs.beside(c.name, c.path)(other); (err == nil) != c.allowed {
			t.Errorf("%s at %s: %v", c.name, c.path, err)
		}
	}
}

// A job trains on from another job's model: it begins with what that model scores, and its own are no longer those.
func TestTrainOnFromAModel(t *testing.T) {
	videos := tinyVideos(t)
	jobs := Jobs{DataRoots: []string{filepath.Dir(videos.PairsCSV)}}
	for what, c := range map[string]struct{ shape, again string }{
		"masked": {`"objective":"masked","positions":"rope","mlp":"swiglu","size":32,"frames":8`, `"model":{"size":16,"frames":16},"mask":{"kind":"tube","ratio":0.5}`},
		"next":   {`"objective":"next_tubelet","size":32,"frames":8`, `"model":{"predDim":16,"objective":"next_tubelet"}`},
	} {
		trained := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,"threads":1,"precision":"fp32","model":{%s,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}}}`,
			videos.ClipsDir, c.shape), "").Artifacts[0].Path
		result := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,"threads":1,"precision":"fp32","init":{"from":"jobs/a"},"eval":{"pairs":%q,"stride":4},%s}}`,
			videos.ClipsDir, videos.PairsCSV, c.again), trained)
		after, err := plausibility.OpenModel(result.Artifacts[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		shape := after.Config
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		if want := map[string]int{"masked": 16, "next": 32}[what]; shape.Size != want || shape.Dim != 16 || shape.PredHeads != 1 || shape.Objective == model.Masked && shape.MLP != model.SwiGLU {
			t.Errorf("%s: trained %+v", what, shape)
		}
		if what == "masked" {
			continue // of another size, the model scores other windows
		}
		before, err := compare.Load(filepath.Join(result.Artifacts[3].Path, "step-00000000.json"))
		if err != nil {
			t.Fatal(err)
		}
		scores := filepath.Join(t.TempDir(), "scores.json")
		spec := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":4,"threads":1,"precision":"fp32","skipTwin":true}}`, videos.PairsCSV, trained)).GetScore()
		scored, err := (Jobs{}).Score(t.Context(), spec, trained, scores, &recorder{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(before.Sets[0].Scores, scored.Sets[0].Scores) {
			t.Errorf("%s: the evaluation before the first step is not that of the model it begins with", what)
		}
	}

	trained := ran(t, jobs, fmt.Sprintf(`{"train":{"data":[%q],"steps":1,"batch":2,"threads":1,"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}}}`,
		videos.ClipsDir), "").Artifacts[0].Path
	for text, want := range map[string]string{
		`"init":{"from":"jobs/a"},"model":{"dim":32}`:          "train.model.dim is 32, the weights' is 16",
		`"init":{"from":"jobs/a"},"model":{"frames":16}`:       "train.model.frames is 16, the weights' is 8",
		`"init":{"from":"jobs/a"},"model":{"target":"pixels"}`: "train.model.target is pixels, the weights' is representation",
		`"init":{"from":"jobs/a"},"mask":{"kind":"causal"}`:    "train.mask: the weights are of a next_tubelet model",
		`"init":{"from":"/elsewhere/model.safetensors"}`:       "train.init.from",
	} {
		spec := complete(t, fmt.Sprintf(`{"train":{"data":[%q],%s}}`, videos.ClipsDir, text))
		_, err := jobs.Run(t.Context(), Assignment{Job: "jobs/c", Epoch: 1, Spec: spec, ArtifactDir: t.TempDir(), ModelPath: trained}, &recorder{})
		if err == nil || !strings.Contains(err.Error(), want) || IsInfrastructure(err) {
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}

	// A run goes on from its own checkpoints when the model that it began with is gone, and does not begin without it.
	root := t.TempDir()
	copied, dir := filepath.Join(root, "model"), t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(trained)); err != nil {
		t.Fatal(err)
	}
	spec := complete(t, fmt.Sprintf(`{"train":{"data":[%q],"steps":2,"batch":2,"threads":1,"checkpointEvery":1,"init":{"from":%q}}}`, videos.ClipsDir, copied)).GetTrain()
	if _, err := (Jobs{}).Train(t.Context(), spec, dir, &recorder{}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(copied); err != nil {
		t.Fatal(err)
	}
	if _, err := (Jobs{}).Train(t.Context(), spec, dir, &recorder{}); err != nil {
		t.Errorf("resumed without the model: %v", err)
	}
	if _, err := (Jobs{}).Train(t.Context(), spec, t.TempDir(), &recorder{}); err == nil || !strings.Contains(err.Error(), "train.init.from") {
		t.Errorf("begun without the model: %v", err)
	}
}
