package video

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// keepingPool keeps verdicts and frames in a folder.
func keepingPool(t testing.TB, dir string, clipBytes int64) *Pool {
	t.Helper()
	v, err := OpenVerdicts(dir, DefaultVerdictsBytes)
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenClips(filepath.Join(dir, "clips"), clipBytes)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(PoolOptions{Verdicts: v, Clips: c})
	t.Cleanup(func() {
		p.Close()
		_ = c.Close()
		_ = v.Close()
	})
	return p
}

func openWith(t testing.TB, p *Pool, spec Spec) *Dataset {
	t.Helper()
	d, err := OpenDataset(t.Context(), p, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func sample(t testing.TB, d *Dataset, index int64) (SampleInfo, []float32) {
	t.Helper()
	dst := make([]float32, d.ClipSize())
	info, err := d.Sample(t.Context(), 7, index, dst)
	if err != nil {
		t.Fatalf("clip %d: %v", index, err)
	}
	return info, dst
}

// A clip has the same pixels from memory, from disk, sought and read from the start, for every kind of file.
func TestClipsAreTheSameFromEverywhere(t *testing.T) {
	long := []string{"-g", "12", "-c:v"}
	dir := t.TempDir()
	keeping := keepingPool(t, dir, 1<<30)
	for i, path := range []string{
		pattern(t, "h264.mp4", 96, 64, 15, 120, append(long, "libx264", "-bf", "3", "-pix_fmt", "yuv420p")...),
		pattern(t, "opengop.mkv", 96, 64, 15, 120, append(long, "libx264", "-x264-params", "open-gop=1:bframes=3")...),
		pattern(t, "hevc.mp4", 96, 64, 15, 120, append(long, "libx265", "-x265-params", "log-level=none")...),
		pattern(t, "mpeg4.avi", 96, 64, 15, 120, append(long, "mpeg4", "-bf", "2")...),
		pattern(t, "vp9.webm", 96, 64, 15, 120, append(long, "libvpx-vp9")...),
		pattern(t, "mpeg2.mpg", 96, 64, 25, 120, append(long, "mpeg2video", "-bf", "2")...),
		pattern(t, "picture.gif", 96, 64, 10, 120),
		encode(t, "variable.mp4", "-f", "lavfi", "-i", "testsrc=size=96x64:rate=30:duration=8",
			"-vf", "select='lt(n,40)+not(mod(n,3))'", "-vsync", "vfr", "-g", "12", "-c:v", "libx264"),
		encode(t, "late.mkv", "-f", "lavfi", "-i", "testsrc=size=96x64:rate=15:duration=8", "-vf", "setpts=PTS+9/TB", "-g", "12", "-c:v", "libx264"),
		encode(t, "still.mp4", "-f", "lavfi", "-i", "color=red:size=96x64:rate=15:duration=8", "-g", "12", "-c:v", "libx264"),
	} {
		for _, by := range []Spec{{FrameStep: 2}, {FPS: 5}} {
			if (i%2 == 0) == (by.FPS > 0) && !strings.HasPrefix(filepath.Base(path), "variable") {
				continue // each of them with half of the files
			}
			name := fmt.Sprint(filepath.Base(path), " ", by.FrameStep, " ", by.FPS)
			spec := Spec{Data: []string{path}, Size: 24, Frames: 6, FrameStep: by.FrameStep, FPS: by.FPS, ClipsPerVideo: 12}
			memory := openWith(t, decoders, spec)
			spec.CacheMiB = -1
			sought, linear := openWith(t, decoders, spec), openWith(t, decoders, spec)
			linear.files[0].seeks = len(seekPlans)
			disk := openWith(t, keeping, spec)
			again := openWith(t, keepingPool(t, dir, 1<<30), spec) // verdict and frames are there
			started := keeping.Stats().Started
			late := 0
			for i := range int64(12) {
				info, want := sample(t, memory, i)
				if info.Numbers[0] >= seekFrames {
					late++
				}
				for from, d := range map[string]*Dataset{"sought": sought, "linear": linear, "disk": disk, "disk again": again} {
					gotInfo, got := sample(t, d, i)
					if fmt.Sprint(gotInfo) != fmt.Sprint(info) || !slices.Equal(got, want) {
						t.Errorf("%s: clip %d, %s: differs (%+v, want %+v)", name, i, from, gotInfo, info)
					}
				}
			}
			if late == 0 {
				t.Errorf("%s: no clip was sought", name)
			}
			if n := sought.files[0].seeks; n > 0 {
				t.Logf("%s: %d of %d ways to seek failed", name, n, len(seekPlans))
			}
			if keeping.Stats().Started != started || again.pool.Stats().Started != 0 {
				t.Errorf("%s: frames on disk were decoded again", name)
			}
		}
	}
}

// A seek that lands on another frame than the inspection found there never gets further than the decoder.
func TestStaleFrameAfterASeekIsNotDelivered(t *testing.T) {
	path := pattern(t, "h264.mp4", 96, 64, 15, 120, "-g", "12", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p")
	_, track, err := decoders.judge(t.Context(), source.Item{Path: path}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(change func(*wire.Seek)) (got []int, done wire.Done) {
		seek := &wire.Seek{At: track.times[80] - track.times[0], Want: 80, First: 72, Digests: slices.Clone(track.digests[72:91])}
		change(seek)
		done, err := decoders.decode(t.Context(), source.Item{Path: path}, wire.Request{MaxPixels: 1 << 20, MaxFrames: 1000, Numbers: []int{80, 85, 90}, Inspected: true, Seek: seek},
			func() { got = nil }, func(f frame) error {
				got = append(got, f.number)
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		return got, done
	}
	if got, done := ask(func(*wire.Seek) {}); !slices.Equal(got, []int{80, 85, 90}) || done.SeekFailed {
		t.Errorf("a good seek delivers %v, %+v", got, done)
	}
	for name, change := range map[string]func(*wire.Seek){
		"lands elsewhere":          func(s *wire.Seek) { s.At += 1.4 },
		"lands before the file":    func(s *wire.Seek) { s.At = -5 },
		"lands after the file":     func(s *wire.Seek) { s.At = 1e6 },
		"first frame is stale":     func(s *wire.Seek) { clear(s.Digests) },
		"a later frame is another": func(s *wire.Seek) { s.Digests[90-72]++ },
	} {
		if got, done := ask(change); !done.SeekFailed || slices.Contains(got, 90) {
			t.Errorf("%s: delivers %v, %+v", name, got, done)
		}
	}

	// The dataset reads such a file from the start, and a file that became another is an error.
	d := openWith(t, decoders, Spec{Data: []string{path}, Size: 16, Frames: 4, ClipsPerVideo: 20, CacheMiB: -1})
	times := slices.Clone(d.files[0].track.times)
	for i := range times {
		d.files[0].track.times[i] /= 3 // as if the header's rate were a lie
	}
	reference := openWith(t, decoders, Spec{Data: []string{path}, Size: 16, Frames: 4, ClipsPerVideo: 20})
	for i := range int64(20) {
		_, want := sample(t, reference, i)
		if _, got := sample(t, d, i); !slices.Equal(got, want) {
			t.Errorf("clip %d differs after a failed seek", i)
		}
	}
	if d.files[0].seeks == 0 {
		t.Error("no seek failed")
	}
	d.files[0].track.digests = slices.Clone(d.files[0].track.digests)
	for i := range d.files[0].track.digests {
		d.files[0].track.digests[i]++
	}
	_, err = d.Sample(t.Context(), 7, 3, make([]float32, d.ClipSize()))
	if err == nil || !strings.Contains(err.Error(), "changed since it was inspected") {
		t.Errorf("other frames than inspected: %v", err)
	}
}

func TestWindowsAndClipsPerVideo(t *testing.T) {
	dir := threeFiles(t) // of 20, 30, 40 frames
	d := mustOpen(t, Spec{Data: []string{dir}, Size: 8, Frames: 4, ClipsPerVideo: 3, Windows: UniformWindows})
	if d.Len() != 9 || d.Files() != 3 {
		t.Fatalf("%d clips of %d files", d.Len(), d.Files())
	}
	for epoch := range int64(3) {
		starts := map[string][]int{}
		for i := range int64(9) {
			info, _ := sample(t, d, 9*epoch+i)
			name := filepath.Base(info.Path)
			starts[name] = append(starts[name], info.Numbers[0])
		}
		for name, want := range map[string][]int{"0.mp4": {2, 8, 13}, "1.mp4": {4, 13, 21}, "2.mp4": {6, 18, 30}} {
			slices.Sort(starts[name])
			if !slices.Equal(starts[name], want) {
				t.Errorf("epoch %d: clips of %s begin at %v, want %v", epoch, name, starts[name], want)
			}
		}
	}
}

// Over the epochs, sources come as often as their weights say, and the files of each equally often.
func TestWeights(t *testing.T) {
	a, b, c := threeFiles(t), t.TempDir(), t.TempDir()
	copyFile(t, filepath.Join(a, "0.mp4"), filepath.Join(b, "b.mp4"), 0)
	copyFile(t, filepath.Join(a, "1.mp4"), filepath.Join(c, "c.mp4"), 0)
	d := mustOpen(t, Spec{Data: []string{a, b, c}, Size: 8, Frames: 4, ClipsPerVideo: 2, Weights: []float64{1, 4, 0}})
	if d.Len() != 10 { // five files, two clips each
		t.Fatalf("%d clips in an epoch, want 10", d.Len())
	}
	counts := map[string]int{}
	orders := map[string]bool{}
	for epoch := range int64(6) {
		order := ""
		for i := range int64(10) {
			info, _ := sample(t, d, 10*epoch+i)
			counts[filepath.Base(info.Path)]++
			order += filepath.Base(info.Path) + " "
			if want := map[string]int{a: 0, b: 1, c: 2}[filepath.Dir(info.Path)]; info.Source != want {
				t.Errorf("%s is of source %d", info.Path, info.Source)
			}
		}
		orders[order] = true
	}
	if want := map[string]int{"0.mp4": 4, "1.mp4": 4, "2.mp4": 4, "b.mp4": 48}; fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Errorf("clips %v, want %v", counts, want)
	}
	if len(orders) < 5 {
		t.Errorf("6 epochs in %d orders", len(orders))
	}
	if _, err := OpenDataset(t.Context(), decoders, Spec{Data: []string{a, a}, Size: 8, Frames: 4, Weights: []float64{1, 1}}, nil); err == nil || !strings.Contains(err.Error(), "weights[1]") {
		t.Errorf("a source without files of its own: %v", err)
	}
	for _, c := range []struct {
		weights []float64
		n       int
		want    []int
	}{{[]float64{1, 1}, 3, []int{2, 1}}, {[]float64{1, 1000}, 5, []int{1, 5}}, {[]float64{2, 0, 2}, 8, []int{4, 0, 4}}} {
		total := 0.0
		for _, w := range c.weights {
			total += w
		}
		if got := quotas(c.weights, total, c.n); !slices.Equal(got, c.want) {
			t.Errorf("%v of %d: %v, want %v", c.weights, c.n, got, c.want)
		}
	}
}

// Large frames are brought to ShortSide before crops are cut from them.
func TestShortSide(t *testing.T) {
	path := pattern(t, "large.mkv", 256, 128, 15, 8, "-c:v", "ffv1", "-pix_fmt", "bgr0")
	for short, want := range map[int][2]int{0: {32, 64}, -1: {128, 256}, 64: {64, 128}, 500: {128, 256}} {
		d := mustOpen(t, Spec{Data: []string{path}, Size: 16, Frames: 2, ShortSide: short})
		if f := d.files[0]; f.height != want[0] || f.width != want[1] {
			t.Errorf("short side %d: %dx%d, want %dx%d", short, f.width, f.height, want[1], want[0])
		}
		if v := d.Verdicts()[0]; v.Width != 256 || v.Height != 128 {
			t.Errorf("verdict %+v", v)
		}
	}
	d := mustOpen(t, Spec{Data: []string{path}, Size: 16, Frames: 2, ShortSide: 32})
	frames := ffmpegFrames(t, path)
	weight := func(j, i, in, out int) float64 {
		scale := float64(in) / float64(out)
		return math.Max(0, 1-math.Abs(float64(j)+0.5-(float64(i)+0.5)*scale)/scale)
	}
	for y := 0; y < 32; y += 5 {
		for x := 0; x < 64; x += 7 {
			for c := range 3 {
				sum, total := 0.0, 0.0
				for j := range 128 {
					for i := range 256 {
						w := weight(j, y, 128, 32) * weight(i, x, 256, 64)
						sum, total = sum+w*float64(frames[(j*256+i)*3+c]), total+w
					}
				}
				if got := float64(d.files[0].pix[(y*64+x)*3+c]); math.Abs(got-sum/total) > 0.51 {
					t.Fatalf("pixel %d %d %d: %g, want %g", y, x, c, got, sum/total)
				}
			}
		}
	}
}

func TestClipsOnDisk(t *testing.T) {
	dir := t.TempDir()
	path := copyFile(t, pattern(t, "small.mkv", 64, 48, 15, 30, "-c:v", "ffv1"), filepath.Join(dir, "a.mkv"), 0)
	cache := t.TempDir()
	spec := Spec{Data: []string{path}, Size: 8, Frames: 4, ClipsPerVideo: 4}
	shards := func() []string {
		names, err := filepath.Glob(filepath.Join(cache, "clips", "*"+shardSuffix))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	reference := openWith(t, decoders, spec)
	check := func(what string, d *Dataset) {
		t.Helper()
		for i := range int64(8) {
			_, want := sample(t, reference, i)
			if _, got := sample(t, d, i); !slices.Equal(got, want) {
				t.Errorf("%s: clip %d differs", what, i)
			}
		}
	}
	check("first", openWith(t, keepingPool(t, cache, 1<<30), spec))
	if len(shards()) != 1 {
		t.Fatalf("%d shards, want 1", len(shards()))
	}

	// Damage in a frame, in the header, and a lost end are found, and the video is decoded again.
	whole, err := os.ReadFile(shards()[0])
	if err != nil {
		t.Fatal(err)
	}
	frames, sums := slices.Clone(whole), slices.Clone(whole)
	for i := range 30 { // whichever is looked at
		frames[shardHeader+(len(whole)-shardHeader)*i/31] ^= 1
		sums[len(whole)-4*i-1] ^= 1
	}
	for what, damaged := range map[string]string{
		"frames":     string(frames),
		"the header": "SURMCLP9" + string(whole[8:]),
		"sums":       string(sums),
		"the end":    string(whole[:len(whole)/2]),
		"all":        "",
	} {
		write(t, shards()[0], damaged)
		p := keepingPool(t, cache, 1<<30)
		check(what, openWith(t, p, spec))
		if p.Stats().Started == 0 {
			t.Errorf("damage in %s was not noticed", what)
		}
		p.o.Clips.take(filepath.Base(strings.TrimSuffix(path, ".mkv"))) // of no such name
		openWith(t, keepingPool(t, cache, 1<<30), spec).fillShard(t)
		if len(shards()) != 1 {
			t.Fatalf("after damage in %s: %d shards, want a new one", what, len(shards()))
		}
	}

	// A file that changed, or another transform, is another shard.
	copyFile(t, pattern(t, "other.mkv", 64, 48, 15, 40, "-c:v", "ffv1"), path, 0)
	reference = openWith(t, decoders, spec)
	check("changed", openWith(t, keepingPool(t, cache, 1<<30), spec))
	spec.ShortSide = 24
	reference = openWith(t, decoders, spec)
	check("reduced", openWith(t, keepingPool(t, cache, 1<<30), spec))
	if len(shards()) != 3 {
		t.Errorf("%d shards, want 3", len(shards()))
	}
}

// fillShard samples until frames are on disk.
func (d *Dataset) fillShard(t *testing.T) {
	t.Helper()
	sample(t, d, 0)
}

// The folder stays within its bound: what is not used makes room, what is used does not.
func TestClipsAreBounded(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	const frameBytes = 64 * 48 * 3
	one := shardBytes(30, 48, 64)
	for i := range 40 {
		copyFile(t, pattern(t, "small.mkv", 64, 48, 15, 30, "-c:v", "ffv1"), filepath.Join(data, fmt.Sprintf("%02d.mkv", i)), 0)
	}
	bound := 20*one + one/2
	p := keepingPool(t, dir, bound)
	d := openWith(t, p, Spec{Data: []string{data}, Size: 8, Frames: 4, ShortSide: -1})
	for i := range int64(40) {
		sample(t, d, i)
	}
	clips := p.o.Clips
	count := func() (n int, bytes int64) {
		shards, err := clips.list()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range shards {
			bytes += s.size
		}
		return len(shards), bytes
	}
	if n, bytes := count(); n != 20 || bytes > bound {
		t.Errorf("%d shards, %d bytes; want 20, at most %d", n, bytes, bound)
	}
	shards, err := clips.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shards[:5] {
		old := s.used.Add(-2 * shardRest)
		if err := os.Chtimes(s.path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	w, err := clips.begin("new")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 31 { // a little more than one leaves room for
		w.put(frame{number: i, height: 48, width: 64, pix: make([]uint8, frameBytes)})
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	if n, bytes := count(); n != 20 || bytes > bound || clips.take("new") == nil {
		t.Errorf("%d shards, %d bytes; want one out and one in", n, bytes)
	}
	clips.give(clips.mapped["new"], false)
	if clips.fits(1000, 48, 64) {
		t.Error("one video may take all")
	}
	if left, err := filepath.Glob(filepath.Join(clips.dir, unfinished+"*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// More shards than may be mapped at once can be read in turns, and one that is being read stays.
func TestMappingsAreBounded(t *testing.T) {
	c, err := OpenClips(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.maxMapped = 3
	const shards = 8
	name := func(i int) string { return fmt.Sprintf("shard-%d", i) }
	for i := range shards {
		w, err := c.begin(name(i))
		if err != nil {
			t.Fatal(err)
		}
		w.put(frame{height: 1, width: 1, pix: []uint8{uint8(i), 0, 0}})
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
	}
	look := func(s *shard, i int) {
		t.Helper()
		if s == nil {
			t.Fatalf("shard %d is gone", i)
		}
		if err := s.read(0, func(pix []uint8) {
			if int(pix[0]) != i {
				t.Errorf("shard %d holds %d", i, pix[0])
			}
		}); err != nil {
			t.Errorf("shard %d: %v", i, err)
		}
	}
	kept := c.take(name(0))
	for range 2 {
		for i := range shards {
			s := c.take(name(i))
			look(s, i)
			c.give(s, false)
			look(kept, 0)
		}
	}
	c.give(kept, false)
	if n := len(c.mapped); n > 3 {
		t.Errorf("%d shards are mapped, want at most 3", n)
	}
}

func FuzzShardHeader(f *testing.F) {
	f.Add([]byte(clipsMagic), int64(100))
	f.Fuzz(func(t *testing.T, header []byte, size int64) {
		if s, err := parseShard(header, size, "x"); err == nil && shardBytes(s.frames, s.height, s.width) != size {
			t.Errorf("%+v of %d bytes", s, size)
		}
	})
}

func BenchmarkEpochs(b *testing.B) {
	path := pattern(b, "340x256.mp4", 340, 256, 30, 300, "-c:v", "libx264", "-pix_fmt", "yuv420p")
	spec := Spec{Data: []string{path}, Size: 112, Frames: 16, FrameStep: 4, ClipsPerVideo: 16, CacheMiB: -1}
	for name, p := range map[string]*Pool{"decode": decoders, "disk": keepingPool(b, b.TempDir(), 1<<30)} {
		b.Run(name, func(b *testing.B) {
			d := openWith(b, p, spec)
			dst := make([]float32, d.ClipSize())
			i := int64(0)
			for b.Loop() {
				if _, err := d.Sample(b.Context(), 1, i, dst); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "clips/s")
		})
	}
}

// The frames of a clip are found for every place where one may begin, however time stamps were rounded, and no place is
// left out by which the whole clip lies before the end.
func TestClipsByTheClockFit(t *testing.T) {
	check := func(times []float64, fps float64, frames int) {
		t.Helper()
		d := &Dataset{spec: Spec{FPS: fps, Frames: frames}}
		f := &file{track: track{times: times}}
		starts := d.starts(f)
		for start := range starts {
			numbers := d.numbers(f, start)
			if len(numbers) != frames || numbers[0] != start || numbers[frames-1] >= len(times) {
				t.Fatalf("%g frames/s of %v: frames %v from %d on", fps, times, numbers, start)
			}
		}
		last := times[len(times)-1]
		if starts < len(times) && times[starts]+float64(frames-1)/fps < last-timeTolerance/2 {
			t.Fatalf("%g frames/s of %v: no clip from %d on", fps, times, starts)
		}
	}
	check([]float64{0, .1, .2, .3, .4, .503, .6, .702}, 5, 2)
	for rate := 5.0; rate < 61; rate += 0.1 {
		times := make([]float64, 40)
		for i := range times {
			times[i] = math.Round(1000*float64(i)/rate) / 1000 // as Matroska keeps them
		}
		for _, fps := range []float64{1, 2.5, 3, 4, 5, 7.5, 8, 10, 12, 15, 24, 25, 29.97, 30} {
			for frames := 2; frames <= 16; frames += 2 {
				check(times, fps, frames)
			}
		}
	}
}

// One rule for training and scoring: time stamps may waver and frames here and there may be missing; a slow stretch and a
// pause repeat frames, whatever the rate of the rest.
func TestPace(t *testing.T) {
	steady := func(fps float64, n int) (out []float64) {
		for i := range n {
			out = append(out, math.Round(1000*float64(i)/fps)/1000) // as Matroska keeps them
		}
		return out
	}
	after := func(times []float64, gap float64, more []float64) []float64 {
		last := times[len(times)-1] + gap
		for _, x := range more {
			times = append(times, last+x)
		}
		return times
	}
	for name, c := range map[string]struct {
		times []float64
		fps   float64
		slow  bool
	}{
		"as fast":                {steady(8, 65), 8, false},
		"faster":                 {steady(30, 200), 8, false},
		"a little slower":        {steady(7.5, 65), 8, false},
		"29.97":                  {steady(29.97, 300), 30, false},
		"half":                   {steady(4, 33), 8, true},
		"a quarter":              {steady(2, 17), 8, true},
		"an eighth slower":       {steady(7, 57), 8, true},
		"15, then 30":            {after(steady(15, 30), 1./15, steady(30, 60)), 30, true},
		"30, then 15":            {after(steady(30, 60), 1./30, steady(15, 30)), 30, true},
		"60, then 15 of 30":      {after(steady(60, 300), 1./60, steady(15, 30)), 30, true},
		"15, then 30, of 15":     {after(steady(15, 30), 1./15, steady(30, 60)), 15, false},
		"a frame is missing":     {after(steady(30, 40), 2./30, steady(30, 40)), 30, false},
		"missing, one in twenty": {after(after(steady(30, 20), 2./30, steady(30, 20)), 2./30, steady(30, 20)), 30, false},
		"two in a row":           {after(steady(30, 40), 3./30, steady(30, 40)), 30, false},
		"24 of 30":               {steady(24, 200), 30, true},
		"24 of 30, short":        {steady(24, 16), 30, true},
		"a pause":                {after(steady(30, 100), 1, steady(30, 100)), 8, true},
		"wavering":               {[]float64{0, 0.033, 0.075, 0.1, 0.141, 0.167, 0.2, 0.241, 0.267, 0.308, 0.333}, 30, false},
		"two frames":             {[]float64{0, 0.16}, 8, false},
		"one frame":              {[]float64{0.5}, 8, false},
		"no frame":               {nil, 8, false},
		"time stands still":      {[]float64{1, 1, 1}, 8, false}, // which is another fault
	} {
		p := pace{fps: c.fps}
		for _, x := range c.times {
			p.add(x)
		}
		if (p.stretch(true) != nil) != c.slow {
			t.Errorf("%s: slow %+v, want %v", name, p.stretch(true), c.slow)
		}
	}
	// A few frames that are missing pass in a video that goes on, and in the part of it that is read.
	gap := pace{fps: 30}
	for i := range 20 {
		if i < 8 || i > 12 {
			gap.add(float64(i) / 30)
		}
	}
	if gap.stretch(false) != nil || gap.stretch(true) == nil {
		t.Errorf("of a part %+v, of a whole video %+v", gap.stretch(false), gap.stretch(true))
	}
	if err := (&Clip{Path: "v", Times: []float64{1, 1, 1}}).CheckRate(8); err == nil {
		t.Error("time stands still, and that fits")
	}
	if err := (&Clip{Path: "v", Times: []float64{1, 1, 1}}).CheckRate(0); err != nil {
		t.Errorf("by frames: %v", err)
	}
}

// What training refuses for its rate, scoring refuses, and the other way round.
func TestVariableRateForTrainingAndScoring(t *testing.T) {
	path := encode(t, "slowstart.mp4", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=30:duration=4",
		"-vf", "select='if(lt(n,60),not(mod(n,2)),1)'", "-vsync", "vfr", "-c:v", "libx264")
	for fps, want := range map[float64]Kind{30: TooSlow, 27: TooSlow, 15: "", 5: ""} {
		kind := func(err error) Kind {
			var bad *FileError
			if errors.As(err, &bad) {
				return bad.Kind
			}
			if err != nil {
				t.Error(err)
			}
			return ""
		}
		clip, err := decoders.ReadFrames(t.Context(), path, ReadOptions{FPS: fps, Size: 16})
		if err != nil {
			t.Fatal(err)
		}
		scored := kind(clip.CheckRate(fps))
		d, err := OpenDataset(t.Context(), decoders, Spec{Data: []string{path}, Size: 16, Frames: 8, FPS: fps}, nil)
		var trained Kind
		var unusable *UnusableError
		if errors.As(err, &unusable) {
			trained = unusable.Unusable[0].Kind
		} else if err != nil || d.Len() != 1 {
			t.Fatal(err)
		}
		if scored != want || trained != want {
			t.Errorf("at %g fps: scoring says %q, training %q, want %q", fps, scored, trained, want)
		}
		if f := clip.File; f.Width != 64 || f.Height != 48 || f.FPS < 22 || f.FPS > 23 || f.Codec == "" {
			t.Errorf("the file is taken for %+v", f)
		}
	}
	// Passed over, the slow stretch is none of the clip's.
	clip, err := decoders.ReadFrames(t.Context(), path, ReadOptions{FPS: 30, Size: 16, First: 30})
	if err != nil || clip.CheckRate(30) != nil {
		t.Errorf("from frame 30 on: %v, %v", err, clip.CheckRate(30))
	}
	if f := clip.File; math.Abs(f.FPS-30) > 0.1 {
		t.Errorf("from frame 30 on at %g fps", f.FPS)
	}
}
