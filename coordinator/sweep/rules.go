package sweep

import (
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Rules say when a child is ended early. They come from a complete request.
type Rules struct {
	Metric   *surmisev1.SweepMetric  // nil: children are not ordered
	Halving  *surmisev1.Halving      // nil: none
	Collapse *surmisev1.CollapseRule // nil: none
}

// RulesOf are the rules of a complete request.
func RulesOf(request *surmisev1.SubmitSweepRequest) Rules {
	return Rules{request.Metric, request.Halving, request.Collapse}
}

// working reports whether a progress report speaks of the work itself, so that its step counts towards rungs: not of
// indexing before it, nor of an evaluation in between.
func working(p *surmisev1.Progress) bool {
	return p.GetPhase() == "training" || p.GetPhase() == "scoring" || p.GetPhase() == "ranking"
}

// Collapsed says why a child is ended as collapsed; "" when it is not.
func (r Rules) Collapsed(p *surmisev1.Progress) string {
	c := r.Collapse
	switch {
	case c == nil, !working(p), p.EffectiveRank == 0, p.Step < c.AfterSteps:
		return ""
	case p.EffectiveRank < c.MinEffectiveRank:
		return fmt.Sprintf("ended early: collapsed: effective rank %.3g at step %d is below %g", p.EffectiveRank, p.Step, c.MinEffectiveRank)
	case p.ClipShare != nil && p.GetClipShare() < c.MinClipShare:
		return fmt.Sprintf("ended early: collapsed: the share of variance between clips, %.3g at step %d, is below %g", p.GetClipShare(), p.Step, c.MinClipShare)
	}
	return ""
}

// Rung is the highest rung that a report has come to, from 0, and the metric there; ok is false below the first rung, or
// without the metric.
func (r Rules) Rung(p *surmisev1.Progress) (rung int, value float64, ok bool) {
	if r.Halving == nil || !working(p) || p.Step < r.Halving.MinSteps {
		return 0, 0, false
	}
	steps := int64(r.Halving.MinSteps)
	for steps*int64(r.Halving.Reduction) <= int64(p.Step) {
		steps *= int64(r.Halving.Reduction)
		rung++
	}
	if strings.HasPrefix(r.Metric.Name, "evaluation.") && int64(p.GetEvaluation().GetStep()) < steps {
		return 0, 0, false // of an earlier rung
	}
	value, ok = Figure(p, r.Metric.Name)
	return rung, value, ok
}

// Behind says why a child with this value is ended at a rung to which children with these values, its own among them,
// have come; "" when it goes on.
func (r Rules) Behind(rung int, value float64, values []float64) string {
	keep := len(values) / int(r.Halving.Reduction)
	if keep == 0 {
		return ""
	}
	better := 0
	for _, v := range values {
		if r.Better(v, value) {
			better++
		}
	}
	if better < keep {
		return ""
	}
	steps := float64(r.Halving.MinSteps) * math.Pow(float64(r.Halving.Reduction), float64(rung))
	return fmt.Sprintf("ended early: halving: %s %.6g at step %.0f is number %d of %d, and the best %d go on",
		r.Metric.Name, value, steps, better+1, len(values), keep)
}

// Better reports whether a is better than b.
func (r Rules) Better(a, b float64) bool {
	if r.Metric.GetGoal() == surmisev1.Goal_MAXIMIZE {
		return a > b
	}
	return a < b
}

// Figure is the number in p that name names, such as "loss" or "evaluation.accuracy"; ok is false when it is not there
// yet: Progress leaves a number at zero that does not apply. A value that is no finite number is none.
func Figure(p *surmisev1.Progress, name string) (value float64, ok bool) {
	m := p.ProtoReflect()
	parts := strings.Split(name, ".")
	for i, part := range parts {
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(part))
		if fd == nil || fd.IsList() || fd.IsMap() {
			return 0, false
		}
		if i < len(parts)-1 {
			if fd.Message() == nil || !m.Has(fd) {
				return 0, false
			}
			m = m.Get(fd).Message()
			continue
		}
		if i == 0 && !m.Has(fd) {
			return 0, false
		}
		switch v := m.Get(fd).Interface().(type) {
		case float64:
			value = v
		case int32:
			value = float64(v)
		default:
			return 0, false
		}
	}
	return value, !math.IsNaN(value) && !math.IsInf(value, 0)
}

// isFigure reports whether name names a number in Progress.
func isFigure(name string) bool {
	one := &surmisev1.Progress{Evaluation: &surmisev1.Evaluation{}}
	if _, below, ok := strings.Cut(name, "."); ok {
		_, ok = Figure(one, name)
		return ok && below != "step"
	}
	fd := one.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
	return fd != nil && !fd.IsList() && fd.Kind() == protoreflect.DoubleKind
}
