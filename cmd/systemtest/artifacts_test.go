package systemtest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "gocloud.dev/blob/s3blob"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/artifact/artifacttest"
	"github.com/surmise-ml/surmise/video/synth"
)

// TestWorkersThatShareNoDisk keeps artifacts in an S3 store, over HTTP. A job goes on at another worker from the store, to
// the bit as if nothing had happened; a third worker scores its model; old checkpoints and working folders are gone.
func TestWorkersThatShareNoDisk(t *testing.T) {
	bin := build(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	videos, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 6, Pairs: 4, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	address := artifacttest.StartS3(t).URL("lab")
	store, err := artifact.Open(ctx, address, artifact.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()

	coordinator := start(t, bin.coordinator, "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state"), "--lease", lease, "--artifacts", address)
	at := strings.TrimPrefix(coordinator.line(t), "coordinator listens on ")
	grpc := grpcurl{t, ctx, bin.grpcurl, at}
	hire := func(name string) *process {
		return start(t, bin.worker, "--coordinator", at, "--name", name, "--data-root", filepath.Join(dir, "videos"), "--data-dir", filepath.Join(dir, name))
	}
	train := func(name string) string {
		return fmt.Sprintf(`{"display_name":%q,"train":{"data":[%q],"steps":400,"batch":2,"threads":1,"checkpoint_every":40,
			"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"pred_dim":16,"pred_depth":1,"pred_heads":1}}}`, name, videos.ClipsDir)
	}
	ends := func(name string) {
		t.Helper()
		watch := grpc.watch(name)
		if end := watch.until(t, "JOB_ENDED"); end.Job.State != "SUCCEEDED" {
			t.Fatalf("%s ended %s: %s", name, end.Job.State, end.Job.Reason)
		}
		watch.end(t)
	}

	workers := map[string]*process{"one": hire("one"), "two": hire("two")}
	disturbed := grpc.submit(train("disturbed"))
	watch := grpc.watch(disturbed)
	first := watch.until(t, "JOB_CHECKPOINTED").Job
	workers[first.Worker].kill(t)
	watch.until(t, "JOB_REQUEUED")
	if next := watch.until(t, "JOB_CHECKPOINTED").Job; next.Worker == first.Worker || next.LastCheckpoint.Step <= first.LastCheckpoint.Step {
		t.Errorf("%s went on to step %d, after step %d at %s: it began anew", next.Worker, next.LastCheckpoint.Step, first.LastCheckpoint.Step, first.Worker)
	}
	watch.until(t, "JOB_ENDED")
	watch.end(t)
	for name, w := range workers {
		if name != first.Worker {
			w.terminate(t)
			w.exited(t, 0)
		}
	}

	hire("three")
	undisturbed := grpc.submit(train("undisturbed"))
	ends(undisturbed)
	a, b := modelOf(t, grpc, store, disturbed), modelOf(t, grpc, store, undisturbed)
	if a != b {
		t.Errorf("the weights of the job that moved are %s, of one that did not %s", a, b)
	}
	scored := grpc.submit(fmt.Sprintf(`{"score":{"pairs":%q,"model":%q,"stride":8}}`, videos.PairsCSV, disturbed))
	ends(scored)
	if table := grpc.call("surmise.v1.PlausibilityService/CompareScores", fmt.Sprintf(`{"names":[%q]}`, scored)); !strings.Contains(table, "Pairwise accuracy") {
		t.Errorf("comparison: %s", table)
	}

	// Working folders go with their attempts, and nothing of the artifacts lies on the coordinator's disk.
	for _, name := range []string{"one", "two", "three"} {
		err := filepath.WalkDir(filepath.Join(dir, name, "work", name, "attempts"), func(path string, d fs.DirEntry, err error) error {
			if name != first.Worker && err == nil && !d.IsDir() {
				t.Errorf("worker %s left %s", name, path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if found, err := os.ReadDir(filepath.Join(dir, "state", "artifacts", "jobs")); err != nil {
		t.Error(err)
	} else {
		for _, job := range found {
			if _, err := os.Stat(filepath.Join(dir, "state", "artifacts", "jobs", job.Name(), "attempts")); err == nil {
				t.Errorf("attempts of %s lie on the coordinator's disk", job.Name())
			}
		}
	}
	coordinator.terminate(t)
	coordinator.exited(t, 0)
}

// modelOf is the digest of the weights that a job left, from the manifest in the store.
func modelOf(t *testing.T, grpc grpcurl, store *artifact.Store, name string) string {
	t.Helper()
	var got struct {
		Result struct {
			Artifacts []struct{ Name, Path, Sha256 string }
		}
	}
	decode(t, grpc.call("surmise.v1.JobService/GetJob", fmt.Sprintf(`{"name":%q}`, name)), &got)
	for _, a := range got.Result.Artifacts {
		if a.Name != "model" {
			continue
		}
		m, err := store.Check(t.Context(), artifact.Ref{Path: a.Path, SHA256: a.Sha256})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m.Files {
			if f.Name == "model.safetensors" {
				return f.SHA256
			}
		}
	}
	t.Fatalf("%s left no model: %+v", name, got)
	return ""
}
