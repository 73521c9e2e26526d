// Package publish stands between a worker's protocol and the Runner that does the work. What an attempt makes it brings to
// where artifacts are kept, and what an attempt needs of others it brings from there:
//
//	lease ─▶ model, checkpoint to go on from ─▶ Runner ─▶ checkpoints, artifacts ─▶ manifest ─▶ coordinator
//	         (from the store, checked)                    (to the store)
//
// Where worker and coordinator share a folder nothing is copied: files stay where the Runner made them, and get a manifest.
// With a store the Runner works in a folder of the worker's own, which goes with the attempt.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/artifact"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

// Options says how a Publisher works. The zero value of a field means its default.
type Options struct {
	Store      string // URL of the store, whatever the coordinator calls it, such as where a mount has another name; "": as it says
	Dir        string // working folders of attempts, and models, with a store; see home; "": no store can be used
	CacheBytes int64  // of models; default artifact.DefaultCacheBytes

	Artifacts     artifact.Options
	DrainPatience time.Duration // how long a worker that stops goes on publishing its last checkpoint; default 1 min
	EndPatience   time.Duration // how long an attempt that is done goes on publishing; default 15 min
	Logger        *slog.Logger  // default slog.Default()
}

// Publisher is a Runner around another.
type Publisher struct {
	runner worker.Runner
	o      Options

	mu     sync.Mutex
	stores map[string]*artifact.Store // guarded by mu; by URL or folder
	cache  *artifact.Cache            // guarded by mu; nil until it is needed

	claimed string    // guarded by mu; the folder that is this process's, see home
	claim   io.Closer // guarded by mu; of claimed; nil until it is needed
}

// New returns a Publisher of what a Runner makes. Close it.
func New(r worker.Runner, o Options) (*Publisher, error) {
	if o.DrainPatience == 0 {
		o.DrainPatience = time.Minute
	}
	if o.EndPatience == 0 {
		o.EndPatience = 15 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Artifacts.Logger == nil {
		o.Artifacts.Logger = o.Logger
	}
	if o.Artifacts.Patience == 0 {
		o.Artifacts.Patience = time.Minute // after which a newer checkpoint may go first
	}
	p := &Publisher{runner: r, o: o, stores: map[string]*artifact.Store{}}
	return p, nil
}

// Close ends the connections, and leaves the folder to others.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for name, s := range p.stores {
		errs = append(errs, s.Close())
		delete(p.stores, name)
	}
	if p.claim != nil {
		errs = append(errs, p.claim.Close())
		p.claim = nil
	}
	return errors.Join(errs...)
}

// Run implements worker.Runner.
func (p *Publisher) Run(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	held, letGo := untilOver(ctx, a.Over)
	defer letGo(nil)
	told := ctx // to stop
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	at, err := p.place(ctx, a)
	if err != nil {
		return nil, blame(ctx, "opening the artifact store", err)
	}
	work := a
	if at.work != "" {
		defer func() {
			if err := os.RemoveAll(at.work); err != nil {
				p.o.Logger.Warn("the working folder of an attempt stays behind", "folder", at.work, "error", err)
			}
			_ = os.Remove(filepath.Dir(at.work)) // of the job; fails while another attempt is in it
		}()
		work.ArtifactDir = filepath.Join(at.work, "attempt")
	}
	model, release, err := p.model(ctx, at, a)
	if err != nil {
		return nil, blame(ctx, "fetching model "+a.ModelPath, err)
	}
	defer release()
	work.ModelPath = model
	if work.ResumeFrom, err = at.resume(ctx, a.ResumeFrom); err != nil {
		return nil, blame(ctx, "fetching checkpoint "+a.ResumeFrom.GetPath(), err)
	}

	out := newOutbox(held, at, work.ArtifactDir, r, p.o.Logger.With("job", a.Job, "epoch", a.Epoch), stop)
	defer func() { // after a panic of the Runner too: what is published from must not be removed under it
		letGo(nil)
		_ = out.close()
	}()
	result, err := p.runner.Run(ctx, work, out)
	patience := time.AfterFunc(p.patience(err), func() { letGo(errSlow) })
	defer patience.Stop()
	failed := out.close()
	switch {
	case failed != nil && told.Err() == nil: // what the Runner says follows from it
		return nil, failed
	case err != nil:
		return nil, err // it stands, whatever could be published
	}
	if result, err = out.publishResult(held, result); err != nil {
		return nil, blame(held, "publishing the result", err)
	}
	return result, nil
}

func (p *Publisher) patience(stopped error) time.Duration {
	if stopped != nil {
		return p.o.DrainPatience
	}
	return p.o.EndPatience
}

// What ends publishing before its time is never the job's fault.
var (
	errSlow = &worker.InfrastructureError{Err: errors.New("publishing took too long")}
	errOver = &worker.InfrastructureError{Err: fmt.Errorf("publishing: %w", worker.ErrLeaseEnds)}
)

// untilOver is a context for publishing: it outlives the order to stop, and ends when the lease is over or with cancel.
func untilOver(ctx context.Context, over <-chan struct{}) (held context.Context, cancel context.CancelCauseFunc) {
	held, cancelHeld := context.WithCancelCause(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-over:
			cancelHeld(errOver)
		case <-held.Done():
		}
	}()
	return held, func(cause error) {
		cancelHeld(cause)
		<-done // whoever calls owns the goroutine
	}
}

// blame words an error of a store: the machine's fault, unless the attempt was told to stop.
func blame(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return &worker.InfrastructureError{Err: fmt.Errorf("%s: %w", what, err)}
}

// place is where an attempt's artifacts go.
type place struct {
	store   *artifact.Store
	attempt string // key
	job     string // id
	work    string // the worker's own folder for the attempt; "": the Runner works in the store
	log     *slog.Logger
}

// place opens the store that a lease names, or the folder that it shares.
func (p *Publisher) place(ctx context.Context, a worker.Assignment) (place, error) {
	at := place{job: strings.TrimPrefix(a.Job, "jobs/"), log: p.o.Logger.With("job", a.Job, "epoch", a.Epoch)}
	at.attempt = artifact.AttemptKey(at.job, a.Epoch)
	address := a.ArtifactStore
	if address == "" {
		root, ok := strings.CutSuffix(filepath.ToSlash(filepath.Clean(a.ArtifactDir)), "/"+at.attempt)
		if !ok || !filepath.IsAbs(a.ArtifactDir) {
			return at, fmt.Errorf("artifact folder %q of the lease is not that of %s", a.ArtifactDir, at.attempt)
		}
		var err error
		at.store, err = p.open(root, func() (*artifact.Store, error) { return artifact.OpenFolder(root, p.o.Artifacts) })
		return at, err
	}
	if a.ArtifactDir != at.attempt {
		return at, fmt.Errorf("artifact key %q of the lease is not %s", a.ArtifactDir, at.attempt)
	}
	p.mu.Lock()
	home, err := p.home()
	p.mu.Unlock()
	if err != nil {
		return at, err
	}
	if p.o.Store != "" {
		address = p.o.Store
	}
	// A store that is opened may outlive the attempt.
	at.store, err = p.open(address, func() (*artifact.Store, error) {
		return artifact.Open(context.WithoutCancel(ctx), address, p.o.Artifacts)
	})
	if err != nil {
		return at, err
	}
	at.work = filepath.Join(attempts(home), at.job, strconv.FormatInt(a.Epoch, 10))
	if err := os.RemoveAll(at.work); err != nil {
		return at, err
	}
	return at, os.MkdirAll(at.work, 0o755)
}

func (p *Publisher) open(name string, open func() (*artifact.Store, error)) (*artifact.Store, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.stores[name]; s != nil {
		return s, nil
	}
	s, err := open()
	if err == nil {
		p.stores[name] = s
	}
	return s, err
}

// weights are the files of a checkpoint that a model is; what only training needs stays where it is.
func weights(name string) bool { return name != "optimizer.safetensors" }

// model is where the model of a job lies here, checked; it stays until release.
func (p *Publisher) model(ctx context.Context, at place, a worker.Assignment) (path string, release func(), err error) {
	if a.ModelPath == "" || a.ModelSHA256 == "" { // none, or no job's
		return a.ModelPath, func() {}, nil
	}
	if key, ok := at.store.Key(a.ModelPath); ok && at.work == "" {
		m, err := at.store.Manifest(ctx, artifact.Ref{Path: key, SHA256: a.ModelSHA256})
		if errors.Is(err, artifact.ErrNotFound) { // of a worker that wrote none
			return a.ModelPath, func() {}, nil
		}
		if err == nil {
			folder := a.ModelPath
			if m.Single {
				folder = filepath.Dir(folder)
			}
			err = m.Verify(folder, weights)
		}
		return a.ModelPath, func() {}, err
	}
	if filepath.IsAbs(a.ModelPath) { // made before there was a store
		return a.ModelPath, func() {}, nil
	}
	cache, err := p.openCache()
	if err != nil {
		return "", nil, err
	}
	return cache.Get(ctx, at.store, artifact.Ref{Path: a.ModelPath, SHA256: a.ModelSHA256}, weights)
}

func (p *Publisher) openCache() (*artifact.Cache, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cache != nil {
		return p.cache, nil
	}
	dir, err := p.home()
	if err != nil {
		return nil, err
	}
	p.cache, err = artifact.OpenCache(filepath.Join(dir, "models"), p.o.CacheBytes, time.Now)
	return p.cache, err
}

// resume brings the checkpoint to go on from here, with the curves up to it, or an older one if that is damaged.
func (at place) resume(ctx context.Context, from *surmisev1.Checkpoint) (*surmisev1.Checkpoint, error) {
	if from == nil || at.work == "" || filepath.IsAbs(from.GetPath()) {
		return from, nil
	}
	first := at.fetchCheckpoint(ctx, artifact.Ref{Path: from.GetPath(), SHA256: from.GetSha256()})
	if first == nil {
		return at.resumed(from.GetPath(), from.GetStep()), nil
	}
	if !errors.Is(first, artifact.ErrDamaged) && !errors.Is(first, artifact.ErrNotFound) {
		return nil, first
	}
	at.log.Warn("the newest checkpoint is damaged, looking for an older one", "path", from.GetPath(), "error", first)
	paths, err := at.store.Checkpoints(ctx, at.job)
	if err != nil {
		return nil, errors.Join(first, err)
	}
	for _, path := range paths {
		step, ok := stepOf(path)
		if !ok || step >= from.GetStep() {
			continue
		}
		ref, err := at.store.Resolve(ctx, path)
		if err == nil {
			err = at.fetchCheckpoint(ctx, ref)
		}
		if err == nil {
			at.log.Warn("going on from an older checkpoint", "path", path)
			return at.resumed(path, step), nil
		}
		first = errors.Join(first, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

func stepOf(path string) (int32, bool) {
	text, ok := strings.CutPrefix(filepath.Base(path), "step-")
	step, err := strconv.ParseInt(text, 10, 32)
	return int32(step), ok && err == nil
}

func (at place) resumeDir() string { return filepath.Join(at.work, "resume") }

func (at place) resumed(path string, step int32) *surmisev1.Checkpoint {
	return &surmisev1.Checkpoint{Step: step, Path: filepath.Join(at.resumeDir(), filepath.Base(path))}
}

func (at place) fetchCheckpoint(ctx context.Context, ref artifact.Ref) error {
	name := filepath.Base(ref.Path)
	if err := os.RemoveAll(at.resumeDir()); err != nil {
		return err
	}
	if _, err := at.store.Fetch(ctx, ref, filepath.Join(at.resumeDir(), name), nil); err != nil {
		return err
	}
	curves, err := at.store.Resolve(ctx, strings.Replace(ref.Path, "/checkpoints/", "/curves/", 1))
	if err == nil {
		_, err = at.store.Fetch(ctx, curves, at.resumeDir(), nil)
	}
	if errors.Is(err, artifact.ErrNotFound) || errors.Is(err, artifact.ErrDamaged) {
		at.log.Warn("the curves up to the checkpoint are lost", "path", ref.Path, "error", err)
		return nil
	}
	return err
}
