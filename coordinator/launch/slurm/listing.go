package slurm

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// task is one task of an array, as squeue prints it.
type task struct {
	batch     string
	array     uint32 // number of the array
	index     int    // in it; −1: all of the array that were cancelled before they ran
	submitted int64  // seconds since 1970
	state     string // such as "PENDING"
	reason    string // such as "Resources"; "" for none
}

// squeueFormat: what may hold any character comes last. The order of fields is that of parseSqueue.
const squeueFormat = "%F|%K|%T|%V|%r|%j|%k"

// squeue lists the tasks of a batch that Slurm remembers, or with "" of all batches of the prefix, in the order in which
// they were submitted.
func (l *Launcher) squeue(ctx context.Context, batch string) ([]task, error) {
	args := []string{"--noheader", "--array", "--states=all", "--user=" + l.o.User, "--format=" + squeueFormat}
	if batch != "" {
		args = append(args, "--name="+batch)
	}
	out, err := l.commands.run(ctx, "", "squeue", args...)
	if err != nil {
		return nil, err
	}
	tasks, err := parseSqueue(l.o.Prefix, out)
	if err != nil {
		return nil, fmt.Errorf("what squeue printed: %w", err)
	}
	if batch != "" { // a name may hold commas to squeue; ours do not
		tasks = slices.DeleteFunc(tasks, func(t task) bool { return t.batch != batch })
	}
	return tasks, nil
}

// maxTasks bounds what is read, above what any settings start.
const maxTasks = 1_000_000

// parseSqueue reads the lines of our workers. Lines of other work are passed over, whatever they hold; one of ours that
// cannot be read is an error, because to take its worker for gone would start another.
func parseSqueue(prefix string, out []byte) (tasks []task, err error) {
	for line := range bytes.Lines(out) {
		fields := strings.SplitN(strings.TrimRight(string(line), "\r\n"), "|", 7)
		if len(fields) < 7 {
			continue // of work whose name holds an end of line
		}
		name, ours := launch.ParseBatch(prefix, fields[5])
		if !ours || fields[6] != comment(name.String()) {
			continue
		}
		t := task{batch: name.String(), index: -1, state: fields[2]}
		array, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("array %q of %s: want a number", fields[0], t.batch)
		}
		t.array = uint32(array)
		if fields[1] != "N/A" {
			index, err := strconv.ParseUint(fields[1], 10, 31)
			if err != nil {
				return nil, fmt.Errorf("task %q of %s: want a number", fields[1], t.batch)
			}
			t.index = int(index)
		}
		if t.submitted, err = strconv.ParseInt(fields[3], 10, 64); err != nil {
			return nil, fmt.Errorf("submit time %q of %s: want seconds since 1970", fields[3], t.batch)
		}
		if t.reason = launch.Words(fields[4]); t.reason == "None" {
			t.reason = ""
		}
		if len(tasks) == maxTasks {
			return nil, fmt.Errorf("more than %d tasks", maxTasks)
		}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// Slurm's states, by what they mean for a worker. Unknown ones are taken for alive: to start another is worse.
var (
	waitingStates = []string{"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
	failedStates  = []string{"FAILED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "LAUNCH_FAILED", "RECONFIG_FAIL"}
	endedStates   = []string{"COMPLETED", "CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE", "REVOKED"}
)

func (t task) ended() bool {
	return slices.Contains(failedStates, t.state) || slices.Contains(endedStates, t.state)
}

// worker is the task under its worker's name.
func (t task) worker(name string) launch.Worker {
	w := launch.Worker{Name: name, State: launch.Running}
	switch {
	case slices.Contains(waitingStates, t.state):
		w.State, w.Reason = launch.Waiting, t.reason
		if t.state != "PENDING" {
			w.Reason = strings.TrimSuffix(t.state+" "+t.reason, " ")
		}
	case t.ended():
		w.State, w.Failed = launch.Ended, slices.Contains(failedStates, t.state)
		w.Reason = t.state
		if t.reason != "" {
			w.Reason += " " + t.reason
		}
	}
	return w
}
