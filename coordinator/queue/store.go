package queue

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
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

// child is the place of a new job in a sweep; the zero child is in none.
type child struct {
	sweep  string
	index  int
	values json.RawMessage
}

// Filter chooses jobs to list, newest first.
type Filter struct {
	State  State // "" for all
	Before int64 // only sequences below this; 0 for all
	Limit  int
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
	Offer bool   // it waits for a worker
	Stop  bool   // its worker must be told to stop
}

// Store keeps jobs in SQL: in one SQLite file (OpenSQLite) or in a PostgreSQL database (OpenPostgres), with the same
// statements but for what dialect holds. Every method that changes something returns after the change is on disk.
// It is safe for concurrent use.
type Store struct {
	write, read *sql.DB
	now         func() time.Time // nil: the database's clock
	dialect     dialect
	changes     *changes  // tells other coordinators; nil: there are none
	together    *together // gathers changes; nil: each has a transaction of its own
}

// dialect is where the databases differ.
type dialect struct {
	forUpdate string // ends a SELECT of the job that the transaction changes
	forLease  string // the same, but passes over jobs that another transaction is changing
	clock     string // SELECT of the database's clock in microseconds since 1970
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
	_, err = provider.Up(ctx)
	return err
}

// Close closes the database. No call may be under way.
func (s *Store) Close() error {
	if s.changes != nil {
		s.changes.close()
	}
	err := s.write.Close()
	if s.read != s.write {
		err = errors.Join(s.read.Close(), err)
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
	err = s.update(ctx, func(ctx context.Context, tx *sql.Tx, now time.Time) error {
		statements, err := prepareInsert(ctx, tx)
		if err != nil {
			return err
		}
		defer statements.close()
		job, created, err = statements.insert(ctx, sub, child{}, now)
		if err == nil && !created {
			job, err = scanJob(tx.QueryRowContext(ctx, selectJobs+"WHERE request_id = $1", sub.RequestID))
		}
		if err == nil && created {
			err = checkOpen(ctx, tx, job.Owner, sub.MaxOpen)
		}
		return err
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
	job, err := scanJob(s.read.QueryRowContext(ctx, selectJobs+"WHERE id = $1", id))
	if err != nil {
		return Job{}, fmt.Errorf("reading job %s: %w", id, err)
	}
	return job, nil
}

// List returns the jobs that the filter chooses, newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]Job, error) {
	jobs, err := queryJobs(ctx, s.read, selectJobs+`WHERE ($1 = '' OR state = $1) AND (sequence < $2 OR $2 = 0) ORDER BY sequence DESC LIMIT $3`,
		f.State, f.Before, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing jobs: %w", err)
	}
	return jobs, nil
}

const heldByWorker = `WHERE lease_until IS NOT NULL AND worker = $1 ORDER BY +sequence`

// HeldBy returns the jobs that a worker holds.
func (s *Store) HeldBy(ctx context.Context, worker string) ([]Job, error) {
	jobs, err := queryJobs(ctx, s.read, selectJobs+heldByWorker, worker)
	if err != nil {
		return nil, fmt.Errorf("listing the jobs of worker %s: %w", worker, err)
	}
	return jobs, nil
}

// Apply moves a job on by an event, as the function Apply does, and stores what comes out. The errors are that
// function's, and ErrNotFound.
func (s *Store) Apply(ctx context.Context, id string, e Event) (job Job, effects Effects, err error) {
	err = s.update(ctx, func(ctx context.Context, tx *sql.Tx, now time.Time) error {
		job, err = scanJob(tx.QueryRowContext(ctx, selectJobs+"WHERE id = $1"+s.dialect.forUpdate, id))
		if err != nil {
			return err
		}
		job, effects, err = applyTo(ctx, tx, job, e, now)
		return err
	})
	if err != nil {
		return job, Effects{}, fmt.Errorf("job %s: %w", id, err)
	}
	if effects != (Effects{}) {
		s.tell(Change{Job: id, Offer: effects.Offer, Stop: effects.StopWorker})
	}
	return job, effects, nil
}

// What ExpireDue looks for. +sequence keeps SQLite from passing over all jobs in their order.
const (
	dueLeases    = `WHERE lease_until IS NOT NULL AND lease_until <= $1 ORDER BY +sequence`
	dueDeadlines = `WHERE deadline <= $1 AND deadline IS NOT NULL AND ended IS NULL AND state <> 'CANCELLING' ORDER BY +sequence`
	nextDue      = `
		SELECT min(due) FROM (
			SELECT min(lease_until) AS due FROM jobs WHERE lease_until IS NOT NULL
			UNION ALL SELECT min(deadline) FROM jobs WHERE deadline IS NOT NULL AND ended IS NULL AND state <> 'CANCELLING'
			UNION ALL SELECT min(not_before) FROM jobs WHERE not_before IS NOT NULL AND not_before > $1) AS times`
)

// ExpireDue takes back every lease that has run out and fails or stops every job whose deadline has passed. It returns the
// jobs concerned, and how long until there is something to do again: a lease or deadline that runs out, or a job that has
// waited long enough after a lost attempt; negative when there is nothing.
func (s *Store) ExpireDue(ctx context.Context) (moved []Moved, next time.Duration, err error) {
	err = s.update(ctx, func(ctx context.Context, tx *sql.Tx, now time.Time) error {
		for _, due := range []struct {
			where string
			event Event
		}{
			{dueLeases, Expire{}},
			{dueDeadlines, Deadline{}},
		} {
			jobs, err := queryJobs(ctx, tx, withoutSpec+due.where+s.dialect.forLease, now.UnixMicro())
			if err != nil {
				return err
			}
			for _, job := range jobs {
				after, effects, err := applyTo(ctx, tx, job, due.event, now)
				if err != nil {
					return err
				}
				moved = append(moved, Moved{Job: after, Effects: effects, LeaseLost: due.event == Expire{}})
			}
		}
		var first sql.NullInt64
		err := tx.QueryRowContext(ctx, nextDue, now.UnixMicro()).Scan(&first)
		if err != nil {
			return err
		}
		next = -1
		if first.Valid {
			next = max(0, time.UnixMicro(first.Int64).Sub(now))
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("taking back leases: %w", err)
	}
	for _, m := range moved {
		s.tell(Change{Job: m.Job.ID, Offer: m.Effects.Offer, Stop: m.Effects.StopWorker})
	}
	return moved, next, nil
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

// update runs f in a transaction that is on disk when update returns nil. Times are cut to what the store keeps.
func (s *Store) update(ctx context.Context, f func(context.Context, *sql.Tx, time.Time) error) error {
	if s.together != nil {
		return s.together.update(ctx, f)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no-op after Commit
	now, err := s.clock(ctx, tx)
	if err != nil {
		return err
	}
	if err := f(ctx, tx, now); err != nil {
		return err
	}
	return tx.Commit()
}

// clock tells the store's time, in a transaction of it.
func (s *Store) clock(ctx context.Context, tx *sql.Tx) (time.Time, error) {
	if s.now != nil {
		return s.now().UTC().Truncate(time.Microsecond), nil
	}
	var micros int64
	if err := tx.QueryRowContext(ctx, s.dialect.clock).Scan(&micros); err != nil {
		return time.Time{}, fmt.Errorf("reading the database's clock: %w", err)
	}
	return time.UnixMicro(micros).UTC(), nil
}

// tell lets other coordinators know of a change that is on disk.
func (s *Store) tell(c Change) {
	if s.changes != nil {
		s.changes.tell(c)
	}
}

// applyTo moves on a job that was read in tx. On error the job is as it was.
func applyTo(ctx context.Context, tx *sql.Tx, job Job, e Event, now time.Time) (Job, Effects, error) {
	after, effects, err := Apply(job, e, now)
	if err != nil {
		return job, Effects{}, err
	}
	if err := save(ctx, tx, &after, effects.Log, now); err != nil {
		return job, Effects{}, err
	}
	return after, effects, nil
}

// save writes what can change of a job, and a log entry unless typ is "".
func save(ctx context.Context, tx *sql.Tx, j *Job, typ LogType, now time.Time) error {
	if typ != "" {
		j.Revision++
	}
	j.Reason = printable(j.Reason)
	_, err := tx.ExecContext(ctx, `
		UPDATE jobs SET state = $1, reason = $2, epoch = $3, worker = $4, lease_until = $5, losses = $6, progress = $7,
			checkpoint_step = $8, checkpoint_path = $9, checkpoint_time = $10, result = $11, started = $12, ended = $13,
			revision = $14, not_before = $15, stop = $16
		WHERE id = $17`,
		j.State, j.Reason, j.Epoch, j.Worker, micros(j.LeaseUntil), j.Losses, text(j.Progress),
		j.Checkpoint.Step, j.Checkpoint.Path, micros(j.Checkpoint.Time), text(j.Result), micros(j.Started), micros(j.Ended),
		j.Revision, micros(j.NotBefore), j.Stop, j.ID)
	if err != nil || typ == "" {
		return err
	}
	snapshot, err := logged(*j)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, insertEvent, j.ID, j.Revision, now.UnixMicro(), typ, snapshot)
	return err
}

// logged is a job as the event log keeps it.
func logged(j Job) (string, error) {
	j.Spec = nil
	snapshot, err := json.Marshal(j)
	return string(snapshot), err
}

const (
	insertJob = `
		INSERT INTO jobs (id, request_id, display_name, spec, state, reason, epoch, worker, losses,
			checkpoint_step, checkpoint_path, created, revision, sweep_id, sweep_index, sweep_values, owner, priority, needs, class, deadline)
		VALUES ($1, $2, $3, $4, $5, '', 0, '', 0, 0, '', $6, 1, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (request_id) DO NOTHING RETURNING sequence`
	insertEvent = `INSERT INTO events (job_id, revision, time, type, job) VALUES ($1, $2, $3, $4, $5)`
)

// inserter holds the statements that store new jobs in a transaction.
type inserter struct{ job, event *sql.Stmt }

func prepareInsert(ctx context.Context, tx *sql.Tx) (in inserter, err error) {
	if in.job, err = tx.PrepareContext(ctx, insertJob); err != nil {
		return in, err
	}
	if in.event, err = tx.PrepareContext(ctx, insertEvent); err != nil {
		return in, errors.Join(err, in.job.Close())
	}
	return in, nil
}

// close gives the statements up; the end of the transaction would as well.
func (in inserter) close() {
	_ = in.job.Close()
	_ = in.event.Close()
}

// insert stores a queued job with its first event; created is false, and nothing is stored, when its request id is taken.
func (in inserter) insert(ctx context.Context, sub Submission, c child, now time.Time) (job Job, created bool, err error) {
	sub.Scheduling = sub.Scheduling.Normal()
	needs, err := sub.Scheduling.Needs.text()
	if err != nil {
		return Job{}, false, err
	}
	job = Job{
		ID: sub.ID, RequestID: sub.RequestID, DisplayName: printable(sub.DisplayName), Spec: sub.Spec, State: Queued, Created: now,
		Scheduling: sub.Scheduling, Revision: 1, Sweep: c.sweep, SweepIndex: c.index, SweepValues: c.values,
	}
	err = in.job.QueryRowContext(ctx, job.ID, optional(job.RequestID), job.DisplayName, string(job.Spec), job.State, now.UnixMicro(),
		optional(c.sweep), c.index, text(c.values), job.Owner, job.Priority, needs, className(job.Owner, job.Priority, needs),
		micros(job.Deadline)).Scan(&job.Sequence)
	if errors.Is(err, sql.ErrNoRows) {
		return Job{}, false, nil
	}
	if err != nil {
		return Job{}, false, err
	}
	snapshot, err := logged(job)
	if err != nil {
		return Job{}, false, err
	}
	_, err = in.event.ExecContext(ctx, job.ID, job.Revision, now.UnixMicro(), LogSubmitted, snapshot)
	return job, err == nil, err
}

const (
	jobColumns = ` state, reason, epoch, worker, lease_until, losses, progress,
		checkpoint_step, checkpoint_path, checkpoint_time, result, created, started, ended, revision,
		sweep_id, sweep_index, sweep_values, owner, priority, needs, not_before, deadline, stop FROM jobs `
	selectJobs = `SELECT sequence, id, request_id, display_name, spec,` + jobColumns
	// withoutSpec is for where many jobs are read and none is run.
	withoutSpec = `SELECT sequence, id, request_id, display_name, '',` + jobColumns
)

// queryJobs reads all jobs that a query answers, which begins with selectJobs or withoutSpec.
func queryJobs(ctx context.Context, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, query string, args ...any) ([]Job, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var jobs []Job
	for rows.Next() {
		job, err := scanJob(rows)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, job)
	}
	return jobs, rows.Err()
}

func scanJob(row interface{ Scan(...any) error }) (Job, error) {
	var j Job
	var request sql.NullString
	var spec string
	var progress, result, sweep, values sql.NullString
	var lease, checkpoint, created, started, ended, notBefore, deadline sql.NullInt64
	var needs string
	err := row.Scan(&j.Sequence, &j.ID, &request, &j.DisplayName, &spec, &j.State, &j.Reason, &j.Epoch, &j.Worker, &lease,
		&j.Losses, &progress, &j.Checkpoint.Step, &j.Checkpoint.Path, &checkpoint, &result, &created, &started, &ended, &j.Revision,
		&sweep, &j.SweepIndex, &values, &j.Owner, &j.Priority, &needs, &notBefore, &deadline, &j.Stop)
	if errors.Is(err, sql.ErrNoRows) {
		return Job{}, ErrNotFound
	}
	if err != nil {
		return Job{}, err
	}
	j.RequestID, j.Sweep, j.SweepValues = request.String, sweep.String, raw(values)
	if spec != "" {
		j.Spec = json.RawMessage(spec)
	}
	j.Progress, j.Result = raw(progress), raw(result)
	j.LeaseUntil, j.Checkpoint.Time = instant(lease), instant(checkpoint)
	j.NotBefore, j.Deadline = instant(notBefore), instant(deadline)
	if j.Needs, err = parseNeeds(needs); err != nil {
		return Job{}, fmt.Errorf("needs of job %s: %w", j.ID, err)
	}
	j.Created, j.Started, j.Ended = instant(created), instant(started), instant(ended)
	return j, nil
}

// printable is s as every database can keep it: PostgreSQL's text holds no NUL.
func printable(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }

func micros(t time.Time) sql.NullInt64 {
	if t.IsZero() {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: true}
}

func instant(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}

func optional(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

func text(m json.RawMessage) sql.NullString {
	return sql.NullString{String: string(m), Valid: m != nil}
}

func raw(s sql.NullString) json.RawMessage {
	if !s.Valid {
		return nil
	}
	return json.RawMessage(s.String)
}
