package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newWatchCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "watch NAME",
		Short: "Follow a job to its end",
		Long: `Follow a job to its end: loss, clips per second, remaining time, and the monitors of collapse (effective rank, standard
deviation and cosine of the representations). Exits with 3 when the job fails or is cancelled.`,
		Args: oneJob,
	}
	address := addCoordinatorFlag(cmd)
	cmd.ValidArgsFunction = completeJobNames(address)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print every event as a line of JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()
		return watch(cmd.Context(), client, jobName(args[0]), asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// leftAlone says of a watch that was interrupted that the job was not.
func leftAlone(ctx context.Context, name string, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no longer watched; %s goes on ('surmise cancel %s' ends it)", name, name)
	}
	return err
}

// watch shows a job until it is over. Events as JSON go to out, what is for people to show.
func watch(ctx context.Context, client *jobsClient, name string, asJSON bool, out, show io.Writer) (err error) {
	asked := ctx
	defer func() { err = leftAlone(asked, name, err) }()
	if asJSON {
		return client.follow(ctx, name, func(e *surmisev1.WatchJobResponse) error { return writeProto(out, e) }, func() {})
	}
	view := newProgressView(show)
	defer view.close()
	var queued atomic.Bool
	ctx, stop := context.WithCancel(ctx)
	explained := make(chan struct{})
	go func() {
		defer close(explained)
		explainQueue(ctx, client, name, &queued, view)
	}()
	defer func() { stop(); <-explained }()
	return client.follow(ctx, name, func(e *surmisev1.WatchJobResponse) error {
		queued.Store(e.Job.State == surmisev1.JobState_QUEUED)
		switch e.Type {
		case surmisev1.JobEventType_JOB_PROGRESS, surmisev1.JobEventType_JOB_STARTED:
			if e.Job.Progress != nil {
				view.update(e.Job.Progress)
			}
		default:
			view.note("%s", describe(e))
		}
		return nil
	}, func() { view.note("the coordinator is away; waiting for it") })
}

// queueEvery is how often a queued job is asked what it waits for, which is no event of the job: workers come and go.
const queueEvery = time.Second

// explainQueue shows why the job waits while it is queued, whenever that changes, until ctx ends. A job that does not
// wait as long as queueEvery passes without a word.
func explainQueue(ctx context.Context, client *jobsClient, name string, queued *atomic.Bool, view progressView) {
	ticks := time.NewTicker(queueEvery)
	defer ticks.Stop()
	var shown string
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		if !queued.Load() {
			shown = ""
			continue
		}
		job, err := client.GetJob(ctx, &surmisev1.GetJobRequest{Name: name})
		if err != nil || job.State != surmisev1.JobState_QUEUED || job.Reason == shown {
			continue // who follows the events says when the coordinator is away
		}
		shown = job.Reason
		view.note("place %d in the queue; %s", job.QueuePosition, job.Reason)
	}
}

// describe is an event in words.
func describe(e *surmisev1.WatchJobResponse) string {
	job := e.Job
	switch e.Type {
	case surmisev1.JobEventType_JOB_SUBMITTED:
		return fmt.Sprintf("%s submitted", job.Name)
	case surmisev1.JobEventType_JOB_LEASED:
		return fmt.Sprintf("given to worker %s (attempt %d)", job.Worker, job.Epoch)
	case surmisev1.JobEventType_JOB_CHECKPOINTED:
		return fmt.Sprintf("checkpoint at step %d: %s", job.LastCheckpoint.GetStep(), job.LastCheckpoint.GetPath())
	case surmisev1.JobEventType_JOB_REQUEUED:
		return fmt.Sprintf("queued again: %s", job.Reason)
	case surmisev1.JobEventType_JOB_CANCEL_REQUESTED:
		return job.Reason
	case surmisev1.JobEventType_JOB_PREEMPTED:
		return fmt.Sprintf("gives way: %s", job.Reason)
	case surmisev1.JobEventType_JOB_ENDED:
		if job.Reason == "" {
			return fmt.Sprintf("%s %s", job.Name, job.State)
		}
		return fmt.Sprintf("%s %s: %s", job.Name, job.State, job.Reason)
	}
	return e.Type.String()
}
