package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// hot asks what is asked all the time, outside of transactions, parsed once for each connection.
type hot struct {
	db    *sql.DB
	mu    sync.Mutex
	ready map[string]*sql.Stmt // guarded by mu; by text, a handful
}

func newHot(db *sql.DB) *hot { return &hot{db: db, ready: map[string]*sql.Stmt{}} }

func (h *hot) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if stmt := h.ready[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := h.db.PrepareContext(ctx, query) //nolint:sqlclosecheck // kept until close
	if err != nil {
		return nil, fmt.Errorf("preparing %q: %w", query, err)
	}
	h.ready[query] = stmt
	return stmt, nil
}

func (h *hot) ask(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	stmt, err := h.statement(ctx, query) //nolint:sqlclosecheck // kept until close
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	return eachRow(rows, row)
}

func (h *hot) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, stmt := range h.ready {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(errs...)
}
