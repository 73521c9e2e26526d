package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/internal/terminal"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

func newInspectCommand() *cobra.Command {
	var asJSON bool
	cache := workercmd.CacheOptions{}
	cmd := &cobra.Command{
		Use:   "inspect PATH…",
		Short: "Say of every video whether it can be used",
		Long: `Decode every video to its end and say whether it can be used, or why not. PATH is a file, a folder, a glob, an index (CSV,
TSV, JSON lines), a tar shard or a URI. Sizes, rates and counts are what was decoded, not what the header claims.
Unusable videos are no failure of this command; a PATH that holds no video at all is.

What is found is kept, so that training on the same files starts at once; a file that has changed is decoded again.`,
		Args: someArguments("one video, folder or index or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			decoders, done, err := workercmd.OpenDecoders(cache)
			if err != nil {
				return badInput(err)
			}
			defer done()
			verdicts, faults, err := inspectAll(cmd.Context(), decoders, args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			write := writeVerdicts
			if asJSON {
				write = writeVerdictLines
			}
			if err := write(cmd.OutOrStdout(), verdicts); err != nil {
				return err
			}
			if len(faults) > 0 {
				return badInput(fmt.Errorf("%d of %d names could not be inspected; the first: %w", len(faults), len(args), faults[0]))
			}
			if !asJSON {
				fmt.Fprintln(cmd.ErrOrStderr(), summary(verdicts))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a line of JSON per video")
	cache.Flags(cmd.Flags())
	return cmd
}

// inspectAll judges the files that the names stand for, in their order. A name that stands for none has a verdict too,
// and a fault.
func inspectAll(ctx context.Context, decoders *video.Pool, names []string, show io.Writer) (verdicts []video.Verdict, faults []error, err error) {
	var items []source.Item
	var places []int // of items, among the verdicts
	for _, name := range names {
		found, err := decoders.Resolve(ctx, []string{name}, nil)
		if err != nil {
			faults = append(faults, err)
			verdicts = append(verdicts, video.Verdict{Path: name, Kind: video.Unreadable, Reason: string(video.Unreadable) + ": " + err.Error()})
			continue
		}
		for _, item := range found {
			items, places = append(items, item), append(places, len(verdicts))
			verdicts = append(verdicts, video.Verdict{})
		}
	}
	progress := func(int, int) {}
	if f, ok := show.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		view := newProgressView(show)
		defer view.close()
		progress = func(done, total int) {
			view.update(&surmisev1.Progress{Phase: "inspecting", Step: int32(done), Steps: int32(total)})
		}
	}
	found, err := decoders.InspectAll(ctx, items, progress)
	for i, v := range found {
		verdicts[places[i]] = v
	}
	return verdicts, faults, err
}

func writeVerdictLines(w io.Writer, verdicts []video.Verdict) error {
	lines := json.NewEncoder(w)
	for _, v := range verdicts {
		if err := lines.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// writeVerdicts prints a table. Names are quoted where they would break a line.
func writeVerdicts(w io.Writer, verdicts []video.Verdict) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VERDICT\tFRAMES\tSIZE\tFRAMES/S\tSECONDS\tCODEC\tPATH\tREASON")
	for _, v := range verdicts {
		word, size, rate, seconds := "usable", fmt.Sprintf("%d×%d", v.Width, v.Height), fmt.Sprintf("%.4g", v.FPS), fmt.Sprintf("%.4g", v.Duration)
		if !v.Usable {
			word = "unusable"
		}
		if v.Width == 0 {
			size = "-"
		}
		if v.FPS == 0 { // fewer than two frames, or none in time
			rate, seconds = "-", "-"
		}
		codec := v.Codec
		if codec == "" {
			codec = "-"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", word, v.Frames, size, rate, seconds, codec, terminal.Line(v.Path), terminal.Line(v.Reason))
	}
	return table.Flush()
}

// summary counts, such as "27 videos, 22 usable, 5 unusable (2 no frames, 2 truncated, 1 unreadable)".
func summary(verdicts []video.Verdict) string {
	usable, kinds := 0, map[video.Kind]int{}
	for _, v := range verdicts {
		if v.Usable {
			usable++
		} else {
			kinds[v.Kind]++
		}
	}
	text := fmt.Sprintf("%d videos, %d usable, %d unusable", len(verdicts), usable, len(verdicts)-usable)
	if len(kinds) == 0 {
		return text
	}
	names := slices.SortedFunc(maps.Keys(kinds), func(a, b video.Kind) int {
		return cmp.Or(cmp.Compare(kinds[b], kinds[a]), cmp.Compare(a, b))
	})
	parts := make([]string, len(names))
	for i, kind := range names {
		parts[i] = fmt.Sprintf("%d %s", kinds[kind], kind)
	}
	return text + " (" + strings.Join(parts, ", ") + ")"
}
