package plausibility

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video/source"
)

// Unlabelled are the videos of items, without labels, in their order, and the deepest folder that holds all that lie on this
// machine, which their names are relative to. What an index says of labels does not count. Videos in tar shards are
// refused: they are no files that scores could be traced to.
func Unlabelled(items []source.Item) (videos []Video, folder string, err error) {
	for _, item := range items {
		switch {
		case item.Member != "":
			return nil, "", fmt.Errorf("%s: scoring reads no tar shards; unpack it and name the folder", item.Name())
		case item.URI != "":
			continue
		case folder == "":
			folder = filepath.Dir(item.Path)
		}
		for !below(folder, item.Path) {
			folder = filepath.Dir(folder)
		}
	}
	for _, item := range items {
		v := Video{Path: item.Name(), Name: item.Name(), Label: compare.NoLabel}
		if item.URI == "" {
			if v.Name, err = filepath.Rel(folder, item.Path); err != nil {
				return nil, "", err
			}
		}
		if err := checkField(v.Path); err != nil {
			return nil, "", fmt.Errorf("%q: %w", v.Path, err)
		}
		videos = append(videos, v)
	}
	if len(videos) > maxPairsRows {
		return nil, "", fmt.Errorf("%d videos, at most %d are scored at once", len(videos), maxPairsRows)
	}
	return videos, folder, nil
}

// below tells whether a clean absolute path lies in a folder or in one below it.
func below(folder, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(folder, string(filepath.Separator))+string(filepath.Separator))
}
