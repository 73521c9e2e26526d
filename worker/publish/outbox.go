package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/artifact"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/worker"
)

// keepHere is how many checkpoints stay in the working folder of an attempt whose store has them too.
const keepHere = 2

// outbox is the Reports of an attempt. Checkpoints are published in their order by a goroutine of its own, so that training
// goes on meanwhile. One that waits while a newer comes is given up: the newer holds all that it held.
type outbox struct {
	worker.Reports
	at   place
	dir  string // the Runner's artifact folder
	log  *slog.Logger
	stop func(error) // ends the attempt

	wake chan struct{} // holds a token when there is something to do
	done chan struct{} // closed when the goroutine has returned

	mu      sync.Mutex
	waiting *surmisev1.Checkpoint        // guarded by mu; nil: none
	figures map[int32]map[string]float64 // guarded by mu; of checkpoints, not published
	closing bool                         // guarded by mu; nothing more comes
	refs    map[string]artifact.Ref      // of what is published, by path here; the goroutine's until done
	failure error                        // why checkpoints cannot be published; the goroutine's until done
	uploads map[string]*artifact.Upload  // begun and not finished, by path here; the goroutine's until done
}

// newOutbox publishes until ctx ends or it is closed.
func newOutbox(ctx context.Context, at place, dir string, r worker.Reports, log *slog.Logger, stop func(error)) *outbox {
	o := &outbox{Reports: r, at: at, dir: dir, log: log, stop: stop,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		figures: map[int32]map[string]float64{}, refs: map[string]artifact.Ref{}, uploads: map[string]*artifact.Upload{}}
	go o.deliver(ctx)
	return o
}

// Recorded is for a Runner that deletes old checkpoints: here others do.
func (o *outbox) Recorded() int32 { return -1 }

// Progress takes what an evaluation found out on its way.
func (o *outbox) Progress(p *surmisev1.Progress) {
	o.Reports.Progress(p)
	e := p.GetEvaluation()
	if e == nil || p.GetPhase() != "evaluating" {
		return
	}
	o.mu.Lock()
	o.figures[e.GetStep()] = map[string]float64{"accuracy": e.GetAccuracy(), "group_accuracy": e.GetGroupAccuracy(), "auroc": e.GetAuroc()}
	o.mu.Unlock()
	o.rouse()
}

// Checkpoint takes a checkpoint that is on disk here.
func (o *outbox) Checkpoint(c *surmisev1.Checkpoint) {
	o.mu.Lock()
	given := o.waiting
	o.waiting = c
	o.mu.Unlock()
	if given != nil {
		o.log.Info("a checkpoint is not published: a newer one is there", "step", given.GetStep(), "newer", c.GetStep())
		if err := checkpoint.Remove(given.GetPath()); err != nil {
			o.log.Warn("a checkpoint stays behind", "path", given.GetPath(), "error", err)
		}
	}
	o.rouse()
}

func (o *outbox) rouse() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// deliver publishes until the outbox is closed, and what waits then.
func (o *outbox) deliver(ctx context.Context) {
	defer close(o.done)
	for {
		o.mu.Lock()
		c, figures, closing := o.waiting, o.figures, o.closing
		o.waiting, o.figures = nil, map[int32]map[string]float64{}
		o.mu.Unlock()
		for step, values := range figures {
			if err := o.at.store.AddFigures(ctx, o.at.attempt, int(step), values); err != nil && ctx.Err() == nil {
				o.log.Warn("what an evaluation found out is not kept with its checkpoint", "step", step, "error", err)
			}
		}
		switch {
		case c != nil:
			if err := o.checkpoint(ctx, c); err != nil {
				if ctx.Err() == nil {
					o.failure = blame(ctx, fmt.Sprintf("publishing the checkpoint of step %d", c.GetStep()), err)
					o.stop(o.failure)
				}
				return
			}
		case closing:
			return
		default:
			select {
			case <-o.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

// checkpoint publishes one, unless a newer one comes while the store cannot be reached.
func (o *outbox) checkpoint(ctx context.Context, c *surmisev1.Checkpoint) error {
	for {
		err := o.publishCheckpoint(ctx, c)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || artifact.Final(err):
			return err
		case o.superseded():
			o.log.Warn("a checkpoint is given up for a newer one", "step", c.GetStep(), "error", err)
			delete(o.uploads, c.GetPath())
			return nil
		}
		o.log.Warn("a checkpoint cannot be published, trying on", "step", c.GetStep(), "error", err)
		pause(ctx)
	}
}

// retryPause is between tries. One on a store that cannot be reached has waited already; one that fails here has not.
const retryPause = time.Second

func pause(ctx context.Context) {
	select {
	case <-time.After(retryPause):
	case <-ctx.Done():
	}
}

func (o *outbox) superseded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting != nil
}

func (o *outbox) publishCheckpoint(ctx context.Context, c *surmisev1.Checkpoint) error {
	name := filepath.Base(c.GetPath())
	if o.at.work != "" { // the next attempt may be elsewhere: what was measured up to here goes with the checkpoint
		folder := filepath.Dir(c.GetPath())
		if _, err := o.publish(ctx, "curves/"+name, artifact.Source{Path: folder, Only: []string{"events", "evaluations"}}, folder+"@"+name); err != nil {
			return err
		}
	}
	ref, err := o.publish(ctx, "checkpoints/"+name, artifact.Source{Path: c.GetPath(), Figures: metricsOf(c.GetPath())}, c.GetPath())
	if err != nil {
		return err
	}
	published := &surmisev1.Checkpoint{Step: c.GetStep(), Path: ref.Path, Sha256: ref.SHA256}
	if o.at.work == "" {
		published.Path = c.GetPath()
	}
	o.Reports.Checkpoint(published)
	if o.at.work != "" {
		if err := checkpoint.Prune(filepath.Dir(c.GetPath()), keepHere); err != nil { // the next time removes it too
			o.log.Warn("old checkpoints stay behind", "error", err)
		}
	}
	return nil
}

// publish brings a bundle to the store, or goes on with that where it was interrupted. id tells it from others.
func (o *outbox) publish(ctx context.Context, bundle string, from artifact.Source, id string) (ref artifact.Ref, err error) {
	if ref, ok := o.refs[id]; ok {
		return ref, nil
	}
	u := o.uploads[id]
	if u == nil {
		if u, err = o.at.store.NewUpload(ctx, o.at.attempt, bundle, from); err != nil {
			return ref, err
		}
		o.uploads[id] = u
	}
	if ref, err = u.Run(ctx); err != nil {
		return ref, err
	}
	delete(o.uploads, id)
	o.refs[id] = ref
	return ref, nil
}

// metricsOf is what a checkpoint's own manifest says of it; nil when it cannot be read, which is for others to notice.
func metricsOf(folder string) map[string]float64 {
	var manifest struct {
		Metrics map[string]float64 `json:"metrics"`
	}
	text, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil || json.Unmarshal(text, &manifest) != nil {
		return nil
	}
	return manifest.Metrics
}

// close publishes what waits and returns why checkpoints could not be.
func (o *outbox) close() error {
	o.mu.Lock()
	o.closing = true
	o.mu.Unlock()
	o.rouse()
	<-o.done
	return o.failure
}

// publishResult publishes the artifacts of a result and returns it with where they are now.
func (o *outbox) publishResult(ctx context.Context, result *surmisev1.Result) (*surmisev1.Result, error) {
	if result == nil {
		return nil, nil // the worker knows what that means
	}
	result = proto.CloneOf(result)
	for _, a := range result.GetArtifacts() {
		below, err := filepath.Rel(o.dir, a.GetPath())
		if err != nil || !filepath.IsLocal(below) {
			return nil, fmt.Errorf("artifact %s: %s does not lie below %s", a.GetName(), a.GetPath(), o.dir)
		}
		source := artifact.Source{Path: a.GetPath(), Figures: metricsOf(a.GetPath())}
		var ref artifact.Ref
		for {
			if ref, err = o.publish(ctx, filepath.ToSlash(below), source, a.GetPath()); err == nil {
				break
			}
			if ctx.Err() != nil || artifact.Final(err) {
				return nil, fmt.Errorf("artifact %s: %w", a.GetName(), err)
			}
			o.log.Warn("an artifact cannot be published, trying on", "artifact", a.GetName(), "error", err)
			pause(ctx)
		}
		if a.GetSha256() == "" { // a folder
			a.Sha256 = ref.SHA256
		}
		if o.at.work != "" {
			a.Path = ref.Path
		}
	}
	return result, nil
}
