package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// trainedOn is a note where videos lie in what the model was trained on, as far as the names in its checkpoint still stand for
// files here; "" otherwise. Surprise at what was seen in training says little of what was not.
func (j Jobs) trainedOn(ctx context.Context, trained *plausibility.Model, videos []plausibility.Video) string {
	var config struct {
		Data struct {
			Data []string `json:"data"`
		} `json:"data"`
	}
	if json.Unmarshal(trained.Record.Config, &config) != nil {
		return ""
	}
	seen := map[string]bool{}
	for _, name := range config.Data.Data {
		if source.IsURI(name) {
			continue
		}
		items, err := source.Resolve(ctx, []string{name}, j.DataRoots, nil)
		if err != nil { // moved, or not for this job to see
			continue
		}
		for _, item := range items {
			seen[whole(item.Name())] = true
		}
	}
	n, first := 0, ""
	for _, v := range videos {
		if !seen[whole(v.Path)] {
			continue
		}
		if n++; n == 1 {
			first = v.Path
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d videos, the first of them %s, lie in what the model was trained on", n, len(videos), first)
}

// scoreVideos is what a job scores.
type scoreVideos struct {
	videos    []plausibility.Video
	folder    string           // absolute; what their names are relative to
	dataset   *compare.Dataset // nil unless one is named
	frameStep int              // of the dataset, for a job that names no other; else 0
}

// videos reads the pairs file or the dataset, or finds the videos that are named.
func (j Jobs) videos(ctx context.Context, spec *surmisev1.ScoreSpec, decoders *video.Pool) (scoreVideos, error) {
	if len(spec.GetVideos()) > 0 {
		return j.unlabelled(ctx, spec.GetVideos(), decoders)
	}
	if spec.GetDataset() == "" {
		out, err := j.pairs(spec.GetPairs())
		if err != nil {
			return out, fmt.Errorf("score.pairs: %w", err)
		}
		return out, nil
	}
	path, err := j.located(spec.GetRoot())
	if err != nil {
		return scoreVideos{}, fmt.Errorf("score.root: %w", err)
	}
	d, err := plausibility.ReadDataset(spec.GetDataset(), path, j.DataRoots)
	if err != nil {
		return scoreVideos{}, fmt.Errorf("score.root: %w", err)
	}
	return scoreVideos{d.Videos, d.Folder, &compare.Dataset{Name: d.Name, Notes: d.Notes}, d.FrameStep}, nil
}

// unlabelled finds videos without labels.
func (j Jobs) unlabelled(ctx context.Context, names []string, decoders *video.Pool) (out scoreVideos, err error) {
	names = slices.Clone(names)
	for i, name := range names {
		if names[i], err = localPath(name); err != nil {
			return out, fmt.Errorf("score.videos[%d]: %w", i, err)
		}
	}
	items, err := decoders.Resolve(ctx, names, j.DataRoots)
	if unnamed := (*source.NameError)(nil); errors.As(err, &unnamed) {
		return out, fmt.Errorf("score.videos[%d]: %w", unnamed.Index, unnamed)
	}
	if err == nil {
		out.videos, out.folder, err = plausibility.Unlabelled(items)
	}
	if err != nil {
		return out, fmt.Errorf("score.videos: %w", err)
	}
	return out, nil
}

// pairs reads a pairs file.
func (j Jobs) pairs(name string) (scoreVideos, error) {
	path, err := j.located(name)
	if err != nil {
		return scoreVideos{}, err
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return scoreVideos{}, err
	}
	videos, err := plausibility.ReadPairs(path, j.DataRoots)
	return scoreVideos{videos: videos, folder: folder}, err
}

// located is the path of what a job names, which must lie below the data roots.
func (j Jobs) located(name string) (string, error) {
	path, err := localPath(name)
	if err == nil {
		_, err = source.Below(j.DataRoots, path)
	}
	return path, err
}
