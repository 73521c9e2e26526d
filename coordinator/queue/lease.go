package queue

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ready are the jobs of a class, from a sequence on, that may be leased now: not those that wait after a lost attempt. A
// range of one class, ordered by it, is what only the index jobs_queue has in this order: asked for the class that equals,
// PostgreSQL may walk all jobs in the order of their sequence, because it does not know how far that is.
const ready = `state = 'QUEUED' AND (class, sequence) >= (%[1]s, %[2]s) AND class <= %[1]s AND (not_before IS NULL OR not_before <= %[3]s)
	ORDER BY class, sequence LIMIT %[4]s`

// scanClasses walks from class to class, a few looks into the index for each, however many jobs wait.
var scanClasses = `
	WITH RECURSIVE classes (class) AS (
		SELECT min(class) FROM jobs WHERE state = 'QUEUED'
		UNION ALL
		SELECT (SELECT min(class) FROM jobs WHERE state = 'QUEUED' AND class > classes.class) FROM classes WHERE classes.class IS NOT NULL
	)
	SELECT classes.class, (SELECT CAST(sequence AS TEXT) || ' ' || needs FROM jobs WHERE ` + fmt.Sprintf(ready, "classes.class", "0", "$1", "1") + `)
	FROM classes WHERE classes.class IS NOT NULL`

var (
	// readyOf begins where the class does: what was leased a moment ago still lies in the index before that.
	readyOf = `SELECT sequence FROM jobs WHERE ` + fmt.Sprintf(ready, "$1", "$2", "$3", "$4")
	toLease = selectJobs + `WHERE sequence = $1 AND state = 'QUEUED'`
)

// Lease gives each of these free workers the job that it serves next: of the highest priority, then of the owner with the
// fewest jobs held, of those who have as many the one who was served longest ago, then the one submitted first, of those whose needs it meets. Workers for which there is none are left
// out.
func (s *Store) Lease(ctx context.Context, workers []Worker, lease time.Duration) (jobs []Job, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		classes, err := readClasses(ctx, t, t.now())
		if err != nil || len(classes) == 0 {
			return err
		}
		share, err := s.shares.read(ctx, t)
		if err != nil {
			return err
		}
		lines := make([]line, len(classes))
		for i, c := range classes {
			lines[i].class = c
		}
		for waiting := workers; len(waiting) > 0; {
			if err := fillLines(ctx, t, lines, waiting); err != nil {
				return err
			}
			picks, later := choose(lines, share, waiting)
			leased, without, err := s.leasePicks(ctx, t, picks, lease)
			if err != nil {
				return err
			}
			for _, p := range without { // another coordinator was faster
				share.held[p.owner]--
				later = append(later, p.worker)
			}
			jobs, waiting = append(jobs, leased...), later
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("leasing jobs: %w", err)
	}
	for _, job := range jobs {
		s.shares.serve(job.Owner)
		s.tell(Change{Job: job.ID})
	}
	return jobs, nil
}

// pick is a job chosen for a worker; whether it is still there is not known yet.
type pick struct {
	worker   Worker
	owner    string // as escaped in classes
	sequence int64
}

// leasePicks leases the jobs that were picked, but for those that another coordinator has taken meanwhile.
func (s *Store) leasePicks(ctx context.Context, t tx, picks []pick, lease time.Duration) (jobs []Job, without []pick, err error) {
	found := make([]*Job, len(picks))
	for i, p := range picks {
		err := t.askLater(ctx, toLease+s.dialect.forLease, func(row scanner) error {
			job, err := scanJob(row)
			found[i] = &job
			return err
		}, p.sequence)
		if err != nil {
			return nil, nil, err
		}
	}
	if err := t.flush(ctx); err != nil {
		return nil, nil, err
	}
	for i, p := range picks {
		if found[i] == nil {
			without = append(without, p)
			continue
		}
		job, _, err := applyTo(ctx, t, *found[i], Lease{Worker: p.worker.Name, For: lease})
		if err != nil {
			return nil, nil, err
		}
		jobs = append(jobs, job)
	}
	return jobs, without, nil
}

// readClasses reads the classes that have a job that may be leased, by service.
func readClasses(ctx context.Context, q asker, now time.Time) (classes []class, err error) {
	err = q.ask(ctx, scanClasses, func(row scanner) error {
		var name string
		var head sql.NullString
		if err := row.Scan(&name, &head); err != nil || !head.Valid {
			return err
		}
		c, err := parseClass(name)
		if err != nil {
			return err
		}
		first, needs, _ := strings.Cut(head.String, " ")
		if c.head, err = strconv.ParseInt(first, 10, 64); err != nil {
			return fmt.Errorf("first job of class %q: %w", name, err)
		}
		if c.needs, err = parseNeeds(needs); err != nil {
			return fmt.Errorf("needs of the jobs of class %q: %w", name, err)
		}
		classes = append(classes, c)
		return nil
	}, now.UnixMicro())
	return classes, err
}

// heldByClass reads an index that holds no other jobs.
const heldByClass = `SELECT class, count(*) FROM jobs WHERE lease_until IS NOT NULL GROUP BY class`

// readHeld counts the jobs that workers hold, by owner as escaped in classes.
func readHeld(ctx context.Context, q asker) (map[string]int, error) {
	held := map[string]int{}
	err := q.ask(ctx, heldByClass, func(row scanner) error {
		var name string
		var n int
		if err := row.Scan(&name, &n); err != nil {
			return err
		}
		c, err := parseClass(name)
		if err != nil {
			return err
		}
		held[c.owner] += n
		return nil
	})
	return held, err
}

// Place says where a queued job stands.
func (s *Store) Place(ctx context.Context, job Job) (Place, error) {
	p, err := s.place(ctx, job)
	if err != nil {
		return Place{}, fmt.Errorf("reading the place of job %s: %w", job.ID, err)
	}
	return p, nil
}

func (s *Store) place(ctx context.Context, job Job) (p Place, err error) {
	priority := classPrefix(job.Priority)
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM jobs WHERE state = 'QUEUED' AND class < $1`, priority).Scan(&p.Above); err != nil {
		return p, err
	}
	rows, err := s.read.QueryContext(ctx, `
		SELECT class, count(*), sum(CASE WHEN sequence < $3 THEN 1 ELSE 0 END), min(sequence)
		FROM jobs WHERE state = 'QUEUED' AND class >= $1 AND class < $2 GROUP BY class`, priority, after(priority), job.Sequence)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	p.Owners = map[string]Turn{}
	for rows.Next() {
		var name string
		var queued, earlier int
		var head int64
		if err := rows.Scan(&name, &queued, &earlier, &head); err != nil {
			return p, err
		}
		c, err := parseClass(name)
		if err != nil {
			return p, err
		}
		owner, err := url.PathUnescape(c.owner)
		if err != nil {
			return p, fmt.Errorf("class %q: %w", name, err)
		}
		t, known := p.Owners[owner]
		if known {
			head = min(head, t.Head)
		}
		p.Owners[owner] = Turn{t.Queued + queued, t.Earlier + earlier, head, s.shares.last(c.owner)}
	}
	return p, rows.Err()
}

// recentJobs is how many ended jobs Pace looks back on.
const recentJobs = 100

// Pace is how long the jobs that ended last took from their first start to their end, on average, and how many are held
// by workers now. mean is 0 when none has ended.
func (s *Store) Pace(ctx context.Context) (mean time.Duration, held int, err error) {
	var micros sql.NullFloat64
	err = s.read.QueryRowContext(ctx, `
		SELECT (SELECT avg(ended - started) FROM (
				SELECT ended, started FROM jobs WHERE ended IS NOT NULL AND started IS NOT NULL ORDER BY ended DESC LIMIT $1) AS recent),
			(SELECT count(*) FROM jobs WHERE lease_until IS NOT NULL)`, recentJobs).Scan(&micros, &held)
	if err != nil {
		return 0, 0, fmt.Errorf("reading how long jobs take: %w", err)
	}
	return time.Duration(micros.Float64) * time.Microsecond, held, nil
}

const allHeld = `WHERE lease_until IS NOT NULL ORDER BY +sequence`

// preemptPatience is how long a job waits, where several coordinators serve one database, before another gives way for it:
// one that has an idle worker may not have heard of it yet.
const preemptPatience = time.Second

// Preempt makes jobs that these attached workers hold give way to queued jobs of higher priority that wait for them, and
// returns those that do. Their workers must be told. again is when to look once more where a job that waits may have been too
// young; 0: not before something happens.
func (s *Store) Preempt(ctx context.Context, workers []Worker) (moved []Moved, again time.Duration, err error) {
	var first sql.NullString
	var lowest sql.NullInt64
	err = s.hot.ask(ctx, `
		SELECT (SELECT min(class) FROM jobs WHERE state = 'QUEUED'), (SELECT min(priority) FROM jobs WHERE lease_until IS NOT NULL)`,
		func(row scanner) error { return row.Scan(&first, &lowest) })
	if err != nil {
		return nil, 0, fmt.Errorf("looking for jobs that give way: %w", err)
	}
	if !first.Valid || !lowest.Valid || first.String >= classPrefix(int(lowest.Int64)) {
		return nil, 0, nil // the usual case, at the cost of two looks into indexes
	}
	var patience time.Duration
	if s.changes != nil && s.now == nil {
		patience = preemptPatience
	}
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		waiting, err := readClasses(ctx, t, t.now())
		if err != nil {
			return err
		}
		counts := make([]int, len(waiting))
		for i, c := range waiting {
			err := t.askLater(ctx, countClass, func(row scanner) error { return row.Scan(&counts[i]) }, c.name, t.now().UnixMicro(), len(workers), t.now().Add(-patience).UnixMicro())
			if err != nil {
				return err
			}
		}
		held, err := queryJobs(ctx, t, withoutSpec+allHeld+s.dialect.forLease)
		if err != nil {
			return err
		}
		byName := map[string]Worker{}
		for _, w := range workers {
			byName[w.Name] = w
		}
		for _, job := range victims(waiting, counts, held, byName) {
			after, effects, err := applyTo(ctx, t, job, Preempt{Reason: "a job of higher priority waits"})
			if err != nil {
				return fmt.Errorf("job %s: %w", job.ID, err)
			}
			moved = append(moved, Moved{Job: after, Effects: effects})
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("looking for jobs that give way: %w", err)
	}
	if len(moved) == 0 {
		again = patience
	}
	for _, m := range moved {
		s.tell(Change{Job: m.Job.ID})
	}
	return moved, again, nil
}
