package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newSweepCommand() *cobra.Command {
	var file, requestID, displayName, score string
	var validateOnly, cancel, asJSON bool
	cmd := &cobra.Command{
		Use:   "sweep [-f SWEEP.json | NAME [--score PAIRS.csv]]",
		Short: "Run one job with many settings, and show what came of it",
		Long: `Submit a sweep and print its name, show the table of one, or list all.

A sweep file is a SubmitSweepRequest as JSON: a base job and what varies, by path. This one is whole:

  {"train":{"data":["/data/clips"]},
   "parameters":[{"path":"train.optimizer.learning_rate","grid":[0.001,0.0003]}]}

The table has a row for each child, best first; children are jobs, which "surmise job" and "surmise watch" show.

With --score, the models of a sweep are scored on the same pairs, each by a job: a sweep over score.model. Its table has the
settings that the models were trained with. To choose a model by it and then report the same figure is an oracle: choose on
other pairs.`,
		Example: `  surmise sweep -f sweep.json
  surmise sweep sweeps/abc
  surmise sweep sweeps/abc --score pairs.csv
  surmise sweep sweeps/abc --cancel
  surmise sweep`,
		Args: cobra.MaximumNArgs(1),
	}
	address := addCoordinatorFlag(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "sweep file; - for standard input")
	flags.StringVar(&score, "score", "", "with NAME: score the models that its children trained on this pairs file, and print the name of that sweep")
	flags.StringVar(&requestID, "request-id", "", "with -f or --score: submitting again with the same id and content answers the same sweep")
	flags.StringVar(&displayName, "display-name", "", "with -f or --score: free text kept with the sweep and its children")
	flags.BoolVar(&validateOnly, "validate-only", false, "with -f or --score: check the sweep and print it, submitting nothing")
	flags.BoolVar(&cancel, "cancel", false, "with NAME: ask all its children to stop")
	flags.BoolVar(&asJSON, "json", false, "print JSON: the sweep, and with NAME a line for each child after it")
	cmd.MarkFlagsMutuallyExclusive("file", "cancel", "score")
	cobra.CheckErr(cmd.MarkFlagFilename("score", "csv"))
	cobra.CheckErr(cmd.MarkFlagFilename("file", "json"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case file != "" && len(args) > 0:
			return badInput(fmt.Errorf("both -f %s and the name %s: want one of them", file, args[0]))
		case cancel && len(args) == 0:
			return badInput(errors.New("--cancel: want the NAME of a sweep"))
		case score != "" && len(args) == 0:
			return badInput(errors.New("--score: want the NAME of a sweep"))
		case file == "" && score == "" && (requestID != "" || displayName != "" || validateOnly):
			return badInput(errors.New("--request-id, --display-name and --validate-only belong to -f and --score"))
		}
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()
		sweeps := surmisev1.NewSweepServiceClient(client.conn)
		ctx, out := cmd.Context(), cmd.OutOrStdout()
		switch {
		case file != "" || score != "":
			request := &surmisev1.SubmitSweepRequest{}
			if file != "" {
				err = readRequest("sweep file", file, cmd.InOrStdin(), request)
			} else {
				request, err = scoringSweep(ctx, sweeps, sweepName(args[0]), score, cmd.ErrOrStderr())
			}
			if err != nil {
				return err
			}
			request.RequestId = cmp.Or(requestID, request.RequestId)
			request.DisplayName = cmp.Or(displayName, request.DisplayName)
			request.ValidateOnly = request.ValidateOnly || validateOnly
			sweep, err := sweeps.SubmitSweep(ctx, request)
			if err != nil {
				return fmt.Errorf("submitting the sweep: %w", err)
			}
			if asJSON || request.ValidateOnly {
				return writeProto(out, sweep)
			}
			if sweep.Children == 1 {
				fmt.Fprintln(cmd.ErrOrStderr(), "one child: the sweep varies nothing, as parameters has one value or none; 'surmise submit' runs one job")
			}
			_, err = fmt.Fprintln(out, sweep.Name)
			return err
		case cancel:
			sweep, err := sweeps.CancelSweep(ctx, &surmisev1.CancelSweepRequest{Name: sweepName(args[0])})
			if err != nil {
				return err
			}
			if asJSON {
				return writeProto(out, sweep)
			}
			_, err = fmt.Fprintf(out, "%s %s\n", sweep.Name, countsText(sweep))
			return err
		case len(args) == 1:
			return showSweep(ctx, client, sweeps, sweepName(args[0]), asJSON, out)
		default:
			return listSweeps(ctx, sweeps, asJSON, out, time.Now())
		}
	}
	return cmd
}

func sweepName(arg string) string {
	if strings.HasPrefix(arg, "sweeps/") {
		return arg
	}
	return "sweeps/" + arg
}

// getSweep answers a sweep with all of its children.
func getSweep(ctx context.Context, client surmisev1.SweepServiceClient, name string) (sweep *surmisev1.Sweep, children []*surmisev1.SweepChild, err error) {
	request := &surmisev1.GetSweepRequest{Name: name}
	for {
		page, err := client.GetSweep(ctx, request)
		if err != nil {
			return nil, nil, err
		}
		sweep = page.Sweep
		children = append(children, page.Children...)
		if request.PageToken = page.NextPageToken; request.PageToken == "" {
			return sweep, children, nil
		}
	}
}

func showSweep(ctx context.Context, jobs *jobsClient, client surmisev1.SweepServiceClient, name string, asJSON bool, out io.Writer) error {
	sweep, children, err := getSweep(ctx, client, name)
	if err != nil {
		return err
	}
	if asJSON {
		if err := writeProto(out, sweep); err != nil {
			return err
		}
		for _, c := range children {
			if err := writeProto(out, c); err != nil {
				return err
			}
		}
		return nil
	}
	addTraining(ctx, jobs, client, sweep, children)
	return writeSweep(out, sweep, children)
}

// writeSweep writes the table: those that succeeded by their metric, then the others by theirs, then those without.
func writeSweep(w io.Writer, sweep *surmisev1.Sweep, children []*surmisev1.SweepChild) error {
	fmt.Fprintf(w, "%s  %s", sweep.Name, countsText(sweep))
	if text := sweep.Request.GetDisplayName(); text != "" {
		fmt.Fprintf(w, "  %s", terminal.Line(text))
	}
	fmt.Fprintln(w)
	metric := sweep.Request.GetMetric()
	if best := sweep.Best; best != nil {
		fmt.Fprintf(w, "best: %s  %s %.6g  %s", best.Job, terminal.Line(metric.GetName()), best.GetMetric(), valuesText(best.Values))
		if n := tied(best, children); n > 0 {
			fmt.Fprintf(w, "  (the same as %d more)", n)
		}
		fmt.Fprintln(w)
	}
	sign := 1.0
	if metric.GetGoal() == surmisev1.Goal_MAXIMIZE {
		sign = -1
	}
	rank := func(c *surmisev1.SweepChild) int {
		switch {
		case c.Metric == nil:
			return 2
		case c.State == surmisev1.JobState_SUCCEEDED:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(children, func(a, b *surmisev1.SweepChild) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(sign*a.GetMetric(), sign*b.GetMetric()))
	})

	var paths []string
	if len(children) > 0 {
		paths = slices.Sorted(maps.Keys(children[0].Values))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "JOB\tSTATE\tSTEP")
	if metric != nil {
		fmt.Fprintf(table, "\t%s", terminal.Line(strings.ToUpper(metric.GetName())))
	}
	for _, path := range paths {
		fmt.Fprintf(table, "\t%s", terminal.Line(path))
	}
	fmt.Fprintln(table, "\tNOTE")
	for _, c := range children {
		step := "-"
		if c.Steps > 0 {
			step = fmt.Sprintf("%d/%d", c.Step, c.Steps)
		}
		fmt.Fprintf(table, "%s\t%s\t%s", c.Job, c.State, step)
		if metric != nil {
			value := "-"
			if c.Metric != nil {
				value = fmt.Sprintf("%.6g", c.GetMetric())
			}
			fmt.Fprintf(table, "\t%s", value)
		}
		for _, path := range paths {
			fmt.Fprintf(table, "\t%s", terminal.Line(c.Values[path]))
		}
		fmt.Fprintf(table, "\t%s\n", orDash(firstLine(c.Reason, 100)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	groups := bySettings(children)
	if groups == nil {
		return nil
	}
	fmt.Fprintln(w)
	return writeSettings(w, metric.GetName(), sign, groups)
}

// tied counts the other children that succeeded with the metric of the best.
func tied(best *surmisev1.SweepChild, children []*surmisev1.SweepChild) (n int) {
	for _, c := range children {
		if c.Job != best.Job && c.State == surmisev1.JobState_SUCCEEDED && c.Metric != nil && c.GetMetric() == best.GetMetric() {
			n++
		}
	}
	return n
}

func listSweeps(ctx context.Context, client surmisev1.SweepServiceClient, asJSON bool, out io.Writer, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, "NAME\tAGE\tCHILDREN\tNOTE")
	}
	request := &surmisev1.ListSweepsRequest{}
	for {
		page, err := client.ListSweeps(ctx, request)
		if err != nil {
			return fmt.Errorf("listing sweeps: %w", err)
		}
		for _, sweep := range page.Sweeps {
			if asJSON {
				if err := writeProto(out, sweep); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", sweep.Name, age(now.Sub(sweep.GetCreateTime().AsTime())), countsText(sweep),
				orDash(firstLine(sweep.Request.GetDisplayName(), 80)))
		}
		if request.PageToken = page.NextPageToken; request.PageToken == "" {
			return table.Flush()
		}
	}
}

// countsText is such as "3 children: 1 RUNNING, 2 SUCCEEDED".
func countsText(sweep *surmisev1.Sweep) string {
	var counts []string
	for _, state := range jobStates() {
		if n := sweep.ChildrenByState[state]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return fmt.Sprintf("%d children: %s", sweep.Children, strings.Join(counts, ", "))
}

func valuesText(values map[string]string) string {
	var parts []string
	for _, path := range slices.Sorted(maps.Keys(values)) {
		parts = append(parts, terminal.Line(path)+"="+terminal.Line(values[path]))
	}
	return strings.Join(parts, " ")
}
