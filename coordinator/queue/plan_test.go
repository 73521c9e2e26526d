package queue

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What runs for every lease must look into indexes, however many jobs wait.
func TestLeasingReadsIndexes(t *testing.T) {
	s, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, query := range map[string]string{
		"classes": scanClasses, "line": readyOf, "lease": toLease, "held": heldByClass, "due": fmt.Sprintf(nextDue, "$1"), "leases": withoutSpec + dueLeases, "deadlines": withoutSpec + dueDeadlines,
		"worker": withoutSpec + heldByWorker, "children": withoutSpec + openChildren, "all held": withoutSpec + allHeld,
	} {
		for _, step := range plan(t, s, query) {
			if strings.Contains(step, "jobs") && !strings.Contains(step, "INDEX") && !strings.Contains(step, "SEARCH jobs USING INTEGER PRIMARY KEY") || strings.Contains(step, "SCAN jobs") && !strings.Contains(name, "held") {
				t.Errorf("%s: %s", name, step)
			}
		}
	}
}

// plan is how SQLite goes about a query.
func plan(t *testing.T, s *Store, query string) (steps []string) {
	t.Helper()
	rows, err := s.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, 1, 2, 3, 4)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}
