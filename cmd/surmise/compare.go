package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/report"
)

func newCompareCommand() *cobra.Command {
	var measure, plot string
	var seed uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare SCORES.json [SCORES.json…]",
		Short: "Show what scores say, of one model or several",
		Long: `Show how well surprise tells possible from impossible videos, per property, with 95 % intervals by bootstrap over groups.
One file sets its model beside the untrained twin; several set their models beside one another, for which they must have
been made with the same settings on the same videos.`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, paths []string) error {
			options := compare.Options{Seed: seed}
			if measure != "" {
				var err error
				if options.Aggregation, err = compare.ParseAggregation(measure); err != nil {
					return badInput(fmt.Errorf("--measure: %w", err))
				}
			}
			table, first, err := compareFiles(paths, options)
			if err != nil {
				return badInput(err)
			}
			if plot != "" {
				pairs, err := report.TypicalPairs(cmd.Context(), first, table.Aggregation, 6, nil, nil)
				if err != nil {
					return fmt.Errorf("--plot: %w", err)
				}
				if err := report.SavePNG(plot, table, pairs); err != nil {
					return fmt.Errorf("--plot: %w", err)
				}
			}
			if asJSON {
				return writeTableJSON(cmd.OutOrStdout(), table)
			}
			return table.WriteText(cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&measure, "measure", "", "avg, max, filtered_avg, filtered_max, peak or peak_avg; of one context as in max@4 (default what suits the scores)")
	flags.Uint64Var(&seed, "seed", 0, "seed of the bootstrap")
	flags.StringVar(&plot, "plot", "", "draw the table and typical pairs into this PNG file")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	cobra.CheckErr(cmd.MarkFlagFilename("plot", "png"))
	return cmd
}

// compareFiles makes the table of one score file, or of several. It also returns the first file.
func compareFiles(paths []string, o compare.Options) (*compare.Table, *compare.File, error) {
	var files []*compare.File
	var names []string
	for _, path := range paths {
		f, err := compare.Load(path)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".json"))
	}
	if len(files) == 1 {
		table, err := compare.Summarize(files[0], o)
		return table, files[0], err
	}
	table, err := compare.Models(files, names, o)
	return table, files[0], err
}

func writeTableJSON(w io.Writer, t *compare.Table) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(t)
}

// mustExist refuses a flag that names a missing file before any work.
func mustExist(flag, path string) error {
	if _, err := os.Stat(path); err != nil {
		return badInput(fmt.Errorf("--%s: %w", flag, err))
	}
	return nil
}
