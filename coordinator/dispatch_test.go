package coordinator

import (
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// A worker that asks again while a lease is made for it is free once.
func TestPutBackAWorkerThatAskedAgain(t *testing.T) {
	ws := workers{byName: map[string]*session{}, wake: make(chan struct{}, 1)}
	w := newSession(queue.Worker{Name: "a"})
	if err := ws.attach(w, false); err != nil {
		t.Fatal(err)
	}
	ws.ready(w, time.Unix(1, 0))
	ws.busy(w)
	ws.ready(w, time.Unix(2, 0))
	ws.putBack(w)
	if n := len(ws.allFree()); n != 1 {
		t.Errorf("one worker is free %d times", n)
	}
}

// So many jobs ahead that the wait does not fit a Duration.
func TestWaitEstimateOfAges(t *testing.T) {
	m := &surmisev1.Job{}
	explainWait(m, queue.Job{}, 1e6, crew{attached: 1, able: 1}, 30*24*time.Hour, 1)
	if got := m.WaitEstimate.AsDuration(); got < 50*365*24*time.Hour {
		t.Errorf("a million jobs of a month each are ahead: %v", got)
	}
}
