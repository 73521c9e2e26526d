package queue

import (
	"context"
	"errors"
	"fmt"
)

// ErrTooManyOpen: the owner would have more jobs that have not ended than the submission allows. Nothing was stored.
var ErrTooManyOpen = errors.New("too many open jobs")

// checkOpen refuses what a transaction has just stored if its owner now has more than most open jobs; 0: any number.
// Coordinators that share a PostgreSQL and store at the same moment do not see each other's jobs, and may together pass
// the bound by one submission each.
func checkOpen(ctx context.Context, t tx, owner string, most int) error {
	if most == 0 {
		return nil
	}
	var open int
	err := t.ask(ctx, `SELECT count(*) FROM jobs WHERE owner = $1 AND ended IS NULL`, func(row scanner) error { return row.Scan(&open) }, owner)
	if err != nil {
		return err
	}
	if open > most {
		return fmt.Errorf("%w: there would be %d (limit %d)", ErrTooManyOpen, open, most)
	}
	return nil
}
