package video

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/surmise-ml/surmise/internal/osfault"
	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// PoolOptions says what decoder processes are given. The zero value of a field means its default.
type PoolOptions struct {
	Size        int           // processes at most; default one per core
	MemoryBytes int64         // of one process's own, frames handed over not counted; default 1 GiB
	Silence     time.Duration // how long a decoder may say nothing while it is waited for; default 1 min, as the machine may be busy
	Deadline    time.Duration // how long one file may take; default 2 h, enough for the longest that the limits allow
	Start       time.Duration // how long a process may take to start; default 2 min

	Command []string // the program to start and its arguments; default this one, as a decoder
	Env     []string // in addition to this process's, such as "NAME=value"

	// What is kept between runs; default nothing. Both must stay open as long as the pool.
	Verdicts *Verdicts // what inspections find
	Clips    *Clips    // decoded frames

	Remote source.Remote // brings videos that are not on this machine; default none can be named

	sharedBytes int64
}

func (o PoolOptions) withDefaults() PoolOptions {
	if o.Size == 0 {
		o.Size = runtime.GOMAXPROCS(0)
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 1 << 30
	}
	if o.Silence == 0 {
		o.Silence = time.Minute
	}
	if o.Deadline == 0 {
		o.Deadline = 2 * time.Hour
	}
	if o.Start == 0 {
		o.Start = 2 * time.Minute
	}
	if o.Command == nil {
		o.Command = []string{"/proc/self/exe", DecoderArgument} // the very program, even when its file was replaced since
	}
	if o.sharedBytes == 0 {
		o.sharedBytes = sharedBytes
	}
	return o
}

// Pool decodes videos in processes of its own, so that a file that crashes the decoder, hangs it or makes it grow costs
// that process and no more: it is ended and replaced, and the file gets its verdict. Processes are started when they
// are first needed. Safe for concurrent use; Close ends them.
type Pool struct {
	o     PoolOptions
	slots chan struct{} // one taken per process at work
	start chan startOrder
	quit  chan struct{} // closed by Close
	owner sync.WaitGroup

	mu      sync.Mutex
	idle    []*process // guarded by mu
	closing bool       // guarded by mu
	working sync.WaitGroup

	stats *poolCounters
}

// A DecoderError is a decoder process that could not be started, or a file that the machine could not read: the machine's
// fault, and no file's. Of videos elsewhere that cannot be brought a source.AwayError says the same.
type DecoderError struct{ Err error }

func (e *DecoderError) Error() string { return e.Err.Error() }
func (e *DecoderError) Unwrap() error { return e.Err }

type startOrder struct {
	ctx    context.Context
	answer chan startAnswer
}

type startAnswer struct {
	p   *process
	err error
}

// NewPool makes a pool without processes. It must be closed.
func NewPool(o PoolOptions) *Pool {
	p := &Pool{o: o.withDefaults(), start: make(chan startOrder), quit: make(chan struct{}), stats: newPoolCounters()}
	p.slots = make(chan struct{}, p.o.Size)
	p.owner.Go(p.keep)
	return p
}

// OwnPool returns pool and nothing to do; for nil, a new one and its Close.
func OwnPool(pool *Pool) (*Pool, func()) {
	if pool != nil {
		return pool, func() {}
	}
	pool = NewPool(PoolOptions{})
	return pool, pool.Close
}

// Size is how many files are decoded at a time.
func (p *Pool) Size() int { return p.o.Size }

// Close waits for requests at work, and ends the processes. It may be called twice.
func (p *Pool) Close() {
	p.mu.Lock()
	was := p.closing
	p.closing = true
	p.mu.Unlock()
	p.working.Wait()
	for _, c := range p.takeAll() {
		c.end()
	}
	if !was {
		close(p.quit)
	}
	p.owner.Wait()
}

func (p *Pool) takeAll() []*process {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.idle
	p.idle = nil
	return all
}

// keep starts processes, all from one thread that lives as long as the pool: the kernel ends a child, as asked, when
// the thread that started it ends, and Go ends threads as it likes.
func (p *Pool) keep() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case order := <-p.start:
			c, err := startProcess(order.ctx, p.o)
			order.answer <- startAnswer{c, err}
		case <-p.quit:
			return
		}
	}
}

// acquire returns a process to be given back with release. fresh asks for one that has served nobody.
func (p *Pool) acquire(ctx context.Context, fresh bool) (*process, error) {
	if os.Getenv(decoderEnv) != "" {
		return nil, errors.New("a decoder process cannot start decoders: its program does not call video.ServeIfAsked first")
	}
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return nil, errors.New("the decoders are closed")
	}
	p.working.Add(1)
	p.mu.Unlock()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		p.working.Done()
		return nil, context.Cause(ctx)
	}
	for !fresh {
		c := p.pop()
		if c == nil {
			break
		}
		if c.alive() {
			return c, nil
		}
		p.stats.crashed.Add(1) // while it did nothing: no file is to blame
		c.kill()
	}
	order := startOrder{ctx, make(chan startAnswer, 1)}
	select {
	case p.start <- order: // keep is there until Close, which waits for us
	case <-ctx.Done(): // it is busy with another's
		p.release(nil)
		return nil, context.Cause(ctx)
	}
	started := <-order.answer // at the end of ctx too
	if started.err != nil {
		p.release(nil)
		return nil, &DecoderError{started.err}
	}
	p.stats.started.Add(1)
	return started.p, nil
}

func (p *Pool) pop() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return c
}

// release takes a process back; nil if it was ended.
func (p *Pool) release(c *process) {
	if c != nil {
		p.mu.Lock()
		p.idle = append(p.idle, c)
		p.mu.Unlock()
	}
	<-p.slots
	p.working.Done()
}

// frame is one frame as a decoder process hands it over. Its pixels lie in shared memory and hold only during the call
// they are handed to.
type frame struct {
	number        int     // 0 is the file's first
	repeat        int     // ticks it stands for; 1 unless picked by time
	time          float64 // seconds after the start of the stream; never less than the frame's before
	digest        uint32  // of its pixels as decoded; 0 unless asked for
	height, width int     // pixels, as delivered
	pix           []uint8 // [height,width,3], RGB; nil unless asked for
}

// Local returns the file of a path or URI, which stays until release is called.
func (p *Pool) Local(ctx context.Context, name string) (path string, release func(), err error) {
	return p.local(ctx, itemOf(name))
}

// local returns the file of an item, which stays until release is called.
func (p *Pool) local(ctx context.Context, item source.Item) (path string, release func(), err error) {
	if item.URI == "" {
		return item.Path, func() {}, nil
	}
	if p.o.Remote == nil {
		return "", nil, fault(item.Name(), Unreadable, ": only files on this machine can be read here")
	}
	path, release, err = p.o.Remote.Fetch(ctx, item.URI)
	if away := (*source.AwayError)(nil); err != nil && !errors.As(err, &away) && !osfault.OfMachine(err) && ctx.Err() == nil {
		err = fault(item.Name(), Unreadable, ": %v", err) // it is not there, too large, or nothing that may be fetched
	}
	return path, release, err
}

// Resolve is source.Resolve with what this pool can fetch.
func (p *Pool) Resolve(ctx context.Context, data, roots []string) ([]source.Item, error) {
	return source.Resolve(ctx, data, roots, p.o.Remote)
}

// decode has one item decoded, whose part of r is filled in. begin is called before the first frame, and again when the reading has to begin anew;
// visit for every frame picked. What is wrong with the file is a *FileError.
//
// A process that has served before may have been broken by an earlier file. So a file is said to have crashed the
// decoder only when it did so in a process of its own.
func (p *Pool) decode(ctx context.Context, item source.Item, r wire.Request, begin func(), visit func(frame) error) (wire.Done, error) {
	path := item.Name()
	file, release, err := p.local(ctx, item)
	if err != nil {
		return wire.Done{}, err
	}
	defer release()
	if r.Path, err = filepath.Abs(file); err != nil {
		return wire.Done{}, fault(path, Unreadable, ": %v", err)
	}
	r.Offset, r.Length = item.Offset, item.Length
	if r.MaxPixels == 0 {
		r.MaxPixels, r.MaxFrames = defaultLimits.pixels, defaultLimits.frames
	}
	for fresh := false; ; fresh = true {
		c, err := p.acquire(ctx, fresh)
		if err != nil {
			return wire.Done{}, fmt.Errorf("decode %q: %w", path, err)
		}
		first := c.served == 0
		begin()
		done, touched, err := c.do(ctx, p.o, r, visit)
		if err == nil {
			c.served++
			c.rest(touched)
			p.release(c)
			return done, faultOf(path, done)
		}
		how := c.kill()
		p.release(nil)
		if ctx.Err() != nil {
			return wire.Done{}, fmt.Errorf("decode %q: %w", path, context.Cause(ctx))
		}
		var visitor *visitError
		switch {
		case errors.As(err, &visitor):
			return wire.Done{}, visitor.error
		case errors.Is(err, errSilent):
			p.stats.timedOut.Add(1)
			return wire.Done{}, fault(path, TimedOut, ": no word from the decoder in %v", p.o.Silence)
		case errors.Is(err, errTooLong):
			p.stats.timedOut.Add(1)
			return wire.Done{}, fault(path, TimedOut, ": not decoded in %v", p.o.Deadline)
		case errors.Is(err, errGrew):
			p.stats.tooLarge.Add(1)
			err = fault(path, TooLarge, ": %v", err)
		case errors.Is(err, errEnded), errors.Is(err, syscall.EPIPE):
			p.stats.crashed.Add(1)
			crash := fault(path, Crashed, "%s", how)
			if c.killed() { // which need not be the file's fault
				crash = fault(path, Crashed, " (killed from outside, as by a system that is short of memory)%s", how)
				crash.passing = true
			}
			err = crash
		default:
			p.stats.garbage.Add(1)
			err = fault(path, Crashed, ": %v", err)
		}
		if first {
			return wire.Done{}, err
		}
	}
}

// faultOf is what a decoder found wrong with a file, checked, or nil.
func faultOf(path string, d wire.Done) error {
	if d.FaultKind == "" {
		return nil
	}
	f := &FileError{Path: path, Kind: Kind(d.FaultKind), Reason: d.FaultText}
	if d.FaultErrno != 0 {
		f.System = syscall.Errno(d.FaultErrno)
	}
	if osfault.OfMachine(f.System) {
		return &DecoderError{fmt.Errorf("decode %q: %w", path, f.System)}
	}
	return f
}

// visitError is an error of the one who asked for frames.
type visitError struct{ error }

var errTooLong = errors.New("the file took too long")

// do sends one request and hands over its frames. After an error the process is of no more use. touched is how far
// into the shared memory frames reached, in bytes, the two halves together.
func (c *process) do(ctx context.Context, o PoolOptions, r wire.Request, visit func(frame) error) (done wire.Done, touched int64, err error) {
	ends := time.Now().Add(o.Deadline)
	soon := func() time.Time {
		if t := time.Now().Add(o.Silence); t.Before(ends) {
			return t
		}
		return ends
	}
	text, err := json.Marshal(r)
	if err != nil {
		return done, 0, err
	}
	if err := c.say(ctx, soon(), wire.KindRequest, text); err != nil {
		return done, 0, err
	}
	lim := wire.Limits{Memory: uint64(len(c.memory)), Pixels: max(r.MaxPixels, r.Square*r.Square), Number: r.MaxFrames, Repeat: 1}
	if r.FPS > 0 {
		lim.Repeat = maxFrames
	}
	var message wire.Frames
	begun, last := false, -1
	for {
		kind, body, err := c.next(ctx, o, soon())
		if (err == nil || errors.Is(err, errSilent)) && !time.Now().Before(ends) {
			err = errTooLong
		}
		if err != nil {
			return done, touched, err
		}
		switch {
		case kind == wire.KindBegun && !begun:
			begun = true
		case kind == wire.KindPassed && begun:
		case kind == wire.KindFrames && begun:
			if err := wire.ParseFrames(body, !r.NoPixels, lim, &message); err != nil {
				return done, touched, err
			}
			if message.Frames[0].Number <= last {
				return done, touched, fmt.Errorf("%w: frame %d after %d", wire.ErrGarbage, message.Frames[0].Number, last)
			}
			last = message.Frames[len(message.Frames)-1].Number
			n, err := c.hand(message, r.NoPixels, visit)
			touched = max(touched, n)
			if err != nil {
				return done, touched, &visitError{err}
			}
			if err := c.say(ctx, soon(), wire.KindFree, nil); err != nil {
				return done, touched, err
			}
		case kind == wire.KindDone && begun:
			err := wire.ParseJSON(body, &done)
			if err == nil && !credible(done, r) {
				err = fmt.Errorf("%w: %+v", wire.ErrGarbage, done)
			}
			return done, touched, err
		default:
			return done, touched, fmt.Errorf("%w: kind %d is not its turn", wire.ErrGarbage, kind)
		}
	}
}

// credible tells whether a decoder's last word may be true. It has read a file that may have taken it over.
func credible(d wire.Done, r wire.Request) bool {
	const maxErrno = 4095 // that Linux has
	switch {
	case d.FaultKind != "" && !knownKind(Kind(d.FaultKind)), d.FaultErrno < 0 || d.FaultErrno > maxErrno, d.FaultErrno != 0 && d.FaultKind == "",
		d.Frames < 0 || d.Frames > r.MaxFrames, d.Height < 0, d.Width < 0, len(d.Codec) > 64, len(d.FaultText) > 4096:
		return false
	case d.Slow != nil:
		return r.FPS > 0 && d.Slow.From >= 0 && d.Slow.To > d.Slow.From && d.Slow.Intervals >= 1 && d.Slow.Intervals <= r.MaxFrames
	}
	return true
}

// hand calls visit for the frames of a message.
func (c *process) hand(m wire.Frames, noPixels bool, visit func(frame) error) (touched int64, err error) {
	size := m.Height * m.Width * 3
	for i, x := range m.Frames {
		f := frame{number: x.Number, repeat: x.Repeat, time: x.Time, digest: x.Digest, height: m.Height, width: m.Width}
		if !noPixels {
			at := int(m.Offset) + i*size
			f.pix = c.memory[at : at+size : at+size]
			touched += int64(size)
		}
		if err := visit(f); err != nil {
			return touched, err
		}
	}
	return 2 * touched, nil
}
