package video

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Sampler is what a Feed draws clips from; *Dataset is one. Sample must be safe for concurrent use.
type Sampler interface {
	ClipSize() int
	Sample(ctx context.Context, seed uint64, index int64, dst []float32) (SampleInfo, error)
}

// FeedOptions says which clips a Feed delivers.
type FeedOptions struct {
	Seed     uint64
	First    int64 // index of the first clip; a resumed run continues where the last batch ended
	Batch    int   // clips in a batch
	Prefetch int   // batches made ready ahead of the one in use; default 2
	Workers  int   // goroutines that sample; default 1
	Bytes    bool  // deliver pixels as bytes, undoing their normalisation: see Denormalize
}

// Batch is clips one after the other, [B,3,T,H,W]: normalised, or as bytes where the feed was asked for those.
type Batch struct {
	Floats []float32
	Bytes  []byte
}

// Feed makes batches ahead of the one that training works on. Batches come in the order of their clips'
// indices, whatever the number of workers; memory is bounded by Prefetch+1 batches, which are used over and
// over. A Feed serves one caller of Next, and must be closed.
type Feed struct {
	ctx     context.Context // ends with NewFeed's, or Close
	stop    context.CancelFunc
	owners  sync.WaitGroup
	ordered chan *feedBatch // begun, in order
	free    chan Batch      // buffers to fill
	waiting *feedBatch      // taken from ordered, and not full yet when the caller's ctx ended
	inUse   *Batch          // the caller's, until it asks for the next
	err     error           // the first failure; the feed delivers nothing after it
}

// feedBatch is one batch in the making.
type feedBatch struct {
	clips   Batch
	pending atomic.Int64
	errs    []error       // [B]; each clip's worker sets its own
	done    chan struct{} // closed when pending reaches 0
}

type feedJob struct {
	batch *feedBatch
	clip  int   // within the batch
	index int64 // within the run
}

// NewFeed starts the goroutines that fill batches; they end when ctx does, at the first failure's delivery, or
// with Close.
func NewFeed(ctx context.Context, from Sampler, o FeedOptions) (*Feed, error) {
	if o.Prefetch == 0 {
		o.Prefetch = 2
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	switch {
	case o.Batch < 1:
		return nil, fmt.Errorf("feed: a batch of %d clips, want 1 or more", o.Batch)
	case o.First < 0:
		return nil, fmt.Errorf("feed: first clip %d, want 0 or more", o.First)
	case o.Prefetch < 0:
		return nil, fmt.Errorf("feed: %d batches ahead, want 1 or more", o.Prefetch)
	case o.Workers < 0:
		return nil, fmt.Errorf("feed: %d workers, want 1 or more", o.Workers)
	}
	f := &Feed{ordered: make(chan *feedBatch, o.Prefetch), free: make(chan Batch, o.Prefetch+1)}
	f.ctx, f.stop = context.WithCancel(ctx)
	for range o.Prefetch + 1 {
		if size := o.Batch * from.ClipSize(); o.Bytes {
			f.free <- Batch{Bytes: make([]byte, size)}
		} else {
			f.free <- Batch{Floats: make([]float32, size)}
		}
	}
	jobs := make(chan feedJob)
	f.owners.Go(func() { f.plan(o, jobs) })
	for range o.Workers {
		f.owners.Go(func() { f.work(from, o.Seed, jobs) })
	}
	return f, nil
}

// plan begins batches in order, as buffers come free, and hands their clips out.
func (f *Feed) plan(o FeedOptions, jobs chan<- feedJob) {
	defer close(jobs)
	for index := o.First; ; {
		var clips Batch
		select {
		case clips = <-f.free:
		case <-f.ctx.Done():
			return
		}
		b := &feedBatch{clips: clips, errs: make([]error, o.Batch), done: make(chan struct{})}
		b.pending.Store(int64(o.Batch))
		select {
		case f.ordered <- b:
		case <-f.ctx.Done():
			return
		}
		for clip := range o.Batch {
			select {
			case jobs <- feedJob{b, clip, index}:
			case <-f.ctx.Done():
				return
			}
			index++
		}
	}
}

func (f *Feed) work(from Sampler, seed uint64, jobs <-chan feedJob) {
	size := from.ClipSize()
	var clip []float32 // before it is made bytes
	for job := range jobs {
		b, at := job.batch, job.clip*size
		if b.clips.Bytes == nil {
			b.errs[job.clip] = sampleSafely(f.ctx, from, seed, job.index, b.clips.Floats[at:at+size])
		} else {
			if clip == nil {
				clip = make([]float32, size)
			}
			err := sampleSafely(f.ctx, from, seed, job.index, clip)
			if err == nil {
				err = Denormalize(b.clips.Bytes[at:at+size], clip)
			}
			b.errs[job.clip] = err
		}
		if b.pending.Add(-1) == 0 {
			close(b.done)
		}
	}
}

// sampleSafely makes a clip. A panic is that clip's error: this goroutine is of one run among others of the process.
func sampleSafely(ctx context.Context, from Sampler, seed uint64, index int64, clip []float32) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	_, err = from.Sample(ctx, seed, index, clip)
	return err
}

// Next returns the next batch and how long the caller had to wait for it. The batch belongs to
// the caller until the next call of Next or Close. An error is ctx's, or says which clip of the batch failed;
// after it there are no more batches.
func (f *Feed) Next(ctx context.Context) (batch Batch, waited time.Duration, err error) {
	if f.err != nil {
		return Batch{}, 0, f.err
	}
	if f.inUse != nil {
		f.free <- *f.inUse // never blocks: as many places as buffers
		f.inUse = nil
	}
	began := time.Now()
	b, err := f.wait(ctx)
	waited = time.Since(began)
	if err != nil {
		return Batch{}, waited, err
	}
	for _, err := range b.errs {
		if err != nil { // the clip of lowest index: the same one in every run
			f.err = fmt.Errorf("feed: %w", err)
			f.stop()
			return Batch{}, waited, f.err
		}
	}
	f.inUse = &b.clips
	return b.clips, waited, nil
}

// wait returns the oldest batch once it is full. A context that has ended counts for more than a full batch.
func (f *Feed) wait(ctx context.Context) (*feedBatch, error) {
	for _, c := range []context.Context{ctx, f.ctx} {
		if c.Err() != nil {
			return nil, fmt.Errorf("feed: %w", context.Cause(c))
		}
	}
	if f.waiting == nil {
		select {
		case f.waiting = <-f.ordered:
		case <-ctx.Done():
			return nil, fmt.Errorf("feed: %w", context.Cause(ctx))
		case <-f.ctx.Done():
			return nil, fmt.Errorf("feed: %w", context.Cause(f.ctx))
		}
	}
	select {
	case <-f.waiting.done:
		b := f.waiting
		f.waiting = nil
		return b, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("feed: %w", context.Cause(ctx))
	case <-f.ctx.Done():
		return nil, fmt.Errorf("feed: %w", context.Cause(f.ctx))
	}
}

// Close ends the goroutines and waits for them: at most as long as a clip takes. It may be called twice.
func (f *Feed) Close() {
	f.stop()
	f.owners.Wait()
}
