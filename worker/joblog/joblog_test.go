package joblog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"unicode/utf8"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func texts(lines []*surmisev1.LogLine) (out []string) {
	for _, l := range lines {
		out = append(out, fmt.Sprintf("%d %s %s", l.Number, l.Level, l.Text))
	}
	return out
}

func TestRecordsOfAJob(t *testing.T) {
	b := New()
	var shown bytes.Buffer
	log := slog.New(b.Handler(slog.NewTextHandler(&shown, &slog.HandlerOptions{Level: slog.LevelWarn}))).With("worker", "w", "job", "jobs/a")
	log.Warn("before")
	b.Begin()
	log.Info("job begins", "epoch", 2, "step", 0)
	log.WithGroup("data").With("job", "no name").Warn("a file\nis gone", "path", "a b")
	log.Debug("not kept")
	b.End()
	log.Error("after")

	want := []string{"1 INFO job begins step=0", `2 WARN a file is gone data.job="no name" data.path="a b"`}
	select {
	case <-b.News():
	default:
		t.Error("no news of lines")
	}
	if got := texts(b.Take(1 << 20)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	if got := b.Take(1 << 20); len(got) != 0 {
		t.Errorf("taken twice: %v", got)
	}
	if n := strings.Count(shown.String(), "\n"); n != 3 || strings.Contains(shown.String(), "job begins") {
		t.Errorf("shown\n%s", shown.String())
	}
	b.Begin()
	log.Info("again")
	if got := texts(b.Take(1)); len(got) != 1 || got[0] != "1 INFO again" {
		t.Errorf("the next attempt: %v", got)
	}
}

// A flood is bounded, and what it cost is said with the next line that is kept.
func TestAFlood(t *testing.T) {
	b := New()
	b.Begin()
	log := slog.New(b.Handler(slog.DiscardHandler))
	for range 3000 {
		log.Info("x")
	}
	first := b.Take(10)
	if len(first) != 10 {
		t.Fatalf("%d lines of 10 bytes", len(first))
	}
	rest := b.Take(1 << 20)
	if got := len(first) + len(rest); got != maxWaiting {
		t.Errorf("%d lines kept", got)
	}
	log.Info("y")
	if next := b.Take(1); len(next) != 1 || next[0].Dropped != 1000 || next[0].Number != maxWaiting+1 {
		t.Errorf("after the flood: %v", next)
	}
	long := strings.Repeat("é", maxText)
	for range 1000 {
		log.Info(long)
	}
	size := 0
	for _, l := range b.Take(1 << 30) {
		if size += len(l.Text); len(l.Text) > maxText || !utf8.ValidString(l.Text) || !strings.HasSuffix(l.Text, "…") {
			t.Fatalf("a line of %d bytes", len(l.Text))
		}
	}
	if size > maxWaitingBytes || size < maxWaitingBytes-maxText {
		t.Errorf("%d bytes wait", size)
	}
}

// The handler behaves as slog expects of one, whatever stands behind it.
func TestHandler(t *testing.T) {
	b := New()
	b.Begin()
	var out bytes.Buffer
	results := func() (all []map[string]any) {
		for l := range strings.Lines(out.String()) {
			m := map[string]any{}
			for _, pair := range strings.Fields(l) {
				key, value, _ := strings.Cut(pair, "=")
				at := m
				for {
					group, rest, nested := strings.Cut(key, ".")
					if !nested {
						break
					}
					if _, ok := at[group]; !ok {
						at[group] = map[string]any{}
					}
					at, key = at[group].(map[string]any), rest
				}
				at[key] = value
			}
			all = append(all, m)
		}
		return all
	}
	if err := slogtest.TestHandler(b.Handler(slog.NewTextHandler(&out, nil)), results); err != nil {
		t.Error(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	b := New()
	b.Begin()
	log := slog.New(b.Handler(slog.DiscardHandler))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 100 {
				log.With("i", i).Info("line", "j", j)
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, l := range b.Take(1 << 20) {
		seen[l.Text] = true
	}
	if len(seen) != 800 || !seen["line i=7 j=99"] {
		t.Errorf("%d lines", len(seen))
	}
}
