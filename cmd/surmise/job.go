package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newJobCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "job NAME",
		Short: "Show one job",
		Args:  oneJob,
	}
	address := addCoordinatorFlag(cmd)
	cmd.ValidArgsFunction = completeJobNames(address)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the job as JSON, its specification included")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()
		job, err := client.GetJob(cmd.Context(), &surmisev1.GetJobRequest{Name: jobName(args[0])})
		if err != nil {
			return err
		}
		if asJSON {
			return writeProto(cmd.OutOrStdout(), job)
		}
		return writeJob(cmd.OutOrStdout(), job, time.Now())
	}
	return cmd
}

func writeJob(w io.Writer, job *surmisev1.Job, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, terminal.Text(fmt.Sprintf(format, args...)))
	}
	when := func(name string, t *timestamppb.Timestamp) {
		if t != nil {
			line(name, "%s (%s ago)", t.AsTime().UTC().Format(time.RFC3339), age(now.Sub(t.AsTime())))
		}
	}
	line("name", "%s", job.Name)
	if job.DisplayName != "" {
		line("display name", "%s", job.DisplayName)
	}
	switch spec := job.GetSpec(); {
	case spec.GetTrain() != nil:
		line("trains on", "%s", andMore(spec.GetTrain().GetData()))
		if from := spec.GetTrain().GetInit().GetFrom(); from != "" {
			line("begins with", "%s", from)
		}
		if from := spec.GetTrain().GetEncoder().GetFrom(); from != "" {
			line("frozen encoder", "%s", from)
		}
	case spec.GetScore() != nil:
		line("scores", "%s", cmp.Or(spec.GetScore().GetPairs(), spec.GetScore().GetDataset(), andMore(spec.GetScore().GetVideos())))
		line("model", "%s", spec.GetScore().GetModel())
	case spec.GetRank() != nil:
		line("ranks", "%d sets of futures", len(spec.GetRank().GetSets()))
		line("model", "%s", spec.GetRank().GetModel())
	}
	line("state", "%s", job.State)
	if job.Reason != "" {
		line("reason", "%s", job.Reason)
	}
	if job.QueuePosition > 0 {
		line("place in queue", "%d", job.QueuePosition)
		if wait := job.GetWaitEstimate(); wait != nil {
			line("expected wait", "%s", age(wait.AsDuration()))
		}
	}
	if job.Worker != "" {
		line("worker", "%s", job.Worker)
	}
	if job.Sweep != "" {
		line("sweep", "%s", job.Sweep)
	}
	if sched := job.Scheduling; sched != nil {
		line("priority", "%d", sched.GetPriority())
		if sched.GetOwner() != "" {
			line("owner", "%s", sched.GetOwner())
		}
		if d := sched.GetDeadline(); d != nil {
			line("deadline", "%s", d.AsTime().Format(time.RFC3339))
		}
	}
	line("attempts", "%d", job.Epoch)
	if p := job.Progress; p != nil {
		line("progress", "%s %d/%d%s", p.GetPhase(), p.GetStep(), p.GetSteps(), figures(p))
	}
	if c := job.LastCheckpoint; c != nil {
		line("last checkpoint", "step %d, %s ago, %s", c.GetStep(), age(now.Sub(c.GetCreateTime().AsTime())), c.GetPath())
	}
	when("submitted", job.CreateTime)
	when("started", job.StartTime)
	when("ended", job.EndTime)
	for _, a := range job.GetResult().GetArtifacts() {
		line("artifact "+a.GetName(), "%s", a.GetPath())
	}
	metrics := job.GetResult().GetMetrics()
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		line(name, "%.6g", metrics[name])
	}
	return table.Flush()
}

// andMore is the first of several names, and the number of the others.
func andMore(names []string) string {
	switch len(names) {
	case 0:
		return "-"
	case 1:
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}
