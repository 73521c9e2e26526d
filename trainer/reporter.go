package trainer

import (
	"math"
	"time"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/video"
)

// reporter turns steps into progress reports.
type reporter struct {
	cfg              Config
	hooks            Hooks
	now              func() time.Time
	last             Progress
	since            time.Time // of the last report
	steps            int       // since then
	waited           time.Duration
	usable, unusable int
}

func newReporter(cfg Config, data *video.Dataset, hooks Hooks) *reporter {
	r := &reporter{cfg: cfg, hooks: hooks, now: hooks.Now, usable: data.Files(), unusable: len(data.Verdicts()) - data.Files()}
	if r.now == nil {
		r.now = time.Now
	}
	r.last.Loss = math.NaN()
	r.since = r.now()
	return r
}

// pause stops the clock that rates are measured with until the returned function is called.
func (r *reporter) pause() (resume func()) {
	began := r.now()
	return func() { r.since = r.since.Add(r.now().Sub(began)) }
}

// reports tells whether there is a progress report after a step.
func (c Config) reports(step int) bool { return step == 1 || step == c.Steps || step%c.LogEvery == 0 }

// saves tells whether there is a checkpoint after a step.
func (c Config) saves(step int) bool {
	return step == c.Steps || c.CheckpointEvery > 0 && step%c.CheckpointEvery == 0
}

// evaluates tells whether the weights are evaluated after a step.
func (h Hooks) evaluates(c Config, step int) bool {
	return h.Evaluate != nil && h.EvaluateEvery >= 1 && (step%h.EvaluateEvery == 0 || step == c.Steps)
}

// step takes note of one step, and reports every LogEvery of them, the first and the last.
func (r *reporter) step(step int, f figures, waited time.Duration, s *stepper) {
	r.steps++
	r.waited += waited
	if !f.pending {
		r.last.Loss = f.loss
	}
	if !r.cfg.reports(step) {
		return
	}
	var schedule [graph.ScheduleLen]float32
	r.cfg.schedule(step, schedule[:])
	now := r.now()
	elapsed := max(now.Sub(r.since), time.Nanosecond)
	each := elapsed / time.Duration(r.steps)
	r.last = Progress{
		Step: step, Steps: r.cfg.Steps,
		Loss: f.loss, LossJEPA: f.jepa, LossVariance: f.variance,
		LearningRate:   float64(schedule[graph.LearningRate]),
		GradNorm:       math.Hypot(f.norms[0], f.norms[1]),
		ClipsPerSecond: float64(r.steps*r.cfg.Batch) / elapsed.Seconds(),
		StepSeconds:    each.Seconds(),
		DataWaitShare:  r.waited.Seconds() / elapsed.Seconds(),
		Collapse:       s.collapse(),
		ETA:            each * time.Duration(r.cfg.Steps-step),
		Videos:         r.usable, Unusable: r.unusable,
	}
	r.since, r.steps, r.waited = r.now(), 0, 0
	if r.hooks.Progress != nil {
		r.hooks.Progress(r.last)
	}
}
