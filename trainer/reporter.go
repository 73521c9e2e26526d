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

// step takes note of one step, and reports every LogEvery of them, the first and the last.
func (r *reporter) step(step int, f figures, waited time.Duration, s *stepper) {
	r.steps++
	r.waited += waited
	r.last.Loss = f.loss
	if step != 1 && step != r.cfg.Steps && step%r.cfg.LogEvery != 0 {
		return
	}
	now := r.now()
	elapsed := max(now.Sub(r.since), time.Nanosecond)
	each := elapsed / time.Duration(r.steps)
	r.last = Progress{
		Step: step, Steps: r.cfg.Steps,
		Loss: f.loss, LossJEPA: f.jepa, LossVariance: f.variance,
		LearningRate:   float64(s.m.Floats(s.model.Schedule)[graph.LearningRate]),
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
