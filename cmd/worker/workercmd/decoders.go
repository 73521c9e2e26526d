package workercmd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	_ "gocloud.dev/blob/gcsblob" // videos of gs://
	_ "gocloud.dev/blob/s3blob"  // and of s3://

	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/remote"
)

// noCache is the value of --cache-dir that keeps nothing.
const noCache = "none"

// CacheOptions says what is kept of videos between runs.
type CacheOptions struct {
	Dir string // "": the user's cache folder; "none": nowhere
	MiB int    // of decoded frames; 0: video.DefaultClipsBytes; negative: none

	FeaturesMiB int // of what frozen encoders give of clips; 0: trainer.DefaultFeaturesBytes; negative: none

	Fetch FetchOptions
}

// FetchOptions says what may be fetched from elsewhere; the zero value is all of the internet, and nothing private.
type FetchOptions struct {
	Schemes  []string // as remote.Rules
	Hosts    []string
	Networks []string // CIDR
}

// rules are what the flags mean.
func (o FetchOptions) rules() (remote.Rules, error) {
	r := remote.Rules{Schemes: o.Schemes, Hosts: o.Hosts}
	for _, text := range o.Networks {
		network, err := netip.ParsePrefix(text)
		if err == nil {
			err = remote.Rules{Networks: []netip.Prefix{network}}.Check()
		}
		if err != nil {
			return r, &FlagError{"fetch-network", text, err}
		}
		r.Networks = append(r.Networks, network.Masked())
	}
	for _, scheme := range o.Schemes {
		if err := (remote.Rules{Schemes: []string{scheme}}).Check(); err != nil {
			return r, &FlagError{"fetch-scheme", scheme, err}
		}
	}
	for _, host := range o.Hosts {
		if err := (remote.Rules{Hosts: []string{host}}).Check(); err != nil {
			return r, &FlagError{"fetch-host", host, err}
		}
	}
	return r, nil
}

// Flags adds --cache-dir and --cache-mib to a command that decodes videos.
func (o *CacheOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Dir, "cache-dir", "", `folder that keeps what is known of videos between runs; "none" keeps nothing (default the user's cache folder)`)
	flags.IntVar(&o.MiB, "cache-mib", 0, fmt.Sprintf("decoded frames that --cache-dir keeps, in MiB; negative keeps none (default %d)", video.DefaultClipsBytes>>20))
	flags.StringArrayVar(&o.Fetch.Schemes, "fetch-scheme", nil, "scheme of URIs that may be fetched: s3, gs, http or https; repeat for more (default all)")
	flags.StringArrayVar(&o.Fetch.Hosts, "fetch-host", nil, "host or bucket that may be fetched from, or *.DOMAIN; repeat for more (default any)")
	flags.StringArrayVar(&o.Fetch.Networks, "fetch-network", nil, "private network that may be fetched from, such as 10.1.0.0/16; repeat for more (default none)")
}

// TrainFlags adds --features-mib to a command that trains.
func (o *CacheOptions) TrainFlags(flags *pflag.FlagSet) {
	flags.IntVar(&o.FeaturesMiB, "features-mib", 0, fmt.Sprintf("what frozen encoders give of clips that --cache-dir keeps, in MiB; negative keeps none (default %d)", trainer.DefaultFeaturesBytes>>20))
}

// folder is where things are kept; "": nowhere.
func (o CacheOptions) folder() string {
	switch o.Dir {
	case noCache:
		return ""
	case "":
		if base, err := os.UserCacheDir(); err == nil { // else there is no home: a service
			return filepath.Join(base, "surmise")
		}
	}
	return o.Dir
}

// OpenFeatures opens what is kept of frozen encoders; nil: nothing is.
func OpenFeatures(cache CacheOptions) (*trainer.Features, error) {
	dir := cache.folder()
	if dir == "" || cache.FeaturesMiB < 0 {
		return nil, nil
	}
	features, err := trainer.OpenFeatures(filepath.Join(dir, "features"), int64(cache.FeaturesMiB)<<20, time.Now)
	if err != nil && cache.Dir != "" {
		return nil, &FlagError{"cache-dir", cache.Dir, err}
	}
	if err != nil {
		slog.Warn("nothing is kept of what frozen encoders give; name a folder in --cache-dir", "error", err)
		return nil, nil
	}
	return features, nil
}

// OpenDecoders makes the decoders of a command, with what earlier runs kept. done ends them.
func OpenDecoders(cache CacheOptions) (decoders *video.Pool, done func(), err error) {
	o := video.PoolOptions{}
	rules, err := cache.Fetch.rules()
	if err != nil {
		return nil, nil, err
	}
	dir := cache.folder()
	if dir != "" {
		o.Verdicts, o.Clips, err = openCaches(dir, cache.MiB)
		if err != nil && cache.Dir != "" {
			return nil, nil, &FlagError{"cache-dir", cache.Dir, err}
		}
		if err != nil {
			slog.Warn("nothing is kept of what is found out about videos; name a folder in --cache-dir", "error", err)
		}
	}
	var store *remote.Store
	if o.Verdicts != nil {
		if store, err = remote.Open(filepath.Join(dir, "remote"), remote.Options{Rules: rules}); err != nil {
			return nil, nil, errors.Join(&FlagError{"cache-dir", cache.Dir, err}, closeCaches(o.Verdicts, o.Clips))
		}
		o.Remote = store
	}
	decoders = video.NewPool(o)
	return decoders, func() {
		decoders.Close()
		if store != nil {
			_ = store.Close() // connections; what was fetched is on disk
		}
		if err := closeCaches(o.Verdicts, o.Clips); err != nil {
			slog.Warn("closing the cache of videos", "folder", dir, "error", err)
		}
	}, nil
}

func openCaches(dir string, mib int) (*video.Verdicts, *video.Clips, error) {
	verdicts, err := video.OpenVerdicts(dir, video.DefaultVerdictsBytes)
	if err != nil || mib < 0 {
		return verdicts, nil, err
	}
	bytes := int64(mib) << 20
	if mib == 0 {
		bytes = video.DefaultClipsBytes
	}
	clips, err := video.OpenClips(filepath.Join(dir, "clips"), bytes)
	if err != nil {
		return nil, nil, errors.Join(err, verdicts.Close())
	}
	return verdicts, clips, nil
}

func closeCaches(verdicts *video.Verdicts, clips *video.Clips) error {
	var errs []error
	if verdicts != nil {
		errs = append(errs, verdicts.Close())
	}
	if clips != nil {
		errs = append(errs, clips.Close())
	}
	return errors.Join(errs...)
}
