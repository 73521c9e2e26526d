package queue_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// Two coordinators on one file would each keep to itself who is attached to it, and jobs would wait for ever.
func TestSQLiteIsOpenedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "jobs.db")
	first, err := queue.Open(t.Context(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "jobs.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		if second, err := queue.Open(t.Context(), name, time.Now); err == nil {
			second.Close()
			t.Errorf("%s was opened twice", name)
		} else if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another coordinator uses it") {
			t.Error(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := queue.Open(t.Context(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// SQLite would open a file that can only be read, and go on reading it alone once it could be written again.
func TestSQLiteThatCannotBeWrittenIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "jobs.db")
	first, err := queue.OpenSQLite(t.Context(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close() // without it nothing would be left for a reader to go by, as after a kill
	readOnly(t, dir)
	if store, err := queue.OpenSQLite(t.Context(), path, time.Now); err == nil {
		store.Close()
		t.Error("opened")
	} else if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
}

// readOnly lets a folder be read only, until the test ends. Permissions do not stop root.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		for name, mode := range map[string]os.FileMode{filepath.Join(dir, "jobs.db"): 0o400, dir: 0o500} {
			if err := os.Chmod(name, mode); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Error(err)
			}
		})
		return
	}
	err := unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if errors.Is(err, unix.EPERM) {
		t.Skip("root may neither be refused by permissions nor mount here")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}
