// Package sweep turns a sweep into its children, and judges them by what they report. It is pure: it stores nothing and
// draws from the seed that the sweep names.
//
// A sweep passes through: expand.go (request → children, each a complete job) → path.go (fields by their path) →
// rules.go (which child is ended early, and why).
package sweep

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Bounds of a sweep.
const (
	MaxChildren     = 10_000
	maxRequestBytes = 2 << 20  // it is answered whole, in messages of 4 MiB
	maxBytes        = 64 << 20 // of the specifications of all children
)

// Child is one job of a sweep.
type Child struct {
	Spec   *surmisev1.JobSpec // with every default filled in
	Values map[string]string  // what the parameters and the seed are, by path, as JSON
}

// Complete returns a copy of the request with the defaults of the sweep filled in; those of the jobs are filled in their
// own specifications. An error is a jobspec.Errors.
func Complete(request *surmisev1.SubmitSweepRequest) (*surmisev1.SubmitSweepRequest, error) {
	request = proto.CloneOf(request)
	var errs jobspec.Errors
	fault := func(field, format string, args ...any) {
		errs = append(errs, jobspec.FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	if request.Metric == nil && request.GetTrain() != nil {
		request.Metric = &surmisev1.SweepMetric{Name: "loss"}
	}
	if request.Metric != nil && request.Metric.Goal == surmisev1.Goal_GOAL_UNSPECIFIED {
		request.Metric.Goal = surmisev1.Goal_MINIMIZE
	}
	if h := request.Halving; h != nil {
		if h.Reduction == 0 {
			h.Reduction = 3
		}
		switch {
		case h.Reduction == 1:
			fault("halving.reduction", "1 would end nobody, want 2 or more")
		case request.Metric == nil:
			fault("metric", "halving needs one")
		case !isFigure(request.Metric.Name):
			fault("metric.name", "halving needs a number in Progress, such as loss or evaluation.accuracy, got %q", request.Metric.Name)
		}
	}
	if request.Collapse != nil && request.GetTrain() == nil {
		fault("collapse", "only training reports an effective rank")
	}
	if errs != nil {
		return nil, errs
	}
	return request, nil
}

// axis is a parameter as Expand uses it.
type axis struct {
	field
	grid []setting                // nil: random
	draw func(*rand.Rand) setting // nil: a grid
}

// Expand makes the children of a complete request, in order. An error is a jobspec.Errors, unless ctx has ended or a rule
// itself is broken.
func Expand(ctx context.Context, request *surmisev1.SubmitSweepRequest) ([]Child, error) {
	if n := proto.Size(request); n > maxRequestBytes {
		return nil, jobspec.Errors{{Field: "parameters", Problem: fmt.Sprintf("the request takes %d bytes, want at most %d", n, maxRequestBytes)}}
	}
	base := baseOf(request)
	axes, err := axesOf(ctx, request, base)
	if err != nil {
		return nil, err
	}
	var errs jobspec.Errors
	points, random := 1, false
	for _, a := range axes {
		if a.draw != nil {
			random = true
		} else {
			points = min(points*len(a.grid), MaxChildren+1)
		}
	}
	switch {
	case random && request.Samples == 0:
		errs = append(errs, jobspec.FieldError{Field: "samples", Problem: "a parameter is random: want how many values to draw, got 0"})
	case !random && request.Samples > 0:
		errs = append(errs, jobspec.FieldError{Field: "samples", Problem: fmt.Sprintf("no parameter is random: want 0, got %d", request.Samples)})
	}
	samples := max(1, int(request.Samples))
	seeds := max(1, len(request.Seeds))
	if points*samples*seeds > MaxChildren { // below 10^11: each is bounded
		errs = append(errs, jobspec.FieldError{Field: "parameters", Problem: fmt.Sprintf(
			"%s grid points × %d samples × %d seeds are more than %d children", atMost(points), samples, seeds, MaxChildren)})
	}
	if errs != nil {
		return nil, errs
	}

	// Drawn first, sample by sample: more samples leave the first ones as they were.
	rng := rand.New(rand.NewPCG(request.SampleSeed, 0x7377656570)) // "sweep"
	drawn := make([][]setting, samples)
	for i := range drawn {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		drawn[i] = make([]setting, len(axes))
		for j, a := range axes {
			if a.draw != nil {
				drawn[i][j] = a.draw(rng)
			}
		}
	}
	seedField, err := parsePath(kindOf(base)+".seed", base)
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err) // every kind has one
	}
	bytes := 0
	children := make([]Child, 0, points*samples*seeds)
	for point := range points {
		at := indices(point, axes)
		for _, values := range drawn {
			for s := range seeds {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				child := Child{Spec: proto.CloneOf(base), Values: map[string]string{}}
				for j, a := range axes {
					v := values[j]
					if a.draw == nil {
						v = a.grid[at[j]]
					}
					a.set(child.Spec, v)
					child.Values[a.path] = v.text
				}
				if len(request.Seeds) > 0 {
					seed := request.Seeds[s]
					seedField.set(child.Spec, seedSetting(seedField, seed))
					child.Values[seedField.path] = strconv.FormatUint(seed, 10)
				}
				if child.Spec, err = jobspec.Complete(child.Spec); err != nil {
					return nil, blame(err, axes, len(children), child)
				}
				if bytes += proto.Size(child.Spec); bytes > maxBytes {
					return nil, jobspec.Errors{{Field: "parameters", Problem: fmt.Sprintf(
						"the first %d of %d children take more than %d bytes: name folders or an index in place of many files", len(children)+1, cap(children), maxBytes)}}
				}
				children = append(children, child)
			}
		}
	}
	return children, nil
}

func atMost(points int) string {
	if points > MaxChildren {
		return fmt.Sprintf("more than %d", MaxChildren)
	}
	return strconv.Itoa(points)
}

// indices takes a point of the grids apart, the last grid varying fastest.
func indices(point int, axes []axis) []int {
	at := make([]int, len(axes))
	for j := len(axes) - 1; j >= 0; j-- {
		if n := len(axes[j].grid); n > 0 {
			at[j], point = point%n, point/n
		}
	}
	return at
}

func seedSetting(f field, seed uint64) setting {
	s := setting{f.in.New(), strconv.FormatUint(seed, 10)}
	s.put(s.holder, f.leaf(), wholeOf(f.leaf().field.Kind(), int64(seed))) // wraps around and back
	return s
}

func baseOf(request *surmisev1.SubmitSweepRequest) *surmisev1.JobSpec {
	switch kind := request.Spec.(type) {
	case *surmisev1.SubmitSweepRequest_Score:
		return &surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Score{Score: kind.Score}}
	case *surmisev1.SubmitSweepRequest_Rank:
		return &surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Rank{Rank: kind.Rank}}
	default:
		return &surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Train{Train: request.GetTrain()}}
	}
}

func kindOf(spec *surmisev1.JobSpec) string {
	m := spec.ProtoReflect()
	return string(m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")).Name())
}

func axesOf(ctx context.Context, request *surmisev1.SubmitSweepRequest, base *surmisev1.JobSpec) ([]axis, error) {
	var axes []axis
	var errs jobspec.Errors
	for i, p := range request.Parameters {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("parameters[%d].", i)
		f, err := parsePath(p.Path, base)
		if err != nil {
			errs = append(errs, jobspec.FieldError{Field: name + "path", Problem: p.Path + ": " + err.Error()})
			continue
		}
		for j, other := range axes {
			if f.within(other.field) || other.within(f) {
				errs = append(errs, jobspec.FieldError{Field: name + "path", Problem: fmt.Sprintf("%s overlaps %s of parameters[%d]", f.path, other.path, j)})
			}
		}
		if len(request.Seeds) > 0 && f.path == kindOf(base)+".seed" {
			errs = append(errs, jobspec.FieldError{Field: "seeds", Problem: "parameters set " + f.path + " already"})
		}
		a := axis{field: f}
		errs = append(errs, a.values(name, p)...)
		axes = append(axes, a)
	}
	if errs != nil {
		return nil, errs
	}
	return axes, nil
}

// values reads the values of a parameter, whose field is named by prefix in errors.
func (a *axis) values(prefix string, p *surmisev1.SweepParameter) (errs jobspec.Errors) {
	fault := func(field, format string, args ...any) {
		errs = append(errs, jobspec.FieldError{Field: prefix + field, Problem: fmt.Sprintf(format, args...)})
	}
	list := p.GetGrid()
	kind := "grid"
	if c := p.GetChoice(); c != nil {
		list, kind = c, "choice"
	}
	number, isNumber := a.element()
	switch {
	case list != nil:
		if n := len(list.Values); n == 0 || n > MaxChildren {
			fault(kind, "%s: want 1 to %d values, got %d", a.path, MaxChildren, n)
			return errs
		}
		var settings []setting
		for i, v := range list.Values {
			s, err := a.parse(v)
			if err != nil {
				fault(fmt.Sprintf("%s[%d]", kind, i), "%v", err)
				continue
			}
			settings = append(settings, s)
		}
		if kind == "grid" {
			a.grid = settings
		} else {
			a.draw = func(rng *rand.Rand) setting { return settings[rng.IntN(len(settings))] }
		}
	case p.GetInteger() != nil:
		low, high := p.GetInteger().Min, p.GetInteger().Max
		least, most, whole := bounds(number)
		switch {
		case !isNumber:
			fault("integer", "%s is no number", a.path)
		case low > high:
			fault("integer", "%s: min %d is above max %d", a.path, low, high)
		case whole && (low < least || high > most):
			fault("integer", "%s: %d to %d is beyond the field's %d to %d", a.path, low, high, least, most)
		}
		a.draw = func(rng *rand.Rand) setting {
			span := uint64(high) - uint64(low) // of two's complements: right for any two
			if span == math.MaxUint64 {
				return a.whole(int64(rng.Uint64()))
			}
			return a.whole(low + int64(rng.Uint64N(span+1)))
		}
	default:
		r, kind := p.GetUniform(), "uniform"
		if r == nil {
			r, kind = p.GetLogUniform(), "log_uniform"
		}
		low, high := r.GetMin(), r.GetMax()
		switch {
		case !isNumber:
			fault(kind, "%s is no number", a.path)
		case !isFloat(number):
			fault(kind, "%s takes whole numbers: use integer", a.path)
		case !(low < high):
			fault(kind, "%s: want min below max, got %g and %g", a.path, low, high)
		case math.IsInf(high-low, 0):
			fault(kind, "%s: from %g to %g is further than a number can say", a.path, low, high)
		case kind == "log_uniform" && low <= 0:
			fault(kind+".min", "%s: want above 0, got %g", a.path, low)
		}
		a.draw = func(rng *rand.Rand) setting {
			u := rng.Float64()
			v := low + u*(high-low)
			if kind == "log_uniform" {
				v = math.Exp(math.Log(low) + u*(math.Log(high)-math.Log(low)))
			}
			return a.number(min(max(v, low), math.Nextafter(high, low))) // rounding may step over an end
		}
	}
	return errs
}

// blame turns what is wrong with a child into what is wrong with the sweep: with a parameter, where it set the field.
func blame(err error, axes []axis, index int, child Child) error {
	var faults jobspec.Errors
	if !errors.As(err, &faults) {
		return fmt.Errorf("child %d: %w", index, err)
	}
	var errs jobspec.Errors
	for _, f := range faults {
		field, problem := f.Field, fmt.Sprintf("%s (child %d)", f.Problem, index)
		for i, a := range axes {
			if f.Field == a.path || strings.HasPrefix(f.Field, a.path+".") || strings.HasPrefix(f.Field, a.path+"[") {
				field = fmt.Sprintf("parameters[%d]", i)
				problem = fmt.Sprintf("child %d with %s = %s: %s: %s", index, a.path, child.Values[a.path], f.Field, f.Problem)
			}
		}
		errs = append(errs, jobspec.FieldError{Field: field, Problem: problem})
	}
	return errs
}
