package queue

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// postgresConnections is how many connections one coordinator opens at most, beside the one that listens.
const postgresConnections = 16

// OpenPostgres opens the store in a PostgreSQL database, postgres://USER:PASSWORD@HOST/DATABASE, making or migrating its
// tables as needed. Any number of coordinators may use one database. Leases are measured by now; nil is the clock of the
// database, which is the one that all coordinators share. Errors never show the password.
func OpenPostgres(ctx context.Context, address string, now func() time.Time) (*Store, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, fmt.Errorf("opening the job store: %w", err) // pgx takes the password out
	}
	config.Password = strings.TrimRight(config.Password, "\r\n") // of a file with a line, as secrets are often made of
	for name, value := range map[string]string{
		// Every statement has an index made for it. The planner, which does not know yet that few of many new jobs are held,
		// would pass over all, or gather them in a bitmap, which does not clean the index of what is over.
		"enable_seqscan": "off", "enable_bitmapscan": "off",
		// A coordinator whose machine dies or stands still in a transaction leaves its rows locked: the server ends that.
		"idle_in_transaction_session_timeout": "10s",
	} {
		if config.RuntimeParams[name] == "" {
			config.RuntimeParams[name] = value
		}
	}
	name := fmt.Sprintf("%s on %s", config.Database, config.Host)
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(postgresConnections)
	db.SetMaxIdleConns(postgresConnections)
	s := &Store{write: db, read: db, now: now, dialect: dialect{
		// Not FOR UPDATE: no key changes, and who refers to a job, as events do, need not wait.
		forUpdate: " FOR NO KEY UPDATE",
		forLease:  " FOR NO KEY UPDATE SKIP LOCKED",
		impatient: "SET LOCAL lock_timeout = '2s'",
		clock:     "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
	}}
	s.begin = func(ctx context.Context, f change) error {
		return inPostgres(ctx, db, now, "SELECT "+s.dialect.clock, f)
	}
	s.applies = newGather(togetherMax, s.applyAll)
	s.hot = newHot(s.read)
	// Coordinators that start together migrate one after the other; who waits looks every second, for five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err == nil {
		err = s.migrate(ctx, goose.DialectPostgres, "postgres", goose.WithSessionLocker(locker))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the job store %s: %w", name, err), db.Close())
	}
	s.changes = newChanges(config, db)
	return s, nil
}

// Open opens the store that address names: a postgres:// or postgresql:// URL, or else the path of an SQLite file, which
// nobody else may have open. now is the clock of SQLite; PostgreSQL has its own.
func Open(ctx context.Context, address string, now func() time.Time) (*Store, error) {
	scheme, _, isURL := strings.Cut(address, "://")
	switch {
	case !isURL:
		return openAlone(ctx, address, now)
	case scheme == "postgres" || scheme == "postgresql":
		return OpenPostgres(ctx, address, nil)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("job store: want postgres://… or the path of an SQLite file, got a URL with scheme %q", scheme)
	}
	return nil, fmt.Errorf("job store %s: want postgres://… or the path of an SQLite file", u.Redacted())
}
