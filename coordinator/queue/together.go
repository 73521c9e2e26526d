package queue

import (
	"context"
	"fmt"
	"time"
)

// togetherMax is how many changes one transaction takes at most.
const togetherMax = 256

// change is what one caller does in a transaction.
type change func(context.Context, tx) error

// together puts changes that come while a transaction is being written into the next one: SQLite has one writer, and a
// change costs it far less than a sync. Each change has a savepoint of its own and fails alone.
type together struct {
	conn   *sqliteConn
	now    func() time.Time
	gather *gather[change]
}

func newTogether(conn *sqliteConn, now func() time.Time) *together {
	t := &together{conn: conn, now: now}
	t.gather = newGather(togetherMax, t.write)
	return t
}

// update runs f in a transaction that is on disk when update returns nil.
func (t *together) update(ctx context.Context, f change) error { return t.gather.do(ctx, f) }

// write applies the changes in one transaction and says how each went.
func (t *together) write(changes []*asked[change]) []error {
	errs := make([]error, len(changes))
	if err := t.commit(changes, errs); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	return errs
}

// commit notes in errs the changes that fail alone; its own error is for the others.
func (t *together) commit(changes []*asked[change], errs []error) error {
	ctx := context.Background() // the work of several callers
	if err := t.conn.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	done := false
	defer func() {
		if !done {
			t.conn.rollback(ctx)
		}
	}()
	for i, c := range changes {
		if len(changes) == 1 { // the transaction is its savepoint
			if err := t.apply(c); err != nil {
				return err
			}
			break
		}
		if err := t.conn.exec(ctx, "SAVEPOINT change"); err != nil {
			return err
		}
		if errs[i] = t.apply(c); errs[i] != nil {
			if err := t.conn.exec(ctx, "ROLLBACK TO change"); err != nil {
				return err
			}
		}
		if err := t.conn.exec(ctx, "RELEASE change"); err != nil {
			return err
		}
	}
	if err := t.conn.exec(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	done = true
	return nil
}

// apply turns a panic into the error of this change.
func (t *together) apply(c *asked[change]) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while changing the store: %v", p)
		}
	}()
	return c.what(context.WithoutCancel(c.ctx), &sqliteTx{t.conn, t.now().UTC().Truncate(time.Microsecond)})
}
