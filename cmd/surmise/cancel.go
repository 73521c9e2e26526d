package main

import (
	"fmt"

	"github.com/spf13/cobra"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newCancelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel NAME",
		Short: "Ask a job to stop",
		Args:  oneJob,
	}
	address := addCoordinatorFlag(cmd)
	cmd.ValidArgsFunction = completeJobNames(address)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := connect(*address)
		if err != nil {
			return err
		}
		defer client.Close()
		job, err := client.CancelJob(cmd.Context(), &surmisev1.CancelJobRequest{Name: jobName(args[0])})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", job.Name, job.State)
		return err
	}
	return cmd
}
