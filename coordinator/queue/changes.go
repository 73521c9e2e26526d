package queue

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// ListenInterval bounds how late a coordinator learns of a change when its notification is lost: the one who changed
	// something may be killed between the commit and the notification.
	ListenInterval = 5 * time.Second

	channel = "surmise_jobs"
	// changesPerNotice keeps a notice below PostgreSQL's limit of 8000 bytes: a change is below 130.
	changesPerNotice = 60
	// flushPatience is how long notices may take: over a connection that is dead they would take minutes.
	flushPatience = 10 * time.Second
	// closePatience is how long the last notices may take when the store closes.
	closePatience = 2 * time.Second
)

// changes sends notices of what this coordinator changed and hears those of others. Notices go out after the commit and
// by a goroutine of their own: inside the transaction NOTIFY would make all commits of the database wait for each other,
// and nothing depends on a notice but how soon it is known.
type changes struct {
	config *pgx.ConnConfig // of the connection that listens
	db     *sql.DB
	node   string // tells our own notices from those of others

	mu      sync.Mutex
	pending map[string]Change // by job
	wake    chan struct{}     // holds a token when something is pending
	stop    chan struct{}
	stopped chan struct{}
}

// notice is what is sent.
type notice struct {
	Node    string   `json:"n"`
	Changes []Change `json:"c"`
}

func newChanges(config *pgx.ConnConfig, db *sql.DB) *changes {
	c := &changes{
		config: config, db: db, node: rand.Text()[:8], pending: map[string]Change{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go c.send()
	return c
}

// close sends what is pending and ends the goroutine.
func (c *changes) close() {
	close(c.stop)
	<-c.stopped
}

// tell never waits. Changes of one job that were not sent yet are sent as one.
func (c *changes) tell(change Change) {
	c.mu.Lock()
	before := c.pending[change.Job]
	change.Offer = change.Offer || before.Offer
	change.Stop = change.Stop || before.Stop
	change.Log = change.Log || before.Log
	c.pending[change.Job] = change
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) send() {
	defer close(c.stopped)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-c.wake:
			some, cancel := context.WithTimeout(ctx, flushPatience)
			c.flush(some)
			cancel()
		case <-c.stop:
			last, cancel := context.WithTimeout(ctx, closePatience)
			defer cancel()
			c.flush(last)
			return
		}
	}
}

// flush sends what is pending. What cannot be sent is dropped: others find it within ListenInterval.
func (c *changes) flush(ctx context.Context) {
	c.mu.Lock()
	pending := c.pending
	c.pending = map[string]Change{}
	c.mu.Unlock()
	n := notice{Node: c.node}
	post := func() bool {
		text, err := json.Marshal(n)
		if err == nil {
			_, err = c.db.ExecContext(ctx, "SELECT pg_notify($1, $2)", channel, string(text))
		}
		n.Changes = n.Changes[:0]
		return err == nil
	}
	for _, change := range pending {
		if n.Changes = append(n.Changes, change); len(n.Changes) == changesPerNotice && !post() {
			return
		}
	}
	if len(n.Changes) > 0 {
		post()
	}
}

// listen is Store.Listen.
func (c *changes) listen(ctx context.Context, changed func(Change)) error {
	conn, err := pgx.ConnectConfig(ctx, c.config)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("listening for changes of other coordinators: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil && ctx.Err() == nil {
		return fmt.Errorf("listening for changes of other coordinators: %w", err)
	}
	changed(Change{}) // whatever happened before
	for {
		wait, cancel := context.WithTimeout(ctx, ListenInterval)
		n, err := conn.WaitForNotification(wait)
		late := wait.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && late:
			changed(Change{})
			continue
		case err != nil:
			return fmt.Errorf("listening for changes of other coordinators: %w", err)
		}
		var heard notice
		if err := json.Unmarshal([]byte(n.Payload), &heard); err != nil {
			changed(Change{}) // of another version, perhaps
			continue
		}
		if heard.Node == c.node {
			continue
		}
		for _, change := range heard.Changes {
			changed(change)
		}
	}
}
