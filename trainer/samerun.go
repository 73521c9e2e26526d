package trainer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/video"
)

// trainedIn is the precision that a checkpoint was trained in. One that does not say was
// written when there was only one.
func trainedIn(m checkpoint.Manifest) cpu.Precision {
	return cpu.Precision(cmp.Or(m.Precision, string(cpu.FP32)))
}

// sameRun refuses a checkpoint whose config differs in anything that its weights
// depend on, and names it. Threads, log and checkpoint intervals, and where files may
// be read do not count. A setting that this program does not know counts.
//
// The word for the precision does not count if the checkpoint was trained in the one
// that this run resolved. If it was not, but both asked for auto, the machine is another
// and not the config: that is for the caller to say.
func sameRun(checkpointed json.RawMessage, trained cpu.Precision, cfg Config, resolved cpu.Precision) error {
	var old Config
	dec := json.NewDecoder(bytes.NewReader(checkpointed))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&old); err != nil {
		return fmt.Errorf("config of the checkpoint: %w", err)
	}
	old.Precision = cmp.Or(old.Precision, cpu.FP32)
	switch {
	case trained == resolved:
		old.Precision = cfg.Precision
	case old.Precision != cfg.Precision: // the error tells what auto meant
		old.Precision, cfg.Precision = inFull(old.Precision, trained), inFull(cfg.Precision, resolved)
	}
	for _, c := range []*Config{&old, &cfg} {
		c.Threads, c.LogEvery, c.CheckpointEvery = 0, 0, 0
		c.Data.Roots, c.Data.CacheMiB, c.Data.MaxUnusable = nil, 0, 0
		c.Encoder.From, c.Init.From = "", "" // their digests count
	}
	a, err := flatten(old)
	if err != nil {
		return err
	}
	b, err := flatten(cfg)
	if err != nil {
		return err
	}
	names := sortedKeys(a, b)
	slices.SortStableFunc(names, func(x, y string) int { // what other settings follow from comes first
		return cmp.Compare(rank(x), rank(y))
	})
	for _, name := range names {
		if a[name] != b[name] {
			return fmt.Errorf("it was made with %s %s, this run has %s: train into another folder, or use the same config; init.from begins another run with the weights of this one", name, orNone(a[name]), orNone(b[name]))
		}
	}
	return nil
}

// rank orders settings by what is told first: a model that was named and is not any more changes many others.
func rank(name string) int {
	if strings.HasPrefix(name, "init.") || strings.HasPrefix(name, "encoder.") {
		return 0
	}
	return 1
}

// inFull is a setting of the precision with what it meant.
func inFull(asked, resolved cpu.Precision) cpu.Precision {
	if asked == resolved {
		return asked
	}
	return asked + " (" + resolved + ")"
}

// identify digests what clips are cut from: name, frames, size and rate of every usable
// file, in their order, and what they hold. Their folder is left out, because data may move.
func identify(verdicts []video.Verdict) checkpoint.Dataset {
	var d checkpoint.Dataset
	h, content, known := sha256.New(), sha256.New(), true
	for _, v := range verdicts {
		if v.Usable {
			d.Files++
			fmt.Fprintf(h, "%q %d %d %d %g\n", filepath.Base(v.Path), v.Frames, v.Height, v.Width, v.FPS)
			fmt.Fprintln(content, v.Content)
			known = known && v.Content != ""
		}
	}
	d.SHA256 = hex.EncodeToString(h.Sum(nil))
	if known {
		d.Content = hex.EncodeToString(content.Sum(nil))
	}
	return d
}

// sameVideos refuses a checkpoint that was trained on other videos: a file more or less
// gives every later step other clips.
func sameVideos(old, now checkpoint.Dataset) error {
	if old.Files == now.Files && old.SHA256 == now.SHA256 {
		if old.Content != now.Content && old.Content != "" && now.Content != "" { // checkpoints of before do not know
			return otherVideos("data: the videos have changed: their names and sizes are those that it was trained on, and at least one of the %d usable files holds something else (fingerprint %.12s, now %.12s): put them back as they were, or train into another folder",
				now.Files, old.Content, now.Content)
		}
		return nil
	}
	return otherVideos("data: the videos have changed: it was trained on %d usable files (sha256 of the list %.12s), now there are %d (%.12s): put them back as they were, or train into another folder",
		old.Files, old.SHA256, now.Files, now.SHA256)
}

// otherVideosError is a run that was trained on other videos.
type otherVideosError struct{ text string }

func otherVideos(format string, args ...any) error {
	return &otherVideosError{fmt.Sprintf(format, args...)}
}

func (e *otherVideosError) Error() string { return e.text }

// ofTheHour makes the machine's fault of videos that have changed where one of them cannot be used for what another look may
// not find: it may be all that has changed.
func ofTheHour(err error, verdicts []video.Verdict) error {
	var other *otherVideosError
	i := slices.IndexFunc(verdicts, video.Verdict.OfTheHour)
	if i < 0 || !errors.As(err, &other) {
		return err
	}
	return &video.DecoderError{Err: fmt.Errorf("%w; but of those that cannot be used another look may find otherwise, such as %s: %s", err, verdicts[i].Path, verdicts[i].Reason)}
}

// flatten lists a config's settings by path, such as model.patch, as JSON text.
func flatten(c Config) (map[string]string, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("compare configs: %w", err)
	}
	out := map[string]string{}
	flattenInto(out, "", raw)
	return out, nil
}

func flattenInto(out map[string]string, prefix string, raw json.RawMessage) {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil || object == nil {
		out[prefix] = string(raw)
		return
	}
	for name, value := range object {
		path := name
		if prefix != "" {
			path = prefix + "." + name
		}
		flattenInto(out, path, value)
	}
}

func sortedKeys(a, b map[string]string) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
