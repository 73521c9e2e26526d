package coordinator_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/auth/authtest"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// tokens makes a tokens file with a token for each role, whose owner is named like it, and what reads it.
func tokens(t *testing.T, now func() time.Time) (path string, secrets map[auth.Role]string, ids map[auth.Role]string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "tokens.json")
	secrets, ids = map[auth.Role]string{}, map[auth.Role]string{}
	for _, role := range auth.Roles {
		secret, token, err := auth.NewToken(role, string(role), now(), now().Add(time.Hour))
		if err := errors.Join(err, auth.AddToken(path, token)); err != nil {
			t.Fatal(err)
		}
		secrets[role], ids[role] = secret, token.ID
	}
	return path, secrets, ids
}

// as adds a token to calls.
func as(ctx context.Context, secret string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
}

// withReason holds an error to a code and the reason in its ErrorInfo.
func withReason(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Reason == reason && st.Code() == code {
			return
		}
	}
	t.Errorf("%s: got %v %v, want %s with %s", what, err, st.Details(), code, reason)
}

// syncBuffer is a log.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// secure starts a coordinator with tokens, an audit log and a log of everything.
func secure(t *testing.T, change func(*coordinator.Config)) (s *server, secrets, ids map[auth.Role]string, auditPath string, logs *syncBuffer) {
	t.Helper()
	logs = &syncBuffer{}
	auditPath = filepath.Join(t.TempDir(), "audit.jsonl")
	audit, err := coordinator.OpenAuditFile(auditPath, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { audit.Close() })
	s = start(t, func(c *coordinator.Config) {
		now := c.Clock.(*clock).Now
		var path string
		path, secrets, ids = tokens(t, now)
		c.Logger = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		known, err := auth.OpenTokens(path, now, c.Logger)
		if err != nil {
			t.Fatal(err)
		}
		c.Auth, c.Audit = &auth.Authenticator{Tokens: known}, audit
		if change != nil {
			change(c)
		}
	})
	return s, secrets, ids, auditPath, logs
}

func TestRolesOverTheWire(t *testing.T) {
	s, secrets, _, auditPath, logs := secure(t, nil)
	job, err := s.jobs.SubmitJob(as(s.ctx, secrets[auth.Submitter]), train())
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context) error{
		"submit": func(ctx context.Context) error { _, err := s.jobs.SubmitJob(ctx, train()); return err },
		"get": func(ctx context.Context) error {
			_, err := s.jobs.GetJob(ctx, &surmisev1.GetJobRequest{Name: job.Name})
			return err
		},
		"list": func(ctx context.Context) error {
			_, err := s.jobs.ListJobs(ctx, &surmisev1.ListJobsRequest{})
			return err
		},
		"watch": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := s.jobs.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: job.Name})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"attach": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := s.workers.Attach(ctx)
			if err == nil {
				_ = stream.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w"}}}) // Recv has the reason
				_, err = stream.Recv()
			}
			return err
		},
		"health": func(ctx context.Context) error {
			_, err := healthv1.NewHealthClient(s.conn).Check(ctx, &healthv1.HealthCheckRequest{})
			return err
		},
	}
	for role, may := range map[auth.Role][]string{
		auth.Viewer:    {"get", "list", "watch", "health"},
		auth.Submitter: {"submit", "get", "list", "watch", "health"},
		auth.Worker:    {"attach", "health"},
		auth.Admin:     {"submit", "get", "list", "watch", "attach", "health"},
		"":             {"health"},
	} {
		for name, call := range calls {
			ctx := s.ctx
			if role != "" {
				ctx = as(ctx, secrets[role])
			}
			err := call(ctx)
			switch {
			case slices.Contains(may, name):
				if err != nil {
					t.Errorf("%s as %q: %v", name, role, err)
				}
			case role == "":
				withReason(t, name, err, codes.Unauthenticated, auth.ReasonNoCredentials)
			default:
				withReason(t, name+" as "+string(role), err, codes.PermissionDenied, auth.ReasonRoleNotAllowed)
			}
		}
	}
	wrong := "surmise_aaaaaaaaaa_WRONGWRONGWRONGWRONGWRONGWR"
	_, err = s.jobs.ListJobs(as(s.ctx, wrong), &surmisev1.ListJobsRequest{})
	withReason(t, "a wrong token", err, codes.Unauthenticated, auth.ReasonTokenUnknown)

	s.down()
	audited, err := os.ReadFile(auditPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range append(slices.Collect(mapsValues(secrets)), wrong) {
		for where, text := range map[string]string{"log": logs.String(), "audit log": string(audited)} {
			if strings.Contains(text, secret[len(secret)-20:]) {
				t.Errorf("the %s shows a token", where)
			}
		}
	}
	if !strings.Contains(logs.String(), "method=/surmise.v1.JobService/SubmitJob") {
		t.Errorf("the log was not captured:\n%s", logs)
	}
}

func mapsValues[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// A stream lasts no longer than its token.
func TestStreamEndsWithItsToken(t *testing.T) {
	s, secrets, _, _, _ := secure(t, nil)
	job, err := s.jobs.SubmitJob(as(s.ctx, secrets[auth.Submitter]), train())
	if err != nil {
		t.Fatal(err)
	}
	watch, err := s.jobs.WatchJob(as(s.ctx, secrets[auth.Viewer]), &surmisev1.WatchJobRequest{Name: job.Name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	attach, err := s.workers.Attach(as(s.ctx, secrets[auth.Worker]))
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, name: "w", stream: attach}
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w"}}})
	hear(w, (*surmisev1.AttachResponse).GetWelcome)

	s.clock.advance(time.Hour)
	_ = attach.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}}) // ended has the reason
	withReason(t, "the worker", w.ended(), codes.Unauthenticated, auth.ReasonTokenExpired)
	_, err = s.jobs.GetJob(as(s.ctx, secrets[auth.Viewer]), &surmisev1.GetJobRequest{Name: job.Name})
	withReason(t, "a call", err, codes.Unauthenticated, auth.ReasonTokenExpired)
	if err := watch.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

func TestRates(t *testing.T) {
	s, secrets, _, auditPath, _ := secure(t, func(c *coordinator.Config) {
		c.Limits = coordinator.Limits{CallsPerSecond: 2, Burst: 3}
	})
	list := func(role auth.Role) error {
		_, err := s.jobs.ListJobs(as(s.ctx, secrets[role]), &surmisev1.ListJobsRequest{})
		return err
	}
	for i := range 3 {
		if err := list(auth.Viewer); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	err := list(auth.Viewer)
	withReason(t, "the fourth call", err, codes.ResourceExhausted, coordinator.ReasonRateLimited)
	for _, d := range status.Convert(err).Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok && retry.RetryDelay.AsDuration() != time.Second/2 {
			t.Errorf("retry after %v, want 0.5 s", retry.RetryDelay.AsDuration())
		}
	}
	if err := list(auth.Submitter); err != nil {
		t.Errorf("another caller: %v", err)
	}
	s.clock.advance(time.Second / 2)
	if err := list(auth.Viewer); err != nil {
		t.Errorf("half a second later: %v", err)
	}

	// Callers that are nobody share the rate of their address, and a flood of them does not fill the audit log.
	for range 20 {
		err = list("nobody")
	}
	withReason(t, "the twentieth call of nobody", err, codes.ResourceExhausted, coordinator.ReasonRateLimited)
	if got := len(auditLines(t, auditPath)); got != 3 {
		t.Errorf("%d lines in the audit log, want 3", got)
	}
}

// The messages of a stream wait for the rate rather than break it, and do not count as calls of those who share its token.
func TestRateOfAStream(t *testing.T) {
	s, secrets, _, _, _ := secure(t, func(c *coordinator.Config) {
		c.Limits = coordinator.Limits{CallsPerSecond: 1, Burst: 1}
	})
	stream, err := s.workers.Attach(as(s.ctx, secrets[auth.Worker]))
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, name: "w", stream: stream}
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w"}}})
	hear(w, (*surmisev1.AttachResponse).GetWelcome)
	for waited := false; !waited; { // the reader sets a timer of a second
		select {
		case d := <-s.clock.set:
			waited = d == time.Second
		case <-s.ctx.Done():
			t.Fatal("the reader does not wait")
		}
	}
	gone := &surmisev1.LeaseRef{Job: "jobs/none", Epoch: 1}
	w.heartbeat(gone, 1, nil)
	s.clock.advance(time.Second)
	hear(w, (*surmisev1.AttachResponse).GetRevoked)

	// The first one has messages on their way for minutes; a second worker attaches all the same.
	for i := range int64(100) {
		w.heartbeat(gone, i+2, nil)
	}
	other, err := s.workers.Attach(as(s.ctx, secrets[auth.Worker]))
	if err != nil {
		t.Fatal(err)
	}
	v := &worker{t: t, name: "v", stream: other}
	v.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "v"}}})
	hear(v, (*surmisev1.AttachResponse).GetWelcome)
}

func TestOversizeMessage(t *testing.T) {
	s := start(t, func(c *coordinator.Config) { c.Limits.MessageBytes = 2000 })
	req := train()
	req.GetTrain().Data = []string{strings.Repeat("x", 3000)}
	_, err := s.jobs.SubmitJob(s.ctx, req)
	wantCode(t, err, codes.ResourceExhausted)
	s.submit(train())
}

func auditLines(t *testing.T, path string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range strings.Lines(string(text)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines = append(lines, m)
	}
	return lines
}

func TestAuditTellsWhoDidWhat(t *testing.T) {
	s, secrets, ids, auditPath, _ := secure(t, nil)
	job, err := s.jobs.SubmitJob(as(s.ctx, secrets[auth.Submitter]), train())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.workers.Attach(as(s.ctx, secrets[auth.Worker]))
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, name: "w1", stream: stream}
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w1"}}})
	hear(w, (*surmisev1.AttachResponse).GetWelcome)
	w.ready()
	l := w.lease()
	w.beat(l.Lease, nil)
	w.failed(l.Lease, "secret-looking reason", surmisev1.Blame_BLAME_JOB)
	w.settled(surmisev1.JobState_FAILED)
	if _, err := s.jobs.CancelJob(as(s.ctx, secrets[auth.Viewer]), &surmisev1.CancelJobRequest{Name: job.Name}); err == nil {
		t.Error("a viewer cancels")
	}
	if _, err := s.jobs.CancelJob(as(s.ctx, secrets[auth.Admin]), &surmisev1.CancelJobRequest{Name: job.Name}); err == nil {
		t.Error("a failed job is cancelled")
	}
	_, _ = s.jobs.GetJob(as(s.ctx, secrets[auth.Viewer]), &surmisev1.GetJobRequest{Name: job.Name}) // reading leaves no line
	s.down()

	var got []string
	for _, m := range auditLines(t, auditPath) {
		var parts []string
		for _, key := range []string{"kind", "caller", "role", "method", "event", "code", "reason", "job", "state", "worker"} {
			if v, ok := m[key].(string); ok {
				v = strings.TrimPrefix(v, "/surmise.v1.")
				for role, id := range ids {
					v = strings.ReplaceAll(v, id, string(role))
				}
				parts = append(parts, strings.ReplaceAll(v, job.Name, "JOB"))
			}
		}
		got = append(got, strings.Join(parts, " "))
		if m["time"] == nil || m["kind"] == "call" && !strings.HasPrefix(m["peer"].(string), "127.0.0.1:") {
			t.Errorf("line %v lacks its time or peer", m)
		}
	}
	want := []string{
		"job SUBMITTED JOB QUEUED",
		"call token/submitter submitter JobService/SubmitJob OK JOB",
		"worker token/worker worker ATTACHED w1",
		"job LEASED JOB LEASED w1",
		"job STARTED JOB RUNNING w1",
		"job ENDED JOB FAILED",
		"call token/viewer viewer JobService/CancelJob PERMISSION_DENIED ROLE_NOT_ALLOWED",
		"call token/admin admin JobService/CancelJob FAILED_PRECONDITION JOB",
		"call token/worker worker WorkerService/Attach UNAVAILABLE",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if text, _ := os.ReadFile(auditPath); strings.Contains(string(text), "secret-looking") {
		t.Error("what a call contained is in the audit log")
	}
}

// brokenSink fails while told to.
type brokenSink struct {
	mu     sync.Mutex
	broken bool
	lines  int
}

func (b *brokenSink) Append([]byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken {
		return errors.New("no space left")
	}
	b.lines++
	return nil
}

func (b *brokenSink) set(broken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = broken
}

func TestNoChangeWithoutAudit(t *testing.T) {
	sink := &brokenSink{}
	s := start(t, func(c *coordinator.Config) { c.Audit = sink })
	s.submit(train())
	sink.set(true)
	if _, err := s.jobs.SubmitJob(s.ctx, train()); err != nil { // found out by this one
		t.Fatal(err)
	}
	_, err := s.jobs.SubmitJob(s.ctx, train())
	withReason(t, "a change", err, codes.Unavailable, coordinator.ReasonAudit)
	if _, err := s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{}); err != nil {
		t.Errorf("reading: %v", err)
	}
	if s.srv.Ready(s.ctx) == nil {
		t.Error("ready without an audit log")
	}
	sink.set(false)
	if err := s.srv.Ready(s.ctx); err != nil { // though nobody called: what is not ready is not called
		t.Errorf("with the log back, not ready: %v", err)
	}
	s.submit(train())
}

func TestAuditFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, []byte(`{"cut":"sho`), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := coordinator.OpenAuditFile(path, 30, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"{\"n\":1}\n", "{\"n\":2}\n", "{\"n\":3}\n", "{\"n\":4,\"long\":\"" + strings.Repeat("x", 40) + "\"}\n", "{\"n\":5}\n"} {
		if err := f.Append([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "{\"n\":5}\n", ".1": "{\"n\":4,\"long\":\"" + strings.Repeat("x", 40) + "\"}\n", ".2": "{\"n\":3}\n"} {
		if text, err := os.ReadFile(path + name); err != nil || string(text) != want {
			t.Errorf("%s holds %q, %v, want %q", path+name, text, err, want)
		}
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("three old files are kept, want two")
	}
}

// Certificates: who has none is not let in, and one that is replaced counts from the next handshake on, while calls on
// standing connections go on.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	servers, clients := authtest.NewAuthority(t), authtest.NewAuthority(t)
	cert, key := servers.Issue(dir, "server", pkix.Name{CommonName: "coordinator"})
	ca, clientCA := servers.Write(filepath.Join(dir, "ca.pem")), clients.Write(filepath.Join(dir, "clients.pem"))
	logs := &syncBuffer{}
	s := start(t, func(c *coordinator.Config) {
		c.Logger = slog.New(slog.NewTextHandler(logs, nil))
		config, err := auth.ServerTLS(auth.TLSFiles{Cert: cert, Key: key, ClientCA: clientCA}, c.Logger)
		if err != nil {
			t.Fatal(err)
		}
		c.TLS, c.Auth = config, &auth.Authenticator{Certificates: true}
	})
	connect := func(o dial.Options) surmisev1.JobServiceClient {
		t.Helper()
		o.Address = s.conn.Target()
		options, err := o.DialOptions()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(o.Address, options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return surmisev1.NewJobServiceClient(conn)
	}
	list := func(c surmisev1.JobServiceClient) error {
		_, err := c.ListJobs(s.ctx, &surmisev1.ListJobsRequest{})
		return err
	}
	shows := func(name string, subject pkix.Name, by *authtest.Authority) dial.Options {
		cert, key := by.Issue(dir, name, subject)
		return dial.Options{CA: ca, Cert: cert, Key: key}
	}

	alice := connect(shows("alice", pkix.Name{CommonName: "alice", OrganizationalUnit: []string{"vision lab", "submitter"}}, clients))
	if _, err := alice.SubmitJob(s.ctx, train()); err != nil {
		t.Errorf("a submitter by certificate: %v", err)
	}
	viewer := connect(shows("viewer", pkix.Name{CommonName: "eve", OrganizationalUnit: []string{"viewer"}}, clients))
	_, err := viewer.SubmitJob(s.ctx, train())
	withReason(t, "a viewer", err, codes.PermissionDenied, auth.ReasonRoleNotAllowed)
	for name, subject := range map[string]pkix.Name{
		"none":    {CommonName: "x"},
		"two":     {CommonName: "x", OrganizationalUnit: []string{"viewer", "admin"}},
		"unknown": {CommonName: "x", OrganizationalUnit: []string{"root"}},
		"no-name": {OrganizationalUnit: []string{"admin"}},
	} {
		withReason(t, name, list(connect(shows(name, subject, clients))), codes.Unauthenticated, auth.ReasonCertificate)
	}
	wantCode(t, list(connect(dial.Options{CA: ca})), codes.Unavailable) // no certificate
	wantCode(t, list(connect(shows("foreign", pkix.Name{CommonName: "alice", OrganizationalUnit: []string{"admin"}}, servers))), codes.Unavailable)
	wantCode(t, list(s.jobs), codes.Unavailable) // plaintext

	// A broken certificate leaves the old one in force.
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if err := list(connect(shows(name, pkix.Name{CommonName: name, OrganizationalUnit: []string{"viewer"}}, clients))); err != nil {
			t.Errorf("with a broken certificate: %v", err)
		}
	}
	if n := strings.Count(logs.String(), "stays in force"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, logs)
	}

	// New authorities on both sides.
	newServers, newClients := authtest.NewAuthority(t), authtest.NewAuthority(t)
	newServers.Issue(dir, "server", pkix.Name{CommonName: "coordinator"})
	newClients.Write(clientCA)
	ca = newServers.Write(filepath.Join(dir, "new-ca.pem"))
	if err := list(connect(shows("bob", pkix.Name{CommonName: "bob", OrganizationalUnit: []string{"viewer"}}, newClients))); err != nil {
		t.Errorf("by the new authorities: %v", err)
	}
	wantCode(t, list(connect(shows("old", pkix.Name{CommonName: "old", OrganizationalUnit: []string{"viewer"}}, clients))), codes.Unavailable)
	if err := list(alice); err != nil {
		t.Errorf("on a connection that stands: %v", err)
	}
}

// Faults of a request have reasons of their own where programs may want to tell them apart.
func TestReasonsOfBadRequests(t *testing.T) {
	s := start(t, nil)
	for reason, req := range map[string]*surmisev1.ListJobsRequest{
		"PAGE_TOKEN_INVALID": {PageToken: "nonsense"},
		"FILTER_INVALID":     {State: 99},
		"FIELD_INVALID":      {PageSize: -1},
	} {
		_, err := s.jobs.ListJobs(s.ctx, req)
		withReason(t, reason, err, codes.InvalidArgument, reason)
	}
}

// A submitter changes its own jobs alone, and has so many of them.
func TestOwners(t *testing.T) {
	s, secrets, _, _, _ := secure(t, func(c *coordinator.Config) {
		c.Limits.OpenJobs = 2
	})
	submitter, admin := as(s.ctx, secrets[auth.Submitter]), as(s.ctx, secrets[auth.Admin])
	submit := func(ctx context.Context, id string) *surmisev1.Job {
		t.Helper()
		req := train()
		req.RequestId = id
		job, err := s.jobs.SubmitJob(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return job
	}
	own, foreign := submit(submitter, "r"), submit(admin, "r")
	if own.Scheduling.GetOwner() != "submitter" || foreign.Scheduling.GetOwner() != "admin" || own.Name == foreign.Name {
		t.Errorf("%s of %q and %s of %q: one request id of two owners is two", own.Name, own.Scheduling.GetOwner(), foreign.Name, foreign.Scheduling.GetOwner())
	}
	if again := submit(submitter, "r"); again.Name != own.Name {
		t.Errorf("the same request again: %s, want %s", again.Name, own.Name)
	}
	_, err := s.jobs.CancelJob(submitter, &surmisev1.CancelJobRequest{Name: foreign.Name})
	withReason(t, "cancelling another's job", err, codes.PermissionDenied, coordinator.ReasonNotOwner)
	_, err = s.jobs.CancelJob(submitter, &surmisev1.CancelJobRequest{Name: "jobs/none"})
	wantCode(t, err, codes.NotFound)

	second := submit(submitter, "r2")
	_, err = s.jobs.SubmitJob(submitter, train())
	withReason(t, "a third open job", err, codes.ResourceExhausted, coordinator.ReasonOpenJobs)
	for _, ctx := range []context.Context{submitter, admin} {
		name := own.Name
		if ctx == admin {
			name = second.Name
		}
		if job, err := s.jobs.CancelJob(ctx, &surmisev1.CancelJobRequest{Name: name}); err != nil || job.State != surmisev1.JobState_CANCELLED {
			t.Errorf("cancelling %s: %v, %v", name, job, err)
		}
	}

	sweeps := surmisev1.NewSweepServiceClient(s.conn)
	sweep := &surmisev1.SubmitSweepRequest{Spec: &surmisev1.SubmitSweepRequest_Train{Train: train().GetTrain()}, Seeds: []uint64{1, 2}, RequestId: "r"}
	theirs, err := sweeps.SubmitSweep(admin, &surmisev1.SubmitSweepRequest{Spec: sweep.Spec, Seeds: []uint64{1}, RequestId: "r"})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := sweeps.SubmitSweep(submitter, sweep)
	if err != nil {
		t.Fatalf("%v, %v", ours, err)
	}
	_, err = sweeps.CancelSweep(submitter, &surmisev1.CancelSweepRequest{Name: theirs.Name})
	withReason(t, "cancelling another's sweep", err, codes.PermissionDenied, coordinator.ReasonNotOwner)
	if got, err := sweeps.CancelSweep(submitter, &surmisev1.CancelSweepRequest{Name: ours.Name}); err != nil || got.State != surmisev1.SweepState_SWEEP_CANCELLED {
		t.Errorf("%v, %v", got, err)
	}
}

// A caller gives its jobs no higher priority than its owner, or else its role, may.
func TestPriorities(t *testing.T) {
	s, secrets, _, _, _ := secure(t, func(c *coordinator.Config) {
		c.Limits.Priority = coordinator.PriorityLimits{
			Owners: map[string]int{"admin": 100}, Roles: map[auth.Role]int{auth.Submitter: -1, auth.Admin: 0},
		}
	})
	sweeps := surmisev1.NewSweepServiceClient(s.conn)
	for _, c := range []struct {
		role     auth.Role
		priority int32
		may      bool
	}{
		{auth.Submitter, -1, true}, {auth.Submitter, 0, false}, {auth.Submitter, -1000, true}, {auth.Submitter, 1000, false},
		{auth.Admin, 100, true}, {auth.Admin, 101, false}, // the owner's counts before the role's
	} {
		what := fmt.Sprintf("priority %d as %s", c.priority, c.role)
		job := train()
		job.Scheduling = &surmisev1.Scheduling{Priority: c.priority}
		_, err := s.jobs.SubmitJob(as(s.ctx, secrets[c.role]), job)
		_, sweepErr := sweeps.SubmitSweep(as(s.ctx, secrets[c.role]), &surmisev1.SubmitSweepRequest{
			Spec: &surmisev1.SubmitSweepRequest_Train{Train: job.GetTrain()}, Seeds: []uint64{1}, Scheduling: job.Scheduling})
		if c.may {
			if err := errors.Join(err, sweepErr); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		withReason(t, what, err, codes.PermissionDenied, coordinator.ReasonPriority)
		withReason(t, what+", a sweep", sweepErr, codes.PermissionDenied, coordinator.ReasonPriority)
	}
}

// A worker of the coordinator's own process attaches without a token, and may do what a worker may.
func TestAWorkerOfTheSameProcess(t *testing.T) {
	inside := coordinator.NewLocal()
	s, _, _, _, _ := secure(t, func(c *coordinator.Config) { c.Local = inside })
	options, err := dial.Options{Through: inside.Dial}.DialOptions()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///inside", options...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := surmisev1.NewWorkerServiceClient(conn).Attach(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{s.t, "w", stream, func() {}}
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w"}}})
	hear(w, (*surmisev1.AttachResponse).GetWelcome)
	_, err = surmisev1.NewJobServiceClient(conn).ListJobs(s.ctx, &surmisev1.ListJobsRequest{})
	withReason(t, "listing jobs", err, codes.PermissionDenied, auth.ReasonRoleNotAllowed)
	_, err = s.jobs.ListJobs(s.ctx, &surmisev1.ListJobsRequest{})
	withReason(t, "over the network", err, codes.Unauthenticated, auth.ReasonNoCredentials)
}
