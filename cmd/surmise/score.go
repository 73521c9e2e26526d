package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/internal/terminal"
	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/worker"
)

func newScoreCommand() *cobra.Command {
	spec := &surmisev1.ScoreSpec{}
	var out string
	var roots []string
	var topTokens int32
	var seed uint64
	var asJSON bool
	var cache workercmd.CacheOptions
	var device workercmd.DeviceOptions
	cmd := &cobra.Command{
		Use:   "score --model MODEL (--pairs PAIRS.csv | --dataset NAME --root DIR | --videos VIDEOS) --out SCORES.json",
		Short: "Score videos without a coordinator",
		Long: `Measure how surprising the videos of a pairs file, or of a published benchmark, are to a model, and to its untrained twin,
in this process. The scores go to a file that 'surmise compare' reads; what they show is printed. With --protocol, the
settings are those of a protocol, whose name and version are recorded in the file.

Videos without labels, --videos, are ordered by how much they surprise, each with where it does most. What is much surprise
is for 'surmise compare --reference' to say, by the scores of ordinary videos.`,
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Model, "model", "", "checkpoint folder or .safetensors file")
	flags.StringVar(&spec.Pairs, "pairs", "", "CSV file with the columns path,label,group,property; a path may be a URI; label 1 is possible, 0 impossible")
	flags.StringVar(&spec.Dataset, "dataset", "", "in place of --pairs, the benchmark that lies in --root: intphys, intphys2, grasp or inflevel")
	flags.StringArrayVar(&spec.Videos, "videos", nil, "in place of --pairs, videos without labels: a file, folder, glob, index or URI; repeat for more")
	flags.StringVar(&spec.Root, "root", "", "folder of the dataset, as it is published")
	flags.StringVar(&spec.Protocol, "protocol", "", "settings as published (intphys, intphys2, grasp, inflevel), or every context at every tubelet (continuous)")
	flags.StringVar(&out, "out", "", "file to write the scores to")
	flags.Int32Var(&spec.Window, "window", 0, "frames of a window; only what the model takes, the default, will do")
	flags.Int32Var(&spec.Stride, "stride", 0, "frames between the starts of windows, at most the window (default 2)")
	flags.Int32Var(&spec.FrameStep, "frame-step", 0, "take every n-th frame (default as the model was trained, for a dataset as published)")
	flags.Float64Var(&spec.Fps, "fps", 0, "take so many frames per second, in place of --frame-step")
	flags.Int32SliceVar(&spec.Contexts, "contexts", nil, "frames the model sees before it predicts, one score each (default one to five eighths of the window)")
	flags.Int32Var(&topTokens, "top-tokens", 0, "take of each tubelet the mean over its N worst tokens, 0 for all (default 4 for next_tubelet models, else 0)")
	flags.BoolVar(&spec.SkipTwin, "no-twin", false, "do not score the untrained twin beside the model")
	flags.BoolVar(&spec.Maps, "maps", false, "keep the surprise of every token in a file beside the scores")
	flags.BoolVar(&spec.CopyLastFrame, "copy-last-frame", false, "score the baseline that expects the last tubelet seen to go on")
	flags.BoolVar(&spec.Reencode, "reencode", false, "control: possible videos against themselves through JPEG")
	flags.BoolVar(&spec.Recolour, "recolour", false, "control: possible videos against themselves with colours changed")
	flags.BoolVar(&spec.TimeReversal, "time-reversal", false, "control: possible videos against themselves backwards")
	flags.Int32Var(&spec.MaxFrames, "max-frames", 0, "skip videos of more frames after sampling (default 1024); all of a video's are in memory")
	flags.Uint64Var(&seed, "seed", 0, "seed of the twin's weights (default the training's) and of the bootstrap (default 0)")
	flags.Int32Var(&spec.Threads, "threads", 0, "CPU threads (default all)")
	flags.StringVar(&spec.Precision, "precision", "", "auto, fp32, bf16 or, on a GPU, tf32 (default auto)")
	device.Flags(flags)
	flags.StringArrayVar(&roots, "data-root", nil, "folder below which files may be named; repeat for more (default any)")
	cache.Flags(flags)
	flags.BoolVar(&asJSON, "json", false, "print what the scores show as JSON")
	for _, name := range []string{"model", "out"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	cobra.CheckErr(cmd.MarkFlagFilename("pairs", "csv"))
	cobra.CheckErr(cmd.MarkFlagFilename("out", "json"))
	cobra.CheckErr(cmd.MarkFlagDirname("root"))
	cmd.MarkFlagsOneRequired("pairs", "dataset", "videos")
	cmd.MarkFlagsMutuallyExclusive("pairs", "dataset", "videos")
	cmd.MarkFlagsRequiredTogether("dataset", "root")
	for flag, values := range map[string][]string{"dataset": plausibility.DatasetNames(), "protocol": compare.ProtocolNames()} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	cmd.Args = noArguments
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if flags.Changed("top-tokens") {
			spec.TopTokens = &topTokens
		}
		if flags.Changed("seed") {
			spec.Seed = &seed
		}
		if len(spec.Videos) == 0 {
			videos, path := "pairs", spec.Pairs
			if spec.Dataset != "" {
				videos, path = "root", spec.Root
			}
			if err := mustExist(videos, path); err != nil {
				return err
			}
		}
		if err := mustExist("model", spec.Model); err != nil {
			return err
		}
		if info, err := os.Stat(filepath.Dir(out)); err != nil {
			return badInput(fmt.Errorf("--out: %w", err))
		} else if !info.IsDir() {
			return badInput(fmt.Errorf("--out %s: %s is no folder", out, filepath.Dir(out)))
		}
		if info, err := os.Stat(out); err == nil && info.IsDir() {
			return badInput(fmt.Errorf("--out %s: it is a folder; name a file in it", out))
		}
		if err := durable.Writable(filepath.Dir(out)); err != nil { // not found out after hours of scoring
			return badInput(fmt.Errorf("--out: %w", err))
		}
		complete, err := specOf(&surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Score{Score: spec}})
		if err != nil {
			return byFlags(flags, "score", err)
		}
		decoders, done, err := workercmd.OpenDecoders(cache)
		if err != nil {
			return badInput(err)
		}
		defer done()
		gpus, err := device.GPUs()
		if err != nil {
			return badInput(err)
		}
		view := newProgressView(cmd.ErrOrStderr())
		jobs := worker.Jobs{DataRoots: roots, Decoders: decoders, Open: gpus.Open}
		scores, err := jobs.Score(cmd.Context(), complete.GetScore(), spec.Model, out, localReports{view})
		view.close()
		if err != nil {
			return localFailure(cmd.Context(), "scoring", byFlags(flags, "score", err))
		}
		return writeScored(cmd.OutOrStdout(), scores, compare.Options{Seed: seed, Done: cmd.Context().Done()}, asJSON)
	}
	return cmd
}

// writeScored prints what fresh scores show.
func writeScored(w io.Writer, scores *compare.File, o compare.Options, asJSON bool) error {
	var write func() error
	var shown any
	if scores.Unlabelled() {
		listing, err := compare.List(scores, nil, o)
		if err != nil {
			return err
		}
		shown, write = listing, func() error { return listing.WriteText(terminal.Writer{W: w}, listedVideos) }
	} else {
		table, err := compare.Summarize(scores, o)
		if err != nil {
			return err
		}
		shown, write = table, func() error { return table.WriteText(terminal.Writer{W: w}) }
	}
	if asJSON {
		return writeIndented(w, shown)
	}
	return write()
}
