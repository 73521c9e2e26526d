package worker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker/joblog"
)

// withLog makes the worker keep a log of its jobs.
func withLog(c *Config) {
	book := joblog.New()
	c.JobLog, c.Logger = book, slog.New(book.Handler(c.Logger.Handler()))
}

// What is logged while a job runs is sent within moments, again on the next stream until it is known to be kept, and to
// the last line before the end.
func TestTheLogOfAJob(t *testing.T) {
	inBubbleWith(t, withLog, func(b *bench, _ context.Context, _ Assignment, r Reports) (*surmisev1.Result, error) {
		r.Progress(&surmisev1.Progress{Phase: "training", Step: 1, Steps: 9, StepSeconds: 1, Loss: 0.5})
		<-b.goOn
		r.Checkpoint(&surmisev1.Checkpoint{Step: 7, Path: "/attempt/step-7"})
		return aResult, nil
	}, func(b *bench) {
		var got []string
		take := func(beat *surmisev1.Heartbeat) {
			for _, l := range beat.GetLog() {
				if want := int64(len(got) + 1); l.Number > want {
					t.Fatalf("line %d, want %d", l.Number, want)
				} else if l.Number == want {
					got = append(got, fmt.Sprintf("%s %s", l.Level, l.Text))
				} else if again := fmt.Sprintf("%s %s", l.Level, l.Text); got[l.Number-1] != again {
					t.Errorf("line %d was %q and is %q", l.Number, got[l.Number-1], again)
				}
			}
		}
		s := b.begin()
		given := time.Now()
		for len(got) < 2 {
			beat := s.wantHeartbeat()
			take(beat)
			if len(got) == 0 { // the first beat may have gone out before the first line was taken
				s.renew(lease1, beat.Sequence)
			}
		}
		if time.Since(given) > 2*progressEvery {
			t.Errorf("the first lines came after %v", time.Since(given))
		}
		if got[0] != "INFO job begins resume_step=0 artifacts=/attempt" || !strings.HasPrefix(got[1], "INFO training step=1 steps=9 loss=0.5 ") {
			t.Errorf("lines %q", got)
		}
		sent := len(got)
		s.hang() // without an answer
		s, _ = b.accept()
		s.welcome(lease1)
		again := 0
		for again < sent {
			beat := s.wantHeartbeat()
			again += len(beat.Log)
			take(beat)
			s.renew(lease1, beat.Sequence)
		}
		close(b.goOn)
		for {
			m := s.receive()
			if m.GetDone() != nil {
				break
			}
			if beat := m.GetHeartbeat(); beat != nil {
				take(beat)
				s.renew(lease1, beat.Sequence)
			}
		}
		text := strings.Join(got, "\n")
		for _, want := range []string{"INFO attached to the coordinator", "INFO checkpoint is on disk step=7 path=/attempt/step-7", "INFO job done"} {
			if !strings.Contains(text, want) {
				t.Errorf("no line %q in\n%s", want, text)
			}
		}
		s.settle(lease1, surmisev1.JobState_SUCCEEDED)
		s.wantReady()
	})
}

// A job that logs more than a stream may carry is held to a bounded rate and told its losses; its end comes all the same.
func TestAJobThatFloodsItsLog(t *testing.T) {
	var log *slog.Logger
	inBubbleWith(t, func(c *Config) { withLog(c); log = c.Logger }, func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) {
		for range 5000 {
			log.Info(strings.Repeat("x", 1000))
		}
		return aResult, nil
	}, func(b *bench) {
		s := b.begin()
		number, dropped := int64(0), int64(0)
		for {
			m := s.receive()
			if m.GetDone() != nil {
				break
			}
			for _, l := range m.GetHeartbeat().GetLog() {
				if number++; l.Number != number {
					t.Fatalf("line %d, want %d", l.Number, number)
				}
				dropped += l.Dropped
			}
			s.renew(lease1, m.GetHeartbeat().GetSequence())
		}
		// Beside the flood: the begin, and the line that says what is missing in place of the end.
		if number < 500 || number > 2001 || number+dropped < 5002 {
			t.Errorf("%d lines came, %d were said to be dropped", number, dropped)
		}
		s.settle(lease1, surmisev1.JobState_SUCCEEDED)
		s.wantReady()
	})
}

func TestProgressThatIsLogged(t *testing.T) {
	var l progressLog
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		after time.Duration
		p     *surmisev1.Progress
		want  bool
	}{
		{0, &surmisev1.Progress{Phase: "indexing", Step: 1, Steps: 3}, true},
		{time.Second, &surmisev1.Progress{Phase: "indexing", Step: 2, Steps: 3}, false},
		{0, &surmisev1.Progress{Phase: "indexing", Step: 3, Steps: 3}, true},
		{0, &surmisev1.Progress{Phase: "training", Step: 1, Steps: 100}, true},
		{9 * time.Second, &surmisev1.Progress{Phase: "training", Step: 2, Steps: 100}, false},
		{time.Second, &surmisev1.Progress{Phase: "training", Step: 3, Steps: 100}, true},
		{0, &surmisev1.Progress{Phase: "training", Step: 100, Steps: 100}, true},
	} {
		now = now.Add(c.after)
		if got := l.wants(now, c.p); got != c.want {
			t.Errorf("report %d: %v, want %v", i, got, c.want)
		}
	}
}
