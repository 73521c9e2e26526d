package coordinatorcmd

import (
	"context"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Comparer is coordinator.Comparer over score files.
type Comparer struct{}

// Compare sets a model beside its twin, or two models beside one another.
func (Comparer) Compare(ctx context.Context, files []coordinator.ScoreFile, measure string, seed uint64) (*surmisev1.CompareScoresResponse, error) {
	options := compare.Options{Seed: seed}
	if measure != "" {
		var err error
		if options.Aggregation, err = compare.ParseAggregation(measure); err != nil {
			return nil, badMeasure(err)
		}
	}
	loaded := make([]*compare.File, len(files))
	names := make([]string, len(files))
	for i, f := range files {
		var err error
		if loaded[i], err = compare.Load(f.Path); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		names[i] = f.Source
	}
	var table *compare.Table
	var err error
	if len(loaded) == 1 {
		table, err = compare.Summarize(loaded[0], options)
	} else {
		table, err = compare.Models(loaded, names, options)
	}
	if err != nil {
		return nil, err
	}
	return tableMessage(table)
}

// Scores passes each video of a score file on.
func (Comparer) Scores(ctx context.Context, path string, each func(*surmisev1.GetScoresResponse) error) error {
	file, err := compare.Load(path)
	if err != nil {
		return err
	}
	model, _ := file.Set(compare.ModelSet)
	twin, _ := file.Set(compare.TwinSet)
	for i, v := range file.Videos {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := each(&surmisev1.GetScoresResponse{
			Path: v.Path, Label: int32(v.Label), Group: v.Group, Property: v.Property,
			WindowStartSeconds: v.WindowStart, TubeletStartSeconds: v.TubeletStart,
			Model: surpriseMessage(file.Spec, model, i), Twin: surpriseMessage(file.Spec, twin, i),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// surpriseMessage is what set says of video i; nil without a set.
func surpriseMessage(spec compare.Spec, set *compare.Set, i int) *surmisev1.VideoSurprise {
	if set == nil {
		return nil
	}
	scores := set.Scores[i]
	m := &surmisev1.VideoSurprise{Curve: scores.Curve}
	for c := range scores.Surprise {
		context := &surmisev1.ContextSurprise{Surprise: scores.Surprise[c], Peak: scores.Peak[c]}
		if c < len(spec.Contexts) {
			context.Context = int32(spec.Contexts[c])
		}
		m.Contexts = append(m.Contexts, context)
	}
	return m
}

func tableMessage(t *compare.Table) (*surmisev1.CompareScoresResponse, error) {
	var text strings.Builder
	if err := t.WriteText(&text); err != nil {
		return nil, err
	}
	m := &surmisev1.CompareScoresResponse{
		Measure: t.Aggregation.String(), Columns: t.Columns, Warnings: t.Warnings, Text: text.String(),
	}
	for _, r := range t.Rows {
		row := &surmisev1.ComparisonRow{Property: r.Name, Pooled: r.Pooled, Groups: int32(r.Groups), Pairs: int32(r.Pairs)}
		for _, c := range r.Cells {
			row.Cells = append(row.Cells, &surmisev1.ComparisonCell{
				Accuracy: intervalMessage(c.Accuracy), GroupAccuracy: intervalMessage(c.GroupAccuracy),
				Auroc: intervalMessage(c.AUROC), Verdict: c.Verdict, Ties: c.Ties,
			})
		}
		for _, d := range r.Differences {
			row.Differences = append(row.Differences, &surmisev1.ComparisonDifference{
				Column: d.Column, Accuracy: intervalMessage(d.Accuracy), GroupAccuracy: intervalMessage(d.GroupAccuracy),
				Auroc: intervalMessage(d.AUROC), Verdict: d.Verdict,
			})
		}
		m.Rows = append(m.Rows, row)
	}
	return m, nil
}

func intervalMessage(i compare.Interval) *surmisev1.Interval {
	return &surmisev1.Interval{Value: i.Value, Low: i.Low, High: i.High}
}

func badMeasure(err error) error {
	st := status.New(codes.InvalidArgument, "measure: "+err.Error())
	detailed, detailErr := st.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "measure", Description: err.Error()}}})
	if detailErr != nil {
		return st.Err()
	}
	return detailed.Err()
}
