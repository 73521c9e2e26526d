package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video/synth"
	"github.com/surmise-ml/surmise/worker"
)

func newSynthCommand() *cobra.Command {
	var o synth.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "synth --out DIR",
		Short: "Make video clips of simple physics, possible and impossible",
		Long: `Make clips in which nothing impossible happens, to train on, and matched pairs of possible and impossible videos, to test
what was learnt. The same flags make the same videos. Beside them lie pairs.csv, to score, and events.jsonl, with the
parameters, the paths and the event frame of every video.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			view := newProgressView(cmd.ErrOrStderr())
			total := o.Clips + 2*o.Pairs
			summary, err := synth.Generate(cmd.Context(), o, func(done, _ int) {
				if done == total || done%max(1, total/20) == 0 {
					view.update(&surmisev1.Progress{Phase: "drawing", Step: int32(done), Steps: int32(total)})
				}
			})
			view.close()
			if err != nil {
				if cmd.Context().Err() != nil || worker.IsInfrastructure(err) {
					return err
				}
				return badInput(err)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(summary)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d clips %s\n%d pairs %s\n", summary.Clips, summary.ClipsDir, summary.Pairs, summary.PairsCSV)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Dir, "out", "", "folder to fill; made if missing")
	flags.IntVar(&o.Clips, "clips", 200, "clips to train on")
	flags.IntVar(&o.Pairs, "pairs", 60, "matched pairs of a possible and an impossible video")
	flags.Uint64Var(&o.Seed, "seed", 0, "seed of everything that is drawn")
	flags.IntVar(&o.Size, "size", 64, "side of the frames in pixels")
	flags.IntVar(&o.Frames, "frames", 32, "frames per video")
	flags.Float64Var(&o.FPS, "fps", 16, "frames per second")
	flags.StringSliceVar(&o.Properties, "properties", nil, "what the impossible videos violate, of "+strings.Join(synth.Properties(), ", ")+" (default all)")
	flags.StringVar(&o.Difficulty, "difficulty", "middle", "how crowded and noisy the videos are: "+strings.Join(synth.Difficulties(), ", "))
	flags.BoolVar(&asJSON, "json", false, "print what was made as JSON")
	cobra.CheckErr(cmd.MarkFlagRequired("out"))
	cobra.CheckErr(cmd.MarkFlagDirname("out"))
	return cmd
}
