package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/video/synth"
)

// A published checkpoint becomes a model, which scores and embeds videos, goes to transformers and comes back the same.
func TestGoldenImportScoreEmbedExport(t *testing.T) {
	var shape struct {
		Config struct{ Img, Frames, Heads, Pheads, Dim int }
	}
	golden.JSON(t, "vjepa2_forward.json", &shape)
	c := shape.Config
	checkpointPath := golden.Path(t, "vjepa2_ckpt.pt")
	t.Chdir(t.TempDir())
	out := ok(t, "import", "--from", checkpointPath, "--out", "model.safetensors", "--heads", strconv.Itoa(c.Heads), "--pred-heads", strconv.Itoa(c.Pheads),
		"--frames", strconv.Itoa(c.Frames), "--size", strconv.Itoa(c.Img))
	for _, want := range []string{"vjepa2_ckpt.pt: vjepa", "one tensor in memory at a time", "note: positions are taken for rope", "wrote model.safetensors"} {
		if !strings.Contains(out, want) {
			t.Errorf("import printed %q, without %q", out, want)
		}
	}

	videos, err := synth.Generate(t.Context(), synth.Options{Dir: "videos", Clips: 2, Pairs: 2, Size: 64, Frames: max(16, 2*c.Frames), FPS: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ok(t, "score", "--model", "model.safetensors", "--pairs", videos.PairsCSV, "--out", "scores.json", "--no-twin", "--threads", "1")
	scores, err := compare.Load("scores.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(scores.Videos) != 4 || len(scores.Sets[0].Scores[0].Surprise) == 0 {
		t.Errorf("scores of %d videos: %+v", len(scores.Videos), scores.Sets)
	}
	if record := string(scores.Sets[0].Model.Config); !strings.Contains(record, "vjepa2_ckpt.pt") {
		t.Errorf("the scores do not say where the model came from: %s", record)
	}

	lines := ok(t, "embed", "--model", "model.safetensors", "--out", "e.safetensors", "--json", "--cache-dir", "none", videos.ClipsDir)
	var first struct {
		Path  string
		Clips int
	}
	if err := json.Unmarshal([]byte(strings.SplitN(lines, "\n", 2)[0]), &first); err != nil || first.Clips != max(16, 2*c.Frames)/c.Frames {
		t.Errorf("embed printed %q (%v)", lines, err)
	}
	embeddings, _, err := checkpoint.ReadSafetensors("e.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	if len(embeddings) != 2 || embeddings[0].Name != first.Path || embeddings[0].Shape[1] != c.Dim {
		t.Errorf("embeddings %v of %q", embeddings[0].Shape, embeddings[0].Name)
	}

	ok(t, "export", "--from", "model.safetensors", "--format", "hf", "--out", "hf")
	var report importReport
	if err := json.Unmarshal([]byte(ok(t, "import", "--from", "hf", "--out", "again.safetensors", "--json")), &report); err != nil {
		t.Fatal(err)
	}
	if report.Imported.Format != "hf" || report.Model.Heads != c.Heads || report.Parameters == 0 || report.Bytes == 0 {
		t.Errorf("import reported %+v", report)
	}
	ok(t, "embed", "--model", "again.safetensors", "--out", "e2.safetensors", "--cache-dir", "none", videos.ClipsDir)
	again, _, err := checkpoint.ReadSafetensors("e2.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	for i := range embeddings {
		for j, x := range embeddings[i].Data {
			if again[i].Data[j] != x {
				t.Fatalf("%s: the model that went to transformers and back embeds it otherwise", embeddings[i].Name)
			}
		}
	}
}

func TestGoldenImportRefusals(t *testing.T) {
	pickle := golden.Path(t, "torch_misc.pth")
	unknown := golden.Path(t, "vjepa2_ckpt.pt")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("evil.pt", []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.\x80\x02cos\nsystem\nX\x09\x00\x00\x00touch ran\x85R."), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		`the pickle wants "os system"`:              {"import", "--from", "evil.pt", "--out", "m.safetensors"},
		"extra: \"f32\"":                            {"import", "--from", pickle, "--out", "m.safetensors"},
		"heads: the tensors do not tell":            {"import", "--from", unknown, "--out", "m.safetensors"},
		"--from: stat nothing.pt":                   {"import", "--from", "nothing.pt", "--out", "m.safetensors"},
		"which is \"all\"":                          {"import", "--from", unknown, "--out", "m.safetensors", "--which", "all"},
		"evil.pt":                                   {"export", "--from", "evil.pt", "--out", "x", "--format", "hf"},
		`required flag(s) "format" not set`:         {"export", "--from", "evil.pt", "--out", "x"},
		"embed --model MODEL":                       {"embed", "--help"},
		"takes one video, folder or index or more":  {"embed", "--model", "evil.pt", "--out", "x"},
		"--fps and --frame-step exclude each other": {"embed", "--model", "evil.pt", "--out", "x", "--fps", "2", "--frame-step", "2", "v"},
	} {
		code, out, errOut := surmise(t, "", args...)
		if wantCode := map[bool]int{true: exitOK, false: exitUsage}[args[1] == "--help"]; code != wantCode || !strings.Contains(out+errOut, want) {
			t.Errorf("%v: exit code %d, %q, want %d and %q", args, code, out+errOut, wantCode, want)
		}
	}
	if names, err := filepath.Glob("*"); err != nil || len(names) != 1 {
		t.Errorf("%v is left behind (%v)", names, err)
	}
}

// A predictor is trained in the space of a published encoder: imported, frozen, and scored with what was trained.
func TestGoldenTrainOnAnImportedEncoder(t *testing.T) {
	var shape struct {
		Config struct{ Img, Frames, Heads, Pheads, Dim int }
	}
	golden.JSON(t, "vjepa2_forward.json", &shape)
	c := shape.Config
	checkpointPath := golden.Path(t, "vjepa2_ckpt.pt")
	t.Chdir(t.TempDir())
	ok(t, "import", "--from", checkpointPath, "--out", "model.safetensors", "--heads", strconv.Itoa(c.Heads), "--pred-heads", strconv.Itoa(c.Pheads),
		"--frames", strconv.Itoa(c.Frames), "--size", strconv.Itoa(c.Img))
	videos, err := synth.Generate(t.Context(), synth.Options{Dir: "videos", Clips: 3, Pairs: 1, Size: 64, Frames: max(16, 2*c.Frames), FPS: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, objective := range []string{"masked", "next_tubelet"} {
		job := `{"train":{"data":["` + videos.ClipsDir + `"],"steps":4,"batch":2,"threads":1,"encoder":{"from":"model.safetensors","frozen":true},
			"model":{"objective":"` + objective + `","predDim":24,"predDepth":1,"predHeads":2},"mask":{"kind":"causal"}}}`
		if objective == "next_tubelet" {
			job = strings.Replace(job, `,"mask":{"kind":"causal"}`, "", 1)
		}
		if err := os.WriteFile("job.json", []byte(job), 0o644); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join("run", objective)
		trained := strings.TrimSpace(ok(t, "train", "-f", "job.json", "--out", out, "--cache-dir", "cache"))
		if kept, err := filepath.Glob(filepath.Join("cache", "features", "*.features")); err != nil || len(kept) == 0 {
			t.Errorf("no features were kept: %v", err)
		}
		ok(t, "score", "--model", trained, "--pairs", videos.PairsCSV, "--out", "scores.json", "--threads", "1")
		scores, err := compare.Load("scores.json")
		if err != nil {
			t.Fatal(err)
		}
		if len(scores.Videos) != 2 || len(scores.Sets) != 2 || !strings.Contains(string(scores.Sets[0].Model.Config), "sha256") {
			t.Errorf("scores of %d videos by %d models: %s", len(scores.Videos), len(scores.Sets), scores.Sets[0].Model.Config)
		}
	}
}

// An imported checkpoint is scored by a worker as it is here; a job's model is the frozen encoder of another job, both
// named to a coordinator.
func TestGoldenModelsKnownToACoordinator(t *testing.T) {
	var shape struct {
		Config struct{ Img, Frames, Heads, Pheads int }
	}
	golden.JSON(t, "vjepa2_forward.json", &shape)
	c := shape.Config
	dir := t.TempDir()
	importedPath := filepath.Join(dir, "model.safetensors")
	ok(t, "import", "--from", golden.Path(t, "vjepa2_ckpt.pt"), "--out", importedPath, "--heads", strconv.Itoa(c.Heads), "--pred-heads", strconv.Itoa(c.Pheads),
		"--frames", strconv.Itoa(c.Frames), "--size", strconv.Itoa(c.Img))
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 3, Pairs: 1, Size: 32, Frames: max(16, 2*c.Frames), FPS: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pairs, clips := made.PairsCSV, made.ClipsDir
	up := startUp(t, "--data-dir", filepath.Join(dir, "state"), "--data-root", dir, "--cache-dir", filepath.Join(dir, "kept"))
	to := "--coordinator=" + up.address
	result := func(job string) string {
		code, out, shown := surmise(t, job, "submit", to, "-f", "-", "--wait")
		if code != exitOK {
			t.Fatalf("%s\nexit code %d: %s", job, code, shown)
		}
		return strings.TrimSpace(out)
	}
	here := filepath.Join(dir, "here.json")
	ok(t, "score", "--model", importedPath, "--pairs", pairs, "--out", here, "--threads", "1", "--cache-dir", "none")
	scored := result(`{"score":{"pairs":"` + pairs + `","model":"` + importedPath + `","threads":1}}`)
	there := load(t, artifactPath(t, to, scored, "scores"))
	if want := load(t, here); !reflect.DeepEqual(there.Sets, want.Sets) || !reflect.DeepEqual(there.Videos, want.Videos) {
		t.Error("a worker scores the imported model otherwise")
	}

	encoder := result(`{"train":{"data":["` + clips + `"],"steps":3,"batch":2,"threads":1,` + tinyModel + `}}`)
	predictor := result(`{"train":{"data":["` + clips + `"],"steps":3,"batch":2,"threads":1,"encoder":{"from":"` + encoder + `","frozen":true},
		"model":{"objective":"next_tubelet","predDim":16,"predDepth":1,"predHeads":1}}}`)
	scored = result(`{"score":{"pairs":"` + pairs + `","model":"` + predictor + `","threads":1}}`)
	var config struct {
		Model struct {
			Frozen bool `json:"frozen_encoder"`
		}
		Encoder struct{ SHA256 string }
	}
	m := load(t, artifactPath(t, to, scored, "scores")).Sets[0].Model
	if err := json.Unmarshal(m.Config, &config); err != nil {
		t.Fatal(err)
	}
	if weights := sha256Of(t, artifactPath(t, to, encoder, "model")); !config.Model.Frozen || config.Encoder.SHA256 != weights {
		t.Errorf("the model scored is %s; want the encoder frozen that %s ended with, %s", m.Config, encoder, weights)
	}
	further := result(`{"train":{"data":["` + clips + `"],"steps":2,"batch":2,"threads":1,"init":{"from":"` + predictor + `"}}}`)
	onward, err := checkpoint.Load(artifactPath(t, to, further, "model"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(onward.Manifest.Config), `"sha256":"`+sha256Of(t, artifactPath(t, to, predictor, "model"))+`"`) {
		t.Errorf("%s does not say that it began with the weights of %s: %s", further, predictor, onward.Manifest.Config)
	}
	if name := strings.TrimSpace(ok(t, "submit", to, "--train", clips, "--init", further, "--steps", "1", "--wait")); !strings.HasPrefix(name, "jobs/") {
		t.Errorf("by flags: %s", name)
	}
	code, _, shown := surmise(t, `{"train":{"data":["`+clips+`"],"init":{"from":"jobs/nope"}}}`, "submit", to, "-f", "-")
	if code != exitUsage || !strings.Contains(shown, "train.init.from: there is no job jobs/nope") {
		t.Errorf("weights of no job: exit code %d\n%s", code, shown)
	}
	code, _, shown = surmise(t, `{"train":{"data":["`+clips+`"],"encoder":{"from":"jobs/nope","frozen":true}}}`, "submit", to, "-f", "-")
	if code != exitUsage || !strings.Contains(shown, "train.encoder.from: there is no job jobs/nope") {
		t.Errorf("an encoder of no job: exit code %d\n%s", code, shown)
	}
}

// sha256Of is the digest of a model's weights.
func sha256Of(t *testing.T, path string) string {
	t.Helper()
	m, err := checkpoint.LoadModel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return m.Digest.SHA256
}
