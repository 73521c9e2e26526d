package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// noSuchCommand is for the program itself, whose arguments are its commands.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(text)
}

// noArguments is for commands whose input is named by flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, got %q: what it works on is named by flags", cmd.CommandPath(), args[0])
}

// oneArgument is for commands that take a single thing of a kind.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s takes %s, got %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// someArguments is for commands that take one thing of a kind or more.
func someArguments(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s takes %s, got none", cmd.CommandPath(), what)
		}
		return nil
	}
}

// How cobra and pflag word what is wrong with flags.
var (
	groupTogether = regexp.MustCompile(`^if any flags in the group \[([^]]*)\] are set they must all be set; missing \[([^]]*)\]$`)
	groupOne      = regexp.MustCompile(`^if any flags in the group \[([^]]*)\] are set none of the others can be; \[([^]]*)\] were all set$`)
	groupNeeded   = regexp.MustCompile(`^at least one of the flags in the group \[([^]]*)\] is required$`)
	parsedNumber  = regexp.MustCompile(`strconv\.\w+: parsing "[^"]*": `)
)

// plainUsage says what is wrong with flags in words of people.
func plainUsage(text string) string {
	flags := func(names, joint string) string {
		return "--" + strings.Join(strings.Fields(names), joint+"--")
	}
	if m := groupTogether.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("%s go together, and %s is missing", flags(m[1], " and "), flags(m[2], " and "))
	}
	if m := groupOne.FindStringSubmatch(text); m != nil {
		return flags(m[2], " and ") + " exclude each other"
	}
	if m := groupNeeded.FindStringSubmatch(text); m != nil {
		return "one of " + flags(m[1], ", ") + " is needed"
	}
	return parsedNumber.ReplaceAllString(text, "")
}
