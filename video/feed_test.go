package video

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

// numbered writes seed and index instead of pixels; slow ones wait until they are let go.
type numbered struct {
	bad    int64 // fails at this index
	gate   chan struct{}
	calls  atomic.Int64
	called chan struct{} // unless nil, told of every call
}

func (n *numbered) ClipSize() int { return 2 }

func (n *numbered) Sample(ctx context.Context, seed uint64, index int64, dst []float32) (SampleInfo, error) {
	n.calls.Add(1)
	if n.called != nil {
		n.called <- struct{}{}
	}
	if n.gate != nil {
		select {
		case <-n.gate:
		case <-ctx.Done():
			return SampleInfo{}, context.Cause(ctx)
		}
	}
	if index == n.bad {
		return SampleInfo{}, fault("clip.mp4", Unreadable, ": damaged")
	}
	dst[0], dst[1] = float32(seed), float32(index)
	return SampleInfo{}, nil
}

func TestFeedKeepsOrder(t *testing.T) {
	for _, workers := range []int{1, 4} {
		feed, err := NewFeed(context.Background(), &numbered{bad: -1}, FeedOptions{Seed: 9, First: 6, Batch: 3, Prefetch: 2, Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		for b := range 50 {
			batch, _, err := feed.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			i := float32(6 + 3*b)
			if want := []float32{9, i, 9, i + 1, 9, i + 2}; !slices.Equal(batch.Floats, want) {
				t.Fatalf("%d workers, batch %d: %v, want %v", workers, b, batch, want)
			}
		}
		feed.Close()
		feed.Close()
		if _, _, err := feed.Next(context.Background()); !errors.Is(err, context.Canceled) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// With no batch taken, the feed samples as many as its buffers hold and then waits.
func TestFeedIsBounded(t *testing.T) {
	s := &numbered{bad: -1, called: make(chan struct{}, 1000)}
	feed, err := NewFeed(context.Background(), s, FeedOptions{Batch: 2, Prefetch: 3, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * 3 {
		<-s.called
	}
	if _, _, err := feed.Next(context.Background()); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if calls := s.calls.Load(); calls > 2*(3+1) {
		t.Errorf("%d clips sampled, and there are buffers for %d", calls, 2*(3+1))
	}
}

func TestFeedReportsFailureInOrder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	feed, err := NewFeed(context.Background(), &numbered{bad: 5}, FeedOptions{Batch: 2, Prefetch: 4, Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	for b := range 2 {
		if _, _, err := feed.Next(context.Background()); err != nil {
			t.Fatalf("batch %d, before the failure: %v", b, err)
		}
	}
	for range 2 {
		var bad *FileError
		if _, _, err := feed.Next(context.Background()); !errors.As(err, &bad) || bad.Path != "clip.mp4" {
			t.Errorf("error %v, want the file's", err)
		}
	}
}

// panicking fails to make clips in the worst way.
type panicking struct{}

func (panicking) ClipSize() int { return 1 }
func (panicking) Sample(_ context.Context, _ uint64, index int64, _ []float32) (SampleInfo, error) {
	panic(fmt.Sprintf("clip %d", index))
}

func TestAPanicIsAnErrorOfItsClip(t *testing.T) {
	f, err := NewFeed(t.Context(), panicking{}, FeedOptions{Batch: 1, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := f.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "panic: clip 0") {
		t.Errorf("got %v", err)
	}
}

func TestFeedStops(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cause := errors.New("enough")
	for _, which := range []string{"the feed's context", "the caller's context", "close alone"} {
		t.Run(which, func(t *testing.T) {
			s := &numbered{bad: -1, gate: make(chan struct{}), called: make(chan struct{}, 1000)}
			outer, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			feed, err := NewFeed(outer, s, FeedOptions{Batch: 2, Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer feed.Close()
			<-s.called // a worker is inside Sample and will stay there
			switch which {
			case "the feed's context":
				cancel(cause)
				if _, _, err := feed.Next(context.Background()); !errors.Is(err, cause) {
					t.Errorf("error %v, want %v", err, cause)
				}
			case "the caller's context":
				caller, stop := context.WithCancelCause(context.Background())
				stop(cause)
				if _, _, err := feed.Next(caller); !errors.Is(err, cause) {
					t.Errorf("error %v, want %v", err, cause)
				}
				close(s.gate) // nothing is lost: the same batch comes at the next call
				batch, _, err := feed.Next(context.Background())
				if err != nil || fmt.Sprint(batch.Floats) != "[0 0 0 1]" {
					t.Errorf("batch %v, error %v", batch, err)
				}
			}
		})
	}
}

func TestFeedOptions(t *testing.T) {
	for _, o := range []FeedOptions{{}, {Batch: 1, First: -1}, {Batch: 1, Prefetch: -1}, {Batch: 1, Workers: -1}} {
		if feed, err := NewFeed(context.Background(), &numbered{}, o); err == nil {
			feed.Close()
			t.Errorf("%+v accepted", o)
		}
	}
}
