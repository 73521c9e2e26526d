package queue

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// naive gives each worker the job that it serves next, by looking at all of them. turns are when owners were served last.
func naive(jobs []Job, workers []Worker, turns map[string]int) (served []string) {
	held := map[string]int{}
	for _, j := range jobs {
		if j.State.Held() {
			held[j.Owner]++
		}
	}
	for _, w := range workers {
		best := -1
		for i, j := range jobs { // in the order of submission
			if j.State != Queued || w.Lacks(j.Needs) != "" {
				continue
			}
			if best < 0 {
				best = i
				continue
			}
			b := jobs[best]
			if cmp.Or(cmp.Compare(b.Priority, j.Priority), cmp.Compare(held[j.Owner], held[b.Owner]), cmp.Compare(turns[j.Owner], turns[b.Owner])) < 0 {
				best = i
			}
		}
		if best >= 0 {
			jobs[best].State = Leased
			held[jobs[best].Owner]++
			turns[""]++ // counts them all
			turns[jobs[best].Owner] = turns[""]
			served = append(served, w.Name+" "+jobs[best].ID)
		}
	}
	return served
}

// Many workers at once are served as if each had come alone.
func TestLeaseServesManyAsOneByOne(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	draw := rand.New(rand.NewPCG(seed, 1))
	store, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var all []Job
	turns := map[string]int{}
	for round := range 12 {
		for i := range draw.IntN(40) {
			job, _, err := store.Submit(t.Context(), Submission{
				ID: fmt.Sprintf("j%d-%d", round, i), Spec: json.RawMessage(`{}`),
				Scheduling: Scheduling{Owner: fmt.Sprint("o", draw.IntN(3)), Priority: draw.IntN(3), Needs: Needs{GPUs: draw.IntN(3)}},
			})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, job)
		}
		workers := make([]Worker, draw.IntN(50))
		for i := range workers {
			workers[i] = Worker{Name: fmt.Sprintf("w%d-%d", round, i), GPUs: draw.IntN(3)}
		}
		want := naive(all, workers, turns)
		leased, err := store.Lease(t.Context(), workers, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, job := range leased {
			got = append(got, job.Worker+" "+job.ID)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: served\n%q, want\n%q", round, got, want)
		}
		for i, job := range all { // some come to an end, so that owners hold unlike numbers
			if job.State == Leased && draw.IntN(2) == 0 {
				if _, _, err := store.Apply(t.Context(), job.ID, Done{Epoch: 1, Result: json.RawMessage(`{}`)}); err != nil {
					t.Fatal(err)
				}
				all[i].State = Succeeded
			}
		}
	}
}
