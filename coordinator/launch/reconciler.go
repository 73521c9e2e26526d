package launch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// Demander tells what waits; *queue.Store is one.
type Demander interface {
	Demand(ctx context.Context, limit int) (queue.Demand, error)
}

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// Reconciler has a launcher start workers as jobs wait for them.
type Reconciler struct {
	settings Settings
	launcher Launcher
	clock    Clock
	log      *slog.Logger
	wake     chan struct{} // holds a token when there is reason to look before the interval is over

	mu    sync.Mutex // guards what follows, which Explain reads
	list  trouble    // of the engine not answering
	pools []poolState
}

// poolState is what is remembered of a pool. To forget it, as a coordinator that starts again does, costs a wait cut short.
type poolState struct {
	view    poolView
	trouble trouble
	seen    map[string]sighting // workers as of the look before, by name; nil: there was none
	surplus time.Time           // since when some wait for nothing; zero: none do
}

// sighting is a worker at the last look.
type sighting struct {
	alive  bool
	worked bool // has been seen with a job
	asked  bool // was asked for since
}

// trouble is why nothing is started now, and until when.
type trouble struct {
	times  int    // in a row
	words  string // "" for none
	asking bool   // the engine refused, rather than a worker coming to nothing
	until  time.Time
}

// New returns a reconciler, for Run. A nil clock is the system's, a nil log slog's default.
func New(s Settings, l Launcher, clock Clock, log *slog.Logger) (*Reconciler, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, errors.New("launch: launcher is nil")
	}
	if clock == nil {
		clock = SystemClock{}
	}
	if log == nil {
		log = slog.Default()
	}
	return &Reconciler{
		settings: s, launcher: l, clock: clock, log: log.With("engine", l.Engine()),
		wake: make(chan struct{}, 1), pools: make([]poolState, len(s.Pools)),
	}, nil
}

// SystemClock is the system's Clock.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Wake says that there may be something to do: a job was submitted. It never waits.
func (r *Reconciler) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run looks at what waits until ctx ends, and then returns. Workers that were started go on.
func (r *Reconciler) Run(ctx context.Context, waits Demander) {
	for {
		r.look(ctx, waits)
		select {
		case <-ctx.Done():
			return
		case <-r.clock.After(r.settings.Interval):
			continue
		case <-r.wake:
		}
		select { // a worker that is free may take the job first; more jobs may come
		case <-ctx.Done():
			return
		case <-r.clock.After(r.settings.Settle):
		}
	}
}

// look compares what there is with what is wanted, once, and acts on the difference.
func (r *Reconciler) look(ctx context.Context, waits Demander) {
	demand, err := waits.Demand(ctx, r.most())
	if err != nil {
		if ctx.Err() == nil {
			r.log.Error("launch", "error", err)
		}
		return
	}
	if !r.concerns(demand) {
		return
	}
	workers, err := r.listWorkers(ctx)
	if err != nil {
		return
	}
	views := plan(r.settings, demand, workers)
	r.learn(demand, workers, views)
	for i := range views {
		r.startMissing(ctx, i)
		r.stopSurplus(ctx, i)
	}
}

// most is how many jobs it is worth to count.
func (r *Reconciler) most() (n int) {
	for _, p := range r.settings.Pools {
		n += p.Max
	}
	return n
}

// concerns reports whether the engine need be asked at all: not when nothing waits and, when last asked, it had no worker.
func (r *Reconciler) concerns(d queue.Demand) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list.words != "" && r.clock.Now().Before(r.list.until) {
		return false
	}
	if len(d.Waiting) > 0 {
		return true
	}
	for i, p := range r.settings.Pools {
		if state := r.pools[i]; p.Min > 0 || state.seen == nil || len(state.view.alive) > 0 {
			return true
		}
	}
	return false
}

func (r *Reconciler) listWorkers(ctx context.Context) ([]Worker, error) {
	asked, done := context.WithTimeout(ctx, r.settings.Patience)
	defer done()
	workers, err := r.launcher.List(asked)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.list = trouble{}
		return workers, nil
	}
	if ctx.Err() == nil {
		r.hold(&r.list, err.Error(), true)
		r.log.Warn("the engine does not tell of its workers", "error", err, "retry_at", r.list.until)
	}
	return nil, err
}

// hold waits longer each time.
func (r *Reconciler) hold(t *trouble, words string, asking bool) {
	wait := r.settings.MaxBackoff
	if t.times < 30 {
		wait = min(wait, r.settings.MinBackoff<<t.times)
	}
	t.times, t.words, t.asking, t.until = t.times+1, Words(words), asking, r.clock.Now().Add(wait)
}

// learn takes what a look showed, and notes workers that came to nothing: to start the next ones at once would go round
// and round.
func (r *Reconciler) learn(d queue.Demand, workers []Worker, views []poolView) {
	busy := map[string]bool{}
	for _, name := range d.Busy {
		busy[name] = true
	}
	byPool := make([]map[string]Worker, len(views))
	for i := range byPool {
		byPool[i] = map[string]Worker{}
	}
	for _, w := range workers {
		if name, _, ok := ParseWorker(r.settings.Prefix, w.Name); ok {
			if i := r.settings.pool(name.Pool); i >= 0 {
				byPool[i][w.Name] = w
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	for i, v := range views {
		state := &r.pools[i]
		state.view = v
		name, why := state.wasted(byPool[i], r.launcher.Engine())
		switch t := state.trouble; {
		case t.asking && len(v.start) == 0 && !now.Before(t.until), !t.asking && v.atWork:
			state.trouble = trouble{}
		case name != "":
			r.hold(&state.trouble, why, false)
			r.log.Warn("a worker came to nothing", "pool", r.settings.Pools[i].Name, "worker", name, "reason", state.trouble.words, "retry_at", state.trouble.until)
		}
		before := state.seen
		state.seen = make(map[string]sighting, len(byPool[i]))
		for name, w := range byPool[i] {
			state.seen[name] = sighting{alive: w.State != Ended, worked: busy[name] || before[name].worked}
		}
		switch {
		case len(v.surplus) == 0:
			state.surplus = time.Time{}
		case state.surplus.IsZero():
			state.surplus = now
		}
	}
}

// wasted names a worker that failed, or is gone from the engine's memory, before it was ever seen with a job, and says
// why; "" for none. The first look counts none: what it finds ended did so in an earlier time.
func (s *poolState) wasted(workers map[string]Worker, engine string) (name, why string) {
	if s.seen == nil {
		return "", ""
	}
	note := func(n, reason string) {
		if name == "" || n < name { // the same whatever the order of maps
			name, why = n, reason
		}
	}
	for n, w := range workers {
		if before, known := s.seen[n]; w.State == Ended && w.Failed && !before.worked && (before.alive || !known) {
			note(n, "worker "+n+" ended: "+orNothing(w.Reason))
		}
	}
	for n, before := range s.seen {
		if _, there := workers[n]; there || !before.alive || before.worked {
			continue
		}
		if _, first := workers[firstOf(n)]; before.asked && first {
			continue // another coordinator was quicker, and asked for fewer
		}
		note(n, "worker "+n+" is gone from "+engine)
	}
	return name, why
}

// firstOf is the name of the first worker in a worker's batch.
func firstOf(worker string) string { return worker[:strings.LastIndexByte(worker, '-')] + "-0" }

func orNothing(reason string) string {
	if reason == "" {
		return "no reason given"
	}
	return reason
}

// startMissing starts what the pool lacks, unless it has to wait.
func (r *Reconciler) startMissing(ctx context.Context, i int) {
	r.mu.Lock()
	state := &r.pools[i]
	start := state.view.start
	if r.clock.Now().Before(state.trouble.until) {
		start = nil
	}
	r.mu.Unlock()
	for _, b := range start {
		asked, done := context.WithTimeout(ctx, r.settings.Patience)
		err := r.launcher.Start(asked, b)
		done()
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		if err != nil {
			r.hold(&state.trouble, err.Error(), true)
			r.log.Warn("the engine refuses workers", "batch", b.Name.String(), "workers", b.Count, "error", err, "retry_at", state.trouble.until)
			r.mu.Unlock()
			return
		}
		if state.trouble.asking {
			state.trouble = trouble{}
		}
		for n := range b.Count {
			state.view.alive = append(state.view.alive, Worker{Name: b.Worker(n), State: Waiting})
			state.seen[b.Worker(n)] = sighting{alive: true, asked: true}
		}
		state.view.pending += b.Count
		r.log.Info("workers asked for", "batch", b.Name.String(), "workers", b.Count, "jobs_waiting", state.view.waiting)
		r.mu.Unlock()
	}
}

// stopSurplus takes back what has waited with the engine for nothing for a while.
func (r *Reconciler) stopSurplus(ctx context.Context, i int) {
	r.mu.Lock()
	state := &r.pools[i]
	names := state.view.surplus
	due := len(names) > 0 && !r.clock.Now().Before(state.surplus.Add(r.settings.Idle))
	r.mu.Unlock()
	if !due {
		return
	}
	asked, done := context.WithTimeout(ctx, r.settings.Patience)
	defer done()
	if err := r.launcher.Stop(asked, names); err != nil {
		if ctx.Err() == nil {
			r.log.Warn("taking back workers that wait for nothing", "workers", len(names), "error", err)
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names { // that they end is no surprise
		delete(state.seen, name)
	}
	r.log.Info("workers taken back: no job waits for them", "pool", r.settings.Pools[i].Name, "workers", len(names))
}
