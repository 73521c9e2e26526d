package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	_ "gocloud.dev/blob/s3blob"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/artifact/artifacttest"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that waits for what never comes.
const patience = 30 * time.Second

type runnerFunc func(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error)

func (f runnerFunc) Run(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	return f(ctx, a, r)
}

// reports takes what an attempt says.
type reports struct {
	mu    sync.Mutex
	saved []*surmisev1.Checkpoint
	came  chan struct{} // a token for each checkpoint
}

func newReports() *reports { return &reports{came: make(chan struct{}, 100)} }

func (r *reports) Progress(*surmisev1.Progress) {}
func (r *reports) Recorded() int32              { return -1 }
func (r *reports) Checkpoint(c *surmisev1.Checkpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saved = append(r.saved, c)
	r.came <- struct{}{}
}

func (r *reports) steps() (steps []int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.saved {
		steps = append(steps, c.GetStep())
	}
	return steps
}

func (r *reports) last(t *testing.T) *surmisev1.Checkpoint {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.saved) == 0 {
		t.Fatal("no checkpoint was published")
	}
	return r.saved[len(r.saved)-1]
}

func publisher(t *testing.T, o Options, f runnerFunc) *Publisher {
	t.Helper()
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	o.Artifacts.MinWait, o.Artifacts.MaxWait, o.Artifacts.PartBytes = time.Millisecond, time.Millisecond, 4096
	p, err := New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func open(t *testing.T, address string) *artifact.Store {
	t.Helper()
	s, err := artifact.Open(t.Context(), address, artifact.Options{PartBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// save writes a real checkpoint of so many weights.
func save(t *testing.T, dir string, step, weights int) *surmisev1.Checkpoint {
	t.Helper()
	data := make([]float32, weights)
	for i := range data {
		data[i] = float32(step*weights + i)
	}
	tensors := []checkpoint.Tensor{{Name: "w", Shape: []int{weights}, Data: data}}
	path, err := checkpoint.Save(dir, checkpoint.Manifest{Step: step, Config: []byte("{}"), Metrics: map[string]float64{"loss": 1 / float64(step)}}, tensors, tensors)
	if err != nil {
		t.Fatal(err)
	}
	return &surmisev1.Checkpoint{Step: int32(step), Path: path}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func assignment(epoch int64, store string) worker.Assignment {
	return worker.Assignment{Job: "jobs/a", Epoch: epoch, ArtifactDir: artifact.AttemptKey("a", epoch), ArtifactStore: store}
}

// training makes checkpoints of steps, an event file and a verdicts file.
func training(t *testing.T, steps ...int) runnerFunc {
	return func(_ context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
		dir := filepath.Join(a.ArtifactDir, "checkpoints")
		var last *surmisev1.Checkpoint
		for _, step := range steps {
			write(t, filepath.Join(dir, "events", "events.out"), fmt.Sprintf("up to %d", step))
			last = save(t, dir, step, 3000)
			r.Checkpoint(last)
		}
		write(t, filepath.Join(a.ArtifactDir, "verdicts.json"), "{}")
		return &surmisev1.Result{Artifacts: []*surmisev1.Artifact{
			{Name: "model", Path: last.GetPath()}, {Name: "events", Path: filepath.Join(dir, "events")},
			{Name: "verdicts", Path: filepath.Join(a.ArtifactDir, "verdicts.json"), Size: 2, Sha256: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
		}}, nil
	}
}

func byName(result *surmisev1.Result) map[string]*surmisev1.Artifact {
	out := map[string]*surmisev1.Artifact{}
	for _, a := range result.GetArtifacts() {
		out[a.GetName()] = a
	}
	return out
}

// With a shared folder nothing moves; all that is published has a manifest.
func TestASharedFolder(t *testing.T) {
	root := t.TempDir()
	p := publisher(t, Options{}, training(t, 1))
	r := newReports()
	a := assignment(1, "")
	a.ArtifactDir = filepath.Join(root, artifact.AttemptKey("a", 1))
	result, err := p.Run(t.Context(), a, r)
	if err != nil {
		t.Fatal(err)
	}
	saved := r.last(t)
	if want := filepath.Join(a.ArtifactDir, "checkpoints", "step-00000001"); saved.GetPath() != want || byName(result)["model"].GetPath() != want {
		t.Errorf("published as %s, and the model as %s, want %s", saved.GetPath(), byName(result)["model"].GetPath(), want)
	}
	s := open(t, "file://"+root)
	for name, at := range byName(result) {
		key, ok := s.Key(at.GetPath())
		if _, err := s.Check(t.Context(), artifact.Ref{Path: key, SHA256: at.GetSha256()}); !ok || err != nil {
			t.Errorf("artifact %s: %v", name, err)
		}
	}
	if m, err := s.Manifest(t.Context(), artifact.Ref{Path: "jobs/a/attempts/1/checkpoints/step-00000001", SHA256: saved.GetSha256()}); err != nil || m.Figures["loss"] != 1 {
		t.Errorf("manifest %+v: %v", m, err)
	}

	// The model is checked before another job gets it.
	score := publisher(t, Options{}, func(_ context.Context, a worker.Assignment, _ worker.Reports) (*surmisev1.Result, error) {
		return &surmisev1.Result{Metrics: map[string]float64{"path": float64(len(a.ModelPath))}}, nil
	})
	b := worker.Assignment{Job: "jobs/b", Epoch: 1, ArtifactDir: filepath.Join(root, artifact.AttemptKey("b", 1)),
		ModelPath: saved.GetPath(), ModelSHA256: saved.GetSha256()}
	if result, err := score.Run(t.Context(), b, newReports()); err != nil || result.GetMetrics()["path"] != float64(len(saved.GetPath())) {
		t.Errorf("with the model: %v, %v", result, err)
	}
	write(t, filepath.Join(saved.GetPath(), "model.safetensors"), "other weights")
	if _, err := score.Run(t.Context(), b, newReports()); !errors.Is(err, artifact.ErrDamaged) || !worker.IsInfrastructure(err) {
		t.Errorf("with a model that changed: %v", err)
	}
}

// Workers that share nothing but a store go on from each other's checkpoints and use each other's models.
func TestAStore(t *testing.T) {
	for name, address := range map[string]string{"s3": artifacttest.StartS3(t).URL("lab/one"), "folder": "file://" + t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			first := t.TempDir()
			r := newReports()
			one := publisher(t, Options{Dir: first}, func(ctx context.Context, a worker.Assignment, out worker.Reports) (*surmisev1.Result, error) {
				result, err := training(t, 1)(ctx, a, out)
				<-r.came
				if err == nil {
					result, err = training(t, 2)(ctx, a, out)
				}
				return result, err
			})
			result, err := one.Run(t.Context(), assignment(1, address), r)
			if err != nil {
				t.Fatal(err)
			}
			saved := r.last(t)
			if want := "jobs/a/attempts/1/checkpoints/step-00000002"; saved.GetPath() != want || byName(result)["model"].GetPath() != want {
				t.Errorf("published as %s, and the model as %s, want %s", saved.GetPath(), byName(result)["model"].GetPath(), want)
			}
			if got := r.steps(); len(got) != 2 {
				t.Errorf("published steps %v, want 1 and 2", got)
			}
			s := open(t, address)
			for name, at := range byName(result) {
				if _, err := s.Check(t.Context(), artifact.Ref{Path: at.GetPath(), SHA256: at.GetSha256()}); err != nil {
					t.Errorf("artifact %s: %v", name, err)
				}
			}
			if left, err := os.ReadDir(filepath.Join(first, "attempts")); len(left) > 0 {
				t.Errorf("the working folder holds %v: %v", left, err)
			}

			// Another goes on, with the curves up to there.
			var resumed, model string
			two := publisher(t, Options{Dir: t.TempDir()}, func(_ context.Context, a worker.Assignment, _ worker.Reports) (*surmisev1.Result, error) {
				if a.ResumeFrom != nil {
					c, err := checkpoint.Load(a.ResumeFrom.GetPath())
					if err != nil {
						return nil, err
					}
					resumed = fmt.Sprintf("%d %v %s", c.Manifest.Step, c.Model[0].Data[7], read(t, filepath.Join(a.ResumeFrom.GetPath(), "..", "events", "events.out")))
				}
				if a.ModelPath != "" {
					m, err := checkpoint.LoadModel(a.ModelPath)
					if err != nil {
						return nil, err
					}
					defer m.Close()
					model = fmt.Sprintf("%s %d %v", filepath.Base(a.ModelPath), m.Step, m.Tensors[0].Data[7])
					if _, err := os.Stat(filepath.Join(a.ModelPath, "optimizer.safetensors")); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("what only training needs came along: %v", err)
					}
				}
				return &surmisev1.Result{}, nil
			})
			a := assignment(2, address)
			a.ResumeFrom = saved
			if _, err := two.Run(t.Context(), a, newReports()); err != nil || resumed != "2 6007 up to 2" {
				t.Errorf("went on from %q: %v", resumed, err)
			}
			score := assignment(1, address)
			score.Job, score.ArtifactDir = "jobs/b", artifact.AttemptKey("b", 1)
			score.ModelPath, score.ModelSHA256 = byName(result)["model"].GetPath(), byName(result)["model"].GetSha256()
			if _, err := two.Run(t.Context(), score, newReports()); err != nil || model != "step-00000002 2 6007" {
				t.Errorf("model %q: %v", model, err)
			}

			// The newest is damaged: an older one serves. None is whole: that is for a person to decide.
			damage := func(key string) {
				if name == "folder" {
					write(t, filepath.Join(s.Path(key)), "damaged")
				}
			}
			if name != "folder" {
				return
			}
			damage("jobs/a/attempts/1/checkpoints/step-00000002/manifest.json")
			if _, err := two.Run(t.Context(), a, newReports()); err != nil || resumed != "1 3007 up to 1" {
				t.Errorf("went on from %q: %v", resumed, err)
			}
			damage("jobs/a/attempts/1/checkpoints/step-00000001/manifest.json")
			if _, err := two.Run(t.Context(), a, newReports()); !errors.Is(err, artifact.ErrDamaged) || !worker.IsInfrastructure(err) {
				t.Errorf("with nothing whole: %v", err)
			}
		})
	}
}

// gate holds back what is written to a store, once it is shut.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil: open
	met    chan string   // the path of each write that is held back
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened = nil
}

func (g *gate) meet(w http.ResponseWriter, r *http.Request, next http.Handler) {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	if r.Method == http.MethodPut && opened != nil {
		select {
		case g.met <- r.URL.Path:
		default:
		}
		select {
		case <-opened:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	next.ServeHTTP(w, r)
}

func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

type ended struct {
	result *surmisev1.Result
	err    error
}

// A worker that stops publishes its last checkpoint first; one whose lease is over publishes nothing any more.
func TestStoppingWhileACheckpointIsOnItsWay(t *testing.T) {
	for _, over := range []bool{false, true} {
		t.Run(fmt.Sprintf("over=%v", over), func(t *testing.T) {
			server, g := artifacttest.StartS3(t), &gate{met: make(chan string, 1)}
			server.Meet(g.meet)
			p := publisher(t, Options{Dir: t.TempDir()}, func(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
				r.Checkpoint(save(t, filepath.Join(a.ArtifactDir, "checkpoints"), 5, 3000))
				<-ctx.Done()
				return nil, context.Cause(ctx)
			})
			g.shut()
			ctx, stop := context.WithCancelCause(t.Context())
			a, r, done, lease := assignment(1, server.URL("p")), newReports(), make(chan ended, 1), make(chan struct{})
			a.Over = lease
			go func() {
				result, err := p.Run(ctx, a, r)
				done <- ended{result, err}
			}()
			within(t, "the upload", g.met)
			stop(worker.ErrDrained)
			if over {
				close(lease)
			} else {
				g.open()
			}
			if e := within(t, "the end", done); !errors.Is(e.err, worker.ErrDrained) {
				t.Errorf("ended with %v", e.err)
			}
			if over {
				g.open()
			}
			paths, err := open(t, server.URL("p")).Checkpoints(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if published := len(paths) == 1 && len(r.steps()) == 1; published == over {
				t.Errorf("published %v, reported %v, with the lease over: %v", paths, r.steps(), over)
			}
		})
	}
}

// Checkpoints that come while the store cannot be reached make room for newer ones; the last is published.
func TestNewerCheckpointsGoFirst(t *testing.T) {
	server, g := artifacttest.StartS3(t), &gate{met: make(chan string, 1)}
	server.Meet(g.meet)
	var here []string
	p := publisher(t, Options{Dir: t.TempDir()}, func(_ context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
		dir := filepath.Join(a.ArtifactDir, "checkpoints")
		g.shut()
		r.Checkpoint(save(t, dir, 1, 10))
		within(t, "the upload", g.met)
		for step := 2; step <= 9; step++ {
			r.Checkpoint(save(t, dir, step, 10))
		}
		var err error
		here, err = filepath.Glob(filepath.Join(dir, "step-*"))
		g.open()
		return &surmisev1.Result{}, err
	})
	r := newReports()
	if _, err := p.Run(t.Context(), assignment(1, server.URL("p")), r); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.steps()); got != "[1 9]" {
		t.Errorf("published steps %s, want 1 and 9", got)
	}
	if len(here) != 2 {
		t.Errorf("on disk meanwhile: %v, want two", here)
	}
}

// A store that refuses for good ends the attempt at once, and the machine is to blame.
func TestAStoreThatRefuses(t *testing.T) {
	server := artifacttest.StartS3(t)
	server.Meet(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`<Error><Code>AccessDenied</Code></Error>`))
			return
		}
		next.ServeHTTP(w, r)
	})
	p := publisher(t, Options{Dir: t.TempDir()}, func(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
		r.Checkpoint(save(t, filepath.Join(a.ArtifactDir, "checkpoints"), 5, 10))
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	_, err := p.Run(t.Context(), assignment(1, server.URL("p")), newReports())
	if !worker.IsInfrastructure(err) || !strings.Contains(err.Error(), "publishing the checkpoint of step 5") {
		t.Errorf("ended with %v", err)
	}
}

// What an evaluation finds out is kept with its checkpoint, and an error of the Runner stands.
func TestFiguresAndFailures(t *testing.T) {
	address := "file://" + t.TempDir()
	broken := errors.New("a bad video")
	p := publisher(t, Options{Dir: t.TempDir()}, func(_ context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
		r.Checkpoint(save(t, filepath.Join(a.ArtifactDir, "checkpoints"), 5, 10))
		r.Progress(&surmisev1.Progress{Phase: "evaluating", Step: 5, Evaluation: &surmisev1.Evaluation{Step: 5, Accuracy: 0.75}})
		return nil, broken
	})
	if _, err := p.Run(t.Context(), assignment(1, address), newReports()); !errors.Is(err, broken) {
		t.Errorf("ended with %v", err)
	}
	s := open(t, address)
	if text := read(t, s.Path("jobs/a/attempts/1/figures/step-00000005.json")); !strings.Contains(text, `"accuracy":0.75`) {
		t.Errorf("figures %s", text)
	}
}

// A store that fails twice for each object costs time and nothing else, and a result outside of the folder is refused.
func TestAResult(t *testing.T) {
	server := artifacttest.StartS3(t)
	var n atomic.Int64
	server.Meet(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && n.Add(1)%3 != 0 {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	text := bytes.Repeat([]byte("surprise "), 2000)
	p := publisher(t, Options{Dir: t.TempDir()}, func(_ context.Context, a worker.Assignment, _ worker.Reports) (*surmisev1.Result, error) {
		path := filepath.Join(a.ArtifactDir, "scores.json")
		write(t, path, string(text))
		return &surmisev1.Result{Artifacts: []*surmisev1.Artifact{{Name: "scores", Path: path}}}, nil
	})
	result, err := p.Run(t.Context(), assignment(1, server.URL("p")), newReports())
	if err != nil {
		t.Fatal(err)
	}
	scores := byName(result)["scores"]
	dir := t.TempDir()
	if _, err := open(t, server.URL("p")).Fetch(t.Context(), artifact.Ref{Path: scores.GetPath(), SHA256: scores.GetSha256()}, dir, nil); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(dir, "scores.json")) != string(text) {
		t.Error("other bytes came back")
	}
	p = publisher(t, Options{Dir: t.TempDir()}, func(context.Context, worker.Assignment, worker.Reports) (*surmisev1.Result, error) {
		return &surmisev1.Result{Artifacts: []*surmisev1.Artifact{{Name: "scores", Path: "/etc/hostname"}}}, nil
	})
	if _, err := p.Run(t.Context(), assignment(2, server.URL("p")), newReports()); err == nil || !strings.Contains(err.Error(), "does not lie below") {
		t.Errorf("a file from elsewhere: %v", err)
	}
	for name, a := range map[string]worker.Assignment{
		"key of another attempt":    {Job: "jobs/a", Epoch: 1, ArtifactDir: artifact.AttemptKey("b", 1), ArtifactStore: server.URL("p")},
		"folder of another attempt": {Job: "jobs/a", Epoch: 1, ArtifactDir: "/x/" + artifact.AttemptKey("a", 2)},
		"unknown scheme":            {Job: "jobs/a", Epoch: 1, ArtifactDir: artifact.AttemptKey("a", 1), ArtifactStore: "http://x"},
	} {
		if _, err := p.Run(t.Context(), a, newReports()); !worker.IsInfrastructure(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Two workers that were given one name and one data folder leave each other's attempts alone.
func TestTwinsHaveFoldersOfTheirOwn(t *testing.T) {
	address, dir := "file://"+t.TempDir(), filepath.Join(t.TempDir(), "w")
	var first string
	one := publisher(t, Options{Dir: dir}, func(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
		first = a.ArtifactDir
		two := publisher(t, Options{Dir: dir}, func(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
			if !strings.HasPrefix(a.ArtifactDir, dir+".2"+string(filepath.Separator)) || !strings.HasPrefix(first, dir+string(filepath.Separator)) {
				t.Errorf("they work in %s and %s", first, a.ArtifactDir)
			}
			return training(t, 1)(ctx, a, r)
		})
		if _, err := two.Run(ctx, assignment(2, address), newReports()); err != nil {
			t.Error(err)
		}
		return training(t, 1)(ctx, a, r) // in a folder that is still there
	})
	if _, err := one.Run(t.Context(), assignment(1, address), newReports()); err != nil {
		t.Error(err)
	}
}

// After a Runner that panics nothing publishes from the folder that is removed.
func TestAPanicLeavesNothingBehind(t *testing.T) {
	var out *outbox
	p := publisher(t, Options{Dir: t.TempDir()}, func(_ context.Context, _ worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
		out = r.(*outbox)
		panic("the job")
	})
	a := worker.Assignment{Job: "jobs/a", Epoch: 1, ArtifactDir: filepath.Join(t.TempDir(), "jobs/a/attempts/1")}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic went no further")
			}
		}()
		_, _ = p.Run(t.Context(), a, newReports())
	}()
	select {
	case <-out.done:
	default:
		t.Error("the attempt is over, and what publishes is not")
	}
}
