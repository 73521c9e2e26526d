package queue

import (
	"context"
	"database/sql"
	"time"
)

// scanner is a row of an answer.
type scanner interface{ Scan(...any) error }

// tx is a transaction that changes jobs. Both databases take the same statements through it; SQLite runs each at once,
// PostgreSQL sends several in one round trip. One goroutine uses it.
type tx interface {
	asker
	// do runs a statement that answers nothing. It, and its error, may wait until the next ask, flush or commit.
	do(ctx context.Context, query string, args ...any) error
	// askLater is ask, but row may be called, and an error told, only by the next ask or flush.
	askLater(ctx context.Context, query string, row func(scanner) error, args ...any) error
	// flush waits for what was kept back.
	flush(ctx context.Context) error
	// now is the store's time at its beginning, cut to what the store keeps.
	now() time.Time
}

// asker answers queries.
type asker interface {
	// ask passes each row of an answer to row, until it returns an error, which it returns. row asks nothing itself.
	ask(ctx context.Context, query string, row func(scanner) error, args ...any) error
}

// reader asks outside of a transaction that changes jobs: a *sql.DB, *sql.Conn or read-only *sql.Tx.
type reader struct {
	db interface {
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	}
}

func (r reader) ask(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	rows, err := r.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return eachRow(rows, row)
}

func eachRow(rows *sql.Rows, row func(scanner) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// into scans a single row and notes that there was one.
func into(found *bool, targets ...any) func(scanner) error {
	return func(row scanner) error {
		*found = true
		return row.Scan(targets...)
	}
}
