package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// readyHead is the first job of a class that may be leased now: not one that waits after a lost attempt.
const readyHead = `state = 'QUEUED' AND class = %s AND (not_before IS NULL OR not_before <= %s) ORDER BY sequence LIMIT 1`

// scanClasses walks from class to class, one look into the index for each, however many jobs wait.
var scanClasses = `
	WITH RECURSIVE classes (class) AS (
		SELECT min(class) FROM jobs WHERE state = 'QUEUED'
		UNION ALL
		SELECT (SELECT min(class) FROM jobs WHERE state = 'QUEUED' AND class > classes.class) FROM classes WHERE classes.class IS NOT NULL
	)
	SELECT classes.class,
		(SELECT sequence FROM jobs WHERE ` + fmt.Sprintf(readyHead, "classes.class", "$1") + `),
		(SELECT needs FROM jobs WHERE ` + fmt.Sprintf(readyHead, "classes.class", "$1") + `)
	FROM classes WHERE classes.class IS NOT NULL`

// leaseHead begins where the class does: what was leased a moment ago still lies in the index before that.
var leaseHead = selectJobs + `WHERE sequence >= $3 AND ` + fmt.Sprintf(readyHead, "$1", "$2")

// Lease gives each of these free workers the job that it serves next: of the highest priority, then of the owner with the
// fewest jobs held, then the one submitted first, of those whose needs it meets. Workers for which there is none are left
// out.
func (s *Store) Lease(ctx context.Context, workers []Worker, lease time.Duration) (jobs []Job, err error) {
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		classes, err := readClasses(ctx, t, t.now())
		if err != nil || len(classes) == 0 {
			return err
		}
		held, err := readHeld(ctx, t)
		if err != nil {
			return err
		}
		for _, w := range workers {
			for {
				at := next(classes, held, w)
				if at < 0 {
					break
				}
				c := &classes[at]
				job, err := oneJob(ctx, t, leaseHead+s.dialect.forLease, c.name, t.now().UnixMicro(), c.head)
				if errors.Is(err, ErrNotFound) { // none left, or another coordinator has them
					classes = append(classes[:at], classes[at+1:]...)
					continue
				}
				if err != nil {
					return err
				}
				if job, _, err = applyTo(ctx, t, job, Lease{Worker: w.Name, For: lease}); err != nil {
					return err
				}
				held[c.owner]++
				c.head = job.Sequence + 1
				jobs = append(jobs, job)
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("leasing jobs: %w", err)
	}
	for _, job := range jobs {
		s.tell(Change{Job: job.ID})
	}
	return jobs, nil
}

// readClasses reads the classes that have a job that may be leased, by service.
func readClasses(ctx context.Context, q asker, now time.Time) (classes []class, err error) {
	err = q.ask(ctx, scanClasses, func(row scanner) error {
		var name string
		var head sql.NullInt64
		var needs sql.NullString
		if err := row.Scan(&name, &head, &needs); err != nil || !head.Valid {
			return err
		}
		c, err := parseClass(name)
		if err != nil {
			return err
		}
		c.head = head.Int64
		if c.needs, err = parseNeeds(needs.String); err != nil {
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
		SELECT class, count(*), sum(CASE WHEN sequence < $3 THEN 1 ELSE 0 END)
		FROM jobs WHERE state = 'QUEUED' AND class >= $1 AND class < $2 GROUP BY class`, priority, after(priority), job.Sequence)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	p.Owners = map[string]Turn{}
	for rows.Next() {
		var name string
		var queued, earlier int
		if err := rows.Scan(&name, &queued, &earlier); err != nil {
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
		t := p.Owners[owner]
		p.Owners[owner] = Turn{t.Queued + queued, t.Earlier + earlier}
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

// Preempt makes jobs that these attached workers hold give way to queued jobs of higher priority that wait for them, and
// returns those that do. Their workers must be told.
func (s *Store) Preempt(ctx context.Context, workers []Worker) (moved []Moved, err error) {
	var first sql.NullString
	var lowest sql.NullInt64
	err = s.hot.ask(ctx, `
		SELECT (SELECT min(class) FROM jobs WHERE state = 'QUEUED'), (SELECT min(priority) FROM jobs WHERE lease_until IS NOT NULL)`,
		func(row scanner) error { return row.Scan(&first, &lowest) })
	if err != nil {
		return nil, fmt.Errorf("looking for jobs that give way: %w", err)
	}
	if !first.Valid || !lowest.Valid || first.String >= classPrefix(int(lowest.Int64)) {
		return nil, nil // the usual case, at the cost of two looks into indexes
	}
	err = s.update(ctx, func(ctx context.Context, t tx) error {
		waiting, err := readClasses(ctx, t, t.now())
		if err != nil {
			return err
		}
		counts := make([]int, len(waiting))
		for i, c := range waiting {
			err := t.askLater(ctx, `
				SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'QUEUED' AND class = $1 LIMIT $2) AS waiting`,
				func(row scanner) error { return row.Scan(&counts[i]) }, c.name, len(workers))
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
		return nil, fmt.Errorf("looking for jobs that give way: %w", err)
	}
	for _, m := range moved {
		s.tell(Change{Job: m.Job.ID})
	}
	return moved, nil
}
