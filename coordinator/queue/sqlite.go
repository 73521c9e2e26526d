package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/surmise-ml/surmise/internal/durable"
)

// sqliteReaders are the connections that read while the one that writes is busy.
const sqliteReaders = 4

// OpenSQLite opens the store in the file at path, making its folder and the file, or migrating it, as needed. Leases are
// measured by now. One coordinator may use a file at a time; Open sees to it.
func OpenSQLite(ctx context.Context, path string, now func() time.Time) (*Store, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the job store %s: %w", path, err)
	}
	// temp_store 2: what undoes one change of several lies in memory.
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=temp_store(2)&_txlock=immediate"}).String()
	write, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening the job store %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	s := &Store{write: write, now: now, dialect: dialect{clock: "0"}}
	if err := s.migrate(ctx, goose.DialectSQLite3, "sqlite"); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the job store %s: %w", path, err), write.Close())
	}
	if err := writable(ctx, write); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the job store %s: %w", path, err), write.Close())
	}
	if s.read, err = sql.Open("sqlite", dsn); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the job store %s: %w", path, err), write.Close())
	}
	s.read.SetMaxOpenConns(sqliteReaders)
	s.read.SetMaxIdleConns(sqliteReaders)
	conn, err := newSQLiteConn(ctx, write)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the job store %s: %w", path, err), s.read.Close(), write.Close())
	}
	s.room = func() error { return roomBeside(path) }
	s.begin, s.end = newTogether(conn, now).update, conn.close
	s.applies = newGather(togetherMax, s.applyAll)
	s.hot = newHot(s.read)
	return s, nil
}

// openAlone is OpenSQLite for who shares the file with nobody: it holds path.lock until the store is closed, or the process
// ends, however it ends. What a coordinator knows of who is attached, and of what just changed, no other is told.
func openAlone(ctx context.Context, path string, now func() time.Time) (*Store, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil { // the lock lies beside the file, whatever links name it
		path = real
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("opening the job store %s: %w", path, err)
	}
	s, err := OpenSQLite(ctx, path, now)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.lock = lock
	return s, nil
}

func lockFile(path string) (io.Closer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another coordinator uses it; give this one another data folder, or keep the jobs of both in PostgreSQL")
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writable refuses a file that can only be read. SQLite opens one all the same, and then for reading alone even once the
// disk takes writes again: better not to start, and to be started again. BEGIN IMMEDIATE would succeed.
func writable(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "UPDATE jobs SET revision = revision WHERE false")
	return err
}

// roomBytes is more than a change takes, so that a disk with less is told of before all of them fail.
const roomBytes = 1 << 20

// roomBeside tries whether a file finds room where the database lies. SQLite writes small changes over old parts of its
// log, which says nothing about the next one.
func roomBeside(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), durable.Unfinished+"room-*") // several may look at a time
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, roomBytes))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}
