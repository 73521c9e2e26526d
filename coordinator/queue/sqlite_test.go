package queue_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
)

func TestSQLiteConforms(t *testing.T) {
	var mu sync.Mutex
	paths := map[string]string{} // test name -> file, so that a second open finds the same jobs
	queuetest.Conformance(t, func(t *testing.T, now func() time.Time) coordinator.Store {
		mu.Lock()
		defer mu.Unlock()
		if paths[t.Name()] == "" {
			paths[t.Name()] = filepath.Join(t.TempDir(), "a folder?#%", "jobs.db")
		}
		store, err := queue.OpenSQLite(t.Context(), paths[t.Name()], now)
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

func TestSQLiteThatCannotBeOpenedNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jobs.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := queue.OpenSQLite(t.Context(), path, time.Now)
	if err == nil {
		store.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
}
