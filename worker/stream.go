package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// outgoingMessages is how far the coordinator may fall behind in reading before the stream is given up: minutes of
// heartbeats.
const outgoingMessages = 64

// stream is one open stream. The loop sends through it without ever waiting.
type stream struct {
	out      chan *surmisev1.AttachRequest // closed by finish
	finished atomic.Bool
	cancel   context.CancelCauseFunc
}

// send reports whether the message could be queued.
func (s *stream) send(m *surmisev1.AttachRequest) bool {
	select {
	case s.out <- m:
		return true
	default:
		return false
	}
}

// finish ends this side of the stream after what is queued. No send may follow.
func (s *stream) finish() {
	s.finished.Store(true)
	close(s.out)
}

// abandon ends the stream at once.
func (s *stream) abandon(cause error) { s.cancel(cause) }

func dial(cfg Config) (*grpc.ClientConn, error) {
	return grpc.NewClient(cfg.Coordinator, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Finds out about a coordinator that is gone without a word, also while the worker is idle.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: cfg.MinBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: cfg.MaxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, cfg.DialOptions...)...)
}

// keepAttached attaches, again and again, until ctx ends or the coordinator refuses the worker for good.
func (w *worker) keepAttached(ctx context.Context, client surmisev1.WorkerServiceClient) {
	wait := backoff.NewExponentialBackOff() // jittered, so that a restarted coordinator is not stormed
	wait.InitialInterval, wait.MaxInterval = w.cfg.MinBackoff, w.cfg.MaxBackoff
	var replaced time.Time
	ask := false
	for ctx.Err() == nil {
		began := w.cfg.Clock.Now()
		err := w.attach(ctx, client, ask)
		if err == nil || ctx.Err() != nil {
			return
		}
		if w.cfg.Explain != nil {
			err = w.cfg.Explain(err)
		}
		// What a process of this name sent before it was killed may come late, and replaces this one. So it asks once whether
		// another one is there.
		now := w.cfg.Clock.Now()
		if ask = errors.Is(err, ErrReplaced) && (replaced.IsZero() || now.Sub(replaced) > replacedOnce); ask {
			replaced = now
		} else if errors.Is(err, ErrRefused) {
			w.tell(refused{fmt.Errorf("worker %s: coordinator %s: %w", w.cfg.Name, w.cfg.Coordinator, err)})
			return
		}
		if now.Sub(began) >= w.cfg.MaxBackoff { // a welcome alone shows little: a coordinator whose store fails gives it too
			wait.Reset()
		}
		pause := wait.NextBackOff()
		w.log.Warn("not attached to the coordinator", "address", w.cfg.Coordinator, "error", err, "retry_in", pause)
		select {
		case <-w.cfg.Clock.After(pause):
		case <-ctx.Done():
		}
	}
}

// replacedOnce is how long after it was replaced a worker takes being replaced again for another worker of its name.
const replacedOnce = time.Minute

var (
	// ErrRefused marks what will be the same next time.
	ErrRefused = errors.New("refused for good")
	// ErrReplaced is an ErrRefused: the worker was attached, and another one took its name.
	ErrReplaced = fmt.Errorf("%w: another worker attached under the same name", ErrRefused)
)

// attach opens a stream and serves it until it breaks, or, without an error, until it is finished. It replaces another one of the
// same name, unless it is to ask whether there is one.
func (w *worker) attach(ctx context.Context, client surmisev1.WorkerServiceClient, ask bool) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &stream{out: make(chan *surmisev1.AttachRequest, outgoingMessages), cancel: cancel}
	rpc, err := client.Attach(ctx)
	if err != nil {
		return err
	}
	hello := make(chan *surmisev1.AttachRequest, 1)
	w.tell(streamOpened{s, hello})
	defer func() { w.tell(streamClosed{s, err}) }()
	select {
	case m := <-hello:
		m.GetHello().UnlessAttached = ask
		s.out <- m
	case <-ctx.Done():
		return context.Cause(ctx)
	}

	var both errgroup.Group
	both.Go(func() error {
		for {
			select {
			case m, more := <-s.out:
				if !more {
					return rpc.CloseSend()
				}
				if err := rpc.Send(m); err != nil {
					return nil // Recv has the reason
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	both.Go(func() error {
		defer cancel(nil)
		for greeted := false; ; {
			m, err := rpc.Recv()
			switch {
			case errors.Is(err, io.EOF) && s.finished.Load():
				return nil
			case errors.Is(err, io.EOF):
				return errors.New("the coordinator ended the stream")
			case err != nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled):
				return context.Cause(ctx)
			case status.Code(err) == codes.Aborted:
				// Going on would take the other's jobs away, and it ours, for ever.
				return fmt.Errorf("%w: %w", ErrReplaced, err)
			case err != nil && !greeted && isRefusal(err):
				return fmt.Errorf("%w: %w", ErrRefused, err)
			case err != nil:
				return err
			}
			greeted = greeted || m.GetWelcome() != nil
			w.tell(streamMessage{s, m})
		}
	})
	return both.Wait()
}

// isRefusal reports whether a status before the welcome will not change by trying again.
func isRefusal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied, codes.FailedPrecondition:
		return true
	}
	return false
}
