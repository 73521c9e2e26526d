package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// modelPath is the setting in which the children of a scoring sweep differ.
const modelPath = "score.model"

// scoringSweep is the sweep that scores the models of another one on the same pairs, those of the children that have
// succeeded. notes hears how many that leaves out.
func scoringSweep(ctx context.Context, client surmisev1.SweepServiceClient, name, pairs string, notes io.Writer) (*surmisev1.SubmitSweepRequest, error) {
	path, err := absolute(pairs)
	if err != nil {
		return nil, badInput(fmt.Errorf("--score %q: %w", pairs, err))
	}
	sweep, children, err := getSweep(ctx, client, name)
	if err != nil {
		return nil, err
	}
	if sweep.GetRequest().GetTrain() == nil {
		return nil, badInput(fmt.Errorf("%s trained no models: its jobs do something else", name))
	}
	models := &structpb.ListValue{}
	for _, c := range children {
		if c.State == surmisev1.JobState_SUCCEEDED {
			models.Values = append(models.Values, structpb.NewStringValue(c.Job))
		}
	}
	if len(models.Values) == 0 {
		return nil, badInput(fmt.Errorf("%s has no models: none of its jobs has succeeded: %s", name, countsText(sweep)))
	}
	if left := len(children) - len(models.Values); left > 0 {
		fmt.Fprintf(notes, "%d of %d children have not succeeded, and have no model to score\n", left, len(children))
	}
	return &surmisev1.SubmitSweepRequest{
		Spec:        &surmisev1.SubmitSweepRequest_Score{Score: &surmisev1.ScoreSpec{Pairs: path, Model: children[0].Job}},
		Parameters:  []*surmisev1.SweepParameter{{Path: modelPath, Values: &surmisev1.SweepParameter_Grid{Grid: models}}},
		Metric:      &surmisev1.SweepMetric{Name: "pairwise_accuracy", Goal: surmisev1.Goal_MAXIMIZE},
		DisplayName: "scores of " + name,
	}, nil
}

// addTraining adds to the children of a scoring sweep the settings that their models were trained with, where those are of a
// sweep that is still known. A table is complete without them, so nothing that goes wrong here is an error.
func addTraining(ctx context.Context, jobs *jobsClient, client surmisev1.SweepServiceClient, sweep *surmisev1.Sweep, children []*surmisev1.SweepChild) {
	model := func(c *surmisev1.SweepChild) string {
		var name string
		if err := json.Unmarshal([]byte(c.GetValues()[modelPath]), &name); err != nil || !strings.HasPrefix(name, "jobs/") {
			return ""
		}
		return name
	}
	if sweep.GetRequest().GetScore() == nil || len(children) == 0 || model(children[0]) == "" {
		return
	}
	trained, err := jobs.GetJob(ctx, &surmisev1.GetJobRequest{Name: model(children[0])})
	if err != nil || trained.GetSweep() == "" {
		return
	}
	_, of, err := getSweep(ctx, client, trained.GetSweep())
	if err != nil {
		return
	}
	settings := map[string]map[string]string{}
	for _, c := range of {
		settings[c.Job] = c.Values
	}
	for _, c := range children {
		maps.Copy(c.Values, settings[model(c)])
	}
	if best := sweep.Best; best != nil {
		maps.Copy(best.Values, settings[model(best)])
	}
}
