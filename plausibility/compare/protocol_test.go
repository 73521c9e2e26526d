package compare

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The table of the published procedure, setting by setting.
func TestPublishedProtocols(t *testing.T) {
	for id, want := range map[string]Spec{
		"intphys":     {Window: 16, Stride: 2, FrameStep: 2, Contexts: []int{2, 4, 6, 8, 10}, MaxFrames: 49},
		"intphys2":    {Window: 16, Stride: 2, FrameStep: 10, Contexts: []int{4, 6, 8, 10, 12, 14}, Beginning: true},
		"intphys2 48": {Window: 48, Stride: 2, FrameStep: 10, Contexts: []int{12, 18, 24, 30, 36, 42}, Beginning: true},
		"grasp":       {Window: 16, Stride: 2, FrameStep: 10, Contexts: []int{2, 4, 6, 8, 10}},
		"inflevel":    {Window: 32, Stride: 2, FrameStep: 5, Contexts: []int{4, 8, 12, 16, 20}, Crop: "whole"},
	} {
		name, _, _ := strings.Cut(id, " ")
		p, err := FindProtocol(name)
		if err != nil {
			t.Fatal(err)
		}
		want.Protocol, want.ProtocolVersion = name, 1
		got, err := p.For(want.Window, 2, false)
		if err != nil || !reflect.DeepEqual(got, want) || !p.Fixed() {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, got.WithDefaults()) {
			t.Errorf("%s: defaults change it to %+v", name, got.WithDefaults())
		}
		got.Contexts[0] = 7 // the protocol keeps its own
		if again, _ := p.For(want.Window, 2, false); again.Contexts[0] == 7 {
			t.Errorf("%s: a caller changed the protocol", name)
		}
	}
}

func TestProtocolRefuses(t *testing.T) {
	for want, try := range map[string]func() error{
		`protocol: "intphis", want one of intphys, intphys2, grasp, inflevel, continuous`: func() error { _, err := FindProtocol("intphis"); return err },
		"inflevel takes windows of 32 frames, the model's clips have 16":                  func() error { return forModel("inflevel", 16, 2, false) },
		"intphys2 takes windows of 16 or 48 frames, the model's clips have 64":            func() error { return forModel("intphys2", 64, 2, false) },
		"beginning: true, but protocol intphys version 1 has false":                       func() error { return changed(func(s *Spec) { s.Beginning = true }) },
		"beginning: true, want false without contexts":                                    func() error { return Spec{Window: 4, Stride: 2, FrameStep: 1, Beginning: true}.Validate() },
		"the continuous protocol fits it":                                                 func() error { return forModel("grasp", 16, 2, true) },
		"context of 2 frames, no multiple of the model's tubelet of 4":                    func() error { return forModel("intphys", 16, 4, false) },
		"stride: 4, but protocol intphys version 1 has 2":                                 func() error { return changed(func(s *Spec) { s.Stride = 4 }) },
		"frame_step: 1, but protocol intphys version 1 has 2":                             func() error { return changed(func(s *Spec) { s.FrameStep = 1 }) },
		"contexts: [2 4], but protocol intphys":                                           func() error { return changed(func(s *Spec) { s.Contexts = []int{2, 4} }) },
		"crop: whole, but protocol intphys version 1 has empty":                           func() error { return changed(func(s *Spec) { s.Crop = CropWhole }) },
		"max_frames: 0, but protocol intphys version 1 has 49":                            func() error { return changed(func(s *Spec) { s.MaxFrames = 0 }) },
		`protocol: "intphys" of version 0`:                                                func() error { return changed(func(s *Spec) { s.ProtocolVersion = 0 }) },
		`crop: "centre", want none or "whole"`:                                            func() error { return changed(func(s *Spec) { s.Crop = "centre" }) },
		"max_frames: 3, want 0 (all) or at least the window of 16":                        func() error { return changed(func(s *Spec) { s.MaxFrames = 3 }) },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if err := changed(func(s *Spec) { s.ProtocolVersion, s.Stride = 9, 4 }); err != nil {
		t.Errorf("a version this program does not know was held to one that it does: %v", err)
	}
}

func forModel(name string, window, tubelet int, next bool) error {
	p, err := FindProtocol(name)
	if err != nil {
		return err
	}
	_, err = p.For(window, tubelet, next)
	return err
}

func changed(change func(*Spec)) error {
	p, err := FindProtocol("intphys")
	if err != nil {
		return err
	}
	s, err := p.For(16, 2, false)
	if err != nil {
		return err
	}
	change(&s)
	return s.Validate()
}

// Every boundary between tubelets is a context, and a window starts at each.
func TestContinuousMeetsEveryBoundary(t *testing.T) {
	p, err := FindProtocol("continuous")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		tubelet, tubelets := rapid.IntRange(1, 4).Draw(t, "tubelet"), rapid.IntRange(2, 9).Draw(t, "tubelets")
		s, err := p.For(tubelet*tubelets, tubelet, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Contexts) != tubelets-1 || s.Stride != tubelet {
			t.Fatalf("%d tubelets of %d frames: %+v", tubelets, tubelet, s)
		}
		for i, c := range s.Contexts {
			if c != (i+1)*tubelet {
				t.Fatalf("contexts %v, want multiples of %d", s.Contexts, tubelet)
			}
		}
		if err := s.WithDefaults().Validate(); err != nil {
			t.Fatal(err)
		}
		next, err := p.For(tubelet*tubelets, tubelet, true)
		if err != nil || len(next.Contexts) != 0 || next.TopTokens != NextTubeletTopTokens {
			t.Fatalf("next tubelet: %+v, %v", next, err)
		}
	})
	if p.Fixed() {
		t.Error("the continuous protocol says that it settles the frame step")
	}
}
