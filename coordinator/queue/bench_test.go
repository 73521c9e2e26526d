package queue_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
)

// spec is as long as a complete training job's.
var spec = json.RawMessage(`{"train":{"data":["/data/clips"],"pad":"` + fmt.Sprintf("%01200d", 0) + `"}}`)

// stores runs a benchmark on either database, both as durable as in use. It removes what it made.
func stores(b *testing.B, run func(b *testing.B, open func() *queue.Store)) {
	b.Run("sqlite", func(b *testing.B) {
		run(b, func() *queue.Store {
			store, err := queue.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "jobs.db"), time.Now)
			if err != nil {
				b.Fatal(err)
			}
			return store
		})
	})
	b.Run("postgres", func(b *testing.B) {
		server := queuetest.StartPostgres(b, true)
		run(b, func() *queue.Store {
			store, err := queue.OpenPostgres(b.Context(), server.Database(b), nil)
			if err != nil {
				b.Fatal(err)
			}
			return store
		})
	})
}

// BenchmarkSubmitSweep10000 stores a sweep of 10,000 children in one transaction, on disk when it returns.
func BenchmarkSubmitSweep10000(b *testing.B) {
	stores(b, func(b *testing.B, open func() *queue.Store) {
		store := open()
		defer store.Close()
		for i := 0; b.Loop(); i++ {
			sub := queue.SweepSubmission{ID: fmt.Sprint("s", i), Request: json.RawMessage(`{}`)}
			for c := range 10_000 {
				sub.Children = append(sub.Children, queue.ChildSubmission{
					ID: fmt.Sprintf("s%d-%d", i, c), Spec: spec, Values: json.RawMessage(`{"train.optimizer.learning_rate":0.001}`),
				})
			}
			if _, _, err := store.SubmitSweep(b.Context(), sub); err != nil {
				b.Fatal(err)
			}
		}
	})
}
