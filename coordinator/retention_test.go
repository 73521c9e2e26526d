package coordinator

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// What was begun for a job that the store does not know is said once, and holds nothing up.
func TestTidyingAnUnknownJob(t *testing.T) {
	dir := t.TempDir()
	store, err := queue.OpenSQLite(t.Context(), filepath.Join(dir, "jobs.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	artifacts := filepath.Join(dir, "artifacts")
	if err := os.MkdirAll(filepath.Join(artifacts, "deletions"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(artifacts, "deletions", "ghost"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 8)
	s, err := New(Config{Store: store, ArtifactDir: artifacts, Logger: slog.New(slog.NewTextHandler(lineWriter(said), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { s.tidy(ctx) })
	if line := <-said; !strings.Contains(line, "not known here") || !strings.Contains(line, "ghost") {
		t.Errorf("said %q", line)
	}
	stop()
	group.Wait()
	if left := s.tidier.take(); len(left) > 0 {
		t.Errorf("to be tried again: %v", left)
	}
}

// lineWriter passes each line of a log on.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}
