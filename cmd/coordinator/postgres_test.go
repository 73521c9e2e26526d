package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// node is one of several coordinator processes on the same jobs.
type node struct {
	process *exec.Cmd
	jobs    surmisev1.JobServiceClient
	workers surmisev1.WorkerServiceClient
	logs    surmisev1.LogServiceClient
}

func startNode(t *testing.T, store, dir string) node {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "--listen", "127.0.0.1:0", "--data-dir", dir, "--store", store)
	cmd.Env = append(os.Environ(), asCoordinator+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // its error is the signal
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("waiting for the address: %v", err)
	}
	conn, err := grpc.NewClient(strings.TrimSpace(strings.TrimPrefix(line, "coordinator listens on ")), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return node{cmd, surmisev1.NewJobServiceClient(conn), surmisev1.NewWorkerServiceClient(conn), surmisev1.NewLogServiceClient(conn)}
}

// attach opens a worker's stream; held is what it works on already.
func (n node) attach(ctx context.Context, t *testing.T, held ...*surmisev1.LeaseRef) surmisev1.WorkerService_AttachClient {
	t.Helper()
	stream, err := n.workers.Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	say(t, stream, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "w", Held: held}}})
	hear(t, stream, (*surmisev1.AttachResponse).GetWelcome)
	return stream
}

func say(t *testing.T, stream surmisev1.WorkerService_AttachClient, m *surmisev1.AttachRequest) {
	t.Helper()
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

func hear[M any](t *testing.T, stream surmisev1.WorkerService_AttachClient, get func(*surmisev1.AttachResponse) *M) *M {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	got := get(m)
	if got == nil {
		t.Fatalf("unexpected %v", m)
	}
	return got
}

func ready(t *testing.T, stream surmisev1.WorkerService_AttachClient) *surmisev1.LeaseRef {
	t.Helper()
	say(t, stream, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}})
	lease := hear(t, stream, (*surmisev1.AttachResponse).GetLease).Lease
	say(t, stream, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: lease}}})
	hear(t, stream, (*surmisev1.AttachResponse).GetRenewed)
	return lease
}

// Two coordinators share the jobs of one PostgreSQL. What happens at one is seen at the other; when one is killed, its
// worker goes on at the other and nothing that was answered is lost.
func TestKilledCoordinatorsWorkGoesOnAtAnother(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	store, dir := queuetest.StartPostgres(t, false).Database(t), t.TempDir()
	a, b := startNode(t, store, dir), startNode(t, store, dir)

	submit := func() *surmisev1.Job {
		job, err := a.jobs.SubmitJob(ctx, &surmisev1.SubmitJobRequest{
			Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return job
	}
	first, second := submit(), submit()
	events, err := b.jobs.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: first.Name})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(types ...surmisev1.JobEventType) {
		t.Helper()
		for _, want := range types {
			e, err := events.Recv()
			if err != nil || e.Type != want {
				t.Fatalf("at the other coordinator: %v, %v; want %s", e, err, want)
			}
		}
	}
	expect(surmisev1.JobEventType_JOB_SUBMITTED)
	lease := ready(t, a.attach(ctx, t))
	if lease.Job != first.Name {
		t.Fatalf("leased %s, want %s", lease.Job, first.Name)
	}
	expect(surmisev1.JobEventType_JOB_LEASED, surmisev1.JobEventType_JOB_STARTED)

	if err := a.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker := b.attach(ctx, t, lease)
	hear(t, worker, (*surmisev1.AttachResponse).GetRenewed)
	say(t, worker, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease, Result: &surmisev1.Result{}}}})
	hear(t, worker, (*surmisev1.AttachResponse).GetSettled)
	expect(surmisev1.JobEventType_JOB_ENDED)

	lease = ready(t, worker)
	if lease.Job != second.Name {
		t.Fatalf("leased %s, want %s, which only the killed one was asked for", lease.Job, second.Name)
	}
	again := startNode(t, store, dir)
	if _, err := again.jobs.CancelJob(ctx, &surmisev1.CancelJobRequest{Name: second.Name}); err != nil {
		t.Fatal(err)
	}
	hear(t, worker, (*surmisev1.AttachResponse).GetCancel) // though its worker is attached elsewhere
}

// Who follows the log of a job at one coordinator sees what its worker, attached to another, logs.
func TestLogsAreFollowedAtAnotherCoordinator(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	store, dir := queuetest.StartPostgres(t, false).Database(t), t.TempDir()
	a, b := startNode(t, store, dir), startNode(t, store, dir)
	job, err := a.jobs.SubmitJob(ctx, &surmisev1.SubmitJobRequest{
		Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}})
	if err != nil {
		t.Fatal(err)
	}
	worker := a.attach(ctx, t)
	lease := ready(t, worker)
	follow, err := b.logs.ReadJobLog(ctx, &surmisev1.ReadJobLogRequest{Name: job.Name, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(1); n <= 3; n++ {
		say(t, worker, &surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{
			Lease: lease, Log: []*surmisev1.LogLine{{Number: n, Level: "INFO", Text: "a line"}}}}})
		hear(t, worker, (*surmisev1.AttachResponse).GetRenewed)
		if got, err := follow.Recv(); err != nil || len(got.Lines) != 1 || got.Lines[0].Number != n {
			t.Fatalf("at the other coordinator: %v, %v; want line %d", got, err, n)
		}
	}
}
