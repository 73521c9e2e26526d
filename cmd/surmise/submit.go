package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

type submitOptions struct {
	file         string
	train        []string
	steps        int32
	init         string
	initGiven    bool
	score, model string
	videos       []string
	seed         *uint64 // nil: not given
	precision    string
	device       string

	requestID, displayName string
	priority               int32
	validateOnly           bool
	wait, watch, json      bool
}

func newSubmitCommand() *cobra.Command {
	var o submitOptions
	var seed uint64
	cmd := &cobra.Command{
		Use:   "submit {-f JOB.json | --train DATA | --score PAIRS --model MODEL | --videos VIDEOS --model MODEL}",
		Short: "Submit a job",
		Long: `Submit a job and print its name.

A job file is a SubmitJobRequest as JSON; {"train":{"data":["DIR"]}} is a whole one. Paths in it are as the worker sees
them; paths given as flags are made absolute here.`,
		Example: `  surmise submit --train clips --steps 600 --watch
  surmise submit --train other-clips --init jobs/abc --steps 200
  surmise submit --score pairs.csv --model jobs/abc
  surmise submit --videos recordings --model jobs/abc
  echo '{"train":{"data":["/data/clips"]}}' | surmise submit -f -`,
		Args: noArguments,
	}
	address := addCoordinatorFlag(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.file, "file", "f", "", "job file; - for standard input")
	flags.StringArrayVar(&o.train, "train", nil, "train on these videos: a file, folder, glob or CSV index; repeat for more")
	flags.Int32Var(&o.steps, "steps", 0, "optimiser steps, with --train (default 600)")
	flags.StringVar(&o.init, "init", "", "with --train: train on from jobs/ID, a checkpoint folder or a .safetensors file")
	flags.StringVar(&o.score, "score", "", "score the videos of this pairs file")
	flags.StringArrayVar(&o.videos, "videos", nil, "score these videos, which have no labels: a file, folder, glob or index; repeat for more")
	flags.StringVar(&o.model, "model", "", "with --score or --videos: jobs/ID of a training job, a checkpoint folder or a .safetensors file")
	flags.Uint64Var(&seed, "seed", 0, "seed of the training, with --train (default 0), or of the twin and the bootstrap, with --score or --videos (default the model's and 0)")
	flags.StringVar(&o.precision, "precision", "", "auto, fp32, bf16 or, on a GPU, tf32; not with --file (default auto)")
	flags.StringVar(&o.device, "device", "", "what it runs on, not with --file: auto, cpu, gpu or gpu:N (default auto)")
	flags.StringVar(&o.requestID, "request-id", "", "submitting again with the same id and content answers the same job")
	flags.StringVar(&o.displayName, "display-name", "", "free text kept with the job")
	flags.Int32Var(&o.priority, "priority", 0, "-1000 to 1000: higher is served first, and makes running jobs of lower priority give way")
	flags.BoolVar(&o.validateOnly, "validate-only", false, "check the job and print it with its defaults, submitting nothing")
	flags.BoolVar(&o.wait, "wait", false, "wait for the end; exit with 3 when the job fails or is cancelled")
	flags.BoolVar(&o.watch, "watch", false, "as --wait, showing progress")
	flags.BoolVar(&o.json, "json", false, "print the job as JSON instead of its name")
	cmd.MarkFlagsOneRequired("file", "train", "score", "videos")
	cmd.MarkFlagsMutuallyExclusive("file", "train", "score", "videos")
	cmd.MarkFlagsMutuallyExclusive("file", "model")
	cmd.MarkFlagsMutuallyExclusive("train", "model")
	cmd.MarkFlagsMutuallyExclusive("file", "steps")
	cmd.MarkFlagsMutuallyExclusive("file", "seed")
	cmd.MarkFlagsMutuallyExclusive("file", "precision")
	cmd.MarkFlagsMutuallyExclusive("file", "device")
	cmd.MarkFlagsMutuallyExclusive("score", "steps")
	cmd.MarkFlagsMutuallyExclusive("videos", "steps")
	cmd.MarkFlagsMutuallyExclusive("file", "init")
	cmd.MarkFlagsMutuallyExclusive("score", "init")
	cmd.MarkFlagsMutuallyExclusive("videos", "init")
	cobra.CheckErr(cmd.MarkFlagFilename("file", "json"))
	cobra.CheckErr(cmd.MarkFlagFilename("score", "csv"))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.initGiven = cmd.Flags().Changed("init")
		if flags.Changed("seed") {
			o.seed = &seed
		}
		if o.model == "" && (flags.Changed("score") || flags.Changed("videos")) {
			return badInput(errors.New("--score and --videos need --model"))
		}
		request, err := o.request(cmd.InOrStdin())
		if err != nil {
			return err
		}
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()
		return submit(cmd.Context(), client, request, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// request is what the flags ask for.
func (o submitOptions) request(in io.Reader) (*surmisev1.SubmitJobRequest, error) {
	var request *surmisev1.SubmitJobRequest
	switch {
	case o.file != "":
		var err error
		if request, err = readJobFile(o.file, in); err != nil {
			return nil, err
		}
	case len(o.train) > 0:
		train := &surmisev1.TrainSpec{Steps: o.steps, Precision: o.precision, Device: o.device}
		if o.seed != nil {
			train.Seed = *o.seed
		}
		var err error
		if train.Data, err = absolutes("--train", o.train); err != nil {
			return nil, err
		}
		if o.initGiven { // empty too, as where a variable of the shell is: to begin anew in its place would go unnoticed
			from, err := modelName(o.init)
			if err != nil {
				return nil, badInput(fmt.Errorf("--init %q: %w", o.init, err))
			}
			train.Init = &surmisev1.InitSpec{From: from}
		}
		request = &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Train{Train: train}}
	default:
		score := &surmisev1.ScoreSpec{Seed: o.seed, Precision: o.precision, Device: o.device}
		var err error
		if len(o.videos) > 0 {
			score.Videos, err = absolutes("--videos", o.videos)
		} else if score.Pairs, err = absolute(o.score); err != nil {
			err = badInput(fmt.Errorf("--score %q: %w", o.score, err))
		}
		if err != nil {
			return nil, err
		}
		if score.Model, err = modelName(o.model); err != nil {
			return nil, badInput(fmt.Errorf("--model %q: %w", o.model, err))
		}
		request = &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Score{Score: score}}
	}
	for flag, value := range map[string]string{"request-id": o.requestID, "display-name": o.displayName} {
		if !utf8.ValidString(value) {
			return nil, badInput(fmt.Errorf("--%s %q: is not UTF-8", flag, value))
		}
	}
	if o.requestID != "" {
		request.RequestId = o.requestID
	}
	if o.displayName != "" {
		request.DisplayName = o.displayName
	}
	if o.priority != 0 {
		if request.Scheduling == nil {
			request.Scheduling = &surmisev1.Scheduling{}
		}
		request.Scheduling.Priority = o.priority
	}
	request.ValidateOnly = request.ValidateOnly || o.validateOnly
	return request, nil
}

// modelName is a model as a job names it: a job's, or a path that means the same to the worker.
func modelName(name string) (string, error) {
	if strings.HasPrefix(name, "jobs/") && utf8.ValidString(name) {
		return name, nil
	}
	return absolute(name)
}

// absolutes makes each of a flag's names mean the same to the worker.
func absolutes(flag string, names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		path, err := absolute(name)
		if err != nil {
			return nil, badInput(fmt.Errorf("%s %q: %w", flag, name, err))
		}
		out = append(out, path)
	}
	return out, nil
}

// absolute makes a path mean the same to the worker; a URI stays as it is.
func absolute(path string) (string, error) {
	if path == "" {
		return "", errors.New("empty")
	}
	if !utf8.ValidString(path) {
		return "", errors.New("is not UTF-8, and no job can hold it: rename what it names")
	}
	if strings.Contains(path, "://") {
		return path, nil
	}
	return filepath.Abs(path)
}

func submit(ctx context.Context, client *jobsClient, request *surmisev1.SubmitJobRequest, o submitOptions, out, show io.Writer) error {
	job, err := client.SubmitJob(ctx, request)
	if err != nil {
		return fmt.Errorf("submitting the job: %w", err)
	}
	if o.json || request.ValidateOnly {
		if err := writeProto(out, job); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(out, job.Name); err != nil {
		return err
	}
	switch {
	case request.ValidateOnly:
		return nil
	case o.watch:
		return watch(ctx, client, job.Name, false, out, show)
	case o.wait:
		return leftAlone(ctx, job.Name, client.follow(ctx, job.Name, func(*surmisev1.WatchJobResponse) error { return nil }, func() {}))
	}
	return nil
}
