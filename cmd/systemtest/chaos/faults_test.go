package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"golang.org/x/sys/unix"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// disturb waits until it is time for a fault, does it and undoes it.
func (r *round) disturb(ctx context.Context, f fault) error {
	j := r.main[f.job]
	if err := j.reach(ctx, f.step); err != nil {
		return err
	}
	if err := pause(ctx, f.late); err != nil {
		return err
	}
	switch f.kind {
	case killWorker:
		return r.killWorker(ctx, f)
	case drainWorker:
		return restart(ctx, r.workers[f.target])
	case killCoordinator:
		return crash(ctx, r.coordinators[f.target])
	case restartCoordiator:
		return restart(ctx, r.coordinators[f.target])
	case stopWorker:
		return stopFor(ctx, r.workers[f.target], f.lasts)
	case stopCoordinator:
		return stopFor(ctx, r.coordinators[f.target], f.lasts)
	case limitFiles:
		return limitFor(ctx, r.workers[f.target], f.lasts)
	case jumpClock:
		return r.jump(f)
	case preempt:
		_, err := r.submit(ctx, urgent, r.training(seedOf[urgent], steps/3), 10)
		return err
	case cancel:
		return r.cancel(ctx)
	case cutNetwork:
		return r.cut(ctx, r.proxies[f.target], f.lasts)
	case delayNetwork:
		return r.toxic(ctx, r.proxies[f.target], f.lasts, `{"type":"latency","stream":"upstream","attributes":{"latency":300,"jitter":200}}`)
	case halfOpen:
		return r.halfOpen(ctx, r.proxies[f.target], f)
	case fullDisk:
		return r.fill(ctx, f)
	case readOnlyDisk:
		return r.freeze(ctx, f)
	case lockStore:
		return r.lock(ctx, f.lasts)
	case cutStore:
		r.relay.set(true)
		defer r.relay.set(false)
		return pause(ctx, f.lasts)
	case replay:
		return r.replayStale(ctx, j, f.target%len(r.addresses))
	}
	return fmt.Errorf("fault %q is not known", f.kind)
}

// pause waits as long as a fault is planned to last.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// restart ends a service in good order and starts it again.
func restart(ctx context.Context, s *service) error {
	s.hold.Lock()
	defer s.hold.Unlock()
	if err := s.terminate(ctx); err != nil {
		return err
	}
	return s.start()
}

// crash kills a service and starts it again.
func crash(ctx context.Context, s *service) error {
	s.hold.Lock()
	defer s.hold.Unlock()
	if _, err := s.end(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	return s.start()
}

func (r *round) killWorker(ctx context.Context, f fault) error {
	w := r.workers[f.target]
	w.hold.Lock()
	defer w.hold.Unlock()
	if _, err := w.end(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	switch f.variant {
	case laterName:
		if err := pause(ctx, r.lease+time.Second); err != nil {
			return err
		}
	case otherName:
		r.rename(f.target)
	}
	return w.start()
}

func stopFor(ctx context.Context, s *service, lasts time.Duration) error {
	s.hold.Lock()
	defer s.hold.Unlock()
	s.signal(syscall.SIGSTOP)
	defer s.signal(syscall.SIGCONT)
	return pause(ctx, lasts)
}

// smallFile is less than a checkpoint.
const smallFile = 16 << 10

func limitFor(ctx context.Context, s *service, lasts time.Duration) error {
	s.hold.Lock()
	defer s.hold.Unlock()
	if err := s.limitFiles(smallFile); err != nil {
		return err
	}
	return errors.Join(pause(ctx, lasts), s.limitFiles(unix.RLIM_INFINITY))
}

func (r *round) jump(f fault) error {
	w := r.workers[f.target]
	w.hold.Lock()
	defer w.hold.Unlock()
	err := setClock(w.pid(), f.offset)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil // it has ended by itself; the next one's clock is right
	}
	return err
}

// cancel submits a job that would never end, and cancels it once it runs, or before.
func (r *round) cancel(ctx context.Context) error {
	j, err := r.submit(ctx, endless, r.training(seedOf[endless], 1e8), 0)
	if err != nil {
		return err
	}
	_, err = retry(ctx, r.client, 0, func(ctx context.Context, c surmisev1.JobServiceClient) (*surmisev1.Job, error) {
		return c.CancelJob(ctx, &surmisev1.CancelJobRequest{Name: j.name})
	})
	if err != nil {
		return fmt.Errorf("cancelling %s: %w", j.name, err)
	}
	return nil
}

// cut closes every connection and takes none for a while.
func (r *round) cut(ctx context.Context, p *link, lasts time.Duration) error {
	p.hold.Lock()
	defer p.hold.Unlock()
	p.Stop()
	return errors.Join(pause(ctx, lasts), p.Start())
}

func (r *round) toxic(ctx context.Context, p *link, lasts time.Duration, description string) error {
	p.hold.Lock()
	defer p.hold.Unlock()
	toxic, err := p.Toxics.AddToxicJson(strings.NewReader(description))
	if err != nil {
		return err
	}
	return errors.Join(pause(ctx, lasts), p.Toxics.RemoveToxic(context.WithoutCancel(ctx), toxic.Name))
}

// halfOpen loses whatever is sent, without a word to those who send. Then all connections end, as when the way between them
// has forgotten them.
func (r *round) halfOpen(ctx context.Context, p *link, f fault) error {
	p.hold.Lock()
	defer p.hold.Unlock()
	var names []string
	for variant, stream := range map[string]string{upward: "upstream", downward: "downstream"} {
		if f.variant != variant && f.variant != bothWays {
			continue
		}
		toxic, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":"timeout","stream":%q,"attributes":{"timeout":0}}`, stream)))
		if err != nil {
			return err
		}
		names = append(names, toxic.Name)
	}
	errs := []error{pause(ctx, f.lasts)}
	p.Stop()
	for _, name := range names {
		errs = append(errs, p.Toxics.RemoveToxic(context.WithoutCancel(ctx), name))
	}
	return errors.Join(append(errs, p.Start())...)
}

// disks are those that a fault names.
func (r *round) disks(variant string) []disk {
	switch variant {
	case artifacts:
		return []disk{r.artifactDisk}
	case jobs:
		return []disk{r.jobDisk}
	}
	return []disk{r.artifactDisk, r.jobDisk}
}

func (r *round) fill(ctx context.Context, f fault) (err error) {
	r.diskHold.Lock()
	defer r.diskHold.Unlock()
	for _, d := range r.disks(f.variant) {
		free, err := d.fill()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, free()) }()
	}
	return pause(ctx, f.lasts)
}

// freeze makes a disk read-only. The coordinator has its jobs open, so it begins anew on that disk, as after a machine's
// start.
func (r *round) freeze(ctx context.Context, f fault) (err error) {
	r.diskHold.Lock()
	defer r.diskHold.Unlock()
	if f.variant == jobs {
		r.storeHold.Lock() // while a file is open for writing, its disk cannot be made read-only
		defer r.storeHold.Unlock()
		c := r.coordinators[0]
		c.hold.Lock()
		defer c.hold.Unlock()
		if _, err := c.end(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		if err := unix.Mount("", r.jobDisk.path, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return errors.Join(fmt.Errorf("making %s read-only: %w", r.jobDisk.path, err), c.start())
		}
		if err := c.start(); err != nil {
			return err
		}
		return errors.Join(pause(ctx, f.lasts), unix.Mount("", r.jobDisk.path, "", unix.MS_REMOUNT, ""))
	}
	thaw, err := r.artifactDisk.freeze()
	if err != nil {
		return err
	}
	return errors.Join(pause(ctx, f.lasts), thaw())
}

// lock holds the right to write to SQLite's file, as a backup may.
func (r *round) lock(ctx context.Context, lasts time.Duration) error {
	r.storeHold.Lock()
	defer r.storeHold.Unlock()
	db, err := openStore(r.store)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("locking the store: %w", err)
	}
	err = pause(ctx, lasts)
	_, rollback := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	return errors.Join(err, rollback)
}

// newLink makes the way of a worker.
func newLink(server *toxiproxy.ApiServer, name, upstream string) (*link, error) {
	p := toxiproxy.NewProxy(server, name, anyPort, upstream)
	return &link{Proxy: p}, p.Start()
}
