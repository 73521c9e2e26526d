package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// State is where a job stands; see the package comment.
type State string

const (
	Queued     State = "QUEUED"
	Leased     State = "LEASED"
	Running    State = "RUNNING"
	Cancelling State = "CANCELLING"
	Cancelled  State = "CANCELLED"
	Succeeded  State = "SUCCEEDED"
	Failed     State = "FAILED"
)

// Held reports whether a worker has a lease in this state.
func (s State) Held() bool { return s == Leased || s == Running || s == Cancelling }

// Ended reports whether the job is over.
func (s State) Ended() bool { return s == Cancelled || s == Succeeded || s == Failed }

// Job is all that is known of one job. Spec, Progress and Result are the coordinator's: the queue keeps them unread.
type Job struct {
	ID          string
	Sequence    int64  // order of submission, from 1; the queue is served in this order
	RequestID   string // "" when the submitter gave none
	DisplayName string
	Spec        json.RawMessage `json:",omitempty"`
	Scheduling

	State  State
	Reason string // why it was queued again, cancelled or failed

	Epoch      int64     // leases given so far; the fencing token of the newest
	Worker     string    // holder of the lease; "" when none
	LeaseUntil time.Time // zero when none
	Losses     int       // attempts lost to infrastructure since the last new checkpoint
	NotBefore  time.Time `json:",omitzero"`  // QUEUED: not leased before; zero: at once
	Stop       StopCause `json:",omitempty"` // why its worker was asked to stop; "" when it was not

	Progress   json.RawMessage `json:",omitempty"` // nil before the newest attempt's first report
	Checkpoint Checkpoint      // newest; Path "" when none
	Result     json.RawMessage `json:",omitempty"` // nil unless Succeeded

	Created, Started, Ended time.Time // zero when not yet
	Revision                int64     // events logged so far

	Sweep       string          `json:",omitempty"` // id of the sweep it is a child of; "" for none
	SweepIndex  int             `json:",omitempty"` // its place among the children, from 0
	SweepValues json.RawMessage `json:",omitempty"` // what the sweep's parameters are in it; nil for no sweep
}

// StopCause is why a worker was asked to stop before the end.
type StopCause string

const (
	StopCancel   StopCause = "CANCEL"   // the job ends as CANCELLED
	StopDeadline StopCause = "DEADLINE" // the job ends as FAILED
	StopPreempt  StopCause = "PREEMPT"  // the job is queued again
)

// Checkpoint is a published checkpoint.
type Checkpoint struct {
	Step int // optimiser steps
	Path string
	Time time.Time
}

// Event is something that happens to a job: one of the types below.
type Event interface{ event() }

type (
	// Lease gives a queued job to a worker for a while.
	Lease struct {
		Worker string
		For    time.Duration
	}
	// Heartbeat renews a lease from now on. Progress is nil when there is nothing new.
	Heartbeat struct {
		Epoch    int64
		For      time.Duration
		Progress json.RawMessage
	}
	// Checkpointed publishes a checkpoint.
	Checkpointed struct {
		Epoch int64
		Step  int
		Path  string
	}
	// Done publishes the result.
	Done struct {
		Epoch    int64
		Result   json.RawMessage
		Progress json.RawMessage // nil: as before
	}
	// Fail ends an attempt. With Infrastructure the job is not to blame and is tried again.
	Fail struct {
		Epoch          int64
		Reason         string
		Infrastructure bool
	}
	// HandBack ends an attempt that was drained, preempted or cancelled; it is not charged to the job.
	HandBack struct {
		Epoch  int64
		Reason string
	}
	// Expire takes the job from a worker whose lease has run out.
	Expire struct{}
	// Cancel asks for the job to stop. Reason says why; "" when somebody asked for it, which needs no reason.
	Cancel struct{ Reason string }
	// Deadline fails a job whose deadline has passed.
	Deadline struct{}
	// Preempt asks for a held job to give its worker up and wait again; it is not charged to the job.
	Preempt struct{ Reason string }
)

func (Lease) event()        {}
func (Heartbeat) event()    {}
func (Checkpointed) event() {}
func (Done) event()         {}
func (Fail) event()         {}
func (HandBack) event()     {}
func (Expire) event()       {}
func (Cancel) event()       {}
func (Deadline) event()     {}
func (Preempt) event()      {}

// LogType says what an entry of the event log records.
type LogType string

const (
	LogSubmitted       LogType = "SUBMITTED"
	LogLeased          LogType = "LEASED"
	LogStarted         LogType = "STARTED"
	LogProgress        LogType = "PROGRESS"
	LogCheckpointed    LogType = "CHECKPOINTED"
	LogRequeued        LogType = "REQUEUED"
	LogCancelRequested LogType = "CANCEL_REQUESTED"
	LogPreempted       LogType = "PREEMPTED"
	LogEnded           LogType = "ENDED"
)

// Effects is what must follow an event once the job is stored.
type Effects struct {
	Log        LogType // entry for the event log; "" for none
	Offer      bool    // the job waits for a worker
	StopWorker bool    // the job's worker must be told to stop
}

var (
	// ErrStale: the sender's lease is over or never was. Nothing changed.
	ErrStale = errors.New("stale lease")
	// ErrEnded: the job is over, and not by being cancelled. Nothing changed.
	ErrEnded = errors.New("job has ended")
	// ErrNotDue: the lease has not run out, or the deadline not passed. Nothing changed.
	ErrNotDue = errors.New("lease or deadline has not run out")
	// ErrNotQueued: only a queued job can be leased. Nothing changed.
	ErrNotQueued = errors.New("job is not queued")
)

// MaxLosses is how many attempts in a row a job may lose to infrastructure, without a new checkpoint in between, before
// it is taken for the cause and failed: a job that kills its workers must not go round for ever.
const MaxLosses = 10

// Apply moves a job on. It is pure: on error the job comes back as it was. An event that was applied before, repeated
// because its answer was lost, changes nothing and is no error.
func Apply(j Job, e Event, now time.Time) (Job, Effects, error) {
	switch e := e.(type) {
	case Lease:
		if j.State != Queued {
			return j, Effects{}, fmt.Errorf("%w: it is %s", ErrNotQueued, j.State)
		}
		j.State, j.Reason, j.Progress = Leased, "", nil // progress is the newest attempt's
		j.Stop, j.NotBefore = "", time.Time{}
		j.Epoch++
		j.Worker, j.LeaseUntil = e.Worker, now.Add(e.For)
		return j, Effects{Log: LogLeased}, nil

	case Heartbeat:
		if err := j.heldAt(e.Epoch); err != nil {
			return j, Effects{}, err
		}
		j.LeaseUntil = now.Add(e.For) // not the later of both: a clock that was set back would let a dead worker keep the job
		effects := j.start(now)
		if e.Progress != nil {
			j.Progress = e.Progress
			if effects.Log == "" {
				effects.Log = LogProgress
			}
		}
		return j, effects, nil

	case Checkpointed:
		if err := j.heldAt(e.Epoch); err != nil {
			return j, Effects{}, err
		}
		if j.Checkpoint.Step == e.Step && j.Checkpoint.Path == e.Path {
			return j, Effects{}, nil
		}
		j.start(now)
		if e.Step > j.Checkpoint.Step {
			j.Losses = 0
		}
		// A lower step than before is right when the attempt found a newer checkpoint damaged and went back.
		j.Checkpoint = Checkpoint{Step: e.Step, Path: e.Path, Time: now}
		return j, Effects{Log: LogCheckpointed}, nil

	case Done:
		if j.State.Ended() && j.Epoch == e.Epoch {
			return j, Effects{}, nil
		}
		if err := j.heldAt(e.Epoch); err != nil {
			return j, Effects{}, err
		}
		if e.Progress != nil {
			j.Progress = e.Progress
		}
		if j.State == Cancelling {
			return j.stopped(now)
		}
		j.start(now)
		j.Result, j.Stop = e.Result, "" // it finished before it could give way
		return j.end(Succeeded, "", now)

	case Fail:
		if j.released(e.Epoch) {
			return j, Effects{}, nil
		}
		if err := j.heldAt(e.Epoch); err != nil {
			return j, Effects{}, err
		}
		switch {
		case j.State == Cancelling:
			return j.stopped(now)
		case e.Infrastructure:
			return j.lose(e.Reason, now)
		default:
			return j.end(Failed, e.Reason, now)
		}

	case HandBack:
		if j.released(e.Epoch) {
			return j, Effects{}, nil
		}
		if err := j.heldAt(e.Epoch); err != nil {
			return j, Effects{}, err
		}
		if j.State == Cancelling {
			return j.stopped(now)
		}
		if j.Stop == StopPreempt {
			return j.requeue(j.Reason)
		}
		return j.requeue("handed back: " + e.Reason)

	case Expire:
		if !j.State.Held() || now.Before(j.LeaseUntil) {
			return j, Effects{}, ErrNotDue
		}
		if j.State == Cancelling {
			return j.stopped(now)
		}
		return j.lose(fmt.Sprintf("worker %s was lost", j.Worker), now)

	case Cancel:
		switch j.State {
		case Queued:
			return j.end(Cancelled, orElse(e.Reason, cancelled), now)
		case Leased, Running:
			j.State, j.Stop, j.Reason = Cancelling, StopCancel, orElse(e.Reason, cancelRequested)
			return j, Effects{Log: LogCancelRequested, StopWorker: true}, nil
		case Cancelling:
			return j, Effects{StopWorker: true}, nil // the word may have been lost
		case Cancelled:
			return j, Effects{}, nil
		default:
			return j, Effects{}, fmt.Errorf("%w: it is %s", ErrEnded, j.State)
		}

	case Deadline:
		if j.Deadline.IsZero() || now.Before(j.Deadline) || j.State.Ended() || j.State == Cancelling {
			return j, Effects{}, ErrNotDue
		}
		reason := fmt.Sprintf("DEADLINE: not finished by %s", j.Deadline.UTC().Format(time.RFC3339))
		if j.State == Queued {
			return j.end(Failed, reason, now)
		}
		j.State, j.Stop, j.Reason = Cancelling, StopDeadline, reason
		return j, Effects{Log: LogCancelRequested, StopWorker: true}, nil

	case Preempt:
		if !j.State.Held() || j.State == Cancelling {
			return j, Effects{}, fmt.Errorf("%w: the job is %s", ErrStale, j.State)
		}
		if j.Stop == StopPreempt {
			return j, Effects{StopWorker: true}, nil // the word may have been lost
		}
		j.Stop, j.Reason = StopPreempt, "preempted: "+e.Reason
		return j, Effects{Log: LogPreempted, StopWorker: true}, nil
	}
	panic(fmt.Sprintf("queue: unknown event %T", e)) // Event is sealed
}

// heldAt refuses a worker that does not hold the job under this epoch.
func (j Job) heldAt(epoch int64) error {
	if !j.State.Held() {
		return fmt.Errorf("%w: the job is %s", ErrStale, j.State)
	}
	if j.Epoch != epoch {
		return fmt.Errorf("%w: epoch %d, the job is at %d", ErrStale, epoch, j.Epoch)
	}
	return nil
}

// released reports whether the lease of this epoch was the newest and is over: a repeated word that ends it is welcome.
func (j Job) released(epoch int64) bool { return !j.State.Held() && j.Epoch == epoch }

// start notes the first sign of work.
func (j *Job) start(now time.Time) Effects {
	if j.Started.IsZero() {
		j.Started = now
	}
	if j.State != Leased {
		return Effects{}
	}
	j.State = Running
	return Effects{Log: LogStarted}
}

// What the reason says of a job that somebody cancelled, while its worker has not confirmed it, and then.
const (
	cancelRequested = "cancel requested"
	cancelled       = "cancelled"
)

// stopped ends a job that was CANCELLING.
func (j Job) stopped(now time.Time) (Job, Effects, error) {
	switch {
	case j.Stop == StopDeadline:
		return j.end(Failed, j.Reason, now)
	case j.Reason == cancelRequested:
		return j.end(Cancelled, cancelled, now)
	default:
		return j.end(Cancelled, j.Reason, now)
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (j Job) lose(reason string, now time.Time) (Job, Effects, error) {
	if j.Stop == StopPreempt {
		return j.requeue(j.Reason) // it was to stop anyway
	}
	j.Losses++
	if j.Losses >= MaxLosses {
		return j.end(Failed, fmt.Sprintf("given up after %d lost attempts without a new checkpoint; the last: %s", j.Losses, reason), now)
	}
	if wait := Backoff(j.Losses); wait > 0 {
		j.NotBefore = now.Add(wait)
	}
	return j.requeue(reason)
}

func (j Job) requeue(reason string) (Job, Effects, error) {
	j.State, j.Reason, j.Stop = Queued, reason, ""
	j.Worker, j.LeaseUntil = "", time.Time{}
	return j, Effects{Log: LogRequeued, Offer: true}, nil
}

func (j Job) end(s State, reason string, now time.Time) (Job, Effects, error) {
	j.State, j.Reason, j.Ended = s, reason, now
	j.Worker, j.LeaseUntil, j.NotBefore = "", time.Time{}, time.Time{}
	return j, Effects{Log: LogEnded}, nil
}
