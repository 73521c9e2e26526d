package worker

import (
	"log/slog"
	"strconv"
	"time"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// progressLogEvery bounds how often progress is logged, beside what is new in kind: another phase, an evaluation, the
// last step.
const progressLogEvery = 10 * time.Second

// progressLog decides which reports of an attempt are logged.
type progressLog struct {
	phase     string
	evaluated int32     // step of the newest evaluation logged
	at        time.Time // of the newest line; zero before the first
}

// wants reports whether a report is worth a line.
func (l *progressLog) wants(now time.Time, p *surmisev1.Progress) bool {
	last := p.GetSteps() > 0 && p.GetStep() == p.GetSteps()
	if p.GetPhase() == l.phase && !last && now.Sub(l.at) < progressLogEvery {
		return false
	}
	l.phase, l.at = p.GetPhase(), now
	return true
}

// write logs what is new in a report. log carries job and epoch.
func (l *progressLog) write(log *slog.Logger, now time.Time, p *surmisev1.Progress) {
	if e := p.GetEvaluation(); e != nil && (e.GetStep() > l.evaluated || l.evaluated == 0) {
		l.evaluated = max(1, e.GetStep())
		log.Info("evaluated", "step", e.GetStep(), "accuracy", short(e.GetAccuracy()), "pairs", e.GetPairs(), "seconds", short(e.GetSeconds()))
	}
	if !l.wants(now, p) {
		return
	}
	figures := []any{"step", p.GetStep(), "steps", p.GetSteps()}
	if p.GetStepSeconds() > 0 {
		figures = append(figures, "loss", short(p.GetLoss()), "clips_per_second", short(p.GetClipsPerSecond()), "data_wait", short(p.GetDataWaitShare()))
	}
	if p.GetEffectiveRank() > 0 {
		figures = append(figures, "effective_rank", short(p.GetEffectiveRank()), "feature_std", short(p.GetFeatureStd()))
	}
	if p.GetUnusableVideos() > 0 {
		figures = append(figures, "unusable_videos", p.GetUnusableVideos(), "videos", p.GetVideos())
	}
	if p.GetEta() != nil {
		figures = append(figures, "eta", p.GetEta().AsDuration().Round(time.Second))
	}
	log.Info(p.GetPhase(), figures...)
}

// short is a figure to four digits, as people read it; the event files have all of them.
func short(v float64) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	if err != nil {
		return v
	}
	return rounded
}
