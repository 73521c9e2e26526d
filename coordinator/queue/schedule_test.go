package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

func TestWhatAWorkerLacks(t *testing.T) {
	w := queue.Worker{GPUs: 2, Memory: 8 << 30, DataRoots: []string{"/data/a", "/data/b/"}, Labels: map[string]string{"zone": "x"}}
	for name, c := range map[string]struct {
		needs queue.Needs
		lacks string
	}{
		"nothing":               {queue.Needs{}, ""},
		"all it has":            {queue.Needs{GPUs: 2, Memory: 8 << 30, DataRoots: []string{"/data/a/sub", "/data/b"}, Labels: map[string]string{"zone": "x"}}, ""},
		"a GPU more":            {queue.Needs{GPUs: 3}, "3 GPUs"},
		"a byte more":           {queue.Needs{Memory: 8<<30 + 1}, "8589934593 bytes of memory"},
		"another folder":        {queue.Needs{DataRoots: []string{"/data/ab"}}, "data root /data/ab"},
		"the folder above":      {queue.Needs{DataRoots: []string{"/data"}}, "data root /data"},
		"a way out":             {queue.Needs{DataRoots: []string{"/data/a/../c"}}, "data root /data/a/../c"},
		"another label":         {queue.Needs{Labels: map[string]string{"zone": "y"}}, "label zone=y"},
		"a label it has not":    {queue.Needs{Labels: map[string]string{"ssd": ""}}, "label ssd="},
		"the first in an order": {queue.Needs{Labels: map[string]string{"b": "1", "a": "1"}}, "label a=1"},
	} {
		if got := w.Lacks(c.needs); got != c.lacks {
			t.Errorf("%s: lacks %q, want %q", name, got, c.lacks)
		}
	}
	if got := (queue.Worker{}).Lacks(queue.Needs{DataRoots: []string{"/any"}}); got != "" {
		t.Errorf("a worker that reads any folder lacks %s", got)
	}
}

func TestOwnersTakeTurnsInThePlace(t *testing.T) {
	many := func(me, other queue.Turn) map[string]queue.Turn {
		return map[string]queue.Turn{"me": me, "other": other}
	}
	heads := func(me, other queue.Turn, mine, others int64) map[string]queue.Turn {
		me.Head, other.Head = mine, others
		return many(me, other)
	}
	for _, c := range []struct {
		place queue.Place
		want  int
	}{
		{queue.Place{Owners: map[string]queue.Turn{"me": {Queued: 1}}}, 1},
		{queue.Place{Owners: map[string]queue.Turn{"me": {Queued: 5, Earlier: 2}}}, 3},
		{queue.Place{Owners: many(queue.Turn{Queued: 1}, queue.Turn{Queued: 9000, Earlier: 0})}, 1},             // first in the first turn
		{queue.Place{Owners: heads(queue.Turn{Queued: 1}, queue.Turn{Queued: 9000, Earlier: 9000}, 2, 1)}, 2},   // second in the first turn
		{queue.Place{Owners: many(queue.Turn{Queued: 2, Earlier: 1}, queue.Turn{Queued: 9000, Earlier: 1})}, 3}, // first in the second
		{queue.Place{Owners: many(queue.Turn{Queued: 9, Earlier: 4}, queue.Turn{Queued: 2, Earlier: 2})}, 7},    // the other has only two
		{queue.Place{Owners: many(queue.Turn{Queued: 1, Last: 2}, queue.Turn{Queued: 9, Last: 1})}, 2},          // the other waits longer
		{queue.Place{Above: 7, Owners: map[string]queue.Turn{"me": {Queued: 1}}}, 8},
	} {
		if got := c.place.Position("me"); got != c.want {
			t.Errorf("%+v: %d, want %d", c.place, got, c.want)
		}
	}
}

func TestBackoffDoublesUpToFiveMinutes(t *testing.T) {
	for losses, want := range map[int]time.Duration{
		0: 0, 1: 0, 2: time.Second, 3: 2 * time.Second, 6: 16 * time.Second, 9: 128 * time.Second, 11: 5 * time.Minute, 1 << 40: 5 * time.Minute,
	} {
		if got := queue.Backoff(losses); got != want {
			t.Errorf("after %d losses %v, want %v", losses, got, want)
		}
	}
}

func TestOnlyInfrastructureBacksOff(t *testing.T) {
	j := held(queue.Running)
	j.Losses = 2
	lost, _, _ := queue.Apply(j, queue.Fail{Epoch: 2, Reason: "disk", Infrastructure: true}, t0)
	if want := t0.Add(2 * time.Second); lost.State != queue.Queued || !lost.NotBefore.Equal(want) {
		t.Errorf("%s until %v, want %v", lost.State, lost.NotBefore, want)
	}
	if leased, _, _ := queue.Apply(lost, queue.Lease{Worker: "w", For: lease}, t0); !leased.NotBefore.IsZero() {
		t.Errorf("leased, but not before %v", leased.NotBefore)
	}
	if back, _, _ := queue.Apply(j, queue.HandBack{Epoch: 2}, t0); !back.NotBefore.IsZero() || back.Losses != 2 {
		t.Errorf("handed back: %+v", back)
	}
}

func TestDeadline(t *testing.T) {
	due := t0.Add(time.Minute)
	with := func(j queue.Job) queue.Job { j.Deadline = due; return j }
	if _, _, err := queue.Apply(with(held(queue.Running)), queue.Deadline{}, due.Add(-1)); err == nil {
		t.Error("it passed before its time")
	}
	queued, effects, err := queue.Apply(with(queue.Job{State: queue.Queued}), queue.Deadline{}, due)
	if err != nil || queued.State != queue.Failed || !strings.HasPrefix(queued.Reason, "DEADLINE: not finished by 2030-01-01T00:01:00Z") || effects.StopWorker {
		t.Errorf("while it waits: %+v, %+v, %v", queued, effects, err)
	}
	stopping, effects, err := queue.Apply(with(held(queue.Running)), queue.Deadline{}, due)
	if err != nil || stopping.State != queue.Cancelling || !effects.StopWorker {
		t.Fatalf("while it runs: %+v, %+v, %v", stopping, effects, err)
	}
	if _, _, err := queue.Apply(stopping, queue.Deadline{}, due); err == nil {
		t.Error("it passed twice")
	}
	for name, e := range map[string]queue.Event{
		"handed back": queue.HandBack{Epoch: 2}, "done too late": queue.Done{Epoch: 2}, "lost": queue.Expire{},
		"failed": queue.Fail{Epoch: 2, Reason: "r"},
	} {
		after, _, err := queue.Apply(stopping, e, due.Add(lease))
		if err != nil || after.State != queue.Failed || after.Reason != queued.Reason {
			t.Errorf("%s: %s, %q, %v; want FAILED for its deadline", name, after.State, after.Reason, err)
		}
	}
}

func TestPreemptionIsNotCharged(t *testing.T) {
	j := held(queue.Running)
	j.Losses = queue.MaxLosses - 1
	asked, effects, err := queue.Apply(j, queue.Preempt{Reason: "r"}, t0)
	if err != nil || asked.State != queue.Running || !effects.StopWorker || effects.Log != queue.LogPreempted {
		t.Fatalf("asked: %+v, %+v, %v", asked, effects, err)
	}
	if again, effects, err := queue.Apply(asked, queue.Preempt{Reason: "s"}, t0); err != nil || again.Reason != asked.Reason || effects.Log != "" {
		t.Errorf("asked twice: %+v, %+v, %v", again, effects, err)
	}
	for name, e := range map[string]queue.Event{
		"handed back": queue.HandBack{Epoch: 2, Reason: "the job was cancelled"}, "lost meanwhile": queue.Expire{},
		"failed meanwhile": queue.Fail{Epoch: 2, Reason: "disk", Infrastructure: true},
	} {
		after, _, err := queue.Apply(asked, e, t0.Add(lease))
		if err != nil || after.State != queue.Queued || after.Reason != "preempted: r" || after.Losses != j.Losses || after.Stop != "" || !after.NotBefore.IsZero() {
			t.Errorf("%s: %+v, %v", name, after, err)
		}
	}
	if after, _, err := queue.Apply(asked, queue.Done{Epoch: 2}, t0); err != nil || after.State != queue.Succeeded || after.Stop != "" {
		t.Errorf("done first: %+v, %v", after, err)
	}
	if after, _, err := queue.Apply(asked, queue.Cancel{}, t0); err != nil || after.State != queue.Cancelling || after.Stop != queue.StopCancel {
		t.Errorf("cancelled meanwhile: %+v, %v", after, err)
	}
	for _, s := range []queue.State{queue.Queued, queue.Succeeded, queue.Cancelling} {
		j := held(s)
		if after, effects, err := queue.Apply(j, queue.Preempt{}, t0); err == nil || after.Stop != j.Stop || effects != (queue.Effects{}) {
			t.Errorf("%s: %+v, %v", s, after, err)
		}
	}
}
