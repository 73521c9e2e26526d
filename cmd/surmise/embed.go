package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/internal/terminal"
	"github.com/surmise-ml/surmise/plausibility"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

type embedOptions struct {
	model, out, encoder, precision string
	threads                        int
	json                           bool
	cache                          workercmd.CacheOptions
	device                         workercmd.DeviceOptions
	plausibility.EmbedOptions
}

func newEmbedCommand() *cobra.Command {
	var o embedOptions
	cmd := &cobra.Command{
		Use:   "embed --model MODEL --out FILE.safetensors PATH…",
		Short: "Write what a model makes of videos: the representation of their clips",
		Long: `Cut each video into clips of the model's length, encode them, and write a tensor per video: [clips, features], the mean over
each clip's tokens, or with --pool none [clips, tokens, features]. PATH is a file, a folder, a glob, an
index, a tar shard, or a URI of any of these, as a training job names its data.

The tensor of a video has its path as name. The file's metadata says which model, which preprocessing, and when each clip
begins. A video that cannot be used is named, and left out; of one longer than --max-frames the rest is left out, and said so.`,
		Args: someArguments("one video, folder or index or more"),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.model, "model", "", "checkpoint folder or .safetensors file")
	flags.StringVar(&o.out, "out", "", "file to write the embeddings to")
	flags.StringVar(&o.Pool, "pool", plausibility.PoolMean, "mean: one vector per clip; none: one per token")
	flags.StringVar(&o.encoder, "which", "target_encoder", "target_encoder, as published evaluations take, or encoder")
	flags.IntVar(&o.Stride, "stride", 0, "frames between the starts of clips (default the frames of a clip)")
	flags.IntVar(&o.FrameStep, "frame-step", 0, "take every n-th frame (default as the model was trained)")
	flags.Float64Var(&o.FPS, "fps", 0, "take so many frames per second, in place of --frame-step")
	flags.IntVar(&o.MaxFrames, "max-frames", 0, "take at most so many frames of a video (default 1024)")
	flags.IntVar(&o.threads, "threads", 0, "CPU threads (default all)")
	flags.StringVar(&o.precision, "precision", "auto", "auto, fp32, bf16 or, on a GPU, tf32")
	o.device.Flags(flags)
	flags.BoolVar(&o.json, "json", false, "print a line of JSON per video")
	o.cache.Flags(flags)
	cmd.MarkFlagsMutuallyExclusive("frame-step", "fps")
	for _, name := range []string{"model", "out"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

func (o *embedOptions) run(cmd *cobra.Command, names []string) (err error) {
	ctx := cmd.Context()
	if err := mustExist("model", o.model); err != nil {
		return err
	}
	o.Encoder = o.encoder + "."
	if o.Machine.Threads, err = trainer.Threads(o.threads); err != nil {
		return badInput(fmt.Errorf("--%w", err))
	}
	on, err := openDevice(o.device)
	if err != nil {
		return err
	}
	defer closeDevice(on, &err)
	if o.Machine.Precision, err = trainer.ResolvePrecision(cpu.Precision(o.precision), on); err != nil {
		return badInput(fmt.Errorf("--%w", err))
	}
	m, err := plausibility.OpenModel(o.model)
	if err != nil {
		return inputUnlessMachine(err)
	}
	defer func() { _ = m.Close() }() // it was only read
	m.Device = on
	decoders, done, err := workercmd.OpenDecoders(o.cache)
	if err != nil {
		return badInput(err)
	}
	defer done()
	found, err := decoders.Resolve(ctx, names, nil)
	if err != nil {
		return inputUnlessMachine(err)
	}
	var paths []string
	items := map[string]source.Item{}
	for _, item := range found {
		paths = append(paths, item.Name())
		items[item.Name()] = item
	}
	view := newProgressView(cmd.ErrOrStderr())
	o.Read = func(ctx context.Context, name string, read video.ReadOptions) (*video.Clip, error) {
		return decoders.ReadItem(ctx, items[name], read)
	}
	o.Progress = func(done, total int) {
		view.update(&surmisev1.Progress{Phase: "embedding", Step: int32(done), Steps: int32(total)})
	}
	embedded, err := m.EmbedFiles(ctx, o.out, paths, o.EmbedOptions)
	view.close()
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("embedding was interrupted")
		}
		return inputUnlessMachine(err)
	}
	if o.json {
		lines := json.NewEncoder(cmd.OutOrStdout())
		for _, e := range embedded {
			if err := lines.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	return writeEmbedded(cmd.OutOrStdout(), embedded)
}

func writeEmbedded(w io.Writer, embedded []plausibility.Embedded) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CLIPS\tPATH\tREASON")
	for _, e := range embedded {
		fmt.Fprintf(table, "%d\t%s\t%s\n", e.Clips, terminal.Line(e.Path), terminal.Line(e.Reason))
	}
	return table.Flush()
}
