package worker

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// sayUnusable logs the videos that training goes without, the first ones by name.
func sayUnusable(ctx context.Context, all []video.Verdict, file string) {
	const named = 20
	unusable := 0
	for _, v := range all {
		if v.Usable {
			continue
		}
		if unusable++; unusable <= named {
			slog.WarnContext(ctx, "a video cannot be used", "video", v.Path, "reason", v.Reason)
		}
	}
	if unusable > named {
		slog.WarnContext(ctx, "more videos cannot be used", "all", unusable, "named", named, "reasons", file)
	}
}

// keptApart refuses to train on impossible videos of the evaluation: surprise at them is what it measures. Possible ones
// that are trained on too are told of, for what is measured then is not what unseen videos would give.
func keptApart(ctx context.Context, all []video.Verdict, held []plausibility.Video) error {
	trained := map[string]bool{}
	for _, v := range all {
		if v.Usable {
			trained[whole(v.Path)] = true
		}
	}
	var both []plausibility.Video
	for _, v := range held {
		if trained[whole(v.Path)] {
			both = append(both, v)
		}
	}
	for _, v := range both {
		if v.Label == 0 {
			return fmt.Errorf("train.eval.pairs: %d of its %d videos are among train.data too, and %s is an impossible one: what surprise is measured on must not be trained on; name videos or a folder without them in train.data",
				len(both), len(held), v.Path)
		}
	}
	if len(both) > 0 {
		slog.WarnContext(ctx, "videos of the evaluation are trained on too: to unseen ones the model may respond otherwise", "videos", len(both), "of", len(held), "first", both[0].Path)
	}
	return nil
}

// whole is the absolute form of a path, links followed; of a URI, itself.
func whole(name string) string {
	if source.IsURI(name) {
		return name
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	return abs
}
