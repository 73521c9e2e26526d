package compare

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestFileRoundTrip(t *testing.T) {
	f := madeUp(1, 3, 1, "colour_visible")
	path := filepath.Join(t.TempDir(), "scores.json")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f, got) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, f)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("folder holds %d files after saving, want the score file alone", len(entries))
	}
}

// A file that cannot be saved leaves the old one whole.
func TestSaveKeepsOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scores.json")
	f := madeUp(1, 2, 1, "p")
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	f.Sets[0].Scores[1].Surprise[1][2] = math.NaN()
	err := f.Save(path)
	if err == nil || !strings.Contains(err.Error(), "000-0-0.mp4") || !strings.Contains(err.Error(), "surprise[1][2]: NaN") {
		t.Fatalf("saving NaN: %v, want an error naming video, context and window", err)
	}
	if _, err := Load(path); err != nil {
		t.Errorf("the old file is gone: %v", err)
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("a temporary file stayed behind: %v", entries)
	}
}

func TestValidateNamesTheFault(t *testing.T) {
	cases := []struct {
		want  string
		spoil func(*File)
	}{
		{"spec.window: 0", func(f *File) { f.Spec.Window = 0 }},
		{"spec.window: 65537", func(f *File) { f.Spec.Window = 1<<16 + 1 }},
		{"spec.contexts[1]: 8", func(f *File) { f.Spec.Contexts[1] = 8 }},
		{"spec.contexts[1]: 2 after 2", func(f *File) { f.Spec.Contexts[1] = 2 }},
		{"spec.fps", func(f *File) { f.Spec.FPS, f.Spec.FrameStep = math.Inf(1), 0 }},
		{"label: 2", func(f *File) { f.Videos[0].Label = 2 }},
		{`group "0": has no impossible video`, func(f *File) { f.Videos[1].Label, f.Videos[3].Label = 1, 1 }},
		{`group "lonely": has one video`, func(f *File) { f.Videos[0].Group = "lonely" }},
		{`property "other"`, func(f *File) { f.Videos[1].Property = "other" }},
		{"window_start_s: 0 windows", func(f *File) { f.Videos[2].WindowStart = nil }},
		{"times: NaN", func(f *File) { f.Videos[2].WindowStart[1] = math.NaN() }},
		{"surprise: 1 contexts", func(f *File) { f.Sets[0].Scores[0].Surprise = f.Sets[0].Scores[0].Surprise[:1] }},
		{"surprise[0]: 2 windows", func(f *File) { f.Sets[0].Scores[0].Surprise[0] = f.Sets[0].Scores[0].Surprise[0][:2] }},
		{"peak[0][1]: -1", func(f *File) { f.Sets[1].Scores[2].Peak[0][1] = -1 }},
		{"curve: 1 values", func(f *File) { f.Sets[0].Scores[0].Curve = f.Sets[0].Scores[0].Curve[:1] }},
		{"scores: 7 of them for 8", func(f *File) { f.Sets[0].Scores = f.Sets[0].Scores[:7] }},
		{`"model" appears twice`, func(f *File) { f.Sets[1].Name = ModelSet }},
		{`no set named "model"`, func(f *File) { f.Sets = f.Sets[1:] }},
		{"has 2001 videos, at most 2000", func(f *File) {
			for len(f.Videos) < 4002 {
				f.Videos = append(f.Videos, f.Videos[0])
			}
			for i := range f.Videos {
				f.Videos[i].Group, f.Videos[i].Property = strconv.Itoa(i/2001), f.Videos[0].Property
			}
		}},
		{`precision: "fp16"`, func(f *File) { f.Precision = "fp16" }},
		{"videos: none", func(f *File) { f.Videos = nil }},
	}
	for _, c := range cases {
		f := madeUp(1, 2, 1, "p")
		c.spoil(f)
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	var good bytes.Buffer
	if err := madeUp(1, 2, 1, "p").Encode(&good); err != nil {
		t.Fatal(err)
	}
	text := good.String()
	cases := map[string]struct{ text, want string }{
		"other version":  {strings.Replace(text, `"version": 2`, `"version": 7`, 1), "it is version 7, this program reads version 1 to 2"},
		"no version":     {`{"videos": []}`, "no version field"},
		"unknown field":  {strings.Replace(text, `"version": 2`, `"version": 2, "colour": 3`, 1), "colour"},
		"trailing data":  {text + "{}", "not JSON"},
		"truncated":      {text[:len(text)/2], "not JSON"},
		"no JSON":        {"\x00\x01", "not JSON"},
		"huge number":    {strings.Replace(text, `"size_px": 64`, `"size_px": 1e999`, 1), "size_px"},
		"array":          {`[1]`, "not JSON"},
		"null":           {`null`, "no version field"},
		"empty document": {``, "not JSON"},
	}
	for name, c := range cases {
		if _, err := Decode(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := Decode(strings.NewReader(cases["other version"].text)); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v, want ErrVersion", err)
	}
}

// A null is no number: zero would be the least surprise there is.
func TestDecodeRefusesNull(t *testing.T) {
	f := madeUp(1, 2, 1, "p")
	f.Sets[0].Model.Config = []byte(`{"encoder":null}`)
	var good bytes.Buffer
	if err := f.Encode(&good); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(bytes.NewReader(good.Bytes())); err != nil {
		t.Fatalf("a null in a configuration: %v", err)
	}
	for want, change := range map[string]func(file map[string]any){
		"sets[0].scores[1].surprise[1][2] (video 000-0-0.mp4): null": func(f map[string]any) { scoresOf(f, 0, 1)["surprise"].([]any)[1].([]any)[2] = nil },
		"sets[1].scores[7].peak[0][0] (video 001-1-0.mp4): null":     func(f map[string]any) { scoresOf(f, 1, 7)["peak"].([]any)[0].([]any)[0] = nil },
		"sets[0].scores[2].curve[1] (video 000-1-1.mp4): null":       func(f map[string]any) { scoresOf(f, 0, 2)["curve"].([]any)[1] = nil },
		"sets[0].scores[2].surprise (video 000-1-1.mp4): null":       func(f map[string]any) { scoresOf(f, 0, 2)["surprise"] = nil },
		"sets[0].scores[3] (video 000-1-0.mp4): null":                func(f map[string]any) { f["sets"].([]any)[0].(map[string]any)["scores"].([]any)[3] = nil },
		"videos[0].label (video 000-0-1.mp4): null":                  func(f map[string]any) { f["videos"].([]any)[0].(map[string]any)["label"] = nil },
		"videos[4].window_start_s[0] (video 001-0-1.mp4): null":      func(f map[string]any) { f["videos"].([]any)[4].(map[string]any)["window_start_s"].([]any)[0] = nil },
		"spec.window: null": func(f map[string]any) { f["spec"].(map[string]any)["window"] = nil },
	} {
		var file map[string]any
		if err := json.Unmarshal(good.Bytes(), &file); err != nil {
			t.Fatal(err)
		}
		change(file)
		text, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func scoresOf(file map[string]any, set, video int) map[string]any {
	return file["sets"].([]any)[set].(map[string]any)["scores"].([]any)[video].(map[string]any)
}

// The digest of the data is of what the file lists.
func TestDataDigestIsChecked(t *testing.T) {
	for _, spoil := range []func(*File){
		func(f *File) { f.Data = "" },
		func(f *File) { f.Data = strings.Repeat("0", 64) },
		func(f *File) { f.Videos[3].SHA256 = "other" },
		func(f *File) { f.Videos[1].Pair, f.Videos[3].Pair = f.Videos[3].Pair, f.Videos[1].Pair },
		func(f *File) { f.Videos[0].Label, f.Videos[1].Label = 0, 1 },
	} {
		f := madeUp(1, 2, 1, "p")
		spoil(f)
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "data_sha256") {
			t.Errorf("got %v, want an error with data_sha256", err)
		}
	}
}

// Files as earlier versions wrote them are read.
func TestOldFilesLoad(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) < 2 {
		t.Fatalf("%v, %v", paths, err)
	}
	for _, path := range paths {
		f, err := Load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := Summarize(f, Options{Resamples: 100}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A file from before protocols, crops and datasets is read as what it is.
func TestDecodeReadsVersion1(t *testing.T) {
	f := madeUp(1, 2, 1, "p")
	f.Version = 1
	var text bytes.Buffer
	if err := f.Encode(&text); err != nil {
		t.Fatal(err)
	}
	old, err := Decode(&text)
	if err != nil {
		t.Fatal(err)
	}
	if err := Like(old, madeUp(1, 2, 1, "p")); err != nil {
		t.Errorf("the same scores under version 1 and 2 are unlike: %v", err)
	}
}

func TestDefaultSpec(t *testing.T) {
	for window, want := range map[int][]int{16: {2, 4, 6, 8, 10}, 32: {4, 8, 12, 16, 20}, 8: {2, 4, 6}, 4: {2}} {
		s := DefaultSpec(window, 2, false)
		if !reflect.DeepEqual(s.Contexts, want) || s.Stride != 2 || s.TopTokens != 0 {
			t.Errorf("window %d: %+v, want contexts %v", window, s, want)
		}
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
	}
	if s := DefaultSpec(16, 2, true); len(s.Contexts) != 0 || s.TopTokens != NextTubeletTopTokens || DefaultAggregation(s).Name != "peak" {
		t.Errorf("next tubelet: %+v", s)
	}
}

func FuzzDecode(f *testing.F) {
	var good bytes.Buffer
	if err := madeUp(1, 2, 1, "p").Encode(&good); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	var unlabelled bytes.Buffer
	if err := without([]float64{1, 2, 3}, 3, 2, 1).Encode(&unlabelled); err != nil {
		f.Fatal(err)
	}
	f.Add(unlabelled.Bytes())
	f.Add([]byte(`{"version":1,"spec":{"window":2},"videos":[{}],"sets":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		// What Decode lets through must be safe to compute with.
		if file.Unlabelled() {
			listing, err := List(file, nil, Options{})
			if err != nil {
				t.Fatalf("a valid file cannot be listed: %v", err)
			}
			if _, err := List(file, file, Options{}); err != nil && !errors.Is(err, ErrUnlike) {
				t.Errorf("a valid file cannot be judged by itself: %v", err)
			}
			if err := listing.WriteText(io.Discard, 0); err != nil {
				t.Error(err)
			}
			return
		}
		if _, err := Summarize(file, Options{Resamples: 100}); err != nil && !strings.Contains(err.Error(), "no pair") {
			t.Errorf("a valid file cannot be summarized: %v", err)
		}
	})
}
