package queue

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*/*.sql
var migrations embed.FS

// ErrNotFound: no job has this id.
var ErrNotFound = errors.New("no such job")

// Submission is a new job.
type Submission struct {
	ID          string // unique; the caller draws it
	RequestID   string // "" for none
	DisplayName string
	Spec        json.RawMessage
	Scheduling  Scheduling
	MaxOpen     int // jobs of its owner that may be open once it is stored; 0: any number
}

// LogEntry is one event of a job.
type LogEntry struct {
	Revision int64
	Time     time.Time
	Type     LogType
	Job      Job // after the event, without its Spec
}

// Change is something that another coordinator did to the jobs of a shared store. The zero Change says that anything may
// have changed.
type Change struct {
	Job   string // its id
	Offer bool   `json:",omitempty"` // it waits for a worker
	Stop  bool   `json:",omitempty"` // its worker must be told to stop
	Log   bool   `json:",omitempty"` // it has logged lines, which the store does not hold
}

// Store keeps jobs in SQL: in one SQLite file (OpenSQLite) or in a PostgreSQL database (OpenPostgres), with the same
// statements but for what dialect holds. Every method that changes something returns after the change is on disk.
// It is safe for concurrent use.
type Store struct {
	write, read *sql.DB
	now         func() time.Time // nil: the database's clock
	dialect     dialect
	begin       func(context.Context, change) error // runs a transaction, see update
	end         func() error                        // gives up what begin needs; nil: nothing
	applies     *gather[*applying]
	hot         *hot
	shares      shares
	changes     *changes     // tells other coordinators; nil: there are none
	lock        io.Closer    // of an SQLite file; nil: none
	doubted     atomic.Bool  // whether changes can be stored
	roomSeen    atomic.Int64 // when room was last seen, by now, Unix microseconds
	room        func() error // nil when the disk has room; nil itself: it is not ours
}

// dialect is where the databases differ.
type dialect struct {
	forUpdate string // ends a SELECT of the job that the transaction changes
	forLease  string // the same, but passes over jobs that another transaction is changing
	impatient string // has a transaction fail rather than wait long for a locked row; "": there is nobody to wait for
	clock     string // an expression: the database's clock in microseconds since 1970
}

func (s *Store) migrate(ctx context.Context, name goose.Dialect, folder string, options ...goose.ProviderOption) error {
	files, err := fs.Sub(migrations, "migrations/"+folder)
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(name, s.write, files, options...)
	if err != nil {
		return err
	}
	if _, err = provider.Up(ctx); err != nil {
		return err
	}
	version, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	if known := sources[len(sources)-1].Version; version > known {
		return fmt.Errorf("its tables are of version %d, and this program knows up to %d: a newer surmise has used it, and must go on", version, known)
	}
	return nil
}

// Close closes the database. No call may be under way.
func (s *Store) Close() error {
	if s.changes != nil {
		s.changes.close()
	}
	err := s.hot.close()
	if s.end != nil {
		err = errors.Join(err, s.end())
	}
	err = errors.Join(err, s.write.Close())
	if s.read != s.write {
		err = errors.Join(s.read.Close(), err)
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// Listen tells of what other coordinators change until ctx ends, and then returns nil. A change may come late, but not
// by more than ListenInterval, and then as the zero Change. One SQLite file has one coordinator: there Listen only
// waits.
func (s *Store) Listen(ctx context.Context, changed func(Change)) error {
	if s.changes != nil {
		return s.changes.listen(ctx, changed)
	}
	<-ctx.Done()
	return nil
}

// Submit stores a new job at the end of the queue. When a job with the same RequestID exists, that job is returned
// unchanged and created is false.
func (s *Store) Submit(ctx context.Context, sub Submission) (job Job, created bool, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		stored, err := insert(ctx, t, sub.Scheduling, []newJob{{Submission: sub}})
		if err != nil {
			return err
		}
		if created = len(stored) == 1; !created {
			job, err = oneJob(ctx, t, selectJobs+"WHERE request_id = $1", sub.RequestID)
			return err
		}
		job = stored[0]
		return checkOpen(ctx, t, job.Owner, sub.MaxOpen)
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("storing the job: %w", err)
	}
	if created {
		s.tell(Change{Job: job.ID, Offer: true})
	}
	return job, created, nil
}

// Get returns a job, or ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (Job, error) {
	job, err := oneJob(ctx, s.hot, selectJobs+"WHERE id = $1", id)
	if err != nil {
		return Job{}, fmt.Errorf("reading job %s: %w", id, err)
	}
	return job, nil
}

// List returns the jobs that the filter chooses, newest first, and whether there are more.
func (s *Store) List(ctx context.Context, f Filter) (jobs []Job, more bool, err error) {
	read := func(before int64, limit int, each func(Job) error) error {
		return eachJob(ctx, reader{s.read}, each, selectJobs+`WHERE ($1 = '' OR state = $1) AND (sequence < $2 OR $2 = 0) ORDER BY sequence DESC LIMIT $3`,
			f.State, before, limit)
	}
	jobs, more, err = readPage(f.Page, read, func(j Job) (int64, int) { return j.Sequence, len(j.Spec) + len(j.Progress) + len(j.Result) })
	if err != nil {
		return nil, false, fmt.Errorf("listing jobs: %w", err)
	}
	return jobs, more, nil
}

const heldByWorker = `WHERE lease_until IS NOT NULL AND worker = $1 ORDER BY +sequence`

// HeldBy returns the jobs that a worker holds.
func (s *Store) HeldBy(ctx context.Context, worker string) ([]Job, error) {
	jobs, err := queryJobs(ctx, s.hot, selectJobs+heldByWorker, worker)
	if err != nil {
		return nil, fmt.Errorf("listing the jobs of worker %s: %w", worker, err)
	}
	return jobs, nil
}

// What ExpireDue looks for. +sequence keeps SQLite from passing over all jobs in their order.
const (
	dueLeases    = `WHERE lease_until IS NOT NULL AND lease_until <= $1 ORDER BY +sequence`
	dueDeadlines = `WHERE deadline <= $1 AND deadline IS NOT NULL AND ended IS NULL AND state <> 'CANCELLING' ORDER BY +sequence`
	// nextDue is the time, and the first time that something is due. %s is the clock.
	nextDue = `
		WITH clock (now) AS (SELECT %s)
		SELECT (SELECT now FROM clock), (SELECT min(due) FROM (
			SELECT min(lease_until) AS due FROM jobs WHERE lease_until IS NOT NULL
			UNION ALL SELECT min(deadline) FROM jobs WHERE deadline IS NOT NULL AND ended IS NULL AND state <> 'CANCELLING'
			UNION ALL SELECT min(not_before) FROM jobs WHERE not_before IS NOT NULL AND not_before > (SELECT now FROM clock)) AS times)`
)

// ExpireDue takes back every lease that has run out and fails or stops every job whose deadline has passed. It returns the
// jobs concerned, and how long until there is something to do again: a lease or deadline that runs out, or a job that has
// waited long enough after a lost attempt; negative when there is nothing.
func (s *Store) ExpireDue(ctx context.Context) (moved []Moved, next time.Duration, err error) {
	next, err = s.nextDue(ctx)
	if err == nil && next == 0 { // mostly nothing is due, and nothing is written
		if moved, err = s.expire(ctx); err == nil {
			next, err = s.nextDue(ctx)
		}
	}
	if err != nil {
		return moved, 0, fmt.Errorf("taking back leases: %w", err)
	}
	return moved, next, nil
}

// nextDue is how long until something is due; negative: nothing is.
func (s *Store) nextDue(ctx context.Context) (time.Duration, error) {
	clock, args := s.dialect.clock, []any(nil)
	if s.now != nil {
		clock, args = "CAST($1 AS BIGINT)", []any{s.now().UnixMicro()}
	}
	var now int64
	var first sql.NullInt64
	err := s.hot.ask(ctx, fmt.Sprintf(nextDue, clock), func(row scanner) error { return row.Scan(&now, &first) }, args...)
	if err != nil {
		return 0, err
	}
	if !first.Valid {
		return -1, nil
	}
	return max(0, time.Duration(first.Int64-now)*time.Microsecond), nil
}

func (s *Store) expire(ctx context.Context) (moved []Moved, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		for _, due := range []struct {
			where string
			event Event
		}{
			{dueLeases, Expire{}},
			{dueDeadlines, Deadline{}},
		} {
			jobs, err := queryJobs(ctx, t, withoutSpec+due.where+s.dialect.forLease, t.now().UnixMicro())
			if err != nil {
				return err
			}
			for _, job := range jobs {
				after, effects, err := applyTo(ctx, t, job, due.event)
				if err != nil {
					return err
				}
				moved = append(moved, Moved{Job: after, Effects: effects, LeaseLost: due.event == Expire{}})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, m := range moved {
		if m.LeaseLost {
			s.shares.add(m.Job.Owner, -1)
		}
		s.tell(Change{Job: m.Job.ID, Offer: m.Effects.Offer, Stop: m.Effects.StopWorker})
	}
	return moved, nil
}

// Events returns up to limit events of a job after a revision, oldest first.
func (s *Store) Events(ctx context.Context, id string, after int64, limit int) ([]LogEntry, error) {
	rows, err := s.read.QueryContext(ctx, `
		SELECT revision, time, type, job FROM events WHERE job_id = $1 AND revision > $2 ORDER BY revision LIMIT $3`, id, after, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the events of job %s: %w", id, err)
	}
	defer rows.Close()
	var entries []LogEntry
	for rows.Next() {
		var e LogEntry
		var micros int64
		var text []byte
		if err := rows.Scan(&e.Revision, &micros, &e.Type, &text); err != nil {
			return nil, fmt.Errorf("reading the events of job %s: %w", id, err)
		}
		e.Time = time.UnixMicro(micros).UTC()
		if err := json.Unmarshal(text, &e.Job); err != nil {
			return nil, fmt.Errorf("reading event %d of job %s: %w", e.Revision, id, err)
		}
		entries = append(entries, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the events of job %s: %w", id, err)
	}
	return entries, nil
}

// clock is the store's time, cut to what it keeps.
func (s *Store) clock(ctx context.Context) (time.Time, error) {
	if s.now != nil {
		return s.now().UTC().Truncate(time.Microsecond), nil
	}
	var micros int64
	err := s.hot.ask(ctx, "SELECT "+s.dialect.clock, func(row scanner) error { return row.Scan(&micros) })
	return time.UnixMicro(micros).UTC(), err
}

// update runs f in a transaction that is on disk when update returns nil.
func (s *Store) update(ctx context.Context, f change) error {
	err := s.begin(ctx, f)
	switch {
	case err != nil && !isRefusal(err) && !errors.Is(err, ErrNotFound):
		s.doubted.Store(true)
	case err == nil && s.room == nil: // else a small change says nothing of larger ones
		s.doubted.Store(false)
	}
	return err
}

// Writable is nil when changes can be stored. If the last one came to nothing, which may have been refused for what it was,
// it stores one of no meaning, and sees whether the disk has room for larger ones.
func (s *Store) Writable(ctx context.Context) error {
	if !s.doubted.Load() {
		return s.stillRoom()
	}
	err := s.update(ctx, func(ctx context.Context, t tx) error {
		return t.do(ctx, "UPDATE goose_db_version SET is_applied = is_applied WHERE version_id = 1")
	})
	if err == nil && s.room != nil {
		err = s.room()
	}
	if err != nil {
		return fmt.Errorf("storing changes: %w", err)
	}
	s.doubted.Store(false)
	return nil
}

// roomEvery is how often a disk is looked at that nothing was refused by: one that fills up while nobody changes anything would
// refuse the next caller.
const roomEvery = 30 * time.Second

// stillRoom sees whether the disk has room, once in a while.
func (s *Store) stillRoom() error {
	if s.room == nil { // the disk is another machine's, and so is the clock
		return nil
	}
	now := s.now()
	if seen := time.UnixMicro(s.roomSeen.Load()); now.Sub(seen).Abs() < roomEvery {
		return nil
	}
	if err := s.room(); err != nil {
		s.doubted.Store(true)
		return fmt.Errorf("storing changes: %w", err)
	}
	s.roomSeen.Store(now.UnixMicro())
	return nil
}

// Logged lets other coordinators know that there are new log lines of a job.
func (s *Store) Logged(id string) { s.tell(Change{Job: id, Log: true}) }

// tell lets other coordinators know of a change that is on disk.
func (s *Store) tell(c Change) {
	if s.changes != nil {
		s.changes.tell(c)
	}
}
