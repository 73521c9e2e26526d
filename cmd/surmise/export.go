package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/trainer/exchange"
)

func newExportCommand() *cobra.Command {
	var from, out string
	var o exchange.ExportOptions
	cmd := &cobra.Command{
		Use:   "export --from MODEL --format hf|vjepa --out PATH",
		Short: "Give a model to V-JEPA's code or to transformers",
		Long: `Write a model as a VJEPA2Model folder of transformers (--format hf) or as a checkpoint of facebookresearch/jepa and vjepa2
(--format vjepa). A model that the other code would compute differently is refused. Importing a checkpoint that was written so
gives the same tensors, bit for bit; what its layout cannot say, such as heads and rate, has to be told again. A folder holds
one encoder: embeddings of an import are the same, bit for bit, surprise is not, for which that encoder stands for both.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := mustExist("from", from); err != nil {
				return err
			}
			notes, err := exchange.Export(from, out, o)
			if err != nil {
				return inputUnlessMachine(err)
			}
			for _, note := range notes {
				fmt.Fprintf(cmd.OutOrStdout(), "note: %s\n", note)
			}
			size, err := sizeOf(out)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s, %s\n", out, bytesText(size))
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "checkpoint folder or .safetensors file of Surmise")
	flags.StringVar(&out, "out", "", "file (vjepa) or folder (hf) to write; it must not exist")
	flags.StringVar(&o.Format, "format", "", "hf or vjepa")
	flags.StringVar(&o.Which, "which", "", "with hf, which holds one encoder: encoder or target_encoder (default target_encoder, as embed has)")
	for _, name := range []string{"from", "out", "format"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

// sizeOf adds up a file, or the files of a folder.
func sizeOf(path string) (total int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
