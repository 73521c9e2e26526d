// Package inproc starts workers as processes of this machine, for one machine and for tests.
//
// Each worker holds a lock on a file of its own for as long as it lives, so a coordinator that was killed and starts again,
// and others on this machine, know which of them live. A coordinator that stops in order stops those that it started.
package inproc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// Options says what is run. The zero value of a field has the meaning stated.
type Options struct {
	Prefix   string        // of names; required
	Program  []string      // the worker and its first arguments: surmise worker --coordinator …; required
	Dir      string        // folder for what is known of workers and for their output; required
	Patience time.Duration // how long workers may take to stop when the launcher closes; 0: 30 s
	Logger   *slog.Logger  // nil: slog.Default()
}

// Launcher is a launch.Launcher of processes. It is safe for concurrent use. Close must be called.
type Launcher struct {
	o Options

	mu      sync.Mutex
	mine    map[string]*os.Process // started here, until it is noted how they ended; by worker
	closed  bool
	watched sync.WaitGroup
}

// New returns a launcher.
func New(o Options) (*Launcher, error) {
	if err := launch.CheckPrefix(o.Prefix); err != nil {
		return nil, fmt.Errorf("inproc: prefix %w", err)
	}
	if len(o.Program) == 0 || o.Dir == "" {
		return nil, errors.New("inproc: Program or Dir is empty")
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("inproc: folder: %w", err)
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Launcher{o: o, mine: map[string]*os.Process{}}, nil
}

// Close asks the workers that this launcher started to hand back their jobs and stop, and waits for them.
func (l *Launcher) Close() {
	l.mu.Lock()
	l.closed = true
	for _, p := range l.mine {
		_ = p.Signal(syscall.SIGTERM) // it may have ended
	}
	l.mu.Unlock()
	late := time.AfterFunc(l.o.Patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, p := range l.mine {
			_ = p.Kill()
		}
	})
	l.watched.Wait()
	late.Stop()
}

// Engine implements launch.Launcher.
func (l *Launcher) Engine() string { return "this machine" }

// What lies in the folder of a batch, by the worker's number.
const (
	lockSuffix  = ".lock"  // locked while the worker lives; holds its process id
	endSuffix   = ".ended" // how it ended, where the launcher that started it saw that
	outSuffix   = ".log"   // what it prints
	keptBatches = 100      // of a pool, the newest
)

// Start implements launch.Launcher.
func (l *Launcher) Start(ctx context.Context, b launch.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.Count < 1 || b.Name.Prefix != l.o.Prefix {
		return fmt.Errorf("starting %s: %d workers, of prefix %s", b.Name, b.Count, l.o.Prefix)
	}
	if err := os.MkdirAll(l.o.Dir, 0o755); err != nil {
		return fmt.Errorf("starting %s: %w", b.Name, err)
	}
	dir := filepath.Join(l.o.Dir, b.Name.String())
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil // whoever makes the folder starts the batch
	} else if err != nil {
		return fmt.Errorf("starting %s: %w", b.Name, err)
	}
	for i := range b.Count {
		if err := l.startOne(dir, b, i); err != nil {
			if i == 0 {
				_ = os.RemoveAll(dir) // it may be tried again
			}
			return fmt.Errorf("starting %s: %w", b.Worker(i), err)
		}
	}
	l.prune(b.Name)
	return nil
}

func (l *Launcher) startOne(dir string, b launch.Batch, i int) error {
	path := filepath.Join(dir, strconv.Itoa(i))
	lock, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // the process has it, too
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s: %w", lock.Name(), err)
	}
	out, err := os.OpenFile(path+outSuffix, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	args := append(append([]string{}, l.o.Program[1:]...), b.Flags()...)
	// The process outlives the call that starts it, and a coordinator that is killed.
	cmd := exec.CommandContext(context.Background(), l.o.Program[0], append(args, "--name="+b.Worker(i))...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{lock}                     // its descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the terminal is the coordinator's
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the launcher is closed")
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.mine[b.Worker(i)] = cmd.Process
	l.watched.Go(func() {
		l.noteEnd(path+endSuffix, b.Worker(i), cmd.Wait())
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.mine, b.Worker(i))
	})
	if _, err = fmt.Fprintf(lock, "%d\n", cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill() // nobody would find it again; it is waited for above
	}
	return err
}

// ending is how a worker ended.
type ending struct {
	Failed bool   `json:"failed"`
	Reason string `json:"reason"`
}

func (l *Launcher) noteEnd(path, worker string, err error) {
	end := ending{Reason: "exit status 0"}
	if err != nil {
		end.Reason = err.Error()
		var exit *exec.ExitError
		status, ok := syscall.WaitStatus(0), false
		if errors.As(err, &exit) {
			status, ok = exit.Sys().(syscall.WaitStatus)
		}
		end.Failed = !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM
	}
	l.o.Logger.Info("worker ended", "worker", worker, "reason", end.Reason)
	text, _ := json.Marshal(end) // a bool and a string
	temp := path + ".new"
	if err := errors.Join(os.WriteFile(temp, text, 0o644), os.Rename(temp, path)); err != nil {
		l.o.Logger.Warn("noting how a worker ended", "worker", worker, "error", err)
	}
}

// List implements launch.Launcher.
func (l *Launcher) List(ctx context.Context) ([]launch.Worker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	batches, err := os.ReadDir(l.o.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing workers: %w", err)
	}
	var workers []launch.Worker
	for _, entry := range batches {
		batch, ok := launch.ParseBatch(l.o.Prefix, entry.Name())
		if !ok {
			continue
		}
		of, err := l.listBatch(batch)
		if err != nil {
			return nil, fmt.Errorf("listing workers: %w", err)
		}
		workers = append(workers, of...)
	}
	return workers, nil
}

func (l *Launcher) listBatch(batch launch.BatchName) (workers []launch.Worker, err error) {
	dir := filepath.Join(l.o.Dir, batch.String())
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // pruned
	}
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		number, isLock := strings.CutSuffix(file.Name(), lockSuffix)
		i, err := strconv.Atoi(number)
		if !isLock || err != nil {
			continue
		}
		path := filepath.Join(dir, number)
		w := launch.Worker{Name: batch.Worker(i), State: launch.Running}
		switch alive, err := locked(path + lockSuffix); {
		case err != nil:
			return nil, err
		case !alive && !l.watches(w.Name):
			w.State = launch.Ended
			w.Failed, w.Reason = readEnd(path)
		}
		workers = append(workers, w)
	}
	return workers, nil
}

// watches reports whether how this worker ends has yet to be noted here.
func (l *Launcher) watches(worker string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mine[worker] != nil
}

// locked reports whether a process holds the lock: it lives.
func locked(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() // gives the lock up
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return false, nil
}

// readEnd is how a worker ended, as far as that was seen.
func readEnd(path string) (failed bool, reason string) {
	text, err := os.ReadFile(path + endSuffix)
	var end ending
	if err != nil || json.Unmarshal(text, &end) != nil {
		return false, ""
	}
	if end.Failed {
		end.Reason += "; it printed to " + path + outSuffix
	}
	return end.Failed, end.Reason
}

// Stop implements launch.Launcher.
func (l *Launcher) Stop(ctx context.Context, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, name := range names {
		batch, i, ok := launch.ParseWorker(l.o.Prefix, name)
		if !ok {
			continue
		}
		lock := filepath.Join(l.o.Dir, batch.String(), strconv.Itoa(i)+lockSuffix)
		text, err := os.ReadFile(lock)
		if err != nil {
			continue // it was never there
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid < 2 {
			continue
		}
		// A number that has become another's does not have the file open.
		if open, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", pid)); err != nil || open != lock {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stopping %s: %w", name, err)
		}
	}
	return nil
}

// prune removes what is known of old batches that have ended.
func (l *Launcher) prune(newest launch.BatchName) {
	batches, err := os.ReadDir(l.o.Dir)
	if err != nil {
		return
	}
	for _, entry := range batches {
		batch, ok := launch.ParseBatch(l.o.Prefix, entry.Name())
		if !ok || batch.Pool != newest.Pool || batch.Attempt > newest.Attempt-keptBatches {
			continue
		}
		workers, err := l.listBatch(batch)
		for _, w := range workers {
			if w.State != launch.Ended {
				err = errors.New("lives")
			}
		}
		if err == nil {
			_ = os.RemoveAll(filepath.Join(l.o.Dir, entry.Name())) // the next one tries again
		}
	}
}
