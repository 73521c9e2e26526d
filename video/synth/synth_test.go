package synth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gocv.io/x/gocv"
)

// decode reads all frames of a video as BGR bytes [frames][size·size·3].
func decode(t *testing.T, path string) [][]byte {
	t.Helper()
	v, err := gocv.VideoCaptureFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	m := gocv.NewMat()
	defer m.Close()
	var frames [][]byte
	for v.Read(&m) {
		frames = append(frames, m.ToBytes())
	}
	return frames
}

// drawn renders what a video should show.
func drawn(t *testing.T, e event) [][]byte {
	t.Helper()
	p := newPainter(e.Size)
	defer p.close()
	if err := p.setBackground(e.World.Background); err != nil {
		t.Fatal(err)
	}
	frames := make([][]byte, e.Frames)
	for f := range frames {
		p.draw(e.worldAt(f), f)
		frames[f] = p.frame.ToBytes()
	}
	return frames
}

func generate(t *testing.T, o Options) Summary {
	t.Helper()
	last, calls := 0, 0
	s, err := Generate(t.Context(), o, func(done, total int) {
		calls++
		if want := o.Clips + 2*o.Pairs; done != last+1 || total != want {
			t.Errorf("progress %d of %d after %d of %d", done, total, last, want)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls != o.Clips+2*o.Pairs {
		t.Errorf("%d progress calls, want %d", calls, o.Clips+2*o.Pairs)
	}
	return s
}

func readEvents(t *testing.T, path string) []event {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	for d := json.NewDecoder(bytes.NewReader(text)); d.More(); {
		var e event
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// The files hold what was simulated, bit for bit: events.jsonl is enough to
// draw them again, and every frame of an impossible video is that of a
// possible one.
func TestGenerateWritesWhatWasSimulated(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, Clips: 3, Pairs: 16, Seed: 11}
	s := generate(t, o)
	if s.Clips != 3 || s.Pairs != 16 || s.Groups != 8 || s.Bytes == 0 {
		t.Errorf("summary %+v", s)
	}
	events := readEvents(t, s.Events)
	if len(events) != 3+32 {
		t.Fatalf("%d events, want %d", len(events), 3+32)
	}

	f, err := os.Open(s.PairsCSV)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if header := strings.Join(rows[0], ","); header != "path,label,group,property" {
		t.Errorf("header %q", header)
	}

	videos := make(map[string][][]byte)
	for _, e := range events {
		got, want := decode(t, filepath.Join(dir, e.Path)), drawn(t, e)
		if len(got) != 32 || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s: %d decoded frames are not the %d drawn ones", e.Path, len(got), len(want))
		}
		videos[e.Path] = got
	}
	for i := 0; i < len(rows)-1; i += 4 {
		quad, e := rows[1+i:5+i], events[3+i].EventFrame
		var frames [4][][]byte
		for j, row := range quad {
			if want := []string{"1", "0", "1", "0"}[j]; row[1] != want {
				t.Errorf("row %v: label %s, want %s", row, row[1], want)
			}
			if row[2] != quad[0][2] || row[3] != o.withDefaults().Properties[i/4] {
				t.Errorf("row %v: not of the group %v", row, quad[0])
			}
			frames[j] = videos[row[0]]
		}
		for f := range 32 {
			x, y := frames[0][f], frames[2][f]
			if f >= e {
				x, y = y, x
			}
			if !bytes.Equal(frames[1][f], x) || !bytes.Equal(frames[3][f], y) {
				t.Errorf("group %s: frame %d of an impossible video is not the possible one's, event %d", quad[0][2], f, e)
			}
		}
	}
}

// Where the event is visible, the first changed frame differs plainly, and only
// where the target is; where it is hidden, not at all, and plainly later.
func TestEventsAreSeenAtTheTargetOnly(t *testing.T) {
	const size, frames = 64, 32
	for _, property := range Properties() {
		occluded := strings.HasSuffix(property, occludedSuffix)
		for number := range 6 {
			name := fmt.Sprintf("%s %d", property, number)
			g, err := sampleGroup(stream("test", 9, number), property, frames)
			if err != nil {
				t.Fatal(err)
			}
			a := drawn(t, event{Size: size, Frames: frames, World: g.Worlds[0]})
			b := drawn(t, event{Size: size, Frames: frames, World: g.Worlds[1]})
			most := 0
			for f := range frames {
				plain := 0
				for i := range size * size {
					changed, strong := false, false
					for c := range 3 {
						d := int(a[f][3*i+c]) - int(b[f][3*i+c])
						changed = changed || d != 0
						strong = strong || max(d, -d) > 40
					}
					if strong {
						plain++
					}
					if !changed {
						continue
					}
					at := point{(float64(i%size) + 0.5) / size, (float64(i/size) + 0.5) / size}
					near := false
					for _, target := range g.targets {
						near = near || target != nil && distance(at, target.at(float64(f))) < target.Radius+2.0/size
					}
					if !near {
						t.Fatalf("%s: frame %d differs at %+v, away from the target", name, f, at)
					}
				}
				if f >= g.Event {
					most = max(most, plain)
				}
				if f == g.Event && occluded && !bytes.Equal(a[f], b[f]) {
					t.Errorf("%s: the hidden event shows", name)
				}
				if f == g.Event && !occluded && plain < 10 {
					t.Errorf("%s: the event changes %d pixels plainly, want at least 10", name, plain)
				}
			}
			if most < 10 {
				t.Errorf("%s: after the event at most %d pixels differ plainly", name, most)
			}
		}
	}
}

// Equal seeds give equal bytes, whatever the number of cores.
func TestGenerateIsDeterministic(t *testing.T) {
	hashes := func(cores int, seed uint64) map[string][32]byte {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
		dir := t.TempDir()
		generate(t, Options{Dir: dir, Clips: 5, Pairs: 5, Seed: seed, Size: 48, Frames: 20, FPS: 12.5})
		sums := make(map[string][32]byte)
		err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(filepath.Join(dir, path))
			sums[path] = sha256.Sum256(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sums
	}
	one, four := hashes(1, 4), hashes(4, 4)
	if len(one) != 5+10+2 {
		t.Errorf("%d files, want %d", len(one), 5+10+2)
	}
	if !maps.Equal(one, four) {
		t.Error("one and four cores give different files")
	}
	if other := hashes(4, 5); other["clips/clip-000000.avi"] == one["clips/clip-000000.avi"] {
		t.Error("another seed gives the same clip")
	}
}

// Other programs read the files too.
func TestFFmpegReadsTheFiles(t *testing.T) {
	ffprobe, err := exec.LookPath("ffprobe")
	if err != nil {
		t.Skip("ffprobe is not installed; the other tests read the files through OpenCV")
	}
	dir := t.TempDir()
	generate(t, Options{Dir: dir, Clips: 1, Seed: 2, FPS: 12.5})
	out, err := exec.CommandContext(t.Context(), ffprobe, "-v", "error", "-count_frames", "-of", "csv=p=0", "-show_entries",
		"stream=codec_name,width,height,r_frame_rate,nb_read_frames", filepath.Join(dir, "clips", "clip-000000.avi")).CombinedOutput()
	if err != nil {
		t.Fatalf("ffprobe: %v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "huffyuv,64,64,25/2,32" {
		t.Errorf("ffprobe says %q", got)
	}
}

func TestOddPairsLeaveAHalfGroup(t *testing.T) {
	dir := t.TempDir()
	s := generate(t, Options{Dir: dir, Pairs: 3, Seed: 1, Properties: []string{shape}})
	var names []string
	for _, e := range readEvents(t, s.Events) {
		names = append(names, filepath.Base(e.Path))
	}
	want := []string{"shape-00000-p1.avi", "shape-00000-i1.avi", "shape-00000-p2.avi", "shape-00000-i2.avi", "shape-00001-p1.avi", "shape-00001-i1.avi"}
	if !slices.Equal(names, want) {
		t.Errorf("videos %v, want %v", names, want)
	}
	if s.ClipsDir != "" {
		t.Errorf("clips folder %q without clips", s.ClipsDir)
	}
	if _, err := os.Stat(filepath.Join(dir, clipsDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("an empty clips folder was left")
	}
}

func TestCancelledGenerateLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	_, err := Generate(ctx, Options{Dir: dir, Clips: 500, Seed: 1}, func(done, total int) {
		if done == 3 {
			cancel(reason)
		}
	})
	if !errors.Is(err, reason) {
		t.Errorf("error %v, want the cause of the cancellation", err)
	}
	checkEmpty(t, dir)
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("%v left behind", left)
	}
}

func TestGenerateRefusesAFilledFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, pairsFile), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Generate(t.Context(), Options{Dir: dir, Clips: 1}, nil)
	if err == nil || !strings.Contains(err.Error(), pairsFile) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want one that names %s and the folder", err, pairsFile)
	}
}

func TestRefusedOptionsNameFieldAndValue(t *testing.T) {
	for _, c := range []struct {
		change func(*Options)
		says   string
	}{
		{func(o *Options) { o.Dir = "" }, "dir is empty"},
		{func(o *Options) { o.Clips, o.Pairs = 0, 0 }, "both 0"},
		{func(o *Options) { o.Clips = -1 }, "clips is -1"},
		{func(o *Options) { o.Pairs = 1 << 40 }, "pairs is 1099511627776"},
		{func(o *Options) { o.Size = 4096 }, "size is 4096"},
		{func(o *Options) { o.Size = 65 }, "size is 65"},
		{func(o *Options) { o.Frames = 8 }, "frames is 8"},
		{func(o *Options) { o.FPS = -1 }, "fps is -1"},
		{func(o *Options) { o.Properties = []string{shape, "gravitas"} }, `properties[1] is "gravitas"`},
		{func(o *Options) { o.Properties = []string{shape, shape} }, `properties[1] is "shape"`},
	} {
		dir := t.TempDir()
		o := Options{Dir: dir, Clips: 1, Pairs: 1}
		c.change(&o)
		_, err := Generate(t.Context(), o, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("error %v, want %q", err, c.says)
		}
		checkEmpty(t, dir)
	}
}

// A file that lost its end, as on a full disk, is noticed.
func TestCheckAVINoticesLoss(t *testing.T) {
	dir := t.TempDir()
	generate(t, Options{Dir: dir, Clips: 1, Seed: 6})
	data, err := os.ReadFile(filepath.Join(dir, "clips", "clip-000000.avi"))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkAVI(bytes.NewReader(data), int64(len(data)), 32); err != nil {
		t.Errorf("a whole file: %v", err)
	}
	for _, cut := range []int{0, 3, 8, 500, 4096, len(data) / 2, len(data) - 16, len(data) - 1} {
		if err := checkAVI(bytes.NewReader(data[:cut]), int64(cut), 32); err == nil {
			t.Errorf("cut to %d of %d bytes, but passed", cut, len(data))
		}
	}
	if err := checkAVI(bytes.NewReader(data), int64(len(data)), 33); err == nil {
		t.Error("32 frames passed as 33")
	}
}

// An encoder that cannot write gives an error and not a clip.
func TestEncodeReportsAMissingFolder(t *testing.T) {
	o := Options{Dir: t.TempDir(), Clips: 1, Seed: 6}.withDefaults()
	e, err := o.planClip(0)
	if err != nil {
		t.Fatal(err)
	}
	p := newPainter(o.Size)
	defer p.close()
	if _, err := p.encode(filepath.Join(o.Dir, "missing", "clip.avi"), e, o); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func BenchmarkGenerate(b *testing.B) {
	const clips = 200
	for b.Loop() {
		dir := b.TempDir()
		if _, err := Generate(b.Context(), Options{Dir: dir, Clips: clips, Seed: 1}, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(clips*b.N)/b.Elapsed().Seconds(), "clips/s")
}
