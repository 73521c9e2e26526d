package video

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/video/source"
)

func rememberingPool(t *testing.T, dir string, max int64) *Pool {
	t.Helper()
	v, err := OpenVerdicts(dir, max)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(PoolOptions{Size: 1, Verdicts: v})
	t.Cleanup(func() {
		p.Close()
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestVerdictsAreRemembered(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	good := copyFile(t, pattern(t, "good.mp4", 64, 48, 15, 20, "-c:v", "libx264", "-bf", "2"), filepath.Join(dir, "good.mp4"), 0)
	bad := write(t, filepath.Join(dir, "bad.mp4"), "no video")
	paths := []source.Item{{Path: good}, {Path: bad}}
	first := rememberingPool(t, cache, 1<<20)
	want, err := first.InspectAll(t.Context(), paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Stats().Started == 0 {
		t.Fatal("nothing was decoded")
	}
	_, wantTrack, _ := first.judge(t.Context(), source.Item{Path: good}, 0, nil)

	again := rememberingPool(t, cache, 1<<20)
	got, err := again.InspectAll(t.Context(), paths, nil)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("remembered %+v, %v; want %+v", got, err, want)
	}
	_, track, err := again.judge(t.Context(), source.Item{Path: good}, 0, nil)
	if err != nil || !reflect.DeepEqual(track, wantTrack) || len(track.times) != 20 || len(track.digests) != 20 {
		t.Errorf("track %v, %v; want %v", track, err, wantTrack)
	}
	if again.Stats().Started != 0 {
		t.Errorf("a decoder was started for what is known: %+v", again.Stats())
	}

	// Another time of change, and another content with the time of the first.
	when := time.Now().Add(-time.Hour)
	if err := os.Chtimes(good, when, when); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(bad)
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, good, bad, 0)
	if err := os.Chtimes(bad, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	got, err = again.InspectAll(t.Context(), paths, nil)
	if err != nil || !got[0].Usable || !got[1].Usable {
		t.Errorf("after a change: %+v, %v", got, err)
	}
	if _, _, known := first.o.Verdicts.recall(good, good); known {
		t.Error("a verdict on the file that was is taken for one on the file that is")
	}
}

// Lines that are damaged, of another version or of another decoder are not believed, and the file stays bounded.
func TestVerdictsFile(t *testing.T) {
	cache := t.TempDir()
	path := pattern(t, "good.mp4", 64, 48, 15, 20, "-c:v", "libx264")
	p := rememberingPool(t, cache, 1<<20)
	p.Inspect(t.Context(), path)
	file := filepath.Join(cache, verdictsFile)
	line, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"cut off":         {`"}`, ""},
		"other version":   {`"version":2`, `"version":0`},
		"other decoder":   {`OpenCV `, `OpenTV `},
		"track of others": {`"frames":20`, `"frames":21`},
		"no track":        {`"track":"`, `"track":"====`},
	} {
		damaged := strings.Replace(string(line), change[0], change[1], 1)
		if damaged == string(line) {
			t.Fatalf("%s: nothing to change in %s", name, line)
		}
		if name == "cut off" {
			damaged = string(line[:len(line)/2])
		}
		write(t, file, damaged)
		v, err := OpenVerdicts(cache, 1<<20)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, _, known := v.recall(path, path); known {
			t.Errorf("%s: believed", name)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}

	many := strings.Repeat(string(line), 100)
	write(t, file, many)
	bound := int64(len(line) * 20)
	v, err := OpenVerdicts(cache, bound)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, _, known := v.recall(path, path); !known {
		t.Error("the newest verdict was forgotten")
	}
	if info, err := os.Stat(file); err != nil || info.Size() > bound || info.Size() < bound/4 {
		t.Errorf("%v, %v; want at most %d bytes", info.Size(), err, bound)
	}
}

func FuzzParseTrack(f *testing.F) {
	f.Add(track{[]float64{0, 0.5}, []uint32{1, 2}}.text())
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseTrack(text); err == nil && got.text() != strings.NewReplacer("\r", "", "\n", "").Replace(text) {
			// base64 takes other spellings of the last bits
			if again, err := parseTrack(got.text()); err != nil || len(again.times) != len(got.times) {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

// A video whose verdict is known, and whose frames there is room for neither on disk nor in memory, is decoded for
// every clip.
func TestKnownVideoWithoutRoomForItsFrames(t *testing.T) {
	cache := t.TempDir()
	spec := Spec{Data: []string{pattern(t, "good.mp4", 64, 48, 15, 20, "-c:v", "libx264")}, Size: 24, Frames: 4, CacheMiB: -1}
	var want []float32
	for opened := range 2 {
		d := openWith(t, rememberingPool(t, cache, 1<<20), spec)
		for range 2 {
			_, got := sample(t, d, 0)
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Errorf("opened before %d times: another clip", opened)
			}
		}
	}
}

// A line longer than any that is written is passed over, and room is made in another file: one that another process
// has open goes on in the new one.
func TestVerdictsFileIsReplaced(t *testing.T) {
	cache := t.TempDir()
	path := write(t, filepath.Join(t.TempDir(), "a.mp4"), "a")
	file := write(t, filepath.Join(cache, verdictsFile), strings.Repeat("x", maxVerdictLine+1)+"\n")
	first, err := OpenVerdicts(cache, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := OpenVerdicts(cache, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	identity, err := identityOf(path, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.remember(path, path, identity, Verdict{Kind: Unreadable}, track{}); err != nil {
		t.Fatal(err)
	}
	third, err := OpenVerdicts(cache, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if _, _, known := third.recall(path, path); !known {
		t.Error("what was remembered after another process made room is lost")
	}
	if left, err := filepath.Glob(file + ".*"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A file of the same size may take the place of another under the same time of modification, as copies do: verdict, fingerprint and
// frames are the new one's.
func TestAReplacedFileIsLookedAtAgain(t *testing.T) {
	dir := t.TempDir()
	made := func(name, source string) []byte {
		path := encode(t, name, "-f", "lavfi", "-i", source+"=size=64x48:rate=30:duration=1", "-c:v", "rawvideo", "-pix_fmt", "yuv420p", "-fflags", "+bitexact")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	first, second := made("replaced-a.avi", "testsrc"), made("replaced-b.avi", "testsrc2")
	if len(first) != len(second) {
		t.Fatalf("%d and %d bytes, want as many", len(first), len(second))
	}
	path, at := filepath.Join(dir, "v.avi"), time.Unix(1_700_000_000, 0)
	put := func(raw []byte) {
		if err := errors.Join(os.WriteFile(path, raw, 0o644), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	verdicts, err := OpenVerdicts(filepath.Join(dir, "verdicts"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer verdicts.Close()
	p := NewPool(PoolOptions{Size: 1, Verdicts: verdicts})
	defer p.Close()
	put(first)
	before := p.Inspect(t.Context(), path)
	put(second)
	now, err := contentOf(itemOf(path), path)
	if err != nil {
		t.Fatal(err)
	}
	if v := p.Inspect(t.Context(), path); v.Content != now || v.Content == before.Content {
		t.Errorf("told by %s, was %s, is %s", v.Content, before.Content, now)
	}
	d, err := OpenDataset(t.Context(), p, Spec{Data: []string{path}, Size: 16, Frames: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sample(t.Context(), 1, 0, make([]float32, d.ClipSize())); err != nil {
		t.Error(err)
	}
}
