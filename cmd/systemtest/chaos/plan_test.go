package chaos

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// kind is what goes wrong.
type kind string

const (
	killWorker        kind = "kill a worker"
	stopWorker        kind = "stop a worker for a while" // SIGSTOP, SIGCONT
	drainWorker       kind = "drain a worker"            // SIGTERM
	killCoordinator   kind = "kill a coordinator"
	stopCoordinator   kind = "stop a coordinator for a while"
	restartCoordiator kind = "restart a coordinator" // SIGTERM
	preempt           kind = "preempt"
	cancel            kind = "cancel a job"
	cutNetwork        kind = "cut the network"
	delayNetwork      kind = "delay the network"
	halfOpen          kind = "leave connections half open"
	fullDisk          kind = "fill the disk"
	readOnlyDisk      kind = "make the disk read-only"
	limitFiles        kind = "limit the size of files"
	lockStore         kind = "lock the store" // SQLite
	cutStore          kind = "cut the store"  // PostgreSQL
	jumpClock         kind = "jump a worker's clock"
	replay            kind = "replay an old worker's messages"
)

// kinds are all of them, in the order that plans are drawn in.
var kinds = []kind{killWorker, stopWorker, drainWorker, killCoordinator, stopCoordinator, restartCoordiator, preempt, cancel, cutNetwork,
	delayNetwork, halfOpen, fullDisk, readOnlyDisk, limitFiles, lockStore, cutStore, jumpClock, replay}

// What a variant of a fault may be.
const (
	sameName   = "back at once under its name"
	laterName  = "back under its name once its lease is over"
	otherName  = "another takes its place"
	upward     = "towards the coordinator"
	downward   = "towards the worker"
	bothWays   = "both ways"
	artifacts  = "artifacts"
	jobs       = "jobs"
	everything = "artifacts and jobs"
)

// fault is one thing that goes wrong, once.
type fault struct {
	kind    kind
	job     int           // of the round's jobs, whose progress says when
	step    int           // reached by it; 0: as soon as it has a worker
	late    time.Duration // after that
	target  int           // worker or coordinator
	lasts   time.Duration
	variant string
	offset  time.Duration // of the clock
}

func (f fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", f.kind)
	if f.variant != "" {
		fmt.Fprintf(&b, " (%s)", f.variant)
	}
	if f.offset != 0 {
		fmt.Fprintf(&b, " by %v", f.offset)
	}
	fmt.Fprintf(&b, ", target %d, at step %d of job %d + %v", f.target, f.step, f.job, f.late)
	if f.lasts > 0 {
		fmt.Fprintf(&b, ", for %v", f.lasts)
	}
	return b.String()
}

// plan is all that goes wrong in a round.
type plan struct {
	seed     uint64
	postgres bool // with two coordinators; else SQLite and one
	faults   []fault
}

func (p plan) String() string {
	var b strings.Builder
	store := "one coordinator on SQLite"
	if p.postgres {
		store = "two coordinators on PostgreSQL"
	}
	fmt.Fprintf(&b, "seed %d: %s", p.seed, store)
	for _, f := range p.faults {
		fmt.Fprintf(&b, "\n  %v", f)
	}
	return b.String()
}

func (p plan) coordinators() int {
	if p.postgres {
		return 2
	}
	return 1
}

func (p plan) has(k kind) bool {
	return slices.ContainsFunc(p.faults, func(f fault) bool { return f.kind == k })
}

// machine is what this machine lets a plan do; reasons say what is left out.
type machine struct {
	postgres, mounts, clocks bool
	reasons                  []string
}

// draw makes the plan of a seed: from 2 to 4 faults of different kinds, at points of progress. It follows from the seed and
// from what the machine can do.
func draw(seed uint64, m machine, lease, outage time.Duration) plan {
	r := rand.New(rand.NewPCG(seed, 0x5ee1c4a05))
	p := plan{seed: seed, postgres: r.IntN(4) == 0}
	p.postgres = p.postgres && m.postgres
	upTo := func(d time.Duration) time.Duration {
		return time.Duration(r.Int64N(int64(d))).Truncate(time.Millisecond)
	}
	for _, at := range r.Perm(len(kinds))[:2+r.IntN(3)] {
		f := fault{kind: kinds[at], job: r.IntN(jobCount), step: r.IntN(steps + 1), late: upTo(300 * time.Millisecond), target: r.IntN(workerCount)}
		variants := func(of ...string) { f.variant = of[r.IntN(len(of))] }
		// A while is as often shorter as longer than what a lease allows for.
		while := []time.Duration{upTo(lease / 2), lease + upTo(lease)}[r.IntN(2)]
		switch f.kind {
		case killWorker:
			variants(sameName, laterName, otherName)
		case stopWorker, stopCoordinator, cutNetwork:
			f.lasts = while
		case delayNetwork:
			f.lasts = 2 * lease
		case halfOpen:
			variants(upward, downward, bothWays)
			f.lasts = while
		case fullDisk:
			variants(artifacts, jobs, everything)
			f.lasts = while
		case readOnlyDisk:
			variants(artifacts, jobs)
			f.lasts = while
		case limitFiles:
			f.lasts = while
		case lockStore, cutStore:
			f.lasts = []time.Duration{upTo(outage), outage}[r.IntN(2)]
		case jumpClock:
			f.offset = []time.Duration{-time.Hour, -time.Minute, time.Minute, 240 * time.Hour}[r.IntN(4)]
		}
		switch {
		case f.kind == killCoordinator || f.kind == stopCoordinator || f.kind == restartCoordiator:
			f.target %= p.coordinators()
		case f.kind == lockStore && p.postgres:
			f.kind = cutStore
		case f.kind == cutStore && !p.postgres:
			f.kind = lockStore
		}
		if p.has(f.kind) || (f.kind == fullDisk || f.kind == readOnlyDisk) && !m.mounts || f.kind == jumpClock && !m.clocks {
			continue
		}
		if p.postgres && f.variant != "" && (f.kind == fullDisk || f.kind == readOnlyDisk) {
			f.variant = artifacts // the jobs are on the server's disk
		}
		p.faults = append(p.faults, f)
	}
	return p
}

// A seed that is printed must give the same plan again, and every fault must have its turn.
func TestPlansFollowFromTheirSeeds(t *testing.T) {
	all := machine{postgres: true, mounts: true, clocks: true}
	drawn := map[kind]int{}
	for seed := range uint64(200) {
		p := draw(seed, all, time.Second, time.Minute)
		if again := draw(seed, all, time.Second, time.Minute); !reflect.DeepEqual(p, again) {
			t.Fatalf("%v\nand then\n%v", p, again)
		}
		if len(p.faults) == 0 {
			t.Errorf("%v: nothing happens", p)
		}
		for _, f := range p.faults {
			drawn[f.kind]++
			if f.kind == lockStore && p.postgres || f.kind == cutStore && !p.postgres || p.postgres && f.variant == jobs {
				t.Errorf("%v: %v cannot be done", p, f)
			}
		}
		for _, f := range draw(seed, machine{}, time.Second, time.Minute).faults {
			if f.kind == fullDisk || f.kind == readOnlyDisk || f.kind == jumpClock || f.kind == cutStore {
				t.Errorf("seed %d: %v on a machine that cannot", seed, f)
			}
		}
	}
	for _, k := range kinds {
		if drawn[k] == 0 {
			t.Errorf("never drawn: %s", k)
		}
	}
}
