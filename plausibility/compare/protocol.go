package compare

import (
	"fmt"
	"slices"
	"strings"
)

// Protocol is a named, versioned way to score: every setting that a result depends on,
// beside the model's own resolution. A change to any of them is another version.
type Protocol struct {
	Name    string
	Version int
	Source  string // where the settings are from

	published []Spec // what is fixed, for each length of windows; none: the spec follows from the model (see For)
}

// The published settings are those of jepa-intuitive-physics at 41fbfff (Garrido et al.,
// arXiv:2502.11831): its configuration files, and what its readers do beside them.
//
//	IntPhys   readers take 99/2 = 49 frames, two apart: the last two of 100 are never seen
//	GRASP     the largest centred square of every tenth frame
//	InfLevel  the whole frame squeezed into a square
//
// IntPhys 2 has code and configuration files of its own (Bordes et al., arXiv:2506.09849; facebookresearch/IntPhys2), one
// for V-JEPA with windows of 16 frames and one for V-JEPA 2 with windows of 48, which take every tenth frame and the first
// window at shorter contexts too (max_context_mode). There tokens are cut for frames of 224 px whatever the model's size;
// that is not kept.
var protocols = []Protocol{
	{Name: "intphys", Version: 1, Source: "arXiv:2502.11831",
		published: []Spec{{Window: 16, Stride: 2, FrameStep: 2, Contexts: []int{2, 4, 6, 8, 10}, MaxFrames: 49}}},
	{Name: "intphys2", Version: 1, Source: "arXiv:2506.09849", published: []Spec{
		{Window: 16, Stride: 2, FrameStep: 10, Contexts: []int{4, 6, 8, 10, 12, 14}, Beginning: true},
		{Window: 48, Stride: 2, FrameStep: 10, Contexts: []int{12, 18, 24, 30, 36, 42}, Beginning: true}}},
	{Name: "grasp", Version: 1, Source: "arXiv:2502.11831",
		published: []Spec{{Window: 16, Stride: 2, FrameStep: 10, Contexts: []int{2, 4, 6, 8, 10}}}},
	{Name: "inflevel", Version: 1, Source: "arXiv:2502.11831",
		published: []Spec{{Window: 32, Stride: 2, FrameStep: 5, Contexts: []int{4, 8, 12, 16, 20}, Crop: CropWhole}}},
	{Name: "continuous", Version: 1, Source: "this project"},
}

// ProtocolNames lists the protocols.
func ProtocolNames() []string {
	var names []string
	for _, p := range protocols {
		names = append(names, p.Name)
	}
	return names
}

// FindProtocol returns the newest version of a protocol.
func FindProtocol(name string) (Protocol, error) {
	for _, p := range protocols {
		if p.Name == name {
			return p, nil
		}
	}
	return Protocol{}, fmt.Errorf("protocol: %q, want one of %s", name, strings.Join(ProtocolNames(), ", "))
}

// Fixed says whether the protocol settles every field, frame step and context lengths
// too. The continuous protocol leaves the frame step, or the frame rate, and the number
// of worst tokens to whoever scores.
func (p Protocol) Fixed() bool { return p.published != nil }

// For is the spec of the protocol for a model with clips of window frames in tubelets
// of so many.
//
// A published protocol fits masked models of its own window length only. The continuous
// one fits any: a window starts at every tubelet, and a masked model predicts what
// follows after every number of whole tubelets, so that an event is met at every distance.
func (p Protocol) For(window, tubelet int, nextTubelet bool) (Spec, error) {
	if p.published == nil {
		s := Spec{Protocol: p.Name, ProtocolVersion: p.Version, Window: window, Stride: tubelet}
		if nextTubelet {
			s.TopTokens = NextTubeletTopTokens
			return s, nil
		}
		for c := tubelet; c < window; c += tubelet {
			s.Contexts = append(s.Contexts, c)
		}
		return s, nil
	}
	s, lengths := p.published[0], ""
	for i, variant := range p.published {
		if variant.Window == window {
			s = variant
		}
		lengths += map[bool]string{true: " or "}[i > 0] + fmt.Sprint(variant.Window)
	}
	s.Protocol, s.ProtocolVersion, s.Contexts = p.Name, p.Version, slices.Clone(s.Contexts)
	switch {
	case nextTubelet:
		return s, fmt.Errorf("protocol: %s predicts after contexts of %v frames, and a next_tubelet model has none; the continuous protocol fits it", p.Name, s.Contexts)
	case window != s.Window:
		return s, fmt.Errorf("protocol: %s takes windows of %s frames, the model's clips have %d", p.Name, lengths, window)
	}
	for _, c := range s.Contexts {
		if c%tubelet != 0 {
			return s, fmt.Errorf("protocol: %s has a context of %d frames, no multiple of the model's tubelet of %d", p.Name, c, tubelet)
		}
	}
	return s, nil
}

// protocolText is the protocol as in "grasp 1"; "" without one.
func (s Spec) protocolText() string {
	if s.Protocol == "" {
		return ""
	}
	return fmt.Sprintf("%s %d", s.Protocol, s.ProtocolVersion)
}

// keepsProtocol checks that a spec which claims a protocol of this program has its settings.
func (s Spec) keepsProtocol() error {
	if s.Protocol == "" && s.ProtocolVersion != 0 || s.Protocol != "" && s.ProtocolVersion < 1 || len(s.Protocol) > 64 {
		return fmt.Errorf("protocol: %q of version %d, want a name and a version from 1 on, or neither", s.Protocol, s.ProtocolVersion)
	}
	for _, p := range protocols {
		if p.Name != s.Protocol || p.Version != s.ProtocolVersion || p.published == nil {
			continue
		}
		want := p.published[0]
		for _, variant := range p.published {
			if variant.Window == s.Window {
				want = variant
			}
		}
		for _, f := range []struct {
			name      string
			got, want any
		}{
			{"window", s.Window, want.Window}, {"stride", s.Stride, want.Stride},
			{"frame_step", s.FrameStep, want.FrameStep}, {"fps", s.FPS, want.FPS},
			{"contexts", fmt.Sprint(s.Contexts), fmt.Sprint(want.Contexts)}, {"top_tokens", s.TopTokens, want.TopTokens},
			{"beginning", s.Beginning, want.Beginning}, {"max_frames", s.MaxFrames, want.MaxFrames}, {"crop", s.Crop, want.Crop},
		} {
			if f.got != f.want {
				return fmt.Errorf("%s: %s, but protocol %s version %d has %s", f.name, shown(f.got), p.Name, p.Version, shown(f.want))
			}
		}
	}
	return nil
}
