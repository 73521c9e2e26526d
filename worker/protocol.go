package worker

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Why an attempt is stopped: the cause of its context's end.
var (
	ErrCancelled = errors.New("the job was cancelled")
	ErrDrained   = errors.New("the worker is stopping")
	ErrRevoked   = errors.New("the coordinator took the lease back")
	ErrLeaseEnds = errors.New("the lease could not be renewed in time")
)

const (
	// greetingPatience is how long a stream may stay without an answer to hello.
	greetingPatience = 10 * time.Second
	// progressEvery bounds how often progress is sent: each report makes an event that watchers see.
	progressEvery = 500 * time.Millisecond
	// stopPatience is how long an attempt that was told to stop may take, to publish a large checkpoint over a slow network
	// for instance. One that hangs, in a driver or on a file system that is gone, would else keep its job for ever.
	stopPatience = 30 * time.Minute
	// minBeat keeps an absurdly short lease from turning the loop into a busy one.
	minBeat = 20 * time.Millisecond
	// endSequence stands for the message that ends an attempt among the heartbeats.
	endSequence = math.MaxInt64
	// beatLogBytes bounds the log lines of one heartbeat, by their text. With progressEvery it bounds their rate.
	beatLogBytes = 64 << 10
	beatLogLines = 2000 // as the API has it
	// maxReasonBytes is the limit of Failed.reason and HandedBack.reason.
	maxReasonBytes = 16384
)

// protocol is the worker's side of WorkerService.Attach: the state, and what follows from it. Events change the state;
// flush then says what to do. Both are pure in (state, event, now).
//
//	        lease              finished             settled
//	idle ───────────▶ running ───────────▶ unsettled ───────▶ idle
//	 ▲                   │ revoked                │ revoked
//	 └───── finished ────┴────────────────────────┘
//
// The stream comes and goes beneath: while it is away an attempt runs on, and what it has to say is kept, the newest
// checkpoint, the newest progress and its end.
type protocol struct {
	hello *surmisev1.Hello // as sent on every stream, but for the leases held
	grace time.Duration    // how long a drained worker waits for its last word to be settled
	idle  time.Duration    // a worker that has had no job for so long is to stop; 0: never

	link     link
	linkedAt time.Time // when hello was sent
	asked    bool      // ready is out on this stream, unanswered
	draining bool
	attempt  *attempt // nil: idle

	idleFrom time.Time // since when; zero while there is an attempt
	idledOut bool      // it is to stop because it was idle for long

	start  *surmisev1.Lease // to be started by the next flush
	stop   error            // the attempt is to be stopped by the next flush, for this cause
	redial error            // the stream is to be dropped by the next flush, for this cause
}

// link is how far the stream to the coordinator is.
type link int

const (
	away     link = iota // no stream
	greeting             // hello is sent
	attached             // welcome has come
)

// attempt is a lease and what became of it.
type attempt struct {
	lease     *surmisev1.LeaseRef
	duration  time.Duration
	until     time.Time // the lease lasts at least until then, by this worker's clock
	confirmed bool      // the coordinator counts the lease on this stream; nothing is said about it before that
	revoked   bool      // nothing is said about it any more
	stopped   error     // why the attempt was told to stop; nil while it may run
	stoppedAt time.Time // when that was seen; zero: not yet
	letGo     bool      // it does not stop: its lease is not renewed any more
	over      bool      // the attempt was told that its lease is over, or will be before it can be renewed

	sequence int64               // of the newest heartbeat
	sent     map[int64]time.Time // heartbeats that are not answered yet, by sequence; the end under endSequence
	beat     time.Time           // when the newest heartbeat was sent; zero: none on this stream

	log     []*surmisev1.LogLine // not known to be kept by the coordinator
	logSent int64                // number of the newest line sent on this stream
	logIn   map[int64]int64      // by heartbeat that is not answered yet: number of the newest line sent by then

	progress       *surmisev1.Progress      // newest, not sent yet
	checkpoint     *surmisev1.Checkpoint    // newest, not recorded yet
	checkpointSent bool                     // on this stream
	outcome        *surmisev1.AttachRequest // done, failed or handed_back; nil while the attempt runs
	outcomeSent    bool                     // on this stream
	ended          time.Time                // when outcome became known
}

// effects is what the loop must do after an event.
type effects struct {
	redial error // drop the stream and attach again
	send   []*surmisev1.AttachRequest
	start  *surmisev1.Lease
	stop   error
	over   bool // the lease of the running attempt is over: nothing may be published any more
	letGo  bool // the lease is not renewed any more, because the attempt does not stop
	exit   bool // nothing is left to do
}

// opened: a stream is there.
func (p *protocol) opened(now time.Time) {
	p.link, p.linkedAt, p.asked = greeting, now, false
	if a := p.attempt; a != nil {
		a.confirmed, a.beat, a.checkpointSent, a.outcomeSent = false, time.Time{}, false, false
		a.sent = map[int64]time.Time{0: now}
		a.logSent, a.logIn = 0, map[int64]int64{}
	}
}

// greet is the first message of a stream. It follows opened.
func (p *protocol) greet() *surmisev1.AttachRequest {
	hello := proto.CloneOf(p.hello)
	if a := p.attempt; a != nil && !a.revoked {
		hello.Held = []*surmisev1.LeaseRef{a.lease}
	}
	return &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: hello}}
}

// closed: the stream broke.
func (p *protocol) closed() { p.link, p.asked = away, false }

// drain: the worker is to stop once it has handed back what it holds.
func (p *protocol) drain() {
	p.draining = true
	p.stopAttempt(ErrDrained)
}

// received: the coordinator said something.
func (p *protocol) received(now time.Time, m *surmisev1.AttachResponse) {
	switch m := m.GetMessage().(type) {
	case *surmisev1.AttachResponse_Welcome:
		p.link = attached
	case *surmisev1.AttachResponse_Lease:
		p.leased(now, m.Lease)
	case *surmisev1.AttachResponse_Renewed:
		if a := p.about(m.Renewed.GetLease()); a != nil {
			a.renewed(m.Renewed)
		}
	case *surmisev1.AttachResponse_Revoked:
		if a := p.about(m.Revoked.GetLease()); a != nil {
			p.revoke(a)
		}
	case *surmisev1.AttachResponse_Cancel:
		if p.about(m.Cancel.GetLease()) != nil {
			p.stopAttempt(ErrCancelled)
		}
	case *surmisev1.AttachResponse_Drain:
		p.drain()
	case *surmisev1.AttachResponse_Settled:
		if a := p.about(m.Settled.GetLease()); a != nil && a.outcome != nil {
			p.attempt = nil
		} else if a != nil { // the coordinator ended it, for a checkpoint that it cannot see
			p.revoke(a)
		}
	case *surmisev1.AttachResponse_CheckpointRecorded:
		if a := p.about(m.CheckpointRecorded.GetLease()); a != nil && a.checkpoint.GetStep() == m.CheckpointRecorded.GetStep() {
			a.checkpoint = nil
		}
	}
}

// about returns the attempt that a lease names, or nil.
func (p *protocol) about(lease *surmisev1.LeaseRef) *attempt {
	if p.attempt == nil || !same(p.attempt.lease, lease) {
		return nil
	}
	return p.attempt
}

func same(a, b *surmisev1.LeaseRef) bool {
	return a.GetJob() == b.GetJob() && a.GetEpoch() == b.GetEpoch()
}

func (p *protocol) leased(now time.Time, l *surmisev1.Lease) {
	if p.attempt != nil {
		if !same(p.attempt.lease, l.GetLease()) {
			// Not asked for. The stream's end makes the coordinator hear which lease is really held.
			p.redial = fmt.Errorf("the coordinator gave %s while %s is held", l.GetLease().GetJob(), p.attempt.lease.GetJob())
		}
		return
	}
	p.asked = false
	p.attempt = &attempt{
		lease:     l.GetLease(),
		duration:  l.GetDuration().AsDuration(),
		until:     now.Add(l.GetDuration().AsDuration()), // exact from the first renewal on, moments later
		confirmed: true,
		sent:      map[int64]time.Time{},
		logIn:     map[int64]int64{},
	}
	if p.draining { // it crossed our wish to stop
		p.finished(now, handedBack(l.GetLease(), ErrDrained))
		return
	}
	p.start = l
}

// renewed counts the lease from when its heartbeat was sent.
func (a *attempt) renewed(m *surmisev1.LeaseRenewed) {
	a.confirmed = true
	at, ok := a.sent[m.GetSequence()]
	if !ok {
		return
	}
	if kept, ok := a.logIn[m.GetSequence()]; ok {
		for len(a.log) > 0 && a.log[0].Number <= kept {
			a.log = a.log[1:]
		}
	}
	for sequence := range a.logIn {
		if sequence <= m.GetSequence() {
			delete(a.logIn, sequence)
		}
	}
	if d := m.GetDuration().AsDuration(); d > 0 {
		a.duration = d
	}
	if until := at.Add(a.duration); until.After(a.until) {
		a.until = until
	}
	for sequence := range a.sent {
		if sequence <= m.GetSequence() {
			delete(a.sent, sequence)
		}
	}
}

func (p *protocol) revoke(a *attempt) {
	a.revoked = true
	if a.outcome != nil {
		p.attempt = nil
		return
	}
	p.stopAttempt(ErrRevoked)
}

// stopAttempt stops an attempt that runs. The first cause stands.
func (p *protocol) stopAttempt(cause error) {
	if a := p.attempt; a != nil && a.outcome == nil && a.stopped == nil {
		a.stopped, p.stop = cause, cause
	}
}

// progressed: the attempt says how far it is.
func (p *protocol) progressed(progress *surmisev1.Progress) {
	if p.attempt != nil {
		p.attempt.progress = progress
	}
}

// wantsLog is how many bytes of log lines the protocol takes now: those of one heartbeat that are not kept yet.
func (p *protocol) wantsLog() int {
	a := p.attempt
	if a == nil || a.outcome != nil || a.revoked {
		return 0
	}
	room := beatLogBytes
	for _, l := range a.log {
		room -= len(l.Text)
	}
	return max(0, room)
}

// logged: the attempt has logged lines, whose numbers follow those before.
func (p *protocol) logged(lines []*surmisev1.LogLine) {
	if p.attempt != nil {
		p.attempt.log = append(p.attempt.log, lines...)
	}
}

// checkpointed: the attempt has put a checkpoint on disk.
func (p *protocol) checkpointed(checkpoint *surmisev1.Checkpoint) {
	if p.attempt != nil {
		p.attempt.checkpoint, p.attempt.checkpointSent = checkpoint, false
	}
}

// finished: the attempt's goroutine has returned. outcome is done, failed or handed_back.
func (p *protocol) finished(now time.Time, outcome *surmisev1.AttachRequest) {
	switch a := p.attempt; {
	case a == nil:
	case a.revoked:
		p.attempt = nil
	default:
		a.outcome, a.ended = outcome, now
	}
}

// flush says what follows from the state at this moment, and notes it as done.
func (p *protocol) flush(now time.Time) effects {
	if p.link == greeting && now.Sub(p.linkedAt) >= greetingPatience {
		p.redial = fmt.Errorf("no welcome within %v", greetingPatience)
	}
	var out effects
	if a := p.attempt; a != nil {
		if a.outcome == nil && !now.Before(a.stopAt()) {
			p.stopAttempt(ErrLeaseEnds)
		}
		if a.outcome == nil && !a.over && (a.revoked || !now.Before(a.stopAt())) {
			a.over, out.over = true, true
		}
		if a.stopped != nil && a.stoppedAt.IsZero() {
			a.stoppedAt = now
		}
		if a.stopped != nil && a.outcome == nil && !a.letGo && !now.Before(a.stoppedAt.Add(stopPatience)) {
			a.letGo, out.letGo = true, true
		}
		if p.link == attached && a.overdue(now) {
			p.redial = errors.New("heartbeats are not answered")
		}
	}
	p.checkIdle(now)
	out.redial, p.redial = p.redial, nil
	if out.redial != nil {
		p.closed()
	}
	out.start, p.start = p.start, nil
	out.stop, p.stop = p.stop, nil
	if p.link == attached {
		out.send = p.say(now)
	}
	out.exit = p.draining && (p.attempt == nil || p.attempt.outcome != nil && !now.Before(p.attempt.ended.Add(p.grace)))
	return out
}

// checkIdle drains a worker that has been idle for long. A job that it is given at this moment is handed back.
func (p *protocol) checkIdle(now time.Time) {
	switch {
	case p.attempt != nil:
		p.idleFrom = time.Time{}
	case p.idleFrom.IsZero():
		p.idleFrom = now
	case p.idle > 0 && !p.draining && !now.Before(p.idleFrom.Add(p.idle)):
		p.idledOut = true
		p.drain()
	}
}

// farewell is what is wrong about the end.
func (p *protocol) farewell() error {
	if p.idledOut && p.link != attached {
		return fmt.Errorf("%w, for %v", ErrIdleAlone, p.idle)
	}
	return nil
}

// say returns the messages that are due. A checkpoint goes out before the end that follows it.
func (p *protocol) say(now time.Time) []*surmisev1.AttachRequest {
	a := p.attempt
	if a == nil {
		if p.asked || p.draining {
			return nil
		}
		p.asked = true
		return []*surmisev1.AttachRequest{{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}}}
	}
	if !a.confirmed || a.revoked {
		return nil
	}
	var out []*surmisev1.AttachRequest
	if a.checkpoint != nil && !a.checkpointSent {
		a.checkpointSent = true
		out = append(out, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Checkpoint{
			Checkpoint: &surmisev1.CheckpointPublished{Lease: a.lease, Checkpoint: a.checkpoint}}})
	}
	if a.outcome != nil {
		if !a.outcomeSent {
			last := a.progress
			for a.progress != nil || a.unsentLog() {
				out = append(out, a.heartbeat(now)) // before the end, so that watchers see the last step and line too
			}
			a.progress = last // again on the next stream if this one breaks
			a.outcomeSent, a.sent[endSequence] = true, now
			out = append(out, a.outcome)
		}
		return out
	}
	if !a.letGo && !now.Before(a.beatAt()) { // the first, at once, turns LEASED into RUNNING
		out = append(out, a.heartbeat(now))
	}
	return out
}

func (a *attempt) heartbeat(now time.Time) *surmisev1.AttachRequest {
	a.sequence++
	a.sent[a.sequence], a.beat = now, now
	beat := &surmisev1.Heartbeat{Lease: a.lease, Sequence: a.sequence, Progress: a.progress}
	a.progress = nil
	room := beatLogBytes
	for _, l := range a.log {
		if l.Number <= a.logSent {
			continue
		}
		if len(beat.Log) == beatLogLines || len(beat.Log) > 0 && len(l.Text) > room {
			break
		}
		beat.Log, a.logSent = append(beat.Log, l), l.Number
		room -= len(l.Text)
	}
	a.logIn[a.sequence] = a.logSent
	return &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: beat}}
}

// beatAt is when the next heartbeat is due: a third of the lease after the newest, or sooner with progress to report.
func (a *attempt) beatAt() time.Time {
	every := max(a.duration/3, minBeat)
	if a.progress != nil || a.unsentLog() {
		every = min(every, progressEvery)
	}
	return a.beat.Add(every)
}

// unsentLog reports whether there are lines that this stream has not carried.
func (a *attempt) unsentLog() bool {
	return len(a.log) > 0 && a.log[len(a.log)-1].Number > a.logSent
}

// stopAt is when the attempt must stop: a tenth of the lease before its end, to be out before another begins.
func (a *attempt) stopAt() time.Time { return a.until.Add(-a.duration / 10) }

// overdueAt is when a stream that leaves a message unanswered is taken for dead.
func (a *attempt) overdueAt() (at time.Time, waiting bool) {
	for _, sent := range a.sent {
		if !waiting || sent.Before(at) {
			at, waiting = sent, true
		}
	}
	return at.Add(a.duration / 2), waiting
}

func (a *attempt) overdue(now time.Time) bool {
	at, waiting := a.overdueAt()
	return waiting && !a.revoked && !now.Before(at)
}

// wake is the next moment at which flush may have something to say though nothing happened; zero: none.
func (p *protocol) wake() time.Time {
	var at []time.Time
	if p.link == greeting {
		at = append(at, p.linkedAt.Add(greetingPatience))
	}
	if a := p.attempt; a != nil {
		if a.outcome == nil && !a.over {
			at = append(at, a.stopAt())
		}
		if p.link == attached && !a.revoked {
			if overdue, waiting := a.overdueAt(); waiting {
				at = append(at, overdue)
			}
			if a.confirmed && a.outcome == nil && !a.letGo {
				at = append(at, a.beatAt())
			}
		}
		if p.draining && a.outcome != nil {
			at = append(at, a.ended.Add(p.grace))
		}
	}
	if p.idle > 0 && !p.idleFrom.IsZero() && !p.draining {
		at = append(at, p.idleFrom.Add(p.idle))
	}
	if len(at) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(at, time.Time.Compare)
}

func handedBack(lease *surmisev1.LeaseRef, cause error) *surmisev1.AttachRequest {
	return &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_HandedBack{
		HandedBack: &surmisev1.HandedBack{Lease: lease, Reason: bounded(cause.Error())}}}
}

// bounded makes a reason fit the API: valid UTF-8, not empty, at most maxReasonBytes.
func bounded(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if reason == "" {
		return "no reason given"
	}
	const cut = " …"
	if len(reason) <= maxReasonBytes {
		return reason
	}
	end := maxReasonBytes - len(cut)
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end] + cut
}
