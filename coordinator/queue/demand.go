package queue

import (
	"context"
	"database/sql"
	"fmt"
)

// Demand is what says how many workers are wanted.
type Demand struct {
	Waiting []Waiting // by service: what is served first comes first
	Busy    []string  // workers that hold a job
}

// Waiting is queued jobs with the same needs.
type Waiting struct {
	Needs Needs
	Jobs  int
}

// countClass counts as far as it matters the jobs of a class that may be leased and are not younger than $4.
const countClass = `
	SELECT count(*) FROM (
		SELECT 1 FROM jobs WHERE state = 'QUEUED' AND class = $1 AND (not_before IS NULL OR not_before <= $2) AND created <= $4 LIMIT $3) AS waiting`

// Demand returns what waits for a worker now, without jobs that wait after a lost attempt, and who is busy. It counts at
// most limit jobs of one priority, owner and needs: more than could be served need no exact number.
func (s *Store) Demand(ctx context.Context, limit int) (Demand, error) {
	d, err := s.demand(ctx, limit)
	if err != nil {
		return Demand{}, fmt.Errorf("reading what waits for workers: %w", err)
	}
	return d, nil
}

func (s *Store) demand(ctx context.Context, limit int) (d Demand, err error) {
	now, err := s.clock(ctx) // before the transaction: with both, many callers would wait for one another's connection
	if err != nil {
		return d, err
	}
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return d, err
	}
	defer func() { _ = tx.Rollback() }() // it changed nothing
	classes, err := readClasses(ctx, reader{tx}, now)
	if err != nil {
		return d, err
	}
	at := map[string]int{} // by needs
	for _, c := range classes {
		needs, err := c.needs.text()
		if err != nil {
			return d, err
		}
		var n int
		if err := tx.QueryRowContext(ctx, countClass, c.name, now.UnixMicro(), limit, now.UnixMicro()).Scan(&n); err != nil {
			return d, err
		}
		if i, ok := at[needs]; ok {
			d.Waiting[i].Jobs += n
			continue
		}
		at[needs] = len(d.Waiting)
		d.Waiting = append(d.Waiting, Waiting{Needs: c.needs, Jobs: n})
	}
	d.Busy, err = readBusy(ctx, tx)
	return d, err
}

func readBusy(ctx context.Context, tx *sql.Tx) (busy []string, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT DISTINCT worker FROM jobs WHERE lease_until IS NOT NULL ORDER BY worker`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		busy = append(busy, name)
	}
	return busy, rows.Err()
}
