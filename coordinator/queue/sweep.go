package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrNoSweep: no sweep has this id.
var ErrNoSweep = errors.New("no such sweep")

// Sweep is a set of jobs that were submitted together. Request is the coordinator's: the queue keeps it unread.
type Sweep struct {
	ID        string
	Sequence  int64  // order of submission, from 1
	RequestID string // "" when the submitter gave none
	Request   json.RawMessage
	Created   time.Time
	Cancelled time.Time // zero when it was not
}

// SweepSubmission is a new sweep.
type SweepSubmission struct {
	ID        string // unique; the caller draws it
	RequestID string // "" for none
	Request   json.RawMessage
	Children  []ChildSubmission

	Scheduling Scheduling // of every child
	MaxOpen    int        // as in Submission
}

// ChildSubmission is a new child; its place in the sweep is its place in the list.
type ChildSubmission struct {
	ID          string
	DisplayName string
	Spec        json.RawMessage
	Values      json.RawMessage // what the sweep's parameters are in it
}

// SubmitSweep stores a sweep and its children, or nothing. When a sweep with the same RequestID exists, that one is
// returned unchanged and created is false.
func (s *Store) SubmitSweep(ctx context.Context, sub SweepSubmission) (sweep Sweep, created bool, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		sweep = Sweep{ID: sub.ID, RequestID: sub.RequestID, Request: sub.Request, Created: t.now()}
		created = false
		err := t.ask(ctx, `
			INSERT INTO sweeps (id, request_id, request, created) VALUES ($1, $2, $3, $4)
			ON CONFLICT (request_id) DO NOTHING RETURNING sequence`, into(&created, &sweep.Sequence),
			sweep.ID, optional(sweep.RequestID), string(sweep.Request), sweep.Created.UnixMicro())
		if err != nil {
			return err
		}
		if !created {
			sweep, err = oneSweep(ctx, t, selectSweeps+"WHERE request_id = $1", sub.RequestID)
			return err
		}
		children := make([]newJob, len(sub.Children))
		for i, c := range sub.Children {
			children[i] = newJob{Submission: Submission{ID: c.ID, DisplayName: c.DisplayName, Spec: c.Spec}, sweep: sub.ID, index: i, values: c.Values}
		}
		if _, err := insert(ctx, t, sub.Scheduling, children); err != nil {
			return err
		}
		return checkOpen(ctx, t, sub.Scheduling.Normal().Owner, sub.MaxOpen)
	})
	if err != nil {
		return Sweep{}, false, fmt.Errorf("storing the sweep: %w", err)
	}
	if created && len(sub.Children) > 0 {
		s.tell(Change{Job: sub.Children[0].ID, Offer: true}) // one is enough to wake the others
	}
	return sweep, created, nil
}

// GetSweep returns a sweep, or ErrNoSweep.
func (s *Store) GetSweep(ctx context.Context, id string) (Sweep, error) {
	sweep, err := oneSweep(ctx, reader{s.read}, selectSweeps+"WHERE id = $1", id)
	if err != nil {
		return Sweep{}, fmt.Errorf("reading sweep %s: %w", id, err)
	}
	return sweep, nil
}

// ListSweeps returns a page of sweeps, newest first, and whether there are more.
func (s *Store) ListSweeps(ctx context.Context, p Page) (sweeps []Sweep, more bool, err error) {
	read := func(before int64, limit int, each func(Sweep) error) error {
		return eachSweep(ctx, reader{s.read}, each, selectSweeps+"WHERE sequence < $1 OR $1 = 0 ORDER BY sequence DESC LIMIT $2", before, limit)
	}
	sweeps, more, err = readPage(p, read, func(s Sweep) (int64, int) { return s.Sequence, len(s.Request) })
	if err != nil {
		return nil, false, fmt.Errorf("listing sweeps: %w", err)
	}
	return sweeps, more, nil
}

// Children returns up to limit children of a sweep, from the one with index first on, without their specifications.
func (s *Store) Children(ctx context.Context, sweep string, first, limit int) ([]Job, error) {
	jobs, err := queryJobs(ctx, reader{s.read}, withoutSpec+`WHERE sweep_id = $1 AND sweep_index >= $2 ORDER BY sweep_index LIMIT $3`, sweep, first, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the children of sweep %s: %w", sweep, err)
	}
	return jobs, nil
}

// CountChildren says how many children of a sweep are in each state.
func (s *Store) CountChildren(ctx context.Context, sweep string) (map[State]int, error) {
	counts := map[State]int{}
	err := reader{s.read}.ask(ctx, `SELECT state, count(*) FROM jobs WHERE sweep_id = $1 GROUP BY state`, func(row scanner) error {
		var state State
		var n int
		err := row.Scan(&state, &n)
		counts[state] = n
		return err
	}, sweep)
	if err != nil {
		return nil, fmt.Errorf("counting the children of sweep %s: %w", sweep, err)
	}
	return counts, nil
}

// Moved is a job that an event moved on, and what must follow.
type Moved struct {
	Job       Job // without its Spec
	Effects   Effects
	LeaseLost bool // because its lease ran out
}

const openChildren = `WHERE sweep_id = $1 AND ended IS NULL ORDER BY id || ''`

// CancelSweep cancels every child of a sweep that has not ended, all or none, and returns those that this changed. The
// errors include ErrNoSweep.
func (s *Store) CancelSweep(ctx context.Context, id, reason string) (moved []Moved, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		if _, err := oneSweep(ctx, t, selectSweeps+"WHERE id = $1"+s.dialect.forUpdate, id); err != nil {
			return err
		}
		// In the order of applyIn; the expression keeps SQLite from passing over all jobs in it.
		jobs, err := queryJobs(ctx, t, withoutSpec+openChildren+s.dialect.forUpdate, id)
		if err != nil || len(jobs) == 0 {
			return err
		}
		if err := t.do(ctx, `UPDATE sweeps SET cancelled = $1 WHERE id = $2 AND cancelled IS NULL`, t.now().UnixMicro(), id); err != nil {
			return err
		}
		for _, job := range jobs {
			after, effects, err := applyTo(ctx, t, job, Cancel{Reason: reason})
			if err != nil {
				return fmt.Errorf("job %s: %w", job.ID, err)
			}
			moved = append(moved, Moved{Job: after, Effects: effects})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cancelling sweep %s: %w", id, err)
	}
	for _, m := range moved {
		s.tell(Change{Job: m.Job.ID, Stop: m.Effects.StopWorker})
	}
	return moved, nil
}

// ReachRung records what a child of a sweep reported at a rung of successive halving, and returns the values of all
// children that have come to it. A child counts once: first is false, and nothing changes, when it was there before.
func (s *Store) ReachRung(ctx context.Context, job Job, rung int, value float64) (values []float64, first bool, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		var one int
		err := t.ask(ctx, `
			INSERT INTO rungs (sweep_id, rung, job_id, value) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING 1`,
			into(&first, &one), job.Sweep, rung, job.ID, value)
		if err != nil {
			return err
		}
		return t.ask(ctx, `SELECT value FROM rungs WHERE sweep_id = $1 AND rung = $2`, func(row scanner) error {
			var v float64
			err := row.Scan(&v)
			values = append(values, v)
			return err
		}, job.Sweep, rung)
	})
	if err != nil {
		return nil, false, fmt.Errorf("recording rung %d of job %s: %w", rung, job.ID, err)
	}
	return values, first, nil
}

const selectSweeps = `SELECT sequence, id, request_id, request, created, cancelled FROM sweeps `

func eachSweep(ctx context.Context, q asker, each func(Sweep) error, query string, args ...any) error {
	return q.ask(ctx, query, func(row scanner) error {
		sweep, err := scanSweep(row)
		if err != nil {
			return err
		}
		return each(sweep)
	}, args...)
}

func querySweeps(ctx context.Context, q asker, query string, args ...any) (sweeps []Sweep, err error) {
	err = eachSweep(ctx, q, func(sweep Sweep) error {
		sweeps = append(sweeps, sweep)
		return nil
	}, query, args...)
	return sweeps, err
}

// oneSweep reads the sweep that a query answers, or is ErrNoSweep.
func oneSweep(ctx context.Context, q asker, query string, args ...any) (Sweep, error) {
	sweeps, err := querySweeps(ctx, q, query, args...)
	if err == nil && len(sweeps) == 0 {
		err = ErrNoSweep
	}
	if err != nil {
		return Sweep{}, err
	}
	return sweeps[0], nil
}

func scanSweep(row scanner) (Sweep, error) {
	var s Sweep
	var request sql.NullString
	var text string
	var created, cancelled sql.NullInt64
	err := row.Scan(&s.Sequence, &s.ID, &request, &text, &created, &cancelled)
	if err != nil {
		return Sweep{}, err
	}
	s.RequestID, s.Request = request.String, json.RawMessage(text)
	s.Created, s.Cancelled = instant(created), instant(cancelled)
	return s, nil
}
