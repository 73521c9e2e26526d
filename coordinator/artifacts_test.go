package coordinator_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "gocloud.dev/blob/s3blob"
	"google.golang.org/grpc/codes"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/artifact/artifacttest"
	"github.com/surmise-ml/surmise/coordinator"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// tidied is a slog.Handler that tells when old artifacts were removed.
type tidied struct {
	slog.Handler
	removed chan struct{}
}

func (h tidied) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "old artifacts removed" {
		select {
		case h.removed <- struct{}{}:
		default:
		}
	}
	return h.Handler.Handle(ctx, r)
}
func (h tidied) Enabled(context.Context, slog.Level) bool { return true }

// keeping starts a coordinator whose artifacts are kept in an S3 store.
func keeping(t *testing.T, change func(*coordinator.Config)) (*server, *artifact.Store, *artifacttest.S3) {
	t.Helper()
	s3 := artifacttest.StartS3(t)
	store, err := artifact.Open(t.Context(), s3.URL("lab"), artifact.Options{Patience: 20 * time.Millisecond, MinWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return start(t, func(c *coordinator.Config) {
		c.Artifacts = store
		if change != nil {
			change(c)
		}
	}), store, s3
}

// bring publishes a checkpoint's folder, or with a name that ends in .json a file, as a worker of this lease does.
func bring(t *testing.T, store *artifact.Store, l *surmisev1.Lease, bundle, text string) artifact.Ref {
	t.Helper()
	local := filepath.Join(t.TempDir(), "local")
	file := local
	if !strings.HasSuffix(bundle, ".json") {
		file = filepath.Join(local, "model.safetensors")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	attempt := artifact.AttemptKey(strings.TrimPrefix(l.Lease.Job, "jobs/"), l.Lease.Epoch)
	u, err := store.NewUpload(t.Context(), attempt, bundle, artifact.Source{Path: local})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := u.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (w *worker) checkpointRef(l *surmisev1.LeaseRef, step int32, ref artifact.Ref) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Checkpoint{Checkpoint: &surmisev1.CheckpointPublished{
		Lease: l, Checkpoint: &surmisev1.Checkpoint{Step: step, Path: ref.Path, Sha256: ref.SHA256}}}})
}

func TestArtifactsInAStore(t *testing.T) {
	s, store, s3 := keeping(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	if l.ArtifactStore != s3.URL("lab") || l.ArtifactDir != artifact.AttemptKey(strings.TrimPrefix(job.Name, "jobs/"), 1) {
		t.Errorf("artifacts go to %s in %s", l.ArtifactDir, l.ArtifactStore)
	}
	saved := bring(t, store, l, "checkpoints/step-00000100", "weights")
	w.checkpointRef(l.Lease, 100, saved)
	hear(w, (*surmisev1.AttachResponse).GetCheckpointRecorded)
	if got := s.get(job.Name).LastCheckpoint; got.Path != saved.Path || got.Sha256 != saved.SHA256 {
		t.Errorf("last checkpoint %v, want %s", got, saved)
	}
	w.handedBack(l.Lease, "drained")
	w.settled(surmisev1.JobState_QUEUED)

	// The next attempt goes on from it. What the first still publishes changes nothing.
	next := s.ready("next")
	l2 := next.lease()
	if got := l2.ResumeFrom; got.GetPath() != saved.Path || got.GetSha256() != saved.SHA256 || got.GetStep() != 100 {
		t.Errorf("goes on from %v, want %s", got, saved)
	}
	late := bring(t, store, l, "checkpoints/step-00000900", "stale")
	w.checkpointRef(l.Lease, 900, late)
	hear(w, (*surmisev1.AttachResponse).GetRevoked)
	w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: late.Path, Sha256: late.SHA256})
	hear(w, (*surmisev1.AttachResponse).GetRevoked)
	if got := s.get(job.Name); got.LastCheckpoint.Step != 100 || got.Epoch != 2 || got.Result != nil {
		t.Errorf("after the words of a stale worker: %v", got)
	}
	// Nor may one attempt name what another published.
	next.checkpointRef(l2.Lease, 900, late)
	next.settled(surmisev1.JobState_QUEUED)
	if got := s.get(job.Name); !strings.Contains(got.Reason, "does not lie below") {
		t.Errorf("reason %q", got.Reason)
	}

	// The result is published; the model resolves for another job, by key and digest.
	next.ready()
	l3 := next.lease()
	model := bring(t, store, l3, "checkpoints/step-00000200", "trained")
	next.done(l3.Lease, &surmisev1.Artifact{Name: "model", Path: model.Path, Sha256: model.SHA256})
	next.settled(surmisev1.JobState_SUCCEEDED)
	s.submit(score(job.Name))
	next.ready()
	if l := next.lease(); l.ModelPath != model.Path || l.ModelSha256 != model.SHA256 {
		t.Errorf("the model is %s with %s, want %s", l.ModelPath, l.ModelSha256, model)
	}
}

func TestArtifactsThatAreNotThere(t *testing.T) {
	for name, c := range map[string]struct {
		ref  func(*testing.T, *artifact.Store, *surmisev1.Lease) artifact.Ref
		says string
	}{
		"no manifest": {func(_ *testing.T, _ *artifact.Store, l *surmisev1.Lease) artifact.Ref {
			return artifact.Ref{Path: l.ArtifactDir + "/checkpoints/step-00000001", SHA256: strings.Repeat("0", 64)}
		}, "not in the artifact store"},
		"another manifest": {func(t *testing.T, s *artifact.Store, l *surmisev1.Lease) artifact.Ref {
			return artifact.Ref{Path: bring(t, s, l, "checkpoints/step-00000001", "x").Path, SHA256: strings.Repeat("0", 64)}
		}, "damaged"},
		"no digest": {func(t *testing.T, s *artifact.Store, l *surmisev1.Lease) artifact.Ref {
			return artifact.Ref{Path: bring(t, s, l, "checkpoints/step-00000001", "x").Path}
		}, "damaged"},
		"a path": {func(_ *testing.T, _ *artifact.Store, l *surmisev1.Lease) artifact.Ref {
			return artifact.Ref{Path: "/" + l.ArtifactDir + "/x", SHA256: strings.Repeat("0", 64)}
		}, "does not lie below"},
	} {
		t.Run(name, func(t *testing.T) {
			s, store, _ := keeping(t, nil)
			job := s.submit(train())
			w := s.ready("w")
			l := w.lease()
			w.checkpointRef(l.Lease, 1, c.ref(t, store, l))
			w.settled(surmisev1.JobState_QUEUED)
			if got := s.get(job.Name); !strings.Contains(got.Reason, c.says) || got.LastCheckpoint != nil {
				t.Errorf("%v, want %q", got, c.says)
			}
		})
	}
}

// While the store is away nothing is lost: the worker attaches again and says it again.
func TestTheArtifactStoreIsAway(t *testing.T) {
	s, store, s3 := keeping(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	saved := bring(t, store, l, "checkpoints/step-00000100", "weights")
	s3.Meet(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "away", http.StatusServiceUnavailable)
	})
	w.checkpointRef(l.Lease, 100, saved)
	wantCode(t, w.ended(), codes.Unavailable)
	if got := s.get(job.Name); got.Epoch != 1 || got.LastCheckpoint != nil || got.Worker != "w" {
		t.Errorf("the job moved: %v", got)
	}
	s3.Meet(nil)
	again := s.attach("w", l.Lease)
	hear(again, (*surmisev1.AttachResponse).GetRenewed)
	again.checkpointRef(l.Lease, 100, saved)
	hear(again, (*surmisev1.AttachResponse).GetCheckpointRecorded)
}

// Scores come from the store through a cache, and only if they are what was published.
func TestScoresInAStore(t *testing.T) {
	var compared atomic.Value
	s, store, _ := keeping(t, func(c *coordinator.Config) { c.Comparer = readingComparer{&compared} })
	job := s.submit(score("model.safetensors"))
	w := s.ready("w")
	l := w.lease()
	scores := bring(t, store, l, "scores.json", `{"scores":1}`)
	w.done(l.Lease, &surmisev1.Artifact{Name: "scores", Path: scores.Path, Sha256: scores.SHA256})
	w.settled(surmisev1.JobState_SUCCEEDED)
	if _, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{job.Name}}); err != nil || compared.Load() != `{"scores":1}` {
		t.Errorf("compared %q: %v", compared.Load(), err)
	}
}

// readingComparer keeps what it reads.
type readingComparer struct{ text *atomic.Value }

func (c readingComparer) Compare(_ context.Context, files []coordinator.ScoreFile, _ *coordinator.ScoreFile, _ *surmisev1.CompareScoresRequest) (*surmisev1.CompareScoresResponse, error) {
	text, err := os.ReadFile(files[0].Path)
	c.text.Store(string(text))
	return &surmisev1.CompareScoresResponse{}, err
}

func (readingComparer) Scores(context.Context, string, func(*surmisev1.GetScoresResponse) error) error {
	return nil
}

// A score file that changed on the shared disk is found when it is read.
func TestScoresThatChangedOnDisk(t *testing.T) {
	var compared atomic.Value
	s := start(t, func(c *coordinator.Config) { c.Comparer = readingComparer{&compared} })
	job := s.submit(score("model.safetensors"))
	w := s.ready("w")
	l := w.lease()
	path := publish(t, l, "scores.json")
	const digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // of {}
	w.done(l.Lease, &surmisev1.Artifact{Name: "scores", Path: path, Sha256: digest})
	w.settled(surmisev1.JobState_SUCCEEDED)
	compare := func() error {
		_, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{job.Name}})
		return err
	}
	if err := compare(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantCode(t, compare(), codes.FailedPrecondition)
}

// Old checkpoints go; what a result names stays, and so does what another job was given.
func TestOldCheckpointsAreRemoved(t *testing.T) {
	removed := make(chan struct{}, 1)
	s, store, _ := keeping(t, func(c *coordinator.Config) {
		c.Logger = slog.New(tidied{c.Logger.Handler(), removed})
		c.Retention = artifact.Retention{Last: 1}
	})
	gone := func() {
		t.Helper()
		select {
		case <-removed:
		case <-time.After(patience):
			t.Fatal("nothing was removed")
		}
	}
	left := func(job *surmisev1.Job) []string {
		t.Helper()
		paths, err := store.Checkpoints(t.Context(), strings.TrimPrefix(job.Name, "jobs/"))
		if err != nil {
			t.Fatal(err)
		}
		return paths
	}
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	var refs []artifact.Ref
	for i, name := range []string{"checkpoints/step-00000100", "checkpoints/step-00000200", "checkpoints/step-00000300"} {
		refs = append(refs, bring(t, store, l, name, name))
		w.checkpointRef(l.Lease, int32(i+1)*100, refs[i])
		hear(w, (*surmisev1.AttachResponse).GetCheckpointRecorded)
		if i > 0 {
			gone()
			if got := left(job); len(got) != 1 || got[0] != refs[i].Path {
				t.Errorf("after step %d there are %v", (i+1)*100, got)
			}
		}
	}
	model := bring(t, store, l, "checkpoints/step-00000400", "model")
	stray := bring(t, store, l, "checkpoints/step-00000500", "never counted")
	w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: model.Path, Sha256: model.SHA256})
	w.settled(surmisev1.JobState_SUCCEEDED)
	gone()
	if got := left(job); len(got) != 2 || got[0] != model.Path || got[1] != refs[2].Path {
		t.Errorf("after the end there are %v: want the model and the last that counted, and not %s", got, stray.Path)
	}
	scored := s.submit(score(job.Name))
	w.ready()
	if l := w.lease(); l.Lease.Job != scored.Name || l.ModelPath != model.Path {
		t.Errorf("lease %v", l)
	}
	if _, err := store.Check(t.Context(), model); err != nil {
		t.Errorf("the model that is being scored: %v", err)
	}
}

// The folder of artifacts may be moved, or reached by another name: jobs find what is theirs, and it is not taken for what
// nobody refers to.
func TestAMovedFolder(t *testing.T) {
	s := start(t, nil)
	job := s.submit(train())
	w := s.ready("w")
	l := w.lease()
	write := func(dir string, step int) string {
		t.Helper()
		path := filepath.Join(dir, "checkpoints", artifact.StepName(step))
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "model.safetensors"), []byte("weights"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write(l.ArtifactDir, 200)
	w.checkpoint(l.Lease, 200, path)
	hear(w, (*surmisev1.AttachResponse).GetCheckpointRecorded)
	w.done(l.Lease, &surmisev1.Artifact{Name: "model", Path: path})
	w.settled(surmisev1.JobState_SUCCEEDED)
	s.down()

	moved := filepath.Join(s.dir, "moved")
	if err := os.Rename(filepath.Join(s.dir, "artifacts"), moved); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(s.dir, "link")
	if err := os.Symlink(moved, link); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{moved, link} {
		attempt := filepath.Join(folder, "jobs", strings.TrimPrefix(job.Name, "jobs/"), "attempts", "1")
		write(attempt, 50) // nobody refers to this one
		removed := make(chan struct{}, 1)
		s.up(func(c *coordinator.Config) {
			c.ArtifactDir = folder
			c.Logger = slog.New(tidied{c.Logger.Handler(), removed})
		})
		select {
		case <-removed:
		case <-time.After(patience):
			t.Fatal("the checkpoint that nobody refers to was not removed")
		}
		model := filepath.Join(attempt, "checkpoints", artifact.StepName(200))
		got, err := s.jobs.GetJob(s.ctx, &surmisev1.GetJobRequest{Name: job.Name})
		if err != nil {
			t.Fatal(err)
		}
		if got.Result.Artifacts[0].Path != model || got.LastCheckpoint.Path != model {
			t.Errorf("the model lies in %s, the last checkpoint in %s, want %s", got.Result.Artifacts[0].Path, got.LastCheckpoint.Path, model)
		}
		s.submit(score(job.Name))
		w := s.ready("w")
		if l := w.lease(); l.ModelPath != model {
			t.Errorf("a job that scores it is given %s, want %s", l.ModelPath, model)
		}
		if _, err := os.Stat(filepath.Join(model, "model.safetensors")); err != nil {
			t.Errorf("the model is gone: %v", err)
		}
		s.down()
	}
}

// Coordinators that share a folder have a cache each, and what makes room in one leaves the claim on it alone.
func TestCachesAreClaimed(t *testing.T) {
	store, err := artifact.Open(t.Context(), "file://"+t.TempDir(), artifact.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	s := start(t, func(c *coordinator.Config) { c.Artifacts = store })
	cache := filepath.Join(s.dir, "artifacts", "cache")
	other, claim, err := artifact.Claim(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Close()
	if other != cache+".2" {
		t.Errorf("another is given %s, which is in use", other)
	}
	entries, err := os.ReadDir(filepath.Join(cache, "models"))
	if err != nil || len(entries) != 0 {
		t.Errorf("the cache begins with %v, %v, want a folder of its own", entries, err)
	}
}

// While the store is away its scores cannot be had, which is no state of the job: the call may be made again.
func TestScoresWhileTheStoreIsAway(t *testing.T) {
	s, store, s3 := keeping(t, func(c *coordinator.Config) { c.Comparer = noScores{} })
	job := s.submit(score("m.safetensors"))
	w := s.ready("w")
	l := w.lease()
	ref := bring(t, store, l, "scores.json", "{}")
	w.done(l.Lease, &surmisev1.Artifact{Name: "scores", Path: ref.Path, Sha256: ref.SHA256})
	w.settled(surmisev1.JobState_SUCCEEDED)
	s3.Meet(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "away", http.StatusServiceUnavailable)
	})
	_, err := s.scores.CompareScores(s.ctx, &surmisev1.CompareScoresRequest{Names: []string{job.Name}})
	wantCode(t, err, codes.Unavailable)
}

// noScores finds nothing to compare.
type noScores struct{ coordinator.Comparer }
