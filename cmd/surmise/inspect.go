package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/video"
)

func newInspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect PATH…",
		Short: "Say of every video whether it can be used",
		Long: `Decode every video to its end and say whether it can be used, or why not. PATH is a file, a folder, a glob or a CSV index.
Unusable videos are no failure of this command; a PATH that holds no video at all is.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			decoders := video.NewPool(video.PoolOptions{})
			defer decoders.Close()
			out := cmd.OutOrStdout()
			write := writeVerdict
			if asJSON {
				enc := json.NewEncoder(out)
				write = func(_ io.Writer, v video.Verdict) error { return enc.Encode(v) }
			}
			var faults []error
			for _, arg := range args {
				items, err := video.Resolve(cmd.Context(), []string{arg}, nil)
				if err != nil {
					faults = append(faults, err)
					if err := write(out, video.Verdict{Path: arg, Reason: err.Error()}); err != nil {
						return err
					}
					continue
				}
				paths := make([]string, len(items))
				for i, item := range items {
					paths[i] = item.Path
				}
				verdicts, err := decoders.InspectAll(cmd.Context(), paths, nil)
				if err != nil {
					return err
				}
				for _, v := range verdicts {
					if err := write(out, v); err != nil {
						return err
					}
				}
			}
			if len(faults) > 0 {
				return badInput(fmt.Errorf("%d of %d names could not be inspected; the first: %w", len(faults), len(args), faults[0]))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a line of JSON per video")
	return cmd
}

func writeVerdict(w io.Writer, v video.Verdict) error {
	var err error
	if v.Usable {
		_, err = fmt.Fprintf(w, "usable    %s  %s %d×%d px, %.4g frames/s, %d frames, %.4g s\n", v.Path, v.Codec, v.Width, v.Height, v.FPS, v.Frames, v.Duration)
	} else {
		_, err = fmt.Fprintf(w, "unusable  %s  %s\n", v.Path, v.Reason)
	}
	return err
}
