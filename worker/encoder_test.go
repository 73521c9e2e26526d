package worker

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/plausibility"
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
	run := func(text, modelPath string) *surmisev1.Result {
		t.Helper()
		r, err := jobs.Run(t.Context(), Assignment{Job: "jobs/a", Epoch: 1, Spec: complete(t, text), ArtifactDir: t.TempDir(), ModelPath: modelPath}, &recorder{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	trained := run(fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,"threads":1,"model":{"objective":"masked","positions":"rope","mlp":"swiglu",
		"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}}}`, videos.ClipsDir), "").Artifacts[0].Path
	for objective, mask := range map[string]string{model.NextTubelet: "", model.Masked: `,"mask":{"kind":"causal"}`} {
		result := run(fmt.Sprintf(`{"train":{"data":[%q],"steps":4,"batch":2,"threads":1,"encoder":{"from":"jobs/a","frozen":true},"eval":{"pairs":%q,"every":2,"stride":8},
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
		if objective == model.Masked && c.MaskTokens != 3 {
			t.Errorf("%d mask tokens, want one for each of the three contexts of four tubelets", c.MaskTokens)
		}
		scored := run(fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/b","stride":8}}`, videos.PairsCSV), result.Artifacts[0].Path)
		if scored.Metrics["pairs"] != 2 {
			t.Errorf("%s: scored %v", objective, scored.Metrics)
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
