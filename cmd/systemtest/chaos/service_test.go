package chaos

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartAfter is how long a service that ended by itself waits for its next start, as under an init system.
const restartAfter = 300 * time.Millisecond

// service is a program that is kept running: when it ends without being told to, it is started again.
type service struct {
	name    string
	program string
	args    func() []string // of the next start
	env     []string
	log     *os.File               // what all its processes say
	begin   func(*exec.Cmd) error  // starts a process
	expects func(exit string) bool // whether it may end by itself like this

	ctx   context.Context // of the round
	hold  sync.Mutex      // of the fault that has it in hand
	waits sync.WaitGroup

	mu      sync.Mutex
	process *process // newest
	faults  []string // ends that nobody asked for
}

// process is one run of a service.
type process struct {
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	begun int64         // size of the log before its first word
	asked bool          // to end; guarded by the service's mu
}

// start starts a process and nothing more.
func start(cmd *exec.Cmd) error { return cmd.Start() }

func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := exec.CommandContext(context.WithoutCancel(s.ctx), s.program, s.args()...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, s.log, s.log
	fmt.Fprintf(s.log, "--- start %v\n", cmd.Args[1:])
	begun, err := s.log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := s.begin(cmd); err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{}), begun: begun}
	s.process = p
	s.waits.Go(func() {
		_ = cmd.Wait() // its state is looked at
		fmt.Fprint(s.log, endLine(cmd.ProcessState.String()))
		close(p.done)
		s.ended(p)
	})
	return nil
}

func endLine(exit string) string { return fmt.Sprintf("--- ended: %s\n", exit) }

// ended starts the next process unless this one was asked to end.
func (s *service) ended(p *process) {
	exit := p.cmd.ProcessState.String()
	s.mu.Lock()
	asked := p.asked
	if !asked && !s.expects(exit) {
		s.faults = append(s.faults, fmt.Sprintf("%s ended by itself: %s", s.name, exit))
	}
	s.mu.Unlock()
	if asked {
		return
	}
	select {
	case <-time.After(restartAfter):
	case <-s.ctx.Done():
		return
	}
	s.mu.Lock()
	replaced := s.process != p || p.asked
	s.mu.Unlock()
	if replaced {
		return
	}
	if err := s.start(); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = append(s.faults, err.Error())
	}
}

// inOrder is how a process ends that has done all that it should.
const inOrder = "exit status 0"

// terminate ends the service for good and in order, or says what was out of order. A process that has not said a word yet may
// not have come to where it asks for signals, and has nothing to put in order.
func (s *service) terminate(ctx context.Context) error {
	exit, err := s.end(ctx, syscall.SIGTERM)
	if err != nil {
		return err
	}
	size, err := s.log.Seek(0, io.SeekEnd)
	silent := exit == "signal: terminated" && size == s.process.begun+int64(len(endLine(exit)))
	if err == nil && exit != inOrder && !silent && !s.expects(exit) {
		err = fmt.Errorf("%s after SIGTERM: %s", s.name, exit)
	}
	return err
}

// end sends a signal that ends the service for good and waits. It returns how the process ended.
func (s *service) end(ctx context.Context, signal syscall.Signal) (exit string, err error) {
	s.mu.Lock()
	p := s.process
	p.asked = true
	err = p.cmd.Process.Signal(signal)
	s.mu.Unlock()
	select {
	case <-p.done: // by the signal, or by itself before it
		return p.cmd.ProcessState.String(), nil
	default:
	}
	if err != nil {
		return "", fmt.Errorf("%v for %s: %w", signal, s.name, err)
	}
	select {
	case <-p.done:
		return p.cmd.ProcessState.String(), nil
	case <-ctx.Done():
		return "", fmt.Errorf("%s does not end on %v: %w", s.name, signal, ctx.Err())
	}
}

// signal sends a signal that ends nothing. A process that is just being started again gets none.
func (s *service) signal(signal syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.process.cmd.Process.Signal(signal)
}

// limitFiles sets how large files may grow that the running process writes; unix.RLIM_INFINITY: any size.
func (s *service) limitFiles(bytes uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := unix.Prlimit(s.process.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil)
	if err == unix.ESRCH {
		return nil // it has ended; the next one has no limit
	}
	return err
}

// pid is that of the newest process.
func (s *service) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.cmd.Process.Pid
}

// kill ends whatever still runs, at the end of a round that went wrong.
func (s *service) kill() {
	s.mu.Lock()
	if p := s.process; p != nil {
		p.asked = true
		_ = p.cmd.Process.Kill() // it may have ended
	}
	s.mu.Unlock()
	s.waits.Wait()
}
