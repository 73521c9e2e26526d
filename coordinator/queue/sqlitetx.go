package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// sqliteConn is the one connection that changes an SQLite file. It parses each statement once. One goroutine at a time
// uses it.
type sqliteConn struct {
	conn  *sql.Conn
	ready map[string]*sql.Stmt // by text: those of this package, a few dozen
}

func newSQLiteConn(ctx context.Context, db *sql.DB) (*sqliteConn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &sqliteConn{conn: conn, ready: map[string]*sql.Stmt{}}, nil
}

func (c *sqliteConn) close() error {
	var errs []error
	for _, stmt := range c.ready {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, c.conn.Close())...)
}

func (c *sqliteConn) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt := c.ready[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := c.conn.PrepareContext(context.WithoutCancel(ctx), query)
	if err != nil {
		return nil, fmt.Errorf("preparing %q: %w", query, err)
	}
	c.ready[query] = stmt
	return stmt, nil
}

func (c *sqliteConn) exec(ctx context.Context, query string, args ...any) error {
	stmt, err := c.statement(ctx, query) //nolint:sqlclosecheck // kept until close
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx, args...)
	return err
}

// rollback ends a transaction that failed. SQLite may have ended it by itself, after a full disk for one, and then says
// that there is none.
func (c *sqliteConn) rollback(ctx context.Context) { _ = c.exec(ctx, "ROLLBACK") }

// sqliteTx is a transaction, or a savepoint in one.
type sqliteTx struct {
	conn *sqliteConn
	time time.Time
}

func (t *sqliteTx) now() time.Time { return t.time }

func (t *sqliteTx) do(ctx context.Context, query string, args ...any) error {
	return t.conn.exec(ctx, query, args...)
}

func (t *sqliteTx) ask(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	stmt, err := t.conn.statement(ctx, query) //nolint:sqlclosecheck // kept until close
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	return eachRow(rows, row)
}

func (t *sqliteTx) askLater(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	return t.ask(ctx, query, row, args...)
}

func (t *sqliteTx) flush(context.Context) error { return nil }
