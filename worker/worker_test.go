package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// These tests run in bubbles of fake time: a worker, a gRPC server in memory, and a test that speaks for the coordinator.

const lease30 = 30 * time.Second

var lease1 = &surmisev1.LeaseRef{Job: "jobs/a", Epoch: 1}

// scripted is a coordinator whose words the test chooses.
type scripted struct {
	surmisev1.UnimplementedWorkerServiceServer
	t        *testing.T
	listener *bufconn.Listener
	streams  chan *serverStream
}

// serverStream is one attached worker, as the test sees it.
type serverStream struct {
	t   *testing.T
	rpc grpc.BidiStreamingServer[surmisev1.AttachRequest, surmisev1.AttachResponse]
	end chan error // what Attach returns
}

func (c *scripted) Attach(rpc grpc.BidiStreamingServer[surmisev1.AttachRequest, surmisev1.AttachResponse]) error {
	s := &serverStream{c.t, rpc, make(chan error, 1)}
	select {
	case c.streams <- s:
	case <-rpc.Context().Done():
		return nil
	}
	select {
	case err := <-s.end:
		return err
	case <-rpc.Context().Done():
		return nil
	}
}

// bench is a worker under test.
type bench struct {
	t           *testing.T
	coordinator *scripted
	stop        context.CancelFunc // as SIGTERM does
	ended       chan error         // what Run returned
	log         *bytes.Buffer
	goOn        chan struct{} // for runners to wait on
	said        chan any      // for runners to tell
}

// runnerFunc is a Runner.
type runnerFunc func(b *bench, ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error)

type boundRunner struct {
	b *bench
	f runnerFunc
}

func (r boundRunner) Run(ctx context.Context, a Assignment, reports Reports) (*surmisev1.Result, error) {
	return r.f(r.b, ctx, a, reports)
}

// inBubble runs a test against a worker. Channels that its runner waits for are the bench's, made in the bubble, or time
// would stand still. The bubble fails when a goroutine is left behind.
func inBubble(t *testing.T, runner runnerFunc, test func(b *bench)) {
	t.Helper()
	inBubbleWith(t, func(*Config) {}, runner, test)
}

// inBubbleWith is inBubble with a worker whose configuration is changed first.
func inBubbleWith(t *testing.T, change func(*Config), runner runnerFunc, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &scripted{t: t, listener: bufconn.Listen(1 << 16), streams: make(chan *serverStream)}
		server := grpc.NewServer()
		surmisev1.RegisterWorkerServiceServer(server, c)
		served := make(chan error, 1)
		go func() { served <- server.Serve(c.listener) }()

		ctx, stop := context.WithCancel(t.Context())
		b := &bench{t: t, coordinator: c, stop: stop, ended: make(chan error, 1), log: &bytes.Buffer{},
			goOn: make(chan struct{}), said: make(chan any, 1)}
		go func() {
			cfg := Config{
				Coordinator: "passthrough:///bubble",
				Name:        "tester",
				Runner:      boundRunner{b, runner},
				Logger:      slog.New(slog.NewTextHandler(b.log, nil)),
				DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return c.listener.DialContext(ctx)
				})},
			}
			change(&cfg)
			b.ended <- Run(ctx, cfg)
		}()
		defer func() {
			stop()
			server.Stop()
			if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) && err.Error() != "closed" { // a test may close the listener
				t.Errorf("serving: %v", err)
			}
			select {
			case err := <-b.ended:
				if err != nil {
					t.Errorf("Run returned %v", err)
				}
			case <-time.After(time.Minute):
				t.Errorf("Run did not return; its log:\n%s", b.log)
			}
		}()
		test(b)
	})
}

// accept waits for the worker to attach and takes its hello.
func (b *bench) accept() (*serverStream, *surmisev1.Hello) {
	b.t.Helper()
	select {
	case s := <-b.coordinator.streams:
		hello := s.receive().GetHello()
		if hello == nil {
			b.t.Fatal("the first message is not hello")
		}
		return s, hello
	case <-time.After(time.Minute):
		b.t.Fatalf("the worker did not attach; its log:\n%s", b.log)
	}
	return nil, nil
}

// welcome answers hello, and with leases that it holds, renews them.
func (s *serverStream) welcome(renew ...*surmisev1.LeaseRef) {
	s.t.Helper()
	s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Welcome{Welcome: &surmisev1.Welcome{LeaseDuration: durationpb.New(lease30)}}})
	for _, l := range renew {
		s.renew(l, 0)
	}
}

func (s *serverStream) renew(l *surmisev1.LeaseRef, sequence int64) {
	s.t.Helper()
	s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Renewed{Renewed: &surmisev1.LeaseRenewed{
		Lease: l, Sequence: sequence, Duration: durationpb.New(lease30)}}})
}

func (s *serverStream) give(l *surmisev1.LeaseRef) {
	s.t.Helper()
	s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Lease{Lease: &surmisev1.Lease{
		Lease: l, Spec: &surmisev1.JobSpec{}, Duration: durationpb.New(lease30), ArtifactDir: "/attempt"}}})
}

func (s *serverStream) settle(l *surmisev1.LeaseRef, state surmisev1.JobState) {
	s.t.Helper()
	s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Settled{Settled: &surmisev1.Settled{Lease: l, State: state}}})
}

func (s *serverStream) revoke(l *surmisev1.LeaseRef) {
	s.t.Helper()
	s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Revoked{Revoked: &surmisev1.LeaseRevoked{Lease: l, Reason: "test"}}})
}

func (s *serverStream) send(m *surmisev1.AttachResponse) {
	s.t.Helper()
	if err := s.rpc.Send(m); err != nil {
		s.t.Fatalf("sending %T: %v", m.Message, err)
	}
}

func (s *serverStream) receive() *surmisev1.AttachRequest {
	s.t.Helper()
	m, err := s.rpc.Recv()
	if err != nil {
		s.t.Fatalf("receiving: %v", err)
	}
	return m
}

// hang ends the stream as a coordinator that stops does.
func (s *serverStream) hang() { s.end <- status.Error(codes.Unavailable, "test") }

func (s *serverStream) wantReady() {
	s.t.Helper()
	if m := s.receive(); m.GetReady() == nil {
		s.t.Fatalf("got %v, want ready", m)
	}
}

func (s *serverStream) wantHeartbeat() *surmisev1.Heartbeat {
	s.t.Helper()
	m := s.receive()
	if m.GetHeartbeat() == nil {
		s.t.Fatalf("got %v, want a heartbeat", m)
	}
	return m.GetHeartbeat()
}

// next answers heartbeats until another message comes.
func (s *serverStream) next() *surmisev1.AttachRequest {
	s.t.Helper()
	for {
		m := s.receive()
		beat := m.GetHeartbeat()
		if beat == nil {
			return m
		}
		s.renew(beat.Lease, beat.Sequence)
	}
}

// begin attaches, and gives the worker lease1.
func (b *bench) begin() *serverStream {
	b.t.Helper()
	s, _ := b.accept()
	s.welcome()
	s.wantReady()
	s.give(lease1)
	return s
}

var aResult = &surmisev1.Result{Metrics: map[string]float64{"loss": 0.5}}

// untilStopped is a job that goes on until it is told to stop.
func untilStopped(_ *bench, ctx context.Context, _ Assignment, _ Reports) (*surmisev1.Result, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("saved: %w", context.Cause(ctx))
}

func TestAJobFromLeaseToSettled(t *testing.T) {
	inBubble(t, func(b *bench, _ context.Context, a Assignment, r Reports) (*surmisev1.Result, error) {
		r.Progress(&surmisev1.Progress{Step: 1, Steps: 2})
		r.Checkpoint(&surmisev1.Checkpoint{Step: 1, Path: a.ArtifactDir + "/step-1"})
		<-b.goOn
		b.said <- r.Recorded()
		r.Progress(&surmisev1.Progress{Step: 2, Steps: 2})
		return aResult, nil
	}, func(b *bench) {
		s := b.begin()
		given := time.Now()
		beat := s.wantHeartbeat()
		if beat.Sequence != 1 || beat.Lease.Epoch != 1 || time.Since(given) != 0 {
			t.Errorf("first heartbeat %v after %v, want sequence 1 at once", beat, time.Since(given))
		}
		s.renew(lease1, 1)

		checkpoint := s.receive().GetCheckpoint()
		if checkpoint.GetCheckpoint().GetPath() != "/attempt/step-1" {
			t.Errorf("checkpoint %v", checkpoint)
		}
		s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_CheckpointRecorded{
			CheckpointRecorded: &surmisev1.CheckpointRecorded{Lease: lease1, Step: 1}}})

		if beat := s.wantHeartbeat(); beat.GetProgress().GetStep() != 1 || time.Since(given) != progressEvery {
			t.Errorf("progress %v after %v, want step 1 after %v", beat.GetProgress(), time.Since(given), progressEvery)
		}
		s.renew(lease1, 2)
		if beat := s.wantHeartbeat(); beat.Progress != nil || time.Since(given) != progressEvery+lease30/3 {
			t.Errorf("heartbeat %v after %v, want an empty one a third of the lease after the last", beat, time.Since(given))
		}
		s.renew(lease1, 3)

		close(b.goOn)
		if got := <-b.said; got != int32(1) {
			t.Errorf("recorded %v, want 1", got)
		}
		done := s.next().GetDone()
		if done.GetResult().GetMetrics()["loss"] != 0.5 {
			t.Errorf("done %v", done)
		}
		s.settle(lease1, surmisev1.JobState_SUCCEEDED)
		s.wantReady()
	})
}

// Progress is sent now and then only, but the last of it always, and before the end.
func TestTheLastProgressComesBeforeTheEnd(t *testing.T) {
	inBubble(t, func(_ *bench, _ context.Context, _ Assignment, r Reports) (*surmisev1.Result, error) {
		for step := range int32(5) {
			r.Progress(&surmisev1.Progress{Step: step + 1, Steps: 5})
		}
		return aResult, nil
	}, func(b *bench) {
		untilDone := func(s *serverStream) (last int32) {
			for {
				m := s.receive()
				switch {
				case m.GetHeartbeat() != nil:
					last = m.GetHeartbeat().GetProgress().GetStep()
				case m.GetDone() != nil:
					return last
				default:
					t.Fatalf("got %v, want heartbeats, then done", m)
				}
			}
		}
		s := b.begin()
		if last := untilDone(s); last != 5 {
			t.Errorf("the last progress before the end is of step %d, want 5", last)
		}
		s.hang() // before any of it was stored, perhaps
		s, _ = b.accept()
		s.welcome(lease1)
		if last := untilDone(s); last != 5 {
			t.Errorf("on the next stream the last progress is of step %d, want 5", last)
		}
		s.settle(lease1, surmisev1.JobState_SUCCEEDED)
		s.wantReady()
	})
}

func TestWorksOnWhileTheCoordinatorIsAway(t *testing.T) {
	inBubble(t, func(b *bench, ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error) {
		<-b.goOn
		r.Checkpoint(&surmisev1.Checkpoint{Step: 7, Path: "/attempt/step-7"})
		return aResult, ctx.Err()
	}, func(b *bench) {
		s := b.begin()
		s.wantHeartbeat()
		s.hang()
		close(b.goOn) // while away

		s, hello := b.accept()
		if len(hello.Held) != 1 || hello.Held[0].Job != "jobs/a" || hello.Held[0].Epoch != 1 {
			t.Fatalf("hello names %v, want jobs/a at epoch 1", hello.Held)
		}
		synctest.Wait()
		s.welcome(lease1)
		if m := s.receive(); m.GetCheckpoint().GetCheckpoint().GetStep() != 7 {
			t.Errorf("got %v, want the checkpoint that was made meanwhile", m)
		}
		if m := s.receive(); m.GetDone() == nil {
			t.Errorf("got %v, want done", m)
		}
		s.hang() // before it is settled

		s, hello = b.accept()
		if len(hello.Held) != 1 {
			t.Fatalf("an unsettled lease is not named in hello: %v", hello)
		}
		s.welcome(lease1)
		s.receive() // the checkpoint was not recorded either
		if m := s.receive(); m.GetDone() == nil {
			t.Fatalf("got %v, want done again", m)
		}
		s.settle(lease1, surmisev1.JobState_SUCCEEDED)
		s.wantReady()
	})
}

// A coordinator whose store fails welcomes a worker and then ends the stream. It is left in peace more and more, until a
// stream has held for a while.
func TestAttachesLessOftenWhileStreamsBreakAtOnce(t *testing.T) {
	inBubbleWith(t, func(c *Config) { c.MinBackoff, c.MaxBackoff = time.Second, 20*time.Second }, nil, func(b *bench) {
		attachAgain := func() time.Duration {
			began := time.Now()
			s, _ := b.accept()
			s.welcome()
			s.wantReady()
			s.hang()
			return time.Since(began)
		}
		attachAgain()
		const times = 30
		began := time.Now()
		for range times {
			attachAgain()
		}
		// 20 s when it has grown, half of it or half as much again by its jitter.
		if took := time.Since(began); took < times*10*time.Second*8/10 {
			t.Errorf("attached %d times within %v", times, took)
		}
		s, _ := b.accept()
		s.welcome()
		s.wantReady()
		time.Sleep(20 * time.Second) // of the bubble
		s.hang()
		if wait := attachAgain(); wait > 2*time.Second {
			t.Errorf("attached again %v after a stream that had held, want about a second", wait)
		}
	})
}

func TestSaysNothingMoreOfARevokedLease(t *testing.T) {
	t.Run("running", func(t *testing.T) {
		inBubble(t, untilStopped, func(b *bench) {
			s := b.begin()
			s.wantHeartbeat()
			s.revoke(lease1)
			s.wantReady()
		})
	})
	t.Run("unsettled", func(t *testing.T) {
		inBubble(t, func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) { return aResult, nil }, func(b *bench) {
			s := b.begin()
			for s.receive().GetDone() == nil {
			}
			s.hang() // settled, but the word is lost
			s, hello := b.accept()
			if len(hello.Held) != 1 {
				t.Fatalf("hello %v", hello)
			}
			s.welcome()
			s.revoke(lease1)
			s.wantReady()
		})
	})
	t.Run("another epoch", func(t *testing.T) {
		inBubble(t, untilStopped, func(b *bench) {
			s := b.begin()
			s.renew(lease1, s.wantHeartbeat().Sequence)
			s.revoke(&surmisev1.LeaseRef{Job: "jobs/a", Epoch: 9}) // not ours
			s.renew(lease1, s.wantHeartbeat().Sequence)            // and so it goes on
		})
	})
}

// The lease is counted from when the heartbeat was sent, however late its answer comes.
func TestStopsBeforeItsLeaseEnds(t *testing.T) {
	inBubble(t, func(b *bench, ctx context.Context, _ Assignment, _ Reports) (*surmisev1.Result, error) {
		<-ctx.Done()
		b.said <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	}, func(b *bench) {
		s := b.begin()
		sent := time.Now()
		beat := s.wantHeartbeat()
		time.Sleep(8 * time.Second)
		s.renew(lease1, beat.Sequence)
		// From now on the coordinator hears and does not answer, on any stream.
		quiet := make(chan struct{})
		go func() {
			defer close(quiet)
			for {
				select {
				case <-b.coordinator.streams:
				case <-b.said:
					return
				}
			}
		}()
		<-quiet
		if after, want := time.Since(sent), lease30-lease30/10; after != want {
			t.Errorf("stopped %v after the heartbeat was sent, want %v", after, want)
		}

		// The coordinator comes back before it has given the job away: it hears at once that the job is free.
		s, hello := b.accept()
		if len(hello.Held) != 1 {
			t.Fatalf("hello %v", hello)
		}
		s.welcome(lease1)
		back := s.next().GetHandedBack()
		if back == nil || back.Reason != ErrLeaseEnds.Error() {
			t.Fatalf("got %v, want handed_back", back)
		}
		s.settle(lease1, surmisev1.JobState_QUEUED)
		s.wantReady()
	})
}

func TestCancel(t *testing.T) {
	inBubble(t, untilStopped, func(b *bench) {
		s := b.begin()
		s.wantHeartbeat()
		s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Cancel{Cancel: &surmisev1.Cancel{Lease: lease1}}})
		if back := s.next().GetHandedBack(); back == nil || back.Reason != ErrCancelled.Error() {
			t.Fatalf("got %v, want handed_back", back)
		}
		s.settle(lease1, surmisev1.JobState_CANCELLED)
		s.wantReady()
	})
}

func TestStopsInOrder(t *testing.T) {
	saves := func(_ *bench, ctx context.Context, _ Assignment, r Reports) (*surmisev1.Result, error) {
		<-ctx.Done()
		r.Checkpoint(&surmisev1.Checkpoint{Step: 3, Path: "/attempt/step-3"})
		return nil, context.Cause(ctx)
	}
	for name, stop := range map[string]func(*bench, *serverStream){
		"signal": func(b *bench, _ *serverStream) { b.stop() },
		"drain": func(_ *bench, s *serverStream) {
			s.send(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Drain{Drain: &surmisev1.Drain{Reason: "test"}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, saves, func(b *bench) {
				s := b.begin()
				s.wantHeartbeat()
				stop(b, s)
				if m := s.next(); m.GetCheckpoint() == nil {
					t.Fatalf("got %v, want the checkpoint", m)
				}
				if m := s.next(); m.GetHandedBack() == nil {
					t.Fatalf("got %v, want handed_back", m)
				}
				s.settle(lease1, surmisev1.JobState_QUEUED)
				if m, err := s.rpc.Recv(); err == nil {
					t.Fatalf("got %v, want the end of the stream", m)
				}
				s.end <- nil
				if err := <-b.ended; err != nil {
					t.Errorf("Run returned %v, want nil", err)
				}
				b.ended <- nil
				if strings.Contains(b.log.String(), "level=WARN") {
					t.Errorf("an orderly end warns:\n%s", b.log)
				}
			})
		})
	}
}

func TestStopsWithoutACoordinator(t *testing.T) {
	inBubble(t, untilStopped, func(b *bench) {
		s := b.begin()
		s.wantHeartbeat()
		s.hang()
		b.coordinator.listener.Close() // nobody to hand the job to
		synctest.Wait()
		began := time.Now()
		b.stop()
		err := <-b.ended
		b.ended <- nil
		if after := time.Since(began); err != nil || after != 10*time.Second {
			t.Errorf("Run returned %v after %v, want nil after 10 s of grace", err, after)
		}
	})
}

// The log speaks of a job only when there is one.
func TestTheLogOfAnIdleWorkersStop(t *testing.T) {
	inBubble(t, untilStopped, func(b *bench) {
		s, _ := b.accept()
		s.welcome()
		s.wantReady()
		b.stop()
		if _, err := s.rpc.Recv(); err == nil {
			t.Error("an idle worker has something to say when it stops")
		}
		s.end <- nil
		if err := <-b.ended; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		b.ended <- nil
		if log := b.log.String(); !strings.Contains(log, "worker stops") || strings.Contains(log, "handed back") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

func TestHandsBackALeaseThatCrossedItsStop(t *testing.T) {
	inBubble(t, untilStopped, func(b *bench) {
		s := b.begin()
		s.wantHeartbeat()
		s.revoke(lease1)
		s.wantReady()
		lease2 := &surmisev1.LeaseRef{Job: "jobs/b", Epoch: 1}
		s.give(lease2)
		b.stop()
		// Either the lease came first and its attempt was stopped, or it came after and was not begun.
		for {
			m, err := s.rpc.Recv()
			if err != nil {
				break // stopped before the lease was there: the coordinator sees the stream end
			}
			if back := m.GetHandedBack(); back != nil {
				if back.Lease.Job != "jobs/b" {
					t.Errorf("handed back %v", back)
				}
				s.settle(lease2, surmisev1.JobState_QUEUED)
			}
		}
		s.end <- nil
	})
}

func TestFailures(t *testing.T) {
	cases := map[string]struct {
		run    runnerFunc
		reason string
		blame  surmisev1.Blame
	}{
		"bad data": {
			func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) {
				return nil, errors.New("train.data[0]: no such folder")
			},
			"train.data[0]: no such folder", surmisev1.Blame_BLAME_JOB,
		},
		"panic": {
			func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) {
				panic("index out of range")
			},
			"panic: index out of range", surmisev1.Blame_BLAME_JOB,
		},
		"full disk": {
			func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) {
				return nil, fmt.Errorf("save checkpoint: %w", syscall.ENOSPC)
			},
			"save checkpoint: no space left on device", surmisev1.Blame_BLAME_INFRASTRUCTURE,
		},
		"a result that no message holds": {
			func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) {
				return &surmisev1.Result{Metrics: map[string]float64{"pairwise_accuracy.p\xfe": 1}}, nil
			},
			"the result cannot be sent: string field contains invalid UTF-8", surmisev1.Blame_BLAME_JOB,
		},
		"endless reason": {
			func(*bench, context.Context, Assignment, Reports) (*surmisev1.Result, error) {
				return nil, errors.New(strings.Repeat("é", maxReasonBytes))
			},
			strings.Repeat("é", (maxReasonBytes-4)/2) + " …", surmisev1.Blame_BLAME_JOB,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inBubble(t, c.run, func(b *bench) {
				s := b.begin()
				failed := s.next().GetFailed()
				if failed.GetReason() != c.reason || failed.GetBlame() != c.blame {
					t.Errorf("failed %v with %d bytes, want %q, %v", failed.GetBlame(), len(failed.GetReason()), c.reason, c.blame)
				}
				s.settle(lease1, surmisev1.JobState_FAILED)
				s.wantReady() // the worker lives
			})
		})
	}
}

func TestRefusedForGood(t *testing.T) {
	for name, code := range map[string]codes.Code{"bad name": codes.InvalidArgument, "unknown": codes.Unauthenticated} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, untilStopped, func(b *bench) {
				s, _ := b.accept()
				s.end <- status.Error(code, "test")
				err := <-b.ended
				b.ended <- nil
				if !errors.Is(err, ErrRefused) {
					t.Errorf("Run returned %v, want a refusal", err)
				}
			})
		})
	}
}

// A worker that was replaced asks once whether another one has its name: it may have been by what came late of a process that is
// no more.
func TestReplacedAsksOnce(t *testing.T) {
	inBubble(t, untilStopped, func(b *bench) {
		s, hello := b.accept()
		if hello.UnlessAttached {
			t.Error("asks before it was replaced")
		}
		s.end <- status.Error(codes.Aborted, "attached again")
		s, hello = b.accept()
		if !hello.UnlessAttached {
			t.Error("replaces the other one in turn")
		}
		s.end <- status.Error(codes.Unavailable, "the coordinator stops")
		s, hello = b.accept()
		if hello.UnlessAttached {
			t.Error("asks again after a stream that broke, which may still count as its own")
		}
		s.end <- status.Error(codes.Aborted, "attached again")
		err := <-b.ended
		b.ended <- nil
		if !errors.Is(err, ErrReplaced) || !errors.Is(err, ErrRefused) {
			t.Errorf("replaced twice: Run returned %v", err)
		}
	})
}

func idleFor(d time.Duration) func(*Config) { return func(cfg *Config) { cfg.Idle = d } }

func TestExitsWhenItWasIdleForLong(t *testing.T) {
	inBubbleWith(t, idleFor(15*time.Second), untilStopped, func(b *bench) {
		s := b.begin()
		s.wantHeartbeat()
		s.renew(lease1, 1)
		for range 2 { // 20 seconds at work are none of idleness
			beat := s.wantHeartbeat()
			s.renew(beat.Lease, beat.Sequence)
		}
		s.revoke(lease1)
		s.wantReady()
		began := time.Now()
		if m, err := s.rpc.Recv(); err == nil {
			t.Errorf("an idle worker says %v when it leaves", m)
		}
		s.end <- nil
		err := <-b.ended
		if after := time.Since(began); err != nil || after != 15*time.Second {
			t.Errorf("Run returned %v after %v, want nil after 15 s", err, after)
		}
		b.ended <- nil
	})
}

func TestIdleWithoutACoordinatorIsAnError(t *testing.T) {
	inBubbleWith(t, idleFor(time.Minute), untilStopped, func(b *bench) {
		b.coordinator.listener.Close()
		err := <-b.ended
		if !errors.Is(err, ErrIdleAlone) || !strings.Contains(err.Error(), "1m0s") {
			t.Errorf("Run returned %v", err)
		}
		b.ended <- nil
	})
}
