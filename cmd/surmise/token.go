package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/coordinator/auth"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the bearer tokens of a coordinator",
		Long: `Make, list and revoke bearer tokens in the file that 'surmise coordinator --tokens FILE' reads. The file holds no
token, only hashes; a running coordinator sees every change with its next call.

Roles:
  viewer     reads everything
  submitter  reads everything, submits jobs, and cancels those of its owner
  worker     attaches and works, and does nothing else
  admin      everything`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreateCommand(time.Now), newTokenListCommand(time.Now), newTokenRevokeCommand(time.Now))
	return cmd
}

// addTokensFlag names the file.
func addTokensFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("file", "tokens.json", "the coordinator's tokens file")
}

func newTokenCreateCommand(now func() time.Time) *cobra.Command {
	var role, owner string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create --role ROLE --owner NAME",
		Short: "Make a token and print it, this once",
		Long: `Make a token and print it, this once: nothing can show it again. Keep it in a file that only its user can read, for
--token-file, or in SURMISE_TOKEN.`,
		Args: noArguments,
	}
	file := addTokensFlag(cmd)
	cmd.Flags().StringVar(&role, "role", "", "viewer, submitter, worker or admin")
	cmd.Flags().StringVar(&owner, "owner", "", "whose token it is, and whose its jobs will be")
	expires = 30 * day
	cmd.Flags().Var((*daysValue)(&expires), "expires", "how long it is good for: days, as in 90d, or a duration, as in 12h")
	_ = cmd.MarkFlagRequired("role") // the flags are there
	_ = cmd.MarkFlagRequired("owner")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if expires <= 0 {
			return badInput(fmt.Errorf("--expires %v: want more than 0", expires))
		}
		created := now()
		secret, token, err := auth.NewToken(auth.Role(role), owner, created, created.Add(expires))
		if err != nil {
			return badInput(err)
		}
		if err := auth.AddToken(*file, token); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "token %s of %s, %s, until %s\n", token.ID, token.Owner, token.Role, token.Expires.Format(time.RFC3339))
		_, err = fmt.Fprintln(cmd.OutOrStdout(), secret)
		return err
	}
	return cmd
}

func newTokenListCommand(now func() time.Time) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without what is secret",
		Args:  noArguments,
	}
	file := addTokensFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		tokens, err := auth.ReadTokens(*file)
		if err != nil {
			return badInput(err)
		}
		if asJSON {
			encoder := json.NewEncoder(cmd.OutOrStdout())
			for _, t := range tokens {
				if err := encoder.Encode(map[string]any{"id": t.ID, "role": t.Role, "owner": t.Owner, "state": t.State(now()), "created": t.Created, "expires": t.Expires}); err != nil {
					return err
				}
			}
			return nil
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "ID\tROLE\tOWNER\tSTATE\tEXPIRES")
		for _, t := range tokens {
			fmt.Fprintln(table, strings.Join([]string{t.ID, string(t.Role), t.Owner, t.State(now()), t.Expires.Format(time.RFC3339)}, "\t"))
		}
		return table.Flush()
	}
	return cmd
}

func newTokenRevokeCommand(now func() time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Refuse a token from now on",
		Args:  oneArgument("the id of one token, as 'surmise token list' shows it"),
	}
	file := addTokensFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id := auth.TokenID(args[0]) // a whole token will do, and is not shown
		if err := auth.RevokeToken(*file, id, now()); errors.Is(err, auth.ErrNoToken) {
			return badInput(err)
		} else if err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "token %s is refused from now on\n", id)
		return err
	}
	return cmd
}

const day = 24 * time.Hour

// daysValue is a flag of a duration that may be given in days.
type daysValue time.Duration

func (d *daysValue) String() string {
	if t := time.Duration(*d); t%day != 0 {
		return t.String()
	}
	return fmt.Sprintf("%dd", time.Duration(*d)/day)
}

func (d *daysValue) Set(text string) error {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n > 36500 || n < -36500 {
			return fmt.Errorf("%q: want a number of days, as in 90d", text)
		}
		*d = daysValue(time.Duration(n) * day)
		return nil
	}
	t, err := time.ParseDuration(text)
	*d = daysValue(t)
	return err
}

// Type names the value in the help.
func (d *daysValue) Type() string { return "duration" }
