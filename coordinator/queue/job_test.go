package queue_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

var t0 = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

const lease = 30 * time.Second

// held is a job in a held state at epoch 2, on worker w, whose lease runs out 30 s after t0.
func held(s queue.State) queue.Job {
	j := queue.Job{ID: "j", State: s, Epoch: 2, Worker: "w", LeaseUntil: t0.Add(lease), Created: t0}
	if s != queue.Leased {
		j.Started = t0
	}
	return j
}

func ended(s queue.State) queue.Job {
	return queue.Job{ID: "j", State: s, Epoch: 2, Created: t0, Ended: t0}
}

func TestApply(t *testing.T) {
	queued := queue.Job{ID: "j", State: queue.Queued, Epoch: 2, Created: t0}
	worn := held(queue.Running)
	worn.Losses = queue.MaxLosses - 1
	result := json.RawMessage(`{"metrics":{}}`)
	progress := json.RawMessage(`{"step":1}`)
	now := t0.Add(10 * time.Second)

	for _, c := range []struct {
		name  string
		job   queue.Job
		event queue.Event
		state queue.State
		log   queue.LogType
		err   error
	}{
		{"a queued job is leased", queued, queue.Lease{Worker: "w", For: lease}, queue.Leased, queue.LogLeased, nil},
		{"a leased job is not leased again", held(queue.Leased), queue.Lease{Worker: "x", For: lease}, queue.Leased, "", queue.ErrNotQueued},
		{"an ended job is not leased", ended(queue.Failed), queue.Lease{Worker: "x", For: lease}, queue.Failed, "", queue.ErrNotQueued},

		{"the first heartbeat starts", held(queue.Leased), queue.Heartbeat{Epoch: 2, For: lease}, queue.Running, queue.LogStarted, nil},
		{"a bare heartbeat is not logged", held(queue.Running), queue.Heartbeat{Epoch: 2, For: lease}, queue.Running, "", nil},
		{"progress is logged", held(queue.Running), queue.Heartbeat{Epoch: 2, For: lease, Progress: progress}, queue.Running, queue.LogProgress, nil},
		{"a heartbeat does not undo a cancel", held(queue.Cancelling), queue.Heartbeat{Epoch: 2, For: lease}, queue.Cancelling, "", nil},
		{"an old heartbeat is stale", held(queue.Running), queue.Heartbeat{Epoch: 1, For: lease}, queue.Running, "", queue.ErrStale},
		{"an epoch never given is stale", held(queue.Running), queue.Heartbeat{Epoch: 3, For: lease}, queue.Running, "", queue.ErrStale},
		{"a heartbeat after the lease was taken back is stale", queued, queue.Heartbeat{Epoch: 2, For: lease}, queue.Queued, "", queue.ErrStale},

		{"a checkpoint is kept", held(queue.Running), queue.Checkpointed{Epoch: 2, Step: 5, Path: "p"}, queue.Running, queue.LogCheckpointed, nil},
		{"a stale checkpoint is not", held(queue.Running), queue.Checkpointed{Epoch: 1, Step: 5, Path: "p"}, queue.Running, "", queue.ErrStale},

		{"done succeeds", held(queue.Running), queue.Done{Epoch: 2, Result: result}, queue.Succeeded, queue.LogEnded, nil},
		{"done without a heartbeat succeeds", held(queue.Leased), queue.Done{Epoch: 2, Result: result}, queue.Succeeded, queue.LogEnded, nil},
		{"done repeated changes nothing", ended(queue.Succeeded), queue.Done{Epoch: 2, Result: result}, queue.Succeeded, "", nil},
		{"done by an older epoch is stale", ended(queue.Succeeded), queue.Done{Epoch: 1, Result: result}, queue.Succeeded, "", queue.ErrStale},
		{"done after the lease was taken back is stale", queued, queue.Done{Epoch: 2, Result: result}, queue.Queued, "", queue.ErrStale},
		{"done while cancelling is cancelled", held(queue.Cancelling), queue.Done{Epoch: 2, Result: result}, queue.Cancelled, queue.LogEnded, nil},

		{"the job's fault fails", held(queue.Running), queue.Fail{Epoch: 2, Reason: "r"}, queue.Failed, queue.LogEnded, nil},
		{"the machine's fault requeues", held(queue.Running), queue.Fail{Epoch: 2, Reason: "r", Infrastructure: true}, queue.Queued, queue.LogRequeued, nil},
		{"the machine's fault too often fails", worn, queue.Fail{Epoch: 2, Reason: "r", Infrastructure: true}, queue.Failed, queue.LogEnded, nil},
		{"failing repeated changes nothing", queued, queue.Fail{Epoch: 2, Reason: "r", Infrastructure: true}, queue.Queued, "", nil},
		{"failing while cancelling is cancelled", held(queue.Cancelling), queue.Fail{Epoch: 2, Reason: "r"}, queue.Cancelled, queue.LogEnded, nil},
		{"failing by an older epoch is stale", held(queue.Running), queue.Fail{Epoch: 1, Reason: "r"}, queue.Running, "", queue.ErrStale},

		{"handing back requeues", held(queue.Running), queue.HandBack{Epoch: 2}, queue.Queued, queue.LogRequeued, nil},
		{"handing back is not charged", worn, queue.HandBack{Epoch: 2}, queue.Queued, queue.LogRequeued, nil},
		{"handing back while cancelling is cancelled", held(queue.Cancelling), queue.HandBack{Epoch: 2}, queue.Cancelled, queue.LogEnded, nil},
		{"handing back repeated changes nothing", queued, queue.HandBack{Epoch: 2}, queue.Queued, "", nil},

		{"a lease in time does not expire", held(queue.Running), queue.Expire{}, queue.Running, "", queue.ErrNotDue},
		{"a queued job does not expire", queued, queue.Expire{}, queue.Queued, "", queue.ErrNotDue},

		{"cancelling a queued job ends it", queued, queue.Cancel{}, queue.Cancelled, queue.LogEnded, nil},
		{"cancelling a running job asks its worker", held(queue.Running), queue.Cancel{}, queue.Cancelling, queue.LogCancelRequested, nil},
		{"cancelling twice asks again", held(queue.Cancelling), queue.Cancel{}, queue.Cancelling, "", nil},
		{"cancelling a cancelled job changes nothing", ended(queue.Cancelled), queue.Cancel{}, queue.Cancelled, "", nil},
		{"a job that succeeded is not cancelled", ended(queue.Succeeded), queue.Cancel{}, queue.Succeeded, "", queue.ErrEnded},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, effects, err := queue.Apply(c.job, c.event, now)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if after.State != c.state || effects.Log != c.log {
				t.Errorf("%s, log %q; want %s, log %q", after.State, effects.Log, c.state, c.log)
			}
			if effects.Offer != (c.log == queue.LogRequeued) {
				t.Errorf("offered to workers: %v", effects.Offer)
			}
			if effects.StopWorker != (err == nil && after.State == queue.Cancelling && c.event == queue.Event(queue.Cancel{})) {
				t.Errorf("worker stopped: %v", effects.StopWorker)
			}
		})
	}
}

func TestLeaseRunsOut(t *testing.T) {
	for from, want := range map[queue.State]queue.State{
		queue.Leased: queue.Queued, queue.Running: queue.Queued, queue.Cancelling: queue.Cancelled,
	} {
		after, _, err := queue.Apply(held(from), queue.Expire{}, t0.Add(lease))
		if err != nil || after.State != want {
			t.Errorf("%s: %s, %v; want %s", from, after.State, err, want)
		}
	}
}

func TestProgressIsTheNewestAttempts(t *testing.T) {
	j := held(queue.Running)
	j.Progress = json.RawMessage(`{"step":7}`)
	lost, _, err := queue.Apply(j, queue.Expire{}, t0.Add(lease))
	if err != nil || lost.Progress == nil {
		t.Errorf("while it waits: progress %s, %v; want how far the last attempt came", lost.Progress, err)
	}
	leased, _, err := queue.Apply(lost, queue.Lease{Worker: "x", For: lease}, t0.Add(lease))
	if err != nil || leased.Progress != nil {
		t.Errorf("leased anew: progress %s, %v; want none", leased.Progress, err)
	}
}

func TestANewCheckpointForgivesLosses(t *testing.T) {
	j := held(queue.Running)
	j.Losses, j.Checkpoint = 7, queue.Checkpoint{Step: 10, Path: "a"}
	if after, _, _ := queue.Apply(j, queue.Checkpointed{Epoch: 2, Step: 10, Path: "b"}, t0); after.Losses != 7 {
		t.Errorf("no step gained, but losses are %d", after.Losses)
	}
	if after, _, _ := queue.Apply(j, queue.Checkpointed{Epoch: 2, Step: 11, Path: "b"}, t0); after.Losses != 0 {
		t.Errorf("a step gained, but losses are %d", after.Losses)
	}
}

// deadline is that of the job whose life is drawn.
var deadline = t0.Add(3 * time.Minute)

// oracle is the job's life told otherwise: what happened is remembered, and the state follows from it.
type oracle struct {
	leases   []*grant
	cancel   bool        // asked for
	late     bool        // stopped for its deadline
	end      queue.State // "" until then
	charged  int         // since the last gain
	lastStep int
	lastPath string
}

type grant struct {
	worker   string
	until    time.Time
	reported bool
	over     bool

	preempted bool
}

func (o *oracle) current() *grant {
	if n := len(o.leases); n > 0 && !o.leases[n-1].over && o.end == "" {
		return o.leases[n-1]
	}
	return nil
}

func (o *oracle) state() queue.State {
	g := o.current()
	switch {
	case o.end != "":
		return o.end
	case g == nil:
		return queue.Queued
	case o.cancel:
		return queue.Cancelling
	case g.reported:
		return queue.Running
	default:
		return queue.Leased
	}
}

// close ends the current lease; charge says whether the loss counts.
func (o *oracle) close(charge bool) {
	g := o.current()
	g.over = true
	if o.late {
		o.end = queue.Failed
	} else if o.cancel {
		o.end = queue.Cancelled
	} else if charge && !g.preempted {
		if o.charged++; o.charged >= queue.MaxLosses {
			o.end = queue.Failed
		}
	}
}

func (o *oracle) apply(e queue.Event, now time.Time) error {
	mine := func(epoch int64) bool { return o.current() != nil && epoch == int64(len(o.leases)) }
	repeated := func(epoch int64) bool { return o.current() == nil && epoch == int64(len(o.leases)) }
	switch e := e.(type) {
	case queue.Lease:
		if o.state() != queue.Queued {
			return queue.ErrNotQueued
		}
		o.leases = append(o.leases, &grant{worker: e.Worker, until: now.Add(e.For)})
	case queue.Heartbeat:
		if !mine(e.Epoch) {
			return queue.ErrStale
		}
		g := o.current()
		g.reported = true
		g.until = now.Add(e.For)
	case queue.Checkpointed:
		if !mine(e.Epoch) {
			return queue.ErrStale
		}
		if e.Step == o.lastStep && e.Path == o.lastPath {
			return nil
		}
		o.current().reported = true
		if e.Step > o.lastStep {
			o.charged = 0
		}
		o.lastStep, o.lastPath = e.Step, e.Path
	case queue.Done:
		switch {
		case mine(e.Epoch):
			o.close(false)
			if o.end == "" {
				o.end = queue.Succeeded
			}
		case !repeated(e.Epoch) || o.end == "":
			return queue.ErrStale
		}
	case queue.Fail:
		switch {
		case mine(e.Epoch):
			o.close(e.Infrastructure)
			if o.end == "" && !e.Infrastructure {
				o.end = queue.Failed
			}
		case !repeated(e.Epoch):
			return queue.ErrStale
		}
	case queue.HandBack:
		switch {
		case mine(e.Epoch):
			o.close(false)
		case !repeated(e.Epoch):
			return queue.ErrStale
		}
	case queue.Expire:
		if g := o.current(); g == nil || now.Before(g.until) {
			return queue.ErrNotDue
		}
		o.close(true)
	case queue.Cancel:
		switch {
		case o.end == queue.Succeeded || o.end == queue.Failed:
			return queue.ErrEnded
		case o.state() == queue.Queued:
			o.end = queue.Cancelled
		}
		o.cancel = true
	case queue.Deadline:
		switch {
		case now.Before(deadline) || o.end != "" || o.cancel:
			return queue.ErrNotDue
		case o.state() == queue.Queued:
			o.end = queue.Failed
		default:
			o.cancel, o.late = true, true
		}
	case queue.Preempt:
		if o.state() != queue.Leased && o.state() != queue.Running {
			return queue.ErrStale
		}
		o.current().preempted = true
	}
	return nil
}

func TestApplyAgreesWithTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		job := queue.Job{ID: "j", State: queue.Queued, Created: t0, Scheduling: queue.Scheduling{Deadline: deadline}}
		o := &oracle{}
		now := t0
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(-5, 20).Draw(t, "seconds")) * time.Second) // clocks are set back, too
			event := drawEvent(t, job.Epoch)
			before := job
			after, effects, err := queue.Apply(job, event, now)
			want := o.apply(event, now)

			if !errors.Is(err, want) {
				t.Fatalf("%T %+v on %s: error %v, the oracle says %v", event, event, before.State, err, want)
			}
			if err != nil && (!reflect.DeepEqual(after, before) || effects != queue.Effects{}) {
				t.Fatalf("%T was refused (%v) but changed %+v to %+v", event, err, before, after)
			}
			if after.State != o.state() || after.Epoch != int64(len(o.leases)) {
				t.Fatalf("%T %+v: %s at epoch %d, the oracle says %s at %d", event, event, after.State, after.Epoch, o.state(), len(o.leases))
			}
			if before.State.Ended() && !reflect.DeepEqual(after, before) {
				t.Fatalf("%T changed an ended job", event)
			}
			if !after.State.Held() != (after.Worker == "") || !after.State.Held() != after.LeaseUntil.IsZero() {
				t.Fatalf("%s, held by %q until %v", after.State, after.Worker, after.LeaseUntil)
			}
			if g := o.current(); g != nil && (after.Worker != g.worker || !after.LeaseUntil.Equal(g.until)) {
				t.Fatalf("held by %q until %v, the oracle says %q until %v", after.Worker, after.LeaseUntil, g.worker, g.until)
			}
			if (after.Result != nil) != (after.State == queue.Succeeded) || after.State.Ended() == after.Ended.IsZero() {
				t.Fatalf("%s with result %s, ended %v", after.State, after.Result, after.Ended)
			}
			if after.Checkpoint.Step != o.lastStep || after.Checkpoint.Path != o.lastPath {
				t.Fatalf("checkpoint %+v, the oracle says step %d at %q", after.Checkpoint, o.lastStep, o.lastPath)
			}
			if after.State != before.State && effects.Log == "" {
				t.Fatalf("%s became %s unlogged", before.State, after.State)
			}
			job = after
		}
	})
}

func drawEvent(t *rapid.T, newest int64) queue.Event {
	epoch := rapid.Int64Range(max(newest-2, 1), newest+1).Draw(t, "epoch")
	text := rapid.SampledFrom([]string{"a", "b"})
	switch rapid.IntRange(0, 14).Draw(t, "kind") {
	case 0, 1, 2, 3:
		return queue.Lease{Worker: text.Draw(t, "worker"), For: lease}
	case 4, 5:
		return queue.Heartbeat{Epoch: epoch, For: lease}
	case 6:
		return queue.Checkpointed{Epoch: epoch, Step: rapid.IntRange(1, 5).Draw(t, "step"), Path: text.Draw(t, "path")}
	case 7:
		return queue.Done{Epoch: epoch, Result: json.RawMessage(`{}`)}
	case 8, 9:
		return queue.Fail{Epoch: epoch, Reason: "r", Infrastructure: rapid.IntRange(0, 9).Draw(t, "infrastructure") > 0}
	case 10:
		return queue.HandBack{Epoch: epoch}
	case 11:
		return queue.Expire{}
	case 12:
		return queue.Deadline{}
	case 13:
		return queue.Preempt{Reason: "r"}
	default:
		return queue.Cancel{}
	}
}
