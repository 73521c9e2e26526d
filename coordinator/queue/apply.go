package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// applyPatience is how long the store may take about events that were gathered; their senders' contexts no longer count.
const applyPatience = 30 * time.Second

// applying is an event on its way into the store, and what came of it.
type applying struct {
	id      string
	event   Event
	job     Job
	effects Effects
	freed   bool // a worker held it before, and none does now
}

// Apply moves a job on by an event, as the function Apply does, and stores what comes out. The errors are that
// function's, and ErrNotFound. Events that come while others are being written are written together.
func (s *Store) Apply(ctx context.Context, id string, e Event) (Job, Effects, error) {
	a := &applying{id: id, event: e}
	if err := s.applies.do(ctx, a); err != nil {
		return a.job, Effects{}, fmt.Errorf("job %s: %w", id, err)
	}
	if a.freed {
		s.shares.add(a.job.Owner, -1)
	}
	if a.effects != (Effects{}) {
		s.tell(Change{Job: id, Offer: a.effects.Offer, Stop: a.effects.StopWorker})
	}
	return a.job, a.effects, nil
}

// applyAll stores events in one transaction and says how each went.
func (s *Store) applyAll(batch []*asked[*applying]) []error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(batch[0].ctx), applyPatience)
	defer cancel()
	errs := make([]error, len(batch))
	err := s.update(ctx, func(ctx context.Context, t tx) error { return s.applyIn(ctx, t, batch, errs) })
	if err == nil {
		return errs
	}
	if ctx.Err() != nil { // ours: the caller's may have no end
		err = fmt.Errorf("the store took longer than %v: %s", applyPatience, err.Error()) // no deadline of the caller's
	}
	if len(batch) == 1 || !perhapsOfOne(err) {
		return all(len(batch), err)
	}
	for i := range batch {
		errs[i] = s.applyAll(batch[i : i+1])[0]
	}
	return errs
}

// perhapsOfOne tells whether the fault may lie with one of several events: PostgreSQL took offence at what was written,
// which SQLite never does, broke a deadlock, or waited too long for a row that somebody has locked.
func perhapsOfOne(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || len(refused.Code) < 2 {
		return false
	}
	switch refused.Code[:2] {
	case "22", "23", "40", "54", "55": // data, constraints, deadlocks and the like, limits, locks
		return true
	}
	return false
}

// applyIn notes in errs the events that change nothing; its own error is for all.
func (s *Store) applyIn(ctx context.Context, t tx, batch []*asked[*applying], errs []error) error {
	jobs := map[string]*Job{}
	for _, a := range batch {
		jobs[a.what.id] = nil
	}
	if s.dialect.impatient != "" { // one job that is locked must not hold up the heartbeats of all others
		if err := t.do(ctx, s.dialect.impatient); err != nil {
			return err
		}
	}
	ids := slices.Sorted(maps.Keys(jobs)) // whoever locks several jobs does it in this order
	for _, id := range ids {
		err := t.askLater(ctx, selectJobs+"WHERE id = $1"+s.dialect.forUpdate, func(row scanner) error {
			job, err := scanJob(row)
			jobs[id] = &job
			return err
		}, id)
		if err != nil {
			return err
		}
	}
	if err := t.flush(ctx); err != nil {
		return err
	}
	changed := map[string]bool{}
	for i, a := range batch {
		job := jobs[a.what.id]
		if job == nil {
			errs[i] = ErrNotFound
			continue
		}
		after, effects, err := applyLogged(ctx, t, *job, a.what.event)
		a.what.job, a.what.effects = after, effects
		switch {
		case isRefusal(err):
			errs[i] = err
		case err != nil:
			return err
		default:
			a.what.freed = job.State.Held() && !after.State.Held()
			*job, changed[a.what.id] = after, true
		}
	}
	for _, id := range ids {
		if changed[id] {
			if err := update(ctx, t, *jobs[id]); err != nil {
				return err
			}
		}
	}
	return nil
}

// isRefusal tells an event that a job does not take from a store that fails.
func isRefusal(err error) bool {
	return errors.Is(err, ErrStale) || errors.Is(err, ErrEnded) || errors.Is(err, ErrNotDue) || errors.Is(err, ErrNotQueued)
}
