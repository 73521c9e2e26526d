package plausibility

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// A corner of 4 pixels jumps in frame 8: the pair parts there, and a detector of change
// peaks there, in time and in space.
func TestScoreLocalises(t *testing.T) {
	v, videos := quadruplets(t, 12)
	c, _ := testConfig(v, videos)
	c.Maps = &heat.Maps{}
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range f.Videos {
		if d := x.Divergence; d == nil || d.Frame != 8 || math.Abs(d.Second-0.8) > 1e-9 || d.Row != 2 || d.Column != 2 {
			t.Fatalf("%s parts from its pair at %+v, want frame 8 at 0.8 s, 2 px from the top and the left", x.Path, d)
		}
		peak := f.Sets[0].Scores[i].PeakAt
		if x.Label == 0 && (peak.Frame != 8 || peak.Row != 2 || peak.Column != 2) {
			t.Errorf("%s: peak at %+v, want frame 8 in the corner", x.Path, peak)
		}
		m, ok := c.Maps.Of(compare.ModelSet, i)
		if !ok || m.Height != 4 || m.Width != 4 || m.Tubelets != len(x.TubeletStart) {
			t.Fatalf("%s: map %+v, %t", x.Path, m, ok)
		}
		for at, second := range x.TubeletStart {
			for token, e := range m.Tubelet(at) {
				event := x.Label == 0 && token == 0 && math.Abs(second-0.8) < 1e-9
				if event != (e > 0) {
					t.Errorf("%s: token %d at %g s has surprise %g", x.Path, token, second, e)
				}
			}
		}
	}
	l, err := compare.Localize(f, 0, compare.Options{Resamples: 200})
	if err != nil {
		t.Fatal(err)
	}
	all := l.Rows[len(l.Rows)-1]
	if l.Within != 4 || all.Videos != 24 || all.Cells[0].HitRate.Value != 1 || all.Cells[0].Frames != 0 || all.Cells[0].Pixels != 0 {
		t.Errorf("within %d frames: %+v", l.Within, all)
	}

	path := filepath.Join(t.TempDir(), "scores.maps.safetensors")
	if err := c.Maps.Save(path, f); err != nil {
		t.Fatal(err)
	}
	again, err := heat.Load(filepath.Dir(path), f)
	if err != nil || !reflect.DeepEqual(again, c.Maps) && again.Videos() != 48 {
		t.Fatalf("maps read back: %v", err)
	}
	for i := range f.Videos {
		a, _ := c.Maps.Of(compare.ModelSet, i)
		b, _ := again.Of(compare.ModelSet, i)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("video %d: other values read back", i)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := heat.Load(filepath.Dir(path), f); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("a changed byte: %v", err)
	}
}

// Of two altered copies the detector of change is indifferent to colours that change
// places, and to time; each control is a property of a score file of its own.
func TestControls(t *testing.T) {
	v, videos := quadruplets(t, 12)
	for name, clip := range v.clips { // something moves, so that there is surprise
		if strings.HasSuffix(name, "0") || strings.HasSuffix(name, "1") {
			patch(clip, 4, 5, 200)
		}
	}
	c, _ := testConfig(v, videos)
	c.Controls = &Controls{Kinds: ControlKinds()}
	c.Maps = &heat.Maps{}
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	k := c.Controls.File
	if len(k.Videos) != 24*3*2 || len(k.Pairs()) != 24*3 || c.Maps.Videos() != len(f.Videos) {
		t.Fatalf("%d videos in %d pairs, maps of %d", len(k.Videos), len(k.Pairs()), c.Maps.Videos())
	}
	possible := map[string]compare.Scores{}
	for i, x := range f.Videos {
		possible[x.Path] = f.Sets[0].Scores[i]
		if scores := possible[x.Path]; scores.Contrast != nil {
			scores.Contrast = nil // of the pair in f, which is none of the controls
			possible[x.Path] = scores
		}
	}
	for _, p := range k.Pairs() {
		original, altered := k.Videos[p.Possible], k.Videos[p.Impossible]
		if !strings.HasPrefix(altered.Path, original.Path+" (") || altered.Property != original.Property {
			t.Fatalf("pair of %s and %s", original.Path, altered.Path)
		}
		a, b := k.Sets[0].Scores[p.Possible], k.Sets[0].Scores[p.Impossible]
		if !reflect.DeepEqual(a, possible[original.Path]) {
			t.Errorf("%s has other scores among the controls", original.Path)
		}
		same := math.Abs(a.Peak[0][0]-b.Peak[0][0]) < 1e-4
		if original.Property == Recolour && !same {
			t.Errorf("%s: %g, recoloured %g", original.Path, a.Peak[0][0], b.Peak[0][0])
		}
		if original.Property == Reencode && reflect.DeepEqual(a, b) {
			t.Errorf("%s: JPEG changed nothing", original.Path)
		}
	}
	if _, err := compare.Summarize(k, compare.Options{Resamples: 200}); err != nil {
		t.Fatal(err)
	}
	for _, kinds := range [][]string{{}, {"mirror"}, {Recolour, Recolour}} {
		c.Controls = &Controls{Kinds: kinds}
		if _, err := Score(t.Context(), c); err == nil || !strings.Contains(err.Error(), "controls") {
			t.Errorf("kinds %q: %v", kinds, err)
		}
	}
}

func TestAlter(t *testing.T) {
	c := solidClip(3, 8, 0)
	for i := range c.Pix {
		c.Pix[i] = uint8(i)
	}
	frame := 8 * 8 * 3
	reversed, err := alter(c, TimeReversal)
	if err != nil || !reflect.DeepEqual(reversed.Pix[:frame], c.Pix[2*frame:]) || !reflect.DeepEqual(reversed.Pix[frame:2*frame], c.Pix[frame:2*frame]) || !reflect.DeepEqual(reversed.Times, c.Times) {
		t.Errorf("reversed: %v", err)
	}
	recoloured, err := alter(c, Recolour)
	if err != nil || recoloured.Pix[0] != 1 || recoloured.Pix[1] != 2 || recoloured.Pix[2] != 0 {
		t.Errorf("recoloured: %v, %v", recoloured.Pix[:3], err)
	}
	smooth := solidClip(2, 16, 90)
	coded, err := alter(smooth, Reencode)
	if err != nil {
		t.Fatal(err)
	}
	for i := range coded.Pix {
		if d := int(coded.Pix[i]) - 90; d < -3 || d > 3 {
			t.Fatalf("a grey of 90 became %d", coded.Pix[i])
		}
	}
	if _, err := alter(c, "mirror"); err == nil {
		t.Error("mirror: no error")
	}
	if &c.Pix[0] == &reversed.Pix[0] {
		t.Error("the clip itself was changed")
	}
}

// Where nothing moves the last tubelet is a perfect guess of the next one; where
// something does, it is not. Masked models copy the last tubelet of their context.
func TestCopyLast(t *testing.T) {
	for _, objective := range []string{model.Masked, model.NextTubelet} {
		for _, target := range []string{model.Representation, model.Pixels} {
			m := smallModel(objective)
			if target == model.Pixels {
				m.Config.Target = target
				m = m.fresh(3)
			}
			net, err := m.CopyLast(specFor(objective), 2, cpu.Options{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			still := solidClip(6, 16, 120)
			patch(still, 0, 8, 30)
			moving := solidClip(6, 16, 120)
			for f := range 6 {
				for i := range moving.Pix[f*16*16*3 : (f+1)*16*16*3] {
					moving.Pix[f*16*16*3+i] = uint8(40*f + i%7)
				}
			}
			windows := []Window{{Of: clipFrames{still}}, {Of: clipFrames{moving}}}
			got, err := net.Surprise(t.Context(), windows)
			if err != nil {
				t.Fatal(err)
			}
			for g, c := range got[0] {
				// Positions in time are part of a masked model's representation, so a still video changes a little there.
				limit := 1e-6
				if objective == model.Masked && target == model.Representation {
					limit = 1
				}
				for i := range c.Errors {
					if float64(c.Errors[i]) > limit {
						t.Errorf("%s %q: token %d of a still video has error %g", objective, target, c.Tokens[i], c.Errors[i])
					}
				}
				if len(c.Errors) == 0 || target == model.Pixels && got[1][g].Errors[len(c.Errors)-1] == 0 {
					t.Errorf("%s %q: a moving video is copied without error", objective, target)
				}
			}
			checkCopies(t, m, got, windows)
			if err := net.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkCopies works the errors out again from the targets of whole windows.
func checkCopies(t *testing.T, m *Model, got []WindowErrors, windows []Window) {
	t.Helper()
	d := m.Config.TargetDim()
	_, targets := wholeWindows(t, m, windows, cpu.FP32)
	row := func(window, tubelet, place int) []float32 {
		return targets[((window*3+tubelet)*4+place)*d:][:d] // 3 tubelets of 2×2 tokens
	}
	for window := range 2 {
		for _, one := range got[window] {
			for i, token := range one.Tokens {
				tubelet, place := int(token)/4, int(token)%4
				last := tubelet - 1
				if one.Context > 0 {
					last = one.Context/2 - 1
				}
				var want float64
				for j, x := range row(window, tubelet, place) {
					want += math.Abs(float64(x)-float64(row(window, last, place)[j])) / float64(d)
				}
				if math.Abs(want-float64(one.Errors[i])) > 1e-5 {
					t.Errorf("context %d, token %d: error %g, want %g", one.Context, token, one.Errors[i], want)
				}
			}
		}
	}
}
