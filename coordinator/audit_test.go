package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/auth"
)

type auditLines struct {
	records []auditRecord
	full    bool
}

func (l *auditLines) Append(line []byte) error {
	if l.full {
		return errors.New("the disk is full")
	}
	var r auditRecord
	err := json.Unmarshal(bytes.TrimSpace(line), &r)
	l.records = append(l.records, r)
	return err
}

// A flood of refused calls does not push the log's other lines out, and is told of by its number.
func TestStrangersDoNotFillTheAuditLog(t *testing.T) {
	var lines auditLines
	a := newAuditLog(&lines, slog.New(slog.DiscardHandler))
	now := time.Unix(1e9, 0)
	for range 10_000 {
		a.call(now, auth.Identity{}, nil, "/surmise.v1.JobService/ListJobs", "", errors.New("who are you?"))
	}
	a.call(now, auth.Identity{ID: "token/x", Role: auth.Submitter}, nil, "/surmise.v1.JobService/SubmitJob", "jobs/a", nil)
	if n := len(lines.records); n != strangersAtOnce+1 {
		t.Fatalf("%d lines, want %d of strangers and one", n, strangersAtOnce)
	}
	if last := lines.records[strangersAtOnce]; last.Caller != "token/x" || last.LeftOut != 10_000-strangersAtOnce {
		t.Errorf("the last line is %+v", last)
	}
	now = now.Add(time.Second)
	for range 10 {
		a.call(now, auth.Identity{}, nil, "/surmise.v1.JobService/ListJobs", "", errors.New("who are you?"))
	}
	if n := len(lines.records); n != strangersAtOnce+1+strangersPerSecond || lines.records[n-1].LeftOut != 0 {
		t.Errorf("a second later %d lines, the last %+v", n, lines.records[n-1])
	}
}

// A line that could not be kept leaves its number to the next.
func TestLeftOutLinesOutliveAFullDisk(t *testing.T) {
	var lines auditLines
	a := newAuditLog(&lines, slog.New(slog.DiscardHandler))
	now := time.Unix(1e9, 0)
	for range strangersAtOnce + 50 {
		a.call(now, auth.Identity{}, nil, "/surmise.v1.JobService/ListJobs", "", errors.New("who are you?"))
	}
	lines.full = true
	a.attached(now, auth.Identity{ID: "token/x"}, nil, "w")
	lines.full = false
	a.attached(now, auth.Identity{ID: "token/x"}, nil, "w")
	if last := lines.records[len(lines.records)-1]; last.LeftOut != 50 {
		t.Errorf("%d left out, want 50", last.LeftOut)
	}
}

// A file that is moved or removed from outside is followed by a new one, so that no record goes where nobody finds it.
func TestAuditFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := OpenAuditFile(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for i, move := range []func() error{
		func() error { return nil },
		func() error { return os.Rename(path, path+".old") },
		func() error { return os.Remove(path) },
	} {
		if err := move(); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("line %d\n", i)
		if err := a.Append([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != line {
			t.Errorf("after move %d the log holds %q, %v", i, got, err)
		}
	}
}
