package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newLogsCommand() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what the worker logged about a job",
		Long: `Print what workers logged while they worked on a job, attempt by attempt, each line with its time and level. With --follow,
go on as lines come, until the job has ended; a coordinator that restarts is waited for.`,
		Args: oneJob,
	}
	address := addCoordinatorFlag(cmd)
	cmd.ValidArgsFunction = completeJobNames(address)
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on until the job has ended")
	cmd.Flags().Int64Var(&o.epoch, "attempt", 0, "begin with this attempt (default the first)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print a line of JSON per line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.epoch < 0 {
			return badInput(fmt.Errorf("--attempt %d: want 1 or more", o.epoch))
		}
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()
		return o.read(cmd.Context(), client, jobName(args[0]), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

type logsOptions struct {
	follow bool
	epoch  int64
	json   bool
}

// read prints a log, resuming after the last line when the coordinator goes away.
func (o logsOptions) read(ctx context.Context, client *jobsClient, name string, out, show io.Writer) error {
	p := &logPrinter{out: out, json: o.json, epoch: o.epoch}
	for again := false; ; again = true {
		err := o.readOnce(ctx, client, name, p, again)
		resumable := status.Code(err) == codes.Unavailable || status.Code(err) == codes.ResourceExhausted
		switch {
		case errors.Is(err, io.EOF) && o.epoch > 1 && !p.began:
			_, err := fmt.Fprintf(show, "nothing was logged from attempt %d on; 'surmise job' tells how many there were\n", o.epoch)
			return err
		case errors.Is(err, io.EOF):
			return nil
		case !o.follow || !resumable || !p.began && !again:
			return client.to.Explain(err)
		}
		if !again || p.fresh {
			fmt.Fprintln(show, "the coordinator is away; waiting for it")
			p.fresh = false
		}
		select { // a breath between attempts; nothing tells when the coordinator is back
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (o logsOptions) readOnce(ctx context.Context, client *jobsClient, name string, p *logPrinter, wait bool) error {
	stream, err := surmisev1.NewLogServiceClient(client.conn).ReadJobLog(ctx, &surmisev1.ReadJobLogRequest{
		Name: name, Epoch: p.epoch, After: p.after, Follow: o.follow}, grpc.WaitForReady(wait))
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := p.print(response); err != nil {
			return err
		}
	}
}

// logPrinter prints lines and knows the last one.
type logPrinter struct {
	out          io.Writer
	json         bool
	epoch, after int64
	began        bool // a line has come
	fresh        bool // one has come since the coordinator was away last
}

func (p *logPrinter) print(r *surmisev1.ReadJobLogResponse) error {
	for _, l := range r.Lines {
		if err := p.line(r.Epoch, l); err != nil {
			return err
		}
		p.epoch, p.after, p.began, p.fresh = r.Epoch, l.Number, true, true
	}
	return nil
}

func (p *logPrinter) line(epoch int64, l *surmisev1.LogLine) error {
	if p.json {
		return writeProto(p.out, &surmisev1.ReadJobLogResponse{Epoch: epoch, Lines: []*surmisev1.LogLine{l}})
	}
	if epoch != p.epoch && epoch > 1 {
		if _, err := fmt.Fprintf(p.out, "--- attempt %d\n", epoch); err != nil {
			return err
		}
	}
	missing := l.Dropped
	if epoch == p.epoch || p.epoch == 0 {
		missing += l.Number - p.after - 1 // put away by newer ones
	}
	if missing > 0 {
		if _, err := fmt.Fprintf(p.out, "--- %d lines are missing\n", missing); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(p.out, "%s %-5s %s\n", l.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z"), terminal.Line(l.Level), strings.ReplaceAll(terminal.Text(l.Text), "\n", "\n    ")) // as no line of its own
	return err
}
