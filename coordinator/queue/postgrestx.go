package queue

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// pipelined statements are sent together at most.
	pipelined = 256
	// rollbackPatience is how long the server may take to give up a transaction, before its connection is given up.
	rollbackPatience = 2 * time.Second
)

// postgresTx is a transaction whose statements go to the server several at a time: each round trip is a wait, and on one
// machine two changes of process.
type postgresTx struct {
	conn  *pgx.Conn
	batch *pgx.Batch // kept back
	asks  bool       // something in it answers
	time  time.Time
}

// inPostgres runs f in a transaction that is on disk when inPostgres returns nil. now nil is the database's clock, which
// is read by the statement clock.
func inPostgres(ctx context.Context, db *sql.DB, now func() time.Time, clock string, f change) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var failed error // Raw is told only what the pool must know
	err = conn.Raw(func(c any) error {
		own, ok := c.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the driver is a %T", c)
		}
		t := &postgresTx{conn: own.Conn(), batch: &pgx.Batch{}}
		if failed = t.run(ctx, now, clock, f); failed == nil {
			return nil
		}
		if !t.conn.IsClosed() && t.conn.PgConn().TxStatus() != 'I' {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackPatience)
			defer cancel()
			_, _ = t.conn.Exec(ctx, "ROLLBACK")
		}
		if t.conn.IsClosed() || t.conn.PgConn().TxStatus() != 'I' {
			return driver.ErrBadConn
		}
		return nil
	})
	return errors.Join(failed, notBad(err, failed))
}

// notBad leaves out that a connection was given up, where it is said why.
func notBad(err, why error) error {
	if why != nil && errors.Is(err, driver.ErrBadConn) {
		return nil
	}
	return err
}

func (t *postgresTx) run(ctx context.Context, now func() time.Time, clock string, f change) error {
	t.batch.Queue("BEGIN")
	if now != nil {
		t.time = now().UTC().Truncate(time.Microsecond)
	} else {
		t.batch.Queue(clock).QueryRow(func(row pgx.Row) error {
			var micros int64
			if err := row.Scan(&micros); err != nil {
				return fmt.Errorf("reading the database's clock: %w", err)
			}
			t.time = time.UnixMicro(micros).UTC()
			return nil
		})
	}
	if err := t.flush(ctx); err != nil {
		return err
	}
	if err := f(ctx, t); err != nil {
		return err
	}
	if t.asks { // what an answer means must be known before it is for good
		if err := t.flush(ctx); err != nil {
			return err
		}
	}
	t.batch.Queue("COMMIT")
	return t.flush(ctx)
}

func (t *postgresTx) now() time.Time { return t.time }

func (t *postgresTx) do(ctx context.Context, query string, args ...any) error {
	t.batch.Queue(query, args...)
	return t.flushFull(ctx)
}

func (t *postgresTx) askLater(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	t.asks = true
	t.batch.Queue(query, args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := row(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return t.flushFull(ctx)
}

func (t *postgresTx) ask(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	if err := t.askLater(ctx, query, row, args...); err != nil {
		return err
	}
	return t.flush(ctx)
}

func (t *postgresTx) flushFull(ctx context.Context) error {
	if t.batch.Len() < pipelined {
		return nil
	}
	return t.flush(ctx)
}

func (t *postgresTx) flush(ctx context.Context) error {
	batch := t.batch
	t.batch, t.asks = &pgx.Batch{}, false
	if batch.Len() == 0 {
		return nil
	}
	return t.conn.SendBatch(ctx, batch).Close()
}
