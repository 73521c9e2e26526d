package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Kinds of jobs, and the seeds of their weights.
const (
	first   = "first"
	second  = "second"
	urgent  = "urgent"  // of a preemption
	endless = "endless" // to be cancelled
)

var seedOf = map[string]uint64{first: 1, second: 2, urgent: 3, endless: 4}

// mark is in the environment of every process of a round, and of theirs.
const mark = "SURMISE_CHAOS_ROUND"

// link is the network between a worker and its coordinator.
type link struct {
	*toxiproxy.Proxy
	hold sync.Mutex // of the fault that has it in hand
}

// round is one system and what happens to it.
type round struct {
	*chaos
	plan plan
	id   string // unique
	dir  string

	state                 string // the coordinators' data folder
	store                 string // as --store takes it, straight to the database
	artifactDisk, jobDisk disk
	diskHold, storeHold   sync.Mutex // of the fault that has the disks, or the file of the store, in hand
	relay                 *relay     // to PostgreSQL; nil: none

	coordinators []*service
	addresses    []string // of the coordinators
	watches      []string // where coordinators show their metrics
	workers      []*service
	names        []string // of the workers; guarded by mu
	proxies      []*link
	client       client
	main         []*job // those that faults go by

	mu     sync.Mutex
	jobs   []*job  // all of them
	faults []error // what is wrong
}

// fault notes what is wrong.
func (r *round) fault(errs ...error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range errs {
		if err != nil {
			r.faults = append(r.faults, err)
		}
	}
}

// round runs a system under a plan and returns what its jobs left, by their kinds. What is wrong is the test's to tell.
func (c *chaos) round(t *testing.T, p plan) map[string]outcome {
	began := time.Now()
	ctx, stop := context.WithTimeoutCause(context.Background(), *patience, fmt.Errorf("no end within %v", *patience))
	defer stop()
	r := &round{chaos: c, plan: p, id: fmt.Sprintf("r%d", p.seed), dir: t.TempDir()}
	if err := r.setUp(ctx, t); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v", p)

	r.submitMain(ctx)
	if len(r.main) == jobCount {
		var disturbances sync.WaitGroup
		for _, f := range p.faults {
			disturbances.Go(func() {
				if err := r.disturb(ctx, f); err != nil {
					r.fault(fmt.Errorf("%s: %w", f.kind, err))
				}
			})
		}
		disturbances.Wait()
	}
	for _, j := range r.jobs { // no fault is left that submits any
		j.watched.Wait()
	}
	left := r.checkJobs()
	r.replayEnds(ctx)
	goroutines := r.checkGoroutines(ctx)
	r.stop(ctx, r.workers)
	r.fault(checkFiles(ctx, r.state, filepath.Join(r.dir, "tmp"))) // with coordinators: removing it is theirs
	r.stop(ctx, r.coordinators)
	r.fault(checkProcesses(ctx, mark+"="+r.dir))
	r.fault(checkStore(ctx, r.store, r.jobs)...)
	for _, err := range r.faults {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("again with: make chaos ROUNDS=1 SEED=%d", p.seed)
	}
	c.count(p, !t.Failed())
	t.Logf("%v; %d jobs, %d attempts; the coordinators had %v goroutines at the end", time.Since(began).Round(time.Millisecond), len(r.jobs), r.attempts(), goroutines)
	return left
}

// setUp starts everything and leaves its end to the test's cleanup.
func (r *round) setUp(ctx context.Context, t *testing.T) (err error) {
	r.state = filepath.Join(r.dir, "state")
	for _, folder := range []string{r.state, filepath.Join(r.dir, "tmp")} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
	}
	if r.machine.mounts {
		if r.jobDisk, err = newDisk(r.state); err != nil {
			return err
		}
		t.Cleanup(func() { undo(t, r.jobDisk.remove) })
		if r.artifactDisk, err = newDisk(filepath.Join(r.state, "artifacts")); err != nil {
			return err
		}
		t.Cleanup(func() { undo(t, r.artifactDisk.remove) })
	}
	r.store = filepath.Join(r.state, "jobs.db")
	flag := r.store
	if r.plan.postgres {
		r.databases.Lock()
		r.store = r.postgres.Database(t)
		r.databases.Unlock()
		if flag, err = r.throughRelay(t); err != nil {
			return err
		}
	}
	for i := range r.plan.coordinators() {
		if err := r.addCoordinator(ctx, t, i, flag); err != nil {
			return err
		}
	}
	var close func()
	if r.client, close, err = dial(r.addresses); err != nil {
		return err
	}
	t.Cleanup(close)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for i := range workerCount {
		way, err := newLink(server, fmt.Sprintf("worker %d", i), r.addresses[i%len(r.addresses)])
		if err != nil {
			return err
		}
		t.Cleanup(way.Stop)
		r.proxies = append(r.proxies, way)
		if err := r.addWorker(ctx, t, i); err != nil {
			return err
		}
	}
	return nil
}

func undo(t *testing.T, f func() error) {
	if err := f(); err != nil {
		t.Error(err)
	}
}

// throughRelay gives the coordinators another way to the store than the test has.
func (r *round) throughRelay(t *testing.T) (string, error) {
	socket, database, err := postgresSocket(r.store)
	if err != nil {
		return "", err
	}
	if r.relay, err = newRelay(socket); err != nil {
		return "", err
	}
	t.Cleanup(r.relay.close)
	return fmt.Sprintf("postgres://surmise@%s%s?sslmode=disable", r.relay.listener.Addr(), database), nil
}

func (r *round) addCoordinator(ctx context.Context, t *testing.T, i int, store string) error {
	address, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	watch, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	args := []string{"--listen", address, "--data-dir", r.state, "--store", store, "--lease", r.lease.String(), "--metrics-addr", watch}
	// One that finds its store locked, cut off, full or read-only when it starts ends with an error; so do its starts
	// until the store is back.
	storeless := r.plan.has(lockStore) || r.plan.has(cutStore) || r.plan.has(fullDisk) || r.plan.has(readOnlyDisk)
	s, err := r.service(ctx, t, fmt.Sprintf("coordinator-%d", i), r.coordinator, func() []string { return args })
	if err != nil {
		return err
	}
	s.expects = func(exit string) bool { return storeless && exit == "exit status 1" }
	r.coordinators, r.addresses, r.watches = append(r.coordinators, s), append(r.addresses, address), append(r.watches, watch)
	return s.start()
}

func (r *round) addWorker(ctx context.Context, t *testing.T, i int) error {
	r.names = append(r.names, fmt.Sprintf("w%d", i))
	s, err := r.service(ctx, t, fmt.Sprintf("worker-%d", i), r.worker, func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return []string{"--coordinator", r.proxies[i].Listen, "--name", r.names[i], "--data-root", r.clips, "--cache-dir", r.cache}
	})
	if err != nil {
		return err
	}
	if r.plan.has(jumpClock) {
		s.begin = startWithClock
	}
	r.workers = append(r.workers, s)
	return s.start()
}

// rename gives a worker another name from its next start on.
func (r *round) rename(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[i] += "x"
}

// service makes a service with a log of its own, which the test tells when it fails.
func (r *round) service(ctx context.Context, t *testing.T, name, program string, args func() []string) (*service, error) {
	log, err := os.OpenFile(filepath.Join(r.dir, name+".log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	s := &service{name: name, program: program, args: args, log: log, ctx: ctx, begin: start, expects: func(string) bool { return false },
		env: append(os.Environ(), mark+"="+r.dir, "TMPDIR="+filepath.Join(r.dir, "tmp"))}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			text, err := os.ReadFile(log.Name())
			t.Logf("%s (%v):\n%s", name, err, tail(string(text)))
		}
		log.Close()
	})
	return s, nil
}

// anyPort is a free port of a loopback address that outgoing connections do not take theirs from: one that is given up for
// a while, as by a coordinator that was killed, must be free again later.
const anyPort = "127.0.0.2:0"

// freeAddress is one that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", anyPort)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// tail is the last lines of a log.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-150):], "\n")
}

func (r *round) submitMain(ctx context.Context) {
	kinds := []string{first, second}
	if r.want == nil {
		kinds = append(kinds, urgent) // what comes out of it in peace is wanted too
	}
	for _, kind := range kinds {
		n := int32(steps)
		if kind == urgent {
			n = steps / 3
		}
		j, err := r.submit(ctx, kind, r.training(seedOf[kind], n), 0)
		if err != nil {
			r.fault(err)
			return
		}
		if len(r.main) < jobCount {
			r.main = append(r.main, j)
		}
	}
}

// checkJobs holds what jobs left against what they leave in peace.
func (r *round) checkJobs() map[string]outcome {
	left := map[string]outcome{}
	for _, j := range r.jobs {
		if j.kind == endless || j.newest().GetResult() == nil {
			continue // the event table says what is wrong with the second
		}
		o, err := outcomeOf(j.newest())
		if err == nil && r.want != nil {
			err = o.differ(r.want[j.kind])
		}
		if err != nil {
			r.fault(fmt.Errorf("%s, %s: %w", j.name, j.kind, err))
		}
		left[j.kind] = o
	}
	return left
}

// replayEnds repeats how every job ended.
func (r *round) replayEnds(ctx context.Context) {
	for _, j := range r.jobs {
		if j.newest().GetEpoch() > 0 {
			r.fault(r.replayEnded(ctx, j))
		}
	}
}

// idleGoroutines is above what a coordinator has that only idle workers and the test are connected to, 14 to 37 in 100
// rounds, and far below what it would have if each call or stream of a round had left one.
const idleGoroutines = 60

// checkGoroutines waits until coordinators have no goroutine of calls and streams that are over, and returns how many they
// have then.
func (r *round) checkGoroutines(ctx context.Context) (numbers []int) {
	ctx, stop := context.WithTimeout(ctx, patienceOfOrphans)
	defer stop()
	for i, watch := range r.watches {
		for {
			n, err := gauge(ctx, watch, "go_goroutines")
			if err == nil && n <= idleGoroutines {
				numbers = append(numbers, int(n))
				break
			}
			if pause(ctx, callAgain) != nil {
				r.fault(fmt.Errorf("coordinator %d has %v goroutines, want at most %d: %w", i, n, idleGoroutines, err))
				break
			}
		}
	}
	return numbers
}

// attempts is how often jobs were leased.
func (r *round) attempts() (n int64) {
	for _, j := range r.jobs {
		n += j.newest().GetEpoch()
	}
	return n
}

// stop ends services in good order.
func (r *round) stop(ctx context.Context, services []*service) {
	for _, s := range services {
		r.fault(s.terminate(ctx))
		s.mu.Lock()
		faults := s.faults
		s.mu.Unlock()
		for _, f := range faults {
			r.fault(errors.New(f))
		}
	}
}
