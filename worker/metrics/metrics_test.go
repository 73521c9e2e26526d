package metrics

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/worker"
)

type counted struct{ stats video.PoolStats }

func (c *counted) Stats() video.PoolStats { return c.stats }

// runner is a job that makes one report and fails.
type runner struct{ report *surmisev1.Progress }

var errRunner = errors.New("as it was told")

func (r runner) Run(_ context.Context, _ worker.Assignment, reports worker.Reports) (*surmisev1.Result, error) {
	reports.Progress(r.report)
	reports.Checkpoint(&surmisev1.Checkpoint{Step: 3})
	return nil, errRunner
}

type heard struct {
	progress   []*surmisev1.Progress
	checkpoint int
}

func (h *heard) Progress(p *surmisev1.Progress)   { h.progress = append(h.progress, p) }
func (h *heard) Checkpoint(*surmisev1.Checkpoint) { h.checkpoint++ }
func (h *heard) Recorded() int32                  { return -1 }

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if answer.Code != 200 {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func want(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

func TestScrape(t *testing.T) {
	decoders := &counted{}
	m, err := New(decoders)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	text := scrape(t, m)
	want(t, text, "surmise_decoder_starts_total 0", `surmise_decoder_restarts_total{reason="crashed"} 0`)
	if strings.Contains(text, "surmise_training") {
		t.Errorf("a step time before there was a step:\n%s", text)
	}

	decoders.stats = video.PoolStats{Started: 9, Crashed: 1, TimedOut: 2, TooLarge: 3, Garbage: 4,
		Verdicts:     map[video.Kind]int64{"": 7, video.TooShort: 5},
		ClipsDecoded: 11, ClipsFromDisk: 12, ClipsFromMemory: 13}
	h := &heard{}
	for _, report := range []*surmisev1.Progress{
		{Phase: "training", StepSeconds: 0.25, DataWaitShare: 0.5},
		{Phase: "scoring", Step: 1}, // says nothing of steps
	} {
		if _, err := m.Watch(runner{report}).Run(t.Context(), worker.Assignment{}, h); !errors.Is(err, errRunner) {
			t.Errorf("error %v, want the runner's", err)
		}
	}
	if len(h.progress) != 2 || h.checkpoint != 2 {
		t.Errorf("%d reports and %d checkpoints came through, want 2 and 2", len(h.progress), h.checkpoint)
	}
	want(t, scrape(t, m),
		"surmise_decoder_starts_total 9",
		`surmise_decoder_restarts_total{reason="crashed"} 1`,
		`surmise_decoder_restarts_total{reason="timed_out"} 2`,
		`surmise_decoder_restarts_total{reason="too_large"} 3`,
		`surmise_decoder_restarts_total{reason="garbage"} 4`,
		`surmise_video_verdicts_total{reason="usable"} 7`,
		`surmise_video_verdicts_total{reason="too short"} 5`,
		`surmise_clips_total{frames="decoded"} 11`,
		`surmise_clips_total{frames="disk"} 12`,
		`surmise_clips_total{frames="memory"} 13`,
		"surmise_training_step_seconds 0.25",
		"surmise_training_data_wait_ratio 0.5",
		"# TYPE surmise_decoder_restarts_total counter",
		"# TYPE surmise_training_step_seconds gauge",
	)
}
