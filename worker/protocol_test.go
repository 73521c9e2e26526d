package worker

import (
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// TestProtocolInvariants feeds the state machine any order of events, sensible or not, and holds what it says against the
// rules of worker_service.proto.
func TestProtocolInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(0, 0)
		p := protocol{hello: &surmisev1.Hello{Name: "w"}, grace: 10 * time.Second}
		m := observer{t: t, revoked: map[int64]bool{}, until: map[int64]time.Time{}, sentAt: map[int64]time.Time{}, linesAt: map[int64]int64{}}
		epoch := int64(0)
		ref := func() *surmisev1.LeaseRef { // of this attempt, or of one long gone
			return &surmisev1.LeaseRef{Job: "jobs/a", Epoch: max(1, epoch-int64(rapid.IntRange(0, 1).Draw(t, "age")))}
		}
		const duration = 30 * time.Second
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 12000).Draw(t, "milliseconds")) * time.Millisecond)
			switch rapid.IntRange(0, 14).Draw(t, "event") {
			case 0, 1:
				if !m.open {
					m.open, m.welcomed, m.asked, m.confirmed = true, false, false, false
					p.opened(now)
					m.greeted(now, p.greet().GetHello())
				}
			case 2:
				if m.open {
					m.open = false
					p.closed()
				}
			case 3, 4:
				if m.open {
					m.welcomed = true
					p.received(now, &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Welcome{Welcome: &surmisev1.Welcome{}}})
				}
			case 5:
				if m.open && m.asked {
					epoch++
					m.asked = false
					m.given(now, epoch, duration)
					p.received(now, &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Lease{Lease: &surmisev1.Lease{
						Lease: &surmisev1.LeaseRef{Job: "jobs/a", Epoch: epoch}, Duration: durationpb.New(duration)}}})
				}
			case 6, 7:
				if m.open && epoch > 0 {
					r := &surmisev1.LeaseRenewed{Lease: ref(), Sequence: int64(rapid.IntRange(0, 12).Draw(t, "sequence")), Duration: durationpb.New(duration)}
					m.renewed(r, duration)
					p.received(now, &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Renewed{Renewed: r}})
				}
			case 8:
				if m.open && epoch > 0 {
					r := ref()
					m.revoked[r.Epoch] = true
					p.received(now, &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Revoked{Revoked: &surmisev1.LeaseRevoked{Lease: r}}})
				}
			case 9:
				if m.running {
					p.progressed(&surmisev1.Progress{Step: 1})
				}
			case 10:
				if m.running {
					p.checkpointed(&surmisev1.Checkpoint{Step: 1})
				}
			case 11:
				if m.running {
					m.running = false
					p.finished(now, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: m.lease(epoch)}}})
				}
			case 12:
				if m.open && epoch > 0 {
					r := ref()
					m.revoked[r.Epoch] = true // over: nothing more is to be said
					p.received(now, &surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Settled{Settled: &surmisev1.Settled{Lease: r}}})
				}
			case 13:
				if rapid.IntRange(0, 9).Draw(t, "seldom") == 0 {
					m.draining = true
					p.drain()
				}
			case 14:
				if m.running && p.wantsLog() > 0 {
					var lines []*surmisev1.LogLine
					for range rapid.IntRange(1, 20).Draw(t, "lines") {
						m.logged++
						lines = append(lines, &surmisev1.LogLine{Number: m.logged, Text: strings.Repeat("x", rapid.IntRange(0, 8192).Draw(t, "bytes"))})
					}
					p.logged(lines)
				}
			}
			e := p.flush(now)
			m.check(now, epoch, e)
			if e.exit {
				return
			}
			if at := p.wake(); !at.IsZero() && !at.After(now) {
				t.Fatalf("flush left something due at %v, which is not after %v: the loop would spin", at, now)
			}
		}
	})
}

// observer knows the rules and nothing of the machine's insides.
type observer struct {
	t                *rapid.T
	open             bool // a stream is there
	welcomed         bool
	asked            bool // ready is unanswered on this stream
	confirmed        bool // the coordinator counts the current lease on this stream
	running, stopped bool // the attempt
	draining         bool
	sequence         int64
	revoked          map[int64]bool      // epochs of which nothing may be said
	until            map[int64]time.Time // epoch -> when its lease ends at the earliest
	sentAt           map[int64]time.Time // sequence -> when that heartbeat was sent, of the current lease
	current          int64

	logged  int64           // lines of the attempt so far
	kept    int64           // of them, those that the coordinator said it has
	carried int64           // newest line on this stream; 0: none
	linesAt map[int64]int64 // sequence -> newest line on this stream by then
}

func (m *observer) lease(epoch int64) *surmisev1.LeaseRef {
	return &surmisev1.LeaseRef{Job: "jobs/a", Epoch: epoch}
}

func (m *observer) greeted(now time.Time, hello *surmisev1.Hello) {
	for _, l := range hello.Held {
		if m.revoked[l.Epoch] {
			m.t.Fatalf("hello names the revoked epoch %d", l.Epoch)
		}
	}
	clear(m.sentAt)
	m.sentAt[0] = now
	clear(m.linesAt)
	m.carried = 0
}

func (m *observer) given(now time.Time, epoch int64, d time.Duration) {
	m.current, m.confirmed, m.sequence = epoch, true, 0
	m.until[epoch] = now.Add(d)
	clear(m.sentAt)
	clear(m.linesAt)
	m.logged, m.kept, m.carried = 0, 0, 0
}

func (m *observer) renewed(r *surmisev1.LeaseRenewed, d time.Duration) {
	if r.Lease.Epoch != m.current {
		return
	}
	m.confirmed = true
	m.kept = max(m.kept, m.linesAt[r.Sequence])
	if at, ok := m.sentAt[r.Sequence]; ok && at.Add(d).After(m.until[m.current]) {
		m.until[m.current] = at.Add(d)
	}
}

// carry holds the lines of a heartbeat to their order: nothing is left out that the coordinator may not have.
func (m *observer) carry(lines []*surmisev1.LogLine) {
	bytes := 0
	for i, l := range lines {
		first := m.carried == 0 && l.Number <= m.kept+1
		if !first && l.Number != m.carried+1 || l.Number > m.logged {
			m.t.Fatalf("line %d after %d on this stream, with %d kept of %d", l.Number, m.carried, m.kept, m.logged)
		}
		m.carried = l.Number
		if bytes += len(l.Text); i > 0 && bytes > beatLogBytes {
			m.t.Fatalf("a heartbeat with %d bytes of log", bytes)
		}
	}
}

func (m *observer) check(now time.Time, epoch int64, e effects) {
	t := m.t
	if e.redial != nil {
		m.open = false
	}
	if e.start != nil {
		if m.running {
			t.Fatal("a second attempt is begun beside the first")
		}
		if m.draining {
			t.Fatal("an attempt is begun while draining")
		}
		m.running, m.stopped = true, false
	}
	if e.stop != nil {
		m.stopped = true
	}
	if m.running && !m.stopped && !now.Before(m.until[epoch]) {
		t.Fatalf("an attempt runs at %v, its lease ended at %v", now, m.until[epoch])
	}
	for i, msg := range e.send {
		if !m.open || !m.welcomed {
			t.Fatalf("%v is said to nobody", msg)
		}
		var about *surmisev1.LeaseRef
		switch msg := msg.Message.(type) {
		case *surmisev1.AttachRequest_Ready:
			if m.running || m.asked || m.draining {
				t.Fatalf("ready while running %v, asked %v, draining %v", m.running, m.asked, m.draining)
			}
			m.asked = true
			continue
		case *surmisev1.AttachRequest_Heartbeat:
			about = msg.Heartbeat.Lease
			// With the last progress and lines, before the end.
			last := i+1 < len(e.send) && e.send[len(e.send)-1].GetHeartbeat() == nil
			if !m.running && !last || msg.Heartbeat.Sequence <= m.sequence {
				t.Fatalf("heartbeat %v after %d, running %v", msg, m.sequence, m.running)
			}
			m.sequence = msg.Heartbeat.Sequence
			m.sentAt[m.sequence] = now
			m.carry(msg.Heartbeat.Log)
			m.linesAt[m.sequence] = m.carried
		case *surmisev1.AttachRequest_Checkpoint:
			about = msg.Checkpoint.Lease
		case *surmisev1.AttachRequest_Done:
			about = msg.Done.Lease
			if m.running {
				t.Fatal("done while running")
			}
			if m.kept < m.logged && m.carried < m.logged {
				t.Fatalf("done after line %d of %d, %d kept", m.carried, m.logged, m.kept)
			}
		case *surmisev1.AttachRequest_HandedBack:
			about = msg.HandedBack.Lease
		}
		if m.revoked[about.Epoch] || about.Epoch != epoch || !m.confirmed {
			t.Fatalf("%v is said of a lease that is revoked %v, current %d, confirmed %v", msg, m.revoked[about.Epoch], epoch, m.confirmed)
		}
	}
	if e.exit && m.running {
		t.Fatal("exit with an attempt running")
	}
}

// The API takes so many lines in a heartbeat, however short they are; the others go with the next.
func TestAHeartbeatHasAsManyLinesAsTheAPITakes(t *testing.T) {
	a := &attempt{sent: map[int64]time.Time{}, logIn: map[int64]int64{}}
	for n := range int64(beatLogLines + 1) {
		a.log = append(a.log, &surmisev1.LogLine{Number: n + 1, Text: "x"})
	}
	for _, want := range []int{beatLogLines, 1, 0} {
		beat := a.heartbeat(time.Unix(1, 0)).GetHeartbeat()
		if len(beat.Log) != want {
			t.Errorf("%d lines, want %d", len(beat.Log), want)
		}
		beat.Lease = &surmisev1.LeaseRef{Job: "jobs/abcdefghijkl", Epoch: 1}
		if err := protovalidate.Validate(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: beat}}); err != nil {
			t.Error(err)
		}
	}
}

// An attempt that hangs after it was told to stop gives its lease up, so that the job can end; what it says once it comes
// back is said all the same, for the coordinator to refuse.
func TestAnAttemptThatDoesNotStop(t *testing.T) {
	now := time.Unix(0, 0)
	p := protocol{hello: &surmisev1.Hello{Name: "w"}, grace: 10 * time.Second}
	hear := func(m *surmisev1.AttachResponse) { p.received(now, m) }
	p.opened(now)
	p.greet()
	hear(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Welcome{Welcome: &surmisev1.Welcome{}}})
	lease := &surmisev1.LeaseRef{Job: "jobs/a", Epoch: 1}
	const duration = 30 * time.Second
	hear(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Lease{Lease: &surmisev1.Lease{Lease: lease, Duration: durationpb.New(duration)}}})
	p.flush(now)
	hear(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Cancel{Cancel: &surmisev1.Cancel{Lease: lease}}})
	beats, letGo := 0, time.Time{}
	for end := now.Add(2 * stopPatience); now.Before(end); now = now.Add(time.Second) {
		out := p.flush(now)
		if out.redial != nil {
			t.Fatalf("after %v: %v", now.Sub(time.Unix(0, 0)), out.redial)
		}
		for _, m := range out.send {
			if beat := m.GetHeartbeat(); beat != nil && letGo.IsZero() {
				beats++
				hear(&surmisev1.AttachResponse{Message: &surmisev1.AttachResponse_Renewed{Renewed: &surmisev1.LeaseRenewed{
					Lease: lease, Sequence: beat.Sequence, Duration: durationpb.New(duration)}}})
			} else {
				t.Fatalf("%v after it let go: %v", now.Sub(letGo), m)
			}
		}
		if out.letGo {
			letGo = now
		}
		if at := p.wake(); !letGo.IsZero() && !at.IsZero() && !at.After(now) {
			t.Fatalf("it wants to wake at %v, now is %v: the loop would not rest", at, now)
		}
	}
	if got := letGo.Sub(time.Unix(0, 0)); got != stopPatience || beats < int(stopPatience/duration) {
		t.Errorf("it let go after %v and %d heartbeats, want %v", got, beats, stopPatience)
	}
	p.finished(now, handedBack(lease, ErrCancelled))
	if out := p.flush(now); len(out.send) != 1 || out.send[0].GetHandedBack() == nil {
		t.Errorf("once it has stopped it says %v", out.send)
	}
}
