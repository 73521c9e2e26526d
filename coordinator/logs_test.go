package coordinator_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func logLine(n int64) *surmisev1.LogLine {
	return &surmisev1.LogLine{Number: n, Time: timestamppb.Now(), Level: "INFO", Text: fmt.Sprintf("line %d", n)}
}

// logged sends a heartbeat with the lines of these numbers and waits until they are taken.
func (w *worker) logged(l *surmisev1.LeaseRef, from, to int64) {
	w.t.Helper()
	beat := &surmisev1.Heartbeat{Lease: l, Sequence: to}
	for n := from; n <= to; n++ {
		beat.Log = append(beat.Log, logLine(n))
	}
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: beat}})
	hear(w, (*surmisev1.AttachResponse).GetRenewed)
}

type logStream struct {
	t   testing.TB
	rpc grpc.ServerStreamingClient[surmisev1.ReadJobLogResponse]
	buf []string
}

func (s *server) readLog(req *surmisev1.ReadJobLogRequest) *logStream {
	s.t.Helper()
	rpc, err := surmisev1.NewLogServiceClient(s.conn).ReadJobLog(s.ctx, req)
	if err != nil {
		s.t.Fatal(err)
	}
	return &logStream{t: s.t, rpc: rpc}
}

// next is the next line, as "epoch/number text", or the error that ends the stream.
func (l *logStream) next() (string, error) {
	for len(l.buf) == 0 {
		r, err := l.rpc.Recv()
		if err != nil {
			return "", err
		}
		for _, line := range r.Lines {
			l.buf = append(l.buf, fmt.Sprintf("%d/%d %s", r.Epoch, line.Number, line.Text))
		}
	}
	first := l.buf[0]
	l.buf = l.buf[1:]
	return first, nil
}

func (l *logStream) want(epoch, from, to int64) {
	l.t.Helper()
	for n := from; n <= to; n++ {
		got, err := l.next()
		if want := fmt.Sprintf("%d/%d line %d", epoch, n, n); err != nil || got != want {
			l.t.Fatalf("got %q (%v), want %q", got, err, want)
		}
	}
}

func (l *logStream) wantEnd() {
	l.t.Helper()
	if got, err := l.next(); !errors.Is(err, io.EOF) {
		l.t.Fatalf("got %q (%v), want the end", got, err)
	}
}

// A log goes on through attempts and a restart of the coordinator, each line comes once, and following it ends with the
// job.
func TestTheLogOfAJob(t *testing.T) {
	s := start(t, nil)
	name := s.submit(train()).Name
	s.readLog(&surmisev1.ReadJobLogRequest{Name: name}).wantEnd()

	w := s.ready("w")
	first := w.lease().Lease
	follow := s.readLog(&surmisev1.ReadJobLogRequest{Name: name, Follow: true})
	w.logged(first, 1, 3)
	follow.want(1, 1, 3)
	w.logged(first, 2, 5) // the answer to the first was lost
	follow.want(1, 4, 5)
	w.handedBack(first, "stops")
	w.settled(surmisev1.JobState_QUEUED)
	w.ready()
	second := w.lease().Lease
	w.logged(second, 1, 2)
	follow.want(2, 1, 2)

	s.down()
	if _, err := follow.next(); err == nil {
		t.Error("the stream outlives the coordinator")
	}
	s.up(nil)
	follow = s.readLog(&surmisev1.ReadJobLogRequest{Name: name, Epoch: 2, After: 1, Follow: true})
	follow.want(2, 2, 2)
	w = s.attach("w", second)
	hear(w, (*surmisev1.AttachResponse).GetRenewed)
	w.logged(second, 2, 4) // not known to be taken when the stream broke
	follow.want(2, 3, 4)
	w.done(second)
	w.settled(surmisev1.JobState_SUCCEEDED)
	follow.wantEnd()

	all := s.readLog(&surmisev1.ReadJobLogRequest{Name: name})
	all.want(1, 1, 5)
	all.want(2, 1, 4)
	all.wantEnd()
	tail := s.readLog(&surmisev1.ReadJobLogRequest{Name: name, Epoch: 1, After: 4})
	tail.want(1, 5, 5)
	tail.want(2, 1, 4)
	tail.wantEnd()
}

// A worker whose lease is over writes to no log, and what breaks a rule ends its stream.
func TestAStaleWorkerLogsNothing(t *testing.T) {
	s := start(t, nil)
	name := s.submit(train()).Name
	w := s.ready("w")
	l := w.lease().Lease
	w.handedBack(l, "stops")
	w.settled(surmisev1.JobState_QUEUED)
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{
		Lease: l, Sequence: 1, Log: []*surmisev1.LogLine{logLine(1)}}}})
	hear(w, (*surmisev1.AttachResponse).GetRevoked)
	s.readLog(&surmisev1.ReadJobLogRequest{Name: name}).wantEnd()

	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{
		Lease: l, Sequence: 2, Log: []*surmisev1.LogLine{{Number: 1, Text: strings.Repeat("x", 8193)}}}}})
	wantCode(t, w.ended(), codes.InvalidArgument)
}

// A log that cannot be written costs lines, not the lease.
func TestALogThatCannotBeWritten(t *testing.T) {
	s := start(t, nil)
	name := s.submit(train()).Name
	w := s.ready("w")
	l := w.lease().Lease
	folder := filepath.Join(s.dir, "artifacts", name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.logged(l, 1, 2)
	s.wantState(name, surmisev1.JobState_RUNNING)
}

func TestTheLogOfNoJob(t *testing.T) {
	s := start(t, nil)
	_, err := s.readLog(&surmisev1.ReadJobLogRequest{Name: "jobs/none"}).next()
	wantCode(t, err, codes.NotFound)
	_, err = s.readLog(&surmisev1.ReadJobLogRequest{Name: "../etc"}).next()
	wantField(t, err, "name")
}
