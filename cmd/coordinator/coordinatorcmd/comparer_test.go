package coordinatorcmd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// scoreFile writes scores of three pairs: the model is right about all, its twin about none. stride tells files apart.
func scoreFile(t *testing.T, stride int) string {
	t.Helper()
	f := &compare.File{
		Version: compare.Version, Spec: compare.Spec{Window: 8, Stride: stride, FrameStep: 1, Contexts: []int{2, 4}}, Size: 64, Decoder: "none 1",
		Sets: []compare.Set{
			{Name: compare.ModelSet, Model: compare.Model{Name: "m", SHA256: strings.Repeat("a", 64), Step: 5}},
			{Name: compare.TwinSet, Model: compare.Model{Name: "twin"}},
		},
	}
	for i := range 6 {
		f.Videos = append(f.Videos, compare.Video{
			Path: fmt.Sprintf("%d.mp4", i), Label: (i + 1) % 2, Group: fmt.Sprint(i / 2), Property: "permanence",
			SHA256: fmt.Sprintf("%064x", i), Frames: 8, WindowStart: []float64{0}, TubeletStart: []float64{0, 0.5},
		})
		for s := range f.Sets {
			surprise := 0.25 + float64(i%2)*(0.25-0.375*float64(s)) // impossible: 0.5 to the model, 0.125 to the twin
			f.Sets[s].Scores = append(f.Sets[s].Scores, compare.Scores{
				Surprise: [][]float64{{surprise}, {surprise}}, Peak: [][]float64{{surprise}, {surprise}}, Curve: []float64{surprise, surprise},
			})
		}
	}
	f.Data = compare.Digest(f.Videos)
	path := filepath.Join(t.TempDir(), "scores.json")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCompareOne(t *testing.T) {
	file := coordinator.ScoreFile{Source: "jobs/a", Path: scoreFile(t, 2)}
	got, err := Comparer{}.Compare(t.Context(), []coordinator.ScoreFile{file}, nil, &surmisev1.CompareScoresRequest{Measure: "max@4", Videos: true})
	if err != nil {
		t.Fatal(err)
	}
	last := got.Rows[len(got.Rows)-1]
	if got.Measure != "max@4" || len(got.Columns) != 2 || last.Property != compare.All || !last.Pooled || last.Pairs != 3 || last.Groups != 3 {
		t.Errorf("got %v", got)
	}
	if m, twin := last.Cells[0], last.Cells[1]; m.Accuracy.Value != 1 || twin.Accuracy.Value != 0 || m.Auroc.Value != 1 || m.Verdict == "" {
		t.Errorf("model %v, twin %v", m, twin)
	}
	if m, twin := last.Cells[0], last.Cells[1]; m.Ties != 0 || twin.Ties != 0 {
		t.Errorf("ties %g and %g of pairs of which none ties", m.Ties, twin.Ties)
	}
	if len(got.SingleVideos) != 2 || got.SingleVideos[0].Auroc != 1 || got.SingleVideos[0].Auprc.Value != 1 || got.SingleVideos[0].AbsoluteAccuracy != nil {
		t.Errorf("single videos %v, want an AUROC of 1 and too few for a threshold", got.SingleVideos)
	}
	if len(got.Calibrated) != 2 || got.Calibrated[0].Warning == "" || got.Calibrated[0].Accuracy != nil {
		t.Errorf("three possible videos are too few to judge by: %v", got.Calibrated)
	}
	if s := got.Selections; len(s) != 2 || len(s[0].Folds) != 2 || s[0].HeldOut.Value != 1 || s[0].OracleMeasure == "" || s[0].Folds[0].Pairs+s[0].Folds[1].Pairs != 3 {
		t.Errorf("selections %v", s)
	}
	if len(got.Videos) != 6 || got.Videos[1].Path != "1.mp4" || got.Videos[1].Columns[0].Surprise != 0.5 || got.Videos[1].Columns[0].Percentile != nil {
		t.Errorf("videos %v", got.Videos)
	}
	if m := last.Cells[0]; m.Chance.P != 0.25 || m.GroupChance.P != 0.25 || m.GroupVerdict != compare.Inconclusive || m.GroupTies != 0 {
		t.Errorf("three of three groups against chance: %v", m)
	}
	if d := last.Differences[0]; d.PairsOnlyFirstRight != 3 || d.PairsFirstBetter != 3 || d.PairsSecondBetter != 0 || d.GroupVerdict != compare.Inconclusive || math.Abs(d.Mcnemar.P-0.25) > 1e-12 || d.SignFlip.P != 0.25 || d.Mcnemar.PHolm != d.Mcnemar.P {
		t.Errorf("three pairs that only the model tells apart: %v", d)
	}
	if last.Differences[0].Accuracy.Value != 1 || !strings.Contains(got.Text, "permanence") {
		t.Errorf("differences %v, text %s", last.Differences, got.Text)
	}
}

// A comparison nobody waits for ends.
func TestCompareEndsWithItsCaller(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	file := coordinator.ScoreFile{Source: "jobs/a", Path: scoreFile(t, 2)}
	leave()
	if _, err := (Comparer{}).Compare(ctx, []coordinator.ScoreFile{file}, nil, &surmisev1.CompareScoresRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCompareTellsTies(t *testing.T) {
	path := scoreFile(t, 2)
	f, err := compare.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Sets[0].Scores[1] = f.Sets[0].Scores[0] // the first of three pairs
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Comparer{}.Compare(t.Context(), []coordinator.ScoreFile{{Source: "jobs/a", Path: path}}, nil, &surmisev1.CompareScoresRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if ties := got.Rows[len(got.Rows)-1].Cells[0].Ties; ties < 0.33 || ties > 0.34 {
		t.Errorf("ties %g, want a third", ties)
	}
}

func TestCompareTwo(t *testing.T) {
	files := []coordinator.ScoreFile{{Source: "jobs/a", Path: scoreFile(t, 2)}, {Source: "jobs/b", Path: scoreFile(t, 2)}}
	got, err := Comparer{}.Compare(t.Context(), files, nil, &surmisev1.CompareScoresRequest{})
	if err != nil || got.Columns[0] != "jobs/a" || got.Columns[1] != "jobs/b" {
		t.Fatalf("got %v, %v", got, err)
	}
	files[1].Path = scoreFile(t, 4)
	if _, err = (Comparer{}).Compare(t.Context(), files, nil, &surmisev1.CompareScoresRequest{}); !errors.Is(err, compare.ErrUnlike) || !strings.Contains(err.Error(), "stride") {
		t.Errorf("unlike files: %v", err)
	}
}

// Jobs of one label are trainings of one model.
func TestCompareTrainings(t *testing.T) {
	var files []coordinator.ScoreFile
	for i := range 3 {
		path := scoreFile(t, 2)
		f, err := compare.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		f.Sets[0].Model.SHA256 = fmt.Sprintf("%064x", i)
		f.Sets[0].Scores[0].Surprise[0][0] += 0.001 * float64(i) // other weights
		if err := f.Save(path); err != nil {
			t.Fatal(err)
		}
		files = append(files, coordinator.ScoreFile{Source: fmt.Sprintf("jobs/%d", i), Path: path})
	}
	got, err := Comparer{}.Compare(t.Context(), files, nil, &surmisev1.CompareScoresRequest{Labels: []string{"a", "b", "a"}})
	if err != nil {
		t.Fatal(err)
	}
	last := got.Rows[len(got.Rows)-1]
	if !slices.Equal(got.Columns, []string{"a", "b"}) || !slices.Equal(got.Trainings, []int32{2, 1}) || !slices.Equal(last.Cells[0].Trainings, []float64{1, 1}) {
		t.Errorf("columns %v, trainings %v, of a %v", got.Columns, got.Trainings, last.Cells[0].Trainings)
	}
	if len(got.Floors) != 2 || got.Floors[0].Column != "a" || got.Floors[0].Accuracy.Value != 0 || got.Floors[0].Twins != 1 {
		t.Errorf("floors %v, want two of 0, of one twin each", got.Floors)
	}
	_, err = Comparer{}.Compare(t.Context(), files, nil, &surmisev1.CompareScoresRequest{Labels: []string{"a"}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "labels: 1 labels for 3 names") {
		t.Errorf("one label for three jobs: %v", err)
	}
}

func TestCompareFaults(t *testing.T) {
	path := scoreFile(t, 2)
	_, err := Comparer{}.Compare(t.Context(), []coordinator.ScoreFile{{Source: "jobs/a", Path: path}}, nil, &surmisev1.CompareScoresRequest{Measure: "best"})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "best") {
		t.Errorf("unknown measure: %v", err)
	}
	if _, err := (Comparer{}).Compare(t.Context(), []coordinator.ScoreFile{{Path: path + "x"}}, nil, &surmisev1.CompareScoresRequest{}); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("missing file: %v", err)
	}
}

func TestScores(t *testing.T) {
	var videos []*surmisev1.GetScoresResponse
	err := Comparer{}.Scores(t.Context(), scoreFile(t, 2), func(v *surmisev1.GetScoresResponse) error {
		videos = append(videos, v)
		return nil
	})
	if err != nil || len(videos) != 6 {
		t.Fatalf("%d videos, %v", len(videos), err)
	}
	v := videos[1]
	if v.Path != "1.mp4" || v.Label != 0 || v.Group != "0" || v.Property != "permanence" || len(v.Model.Contexts) != 2 ||
		v.Model.Contexts[1].Context != 4 || v.Model.Contexts[1].Surprise[0] != 0.5 || len(v.Model.Curve) != len(v.TubeletStartSeconds) || v.Twin == nil {
		t.Errorf("got %v", v)
	}
	stop := errors.New("stop")
	if err := (Comparer{}).Scores(t.Context(), scoreFile(t, 2), func(*surmisev1.GetScoresResponse) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// Videos without labels are listed, by the scores of ordinary ones if a reference is named.
func TestCompareListsVideosWithoutLabels(t *testing.T) {
	f, err := compare.Load(scoreFile(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Videos {
		v := &f.Videos[i]
		v.Label, v.Group, v.Property, v.SHA256 = compare.NoLabel, "", "", fmt.Sprintf("%064x", 100+i)
		f.Sets[0].Scores[i].PeakAt = &compare.Place{Frame: 4, Second: 0.5}
	}
	f.Data = compare.Digest(f.Videos)
	path := filepath.Join(t.TempDir(), "scores.json")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	files := []coordinator.ScoreFile{{Source: "jobs/a", Path: path}}
	got, err := Comparer{}.Compare(t.Context(), files, nil, &surmisev1.CompareScoresRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first := got.Videos[0]
	if got.Measure != "max" || len(got.Rows) != 0 || len(got.Videos) != 6 || first.Path != "1.mp4" || first.Label != -1 || *first.PeakSeconds != 0.5 ||
		first.Columns[0].Surprise != 0.5 || first.Columns[0].P != nil || got.Reference != nil || got.TwinRankCorrelation == nil || *got.TwinRankCorrelation > -0.99 {
		t.Errorf("listed %v", got)
	}
	labelled := coordinator.ScoreFile{Source: "jobs/b", Path: scoreFile(t, 2)} // three possible videos, of 0.25
	if got, err = (Comparer{}).Compare(t.Context(), files, &labelled, &surmisev1.CompareScoresRequest{Measure: "avg"}); err != nil {
		t.Fatal(err)
	}
	if j := got.Videos[0].Columns[0]; got.Measure != "avg" || got.Reference.GetVideos() != 3 || *j.P != 0.25 || *j.Percentile != 100 || !strings.Contains(got.Text, "among the 3 videos") {
		t.Errorf("by a reference: %v", got)
	}
	var sent []*surmisev1.GetScoresResponse
	err = Comparer{}.Scores(t.Context(), path, func(r *surmisev1.GetScoresResponse) error { sent = append(sent, r); return nil })
	if err != nil || len(sent) != 6 || sent[0].Label != -1 || sent[0].Group != "" {
		t.Errorf("scores %v, %v", sent, err)
	}

	_, err = Comparer{}.Compare(t.Context(), append(files, files[0]), nil, &surmisev1.CompareScoresRequest{})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "names: 2 jobs; videos without labels are listed of one") {
		t.Errorf("two jobs: %v", err)
	}
	if _, err = (Comparer{}).Compare(t.Context(), []coordinator.ScoreFile{labelled}, &files[0], &surmisev1.CompareScoresRequest{}); err == nil || !strings.Contains(err.Error(), "the videos have labels") {
		t.Errorf("labelled videos by a reference: %v", err)
	}
	other := coordinator.ScoreFile{Source: "jobs/c", Path: scoreFile(t, 4)}
	if _, err = (Comparer{}).Compare(t.Context(), files, &other, &surmisev1.CompareScoresRequest{}); !errors.Is(err, compare.ErrUnlike) {
		t.Errorf("a reference with other settings: %v", err)
	}
}
