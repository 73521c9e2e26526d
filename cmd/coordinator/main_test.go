package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// asCoordinator makes this test binary the coordinator.
const asCoordinator = "SURMISE_TEST_AS_COORDINATOR"

func TestMain(m *testing.M) {
	if os.Getenv(asCoordinator) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// run starts a coordinator process on dir and returns it with a client.
func run(t *testing.T, dir string) (*exec.Cmd, surmisev1.JobServiceClient) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "--listen", "127.0.0.1:0", "--data-dir", dir)
	cmd.Env = append(os.Environ(), asCoordinator+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("waiting for the address: %v", err)
	}
	address := strings.TrimSpace(strings.TrimPrefix(line, "coordinator listens on "))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return cmd, surmisev1.NewJobServiceClient(conn)
}

// A service that a supervisor starts ends with 2 where starting it again would not help.
func TestWrongFlagEndsWith2(t *testing.T) {
	for _, args := range [][]string{{"--no-such-flag"}, {"--log-level", "loud"}, {"--listen", "nowhere"}, {"--lease", "-1s"}} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], append(args, "--data-dir", t.TempDir())...)
		cmd.Env = append(os.Environ(), asCoordinator+"=1")
		said, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(said), "Error: ") {
			t.Errorf("%v: exit code %d (%v), said %q", args, code, err, said)
		}
	}
}

func TestKilledCoordinatorKeepsWhatItAnswered(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	process, jobs := run(t, dir)
	job, err := jobs.SubmitJob(ctx, &surmisev1.SubmitJobRequest{
		Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait() // its error is the signal

	process, jobs = run(t, dir)
	got, err := jobs.GetJob(ctx, &surmisev1.GetJobRequest{Name: job.Name})
	if err != nil || !proto.Equal(got, job) {
		t.Errorf("after the kill: %v, %v\nwant %v", got, err, job)
	}
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// The coordinator must run where there is neither a C compiler nor OpenCV.
func TestNoCgo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); len(got) > 0 {
		t.Errorf("these need cgo: %v", got)
	}
}
