package mlflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

// fake is a tracking server that remembers what it is told.
type fake struct {
	mu     sync.Mutex
	calls  []string
	bodies []string
	auth   string
	fail   func(path string) int // status to answer with; nil or 0: as MLflow does
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := strings.TrimPrefix(r.URL.Path, "/base/api/2.0/mlflow/")
	f.mu.Lock()
	f.calls, f.bodies, f.auth = append(f.calls, r.Method+" "+path), append(f.bodies, string(body)), r.Header.Get("Authorization")
	fail := f.fail
	f.mu.Unlock()
	if fail != nil {
		if code := fail(path); code != 0 {
			http.Error(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST"}`, code)
			return
		}
	}
	switch path {
	case "experiments/get-by-name":
		http.Error(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST"}`, http.StatusNotFound)
	case "experiments/create":
		fmt.Fprint(w, `{"experiment_id":"7"}`)
	case "runs/create":
		fmt.Fprint(w, `{"run":{"info":{"run_id":"r1"}}}`)
	default:
		fmt.Fprint(w, `{}`)
	}
}

type script func(context.Context, worker.Reports) (*surmisev1.Result, error)

func (s script) Run(ctx context.Context, _ worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	return s(ctx, r)
}

type silent struct{ n *int }

func (s silent) Progress(*surmisev1.Progress)     { *s.n++ }
func (s silent) Checkpoint(*surmisev1.Checkpoint) {}
func (s silent) Recorded() int32                  { return -1 }

var assignment = worker.Assignment{Job: "jobs/a", Epoch: 2, ArtifactDir: "/attempt", Spec: &surmisev1.JobSpec{
	Traceparent: "00-x", Kind: &surmisev1.JobSpec_Train{Train: &surmisev1.TrainSpec{Data: []string{strings.Repeat("é", 400)}, Model: &surmisev1.ModelSpec{Dim: 192}}}}}

// track runs a job against the fake and returns what was logged.
func track(t *testing.T, f *fake, ctx context.Context, s script) (log string, heard int, err error) {
	t.Helper()
	server := httptest.NewServer(f)
	defer server.Close()
	var out bytes.Buffer
	tracker, err := New(Options{URL: server.URL + "/base/", Token: "secret", Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tracker.Watch(s).Run(ctx, assignment, silent{&heard})
	return out.String(), heard, err
}

func TestARun(t *testing.T) {
	f := &fake{}
	log, heard, err := track(t, f, t.Context(), func(_ context.Context, r worker.Reports) (*surmisev1.Result, error) {
		r.Progress(&surmisev1.Progress{Phase: "indexing", Step: 3}) // measures nothing
		r.Progress(&surmisev1.Progress{Phase: "training", Step: 10, StepSeconds: 0.5, Loss: 0.25, GradNorm: math.NaN(), EffectiveRank: 20})
		r.Progress(&surmisev1.Progress{Phase: "training", Step: 20, StepSeconds: 0.5, Loss: 0.125})
		return &surmisev1.Result{Metrics: map[string]float64{"loss": 0.125}}, nil
	})
	if err != nil || heard != 3 || log != "" {
		t.Errorf("%v, %d reports, log %s", err, heard, log)
	}
	if got := strings.Join(f.calls[:4], ", "); got != "GET experiments/get-by-name, POST experiments/create, POST runs/create, POST runs/log-batch" {
		t.Errorf("calls %s", got)
	}
	if last := len(f.calls) - 1; f.calls[last] != "POST runs/update" || !strings.Contains(f.bodies[last], `"status":"FINISHED"`) || f.auth != "Bearer secret" {
		t.Errorf("ended with %s %s as %q", f.calls[last], f.bodies[last], f.auth)
	}
	var params struct{ Params []struct{ Key, Value string } }
	if err := json.Unmarshal([]byte(f.bodies[3]), &params); err != nil {
		t.Fatal(err)
	}
	if len(params.Params) != 2 || params.Params[1].Key != "train.model.dim" || params.Params[1].Value != "192" || len(params.Params[0].Value) > maxValue {
		t.Errorf("params %+v", params.Params)
	}
	losses := map[int64]float64{}
	results := 0
	for i, call := range f.calls[4 : len(f.calls)-1] {
		var batch struct {
			RunID   string `json:"run_id"`
			Metrics []metric
		}
		if err := json.Unmarshal([]byte(f.bodies[4+i]), &batch); err != nil || call != "POST runs/log-batch" || batch.RunID != "r1" {
			t.Fatalf("%s %s (%v)", call, f.bodies[4+i], err)
		}
		for _, m := range batch.Metrics {
			switch m.Key {
			case "loss":
				losses[m.Step] = m.Value
			case "result/loss":
				results++
			case "grad_norm":
				if m.Step == 10 {
					t.Error("a value that is no number was sent")
				}
			}
			if m.Timestamp <= 0 {
				t.Errorf("metric %+v", m)
			}
		}
	}
	if len(losses) != 2 || losses[10] != 0.25 || losses[20] != 0.125 || results != 1 {
		t.Errorf("losses %v, %d results", losses, results)
	}
}

// A server that fails, at any call, costs figures and not the job; it is left alone between the first failure and the
// end, and what was lost is said.
func TestAServerThatFails(t *testing.T) {
	for _, path := range []string{"experiments/get-by-name", "experiments/create", "runs/create", "runs/log-batch"} {
		f := &fake{fail: func(called string) int {
			if called == path {
				return http.StatusInternalServerError
			}
			return 0
		}}
		log, heard, err := track(t, f, t.Context(), func(_ context.Context, r worker.Reports) (*surmisev1.Result, error) {
			for step := range int32(300) {
				r.Progress(&surmisev1.Progress{Phase: "training", Step: step + 1, StepSeconds: 0.5, Loss: 0.25})
			}
			return &surmisev1.Result{}, nil
		})
		if err != nil || heard != 300 || !strings.Contains(log, "lost_reports=300") {
			t.Errorf("%s: %v, %d reports, log\n%s", path, err, heard, log)
		}
		if len(f.calls) > 12 {
			t.Errorf("%s: %d calls", path, len(f.calls))
		}
	}
}

func TestHowRunsEnd(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	for want, c := range map[string]struct {
		ctx context.Context
		err error
	}{"FAILED": {t.Context(), errors.New("bad data")}, "KILLED": {ctx, context.Canceled}} {
		f := &fake{}
		_, _, err := track(t, f, c.ctx, func(context.Context, worker.Reports) (*surmisev1.Result, error) {
			if c.ctx == ctx {
				stop()
			}
			return nil, c.err
		})
		if !errors.Is(err, c.err) || !strings.Contains(f.bodies[len(f.bodies)-1], want) {
			t.Errorf("%s: %v, last said %s", want, err, f.bodies[len(f.bodies)-1])
		}
	}
	stop()
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "mlflow:5000", "ftp://x", "http://", "http://user:secret@", ":"} {
		if _, err := New(Options{URL: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// MLflow takes a thousand figures in a call; what is more comes in the next.
func TestMoreFiguresThanACallTakes(t *testing.T) {
	f := &fake{}
	result := &surmisev1.Result{Metrics: map[string]float64{}}
	for i := range 2500 {
		result.Metrics[fmt.Sprintf("accuracy.%04d", i)] = 0.5
	}
	log, _, err := track(t, f, t.Context(), func(context.Context, worker.Reports) (*surmisev1.Result, error) { return result, nil })
	if err != nil || log != "" {
		t.Fatalf("%v, log %s", err, log)
	}
	sent := 0
	for i, call := range f.calls {
		var batch struct{ Metrics []metric }
		if call != "POST runs/log-batch" {
			continue
		}
		if err := json.Unmarshal([]byte(f.bodies[i]), &batch); err != nil || len(batch.Metrics) > mostMetrics {
			t.Errorf("%d figures in a call (%v)", len(batch.Metrics), err)
		}
		sent += len(batch.Metrics)
	}
	if sent != 2500 {
		t.Errorf("%d figures were sent, want 2500", sent)
	}
}
