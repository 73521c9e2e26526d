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

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/internal/terminal"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/report"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newCompareCommand() *cobra.Command {
	var measure, plot, reference string
	var seed uint64
	var asJSON, videos, published bool
	var to *dial.Options
	cmd := &cobra.Command{
		Use:   "compare [NAME=]SCORES.json…|[NAME=]jobs/ID…",
		Short: "Show what scores say, of one model or several",
		Long: `Show how well surprise tells possible from impossible videos, per property, with 95 % intervals by bootstrap over groups.
One file sets its model beside the untrained twin; several set the later models beside the first, for which they must have
been made with the same settings on the same videos. Files of one NAME are trainings of one model with different seeds:
figures are their means, and intervals resample them too. Without a NAME a model is called as its file.

Videos without labels, of one file, are listed by how much they surprise. With --reference, the scores of ordinary videos by
the same model, each has its percentile among those, and p, how often one of those would surprise as much.

In place of files, jobs/ID names scoring jobs, which their coordinator compares.`,
		Args: someArguments("one score file, or scoring job, or more"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, paths []string) error {
			save := map[string]func(string, *compare.Table, []report.Pair) error{".png": report.SavePNG, ".svg": report.SaveSVG}[filepath.Ext(plot)]
			if plot != "" && save == nil {
				return badInput(fmt.Errorf("--plot %s: want a name that ends in .png or .svg", plot))
			}
			jobs, err := ofJobs(paths)
			if err != nil {
				return err
			}
			if jobs && (published || plot != "") {
				return badInput(errors.New("--published and --plot take files: 'surmise fetch jobs/ID scores' brings those of a job"))
			}
			if jobs {
				request := &surmisev1.CompareScoresRequest{Measure: measure, Seed: seed, Videos: videos, Reference: reference}
				return compareJobs(cmd.Context(), cmd.OutOrStdout(), *to, paths, request, asJSON)
			}
			if published {
				return writePublished(cmd.OutOrStdout(), paths, asJSON)
			}
			options := compare.Options{Seed: seed, Videos: videos, Done: cmd.Context().Done()}
			if measure != "" {
				var err error
				if options.Aggregation, err = compare.ParseAggregation(measure); err != nil {
					return badInput(fmt.Errorf("--measure: %w", err))
				}
			}
			models, err := loadModels(paths)
			if err != nil {
				return badInput(err)
			}
			first := models[0].Files[0]
			if first.Unlabelled() || reference != "" {
				return list(cmd.OutOrStdout(), models, reference, plot, options, asJSON)
			}
			table, err := compare.Candidates(models, options)
			if err != nil {
				return badInput(err)
			}
			if plot != "" {
				pairs, err := report.TypicalPairs(cmd.Context(), first, table.Aggregation, 6, nil, nil)
				if err != nil {
					return fmt.Errorf("--plot: %w", err)
				}
				if err := save(plot, table, pairs); err != nil {
					return fmt.Errorf("--plot: %w", err)
				}
			}
			if asJSON {
				return writeIndented(cmd.OutOrStdout(), table)
			}
			out := terminal.Writer{W: cmd.OutOrStdout()}
			if err := table.WriteText(out); err != nil {
				return err
			}
			return table.WriteVideos(out)
		},
	}
	to = addCoordinatorFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&measure, "measure", "", "avg, max, filtered_avg, filtered_max, peak, peak_avg, peak_after_parting, peak_at_parting or contrast_at_parting; of one context as in max@4 (default what suits the scores)")
	flags.Uint64Var(&seed, "seed", 0, "seed of the bootstrap and of the halves of the groups")
	flags.BoolVar(&videos, "videos", false, "list every video with its surprise and its percentile among possible ones; without labels all, not the first 20")
	flags.BoolVar(&published, "published", false, "print the metrics of the published evaluation of one file, quirks included, in place of the table")
	flags.StringVar(&reference, "reference", "", "of videos without labels: scores of ordinary videos to judge them by, of which the possible ones count where there are labels")
	flags.StringVar(&plot, "plot", "", "draw the table and typical pairs into this file, .png or .svg")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	cobra.CheckErr(cmd.MarkFlagFilename("plot", "png", "svg"))
	cobra.CheckErr(cmd.MarkFlagFilename("reference", "json"))
	for _, other := range []string{"measure", "seed", "videos", "plot", "reference"} {
		cmd.MarkFlagsMutuallyExclusive("published", other)
	}
	return cmd
}

// loadModels reads the score files that arguments name.
func loadModels(arguments []string) ([]compare.Candidate, error) {
	var models []compare.Candidate
	for _, argument := range arguments {
		name, path := modelAndPath(argument)
		f, err := loadScores(path)
		if err != nil {
			return nil, err
		}
		if name == "" { // two files of one name in two folders are two models
			models = append(models, compare.Candidate{Name: strings.TrimSuffix(filepath.Base(path), ".json"), Files: []*compare.File{f}})
			continue
		}
		models = compare.AddTraining(models, name, f)
	}
	return models, nil
}

func loadScores(path string) (*compare.File, error) {
	f, err := compare.Load(path)
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(path, "jobs/") {
		err = fmt.Errorf("%s: a coordinator knows it; 'surmise fetch %s scores' brings its scores", path, path)
	}
	return f, err
}

// listedVideos is how many videos without labels are printed unless all are asked for.
const listedVideos = 20

// list prints videos without labels.
func list(w io.Writer, models []compare.Candidate, reference, plot string, o compare.Options, asJSON bool) error {
	if n := len(models) + len(models[0].Files) - 1; n != 1 {
		return badInput(fmt.Errorf("%d score files; videos without labels are listed of one", n))
	}
	if plot != "" {
		return badInput(errors.New("--plot: it draws how pairs are told apart, and the videos have no labels"))
	}
	var ordinary *compare.File
	if reference != "" {
		var err error
		if ordinary, err = loadScores(reference); err != nil {
			return badInput(fmt.Errorf("--reference: %w", err))
		}
	}
	listing, err := compare.List(models[0].Files[0], ordinary, o)
	if err != nil {
		return badInput(err)
	}
	if asJSON {
		return writeIndented(w, listing)
	}
	most := listedVideos
	if o.Videos {
		most = 0
	}
	return listing.WriteText(terminal.Writer{W: w}, most)
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
	return compare.WritePublished(terminal.Writer{W: w}, rows)
}

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
