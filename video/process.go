package video

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/surmise-ml/surmise/video/wire"
)

// process is a decoder process as its parent sees it. One goroutine at a time uses it.
type process struct {
	cmd      *exec.Cmd
	requests *os.File // to the child
	answers  *os.File // from the child
	reader   *wire.Reader
	memory   []byte
	last     *os.File // what it wrote to standard error, in memory
	served   int      // requests answered
	decoder  string
}

// errEnded means that a decoder process ended before it answered.
var errEnded = errors.New("the decoder process ended")

// startProcess starts a decoder and waits until it says hello. The kernel kills it when the calling thread ends, so
// the caller is bound to a thread that outlives it (see Pool.keep).
func startProcess(ctx context.Context, o PoolOptions) (started *process, err error) {
	p := &process{}
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range ours {
				_ = f.Close()
			}
			if p.memory != nil {
				_ = unix.Munmap(p.memory)
			}
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	theirRequests, requests := pipe()
	answers, theirAnswers := pipe()
	if err != nil {
		return nil, fmt.Errorf("starting a decoder: %w", err)
	}
	ours, theirs = append(ours, requests, answers), append(theirs, theirRequests, theirAnswers)
	shared, err := newShared(o.sharedBytes)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, shared)
	copied, err := unix.FcntlInt(shared.Fd(), unix.F_DUPFD_CLOEXEC, 0) // mapShared closes what it maps
	if err != nil {
		return nil, fmt.Errorf("starting a decoder: %w", err)
	}
	if p.memory, err = mapShared(os.NewFile(uintptr(copied), "frames")); err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("surmise-decoder-errors", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("starting a decoder: %w", err)
	}
	p.last = os.NewFile(uintptr(fd), "errors")
	ours = append(ours, p.last)
	if _, err := unix.FcntlInt(p.last.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
		return nil, fmt.Errorf("starting a decoder: %w", err)
	}

	// It ends with its parent, through the pipe or through the kernel, and not with ctx: who waits kills it.
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), o.Command[0], o.Command[1:]...)
	p.cmd.Env = append(os.Environ(), append(decoderSettings(o.MemoryBytes), o.Env...)...)
	p.cmd.ExtraFiles = []*os.File{theirRequests, theirAnswers, shared}
	p.cmd.Stderr = p.last
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a terminal's interrupt is for the parent alone
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a decoder: %w", err)
	}
	p.requests, p.answers, p.reader = requests, answers, wire.NewReader(answers)
	for _, f := range theirs {
		_ = f.Close() // or the end of the child would not end the pipe
	}
	theirs = nil

	kind, body, err := p.next(ctx, o, time.Now().Add(o.Start))
	var hello wire.Hello
	if err == nil && kind != wire.KindHello {
		err = fmt.Errorf("it said a message of kind %d first", kind)
	}
	if err == nil {
		err = wire.ParseJSON(body, &hello)
	}
	if err != nil {
		err = fmt.Errorf("starting a decoder with %q: %w%s", o.Command, err, p.kill())
		ours, p.memory = nil, nil // closed by kill
		return nil, err
	}
	p.decoder = hello.Decoder
	return p, nil
}

// decoderSettings are the variables a decoder process is started with.
func decoderSettings(memory int64) []string {
	const beyond = 1 << 30 // for what is asked for and never touched: stacks, the heap's reserve
	settings := []string{
		decoderEnv + "=" + strconv.FormatInt(memory+beyond, 10),
		"GOMAXPROCS=1",             // Go does little in it
		"OPENCV_FOR_THREADS_NUM=1", // there is one of it per core
		"GOTRACEBACK=none",
	}
	// Verdicts say what is wrong with a file, with its name. Who sets these to read the libraries' own words keeps them.
	for variable, quiet := range map[string]string{"OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_LOG_LEVEL": "OFF"} {
		if _, set := os.LookupEnv(variable); !set {
			settings = append(settings, variable+"="+quiet)
		}
	}
	return settings
}

// Errors of next that are the file's fault.
var (
	errSilent = errors.New("the decoder said nothing")
	errGrew   = errors.New("the decoder grew")
)

// watchEvery is how often the memory of a decoder at work is looked at. It grows by a gigabyte a second, at most a few.
const watchEvery = 50 * time.Millisecond

// next waits for a message, until ctx or deadline ends, and watches the child's memory meanwhile.
func (p *process) next(ctx context.Context, o PoolOptions, deadline time.Time) (wire.Kind, []byte, error) {
	// An end of ctx must be noticed at once, not at the next look.
	stop := context.AfterFunc(ctx, func() { _ = p.answers.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if ctx.Err() != nil {
			return 0, nil, context.Cause(ctx)
		}
		_ = p.answers.SetReadDeadline(time.Now().Add(watchEvery))
		kind, body, err := p.reader.Next()
		switch {
		case err == nil:
			return kind, body, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
				return 0, nil, errEnded
			}
			return 0, nil, err
		}
		if used := p.used(); used > o.MemoryBytes {
			return 0, nil, fmt.Errorf("%w: %d MiB (limit %d MiB)", errGrew, used>>20, o.MemoryBytes>>20)
		}
		if !time.Now().Before(deadline) {
			return 0, nil, errSilent
		}
	}
}

// say sends a message, unless ctx or deadline ends before the child has read what lies in the pipe.
func (p *process) say(ctx context.Context, deadline time.Time, kind wire.Kind, body []byte) error {
	_ = p.requests.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = p.requests.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	err := wire.Write(p.requests, kind, body)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSilent // or the end of ctx, which the caller asks
	}
	return err
}

// killed tells of a child that had ended when kill was called: SIGKILL is what ended it.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// used is the memory of the child's own, in bytes: what is resident and neither of a file nor shared.
func (p *process) used() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0 // it has just ended, which the pipe tells
	}
	var total, resident, shared int64
	if n, _ := fmt.Sscan(string(text), &total, &resident, &shared); n != 3 {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}

// alive tells whether an idle child still runs: nothing has ended its pipe.
func (p *process) alive() bool {
	conn, err := p.answers.SyscallConn() // Fd would end the pipe's deadlines
	if err != nil {
		return false
	}
	quiet := false
	err = conn.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		quiet = err == nil && n == 0
	})
	return err == nil && quiet
}

// rest forgets what a request left behind.
func (p *process) rest(touched int64) {
	const keep = 16 << 20
	if touched > keep {
		_ = unix.Madvise(p.memory, unix.MADV_REMOVE) // large frames; the memory is given back, the mapping stays
	}
	_ = p.last.Truncate(0)
}

// kill ends the child, waits for it, and says how it ended, as far as that adds to an error.
func (p *process) kill() string {
	_ = p.requests.Close()
	_ = p.answers.Close()
	killed := p.cmd.Process.Kill() == nil
	_ = p.cmd.Wait() // its state says more
	defer p.last.Close()
	_ = unix.Munmap(p.memory)
	p.memory = nil
	return p.post(killed)
}

// end closes the pipe of an idle child, which ends by itself.
func (p *process) end() {
	_ = p.requests.Close()
	_ = p.cmd.Wait()
	_ = p.answers.Close()
	_ = p.last.Close()
	_ = unix.Munmap(p.memory)
	p.memory = nil
}

// post is what remains to be said of a child that ended: its state, and the last words of a library that threw.
func (p *process) post(killed bool) string {
	var words []string
	state := p.cmd.ProcessState
	status, ok := state.Sys().(syscall.WaitStatus)
	if !killed || ok && (!status.Signaled() || status.Signal() != syscall.SIGKILL) {
		words = append(words, state.String())
	}
	if said := p.lastWords(); said != "" {
		words = append(words, said)
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, ": ") + ")"
}

// lastWords is the first line of what the child wrote to standard error; what follows are stacks.
func (p *process) lastWords() string {
	const most = 300 // bytes
	text := make([]byte, 4096)
	n, _ := p.last.ReadAt(text, 0)
	for line := range bytes.Lines(text[:n]) {
		if line := printable(string(bytes.TrimSpace(line))); line != "" {
			return line[:min(len(line), most)]
		}
	}
	return ""
}
