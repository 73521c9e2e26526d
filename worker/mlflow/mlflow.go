// Package mlflow tells an MLflow tracking server what a worker does, over its REST API 2.0: a run for each attempt at a
// job, with the job's settings as parameters and its progress as metrics.
//
// It never fails a job and never holds one up: reports wait in a queue of bounded length, and what a server that is
// slow or away does not take is lost, and logged as lost.
package mlflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

const (
	queueLength = 512 // reports that wait
	// Bounds of one runs/log-batch, by MLflow's documentation: 1000 metrics, 100 parameters.
	batchReports = 50
	maxParams    = 100
	maxValue     = 500 // bytes of a parameter, the least bound that servers have had
	maxAnswer    = 1 << 20
	// callPatience is for one request, lastPatience for all that is left when an attempt ends.
	callPatience = 10 * time.Second
	lastPatience = 15 * time.Second
	// quietAfterFailure is how long a server is left alone that did not answer.
	quietAfterFailure = 30 * time.Second
)

// Options says which server, and how to reach it.
type Options struct {
	URL        string // http or https, without /api; required
	Experiment string // made if missing; "": surmise
	Token      string // bearer token; "" for none
	User       string // basic authentication, where there is no token; "" for none
	Password   string

	Client *http.Client     // nil: http.DefaultClient
	Logger *slog.Logger     // nil: slog.Default()
	Now    func() time.Time // nil: time.Now
}

// Tracker speaks to one server.
type Tracker struct {
	o    Options
	base *url.URL
}

// New checks the options; the server is not asked.
func New(o Options) (*Tracker, error) {
	base, err := url.Parse(o.URL)
	if err != nil {
		return nil, errors.New("MLflow's address is no URL") // its error would show a password
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("MLflow's address %q: want http://HOST:PORT or https://…", base.Redacted())
	}
	if o.Experiment == "" {
		o.Experiment = "surmise"
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Tracker{o, base}, nil
}

// Watch returns a Runner that runs jobs as r does, and tells the server.
func (t *Tracker) Watch(r worker.Runner) worker.Runner { return tracked{t, r} }

type tracked struct {
	t *Tracker
	r worker.Runner
}

func (k tracked) Run(ctx context.Context, a worker.Assignment, r worker.Reports) (*surmisev1.Result, error) {
	// The last words are said after ctx has ended.
	s := &session{t: k.t, a: a, queue: make(chan report, queueLength), log: k.t.o.Logger.With("job", a.Job, "epoch", a.Epoch)}
	sending, give := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(sending)
	}()
	status := "FAILED" // a panic, too
	defer func() {
		s.status = status // read after the queue is closed
		close(s.queue)
		late := time.AfterFunc(lastPatience, give)
		<-done
		late.Stop()
		give()
	}()
	result, err := k.r.Run(ctx, a, reports{r, s})
	switch {
	case err == nil:
		status = "FINISHED"
		s.offer(0, result.GetMetrics(), "result/")
	case ctx.Err() != nil:
		status = "KILLED"
	}
	return result, err
}

// reports are Reports that are told to the server on their way.
type reports struct {
	worker.Reports
	s *session
}

func (r reports) Progress(p *surmisev1.Progress) {
	r.Reports.Progress(p)
	figures := map[string]float64{}
	if p.GetStepSeconds() > 0 {
		maps.Copy(figures, map[string]float64{
			"loss": p.GetLoss(), "loss_jepa": p.GetLossJepa(), "loss_variance": p.GetLossVariance(), "learning_rate": p.GetLearningRate(),
			"grad_norm": p.GetGradNorm(), "clips_per_second": p.GetClipsPerSecond(), "step_seconds": p.GetStepSeconds(), "data_wait_share": p.GetDataWaitShare(),
		})
	}
	if p.GetEffectiveRank() > 0 {
		figures["effective_rank"], figures["feature_std"], figures["cosine"] = p.GetEffectiveRank(), p.GetFeatureStd(), p.GetCosine()
	}
	if p.ClipShare != nil {
		figures["clip_share"] = p.GetClipShare()
	}
	if e := p.GetEvaluation(); e != nil && p.GetPhase() == "evaluating" {
		figures["eval_accuracy"], figures["eval_group_accuracy"], figures["eval_auroc"] = e.GetAccuracy(), e.GetGroupAccuracy(), e.GetAuroc()
	}
	r.s.offer(int64(p.GetStep()), figures, "")
}

// report is what one moment measured.
type report struct {
	step    int64
	time    time.Time
	figures map[string]float64
	prefix  string
}

// session is one attempt. Its goroutine alone speaks to the server.
type session struct {
	t     *Tracker
	a     worker.Assignment
	log   *slog.Logger
	queue chan report

	dropped int    // reports that found the queue full; read once the queue is closed
	status  string // of the run at its end; read once the queue is closed

	run   string    // its id; "" before it is made
	quiet time.Time // nothing is asked before
	lost  int       // reports that were not taken
}

// offer never waits.
func (s *session) offer(step int64, figures map[string]float64, prefix string) {
	if len(figures) == 0 {
		return
	}
	select {
	case s.queue <- report{step, s.t.o.Now(), figures, prefix}:
	default:
		s.dropped++
	}
}

// serve sends what comes until the queue is closed, and then ends the run.
func (s *session) serve(ctx context.Context) {
	for open := true; open; {
		var batch []report
		var first report
		if first, open = <-s.queue; open {
			batch = append(batch, first)
		}
	gather:
		for open && len(batch) < batchReports {
			select {
			case next, more := <-s.queue:
				if open = more; more {
					batch = append(batch, next)
				}
			default:
				break gather
			}
		}
		if !open { // the last words: tried at once, whatever came before
			s.quiet = time.Time{}
		}
		s.send(ctx, batch)
	}
	if s.run != "" {
		err := s.t.call(ctx, "runs/update", map[string]any{"run_id": s.run, "status": s.status, "end_time": s.t.o.Now().UnixMilli()}, nil)
		if err != nil {
			s.log.Warn("MLflow was not told that the run has ended", "error", err)
		}
	}
	if lost := s.lost + s.dropped; lost > 0 {
		s.log.Warn("MLflow was not told everything", "lost_reports", lost)
	}
}

// send tells the server some reports, and before the first of the run itself.
func (s *session) send(ctx context.Context, batch []report) {
	if s.t.o.Now().Before(s.quiet) {
		s.lost += len(batch)
		return
	}
	err := s.begin(ctx)
	for figures := range slices.Chunk(metrics(batch), mostMetrics) {
		if err == nil {
			err = s.t.call(ctx, "runs/log-batch", map[string]any{"run_id": s.run, "metrics": figures}, nil)
		}
	}
	if err != nil {
		s.lost += len(batch)
		s.quiet = s.t.o.Now().Add(quietAfterFailure)
		s.log.Warn("MLflow is not told what is measured", "error", err, "again_in", quietAfterFailure)
	}
}

// mostMetrics is what MLflow takes in one call.
const mostMetrics = 1000

type metric struct {
	Key       string  `json:"key"`
	Value     float64 `json:"value"`
	Timestamp int64   `json:"timestamp"` // ms
	Step      int64   `json:"step"`
}

// metrics leaves out what is no number: JSON has no word for it.
func metrics(batch []report) []metric {
	out := []metric{}
	for _, r := range batch {
		for _, key := range slices.Sorted(maps.Keys(r.figures)) {
			if v := r.figures[key]; !math.IsNaN(v) && !math.IsInf(v, 0) {
				out = append(out, metric{r.prefix + key, v, r.time.UnixMilli(), r.step})
			}
		}
	}
	return out
}

// begin makes the run, once.
func (s *session) begin(ctx context.Context) error {
	if s.run != "" {
		return nil
	}
	experiment, err := s.t.experiment(ctx)
	if err != nil {
		return err
	}
	var made struct {
		Run struct {
			Info struct {
				ID string `json:"run_id"`
			} `json:"info"`
		} `json:"run"`
	}
	tag := func(key, value string) map[string]string { return map[string]string{"key": key, "value": value} }
	err = s.t.call(ctx, "runs/create", map[string]any{
		"experiment_id": experiment, "run_name": fmt.Sprintf("%s-%d", strings.TrimPrefix(s.a.Job, "jobs/"), s.a.Epoch),
		"start_time": s.t.o.Now().UnixMilli(),
		"tags":       []map[string]string{tag("surmise.job", s.a.Job), tag("surmise.attempt", fmt.Sprint(s.a.Epoch)), tag("surmise.artifacts", s.a.ArtifactDir)},
	}, &made)
	if err != nil {
		return err
	}
	if made.Run.Info.ID == "" {
		return errors.New("runs/create answered without a run_id")
	}
	if params := params(s.a.Spec); len(params) > 0 {
		if err := s.t.call(ctx, "runs/log-batch", map[string]any{"run_id": made.Run.Info.ID, "params": params}, nil); err != nil {
			s.log.Warn("MLflow does not take the settings of the job", "error", err) // the figures may do better
		}
	}
	s.run = made.Run.Info.ID
	return nil
}

// experiment finds the experiment's id, or makes it.
func (t *Tracker) experiment(ctx context.Context) (string, error) {
	var found struct {
		Experiment struct {
			ID string `json:"experiment_id"`
		} `json:"experiment"`
	}
	err := t.call(ctx, "experiments/get-by-name?experiment_name="+url.QueryEscape(t.o.Experiment), nil, &found)
	if err == nil && found.Experiment.ID != "" {
		return found.Experiment.ID, nil
	}
	var status *statusError
	if err != nil && (!errors.As(err, &status) || status.code != http.StatusNotFound) {
		return "", err
	}
	var made struct {
		ID string `json:"experiment_id"`
	}
	if err := t.call(ctx, "experiments/create", map[string]any{"name": t.o.Experiment}, &made); err != nil {
		return "", err
	}
	if made.ID == "" {
		return "", errors.New("experiments/create answered without an experiment_id")
	}
	return made.ID, nil
}

// params are a job's settings by their path, such as train.model.dim.
func params(spec *surmisev1.JobSpec) []map[string]string {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(spec)
	if err != nil {
		return nil
	}
	var tree map[string]any
	if json.Unmarshal(text, &tree) != nil {
		return nil
	}
	delete(tree, "traceparent")
	flat := map[string]string{}
	flatten(flat, "", tree)
	var out []map[string]string
	for _, key := range slices.Sorted(maps.Keys(flat)) {
		if len(out) == maxParams {
			break
		}
		value := flat[key]
		out = append(out, map[string]string{"key": key, "value": strings.ToValidUTF8(value[:min(len(value), maxValue)], "")})
	}
	return out
}

func flatten(out map[string]string, prefix string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			flatten(out, strings.TrimPrefix(prefix+"."+key, "."), inner)
		}
	case string:
		out[prefix] = v
	default:
		text, _ := json.Marshal(v) // it came from JSON
		out[prefix] = string(text)
	}
}

type statusError struct {
	code int
	said string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP status %d: %s", e.code, e.said) }

// call posts a message, or gets where there is none, and reads the answer into answer, unless nil.
func (t *Tracker) call(ctx context.Context, what string, message, answer any) (err error) {
	name, query, _ := strings.Cut(what, "?")
	defer func() {
		if err != nil {
			err = fmt.Errorf("calling MLflow's %s: %w", name, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	method, body := http.MethodGet, io.Reader(nil)
	if message != nil {
		text, err := json.Marshal(message)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(text)
	}
	at := t.base.JoinPath("api/2.0/mlflow", name)
	at.RawQuery = query
	request, err := http.NewRequestWithContext(ctx, method, at.String(), body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	switch {
	case t.o.Token != "":
		request.Header.Set("Authorization", "Bearer "+t.o.Token)
	case t.o.User != "":
		request.SetBasicAuth(t.o.User, t.o.Password)
	}
	response, err := t.o.Client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return &statusError{response.StatusCode, string(bytes.ToValidUTF8(text[:min(len(text), 300)], nil))}
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
