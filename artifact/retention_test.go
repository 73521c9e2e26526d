package artifact

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"
)

// checkpoints publishes one for each step of an attempt, with curves beside it.
func checkpoints(t *testing.T, s *Store, attempt string, losses map[int]float64) map[int]Ref {
	t.Helper()
	refs := map[int]Ref{}
	for step, loss := range losses {
		local := t.TempDir()
		write(t, filepath.Join(local, "model.safetensors"), make([]byte, 1500+step))
		publish(t, s, attempt, "curves/"+StepName(step), local, nil)
		refs[step] = publish(t, s, attempt, "checkpoints/"+StepName(step), local, map[string]float64{"loss": loss})
	}
	return refs
}

// stays are the steps of an attempt whose checkpoints are whole.
func stays(t *testing.T, s *Store, refs map[int]Ref) (steps []int) {
	t.Helper()
	for step, ref := range refs {
		_, err := s.Check(t.Context(), ref)
		if err == nil {
			steps = append(steps, step)
		} else if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
	slices.Sort(steps)
	return steps
}

func TestTidyKeepsTheNewestAndTheBest(t *testing.T) {
	conformance(t, func(t *testing.T, s *Store) {
		losses := map[int]float64{100: 0.4, 200: 0.1, 300: 0.3, 400: 0.2, 500: 0.25, 600: 0.05}
		refs := checkpoints(t, s, attempt1, losses)
		if err := s.AddFigures(t.Context(), attempt1, 100, map[string]float64{"accuracy": 0.9}); err != nil {
			t.Fatal(err)
		}
		if err := s.AddFigures(t.Context(), attempt1, 300, map[string]float64{"accuracy": 0.8}); err != nil {
			t.Fatal(err)
		}
		job := Job{ID: "a", Recorded: refs[500].Path}
		for _, c := range []struct {
			r    Retention
			want []int
		}{ // 600 is on its way; 200 has the lowest loss of those that count, 600 that of all
			{Retention{Last: 4, Best: "accuracy"}, []int{100, 200, 300, 400, 500, 600}},
			{Retention{Last: 3, Best: "accuracy"}, []int{100, 300, 400, 500, 600}},
			{Retention{Last: 3}, []int{300, 400, 500, 600}},
			{Retention{Last: 1, Best: "accuracy"}, []int{300, 500, 600}},
			{Retention{Last: 1}, []int{500, 600}},
		} {
			if _, err := s.Tidy(t.Context(), job, c.r); err != nil {
				t.Fatal(err)
			}
			if got := stays(t, s, refs); !slices.Equal(got, c.want) {
				t.Errorf("%+v keeps %v, want %v", c.r, got, c.want)
			}
		}
		for _, key := range keys(t, s) {
			if !strings.Contains(key, "00000500") && !strings.Contains(key, "00000600") {
				t.Errorf("left behind: %s", key)
			}
		}
		// Once it has ended, what was never counted goes, and what the result names stays.
		job = Job{ID: "a", Ended: true, Referenced: []string{refs[500].Path, attempt1 + "/scores.json"}}
		if _, err := s.Tidy(t.Context(), job, Retention{Last: 1}); err != nil {
			t.Fatal(err)
		}
		if got := stays(t, s, refs); !slices.Equal(got, []int{500}) {
			t.Errorf("after the end %v stay, want 500", got)
		}
	})
}

// Tidying that is cut off after any number of deletions has removed nothing that stays, leaves word, and is finished by
// the next.
func TestTidyIsCutOff(t *testing.T) {
	for cut := 0; ; cut++ {
		s := closing(t)(NewStore(memblob.OpenBucket(nil), "", "mem://", quick(t)), nil)
		refs := checkpoints(t, s, attempt1, map[int]float64{100: 1, 200: 1, 300: 1})
		job := Job{ID: "a", Recorded: refs[300].Path}
		objects, err := s.list(t.Context(), "", maxObjects)
		if err != nil {
			t.Fatal(err)
		}
		units, _ := unitsOf("jobs/a/attempts/", objects)
		var doomed []string
		for _, u := range (Retention{Last: 1}).doomed(units, job) {
			doomed = append(doomed, u.keys...)
		}
		if cut > len(doomed) {
			return
		}
		if err := s.put(t.Context(), deletions+"a", nil); err != nil {
			t.Fatal(err)
		}
		for _, key := range doomed[:cut] {
			if err := s.remove(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		for step, ref := range refs { // whole, or not there: never half
			if _, err := s.Check(t.Context(), ref); err != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("cut after %d: step %d: %v", cut, step, err)
			}
			if _, err := s.Manifest(t.Context(), ref); err == nil {
				if _, err := s.Check(t.Context(), ref); err != nil {
					t.Errorf("cut after %d: step %d has a manifest, and: %v", cut, step, err)
				}
			}
		}
		ids, err := s.Untidy(t.Context())
		if err != nil || !slices.Equal(ids, []string{"a"}) {
			t.Errorf("cut after %d: jobs %v are marked: %v", cut, ids, err)
		}
		if _, err := s.Tidy(t.Context(), job, Retention{Last: 1}); err != nil {
			t.Fatal(err)
		}
		if got := stays(t, s, refs); !slices.Equal(got, []int{300}) {
			t.Errorf("cut after %d: %v stay", cut, got)
		}
		if left := keys(t, s); len(left) != 6 { // two manifests, and two objects of each file
			t.Errorf("cut after %d: left are %v", cut, left)
		}
	}
}

// Whatever is there, what is referred to stays, and so does all that is newer than what counts while the job may go on.
func TestNothingReferredToIsDoomed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var units []unit
		seen := map[string]bool{}
		for range rapid.IntRange(0, 20).Draw(t, "units") {
			u := unit{epoch: rapid.Int64Range(1, 4).Draw(t, "epoch"), step: rapid.IntRange(0, 9).Draw(t, "step"), published: rapid.Bool().Draw(t, "published")}
			if rapid.Bool().Draw(t, "measured") {
				u.figures = map[string]float64{"loss": rapid.Float64Range(0, 1).Draw(t, "loss")}
			}
			if key := fmt.Sprint(u.epoch, u.step); !seen[key] {
				seen[key] = true
				units = append(units, u)
			}
		}
		path := func(u unit) string { return AttemptKey("a", u.epoch) + "/checkpoints/" + StepName(u.step) }
		job := Job{ID: "a", Ended: rapid.Bool().Draw(t, "ended")}
		var recorded unit
		if len(units) > 0 && rapid.Bool().Draw(t, "recorded") {
			recorded = rapid.SampledFrom(units).Draw(t, "newest")
			job.Recorded = path(recorded)
		}
		for _, u := range units {
			if rapid.IntRange(0, 4).Draw(t, "referenced") == 0 {
				job.Referenced = append(job.Referenced, path(u)+rapid.SampledFrom([]string{"", "/model.safetensors"}).Draw(t, "below"))
			}
		}
		r := Retention{Last: rapid.IntRange(1, 4).Draw(t, "last"), Best: rapid.SampledFrom([]string{"", "loss"}).Draw(t, "best")}
		doomed := r.doomed(slices.Clone(units), job)
		for _, d := range doomed {
			at := path(d)
			if at == job.Recorded || slices.ContainsFunc(job.Referenced, func(k string) bool { return k == at || strings.HasPrefix(k, at+"/") }) {
				t.Fatalf("%s is referred to, and goes", at)
			}
			if !job.Ended && (job.Recorded == "" || !d.before(recorded.epoch, recorded.step)) {
				t.Fatalf("%s is newer than %s, and goes", at, job.Recorded)
			}
		}
		if job.Recorded == "" {
			return
		}
		// Of the published ones up to the one that counts, at least Last stay.
		have, left := 0, 0
		for _, u := range units {
			if (u.published || path(u) == job.Recorded) && (u.before(recorded.epoch, recorded.step) || path(u) == job.Recorded) {
				have++
				if !slices.ContainsFunc(doomed, func(d unit) bool { return path(d) == path(u) }) {
					left++
				}
			}
		}
		if left < min(have, r.Last) {
			t.Fatalf("%d of %d stay, want %d", left, have, r.Last)
		}
	})
}

func TestRetentionCheck(t *testing.T) {
	for _, r := range []Retention{{}, {Last: -1}, {Last: 1, Best: "lust"}} {
		if r.Check() == nil {
			t.Errorf("%+v passes", r)
		}
	}
	for _, r := range []Retention{{Last: 1}, {Last: 3, Best: "auroc"}} {
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	}
}
