package queue

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// After a change that came to nothing the store finds out whether it can store any.
func TestWritable(t *testing.T) {
	s, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Apply(t.Context(), "none", Cancel{}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("after a change that was refused: %v", err)
	}
	full := errors.New("database or disk is full")
	begin := s.begin
	s.begin = func(context.Context, change) error { return full }
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("with no reason to doubt: %v", err)
	}
	if _, _, err := s.Submit(t.Context(), Submission{ID: "a", Spec: []byte("{}")}); !errors.Is(err, full) {
		t.Fatal(err)
	}
	for range 2 { // it stays in doubt
		if err := s.Writable(t.Context()); !errors.Is(err, full) {
			t.Errorf("with a full disk: %v", err)
		}
	}
	s.begin = begin
	s.room = func() error { return full } // small changes find a place in the log, larger ones none
	if err := s.Writable(t.Context()); !errors.Is(err, full) {
		t.Errorf("with next to no room: %v", err)
	}
	s.room = func() error { return roomBeside(filepath.Join(t.TempDir(), "jobs.db")) }
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A database that a newer program has migrated is left to that one.
func TestTablesOfANewerProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jobs.db")
	s, err := OpenSQLite(t.Context(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s, err = OpenSQLite(t.Context(), path, time.Now)
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "version 99, and this program knows up to") {
		t.Errorf("opened with %v", err)
	}
}
