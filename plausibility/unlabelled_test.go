package plausibility

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

func TestUnlabelledNames(t *testing.T) {
	at := func(paths ...string) (items []source.Item) {
		for _, p := range paths {
			items = append(items, source.Item{Path: p, Label: "an index said so"})
		}
		return items
	}
	for _, test := range []struct {
		items  []source.Item
		folder string
		names  []string
	}{
		{at("/data/a.mp4"), "/data", []string{"a.mp4"}},
		{at("/data/a/x.mp4", "/data/b/x.mp4"), "/data", []string{"a/x.mp4", "b/x.mp4"}},
		{at("/data/ab/x.mp4", "/data/a/x.mp4"), "/data", []string{"ab/x.mp4", "a/x.mp4"}},
		{at("/a.mp4", "/data/b.mp4"), "/", []string{"a.mp4", "data/b.mp4"}},
		{append(at("/data/a.mp4"), source.Item{URI: "s3://bucket/b.mp4"}), "/data", []string{"a.mp4", "s3://bucket/b.mp4"}},
		{[]source.Item{{URI: "s3://bucket/b.mp4"}}, "", []string{"s3://bucket/b.mp4"}},
	} {
		videos, folder, err := Unlabelled(test.items)
		if err != nil || folder != test.folder {
			t.Errorf("%v: folder %q, %v; want %q", test.items, folder, err, test.folder)
		}
		for i, v := range videos {
			if v.Label != compare.NoLabel || v.Name != test.names[i] || v.Path != test.items[i].Name() {
				t.Errorf("%v: %+v, want %s without a label", test.items, v, test.names[i])
			}
		}
	}
	if _, _, err := Unlabelled(at("/data/a\xff.mp4")); err == nil || !strings.Contains(err.Error(), `a\xff.mp4`) {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
	if _, _, err := Unlabelled([]source.Item{{Path: "/data/shard.tar", Member: "x.mp4"}}); err == nil || !strings.Contains(err.Error(), "shard.tar/x.mp4: scoring reads no tar shards") {
		t.Errorf("a tar shard: %v", err)
	}
}

// Videos without labels get the scores that they get with labels, whatever is scored beside them; one that cannot be read
// takes no other with it.
func TestScoreWithoutLabels(t *testing.T) {
	v, videos := quadruplets(t, 5) // 20 videos: more than are scored together
	c, _ := testConfig(v, videos)
	labelled, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for i := range videos {
		videos[i].Label, videos[i].Group, videos[i].Property = compare.NoLabel, "", ""
	}
	c, d := testConfig(v, videos)
	c.Maps = &heat.Maps{}
	v.fail[filepath.Base(videos[1].Path)] = &video.FileError{Path: videos[1].Path, Kind: video.Truncated, Reason: "ends early"}
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Videos) != 19 || len(f.Skipped) != 1 || f.Skipped[0].Path != videos[1].Path || f.Skipped[0].Reason != "ends early" || f.Skipped[0].Group != "" {
		t.Fatalf("%d videos, skipped %+v", len(f.Videos), f.Skipped)
	}
	// 19 videos of 4 windows in batches of 3, 15 of them together and then 4.
	if len(d.calls) != 20+6 {
		t.Errorf("batches of %v windows", d.calls)
	}
	for i := range f.Videos {
		of := i
		if i > 0 {
			of++ // the second was skipped
		}
		got, want := f.Sets[0].Scores[i], labelled.Sets[0].Scores[of]
		if got.Contrast != nil || f.Videos[i].Divergence != nil || f.Videos[i].Pair != "" || f.Videos[i].Label != compare.NoLabel {
			t.Errorf("%s has what only videos of groups have: %+v", f.Videos[i].Path, f.Videos[i])
		}
		want.Contrast = nil
		if !reflect.DeepEqual(got, want) || f.Videos[i].SHA256 != labelled.Videos[of].SHA256 {
			t.Errorf("%s: %+v without a label, %+v with one", f.Videos[i].Path, got, want)
		}
	}
	path := filepath.Join(t.TempDir(), "scores.json")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	if back, err := compare.Load(path); err != nil || !reflect.DeepEqual(back.Videos, f.Videos) {
		t.Errorf("read again: %v", err)
	}

	for _, one := range videos {
		v.fail[filepath.Base(one.Path)] = &video.FileError{Path: one.Path, Kind: video.Truncated, Reason: "ends early"}
	}
	if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no video is left of 20; the first video skipped was "+videos[0].Path) {
		t.Errorf("without any: %v", err)
	}
	v.fail[filepath.Base(videos[3].Path)] = errors.New("the disk is gone")
	if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("a fault of the machine: %v", err)
	}
}

func TestScoreRefusesMixedLabels(t *testing.T) {
	v, videos := quadruplets(t, 1)
	videos[0].Label, videos[0].Group, videos[0].Property = compare.NoLabel, "", ""
	c, _ := testConfig(v, videos)
	if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), videos[1].Path) {
		t.Errorf("a label after none: %v", err)
	}
	videos[0], videos[1] = videos[1], videos[0]
	if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), "label") {
		t.Errorf("none after a label: %v", err)
	}
	for i := range videos {
		videos[i].Label, videos[i].Group, videos[i].Property = compare.NoLabel, "", ""
	}
	c.Controls = &Controls{Kinds: []string{Reencode}}
	if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), "controls: they are of possible videos") {
		t.Errorf("controls: %v", err)
	}
}
