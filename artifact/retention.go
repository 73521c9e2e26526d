package artifact

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/internal/durable"
)

// maxObjects bounds what is listed of one job.
const maxObjects = 1 << 20

// Retention says which checkpoints of a job stay, beside those that something refers to, which always do.
type Retention struct {
	Last int    // so many of the newest; at least 1
	Best string // one more: the best by this figure, see Figures; "" for none
}

// Figures are those by which a checkpoint can be the best: whether more is better.
var Figures = map[string]bool{"loss": false, "accuracy": true, "group_accuracy": true, "auroc": true}

// Check refuses what cannot be.
func (r Retention) Check() error {
	if r.Last < 1 {
		return fmt.Errorf("%d checkpoints to keep, want at least 1: a job goes on from the newest", r.Last)
	}
	if _, ok := Figures[r.Best]; !ok && r.Best != "" {
		return fmt.Errorf("no figure is called %q; there are loss, accuracy, group_accuracy and auroc", r.Best)
	}
	return nil
}

// Job is what tidying must know of a job, from a store of jobs that was asked before.
type Job struct {
	ID         string   // without "jobs/"
	Ended      bool     // nothing will be published any more
	Recorded   string   // key of the newest checkpoint that counts; "" for none
	Referenced []string // keys of all that is part of a result
	InPlace    bool     // attempts work in the store itself
}

// unit is a checkpoint and what goes with it.
type unit struct {
	epoch     int64
	step      int
	published bool // its manifest is there
	figures   map[string]float64
	keys      []string // of all its objects, the checkpoint's manifest first
}

func (u unit) before(epoch int64, step int) bool {
	return u.epoch < epoch || u.epoch == epoch && u.step < step
}

var (
	unitName = regexp.MustCompile(`^(?:manifests/)?(?:checkpoints|curves|figures)/step-([0-9]{8,9})(?:\.json$|/)`)
	unitPath = regexp.MustCompile(`^jobs/[a-z0-9-]{1,63}/attempts/([0-9]{1,18})/checkpoints/step-([0-9]{8,9})$`)
)

// StepName is the name of a checkpoint's folder.
func StepName(step int) string { return fmt.Sprintf("step-%08d", step) }

// doomed are the units that go: never one that is referred to, never one that is newer than the checkpoint that counts
// while the job may go on, never the newest ones. published ones beside these make room only for Last and the best.
func (r Retention) doomed(units []unit, job Job) (out []unit) {
	epoch, step, recorded := parseUnitPath(job.Recorded)
	newestFirst(units)
	best := r.best(units)
	kept := 0
	for i, u := range units {
		at := AttemptKey(job.ID, u.epoch) + "/checkpoints/" + StepName(u.step)
		newer := !recorded || !u.before(epoch, step) && at != job.Recorded
		switch {
		case at == job.Recorded:
			kept++
		case slices.ContainsFunc(job.Referenced, func(key string) bool { return key == at || strings.HasPrefix(key, at+"/") }):
			if !newer && u.published {
				kept++
			}
		case newer && !job.Ended:
		case newer: // nobody counted it, and nobody will
			out = append(out, u)
		case u.published && kept < r.Last:
			kept++
		case i == best:
		default:
			out = append(out, u)
		}
	}
	return out
}

func newestFirst(units []unit) {
	slices.SortFunc(units, func(a, b unit) int { return cmp.Or(cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.step, a.step)) })
}

// best is the unit with the best figure, the newest of equals; -1 for none.
func (r Retention) best(units []unit) int {
	best := -1
	for i, u := range units {
		value, ok := u.figures[r.Best]
		if !ok || !u.published {
			continue
		}
		if best < 0 || Figures[r.Best] && value > units[best].figures[r.Best] || !Figures[r.Best] && value < units[best].figures[r.Best] {
			best = i
		}
	}
	return best
}

func parseUnitPath(key string) (epoch int64, step int, ok bool) {
	m := unitPath.FindStringSubmatch(key)
	if m == nil {
		return 0, 0, false
	}
	epoch, err := strconv.ParseInt(m[1], 10, 64)
	step, stepErr := strconv.Atoi(m[2])
	return epoch, step, err == nil && stepErr == nil
}

// Tidy removes what of a job nobody needs any more: old checkpoints, and once it has ended, what attempts left unfinished.
// It may be interrupted at any point, and run by several at a time: what goes is what went before, manifests first, and a
// mark in the store stays until it is done.
func (s *Store) Tidy(ctx context.Context, job Job, r Retention) (removed int, err error) {
	root := "jobs/" + job.ID + "/attempts/"
	objects, err := s.list(ctx, root, maxObjects)
	if err != nil {
		return 0, err
	}
	units, rest := unitsOf(root, objects)
	if r.Best != "" {
		for i := range units {
			if err := s.readFigures(ctx, job.ID, &units[i]); err != nil {
				return 0, err
			}
		}
	}
	var keys []string
	for _, u := range r.doomed(units, job) {
		keys = append(keys, u.keys...)
	}
	if job.Ended {
		keys = append(keys, leftovers(root, objects, rest, job)...)
	}
	mark := deletions + job.ID
	if len(keys) > 0 {
		if err := s.try(ctx, "writing "+mark, func(ctx context.Context) error { return s.put(ctx, mark, nil) }); err != nil {
			return 0, err
		}
	}
	for _, key := range keys {
		if err := s.remove(ctx, key); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, s.remove(ctx, mark)
}

const deletions = "deletions/"

// Untidy are the jobs whose tidying was interrupted.
func (s *Store) Untidy(ctx context.Context) (ids []string, err error) {
	marks, err := s.list(ctx, deletions, maxObjects)
	for _, m := range marks {
		if id := strings.TrimPrefix(m.key, deletions); !strings.HasPrefix(id, durable.Unfinished) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// unitsOf sorts objects below root into units, and those that belong to none.
func unitsOf(root string, objects []object) (units []unit, rest []string) {
	type place struct {
		epoch int64
		step  int
	}
	found := map[place]int{}
	for _, o := range objects {
		attempt, name, _ := strings.Cut(strings.TrimPrefix(o.key, root), "/")
		epoch, err := strconv.ParseInt(attempt, 10, 64)
		m := unitName.FindStringSubmatch(name)
		if err != nil || m == nil {
			rest = append(rest, o.key)
			continue
		}
		step, err := strconv.Atoi(m[1])
		if err != nil {
			rest = append(rest, o.key)
			continue
		}
		at, ok := found[place{epoch, step}]
		if !ok {
			at = len(units)
			found[place{epoch, step}] = at
			units = append(units, unit{epoch: epoch, step: step})
		}
		u := &units[at]
		if strings.HasPrefix(name, manifests+"checkpoints/") {
			u.published = true
			u.keys = slices.Insert(u.keys, 0, o.key)
		} else {
			u.keys = append(u.keys, o.key)
		}
	}
	return units, rest
}

// leftovers are the objects that only an attempt that was cut off can have left. Where attempts work in the store itself,
// what they did not publish may be of use to people, such as the curves of a job that failed.
func leftovers(root string, objects []object, rest []string, job Job) (out []string) {
	var bundles []string
	for _, o := range objects {
		attempt, name, _ := strings.Cut(strings.TrimPrefix(o.key, root), "/")
		if bundle, ok := strings.CutPrefix(name, manifests); ok {
			bundles = append(bundles, root+attempt+"/"+strings.TrimSuffix(bundle, ".json"))
		}
	}
	slices.Sort(bundles)
	for _, key := range rest {
		unfinished := slices.ContainsFunc(strings.Split(key, "/"), func(p string) bool { return strings.HasPrefix(p, durable.Unfinished) })
		if unfinished || !job.InPlace && !covered(bundles, root, key) && !slices.Contains(job.Referenced, key) {
			out = append(out, key)
		}
	}
	return out
}

// covered reports whether an object belongs to one of the bundles, which are sorted, or is a manifest.
func covered(bundles []string, root, key string) bool {
	_, name, _ := strings.Cut(strings.TrimPrefix(key, root), "/")
	if strings.HasPrefix(name, manifests) {
		return true
	}
	for at := key; len(at) > len(root); at = path.Dir(at) {
		if _, ok := slices.BinarySearch(bundles, at); ok {
			return true
		}
	}
	whole, _, parts := strings.Cut(key, partMark)
	if parts {
		_, parts = slices.BinarySearch(bundles, whole)
	}
	return parts
}

// AddFigures keeps what was found out about a checkpoint of an attempt, the first that is said.
func (s *Store) AddFigures(ctx context.Context, attempt string, step int, values map[string]float64) error {
	text, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("figures of step %d: %w", step, err)
	}
	if err := s.putOnce(ctx, attempt+"/"+figures+StepName(step)+".json", text); !errors.Is(err, ErrExists) {
		return err
	}
	return nil
}

// readFigures reads what is known of a checkpoint. A file that cannot be understood tells nothing.
func (s *Store) readFigures(ctx context.Context, id string, u *unit) error {
	if !u.published {
		return nil
	}
	u.figures = map[string]float64{}
	attempt := AttemptKey(id, u.epoch)
	for _, key := range []string{manifestKey(attempt, "checkpoints/"+StepName(u.step)), attempt + "/" + figures + StepName(u.step) + ".json"} {
		if !slices.Contains(u.keys, key) {
			continue
		}
		var text []byte
		err := s.try(ctx, "reading "+key, func(ctx context.Context) (err error) {
			text, err = s.readAll(ctx, key, maxManifestBytes)
			return err
		})
		if errors.Is(err, ErrNotFound) {
			continue // somebody else tidies
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(key, attempt+"/"+manifests) {
			if m, err := decodeManifest(text); err == nil {
				for name, v := range m.Figures {
					u.figures[name] = v
				}
			}
			continue
		}
		var values map[string]float64
		if json.Unmarshal(text, &values) == nil {
			for name, v := range values {
				u.figures[name] = v
			}
		}
	}
	return nil
}
