// Package launch has an engine such as Slurm or Kubernetes start workers when jobs wait for them.
//
// It never places a worker on a machine and never says which job one gets: the engine decides where and when it runs, and
// leases decide who owns a job. So a worker too many costs a little of the cluster's time and nothing else, and one too few
// is made up for at the next look.
//
// Every look is the same and needs no memory of the ones before: what waits, from the store (queue.Demand); which workers
// there are, from the engine (Launcher.List); and from those two alone what is to be started and stopped (plan). Names are
// chosen so that whoever looks at the same state starts the same workers under the same names, and a name is started once:
// neither a coordinator that starts again nor several that share a store make duplicates.
package launch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// A Launcher asks an engine for workers. Package launchtest holds what is expected of one. Errors carry the engine's own
// words, as people will search for them. All calls may come from several coordinators at once.
type Launcher interface {
	// Engine is what people call it, such as "Slurm".
	Engine() string
	// Start asks for the workers of a batch; it does not wait for them to run. A batch that was started before, by whomever,
	// is left as it is, and that is no error.
	Start(context.Context, Batch) error
	// List returns all workers of this launcher's prefix that the engine knows, those that have ended for as long as it
	// remembers them.
	List(context.Context) ([]Worker, error)
	// Stop takes workers out of the engine's queue, or asks them to hand their job back and exit. One that has ended or was
	// never there is no error. An engine that can only stop all workers of a batch together leaves a batch alone of which
	// some that live are not named.
	Stop(ctx context.Context, names []string) error
}

// Shape is what one worker has. The zero value of a field asks for what the engine gives by default.
type Shape struct {
	GPUs      int
	CPUs      int
	Memory    int64             // bytes
	Labels    map[string]string // jobs may ask for them
	DataRoots []string          // the only folders that it reads videos from; none: any
}

// Device is "gpu" or "cpu".
func (s Shape) Device() string {
	if s.GPUs > 0 {
		return "gpu"
	}
	return "cpu"
}

// offer is what a worker of this shape will announce.
func (s Shape) offer() queue.Worker {
	return queue.Worker{GPUs: s.GPUs, Memory: s.Memory, DataRoots: s.DataRoots, Labels: s.Labels}
}

// Batch is workers of one shape that are asked for together: an array, where the engine has them.
type Batch struct {
	Name  BatchName
	Shape Shape
	Count int           // 1 or more
	Idle  time.Duration // a worker exits once it has found no work for so long; 0: never
}

// Worker is the name of the batch's i-th worker, from 0, both to the engine and to coordinators.
func (b Batch) Worker(i int) string { return b.Name.Worker(i) }

// Flags are the arguments of "surmise worker" that follow from the batch, without --name, which differs from worker to
// worker, and without those that the launcher's own settings give, as the coordinator's address.
func (b Batch) Flags() []string {
	var flags []string
	if b.Shape.GPUs > 0 {
		flags = append(flags, "--gpus="+strconv.Itoa(b.Shape.GPUs))
	}
	if b.Shape.Memory > 0 {
		flags = append(flags, "--memory="+strconv.FormatInt(b.Shape.Memory, 10))
	}
	for _, name := range slices.Sorted(maps.Keys(b.Shape.Labels)) {
		flags = append(flags, "--label="+name+"="+b.Shape.Labels[name])
	}
	for _, root := range b.Shape.DataRoots {
		flags = append(flags, "--data-root="+root)
	}
	if b.Idle > 0 {
		flags = append(flags, "--exit-when-idle="+b.Idle.String())
	}
	return flags
}

// Worker is a worker as the engine sees it.
type Worker struct {
	Name   string
	State  State
	Failed bool   // Ended: not by itself with exit code 0, nor by being stopped, preempted or at its time limit
	Reason string // the engine's own words on why it waits or ended; "" when it has none
}

// State is where a worker is with its engine.
type State string

const (
	Waiting State = "waiting" // asked for, not running yet: no room, no quota, an image being pulled
	Running State = "running" // its process runs, as far as the engine knows
	Ended   State = "ended"
)

func (w Worker) String() string {
	s := w.Name + " " + string(w.State)
	if w.Failed {
		s += ", failed"
	}
	if w.Reason != "" {
		s += fmt.Sprintf(" (%s)", w.Reason)
	}
	return s
}
