package plausibility

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/video"
)

// Embedder is one of a model's encoders on a machine.
type Embedder struct {
	embedding *model.Embedding
	machine   machine
	batch     int
}

// Embedder builds one encoder, model.EncoderPrefix or model.TargetPrefix, for batches of clips. It must be closed.
func (m *Model) Embedder(prefix string, batch int, o cpu.Options) (*Embedder, error) {
	embedding, err := model.NewEmbedding(m.Config, batch, prefix)
	if err != nil {
		return nil, err
	}
	if o.Precision, err = m.resolve(o.Precision); err != nil {
		return nil, err
	}
	machine, err := m.compile(embedding.Graph, o)
	if err != nil {
		return nil, fmt.Errorf("encoder for batches of %d clips: %w", batch, err)
	}
	embedding.Pack(machine)
	return &Embedder{embedding, machine, batch}, nil
}

// Embed returns the tokens of n clips, [n,N,D], for clips [n,3,frames,size,size], normalised. n is at most the batch.
// The result is the embedder's until the next call.
func (e *Embedder) Embed(clips []float32, n int) ([]float32, error) {
	c := e.embedding.Config
	if n < 1 || n > e.batch || len(clips) != n*c.ClipValues() {
		return nil, fmt.Errorf("embed: %d values for %d clips of %d, want 1 to %d clips", len(clips), n, c.ClipValues(), e.batch)
	}
	copy(e.machine.Floats(e.embedding.Clip), clips)
	if err := e.machine.SetClips(n); err != nil {
		return nil, err
	}
	if err := e.machine.Run(); err != nil {
		return nil, fmt.Errorf("embed: %w", err)
	}
	return e.machine.Floats(e.embedding.Tokens)[:n*c.Tokens()*c.Dim], nil
}

// Close frees the machine.
func (e *Embedder) Close() error { return e.machine.Close() }

// How the tokens of a clip become its embedding.
const (
	PoolMean = "mean" // their mean: one vector for each clip, [clips,D]
	PoolNone = "none" // all of them, in the order of the token grid: [clips,N,D]
)

// EmbedOptions says what is embedded of each video, and how.
type EmbedOptions struct {
	Encoder   string  // model.EncoderPrefix or model.TargetPrefix; default model.TargetPrefix
	Pool      string  // PoolMean or PoolNone; default PoolMean
	Stride    int     // frames between the starts of clips; default the frames of a clip, so that none is in two
	FrameStep int     // every FrameStep-th frame; not with FPS; default that of the model's training
	FPS       float64 // frames per second, in place of FrameStep
	MaxFrames int     // of a video, after sampling; what follows is left out; default 1024
	Batch     int     // clips at a time; default 1 for each thread
	Machine   cpu.Options

	Read     func(ctx context.Context, path string, o video.ReadOptions) (*video.Clip, error)
	Progress func(done, total int) // may be nil
}

// The header of a file names every video and tells where its clips start: 16 MiB at most, and a name has up to 512 bytes.
const (
	maxEmbedded  = 20_000
	maxNameBytes = 512
	headerRoom   = 12 << 20 // for the videos that are embedded; the rest is for the reasons of those that are not
)

// Embedded is what EmbedFiles did with one file.
type Embedded struct {
	Path   string    `json:"path"`
	Clips  int       `json:"clips"`
	Starts []float64 `json:"starts,omitempty"` // seconds, of each clip
	Reason string    `json:"reason,omitempty"` // why there is no embedding, or, with clips, only of a part
}

// EmbedFiles writes the embeddings of videos to a safetensors file: a tensor for each, under its path. The file's metadata
// says with what model and how: surmise.model, surmise.preprocessing and surmise.videos, all JSON. A video that cannot
// be used, or is shorter than a clip, is left out and says why, as does one that is longer than MaxFrames; none at all is an error.
//
// Memory holds one video's frames and a batch of clips. Embeddings wait for the header in a file beside out.
func (m *Model) EmbedFiles(ctx context.Context, out string, paths []string, o EmbedOptions) (_ []Embedded, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("embed videos: %w", err)
		}
	}()
	o.Encoder, o.Pool = cmp.Or(o.Encoder, model.TargetPrefix), cmp.Or(o.Pool, PoolMean)
	o.Stride, o.MaxFrames = cmp.Or(o.Stride, m.Config.Frames), cmp.Or(o.MaxFrames, defaultMaxFrames)
	rate := Rate{o.FrameStep, o.FPS}.Or(m.Rate).Or(EveryFrame)
	o.FrameStep, o.FPS = rate.FrameStep, rate.FPS
	switch height, width := m.Config.Frame(); {
	case o.Pool != PoolMean && o.Pool != PoolNone:
		return nil, fmt.Errorf("pool is %q, want %s or %s", o.Pool, PoolMean, PoolNone)
	case o.Stride < 1:
		return nil, fmt.Errorf("stride is %d frames, want 1 or more", o.Stride)
	case o.MaxFrames < m.Config.Frames:
		return nil, fmt.Errorf("max_frames is %d, below the %d of a clip", o.MaxFrames, m.Config.Frames)
	case len(paths) > maxEmbedded:
		return nil, fmt.Errorf("%d videos, at most %d go into one file", len(paths), maxEmbedded)
	case height != width:
		return nil, fmt.Errorf("the model takes frames of %d×%d px; videos are read as squares", height, width)
	}
	batch := max(1, cmp.Or(o.Batch, o.Machine.Threads))
	encoder, err := m.Embedder(o.Encoder, batch, o.Machine)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, encoder.Close()) }()
	spool, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".values-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, spool.Close(), os.Remove(spool.Name())) }()
	r := embedRun{m: m, o: o, encoder: encoder, batch: batch, spool: spool, room: headerRoom}
	named := map[string]bool{}
	for i, path := range paths {
		switch {
		case named[path]:
			continue
		case len(path) > maxNameBytes || !utf8.ValidString(path):
			r.done = append(r.done, Embedded{Path: strings.ToValidUTF8(path, "?"), Reason: fmt.Sprintf("its path is no UTF-8, or longer than %d bytes", maxNameBytes)})
			continue
		}
		named[path] = true
		if err := r.video(ctx, path); err != nil {
			return nil, err
		}
		if o.Progress != nil {
			o.Progress(i+1, len(paths))
		}
	}
	if len(r.tensors) == 0 {
		return r.done, fmt.Errorf("none of %d videos could be used; the first, %s: %s", len(paths), r.done[0].Path, r.done[0].Reason)
	}
	metadata, err := r.metadata()
	if err != nil {
		return nil, err
	}
	_, err = checkpoint.WriteSources(out, r.tensors, metadata)
	return r.done, err
}

// embedRun is one EmbedFiles at work.
type embedRun struct {
	m       *Model
	o       EmbedOptions
	encoder *Embedder
	batch   int
	spool   *os.File
	values  int64 // in the spool
	room    int   // bytes of the header that are left for videos
	tensors []checkpoint.Source
	done    []Embedded
}

// video embeds one file, clip by clip, into the spool.
func (r *embedRun) video(ctx context.Context, path string) error {
	c := r.m.Config
	clip, err := r.o.Read(ctx, path, video.ReadOptions{Size: c.Size, FrameStep: r.o.FrameStep, FPS: r.o.FPS, MaxFrames: r.o.MaxFrames})
	if err == nil {
		err = clip.CheckRate(r.o.FPS)
	}
	var unusable *video.FileError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &unusable):
		r.done = append(r.done, Embedded{Path: path, Reason: unusable.Reason})
		return nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", path, err)
	case clip.Frames < c.Frames:
		r.done = append(r.done, Embedded{Path: path, Reason: fmt.Sprintf("%d frames after sampling, a clip has %d", clip.Frames, c.Frames)})
		return nil
	case clip.Height != c.Size || clip.Width != c.Size:
		return fmt.Errorf("reading %s: decoder returned frames of %d×%d px, want %d", path, clip.Width, clip.Height, c.Size)
	}
	result := Embedded{Path: path}
	if clip.More {
		result.Reason = fmt.Sprintf("of its first %d frames after sampling alone, the most that are read", clip.Frames)
	}
	starts := WindowStarts(clip.Frames, c.Frames, r.o.Stride)
	for _, from := range starts {
		result.Starts = append(result.Starts, clip.Times[from])
	}
	size, err := headerBytes(result)
	if err != nil {
		return fmt.Errorf("video %s: %w", path, err)
	}
	if size > r.room {
		r.done = append(r.done, Embedded{Path: path, Reason: "the header of this file has no more room for the starts of its clips: embed it into another"})
		return nil
	}
	r.room -= size
	begin, length := r.values, c.ClipValues()
	clips := make([]float32, min(r.batch, len(starts))*length)
	for first := 0; first < len(starts); first += r.batch {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := starts[first:min(len(starts), first+r.batch)]
		for i, from := range part {
			video.Normalize(clips[i*length:(i+1)*length], clip, from, c.Frames)
		}
		tokens, err := r.encoder.Embed(clips[:len(part)*length], len(part))
		if err != nil {
			return fmt.Errorf("video %s: %w", path, err)
		}
		if r.o.Pool == PoolMean {
			tokens = meanOfTokens(tokens, c.Tokens(), c.Dim)
		}
		if err := r.keep(tokens); err != nil {
			return err
		}
	}
	result.Clips = len(starts)
	shape := []int{len(starts), c.Dim}
	if r.o.Pool == PoolNone {
		shape = []int{len(starts), c.Tokens(), c.Dim}
	}
	r.done = append(r.done, result)
	r.tensors = append(r.tensors, checkpoint.Source{Name: path, Shape: shape, Read: func(dst []float32) error { return r.recall(dst, begin) }})
	return nil
}

// headerBytes is what a video takes of a file's header, at most: its entry of surmise.videos, every quote of which is escaped
// there, and its tensor's.
func headerBytes(e Embedded) (int, error) {
	entry, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	const tensor = 200 // shape, offsets, field names
	return len(strconv.Quote(string(entry))) + len(strconv.Quote(e.Path)) + tensor, nil
}

// meanOfTokens averages the n tokens of each clip: [clips,n,d] -> [clips,d].
func meanOfTokens(tokens []float32, n, d int) []float32 {
	out := make([]float32, 0, len(tokens)/n)
	sum := make([]float64, d)
	for at := 0; at < len(tokens); at += n * d {
		clear(sum)
		for i, x := range tokens[at : at+n*d] {
			sum[i%d] += float64(x)
		}
		for _, x := range sum {
			out = append(out, float32(x/float64(n)))
		}
	}
	return out
}

// keep appends values to the spool, and recall reads them again: [4 bytes each], in this machine's order.
func (r *embedRun) keep(values []float32) error {
	n, err := r.spool.Write(checkpoint.Bytes(values))
	r.values += int64(n / 4)
	return err
}

func (r *embedRun) recall(dst []float32, begin int64) error {
	_, err := io.ReadFull(io.NewSectionReader(r.spool, 4*begin, 4*int64(len(dst))), checkpoint.Bytes(dst))
	return err
}

func (r *embedRun) metadata() (map[string]string, error) {
	c := r.m.Config
	out := map[string]string{}
	for key, v := range map[string]any{
		"surmise.model": map[string]any{"name": r.m.Record.Name, "sha256": r.m.Record.SHA256, "step": r.m.Record.Step, "config": r.m.Record.Config},
		"surmise.preprocessing": map[string]any{"encoder": r.o.Encoder[:len(r.o.Encoder)-1], "pool": r.o.Pool, "frames": c.Frames, "size": c.Size, "stride": r.o.Stride,
			"frame_step": r.o.FrameStep, "fps": r.o.FPS, "crop": "largest centred square", "normalised": "ImageNet mean and standard deviation",
			"decoder": video.Decoder(), "precision": cmp.Or(r.o.Machine.Precision, cpu.FP32)},
		"surmise.videos": r.done,
	} {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("metadata %s: %w", strconv.Quote(key), err)
		}
		out[key] = string(text)
	}
	return out, nil
}
