package slurm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
)

// controller stands for Slurm: it takes the commands that the launcher runs, and prints as they do.
type controller struct {
	mu       sync.Mutex
	jobs     []*fakeJob
	next     uint32
	seconds  int64 // of its clock; each submission takes one
	refusal  string
	full     bool      // nothing that waits is run
	accounts []fakeJob // what sacct knows; nil: accounting is disabled
	ran      []string  // commands, with their arguments
	foreign  []string  // lines of others' work that squeue prints as well
	before   func(command string)
}

type fakeJob struct {
	array, index     uint32
	submitted        int64
	name, comment    string
	state, reason    string
	exit             string
	arguments, stdin string
}

func newController() *controller { return &controller{next: 1, seconds: 1_900_000_000} }

func (c *controller) launcher(t testing.TB, prefix string) *Launcher {
	t.Helper()
	l, err := New(Options{
		Prefix: prefix, Program: []string{"/opt/surmise", "worker", "--coordinator=head:7433"}, Script: "#!/bin/sh\n",
		Job: Job{Partition: "low"}, User: "ada", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.commands = c
	return l
}

func (c *controller) run(ctx context.Context, stdin, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.before != nil {
		c.before(name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ran = append(c.ran, name+" "+strings.Join(args, " "))
	option := func(name string) string {
		for _, a := range args {
			if value, ok := strings.CutPrefix(a, "--"+name+"="); ok {
				return value
			}
		}
		return ""
	}
	switch name {
	case "sbatch":
		if c.refusal != "" {
			return nil, errors.New("sbatch: error: Batch job submission failed: " + c.refusal)
		}
		first, last, _ := strings.Cut(option("array"), "-")
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err := errors.Join(err, err2); err != nil || !slices.Contains(args, "--hold") {
			return nil, fmt.Errorf("sbatch: error: arguments %v: %w", args, err)
		}
		c.seconds++
		array := c.next
		for i := from; i <= to; i++ {
			c.jobs = append(c.jobs, &fakeJob{
				array: array, index: uint32(i), submitted: c.seconds, name: option("job-name"), comment: option("comment"),
				state: "PENDING", reason: heldByUser, exit: "0:0", arguments: strings.Join(args, " "), stdin: stdin,
			})
		}
		c.next++
		return fmt.Appendf(nil, "%d\n", array), nil
	case "squeue":
		var out []byte
		for _, line := range c.foreign {
			out = append(out, line+"\n"...)
		}
		for _, j := range c.jobs {
			if n := option("name"); n == "" || n == j.name {
				out = fmt.Appendf(out, "%d|%d|%s|%d|%s|%s|%s\n", j.array, j.index, j.state, j.submitted, j.reason, j.name, j.comment)
			}
		}
		return out, nil
	case "scontrol":
		for _, j := range c.jobs {
			if strconv.Itoa(int(j.array)) == args[1] && j.reason == heldByUser {
				j.reason = "Priority"
			}
		}
		c.schedule()
		return nil, nil
	case "scancel":
		found := false
		for _, j := range c.jobs {
			if name := option("name"); name != "" && j.name != name {
				continue
			}
			named := slices.ContainsFunc(args, func(id string) bool {
				array, task, _ := strings.Cut(id, "_")
				// With a name, Slurm 22.05 takes one task of an array that waits for all of it.
				all := task == "" || option("name") != "" && j.state == "PENDING"
				return array == fmt.Sprint(j.array) && (all || task == fmt.Sprint(j.index))
			})
			if !named {
				continue
			}
			found = true
			if j.state == "PENDING" || j.state == "RUNNING" {
				j.state, j.reason = "CANCELLED", "None"
			}
		}
		if !found {
			return nil, fmt.Errorf("scancel: error: Kill job error on job id %s: Invalid job id specified", args[len(args)-1])
		}
		return nil, nil
	case "sacct":
		if c.accounts == nil {
			return nil, errors.New("Slurm accounting storage is disabled")
		}
		var out []byte
		for _, j := range c.accounts {
			if slices.Contains(strings.Split(option("name"), ","), j.name) {
				out = fmt.Appendf(out, "%d_%d|%d|%s|%s|%s\n", j.array, j.index, j.submitted, j.state, j.exit, j.name)
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s: not found", name)
}

func (c *controller) schedule() {
	for _, j := range c.jobs {
		if j.state == "PENDING" && j.reason != heldByUser {
			if j.reason = "Resources"; !c.full {
				j.state, j.reason = "RUNNING", "None"
			}
		}
	}
}

// on does something to the task of a worker.
func (c *controller) on(t *testing.T, worker string, change func(*fakeJob)) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.jobs {
		if fmt.Sprintf("%s-%d", j.name, j.index) == worker {
			change(j)
			return
		}
	}
	t.Fatalf("no worker %s", worker)
}

func (c *controller) forget(worker string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = slices.DeleteFunc(c.jobs, func(j *fakeJob) bool { return fmt.Sprintf("%s-%d", j.name, j.index) == worker })
}

func TestConformance(t *testing.T) {
	launchtest.Conformance(t, func(*testing.T) launchtest.World {
		c := newController()
		return launchtest.World{
			Open: func(t *testing.T, prefix string) launch.Launcher { return c.launcher(t, prefix) },
			Hold: func(*testing.T) { c.mu.Lock(); c.full = true; c.mu.Unlock() },
			Release: func(*testing.T) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.full = false
				c.schedule()
			},
			Refuse: func(_ *testing.T, words string) { c.refusal = words },
			Accept: func(*testing.T) { c.refusal = "" },
			Fail: func(t *testing.T, worker string) {
				c.on(t, worker, func(j *fakeJob) { j.state, j.reason = "FAILED", "NonZeroExitCode" })
			},
			Forget: func(_ *testing.T, worker string) { c.forget(worker) },
			Reuse: func(t *testing.T, worker string) {
				c.on(t, worker, func(j *fakeJob) { j.name, j.comment = "somebody's", "" })
			},
		}
	})
}
