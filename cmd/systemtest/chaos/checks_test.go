package chaos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/tensorboard"
)

// outcome is what a job leaves that must not depend on what happened to it.
type outcome struct {
	model  string // SHA-256 of its weights
	losses []tensorboard.Point
}

// outcomeOf reads what a job that succeeded has left.
func outcomeOf(j *surmisev1.Job) (o outcome, err error) {
	paths := map[string]string{}
	for _, a := range j.GetResult().GetArtifacts() {
		paths[a.GetName()] = a.GetPath()
	}
	weights, err := os.ReadFile(filepath.Join(paths["model"], "model.safetensors"))
	if err != nil {
		return o, err
	}
	sum := sha256.Sum256(weights)
	figures, err := tensorboard.Read(paths["events"])
	if err != nil {
		return o, err
	}
	return outcome{hex.EncodeToString(sum[:]), figures["train/loss"]}, nil
}

// differ says where two outcomes part; nil: nowhere.
func (o outcome) differ(want outcome) error {
	if o.model != want.model {
		return fmt.Errorf("the weights are %s, undisturbed they are %s", o.model, want.model)
	}
	for i := range max(len(o.losses), len(want.losses)) {
		switch {
		case i >= len(o.losses) || i >= len(want.losses):
			return fmt.Errorf("%d losses, undisturbed there are %d", len(o.losses), len(want.losses))
		case o.losses[i] != want.losses[i]:
			return fmt.Errorf("loss %d is %v, undisturbed it is %v", i, o.losses[i], want.losses[i])
		}
	}
	return nil
}

// openStore opens the database of a store.
func openStore(store string) (*sql.DB, error) {
	if strings.Contains(store, "://") {
		return sql.Open("pgx", store)
	}
	return sql.Open("sqlite", (&url.URL{Scheme: "file", Path: store, RawQuery: "_pragma=busy_timeout(60000)"}).String())
}

// checkStore holds the event table against what must be true of any job, whatever happened: it is the coordinators' whole
// memory, and nothing is ever taken out of it.
func checkStore(ctx context.Context, store string, want []*job) (errs []error) {
	db, err := openStore(store)
	if err != nil {
		return []error{err}
	}
	defer db.Close()
	if !strings.Contains(store, "://") {
		var verdict string
		if err := db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
			errs = append(errs, fmt.Errorf("the store's integrity: %s, %w", verdict, err))
		}
	}
	rows, err := db.QueryContext(ctx, "SELECT job_id, revision, type, job FROM events ORDER BY job_id, revision")
	if err != nil {
		return append(errs, err)
	}
	defer rows.Close()
	type entry struct {
		revision int64
		typ      queue.LogType
		job      queue.Job
	}
	events := map[string][]entry{}
	for rows.Next() {
		var id string
		var e entry
		var text []byte
		if err := rows.Scan(&id, &e.revision, &e.typ, &text); err != nil {
			return append(errs, err)
		}
		if err := json.Unmarshal(text, &e.job); err != nil {
			return append(errs, fmt.Errorf("event %d of %s: %w", e.revision, id, err))
		}
		if bytes.Contains(text, []byte(replayed)) {
			errs = append(errs, fmt.Errorf("event %d of %s holds what an old worker said: %s", e.revision, id, text))
		}
		events[id] = append(events[id], e)
	}
	if err := rows.Err(); err != nil {
		return append(errs, err)
	}
	if len(events) != len(want) {
		errs = append(errs, fmt.Errorf("%d jobs in the store, %d were submitted", len(events), len(want)))
	}
	for _, j := range want {
		fault := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s, %s: %w", j.name, j.kind, fmt.Errorf(format, args...)))
		}
		log := events[j.id()]
		if len(log) == 0 {
			fault("it has no events")
			continue
		}
		ends, results := 0, 0
		var epoch int64
		for i, e := range log {
			if e.revision != int64(i+1) {
				fault("event %d stands at place %d", e.revision, i+1)
			}
			switch {
			case e.typ == queue.LogLeased && e.job.Epoch != epoch+1:
				fault("event %d leases epoch %d after %d", e.revision, e.job.Epoch, epoch)
			case e.typ != queue.LogLeased && e.job.Epoch != epoch:
				fault("event %d, %s, is of epoch %d, the lease is %d", e.revision, e.typ, e.job.Epoch, epoch)
			}
			epoch = e.job.Epoch
			if e.typ == queue.LogEnded {
				ends++
			}
			if e.job.Result != nil {
				results++
			}
		}
		last := log[len(log)-1]
		if ends != 1 || last.typ != queue.LogEnded {
			fault("it has ended %d times, and its last event is %s", ends, last.typ)
		}
		succeeds := j.kind != endless
		if wanted := map[bool]queue.State{true: queue.Succeeded, false: queue.Cancelled}[succeeds]; last.job.State != wanted {
			fault("it is %s (%s), want %s", last.job.State, last.job.Reason, wanted)
		}
		if published := results == 1; published != succeeds {
			fault("a result was published %d times", results)
		}
	}
	return errs
}

// patienceOfFiles is how long what is left over may stay: a coordinator that could not remove it tries again after a minute.
const patienceOfFiles = 90 * time.Second

// checkFiles waits until nothing unfinished is left that nobody would ever look at again.
func checkFiles(ctx context.Context, folders ...string) error {
	ctx, stop := context.WithTimeout(ctx, patienceOfFiles)
	defer stop()
	for {
		left, err := unfinished(folders)
		if err != nil || len(left) == 0 {
			return err
		}
		if pause(ctx, callAgain) != nil {
			return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
		}
	}
}

// unfinished finds what has a name that begins with a dot, as all has that is being written.
func unfinished(folders []string) (found []string, err error) {
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // just removed, or never made
			}
			if err != nil {
				return err
			}
			if strings.HasPrefix(d.Name(), ".") || d.Name() == ballastName {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// patienceOfOrphans is how long a process may take to notice that the one that it works for is gone.
const patienceOfOrphans = 20 * time.Second

// checkProcesses waits until no process has a word in its environment.
func checkProcesses(ctx context.Context, mark string) error {
	ctx, stop := context.WithTimeout(ctx, patienceOfOrphans)
	defer stop()
	for {
		left, err := marked(mark)
		if err != nil || len(left) == 0 {
			return err
		}
		if pause(ctx, callAgain) != nil {
			return fmt.Errorf("processes are left: %s", strings.Join(left, "; "))
		}
	}
}

func marked(mark string) (found []string, err error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		environment, err := os.ReadFile(filepath.Join(p, "environ"))
		if err != nil || !slices.ContainsFunc(bytes.Split(environment, []byte{0}), func(v []byte) bool { return string(v) == mark }) {
			continue // gone, or somebody else's
		}
		command, _ := os.ReadFile(filepath.Join(p, "cmdline")) // for people
		found = append(found, fmt.Sprintf("%s %s", filepath.Base(p), bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
	}
	return found, nil
}

// gauge reads a figure that a service shows.
func gauge(ctx context.Context, address, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	request.Close = true // no connection of ours stays
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("%s shows no %s", address, name), lines.Err())
}
