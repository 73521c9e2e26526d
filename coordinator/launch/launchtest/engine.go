// Package launchtest holds the tests that every launcher must pass, and an engine that exists only in memory.
package launchtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// Memory is an engine in memory that does what a test tells it. Any number of its launchers may be used at once, as
// several coordinators use one engine.
type Memory struct {
	mu      sync.Mutex
	batches map[string]launch.Batch
	workers []launch.Worker // in the order of their start
	starts  int             // batches asked for, those that were there included
	lists   int
	refusal error // what Start answers
	silence error // what List answers
	pending string
	held    bool
}

// NewMemory returns an engine without workers, on which those that are started run at once.
func NewMemory() *Memory { return &Memory{batches: map[string]launch.Batch{}} }

// Launcher is a launcher on the engine.
func (m *Memory) Launcher(prefix string) launch.Launcher { return memoryLauncher{m, prefix} }

// Refuse makes the engine answer every Start with err, nil: take them again.
func (m *Memory) Refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusal = err
}

// Silence makes the engine answer every List with err, nil: answer again.
func (m *Memory) Silence(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silence = err
}

// Hold keeps workers waiting from now on, for this reason, until Release.
func (m *Memory) Hold(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held, m.pending = true, reason
}

// Release lets all that wait, and those to come, run.
func (m *Memory) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held, m.pending = false, ""
	for i, w := range m.workers {
		if w.State == launch.Waiting {
			m.workers[i] = launch.Worker{Name: w.Name, State: launch.Running}
		}
	}
}

// End ends a worker.
func (m *Memory) End(name string, failed bool, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, w := range m.workers {
		if w.Name == name {
			m.workers[i] = launch.Worker{Name: name, State: launch.Ended, Failed: failed, Reason: reason}
		}
	}
}

// Forget makes a worker unknown, and its batch with the last of it, so that its name may come again.
func (m *Memory) Forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.workers = slices.DeleteFunc(m.workers, func(w launch.Worker) bool { return w.Name == name })
	batch := name[:strings.LastIndexByte(name, '-')]
	if !slices.ContainsFunc(m.workers, func(w launch.Worker) bool { return strings.HasPrefix(w.Name, batch+"-") }) {
		delete(m.batches, batch)
	}
}

// Batch is what was asked for under a name.
func (m *Memory) Batch(name string) (launch.Batch, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.batches[name]
	return b, ok
}

// Starts is how often Start was called, and Lists how often List was.
func (m *Memory) Starts() (starts, lists int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.starts, m.lists
}

// Alive names the workers that have not ended, in the order of their start.
func (m *Memory) Alive() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if w.State != launch.Ended {
			names = append(names, w.Name)
		}
	}
	return names
}

type memoryLauncher struct {
	*Memory
	prefix string
}

func (memoryLauncher) Engine() string { return "Memory" }

func (l memoryLauncher) Start(ctx context.Context, b launch.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starts++
	if err := errors.Join(ctx.Err(), l.refusal); err != nil {
		return err
	}
	if b.Count < 1 {
		return fmt.Errorf("starting %s: %d workers", b.Name, b.Count)
	}
	if _, there := l.batches[b.Name.String()]; there {
		return nil
	}
	l.batches[b.Name.String()] = b
	for i := range b.Count {
		w := launch.Worker{Name: b.Worker(i), State: launch.Running}
		if l.held {
			w.State, w.Reason = launch.Waiting, l.pending
		}
		l.workers = append(l.workers, w)
	}
	return nil
}

func (l memoryLauncher) List(ctx context.Context) ([]launch.Worker, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lists++
	if err := errors.Join(ctx.Err(), l.silence); err != nil {
		return nil, err
	}
	var out []launch.Worker
	for _, w := range l.workers {
		if _, _, ok := launch.ParseWorker(l.prefix, w.Name); ok {
			out = append(out, w)
		}
	}
	return out, nil
}

func (l memoryLauncher) Stop(ctx context.Context, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, name := range names {
		l.End(name, false, "stopped")
	}
	return nil
}
