package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/video/synth"
)

// Videos on a web server are scored and embedded as the same files here are, where the rules of fetching allow it.
func TestVideosElsewhere(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "videos")
	t.Chdir(dir)
	made, err := synth.Generate(t.Context(), synth.Options{Dir: root, Clips: 3, Pairs: 4, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(root)))
	defer server.Close()
	job := `{"train":{"data":["` + made.ClipsDir + `"],"steps":2,"batch":2,"threads":1,` + tinyModel + `}}`
	if err := os.WriteFile("job.json", []byte(job), 0o600); err != nil {
		t.Fatal(err)
	}
	trained := strings.TrimSpace(ok(t, "train", "-f", "job.json", "--out", "run", "--cache-dir", "none"))
	allowed := []string{"--cache-dir", "cache", "--fetch-scheme", "http", "--fetch-network", "127.0.0.0/8"}

	pairs, err := os.ReadFile(made.PairsCSV)
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Rel(root, filepath.Dir(made.PairsCSV))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(pairs), "\n")
	for i := 1; i < len(lines); i++ {
		if lines[i] != "" {
			lines[i] = server.URL + "/" + filepath.ToSlash(filepath.Join(base, lines[i]))
		}
	}
	if err := os.WriteFile("there.csv", []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "score", "--model", trained, "--pairs", made.PairsCSV, "--out", "here.json", "--threads", "1", "--cache-dir", "none")
	ok(t, append([]string{"score", "--model", trained, "--pairs", "there.csv", "--out", "there.json", "--threads", "1"}, allowed...)...)
	here, there := load(t, "here.json"), load(t, "there.json")
	if len(there.Videos) != len(here.Videos) || len(there.Skipped) != 0 {
		t.Fatalf("%d videos and %v skipped, want %d", len(there.Videos), there.Skipped, len(here.Videos))
	}
	for i := range here.Videos {
		v := &there.Videos[i]
		if !strings.HasPrefix(v.Path, server.URL) || there.Location(v) != v.Path || v.SHA256 != here.Videos[i].SHA256 {
			t.Errorf("video %+v of %+v", v, here.Videos[i])
		}
	}
	if !reflect.DeepEqual(there.Sets[0].Scores, here.Sets[0].Scores) {
		t.Error("other scores than of the files here")
	}

	// What may not be fetched, here or below the roots, is refused; what is not there is skipped, and named.
	for want, args := range map[string][]string{
		"not in a network that may":      {"--cache-dir", "another", "--fetch-scheme", "http"},
		"outside the folders":            append([]string{"--data-root", dir}, allowed...),
		"only files on this machine can": {"--cache-dir", "none"},
	} {
		code, _, shown := surmise(t, "", append([]string{"score", "--model", trained, "--pairs", "there.csv", "--out", "x.json"}, args...)...)
		if code == exitOK || !strings.Contains(shown, want) {
			t.Errorf("%v: exit code %d, %q, want %q in it", args, code, shown, want)
		}
	}
	gone := strings.Replace(strings.Join(lines, "\n"), "-p1.", "-gone.", 1)
	if err := os.WriteFile("gone.csv", []byte(gone), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, append([]string{"score", "--model", trained, "--pairs", "gone.csv", "--out", "gone.json", "--threads", "1"}, allowed...)...)
	if f := load(t, "gone.json"); len(f.Videos) != len(here.Videos)-4 || len(f.Skipped) != 4 || !strings.Contains(f.Skipped[0].Reason, "unreadable") {
		t.Errorf("%d videos scored, skipped %v", len(f.Videos), f.Skipped)
	}

	// Embeddings have the URI as name.
	clip := filepath.Join(made.ClipsDir, firstFile(t, made.ClipsDir))
	name, err := filepath.Rel(root, clip)
	if err != nil {
		t.Fatal(err)
	}
	uri := server.URL + "/" + filepath.ToSlash(name)
	ok(t, "embed", "--model", trained, "--out", "here.safetensors", "--threads", "1", "--cache-dir", "none", clip)
	ok(t, append([]string{"embed", "--model", trained, "--out", "there.safetensors", "--threads", "1", uri}, allowed...)...)
	if a, b := embedding(t, "here.safetensors"), embedding(t, "there.safetensors"); b.Name != uri || !reflect.DeepEqual(a.Data, b.Data) {
		t.Errorf("the embedding of %s is another than that of %s", b.Name, a.Name)
	}
}

func firstFile(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d files in %s: %v", len(entries), dir, err)
	}
	return entries[0].Name()
}

// embedding is the one tensor of a file.
func embedding(t *testing.T, path string) checkpoint.Tensor {
	t.Helper()
	tensors, _, err := checkpoint.ReadSafetensors(path)
	if err != nil || len(tensors) != 1 {
		t.Fatalf("%d tensors in %s: %v", len(tensors), path, err)
	}
	return tensors[0]
}
