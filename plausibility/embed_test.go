package plausibility

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// made is a decoder of made-up videos: frames of noise, as many as the name says.
func made(size int) func(context.Context, string, video.ReadOptions) (*video.Clip, error) {
	return func(_ context.Context, path string, o video.ReadOptions) (*video.Clip, error) {
		frames := map[string]int{"long.mp4": 17, "short.mp4": 3, "other.mp4": 6}[path]
		if frames == 0 {
			return nil, &video.FileError{Path: path, Reason: "unreadable: it is no video"}
		}
		c := &video.Clip{Path: path, Frames: min(frames, o.MaxFrames), Height: size, Width: size, More: frames > o.MaxFrames}
		state := uint32(len(path))
		for f := range c.Frames {
			c.Times = append(c.Times, float64(f)/8)
			for range size * size * 3 {
				state = state*1664525 + 1013904223
				c.Pix = append(c.Pix, byte(state>>24))
			}
		}
		return c, nil
	}
}

// An embedding is what the encoder gives for each clip by itself, whatever the batch, and the file says how it was made.
func TestEmbedFiles(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		m := smallModel(objective)
		m.Record.SHA256 = "abc"
		c := m.Config
		out := filepath.Join(t.TempDir(), "e.safetensors")
		o := EmbedOptions{Pool: PoolNone, Stride: 4, Batch: 2, Machine: cpu.Options{Threads: 2}, Read: made(c.Size)}
		paths := []string{"long.mp4", "no.mp4", "short.mp4", "long.mp4", "other.mp4"}
		embedded, err := m.EmbedFiles(t.Context(), out, paths, o)
		if err != nil {
			t.Fatal(err)
		}
		want := []Embedded{{Path: "long.mp4", Clips: 3, Starts: []float64{0, 0.5, 1}}, {Path: "no.mp4", Reason: "unreadable: it is no video"},
			{Path: "short.mp4", Reason: "3 frames after sampling, a clip has 6"}, {Path: "other.mp4", Clips: 1, Starts: []float64{0}}}
		if a, b := asText(t, embedded), asText(t, want); a != b {
			t.Errorf("%s: embedded %s, want %s", objective, a, b)
		}
		tensors, metadata, err := checkpoint.ReadSafetensors(out)
		if err != nil {
			t.Fatal(err)
		}
		if len(tensors) != 2 || !slices.Equal(tensors[0].Shape, []int{3, c.Tokens(), c.Dim}) {
			t.Fatalf("%s: tensors %v", objective, tensors)
		}
		for key, want := range map[string]string{"surmise.model": `"sha256":"abc"`, "surmise.preprocessing": `"encoder":"target_encoder"`, "surmise.videos": `"short.mp4"`} {
			if !strings.Contains(metadata[key], want) {
				t.Errorf("%s: metadata %s is %s, without %s", objective, key, metadata[key], want)
			}
		}
		short := o
		short.MaxFrames = 9
		if embedded, err = m.EmbedFiles(t.Context(), out, []string{"long.mp4", "other.mp4"}, short); err != nil {
			t.Fatal(err)
		}
		if embedded[0].Clips != 1 || !strings.Contains(embedded[0].Reason, "of its first 9 frames") || embedded[1].Reason != "" {
			t.Errorf("%s: of videos longer than 9 frames and not: %+v", objective, embedded)
		}
		if _, err := m.EmbedFiles(t.Context(), out, paths, o); err != nil {
			t.Fatal(err)
		}
		// One clip by itself.
		clip, _ := made(c.Size)(t.Context(), "long.mp4", video.ReadOptions{MaxFrames: 100})
		pixels := make([]float32, c.ClipValues())
		video.Normalize(pixels, clip, 4, c.Frames)
		alone, err := m.Embedder(model.TargetPrefix, 1, cpu.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer alone.Close()
		tokens, err := alone.Embed(pixels, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := tensors[0].Data[c.Tokens()*c.Dim:][:c.Tokens()*c.Dim]; !slices.Equal(got, tokens) {
			t.Errorf("%s: the second clip in a batch is another than alone", objective)
		}
		// The mean of the tokens.
		o.Pool = PoolMean
		if _, err := m.EmbedFiles(t.Context(), out, paths, o); err != nil {
			t.Fatal(err)
		}
		pooled, _, err := checkpoint.ReadSafetensors(out)
		if err != nil {
			t.Fatal(err)
		}
		for j := range c.Dim {
			var mean float64
			for i := range c.Tokens() {
				mean += float64(tokens[i*c.Dim+j]) / float64(c.Tokens())
			}
			if got := pooled[0].Data[c.Dim+j]; math.Abs(float64(got)-mean) > 1e-6 {
				t.Errorf("%s: pooled feature %d is %g, want %g", objective, j, got, mean)
			}
		}
	}
}

// A video whose clips have no place in the header is left out, and those after it that have one are not.
func TestEmbedFillsItsHeader(t *testing.T) {
	m := smallModel(model.Masked)
	encoder, err := m.Embedder(model.TargetPrefix, 1, cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	size, err := headerBytes(Embedded{Path: "other.mp4", Starts: []float64{0}})
	if err != nil {
		t.Fatal(err)
	}
	o := EmbedOptions{Encoder: model.TargetPrefix, Pool: PoolMean, Stride: 4, FrameStep: 1, MaxFrames: 100, Read: made(m.Config.Size)}
	r := embedRun{m: m, o: o, encoder: encoder, batch: 1, spool: spool, room: size}
	for _, path := range []string{"long.mp4", "other.mp4"} {
		if err := r.video(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.tensors) != 1 || r.done[1].Reason != "" || !strings.Contains(r.done[0].Reason, "no more room") || r.done[0].Starts != nil {
		t.Errorf("%d tensors, %s", len(r.tensors), asText(t, r.done))
	}
}

func asText(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEmbedRefuses(t *testing.T) {
	m := smallModel(model.Masked)
	broken := errors.New("the decoder cannot be started")
	pixels := smallModel(model.Masked)
	pixels.Config.Target = model.Pixels
	wide := smallModel(model.Masked)
	wide.Config.Height, wide.Config.Width = 16, 32
	for want, c := range map[string]struct {
		m     *Model
		o     EmbedOptions
		paths []string
	}{
		"none of 2 videos":         {m, EmbedOptions{}, []string{"no.mp4", "short.mp4"}},
		"pool is \"max\"":          {m, EmbedOptions{Pool: "max"}, []string{"long.mp4"}},
		"stride is -1":             {m, EmbedOptions{Stride: -1}, []string{"long.mp4"}},
		"max_frames is 5":          {m, EmbedOptions{MaxFrames: 5}, []string{"long.mp4"}},
		"network \"predictor.\"":   {m, EmbedOptions{Encoder: model.PredictorPrefix}, []string{"long.mp4"}},
		"has no target encoder":    {pixels, EmbedOptions{}, []string{"long.mp4"}},
		"16×32 px":                 {wide, EmbedOptions{}, []string{"long.mp4"}},
		"the decoder cannot be st": {m, EmbedOptions{Read: func(context.Context, string, video.ReadOptions) (*video.Clip, error) { return nil, broken }}, []string{"long.mp4"}},
		"longer than 512 bytes":    {m, EmbedOptions{}, []string{strings.Repeat("x", 513)}},
	} {
		dir := t.TempDir()
		if c.o.Read == nil {
			c.o.Read = made(m.Config.Size)
		}
		if _, err := c.m.EmbedFiles(t.Context(), filepath.Join(dir, "e.safetensors"), c.paths, c.o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v is left behind (%v)", want, entries, err)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := m.EmbedFiles(stopped, filepath.Join(t.TempDir(), "e"), []string{"long.mp4"}, EmbedOptions{Read: made(m.Config.Size)}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run: %v", err)
	}
}
