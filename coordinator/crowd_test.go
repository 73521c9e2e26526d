package coordinator_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// crowdVariable makes this program the workers of a benchmark rather than its tests: in a process of their own they do not
// count as the coordinator's time and memory.
const crowdVariable = "SURMISE_BENCH_CROWD"

// crowd is many workers, each with a connection of its own, attached one after the other within Work or a second. Each
// works on a job for Work, with a heartbeat at the start and then every Beat, reports it done and asks for the next.
type crowd struct {
	Address string
	Workers int
	Work    time.Duration // 0: as fast as it goes; negative: for ever
	Beat    time.Duration // 0: only at the start
}

// The crowd prints a line for each answer: what it is, and how many µs it took from when it was asked for.
const (
	saidLeased  = "leased"
	saidRenewed = "renewed"
)

// start runs the crowd until stop, and calls said with each answer, one at a time.
func (c crowd) start(b *testing.B, said func(what string, took time.Duration)) (stop func()) {
	b.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		b.Fatal(err)
	}
	process := exec.CommandContext(context.WithoutCancel(b.Context()), os.Args[0])
	process.Env = append(os.Environ(), crowdVariable+"="+string(text))
	process.Stderr = os.Stderr
	keep, err := process.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := process.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := process.Start(); err != nil {
		b.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			var what string
			var micros int64
			if _, err := fmt.Sscan(lines.Text(), &what, &micros); err != nil {
				b.Errorf("the workers said %q", lines.Text())
				continue
			}
			said(what, time.Duration(micros)*time.Microsecond)
		}
	}()
	return func() {
		keep.Close()
		<-read
		if err := process.Wait(); err != nil {
			b.Errorf("the workers: %v", err)
		}
	}
}

// runCrowd is the process of the workers. It ends when its input does.
func runCrowd(text string) int {
	var c crowd
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	say := func(what string, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(out, what, took.Microseconds())
		_ = out.Flush() // who reads is gone when it fails, and then this process ends
	}
	over := c.Work
	if over <= 0 {
		over = time.Second
	}
	var workers sync.WaitGroup
	for i := range c.Workers {
		workers.Go(func() {
			select {
			case <-time.After(over * time.Duration(i) / time.Duration(c.Workers)):
			case <-ctx.Done():
				return
			}
			if err := c.worker(ctx, fmt.Sprint("w", i), say); ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "worker %d: %v\n", i, err)
				stop()
			}
		})
	}
	workers.Wait()
	return 0
}

// worker is one of the crowd.
func (c crowd) worker(ctx context.Context, name string, say func(string, time.Duration)) error {
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := surmisev1.NewWorkerServiceClient(conn).Attach(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: name}}}); err != nil {
		return err
	}
	answers := make(chan *surmisev1.AttachResponse)
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case answers <- m:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()

	var asked, beat time.Time
	var lease *surmisev1.LeaseRef // nil: none
	var due, done <-chan time.Time
	heartbeat := func() error {
		beat = time.Now()
		if c.Beat > 0 {
			due = time.After(c.Beat)
		}
		return stream.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: lease}}})
	}
	for err == nil {
		select {
		case m := <-answers:
			switch m := m.Message.(type) {
			case *surmisev1.AttachResponse_Welcome, *surmisev1.AttachResponse_Settled:
				lease, due, done = nil, nil, nil
				asked = time.Now()
				err = stream.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}})
			case *surmisev1.AttachResponse_Lease:
				say(saidLeased, time.Since(asked))
				lease = m.Lease.Lease
				if c.Work >= 0 {
					done = time.After(c.Work)
				}
				err = heartbeat()
			case *surmisev1.AttachResponse_Renewed:
				say(saidRenewed, time.Since(beat))
			default:
				err = fmt.Errorf("was told %v", m)
			}
		case <-due:
			err = heartbeat()
		case <-done:
			due, done = nil, nil
			err = stream.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: lease, Result: &surmisev1.Result{}}}})
		case err = <-failed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if errors.Is(err, io.EOF) { // Send only says that there is an error to receive
		err = <-failed
	}
	return err
}
