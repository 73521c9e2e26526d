package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const (
	insertJob = `
		INSERT INTO jobs (id, request_id, display_name, spec, state, reason, epoch, worker, losses,
			checkpoint_step, checkpoint_path, created, revision, sweep_id, sweep_index, sweep_values, owner, priority, needs, class, deadline)
		VALUES ($1, $2, $3, $4, $5, '', 0, '', 0, 0, '', $6, 1, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (request_id) DO NOTHING RETURNING sequence`
	updateJob = `
		UPDATE jobs SET state = $1, reason = $2, epoch = $3, worker = $4, lease_until = $5, losses = $6, progress = $7,
			checkpoint_step = $8, checkpoint_path = $9, checkpoint_time = $10, result = $11, started = $12, ended = $13,
			revision = $14, not_before = $15, stop = $16
		WHERE id = $17`
	insertEvent = `INSERT INTO events (job_id, revision, time, type, job) VALUES ($1, $2, $3, $4, $5)`
)

// newJob is a job to store, and its place in a sweep.
type newJob struct {
	Submission
	sweep  string // "" for none
	index  int
	values json.RawMessage
}

// insertedTogether jobs are stored before their events, whose rows hold what the database numbered them.
const insertedTogether = 100

// insert stores queued jobs, each with its first event, and returns them. Those whose request id is taken are left out.
func insert(ctx context.Context, t tx, s Scheduling, subs []newJob) ([]Job, error) {
	s = s.Normal()
	needs, err := s.Needs.text()
	if err != nil {
		return nil, err
	}
	class, created := className(s.Owner, s.Priority, needs), t.now()
	jobs := make([]Job, 0, len(subs))
	for len(subs) > 0 {
		some := subs[:min(len(subs), insertedTogether)]
		subs = subs[len(some):]
		first := len(jobs)
		for _, sub := range some {
			job := Job{
				ID: sub.ID, RequestID: sub.RequestID, DisplayName: Printable(sub.DisplayName), Spec: sub.Spec, State: Queued, Created: created,
				Scheduling: s, Revision: 1, Sweep: sub.sweep, SweepIndex: sub.index, SweepValues: sub.values,
			}
			err := t.askLater(ctx, insertJob, func(row scanner) error {
				if err := row.Scan(&job.Sequence); err != nil {
					return err
				}
				jobs = append(jobs, job)
				return nil
			}, job.ID, optional(job.RequestID), job.DisplayName, string(job.Spec), job.State, created.UnixMicro(),
				optional(job.Sweep), job.SweepIndex, text(job.SweepValues), job.Owner, job.Priority, needs, class, micros(job.Deadline))
			if err != nil {
				return nil, fmt.Errorf("job %s: %w", job.ID, err)
			}
		}
		if err := t.flush(ctx); err != nil {
			return nil, err
		}
		for _, job := range jobs[first:] {
			if err := logEvent(ctx, t, job, LogSubmitted); err != nil {
				return nil, fmt.Errorf("job %s: %w", job.ID, err)
			}
		}
	}
	return jobs, nil
}

// applyTo moves on a job that was read in t. On error the job is as it was.
func applyTo(ctx context.Context, t tx, job Job, e Event) (Job, Effects, error) {
	after, effects, err := applyLogged(ctx, t, job, e)
	if err == nil {
		err = update(ctx, t, after)
	}
	if err != nil {
		return job, Effects{}, err
	}
	return after, effects, nil
}

// applyLogged is applyTo without storing the job, only its log entry.
func applyLogged(ctx context.Context, t tx, job Job, e Event) (Job, Effects, error) {
	after, effects, err := Apply(job, e, t.now())
	if err != nil {
		return job, Effects{}, err
	}
	after.Reason = Printable(after.Reason)
	if effects.Log != "" {
		after.Revision++
		if err := logEvent(ctx, t, after, effects.Log); err != nil {
			return job, Effects{}, err
		}
	}
	return after, effects, nil
}

// update writes what can change of a job.
func update(ctx context.Context, t tx, j Job) error {
	return t.do(ctx, updateJob,
		j.State, j.Reason, j.Epoch, j.Worker, micros(j.LeaseUntil), j.Losses, text(j.Progress),
		j.Checkpoint.Step, j.Checkpoint.Path, micros(j.Checkpoint.Time), text(j.Result), micros(j.Started), micros(j.Ended),
		j.Revision, micros(j.NotBefore), j.Stop, j.ID)
}

// logEvent appends the job, as it is after an event and without its spec, to its log.
func logEvent(ctx context.Context, t tx, j Job, typ LogType) error {
	j.Spec = nil
	snapshot, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return t.do(ctx, insertEvent, j.ID, j.Revision, t.now().UnixMicro(), typ, string(snapshot))
}

const (
	jobColumns = ` state, reason, epoch, worker, lease_until, losses, progress,
		checkpoint_step, checkpoint_path, checkpoint_time, result, created, started, ended, revision,
		sweep_id, sweep_index, sweep_values, owner, priority, needs, not_before, deadline, stop FROM jobs `
	selectJobs = `SELECT sequence, id, request_id, display_name, spec,` + jobColumns
	// withoutSpec is for where many jobs are read and none is run.
	withoutSpec = `SELECT sequence, id, request_id, display_name, '',` + jobColumns
)

// eachJob passes on the jobs that a query answers, until it is told to end by an error, which it returns.
func eachJob(ctx context.Context, q asker, each func(Job) error, query string, args ...any) error {
	return q.ask(ctx, query, func(row scanner) error {
		job, err := scanJob(row)
		if err != nil {
			return err
		}
		return each(job)
	}, args...)
}

// queryJobs reads all jobs that a query answers, which begins with selectJobs or withoutSpec.
func queryJobs(ctx context.Context, q asker, query string, args ...any) ([]Job, error) {
	var jobs []Job
	err := eachJob(ctx, q, func(job Job) error {
		jobs = append(jobs, job)
		return nil
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return jobs, nil
}

// oneJob reads the job that a query answers, or is ErrNotFound.
func oneJob(ctx context.Context, q asker, query string, args ...any) (Job, error) {
	jobs, err := queryJobs(ctx, q, query, args...)
	if err != nil {
		return Job{}, err
	}
	if len(jobs) == 0 {
		return Job{}, ErrNotFound
	}
	return jobs[0], nil
}

func scanJob(row scanner) (Job, error) {
	var j Job
	var request sql.NullString
	var spec string
	var progress, result, sweep, values sql.NullString
	var lease, checkpoint, created, started, ended, notBefore, deadline sql.NullInt64
	var needs string
	err := row.Scan(&j.Sequence, &j.ID, &request, &j.DisplayName, &spec, &j.State, &j.Reason, &j.Epoch, &j.Worker, &lease,
		&j.Losses, &progress, &j.Checkpoint.Step, &j.Checkpoint.Path, &checkpoint, &result, &created, &started, &ended, &j.Revision,
		&sweep, &j.SweepIndex, &values, &j.Owner, &j.Priority, &needs, &notBefore, &deadline, &j.Stop)
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

// Printable is s as every database can keep it: PostgreSQL's text holds no NUL.
func Printable(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }

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
