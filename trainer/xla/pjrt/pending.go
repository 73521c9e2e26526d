package pjrt

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ebitengine/purego"
)

// Pending is work of the plugin that goes on after the call that started it. It needs not be waited for, and holds nothing
// once the work is over.
type Pending struct {
	done chan struct{}
	err  error // of the work; set before done is closed

	client *Client
	event  handle
	pins   *runtime.Pinner
	// The event must outlive both its callback and the call that registered it, which may end in either order. The later
	// of the two destroys it.
	left atomic.Int32
}

// Done is closed when the work is over.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait waits until the work is over and returns its error, or that of the context, which ends only the waiting.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// follow takes over an event of the plugin, and with it pins, which stay in until the event is ready.
func (c *Client) follow(event handle, pins *runtime.Pinner) *Pending {
	p := &Pending{done: make(chan struct{}), client: c, event: event, pins: pins}
	if event == 0 { // a plugin that had nothing to wait for
		pins.Unpin()
		close(p.done)
		return p
	}
	c.add(&c.pending, 1)
	p.left.Store(2)
	token := waiting.add(p)
	err := call(c.plugin, eventOnReady, &eventOnReadyArgs{event: event, callback: onReady(), argument: token})
	if err != nil { // then the callback never comes, and the memory may be in use until the event is ready
		waiting.take(token)
		if waited := call(c.plugin, eventAwait, &ofHandle{object: event}); waited != nil {
			err = waited
		}
		p.end(err)
	}
	p.release()
	return p
}

func (p *Pending) end(err error) {
	p.err = err
	p.pins.Unpin()
	p.release()
	close(p.done)
}

func (p *Pending) release() {
	if p.left.Add(-1) == 0 {
		p.client.ended(call(p.client.plugin, eventDestroy, &ofHandle{object: p.event}))
	}
}

// onReady is the C function that plugins call, on a thread of theirs, when an event is ready.
var onReady = sync.OnceValue(func() uintptr {
	return purego.NewCallback(func(err, token uintptr) {
		p := waiting.take(token)
		if p == nil {
			return // called twice, which no plugin should
		}
		var failed error
		if err != 0 {
			failed = p.client.plugin.takeError(eventOnReady, handle(err))
		}
		p.end(failed)
	})
})

// waiting are the events whose callback has not come. C holds tokens, not pointers.
var waiting = tokens{byToken: map[uintptr]*Pending{}}

type tokens struct {
	sync.Mutex
	last    uintptr
	byToken map[uintptr]*Pending
}

func (t *tokens) add(p *Pending) uintptr {
	t.Lock()
	defer t.Unlock()
	t.last++
	t.byToken[t.last] = p
	return t.last
}

func (t *tokens) take(token uintptr) *Pending {
	t.Lock()
	defer t.Unlock()
	p := t.byToken[token]
	delete(t.byToken, token)
	return p
}
