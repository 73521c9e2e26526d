package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/dial"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// jobsClient talks to the coordinator that a command's --coordinator names.
type jobsClient struct {
	surmisev1.JobServiceClient
	conn *grpc.ClientConn
	to   dial.Options
}

func addCoordinatorFlag(cmd *cobra.Command) *dial.Options {
	var to dial.Options
	cmd.Flags().StringVar(&to.Address, "coordinator", coordinatorcmd.DefaultListen, "address of the coordinator (host:port)")
	to.Flags(cmd.Flags())
	return &to
}

// connect does not wait: an address where nobody answers shows with the first call.
func connect(to dial.Options) (*jobsClient, error) {
	options, err := to.DialOptions()
	if err != nil {
		return nil, badInput(err)
	}
	conn, err := grpc.NewClient(to.Address, append(options,
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		// Who watches a job hears soon of a coordinator that is back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return to.Explain(invoke(ctx, method, req, reply, cc, opts...))
		}))...)
	if err != nil {
		return nil, badInput(fmt.Errorf("--coordinator %q: %w", to.Address, err))
	}
	return &jobsClient{surmisev1.NewJobServiceClient(conn), conn, to}, nil
}

func (c *jobsClient) Close() { _ = c.conn.Close() }

// oneJob takes one argument that can be a job.
func oneJob(cmd *cobra.Command, args []string) error {
	if err := oneArgument("one job, as 'surmise jobs' lists them")(cmd, args); err != nil {
		return err
	}
	switch id := strings.TrimPrefix(args[0], "jobs/"); {
	case strings.HasPrefix(args[0], "sweeps/"):
		return fmt.Errorf("%s is a sweep: 'surmise sweep %s' shows its jobs, and ends them with --cancel", args[0], args[0])
	case !validJobID.MatchString(id):
		return fmt.Errorf("job %q: want jobs/ID, as 'surmise jobs' lists them", args[0])
	}
	return nil
}

var validJobID = regexp.MustCompile(`^[a-z0-9-]{1,63}$`) // as the API has it

// jobName takes "jobs/ID" or the ID alone.
func jobName(arg string) string {
	if strings.HasPrefix(arg, "jobs/") {
		return arg
	}
	return "jobs/" + arg
}

// completeJobNames offers the coordinator's newest jobs to the shell.
func completeJobNames(to *dial.Options) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := connect(*to)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		page, err := client.ListJobs(ctx, &surmisev1.ListJobsRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, job := range page.Jobs {
			names = append(names, fmt.Sprintf("%s\t%s %s", job.Name, job.State, job.DisplayName))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// writeProto writes a message as one line of JSON. protojson varies its white space on purpose; scripts should not care,
// but diffs do.
func writeProto(w io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	line.WriteByte('\n')
	_, err = w.Write(line.Bytes())
	return err
}

// ended reports whether a job is over, and the error that its end means for the caller.
func ended(job *surmisev1.Job) (over bool, err error) {
	switch job.State {
	case surmisev1.JobState_SUCCEEDED:
		return true, nil
	case surmisev1.JobState_FAILED:
		return true, jobError{fmt.Errorf("%s failed: %s", job.Name, job.Reason)}
	case surmisev1.JobState_CANCELLED:
		return true, jobError{fmt.Errorf("%s was cancelled", job.Name)}
	}
	return false, nil
}

// follow passes on the events of a job until it is over, and says how it ended. A coordinator that restarts is waited
// for, and away called.
func (c *jobsClient) follow(ctx context.Context, name string, each func(*surmisev1.WatchJobResponse) error, away func()) error {
	var revision int64
	for first := true; ; first = false {
		if !first {
			select { // a breath between attempts; the coordinator's events say nothing while it is away
			case <-time.After(time.Second):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		var opts []grpc.CallOption
		if !first {
			opts = append(opts, grpc.WaitForReady(true))
		}
		stream, err := c.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: name, AfterRevision: revision}, opts...)
		if err != nil {
			return c.to.Explain(err)
		}
		for {
			event, err := stream.Recv()
			if err == nil {
				revision = event.Revision
				if err := each(event); err != nil {
					return err
				}
				if over, err := ended(event.Job); over {
					return err
				}
				continue
			}
			if errors.Is(err, io.EOF) { // the job was over already at this revision
				job, err := c.GetJob(ctx, &surmisev1.GetJobRequest{Name: name})
				if err != nil {
					return err
				}
				if over, err := ended(job); over {
					return err
				}
				break
			}
			resumable := status.Code(err) == codes.Unavailable || status.Code(err) == codes.ResourceExhausted
			if !resumable || revision == 0 && first {
				return c.to.Explain(err)
			}
			away()
			break
		}
	}
}
