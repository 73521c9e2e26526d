package plausibility

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/surmise-ml/surmise/internal/osfault"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video"
)

// decodedVideo is a video's frames, or why there are none.
type decodedVideo struct {
	clip   *video.Clip
	sha256 string
	first  int    // frame of the file that the clip begins with
	exact  bool   // frames were stored without loss, so equal ones are equal to the last bit
	skip   string // reason
}

// readAll decodes the videos in order.
func readAll(ctx context.Context, c *Config, groups [][]Video, out chan<- decodedVideo) error {
	for _, g := range groups {
		begins, err := starts(ctx, c, g)
		if err != nil {
			return err
		}
		for i, v := range g {
			d := begins[i]
			if d.skip == "" {
				if d, err = read(ctx, c, v.Path, d.first); err != nil {
					return fmt.Errorf("reading %s: %w", v.Path, err)
				}
			}
			select {
			case out <- d:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// starts tells for each video of a group which frame it begins with, or why it cannot be used.
func starts(ctx context.Context, c *Config, videos []Video) ([]decodedVideo, error) {
	out := make([]decodedVideo, len(videos))
	left := make([]int, len(videos)) // frames from First on
	shortest := map[string]int{}     // by pair
	for i, v := range videos {
		out[i].first = v.First
		if !v.EqualLength {
			continue
		}
		frames, err := c.Count(ctx, v.Path)
		var unusable *video.FileError
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &unusable):
			out[i].skip = unusable.Reason
			continue
		case err != nil:
			return nil, fmt.Errorf("counting the frames of %s: %w", v.Path, err)
		}
		left[i] = frames - v.First
		if n, ok := shortest[v.Pair]; !ok || left[i] < n {
			shortest[v.Pair] = left[i]
		}
	}
	for i, v := range videos {
		if v.EqualLength && out[i].skip == "" {
			out[i].first += left[i] - shortest[v.Pair]
		}
	}
	return out, nil
}

func read(ctx context.Context, c *Config, path string, first int) (decodedVideo, error) {
	var unusable *video.FileError
	path, release, err := c.Local(ctx, path)
	switch {
	case ctx.Err() != nil:
		return decodedVideo{}, context.Cause(ctx)
	case errors.As(err, &unusable):
		return decodedVideo{skip: unusable.Reason}, nil
	case err != nil:
		return decodedVideo{}, err
	}
	defer release()
	digest, exact, err := contentSHA256(ctx, path)
	switch {
	case ctx.Err() != nil:
		return decodedVideo{}, context.Cause(ctx)
	case osfault.OfMachine(err): // a mount that is gone, say: no reason to leave out what lies there
		return decodedVideo{}, fmt.Errorf("reading %s: %w", path, err)
	case err != nil:
		return decodedVideo{skip: err.Error()}, nil
	}
	options := video.ReadOptions{Size: c.Size, FrameStep: c.Spec.FrameStep, FPS: c.Spec.FPS, MaxFrames: c.MaxFrames,
		First: first, Whole: c.Spec.Crop == compare.CropWhole}
	if c.Spec.MaxFrames > 0 {
		options.MaxFrames = c.Spec.MaxFrames
	}
	clip, err := c.Read(ctx, path, options)
	if err == nil {
		err = clip.CheckRate(options.FPS)
	}
	switch {
	case ctx.Err() != nil:
		return decodedVideo{}, context.Cause(ctx)
	case errors.As(err, &unusable):
		return decodedVideo{skip: unusable.Reason}, nil
	case err != nil:
		return decodedVideo{}, err
	case clip.More && c.Spec.MaxFrames == 0:
		return decodedVideo{skip: fmt.Sprintf("longer than %d frames after sampling: max_frames takes more, a smaller fps or a larger frame_step fewer", c.MaxFrames)}, nil
	case clip.Frames < c.Spec.Window:
		return decodedVideo{skip: fmt.Sprintf("%d frames after sampling, a window has %d", clip.Frames, c.Spec.Window)}, nil
	case clip.Height != c.Size || clip.Width != c.Size || len(clip.Times) != clip.Frames || len(clip.Pix) != clip.Frames*c.Size*c.Size*3:
		return decodedVideo{}, fmt.Errorf("decoder returned %d frames of %d×%d, %d bytes and %d times; want %d×%d", clip.Frames, clip.Height, clip.Width, len(clip.Pix), len(clip.Times), c.Size, c.Size)
	}
	return decodedVideo{clip: clip, sha256: digest, first: first, exact: exact}, nil
}

// contentSHA256 is the digest of a file's bytes; of a folder of frames, that of their
// digests in order, and folder is true.
func contentSHA256(ctx context.Context, path string) (digest string, folder bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", false, err
	}
	h := sha256.New()
	if info.IsDir() {
		names, err := video.FrameFiles(path)
		if err != nil {
			return "", true, err
		}
		for _, name := range names {
			one := sha256.New()
			if err := hashFile(ctx, one, filepath.Join(path, name)); err != nil {
				return "", true, err
			}
			h.Write(one.Sum(nil))
		}
		return hex.EncodeToString(h.Sum(nil)), true, nil
	}
	if !info.Mode().IsRegular() {
		return "", false, fmt.Errorf("%s is not a regular file", path) // opening a pipe would wait for ever
	}
	if err := hashFile(ctx, h, path); err != nil {
		return "", false, err
	}
	return hex.EncodeToString(h.Sum(nil)), false, nil
}

func hashFile(ctx context.Context, h hash.Hash, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, untilDone{ctx, f})
	return err
}

// untilDone reads until its context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
