package coordinatorcmd

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/artifact"
	_ "github.com/surmise-ml/surmise/artifact/stores" // those that --artifacts may name
	"github.com/surmise-ml/surmise/coordinator"
)

// ArtifactOptions says where artifacts are kept and which checkpoints stay.
type ArtifactOptions struct {
	Store string // URL; "": DataDir/artifacts, shared with the workers
	Keep  int    // newest checkpoints of a job; 0: coordinator.DefaultKeep
	Best  string // figure by which one more stays; "": none
}

// Flags adds --artifacts, --keep-checkpoints and --keep-best.
func (o *ArtifactOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Store, "artifacts", "", "where artifacts are kept: file:///FOLDER or s3://BUCKET/PREFIX?OPTIONS, credentials from the environment (default DATA-DIR/artifacts, shared with the workers)")
	flags.IntVar(&o.Keep, "keep-checkpoints", coordinator.DefaultKeep, "newest checkpoints of each job that stay; what a result names always does")
	flags.StringVar(&o.Best, "keep-best", "", "keep one checkpoint of each job more, the best by this figure: loss, or with train.eval accuracy, group_accuracy or auroc")
}

func (o ArtifactOptions) retention() artifact.Retention {
	r := artifact.Retention{Last: o.Keep, Best: o.Best}
	if r.Last == 0 {
		r.Last = coordinator.DefaultKeep
	}
	return r
}

// open opens the store; nil: artifacts are kept in the folder.
func (o ArtifactOptions) open(ctx context.Context, log *slog.Logger) (*artifact.Store, error) {
	if err := o.retention().Check(); err != nil {
		return nil, fmt.Errorf("--keep-checkpoints, --keep-best: %w", err)
	}
	if o.Store == "" {
		return nil, nil
	}
	store, err := artifact.Open(ctx, o.Store, artifact.Options{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("--artifacts: %w", err)
	}
	return store, nil
}
