package queue

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

// togetherMax is how many changes one transaction takes at most.
const togetherMax = 256

// together puts changes that come while a transaction is being written into the next one, so that they share the wait for
// the disk: SQLite has one writer, and a change costs it far less than a sync. Each change has a savepoint of its own and
// fails alone. Whoever finds nobody writing writes for all who wait.
type together struct {
	db  *sql.DB
	now func() time.Time

	writing chan struct{} // holds a token while somebody writes
	mu      sync.Mutex
	waiting []*pendingChange
}

type pendingChange struct {
	ctx  context.Context
	f    func(context.Context, *sql.Tx, time.Time) error
	done chan error // of one
}

func newTogether(db *sql.DB, now func() time.Time) *together {
	return &together{db: db, now: now, writing: make(chan struct{}, 1)}
}

// update runs f in a transaction that is on disk when update returns nil. A context that ends while f waits stops it; from
// then on f is not interrupted, which would undo the changes of others.
func (t *together) update(ctx context.Context, f func(context.Context, *sql.Tx, time.Time) error) error {
	c := &pendingChange{ctx, f, make(chan error, 1)}
	t.mu.Lock()
	t.waiting = append(t.waiting, c)
	t.mu.Unlock()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		if t.withdraw(c) {
			return ctx.Err()
		}
		return <-c.done
	case t.writing <- struct{}{}:
	}
	defer func() { <-t.writing }()
	for {
		select {
		case err := <-c.done:
			return err
		default:
			t.write() // c may lie beyond a full transaction
		}
	}
}

// withdraw takes a change back that nobody has begun to write.
func (t *together) withdraw(c *pendingChange) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, w := range t.waiting {
		if w == c {
			t.waiting = append(t.waiting[:i:i], t.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// write writes those that wait, and tells each how it went.
func (t *together) write() {
	t.mu.Lock()
	n := min(len(t.waiting), togetherMax)
	changes := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	t.mu.Unlock()

	errs := make([]error, len(changes))
	if err := t.commit(changes, errs); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	for i, c := range changes {
		c.done <- errs[i]
	}
}

// commit applies the changes in one transaction and notes in errs those that fail alone; its own error is for the others.
func (t *together) commit(changes []*pendingChange, errs []error) error {
	ctx := context.Background() // the work of several callers
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no-op after Commit
	for i, c := range changes {
		if errs[i] = c.ctx.Err(); errs[i] != nil {
			continue
		}
		if len(changes) == 1 { // the transaction is its savepoint
			if err := c.apply(tx, t.now().UTC().Truncate(time.Microsecond)); err != nil {
				return err
			}
			break
		}
		if _, err := tx.ExecContext(ctx, "SAVEPOINT change"); err != nil {
			return err
		}
		end := "RELEASE change"
		if errs[i] = c.apply(tx, t.now().UTC().Truncate(time.Microsecond)); errs[i] != nil {
			end = "ROLLBACK TO change; RELEASE change"
		}
		if _, err := tx.ExecContext(ctx, end); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// apply turns a panic into the error of this change: others share the goroutine.
func (c *pendingChange) apply(tx *sql.Tx, now time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while changing the store: %v", p)
		}
	}()
	return c.f(context.WithoutCancel(c.ctx), tx, now)
}
