package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/internal/terminal"
	"github.com/surmise-ml/surmise/plausibility"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

func newRankCommand() *cobra.Command {
	spec := &surmisev1.RankSpec{}
	set := &surmisev1.RankSet{}
	var list string
	var seed uint64
	var roots []string
	var asJSON bool
	var device workercmd.DeviceOptions
	cmd := &cobra.Command{
		Use:   "rank --model MODEL (--context CLIP (--candidates A,B… | --make HOW) | --list SETS.jsonl)",
		Short: "Order futures of a clip by their energy",
		Long: `Order candidate futures of a clip by their energy, the error of predicting them from what went before; the first is the most
plausible. The candidates are videos that begin where the context ends, or are made of one clip:

  time-direction  on, or back the way it came
  speed           as it was, twice as fast, half as fast, standing still
  shuffle         in order, and in three shuffled orders

A list has a set per line, {"context":"a.avi","candidates":["b.avi","c.avi"]} or {"context":"a.avi","make":"speed"}, with paths
relative to its folder. Of several made ones, how often the true future came first is counted; the order of every other set is
printed.`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Model, "model", "", "checkpoint folder or .safetensors file")
	flags.StringVar(&set.Context, "context", "", "video whose last frames are the past; with --make, its first")
	flags.StringSliceVar(&set.Candidates, "candidates", nil, "videos that begin where the context ends, at least two")
	flags.StringVar(&set.Make, "make", "", "time-direction, speed or shuffle: make the candidates of the clip")
	flags.StringVar(&list, "list", "", "JSON lines of sets; - for standard input")
	flags.Int32Var(&spec.ContextFrames, "context-frames", 0, "frames of the past (default half the model's clip)")
	flags.Int32Var(&spec.FrameStep, "frame-step", 0, "take every n-th frame (default as the model was trained)")
	flags.Float64Var(&spec.Fps, "fps", 0, "take so many frames per second, in place of --frame-step")
	flags.StringVar(&spec.Measure, "measure", "", "energy of a future: mean or peak (default mean)")
	flags.BoolVar(&spec.Twin, "twin", false, "energies to the untrained twin as well")
	flags.Uint64Var(&seed, "seed", 0, "seed of shuffled orders (default 0) and of the twin (default the training's)")
	flags.Int32Var(&spec.Threads, "threads", 0, "CPU threads (default all)")
	flags.StringVar(&spec.Precision, "precision", "", "auto, fp32, bf16 or, on a GPU, tf32 (default auto)")
	device.Flags(flags)
	flags.StringArrayVar(&roots, "data-root", nil, "folder below which files may be named; repeat for more (default any)")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	cobra.CheckErr(cmd.MarkFlagRequired("model"))
	cobra.CheckErr(cmd.MarkFlagFilename("list", "jsonl"))
	cmd.MarkFlagsOneRequired("context", "list")
	cmd.MarkFlagsMutuallyExclusive("list", "context")
	cmd.MarkFlagsMutuallyExclusive("list", "candidates")
	cmd.MarkFlagsMutuallyExclusive("list", "make")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if flags.Changed("seed") {
			spec.Seed = &seed
		}
		if err := mustExist("model", spec.Model); err != nil {
			return err
		}
		spec.Sets = []*surmisev1.RankSet{set}
		if list != "" {
			var err error
			if spec.Sets, err = readRankSets(list, cmd.InOrStdin()); err != nil {
				return badInput(err)
			}
		}
		complete, err := specOf(&surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Rank{Rank: spec}})
		if err != nil {
			return byFlags(flags, "rank", err)
		}
		gpus, err := device.GPUs()
		if err != nil {
			return badInput(err)
		}
		view := newProgressView(cmd.ErrOrStderr())
		rankings, err := worker.Jobs{DataRoots: roots, Open: gpus.Open}.Rank(cmd.Context(), complete.GetRank(), spec.Model, localReports{view})
		view.close()
		if err != nil {
			return localFailure(cmd.Context(), "ranking", byFlags(flags, "rank", err))
		}
		if asJSON {
			return writeProto(cmd.OutOrStdout(), worker.RankingsMessage(rankings, spec.Twin))
		}
		return writeRankings(cmd.OutOrStdout(), rankings, spec.Twin)
	}
	return cmd
}

// maxRankLine bounds a line of a list: 64 candidates with paths of a usual length.
const maxRankLine = 1 << 18

// readRankSets reads a list of sets; paths are relative to its folder.
func readRankSets(name string, in io.Reader) ([]*surmisev1.RankSet, error) {
	folder := "."
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--list: %w", err)
		}
		defer f.Close()
		in, folder = f, filepath.Dir(name)
	}
	located := func(path string) string {
		if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") {
			return path
		}
		return filepath.Join(folder, path)
	}
	var sets []*surmisev1.RankSet
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxRankLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var line struct {
			Context    string   `json:"context"`
			Candidates []string `json:"candidates"`
			Make       string   `json:"make"`
		}
		dec := json.NewDecoder(strings.NewReader(lines.Text()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&line); err != nil {
			return nil, fmt.Errorf("--list: line %d: %w", n, err)
		}
		set := &surmisev1.RankSet{Context: located(line.Context), Make: line.Make}
		for _, c := range line.Candidates {
			set.Candidates = append(set.Candidates, located(c))
		}
		sets = append(sets, set)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--list: %w", err)
	}
	if len(sets) == 0 {
		return nil, errors.New("--list: names no set")
	}
	return sets, nil
}

// rankingsOf takes rankings as the API gives them.
func rankingsOf(messages []*surmisev1.Ranking) []plausibility.Ranking {
	var out []plausibility.Ranking
	for _, m := range messages {
		r := plausibility.Ranking{Context: m.GetContext(), Make: m.GetMake(), Frames: int(m.GetFrames()), ContextFrames: int(m.GetContextFrames())}
		for _, f := range m.GetFutures() {
			r.Futures = append(r.Futures, plausibility.RankedFuture{Name: f.GetName(), Candidate: int(f.GetCandidate()), Energy: f.GetEnergy(), Margin: f.GetMargin(),
				Mean: f.GetMean(), Peak: f.GetPeak(), Twin: f.GetTwinEnergy()})
		}
		out = append(out, r)
	}
	return out
}

// writeRankings prints every ranking that no summary counts, then the summary.
func writeRankings(w io.Writer, rankings []plausibility.Ranking, twin bool) error {
	var counted, listed []plausibility.Ranking
	for _, r := range rankings {
		if r.Make != "" {
			counted = append(counted, r)
		} else {
			listed = append(listed, r)
		}
	}
	if len(counted) == 1 { // of one there is nothing to count
		counted, listed = nil, rankings
	}
	for i, r := range listed {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := writeRanking(w, r, twin); err != nil {
			return err
		}
	}
	if len(listed) > 0 && len(counted) > 0 {
		fmt.Fprintln(w)
	}
	return writeRankSummary(w, counted, twin)
}

// writeRanking prints one set's futures, the most plausible first.
func writeRanking(w io.Writer, r plausibility.Ranking, twin bool) error {
	fmt.Fprintf(w, "After %d frames of %s, over %d frames:\n\n", r.ContextFrames, terminal.Line(r.Context), r.Frames)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	header := "\tENERGY\tMARGIN\tFUTURE"
	if twin {
		header = "\tENERGY\tMARGIN\tTWIN'S\tFUTURE"
	}
	fmt.Fprintln(table, header)
	for i, f := range r.Futures {
		fmt.Fprintf(table, "%d\t%.5f\t+%.5f\t", i+1, f.Energy, f.Margin)
		if twin {
			fmt.Fprintf(table, "%.5f\t", f.Twin)
		}
		fmt.Fprintln(table, terminal.Line(f.Name))
	}
	return table.Flush()
}

// writeRankSummary prints how often the true future came first; nothing without made sets.
func writeRankSummary(w io.Writer, rankings []plausibility.Ranking, twin bool) error {
	summaries := plausibility.SummarizeRankings(rankings, twin)
	if len(summaries) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	header := "MADE\tSETS\tTRUE FUTURE FIRST, % [95 % INTERVAL]\tCHANCE, %"
	if twin {
		header += "\tUNTRAINED TWIN, %"
	}
	fmt.Fprintln(table, header)
	for _, s := range summaries {
		fmt.Fprintf(table, "%s\t%d\t%.1f [%.1f, %.1f]\t%.1f", s.Make, s.Sets, 100*s.Interval.Value, 100*s.Interval.Low, 100*s.Interval.High, 100*s.Chance)
		if s.Twin != nil {
			fmt.Fprintf(table, "\t%.1f [%.1f, %.1f]", 100*s.Twin.Value, 100*s.Twin.Low, 100*s.Twin.High)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}
