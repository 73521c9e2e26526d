package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	var asJSON, videos, published bool
	cmd := &cobra.Command{
		Use:   "compare [NAME=]SCORES.json…",
		Short: "Show what scores say, of one model or several",
		Long: `Show how well surprise tells possible from impossible videos, per property, with 95 % intervals by bootstrap over groups.
One file sets its model beside the untrained twin; several set the later models beside the first, for which they must have
been made with the same settings on the same videos. Files of one NAME are trainings of one model with different seeds:
figures are their means, and intervals resample them too. Without a NAME a model is called as its file.`,
		Args: someArguments("one score file or more"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, paths []string) error {
			if published {
				return writePublished(cmd.OutOrStdout(), paths, asJSON)
			}
			options := compare.Options{Seed: seed, Videos: videos}
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
			if err := table.WriteText(cmd.OutOrStdout()); err != nil {
				return err
			}
			return table.WriteVideos(cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&measure, "measure", "", "avg, max, filtered_avg, filtered_max, peak, peak_avg, peak_after_parting, peak_at_parting or contrast_at_parting; of one context as in max@4 (default what suits the scores)")
	flags.Uint64Var(&seed, "seed", 0, "seed of the bootstrap and of the halves of the groups")
	flags.BoolVar(&videos, "videos", false, "list every video with its surprise and its percentile among possible ones")
	flags.BoolVar(&published, "published", false, "print the metrics of the published evaluation of one file, quirks included, in place of the table")
	flags.StringVar(&plot, "plot", "", "draw the table and typical pairs into this PNG file")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	cobra.CheckErr(cmd.MarkFlagFilename("plot", "png"))
	for _, other := range []string{"measure", "seed", "videos", "plot"} {
		cmd.MarkFlagsMutuallyExclusive("published", other)
	}
	return cmd
}

// compareFiles makes the table of the score files that arguments name. It also returns the first file.
func compareFiles(arguments []string, o compare.Options) (*compare.Table, *compare.File, error) {
	var models []compare.Candidate
	for _, argument := range arguments {
		name, path := modelAndPath(argument)
		f, err := compare.Load(path)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(path, "jobs/") {
			err = fmt.Errorf("%s: a coordinator knows it; 'surmise fetch %s scores' brings its scores", path, path)
		}
		if err != nil {
			return nil, nil, err
		}
		if name == "" { // two files of one name in two folders are two models
			models = append(models, compare.Candidate{Name: strings.TrimSuffix(filepath.Base(path), ".json"), Files: []*compare.File{f}})
			continue
		}
		models = compare.AddTraining(models, name, f)
	}
	table, err := compare.Candidates(models, o)
	return table, models[0].Files[0], err
}

// modelAndPath takes NAME=PATH apart. What exists as it stands is a path.
func modelAndPath(argument string) (name, path string) {
	name, path, named := strings.Cut(argument, "=")
	if _, err := os.Stat(argument); err == nil || !named {
		return "", argument
	}
	return name, path
}

// writePublished prints the published metrics of one score file.
func writePublished(w io.Writer, paths []string, asJSON bool) error {
	if len(paths) != 1 {
		return badInput(fmt.Errorf("--published: %d score files, want one", len(paths)))
	}
	f, err := compare.Load(paths[0])
	if err != nil {
		return badInput(err)
	}
	rows, err := compare.PublishedTable(f)
	if err != nil {
		return badInput(err)
	}
	if asJSON {
		return writeIndented(w, rows)
	}
	return compare.WritePublished(w, rows)
}

func writeTableJSON(w io.Writer, t *compare.Table) error { return writeIndented(w, t) }

func writeIndented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// mustExist refuses a flag that names a missing file before any work.
func mustExist(flag, path string) error {
	_, err := os.Stat(path)
	if err != nil && strings.HasPrefix(path, "jobs/") {
		return badInput(fmt.Errorf("--%s %s: a coordinator knows it; 'surmise fetch %s' brings what it left", flag, path, path))
	}
	if err != nil {
		return badInput(fmt.Errorf("--%s: %w", flag, err))
	}
	return nil
}
