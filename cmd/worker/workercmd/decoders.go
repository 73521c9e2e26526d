package workercmd

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/video"
)

// noCache is the value of --cache-dir that keeps nothing.
const noCache = "none"

// CacheFlag adds --cache-dir to a command that decodes videos.
func CacheFlag(flags *pflag.FlagSet, dir *string) {
	flags.StringVar(dir, "cache-dir", "", `folder that keeps what is known of videos between runs; "none" keeps nothing (default the user's cache folder)`)
}

// OpenDecoders makes the decoders of a command, with what earlier runs kept. close ends them.
func OpenDecoders(cacheDir string) (decoders *video.Pool, close func(), err error) {
	o := video.PoolOptions{}
	dir, chosen := cacheDir, cacheDir != ""
	if !chosen {
		if base, err := os.UserCacheDir(); err == nil { // else there is no home: a service
			dir = filepath.Join(base, "surmise")
		}
	}
	if dir != "" && dir != noCache {
		verdicts, err := video.OpenVerdicts(dir, video.DefaultVerdictsBytes)
		switch {
		case err == nil:
			o.Verdicts = verdicts
		case chosen:
			return nil, nil, &FlagError{"cache-dir", cacheDir, err}
		default:
			slog.Warn("nothing is kept of what is found out about videos; name a folder in --cache-dir", "error", err)
		}
	}
	decoders = video.NewPool(o)
	return decoders, func() {
		decoders.Close()
		if o.Verdicts != nil {
			if err := errors.Join(o.Verdicts.Close()); err != nil {
				slog.Warn("closing the cache of videos", "folder", dir, "error", err)
			}
		}
	}, nil
}
