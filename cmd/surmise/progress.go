package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// progressView shows how far a job is: a bar on a terminal, lines elsewhere.
type progressView interface {
	update(*surmisev1.Progress)
	note(format string, args ...any) // a line of its own
	close()                          // what is shown stays
}

func newProgressView(w io.Writer) progressView {
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return newBarView(w)
	}
	return &lineView{w: w}
}

// lineView prints a line per report of training, which come as often as the job asks, and few of other phases, which report
// every video.
type lineView struct {
	mu      sync.Mutex
	w       io.Writer           // guarded by mu, as are the others
	printed *surmisev1.Progress // newest; nil before the first
	at      time.Time           // when that was
}

// Other phases than training have linesPerPhase, and in between one every lineEvery where they take long.
const (
	linesPerPhase = 5
	lineEvery     = 15 * time.Second
)

func (v *lineView) update(p *surmisev1.Progress) {
	if v.due(p) {
		v.note("%s %d/%d%s", p.GetPhase(), p.GetStep(), p.GetSteps(), figures(p))
	}
}

// due reports whether to print p, and notes that it is: the first and the last of a phase always.
func (v *lineView) due(p *surmisev1.Progress) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.printed
	part := func(p *surmisev1.Progress) int64 {
		return linesPerPhase * int64(p.GetStep()) / max(1, int64(p.GetSteps()))
	}
	// A step back is another attempt.
	begins := before == nil || before.GetPhase() != p.GetPhase() || p.GetStep() < before.GetStep()
	each := p.GetPhase() == "training" || p.GetPhase() == "evaluating"
	if !begins && !each && part(p) == part(before) && time.Since(v.at) < lineEvery {
		return false
	}
	v.printed, v.at = p, time.Now()
	return true
}

func (v *lineView) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintln(v.w, terminal.Text(fmt.Sprintf(format, args...)))
}

func (v *lineView) close() {}

// barView draws one bar, with the figures of the newest report behind it.
type barView struct {
	bars   *mpb.Progress
	bar    *mpb.Bar
	newest atomic.Pointer[surmisev1.Progress]
}

func newBarView(w io.Writer) *barView {
	v := &barView{bars: mpb.New(mpb.WithOutput(w), mpb.WithWidth(100))}
	v.newest.Store(&surmisev1.Progress{})
	v.bar = v.bars.New(0, mpb.BarStyle().Rbound("|").Lbound("|").Filler("█").Tip("█").Padding("·"),
		mpb.BarWidth(24),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return terminal.Text(v.newest.Load().GetPhase()) + " " })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			p := v.newest.Load()
			return fmt.Sprintf(" %d/%d%s", p.GetStep(), p.GetSteps(), figures(p))
		})))
	return v
}

// lowClipShare is the share of variance between clips below which it is shown; those that go well have several times as much.
const lowClipShare = 0.1

func (v *barView) update(p *surmisev1.Progress) {
	v.newest.Store(p)
	v.bar.SetTotal(int64(p.GetSteps()), false)
	v.bar.SetCurrent(int64(p.GetStep()))
}

func (v *barView) note(format string, args ...any) {
	fmt.Fprintln(v.bars, terminal.Text(fmt.Sprintf(format, args...)))
}

func (v *barView) close() {
	v.bar.Abort(false)
	v.bars.Wait()
}

// figures are loss, speed, remaining time and the collapse monitors, as far as a report has them.
func figures(p *surmisev1.Progress) string {
	var b strings.Builder
	if p.GetPhase() == "training" {
		fmt.Fprintf(&b, "  loss %.4f", p.GetLoss())
	}
	if p.GetClipsPerSecond() > 0 {
		fmt.Fprintf(&b, "  %.1f clips/s", p.GetClipsPerSecond())
	}
	if p.GetEta() != nil {
		fmt.Fprintf(&b, "  eta %s", p.GetEta().AsDuration().Round(time.Second))
	}
	if p.GetEffectiveRank() > 0 {
		fmt.Fprintf(&b, "  rank %.1f std %.3f cos %.3f", p.GetEffectiveRank(), p.GetFeatureStd(), p.GetCosine())
	}
	if p.ClipShare != nil && p.GetClipShare() < lowClipShare {
		fmt.Fprintf(&b, "  between clips %.0f %%", 100*p.GetClipShare())
	}
	if e := p.GetEvaluation(); e != nil {
		fmt.Fprintf(&b, "  %.0f %% of %d pairs at step %d", 100*e.GetAccuracy(), e.GetPairs(), e.GetStep())
		if e.GetSkippedVideos() > 0 {
			fmt.Fprintf(&b, " (%d videos skipped)", e.GetSkippedVideos())
		}
	}
	if p.GetDataWaitShare() >= 0.1 {
		fmt.Fprintf(&b, "  waits for data %.0f %%", 100*p.GetDataWaitShare())
	}
	if p.GetUnusableVideos() > 0 {
		fmt.Fprintf(&b, "  %d of %d videos unusable", p.GetUnusableVideos(), p.GetVideos()+unusableBeside(p))
	}
	return b.String()
}

// unusableBeside: when training, videos counts the usable ones only.
func unusableBeside(p *surmisev1.Progress) int32 {
	if p.GetPhase() == "training" {
		return p.GetUnusableVideos()
	}
	return 0
}
