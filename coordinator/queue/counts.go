package queue

import (
	"context"
	"fmt"
)

// Counts returns how many jobs are in each state; states without a job are absent.
func (s *Store) Counts(ctx context.Context) (map[State]int, error) {
	counts := map[State]int{}
	err := s.hot.ask(ctx, `SELECT state, count(*) FROM jobs GROUP BY state`, func(row scanner) error {
		var state State
		var n int
		err := row.Scan(&state, &n)
		counts[state] = n
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("counting jobs: %w", err)
	}
	return counts, nil
}

// Backlog is how many queued jobs have the same needs.
type Backlog struct {
	Needs   Needs
	Ready   int // may be leased
	Delayed int // wait after a lost attempt
}

// Backlogs returns what is queued, by needs.
func (s *Store) Backlogs(ctx context.Context) (logs []Backlog, err error) {
	now, err := s.clock(ctx)
	if err == nil {
		err = s.hot.ask(ctx, `
			SELECT needs, count(*), sum(CASE WHEN not_before > $1 THEN 1 ELSE 0 END) FROM jobs WHERE state = 'QUEUED' GROUP BY needs ORDER BY needs`,
			func(row scanner) error {
				var needs string
				var b Backlog
				if err := row.Scan(&needs, &b.Ready, &b.Delayed); err != nil {
					return err
				}
				b.Ready -= b.Delayed
				b.Needs, err = parseNeeds(needs)
				logs = append(logs, b)
				return err
			}, now.UnixMicro())
	}
	if err != nil {
		return nil, fmt.Errorf("counting queued jobs: %w", err)
	}
	return logs, nil
}
