package metrics

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

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

func scrape(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
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
	registry := prometheus.NewRegistry()
	m, err := New(decoders, registry)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	text := scrape(t, registry)
	want(t, text, "surmise_worker_busy 0", "surmise_worker_attached 0", `surmise_attempts_total{outcome="done"} 0`, "surmise_decoder_starts_total 0", `surmise_decoder_restarts_total{reason="crashed"} 0`)
	if strings.Contains(text, "surmise_training") {
		t.Errorf("a step time before there was a step:\n%s", text)
	}

	decoders.stats = video.PoolStats{Started: 9, Crashed: 1, TimedOut: 2, TooLarge: 3, Garbage: 4,
		Verdicts:     map[video.Kind]int64{"": 7, video.TooShort: 5},
		ClipsDecoded: 11, ClipsFromDisk: 12, ClipsFromMemory: 13}
	h := &heard{}
	for _, report := range []*surmisev1.Progress{
		{Phase: "training", Step: 40, StepSeconds: 0.25, DataWaitShare: 0.5, ClipsPerSecond: 32, Loss: 0.75, LossJepa: 0.5, LossVariance: 0.25,
			LearningRate: 0.001, GradNorm: 1.5, EffectiveRank: 20, FeatureStd: 0.5, Cosine: 0.125},
		{Phase: "scoring", Step: 1}, // says nothing of steps
	} {
		if _, err := m.Watch(runner{report}).Run(t.Context(), worker.Assignment{}, h); !errors.Is(err, errRunner) {
			t.Errorf("error %v, want the runner's", err)
		}
	}
	if len(h.progress) != 2 || h.checkpoint != 2 {
		t.Errorf("%d reports and %d checkpoints came through, want 2 and 2", len(h.progress), h.checkpoint)
	}
	if m.Ready(t.Context()) == nil {
		t.Error("a worker that never was attached is ready")
	}
	m.Linked(true)
	if err := m.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	want(t, scrape(t, registry),
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
		"surmise_training_clips_per_second 32",
		"surmise_training_steps 40",
		`surmise_training_loss{part="total"} 0.75`,
		`surmise_training_loss{part="jepa"} 0.5`,
		`surmise_training_loss{part="variance"} 0.25`,
		"surmise_training_learning_rate 0.001",
		"surmise_training_grad_norm 1.5",
		"surmise_collapse_effective_rank 20",
		"surmise_collapse_feature_std 0.5",
		"surmise_collapse_cosine 0.125",
		"surmise_worker_attached 1",
		"surmise_worker_busy 0",
		`surmise_attempts_total{outcome="failed"} 2`,
		"# TYPE surmise_decoder_restarts_total counter",
		"# TYPE surmise_training_step_seconds gauge",
	)
}
