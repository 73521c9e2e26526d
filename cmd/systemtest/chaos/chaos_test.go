// Package chaos runs small systems of real processes, disturbs them, and holds what comes out against a system that nothing
// disturbed.
//
//	chaos_test.go    the rounds; what the machine lets them do
//	plan_test.go     a seed → what goes wrong, and when
//	round_test.go    one round: a system, jobs, faults, checks
//	jobs_test.go     jobs are submitted and watched, as by people who do not give up
//	faults_test.go   how each fault is done, and undone
//	replay_test.go   an old worker that says again what it said
//	checks_test.go   what must hold afterwards
//	service_test.go  a program that is started again when it ends
//	disk_test.go     disks that can be full or read-only
//	clock_*_test.go  clocks that jump
//	relay_test.go    a way to PostgreSQL that can be cut
package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
	"github.com/surmise-ml/surmise/video/synth"
)

var (
	rounds   = flag.Int("rounds", 3, "rounds, each with the next seed")
	seed     = flag.Uint64("seed", 0, "of the first round; 0: any")
	real30   = flag.Bool("real", false, "the lease that is the default, 30 s, and a store that is away for 30 s; a round takes minutes")
	programs = flag.String("programs", "", "folder with coordinator and worker; default: they are built")
	patience = flag.Duration("patience", 5*time.Minute, "how long a round may take")
)

// What a test process has in its environment whose mounts are its own, and one that is root only in there.
const (
	inNamespace   = "SURMISE_CHAOS_MOUNTS"
	userNamespace = "SURMISE_CHAOS_USER"
)

// Mounts that a round makes must not outlive this process, even if it is killed: it has a mount namespace of its own, as
// root or as a user who is root in there.
func TestMain(m *testing.M) {
	if os.Getenv(asClock) != "" {
		tellClocks()
		return
	}
	if os.Getenv(inNamespace) == "" {
		os.Setenv(inNamespace, enterNamespace())
	}
	// A connection that breaks while toxiproxy has something to pass on leaves the goroutine behind that passes it on.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/Shopify/toxiproxy/v2/toxics.(*LatencyToxic).Pipe"),
		goleak.IgnoreTopFunction("github.com/Shopify/toxiproxy/v2/toxics.(*NoopToxic).Pipe"),
		goleak.IgnoreTopFunction("github.com/Shopify/toxiproxy/v2/stream.(*ChanWriter).Write"))
}

// enterNamespace does not return when it succeeds; else it says why not.
func enterNamespace() string {
	program, err := exec.LookPath("unshare")
	if err != nil {
		return err.Error()
	}
	args := []string{program, "--mount", "--propagation", "private"}
	env := append(os.Environ(), inNamespace+"=yes")
	if os.Getuid() != 0 {
		args, env = append(args, "--map-root-user"), append(env, userNamespace+"=yes")
	}
	if out, err := exec.CommandContext(context.Background(), program, append(args[1:], "true")...).CombinedOutput(); err != nil {
		return fmt.Sprintf("%v: %s", err, strings.TrimSpace(string(out)))
	}
	self, err := os.Executable()
	if err != nil {
		return err.Error()
	}
	return syscall.Exec(program, append(append(args, self), os.Args[1:]...), env).Error()
}

// chaos is what all rounds share.
type chaos struct {
	coordinator, worker string // programs
	clips               string // folder
	cache               string // of the workers
	machine             machine
	postgres            *queuetest.Postgres // nil: none
	databases           sync.Mutex          // held while one is made
	lease, outage       time.Duration
	want                map[string]outcome // of undisturbed jobs, by the name of their kind

	mu       sync.Mutex
	passed   int          // rounds
	survived map[kind]int // in those
}

// count notes a round that is over.
func (c *chaos) count(p plan, passed bool) {
	if !passed || len(p.faults) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed++
	for _, f := range p.faults {
		c.survived[f.kind]++
	}
}

// tell says what was survived, how often.
func (c *chaos) tell(t *testing.T) {
	t.Logf("%d rounds passed, with", c.passed)
	for _, k := range kinds {
		t.Logf("%4d × %s", c.survived[k], k)
	}
}

// TestChaos holds that whatever is killed, stopped, cut off or filled up, every job ends once, with the weights and losses
// that it would have had in peace, and leaves nothing behind.
func TestChaos(t *testing.T) {
	c := prepare(t)
	peace := plan{}
	if !t.Run("undisturbed", func(t *testing.T) { c.want = c.round(t, peace) }) {
		t.Fatal("there is nothing to compare with")
	}
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1e9) + 1
	}
	t.Logf("%d rounds from seed %d", *rounds, first)
	t.Cleanup(func() { c.tell(t) })
	for i := range uint64(max(0, *rounds)) {
		p := draw(first+i, c.machine, c.lease, c.outage)
		t.Run(fmt.Sprintf("seed=%d", p.seed), func(t *testing.T) {
			t.Parallel()
			c.round(t, p)
		})
	}
}

func prepare(t *testing.T) *chaos {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &chaos{coordinator: filepath.Join(dir, "coordinator"), worker: filepath.Join(dir, "worker"), cache: filepath.Join(dir, "cache"),
		lease: 3 * time.Second, outage: 8 * time.Second, survived: map[kind]int{}}
	if *real30 {
		c.lease, c.outage = 30*time.Second, 30*time.Second
	}
	if *programs != "" {
		c.coordinator, c.worker = filepath.Join(*programs, "coordinator"), filepath.Join(*programs, "worker")
	} else {
		goBuild(t, root, []string{"CGO_ENABLED=0"}, "-o", c.coordinator, "./cmd/coordinator")
		goBuild(t, root, nil, "-o", c.worker, "./cmd/worker")
	}
	videos, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 4, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.clips = videos.ClipsDir
	without := func(what string, err error) bool {
		if err != nil {
			c.machine.reasons = append(c.machine.reasons, fmt.Sprintf("%s: %v", what, err))
		}
		return err == nil
	}
	c.machine.mounts = without("full and read-only disks need mounts", mountsWork(t))
	c.machine.clocks = without("clocks of workers need ptrace", clocksJump(t))
	c.machine.postgres = without("PostgreSQL", c.startPostgres(t))
	for _, reason := range c.machine.reasons {
		t.Logf("left out on this machine: %s", reason)
	}
	return c
}

// startPostgres starts a server for all rounds.
func (c *chaos) startPostgres(t *testing.T) error {
	if why := queuetest.PostgresMissing(); why != "" {
		return errors.New(why)
	}
	if os.Getenv(userNamespace) != "" {
		return errors.New("it runs as a user of its own, and this process has only one")
	}
	c.postgres = queuetest.StartPostgres(t, false)
	return nil
}

func goBuild(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
