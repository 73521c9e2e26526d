package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newJobsCommand() *cobra.Command {
	var asJSON bool
	var state string
	var limit int
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List jobs, newest first",
		Args:  noArguments,
	}
	address := addCoordinatorFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print every job as a line of JSON")
	cmd.Flags().StringVar(&state, "state", "", "only jobs in this state, such as RUNNING")
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most so many; 0 for all")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(jobStates(), cobra.ShellCompDirectiveNoFileComp)))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		number, ok := surmisev1.JobState_value[strings.ToUpper(state)]
		if state != "" && (!ok || number == 0) {
			return badInput(fmt.Errorf("--state %q: want one of %s", state, strings.Join(jobStates(), ", ")))
		}
		if limit < 0 {
			return badInput(fmt.Errorf("--limit %d: want 0 or more", limit))
		}
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()

		var jobs []*surmisev1.Job
		var more bool
		request := &surmisev1.ListJobsRequest{State: surmisev1.JobState(number), PageSize: 1000}
		for {
			if limit > 0 {
				request.PageSize = int32(min(1000, limit-len(jobs)))
			}
			page, err := client.ListJobs(cmd.Context(), request)
			if err != nil {
				return fmt.Errorf("listing jobs: %w", err)
			}
			jobs = append(jobs, page.Jobs...)
			request.PageToken = page.NextPageToken
			if more = request.PageToken != ""; !more || limit > 0 && len(jobs) >= limit {
				break
			}
		}
		if asJSON {
			for _, job := range jobs {
				if err := writeProto(cmd.OutOrStdout(), job); err != nil {
					return err
				}
			}
			return nil
		}
		if err := writeJobs(cmd.OutOrStdout(), jobs, time.Now()); err != nil || !more {
			return err
		}
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "the newest %d; --limit 0 lists all\n", len(jobs))
		return err
	}
	return cmd
}

// jobStates lists the states by name.
func jobStates() []string {
	var names []string
	for n := int32(1); surmisev1.JobState_name[n] != ""; n++ {
		names = append(names, surmisev1.JobState_name[n])
	}
	return names
}

func writeJobs(w io.Writer, jobs []*surmisev1.Job, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tKIND\tSTATE\tPROGRESS\tAGE\tWORKER\tNOTE")
	for _, job := range jobs {
		kind := "train"
		switch {
		case job.GetSpec().GetScore() != nil:
			kind = "score"
		case job.GetSpec().GetRank() != nil:
			kind = "rank"
		}
		progress := "-"
		if p := job.Progress; p != nil {
			progress = fmt.Sprintf("%s %d/%d", p.GetPhase(), p.GetStep(), p.GetSteps())
			if p.GetPhase() == "training" {
				progress += fmt.Sprintf(" loss %.4f", p.GetLoss())
			}
		} else if c := job.LastCheckpoint; c != nil { // of an attempt before, which did more than the newest
			progress = fmt.Sprintf("checkpoint %d", c.GetStep())
		}
		note := job.Reason
		if job.QueuePosition > 0 {
			note = fmt.Sprintf("place %d: %s", job.QueuePosition, job.Reason)
		} else if p := job.Progress; note == "" && p.GetEta() != nil && job.State == surmisev1.JobState_RUNNING {
			note = "eta " + p.GetEta().AsDuration().Round(time.Second).String()
		}
		switch name := job.DisplayName; {
		case note == "":
			note = name
		case name != "":
			note = firstLine(name, 40) + ": " + note
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", job.Name, kind, job.State, terminal.Line(progress),
			age(now.Sub(job.GetCreateTime().AsTime())), orDash(terminal.Line(job.Worker)), orDash(firstLine(note, 80)))
	}
	return table.Flush()
}

// age is a duration to one figure that tells.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(max(0, d).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// firstLine cuts a text for a table.
func firstLine(s string, most int) string {
	s, rest, more := strings.Cut(s, "\n")
	s = terminal.Text(s)
	runes := []rune(s)
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	if more && rest != "" {
		return s + " …"
	}
	return s
}
