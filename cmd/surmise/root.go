package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/internal/terminal"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/proto/jobspec"
)

// Exit codes; the help of the root command states them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitJob    = 3
)

// run is the whole program: it returns its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	begun := false // flags and arguments were in order
	prepare := root.PersistentPreRunE
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		// cobra checks the last two only later, where they could not be told from failures of the work.
		for _, check := range []func() error{
			func() error { return prepare(cmd, args) }, cmd.ValidateRequiredFlags, cmd.ValidateFlagGroups,
		} {
			if err := check(); err != nil {
				return err
			}
		}
		begun = true
		return nil
	}
	stopTracing, err := daemon.StartTracing(ctx)
	if err != nil {
		fmt.Fprintf(errOut, "Error: %s\n", err)
		return exitUsage
	}
	defer stopTracing()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !begun {
		err = badInput(err)
	}
	says := message(err)
	if cause := context.Cause(ctx); ctx.Err() != nil && cause != nil {
		says = strings.ReplaceAll(says, cause.Error(), "interrupted") // such as "interrupt signal received"
		says = strings.ReplaceAll(says, compare.ErrStopped.Error(), "interrupted")
	}
	if !begun {
		says = plainUsage(says)
	}
	fmt.Fprintf(errOut, "Error: %s\n", terminal.Text(says))
	if !begun {
		fmt.Fprintf(errOut, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return exitCode(err)
}

func newRootCommand() *cobra.Command {
	var logging daemon.Logging
	root := &cobra.Command{
		Use:   "surmise",
		Short: "Train video predictors and measure how plausible a video is to them",
		Long: `Surmise trains V-JEPA-style video predictors and measures how plausible a video is to them: surprise, the error of
predicting in representation space what a video goes on to show, is high where something implausible happens.

  surmise up                                    a coordinator and a worker on this machine
  surmise submit --train CLIPS --watch          train a model
  surmise submit --score pairs.csv --model JOB  score videos with it
  surmise compare scores.json                   what the scores show

Exit codes:
  0  done
  1  failed: the network, a disk, an interruption
  2  wrong usage or bad input: a flag, a file, a field of a job
  3  the job failed or was cancelled, of a coordinator or in this process

Results go to standard output, logs and progress to standard error.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noSuchCommand,
		Version:       programVersion(),

		SuggestionsMinimumDistance: 2,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := logging.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			slog.SetDefault(logger)
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	logging.Flags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: "service", Title: "Services:"},
		&cobra.Group{ID: "jobs", Title: "Jobs of a coordinator:"},
		&cobra.Group{ID: "local", Title: "Work in this process:"},
	)
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("service", newUpCommand(), coordinatorcmd.Command(), workercmd.Command(programVersion()), newTokenCommand())
	group("jobs", newSubmitCommand(), newWatchCommand(), newJobsCommand(), newJobCommand(), newLogsCommand(), newFetchCommand(), newCancelCommand(), newSweepCommand())
	group("local", newDemoCommand(), newTrainCommand(), newScoreCommand(), newCompareCommand(), newReportCommand(), newRankCommand(), newInspectCommand(), newSynthCommand(), newBenchCommand(),
		newImportCommand(), newExportCommand(), newEmbedCommand(), newDoctorCommand())
	root.AddCommand(newVersionCommand(), newGPUProbeCommand())
	return root
}

// inputError is the caller's to put right: exit code 2.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

func badInput(err error) error { return inputError{err} }

// jobError is a job that failed or was cancelled: exit code 3.
type jobError struct{ error }

func (e jobError) Unwrap() error { return e.error }

func exitCode(err error) int {
	var input inputError
	var fields jobspec.Errors
	var job jobError
	var flag *workercmd.FlagError
	var address *daemon.AddressError
	var usage *coordinatorcmd.UsageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, compare.ErrStopped):
		return exitFailed
	case errors.As(err, &job):
		return exitJob
	case errors.As(err, &input), errors.As(err, &fields), errors.As(err, &flag), errors.As(err, &address), errors.As(err, &usage):
		return exitUsage
	}
	if st, ok := grpcStatus(err); ok {
		switch st.Code() {
		case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.OutOfRange, codes.FailedPrecondition,
			codes.Unauthenticated, codes.PermissionDenied:
			return exitUsage
		}
	}
	return exitFailed
}

// message is an error as people read it: without gRPC's "rpc error: code = …".
func message(err error) string {
	st, ok := grpcStatus(err)
	if !ok {
		return err.Error()
	}
	wrapped := err.Error()
	if i := strings.Index(wrapped, "rpc error: "); i > 0 { // what was being done
		return wrapped[:i] + st.Message()
	}
	return st.Message()
}

// grpcStatus finds the status that err wraps, if any.
func grpcStatus(err error) (*status.Status, bool) {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return nil, false
	}
	return s.GRPCStatus(), true
}
