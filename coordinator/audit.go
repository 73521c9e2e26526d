package coordinator

import (
	"encoding/json"
	"log/slog"
	"net"
	"regexp"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// AuditSink keeps lines. A line is durable when Append returns nil.
type AuditSink interface {
	Append(line []byte) error
}

// auditRecord is a line of the audit log: a call that may change something or was refused, or a job that changed. It
// says who did what to which job and what came of it, and holds nothing of what the call contained.
type auditRecord struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"` // "call", "job", "worker" or "audit"

	Caller string `json:"caller,omitempty"` // such as "token/4f3k2a…"; empty: not known
	Role   string `json:"role,omitempty"`
	Owner  string `json:"owner,omitempty"` // the caller's
	Peer   string `json:"peer,omitempty"`  // host:port

	Method string `json:"method,omitempty"`
	Code   string `json:"code,omitempty"`   // of the status
	Reason string `json:"reason,omitempty"` // of its ErrorInfo

	Job    string `json:"job,omitempty"`   // or "sweeps/{id}"
	Event  string `json:"event,omitempty"` // of a job, as in WatchJob; of a worker "ATTACHED"; of the log "RESUMED"
	State  string `json:"state,omitempty"` // after it
	Epoch  int64  `json:"epoch,omitempty"`
	Worker string `json:"worker,omitempty"`

	LeftOut int `json:"left_out,omitempty"` // refused calls of nobody known, since the line before, that have none
}

// A call of nobody known is refused, and has a line; so that nobody can push all others out of the log, only so many have
// one, strangersPerSecond after the first strangersAtOnce.
const (
	strangersPerSecond = 5
	strangersAtOnce    = 100
)

// auditLog writes records. A nil one writes none.
type auditLog struct {
	sink AuditSink
	log  *slog.Logger

	mu        sync.Mutex
	broken    bool          // guarded by mu; the last line could not be kept
	strangers *rate.Limiter // of their lines
	leftOut   int           // guarded by mu; see auditRecord
}

func newAuditLog(sink AuditSink, log *slog.Logger) *auditLog {
	if sink == nil {
		return nil
	}
	return &auditLog{sink: sink, log: log, strangers: rate.NewLimiter(strangersPerSecond, strangersAtOnce)}
}

// ready refuses further changes while the log cannot be written: at most the calls under way go unrecorded.
func (a *auditLog) ready(now time.Time) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	broken := a.broken
	a.mu.Unlock()
	if !broken || a.write(auditRecord{Time: now.UTC(), Kind: "audit", Event: "RESUMED"}) == nil {
		return nil
	}
	return auth.Refusal(codes.Unavailable, ReasonAudit, "the audit log cannot be written, so nothing may be changed; the coordinator's log says more")
}

func (a *auditLog) write(r auditRecord) error {
	a.mu.Lock()
	r.LeftOut, a.leftOut = a.leftOut, 0
	a.mu.Unlock()
	line, err := json.Marshal(r)
	if err == nil {
		err = a.sink.Append(append(line, '\n'))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && !a.broken {
		a.log.Error("the audit log cannot be written: no further changes are taken", "error", err)
	}
	a.broken = err != nil
	if err != nil {
		a.leftOut += r.LeftOut // the next line says it
	}
	return err
}

var validJobName = regexp.MustCompile(`^(jobs|sweeps)/[a-z0-9-]{1,63}$`)

// call records a call and what came of it.
func (a *auditLog) call(now time.Time, caller auth.Identity, peer net.Addr, method, job string, err error) {
	if a == nil {
		return
	}
	if caller.ID == "" && err != nil && !a.strangers.AllowN(now, 1) {
		a.mu.Lock()
		a.leftOut++
		a.mu.Unlock()
		return
	}
	if !validJobName.MatchString(job) { // whatever a caller wrote
		job = ""
	}
	r := auditRecord{
		Time: now.UTC(), Kind: "call", Caller: caller.ID, Role: string(caller.Role), Owner: caller.Owner, Peer: addrText(peer),
		Method: method, Code: codeName(err), Job: job,
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			r.Reason = info.Reason
		}
	}
	_ = a.write(r) // logged, and felt by the next change
}

// attached records which caller stands behind a worker's name.
func (a *auditLog) attached(now time.Time, caller auth.Identity, peer net.Addr, worker string) {
	if a == nil {
		return
	}
	_ = a.write(auditRecord{
		Time: now.UTC(), Kind: "worker", Event: "ATTACHED", Worker: worker,
		Caller: caller.ID, Role: string(caller.Role), Owner: caller.Owner, Peer: addrText(peer),
	})
}

// changed records what happened to a job, whoever was the cause. Progress is no change.
func (a *auditLog) changed(now time.Time, job queue.Job, event queue.LogType) {
	if a == nil || event == "" || event == queue.LogProgress {
		return
	}
	_ = a.write(auditRecord{
		Time: now.UTC(), Kind: "job", Job: jobPrefix + job.ID, Event: string(event), State: string(job.State),
		Epoch: job.Epoch, Worker: job.Worker,
	})
}

func addrText(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// codeName is the code as the documents of gRPC write it.
func codeName(err error) string { return code.Code(status.Code(err)).String() }
