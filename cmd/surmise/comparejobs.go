package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// ofJobs tells whether arguments, [NAME=]PATH or [NAME=]jobs/ID, name scoring jobs of a coordinator, which it compares itself.
func ofJobs(arguments []string) (bool, error) {
	isJob := func(argument string) bool {
		_, path := modelAndPath(argument)
		_, err := os.Stat(path)
		return strings.HasPrefix(path, "jobs/") && err != nil
	}
	if !slices.ContainsFunc(arguments, isJob) {
		return false, nil
	}
	for _, a := range arguments {
		if !isJob(a) {
			return false, badInput(fmt.Errorf("%s is a file, and others are jobs of a coordinator: 'surmise fetch jobs/ID scores' brings theirs", a))
		}
	}
	return true, nil
}

// compareJobs has the coordinator compare scoring jobs, and prints what it says.
func compareJobs(ctx context.Context, w io.Writer, to dial.Options, arguments []string, request *surmisev1.CompareScoresRequest, asJSON bool) error {
	if request.Reference != "" && !strings.HasPrefix(request.Reference, "jobs/") {
		return badInput(errors.New("--reference: want a job of the same coordinator, jobs/ID, as the scores are"))
	}
	named := false
	for _, a := range arguments {
		label, job := modelAndPath(a)
		named = named || label != ""
		if label == "" {
			label = job
		}
		request.Names, request.Labels = append(request.Names, job), append(request.Labels, label)
	}
	if !named {
		request.Labels = nil
	}
	client, err := connect(to)
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := surmisev1.NewPlausibilityServiceClient(client.conn).CompareScores(ctx, request)
	if err != nil {
		return err
	}
	if asJSON {
		return writeProto(w, answer)
	}
	_, err = io.WriteString(terminal.Writer{W: w}, answer.Text)
	return err
}
