package slurm

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// past is what became of workers that squeue does not list any more: it forgets what has ended after MinJobAge, which some
// sites make seconds. The accounting, where there is one, knows.
type past struct {
	mu    sync.Mutex
	alive map[string]bool // workers that were alive at the last look
	ended []launch.Worker // what the accounting said, the newest last
	none  bool            // there is no accounting
}

func newPast() past { return past{alive: map[string]bool{}} }

const (
	// maxPast bounds the workers whose end is remembered.
	maxPast = 10_000
	// accountingSince is how far back the accounting is asked.
	accountingSince = "now-1days"
	// disabled is what sacct says where Slurm keeps no accounts.
	disabled = "accounting storage is disabled"
)

// recall returns those workers that were alive once, and that squeue has forgotten, with how they ended. Each is asked for
// once. Without an accounting, or while it does not answer, they are just gone.
func (l *Launcher) recall(ctx context.Context, listed []launch.Worker) []launch.Worker {
	l.past.mu.Lock()
	defer l.past.mu.Unlock()
	now := map[string]bool{}
	there := map[string]bool{}
	for _, w := range listed {
		there[w.Name] = true
		if w.State != launch.Ended {
			now[w.Name] = true
		}
	}
	missing := map[string]bool{}
	for name := range l.past.alive {
		if !there[name] {
			missing[name] = true
		}
	}
	l.past.alive = now
	if len(missing) > 0 && !l.past.none {
		l.past.ended = append(l.past.ended, l.sacct(ctx, missing)...)
		l.past.ended = l.past.ended[max(0, len(l.past.ended)-maxPast):]
	}
	l.past.ended = slices.DeleteFunc(l.past.ended, func(w launch.Worker) bool { return there[w.Name] }) // the name came again
	return slices.Clone(l.past.ended)
}

// sacct asks how workers ended. A task of an array that has run has a line of its own without --array, which 22.05 does not
// know. l.past.mu is held.
func (l *Launcher) sacct(ctx context.Context, workers map[string]bool) []launch.Worker {
	batches := map[string]bool{}
	for name := range workers {
		if batch, _, ok := launch.ParseWorker(l.o.Prefix, name); ok {
			batches[batch.String()] = true
		}
	}
	var ended []launch.Worker
	for some := range slices.Chunk(slices.Sorted(maps.Keys(batches)), 100) {
		out, err := l.commands.run(ctx, "", "sacct", "--noheader", "--parsable2", "--allocations", "--user="+l.o.User,
			"--starttime="+accountingSince, "--format=JobID,Submit,State,ExitCode,JobName", "--name="+strings.Join(some, ","))
		if err != nil {
			l.past.none = strings.Contains(err.Error(), disabled)
			l.log.Info("how workers ended is not known", "workers", len(workers), "error", err)
			return ended
		}
		ended = append(ended, parseSacct(l.o.Prefix, out, workers)...)
	}
	return ended
}

// parseSacct reads how these workers ended. Of several with one name, for names come again, the last one counts. What is
// not understood is passed over: it only explains.
func parseSacct(prefix string, out []byte, workers map[string]bool) []launch.Worker {
	type end struct {
		worker    launch.Worker
		submitted int64
	}
	ends := map[string]end{}
	for line := range bytes.Lines(out) {
		fields := strings.SplitN(strings.TrimRight(string(line), "\r\n"), "|", 5)
		if len(fields) < 5 {
			continue
		}
		batch, ours := launch.ParseBatch(prefix, fields[4])
		_, index, isTask := strings.Cut(fields[0], "_")
		i, err := strconv.ParseUint(index, 10, 31)
		submitted, timeErr := strconv.ParseInt(fields[1], 10, 64)
		if !ours || !isTask || err != nil || timeErr != nil {
			continue
		}
		state, _, _ := strings.Cut(fields[2], " ") // "CANCELLED by 1000"
		t := task{state: state}
		if code := launch.Words(fields[3]); code != "0:0" {
			t.reason = "exit code " + code
		}
		name := batch.Worker(int(i))
		if before, there := ends[name]; !workers[name] || !t.ended() || there && before.submitted > submitted {
			continue
		}
		ends[name] = end{t.worker(name), submitted}
	}
	found := make([]launch.Worker, 0, len(ends))
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		found = append(found, ends[name].worker)
	}
	return found
}
