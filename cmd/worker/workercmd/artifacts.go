package workercmd

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/artifact"
	_ "github.com/surmise-ml/surmise/artifact/stores" // those that a coordinator may name
	"github.com/surmise-ml/surmise/worker"
	"github.com/surmise-ml/surmise/worker/publish"
)

// ArtifactOptions says where artifacts are kept and how much of them stays here.
type ArtifactOptions struct {
	Store    string // URL; "": where the coordinator says
	CacheMiB int    // of models of other jobs; 0: artifact.DefaultCacheBytes
}

// Flags adds --artifacts and --artifact-cache-mib.
func (o *ArtifactOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Store, "artifacts", "", "where this worker reaches the coordinator's --artifacts, if it is not what the coordinator says: file:///FOLDER or s3://BUCKET/PREFIX?OPTIONS")
	flags.IntVar(&o.CacheMiB, "artifact-cache-mib", 0, fmt.Sprintf("models of other jobs that stay in --data-dir when artifacts are kept in a store, in MiB (default %d)", int64(artifact.DefaultCacheBytes)>>20))
}

// publisher brings what a Runner makes to where artifacts are kept.
func (o Options) publisher(r worker.Runner) (*publish.Publisher, error) {
	if o.Artifacts.CacheMiB < 0 {
		return nil, &FlagError{"artifact-cache-mib", fmt.Sprint(o.Artifacts.CacheMiB), fmt.Errorf("want 0 or more")}
	}
	p := publish.Options{Store: o.Artifacts.Store, CacheBytes: int64(o.Artifacts.CacheMiB) << 20, Logger: o.Logger}
	if o.DataDir != "" {
		dir, err := filepath.Abs(filepath.Join(o.DataDir, "work", o.Name))
		if err != nil {
			return nil, &FlagError{"data-dir", o.DataDir, err}
		}
		p.Dir = dir
	}
	return publish.New(r, p)
}
