package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func TestSleepIsAddedToTheClock(t *testing.T) {
	var on, still time.Duration
	s := &slept{read: func() (time.Duration, time.Duration) { return on, still }}
	on, still = 5*time.Hour, time.Hour // slept before it began
	for _, c := range []struct{ on, still, want time.Duration }{
		{0, 0, 0},
		{time.Minute, time.Minute, 0},
		{time.Second, time.Second + 3*time.Millisecond, 0}, // read one after the other
		{time.Second + 3*time.Millisecond, time.Second, 0},
		{time.Hour + time.Second, time.Second, time.Hour},
		{time.Second, time.Second + 40*time.Millisecond, time.Hour}, // never backwards
		{time.Second, 0, time.Hour + time.Second - 40*time.Millisecond},
	} {
		on, still = on+c.on, still+c.still
		if got := s.sum(); got != c.want {
			t.Errorf("after %v and %v more: slept %v, want %v", c.on, c.still, got, c.want)
		}
	}
	if got := time.Until(newSystemClock().Now()); got < -time.Second || got > time.Second {
		t.Errorf("a clock that has not slept is %v off", got)
	}
}

// jumping is a clock that a test moves on, as sleep does: timers do not notice.
type jumping struct{ slept atomic.Int64 }

func (j *jumping) Now() time.Time                         { return time.Now().Add(time.Duration(j.slept.Load())) }
func (j *jumping) After(d time.Duration) <-chan time.Time { return time.After(d) }

// A machine that wakes up after its lease has ended stops the job at once, not when its timers would have.
func TestStopsAfterSleepingThroughItsLease(t *testing.T) {
	clock := &jumping{}
	inBubbleWith(t, func(c *Config) { c.Clock = clock }, func(b *bench, ctx context.Context, a Assignment, _ Reports) (*surmisev1.Result, error) {
		<-ctx.Done()
		select {
		case <-a.Over:
			b.said <- context.Cause(ctx)
		default:
			b.said <- errors.New("stopped, and its lease is not over")
		}
		return nil, context.Cause(ctx)
	}, func(b *bench) {
		s := b.begin()
		s.renew(lease1, s.wantHeartbeat().Sequence)
		synctest.Wait()
		woke := time.Now()
		clock.slept.Store(int64(time.Hour))
		if cause := <-b.said; cause != any(ErrLeaseEnds) {
			t.Errorf("stopped because of %v, want %v", cause, ErrLeaseEnds)
		}
		if late := time.Since(woke); late > clockLook {
			t.Errorf("stopped %v after it woke up, want at most %v", late, clockLook)
		}
		for {
			m := s.receive()
			if m.GetHandedBack() != nil {
				break
			}
			if m.GetHeartbeat() == nil {
				t.Fatalf("got %v, want handed_back", m)
			}
		}
		s.revoke(lease1) // it has been given to another
		s.wantReady()
	})
}

// An attempt that was told to stop may go on saving, but not longer than its lease.
func TestLeaseEndsWhileStopping(t *testing.T) {
	inBubble(t, func(b *bench, ctx context.Context, a Assignment, _ Reports) (*surmisev1.Result, error) {
		<-ctx.Done()
		told := time.Now()
		<-a.Over // still saving
		b.said <- time.Since(told)
		return nil, context.Cause(ctx)
	}, func(b *bench) {
		s := b.begin()
		beat := s.wantHeartbeat()
		s.renew(lease1, beat.Sequence)
		b.stop() // SIGTERM; and the coordinator says no more
		if after, want := <-b.said, lease30-lease30/10; after != want {
			t.Errorf("its lease was over %v after it was told to stop, want %v", after, want)
		}
	})
}
