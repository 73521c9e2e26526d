package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/trainer/exchange"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/worker"
)

// importReport is what import prints with --json.
type importReport struct {
	Out        string              `json:"out"`
	SHA256     string              `json:"sha256"`
	Bytes      int64               `json:"bytes"`
	Parameters int64               `json:"parameters"`
	Model      model.Config        `json:"model"`
	Imported   exchange.Provenance `json:"imported"`
}

func newImportCommand() *cobra.Command {
	var from, out string
	var o exchange.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import --from CHECKPOINT --out MODEL.safetensors",
		Short: "Take a model from a V-JEPA checkpoint or a transformers folder",
		Long: `Write a model that 'surmise score' and 'surmise embed' take, from a checkpoint of V-JEPA (.pth.tar) or V-JEPA 2 (.pt), a
VJEPA2Model folder of transformers (config.json and safetensors), or a checkpoint of Surmise.

Every tensor of the networks is used, and none may be missing, or all that does not fit is listed and nothing is written.
A checkpoint is read as data: nothing in its pickle is run, and a name in it that no checkpoint needs is refused.

Checkpoints of V-JEPA hold no configuration. Most of it follows from the tensors; the number of heads is that of the
published models, and has to be given for others. What is taken for granted is printed, and kept in the model.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := mustExist("from", from); err != nil {
				return err
			}
			i, err := exchange.Open(from, o)
			if err != nil {
				return inputUnlessMachine(err)
			}
			defer func() { _ = i.Close() }() // it was only read
			if !asJSON {
				describeImport(cmd.OutOrStdout(), i)
			}
			digest, err := i.Write(out)
			if err != nil {
				return inputUnlessMachine(err)
			}
			if asJSON {
				all, _ := i.Values()
				return json.NewEncoder(cmd.OutOrStdout()).Encode(importReport{out, digest.SHA256, digest.Bytes, all, i.Config, i.Provenance})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s, %s, sha256 %s\n", out, bytesText(digest.Bytes), digest.SHA256)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "checkpoint file, or folder of transformers or of Surmise")
	flags.StringVar(&out, "out", "", "file to write the model to")
	flags.StringVar(&o.Which, "which", exchange.Both, "which encoders to take: both, or one that then stands for both, encoder or target_encoder")
	flags.IntVar(&o.Heads, "heads", 0, "attention heads of the encoder (default as in the published model of as many features)")
	flags.IntVar(&o.PredHeads, "pred-heads", 0, "attention heads of the predictor (default as published)")
	flags.IntVar(&o.Frames, "frames", 0, "frames of a clip (default as in the checkpoint, or 64); position tables are resized")
	flags.IntVar(&o.Size, "size", 0, "height and width of the frames in pixels (default as in the checkpoint, or 256); position tables are resized")
	flags.StringVar(&o.Positions, "positions", "", "rotary positions: rope or rope_interleaved (default rope)")
	flags.BoolVar(&asJSON, "json", false, "print what was written as JSON")
	for _, name := range []string{"from", "out"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

// inputUnlessMachine blames the input for an error, unless the machine is at fault: a full disk, no memory.
func inputUnlessMachine(err error) error {
	if worker.IsInfrastructure(err) {
		return err
	}
	return badInput(err)
}

// describeImport says what was found and what it takes, before numbers are read.
func describeImport(w io.Writer, i *exchange.Import) {
	c := i.Config
	all, largest := i.Values()
	height, width := c.Frame()
	fmt.Fprintf(w, "%s: %s, clips of %d frames of %d×%d px, tokens of %d frames by %d px, positions %s\n", i.Provenance.From, i.Provenance.Format, c.Frames, width, height, c.Tubelet, c.Patch, c.Positions)
	fmt.Fprintf(w, "encoder: %d features, %d blocks, %d heads; predictor: %d features, %d blocks, %d heads\n", c.Dim, c.Depth, c.Heads, c.PredDim, c.PredDepth, c.PredHeads)
	if i.Training.Data != (exchange.Rate{}) {
		fmt.Fprintf(w, "trained at %s\n", i.Training.Data)
	}
	fmt.Fprintf(w, "%d parameters, %s; one tensor in memory at a time, the largest %s\n", all, bytesText(4*all), bytesText(4*largest))
	for _, note := range i.Provenance.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
}

// bytesText is a size as people read it.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.3g GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.3g MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.3g KiB", float64(n)/(1<<10))
}
