package coordinatorcmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Comparer is coordinator.Comparer over score files.
type Comparer struct{}

// Compare sets a model beside its twin, or the later models beside the first; or lists videos without labels.
func (Comparer) Compare(ctx context.Context, files []coordinator.ScoreFile, reference *coordinator.ScoreFile, req *surmisev1.CompareScoresRequest) (*surmisev1.CompareScoresResponse, error) {
	options := compare.Options{Seed: req.GetSeed(), Videos: req.GetVideos(), Done: ctx.Done()}
	if measure := req.GetMeasure(); measure != "" {
		var err error
		if options.Aggregation, err = compare.ParseAggregation(measure); err != nil {
			return nil, badField("measure", err)
		}
	}
	labels := req.GetLabels()
	if len(labels) > 0 && len(labels) != len(files) {
		return nil, badField("labels", fmt.Errorf("%d labels for %d names, want one each or none", len(labels), len(files)))
	}
	var models []compare.Candidate
	for i, f := range files {
		loaded, err := compare.Load(f.Path)
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		label := f.Source
		if len(labels) > 0 {
			label = labels[i]
		}
		models = compare.AddTraining(models, label, loaded)
	}
	if first := models[0].Files[0]; first.Unlabelled() || reference != nil {
		if len(files) != 1 {
			return nil, badField("names", fmt.Errorf("%d jobs; videos without labels are listed of one", len(files)))
		}
		return list(ctx, first, reference, options)
	}
	table, err := compare.Candidates(models, options)
	if errors.Is(err, compare.ErrStopped) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return tableMessage(table)
}

// list orders videos without labels.
func list(ctx context.Context, f *compare.File, reference *coordinator.ScoreFile, o compare.Options) (*surmisev1.CompareScoresResponse, error) {
	var ordinary *compare.File
	if reference != nil {
		var err error
		if ordinary, err = compare.Load(reference.Path); err != nil {
			return nil, fmt.Errorf("reference %s: %w", reference.Source, err)
		}
	}
	listing, err := compare.List(f, ordinary, o)
	if errors.Is(err, compare.ErrStopped) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return listingMessage(listing, o.Videos)
}

func listingMessage(l *compare.Listing, all bool) (*surmisev1.CompareScoresResponse, error) {
	most := 20 // of the text, as 'surmise compare' has it; the message has more
	if all {
		most = 0
	}
	var text strings.Builder
	if err := l.WriteText(&text, most); err != nil {
		return nil, err
	}
	m := &surmisev1.CompareScoresResponse{Measure: l.Aggregation.String(), Columns: l.Columns, Warnings: l.Warnings, Text: cutText(text.String()),
		Protocol: l.Protocol, TwinRankCorrelation: l.TwinCorrelation}
	if r := l.Reference; r != nil {
		m.Reference = &surmisev1.ReferenceVideos{Videos: int32(r.Videos), Groups: int32(r.Groups), Rare: int32(r.Rare), RareExpected: r.Expected, Shared: int32(r.Shared)}
	}
	for _, v := range l.Videos {
		video := &surmisev1.JudgedVideo{Path: v.Path, Label: compare.NoLabel}
		for _, c := range v.Columns {
			video.Columns = append(video.Columns, &surmisev1.VideoJudgment{Surprise: c.Surprise, Percentile: c.Percentile, P: c.P})
		}
		if v.PeakAt != nil {
			video.PeakSeconds = &v.PeakAt.Second
		}
		m.Videos = append(m.Videos, video)
	}
	leaveOut(m)
	return m, nil
}

// maxVideosBytes is what the videos of an answer may take: half of what gRPC's customary 4 MiB hold.
const maxVideosBytes = 2 << 20

// maxTextBytes is what the text of an answer may take.
const maxTextBytes = 1 << 20

// cutText ends a text that is too long after a line.
func cutText(text string) string {
	if len(text) <= maxTextBytes {
		return text
	}
	text = text[:maxTextBytes]
	return text[:strings.LastIndexByte(text, '\n')+1] + "… and more, which there is no room for\n"
}

// leaveOut drops the last videos where they are too many for an answer.
func leaveOut(m *surmisev1.CompareScoresResponse) {
	size := 0
	for i, v := range m.Videos {
		if size += proto.Size(v); size > maxVideosBytes {
			m.VideosLeftOut = int32(len(m.Videos) - i)
			m.Videos = m.Videos[:i]
			return
		}
	}
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
	if err := errors.Join(t.WriteText(&text), t.WriteVideos(&text)); err != nil {
		return nil, err
	}
	m := &surmisev1.CompareScoresResponse{
		Measure: t.Aggregation.String(), Columns: t.Columns, Warnings: t.Warnings, Text: cutText(text.String()), Protocol: t.Protocol,
	}
	for _, r := range t.Rows {
		row := &surmisev1.ComparisonRow{Property: r.Name, Pooled: r.Pooled, Groups: int32(r.Groups), Pairs: int32(r.Pairs)}
		for _, c := range r.Cells {
			row.Cells = append(row.Cells, &surmisev1.ComparisonCell{
				Accuracy: intervalMessage(c.Accuracy), GroupAccuracy: intervalMessage(c.GroupAccuracy),
				Auroc: intervalMessage(c.AUROC), Verdict: c.Verdict, Ties: c.Ties, Trainings: c.Seeds,
				Chance: pMessage(c.Chance), GroupTies: c.GroupTies, GroupChance: pMessage(c.GroupChance), GroupVerdict: c.GroupVerdict,
			})
		}
		for _, d := range r.Differences {
			row.Differences = append(row.Differences, &surmisev1.ComparisonDifference{
				Column: d.Column, Accuracy: intervalMessage(d.Accuracy), GroupAccuracy: intervalMessage(d.GroupAccuracy),
				Auroc: intervalMessage(d.AUROC), Verdict: d.Verdict,
				PairsBothRight: int32(d.Both), PairsOnlyFirstRight: int32(d.First), PairsOnlySecondRight: int32(d.Second),
				PairsNeitherRight: int32(d.Neither), PairsMixed: int32(d.Mixed),
				Mcnemar: pMessage(d.McNemar), SignFlip: pMessage(d.SignFlip), GroupVerdict: d.GroupVerdict,
				GroupSignFlip: pMessage(d.GroupSignFlip), PairsFirstBetter: int32(d.FirstBetter), PairsSecondBetter: int32(d.SecondBetter),
			})
		}
		m.Rows = append(m.Rows, row)
	}
	for _, n := range t.Seeds {
		m.Trainings = append(m.Trainings, int32(n))
	}
	for _, s := range t.Single {
		m.SingleVideos = append(m.SingleVideos, singleMessage(s))
	}
	for _, c := range t.Calibrated {
		m.Calibrated = append(m.Calibrated, calibratedMessage(c))
	}
	for _, s := range t.Selections {
		m.Selections = append(m.Selections, selectionMessage(s))
	}
	for _, f := range t.Twins {
		m.Floors = append(m.Floors, &surmisev1.Floor{Column: f.Column, Accuracy: intervalMessage(f.Accuracy), Twins: int32(f.Seeds)})
	}
	for _, v := range t.Videos {
		video := &surmisev1.JudgedVideo{Path: v.Path, Label: int32(v.Label), Group: v.Group, Property: v.Property}
		for _, c := range v.Columns {
			video.Columns = append(video.Columns, &surmisev1.VideoJudgment{Surprise: c.Surprise, Percentile: c.Percentile})
		}
		m.Videos = append(m.Videos, video)
	}
	leaveOut(m)
	return m, nil
}

func singleMessage(s compare.Single) *surmisev1.SingleVideos {
	m := &surmisev1.SingleVideos{
		Auroc: s.AUROC, Auprc: intervalMessage(s.AUPRCInterval), Threshold: s.Threshold, PossibleBelowThreshold: s.PossibleBelow,
		ImpossibleAboveThreshold: s.ImpossibleAbove, BestAbsoluteAccuracyOracle: s.BestAbsoluteAccuracy,
	}
	if s.AbsoluteInterval != nil {
		m.AbsoluteAccuracy = intervalMessage(*s.AbsoluteInterval)
	}
	return m
}

func calibratedMessage(c compare.Calibrated) *surmisev1.CalibratedVideos {
	if c.Warning != "" {
		return &surmisev1.CalibratedVideos{Verdict: c.Verdict, Warning: c.Warning}
	}
	return &surmisev1.CalibratedVideos{
		Accuracy: intervalMessage(c.Accuracy), FalseAlarms: intervalMessage(c.FalseAlarms), Caught: intervalMessage(c.Caught),
		Gain: intervalMessage(c.Gain), Verdict: c.Verdict,
	}
}

func selectionMessage(s compare.Selection) *surmisev1.Selection {
	m := &surmisev1.Selection{
		Candidates: int32(s.Candidates), HeldOut: intervalMessage(s.HeldOut), Verdict: s.Verdict,
		OracleMeasure: s.Oracle.Aggregation.String(), OracleAccuracy: s.Oracle.Accuracy,
	}
	for _, f := range s.Folds {
		m.Folds = append(m.Folds, &surmisev1.SelectionFold{
			Measure: f.Chosen.Aggregation.String(), ChosenAccuracy: f.Chosen.Accuracy, HeldOutAccuracy: f.HeldOut,
			Groups: int32(f.Groups), Pairs: int32(f.Pairs),
		})
	}
	return m
}

func pMessage(p compare.PValue) *surmisev1.PValue { return &surmisev1.PValue{P: p.P, PHolm: p.Holm} }

func intervalMessage(i compare.Interval) *surmisev1.Interval {
	return &surmisev1.Interval{Value: i.Value, Low: i.Low, High: i.High}
}

func badField(field string, err error) error {
	st := status.New(codes.InvalidArgument, field+": "+err.Error())
	detailed, detailErr := st.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: field, Description: err.Error()}}})
	if detailErr != nil {
		return st.Err()
	}
	return detailed.Err()
}
