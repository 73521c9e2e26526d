package compare

import (
	"errors"
	"fmt"
)

// ErrUnlike is wrapped by errors about score files that must not be compared.
var ErrUnlike = errors.New("score files are unlike")

// Like checks that two files may be compared: same spec, preprocessing, decoder
// and videos. The error names the first field that differs, with both values.
func Like(a, b *File) error {
	if err := alike(a, b); err != nil {
		return err
	}
	there := map[videoKey]int{} // counts: a group may hold the same video twice
	for _, v := range b.Videos {
		there[keyOf(v)]++
	}
	for _, v := range a.Videos {
		if there[keyOf(v)] == 0 {
			return fmt.Errorf("%w: videos: %s (group %q, label %d) is not in the other with the same content, labels and pair", ErrUnlike, v.Path, v.Group, v.Label)
		}
		there[keyOf(v)]--
	}
	for _, v := range b.Videos {
		if there[keyOf(v)] > 0 {
			return fmt.Errorf("%w: videos: %s (group %q, label %d) is only in the second", ErrUnlike, v.Path, v.Group, v.Label)
		}
	}
	return nil
}

// alike is Like for files of other videos.
func alike(a, b *File) error {
	fields := []struct {
		name string
		a, b any
	}{
		{"spec.protocol", a.Spec.Protocol, b.Spec.Protocol},
		{"spec.protocol_version", a.Spec.ProtocolVersion, b.Spec.ProtocolVersion},
		{"spec.window", a.Spec.Window, b.Spec.Window},
		{"spec.stride", a.Spec.Stride, b.Spec.Stride},
		{"spec.frame_step", a.Spec.FrameStep, b.Spec.FrameStep},
		{"spec.fps", a.Spec.FPS, b.Spec.FPS},
		{"spec.contexts", fmt.Sprint(a.Spec.Contexts), fmt.Sprint(b.Spec.Contexts)},
		{"spec.top_tokens", a.Spec.TopTokens, b.Spec.TopTokens},
		{"spec.beginning", a.Spec.Beginning, b.Spec.Beginning},
		{"spec.max_frames", a.Spec.MaxFrames, b.Spec.MaxFrames},
		{"spec.crop", a.Spec.Crop, b.Spec.Crop},
		{"size_px", a.Size, b.Size},
		{"decoder", a.Decoder, b.Decoder},
	}
	for _, f := range fields {
		if f.a != f.b {
			return fmt.Errorf("%w: %s is %s in one and %s in the other", ErrUnlike, f.name, shown(f.a), shown(f.b))
		}
	}
	return nil
}

// shown is a field's value in an error.
func shown(value any) string {
	if value == "" {
		return "empty"
	}
	return fmt.Sprint(value)
}

// videoKey is a video wherever it lies.
type videoKey struct {
	sha256, group, property, pair string
	label, first                  int
}

func keyOf(v Video) videoKey {
	return videoKey{v.SHA256, v.Group, v.Property, v.Pair, v.Label, v.First}
}

// aligned is a set of f in the order of to's videos. The files must be alike.
func aligned(to, f *File, s *Set) *Set {
	at := map[videoKey]int{}
	for i, v := range f.Videos {
		at[keyOf(v)] = i
	}
	out := *s
	out.Scores = make([]Scores, len(to.Videos))
	for i, v := range to.Videos {
		out.Scores[i] = s.Scores[at[keyOf(v)]]
	}
	return &out
}
