package plausibility

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video"
)

// Kinds of control: what is done to a possible video to make the other one of a pair in
// which nothing impossible happens. A model that tells such pairs apart reacts to
// something else than plausibility; for the last, to the arrow of time.
const (
	Reencode     = "re-encode"     // every frame through JPEG and back
	Recolour     = "recolour"      // red, green and blue change places
	TimeReversal = "time reversal" // the last frame first
)

// ControlKinds lists them.
func ControlKinds() []string { return []string{Reencode, Recolour, TimeReversal} }

// Controls scores possible videos against altered copies of themselves.
type Controls struct {
	Kinds []string // of ControlKinds

	// File is a score file of its own, filled in by Score: a property for each kind, a group
	// for each group of the scored videos, in which label 1 is the video as it is and
	// label 0 its altered copy. Chance is 50 % where the alteration does not matter.
	File *compare.File

	pending []controlPair
}

// controlPair is a possible video and its altered copy.
type controlPair struct {
	kind            string
	original, other compare.Video
	scores          [2][]compare.Scores // of original and other, per set
}

// controlled is a possible video after one kind of alteration.
type controlled struct {
	kind   string
	video  compare.Video
	scores []compare.Scores
}

func (c *Controls) validate() error {
	if c == nil {
		return nil
	}
	if len(c.Kinds) == 0 {
		return errors.New("controls: none named")
	}
	for i, k := range c.Kinds {
		if !slices.Contains(ControlKinds(), k) || slices.Contains(c.Kinds[:i], k) {
			return fmt.Errorf("controls[%d]: %q, want each of %s at most once", i, k, strings.Join(ControlKinds(), ", "))
		}
	}
	return nil
}

// controls has the altered copies of a possible video scored.
func (s *scorer) controls(ctx context.Context, one *videoScores, d decodedVideo) error {
	if s.c.Controls == nil {
		return nil
	}
	for _, kind := range s.c.Controls.Kinds {
		clip, err := alter(d.clip, kind)
		if err != nil {
			return fmt.Errorf("video %s: %s: %w", one.path, kind, err)
		}
		v := one.out.video
		altered, err := s.begin(ctx, Video{Path: one.path + " (" + kind + ")", Name: v.Path, Label: v.Label, Group: v.Group, Property: v.Property, Pair: v.Pair},
			decodedVideo{clip: clip, sha256: d.sha256, first: d.first})
		if err != nil {
			return err
		}
		one.controls = append(one.controls, alteredScores{kind, altered})
	}
	return nil
}

// add takes over the controls of a group that was scored whole.
func (c *Controls) add(group []scoredVideo) {
	if c == nil {
		return
	}
	for _, one := range group {
		for _, x := range one.controls {
			p := controlPair{kind: x.kind, original: one.video, other: x.video, scores: [2][]compare.Scores{one.scores, x.scores}}
			for _, v := range []*compare.Video{&p.original, &p.other} {
				v.Group, v.Property, v.Pair, v.Divergence = one.video.Group+" "+x.kind, x.kind, one.video.SHA256, nil
			}
			p.other.Label = 0
			p.other.Path += " (" + x.kind + ")"
			p.other.SHA256 += " " + x.kind
			p.scores[0] = slices.Clone(p.scores[0])
			for k := range p.scores[0] {
				p.scores[0][k].Contrast = nil // it is with the impossible video
			}
			c.pending = append(c.pending, p)
		}
	}
}

// finish makes the score file, with the settings of the main one.
func (c *Controls) finish(of *compare.File) error {
	if c == nil {
		return nil
	}
	f := *of
	f.Videos, f.Sets, f.Maps, f.Notes, f.UnseenPairs = nil, nil, nil, nil, 0
	for _, s := range of.Sets {
		f.Sets = append(f.Sets, compare.Set{Name: s.Name, Model: s.Model})
	}
	for _, kind := range c.Kinds {
		for _, p := range c.pending {
			if p.kind != kind {
				continue
			}
			f.Videos = append(f.Videos, p.original, p.other)
			for k := range f.Sets {
				f.Sets[k].Scores = append(f.Sets[k].Scores, p.scores[0][k], p.scores[1][k])
			}
		}
	}
	f.Data = compare.Digest(f.Videos)
	if err := f.Validate(); err != nil {
		return fmt.Errorf("controls: %w", err)
	}
	c.File = &f
	return nil
}

// controlQuality is the JPEG quality of Reencode, of 100: that of a video for the web. At
// 64 pixels its blocks show.
const controlQuality = 60

// alter returns a changed copy of a clip.
func alter(c *video.Clip, kind string) (*video.Clip, error) {
	out := *c
	out.Pix = make([]uint8, len(c.Pix))
	size := c.Height * c.Width * 3 // of a frame
	switch kind {
	case Reencode:
		for f := range c.Frames {
			if err := throughJPEG(out.Pix[f*size:(f+1)*size], c.Pix[f*size:(f+1)*size], c.Height, c.Width); err != nil {
				return nil, fmt.Errorf("frame %d: %w", f, err)
			}
		}
	case Recolour:
		for i := 0; i < len(c.Pix); i += 3 {
			out.Pix[i], out.Pix[i+1], out.Pix[i+2] = c.Pix[i+1], c.Pix[i+2], c.Pix[i]
		}
	case TimeReversal: // the clock of the frames stays
		for f := range c.Frames {
			copy(out.Pix[f*size:(f+1)*size], c.Pix[(c.Frames-1-f)*size:])
		}
	default:
		return nil, fmt.Errorf("control %q: want one of %s", kind, strings.Join(ControlKinds(), ", "))
	}
	return &out, nil
}

// throughJPEG writes what is left of a frame [height,width,3] to dst.
func throughJPEG(dst, frame []uint8, height, width int) error {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for p := range height * width {
		copy(img.Pix[p*4:], frame[p*3:p*3+3])
		img.Pix[p*4+3] = 255
	}
	var file bytes.Buffer
	if err := jpeg.Encode(&file, img, &jpeg.Options{Quality: controlQuality}); err != nil {
		return err
	}
	decoded, err := jpeg.Decode(&file)
	if err != nil {
		return err
	}
	for p := range height * width {
		r, g, b, _ := decoded.At(p%width, p/width).RGBA()
		dst[p*3], dst[p*3+1], dst[p*3+2] = uint8(r>>8), uint8(g>>8), uint8(b>>8)
	}
	return nil
}
