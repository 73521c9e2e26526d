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
	if err := p.setBackground(e.World); err != nil {
		t.Fatal(err)
	}
	frames := make([][]byte, e.Frames)
	for f := range frames {
		if err := p.draw(e.worldAt(f), f); err != nil {
			t.Fatal(err)
		}
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
// possible one, with all light, noise and shaking.
func TestGenerateWritesWhatWasSimulated(t *testing.T) {
	for _, difficulty := range Difficulties() {
		t.Run(difficulty, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{Dir: dir, Clips: 3, Pairs: 32, Seed: 11, Difficulty: difficulty}
			s := generate(t, o)
			if s.Clips != 3 || s.Pairs != 32 || s.Groups != 16 || s.Bytes == 0 {
				t.Errorf("summary %+v", s)
			}
			events := readEvents(t, s.Events)
			if len(events) != 3+64 {
				t.Fatalf("%d events, want %d", len(events), 3+64)
			}
			videos := make(map[string][][]byte)
			for _, e := range events {
				got, want := decode(t, filepath.Join(dir, e.Path)), drawn(t, e)
				if len(got) != 32 || !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("%s: %d decoded frames are not the %d drawn ones", e.Path, len(got), len(want))
				}
				if e.Difficulty != difficulty {
					t.Errorf("%s: difficulty %q", e.Path, e.Difficulty)
				}
				videos[e.Path] = got
			}
			checkQuadruplets(t, readPairs(t, s.PairsCSV), events[3:], videos)
		})
	}
}

func readPairs(t *testing.T, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
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
	return rows[1:]
}

// checkQuadruplets holds the four videos of each group to each other: up to the
// event an impossible one is its possible twin, from it on the other one.
func checkQuadruplets(t *testing.T, rows [][]string, events []event, videos map[string][][]byte) {
	t.Helper()
	if len(rows) != len(events) || len(rows) != 4*len(Properties()) {
		t.Fatalf("%d rows for %d videos", len(rows), len(events))
	}
	for i := 0; i < len(rows); i += 4 {
		quad, e := rows[i:i+4], events[i].EventFrame
		var frames [4][][]byte
		for j, row := range quad {
			if want := []string{"1", "0", "1", "0"}[j]; row[1] != want {
				t.Errorf("row %v: label %s, want %s", row, row[1], want)
			}
			if row[2] != quad[0][2] || row[3] != Properties()[i/4] || row[0] != events[i+j].Path {
				t.Errorf("row %v: not of the group %v", row, quad[0])
			}
			frames[j] = videos[row[0]]
		}
		for f := range frames[0] {
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

// Possible videos differ nowhere but at their targets: not at all where the
// event is hidden, plainly at some time after it, and in the first changed frame
// already where the event is in view and does not begin in the same place.
func TestEventsAreSeenAtTheTargetOnly(t *testing.T) {
	const size, frames = 64, 32
	for _, difficulty := range Difficulties() {
		for _, property := range Properties() {
			kind, occluded := strings.CutSuffix(property, occludedSuffix)
			atOnce := !occluded && !slices.Contains([]string{"gravity", "inertia", "support"}, kind)
			for number := range 4 {
				name := fmt.Sprintf("%s %s %d", difficulty, property, number)
				g, err := sampleGroup(stream("test", 9, number), levels[difficulty], property, frames)
				if err != nil {
					t.Fatal(err)
				}
				a := drawn(t, event{Size: size, Frames: frames, World: g.Worlds[0]})
				b := drawn(t, event{Size: size, Frames: frames, World: g.Worlds[1]})
				most := 0
				for f := range frames {
					plain, outlier := 0, -1
					for i := range size * size {
						d := difference(a[f], b[f], i)
						if d > 40 {
							plain++
						}
						if d > 0 && !g.near(i, f, size) {
							outlier = i
						}
					}
					if outlier >= 0 {
						t.Fatalf("%s: frame %d differs at pixel %d, %d, away from the target", name, f, outlier%size, outlier/size)
					}
					if f >= g.Event {
						most = max(most, plain)
					}
					if f == g.Event && occluded && !bytes.Equal(a[f], b[f]) {
						t.Errorf("%s: the hidden event shows", name)
					}
					if f == g.Event && atOnce && plain < leastPlain[difficulty] {
						t.Errorf("%s: the event changes %d pixels plainly, want at least %d", name, plain, leastPlain[difficulty])
					}
				}
				if most < leastPlain[difficulty] {
					t.Errorf("%s: after the event at most %d pixels differ plainly", name, most)
				}
			}
		}
	}
}

// leastPlain is how many pixels of 64×64 an event changes plainly, at least: the
// corners in which a small square and a small disc differ are few.
var leastPlain = map[string]int{easy: 10, middle: 8, hard: 3}

// difference is the largest difference of a colour of pixel i.
func difference(a, b []byte, i int) int {
	most := 0
	for c := range 3 {
		d := int(a[3*i+c]) - int(b[3*i+c])
		most = max(most, d, -d)
	}
	return most
}

// near reports whether a target is at pixel i of a frame, as the camera has it.
func (g group) near(i, frame, size int) bool {
	dx, dy := g.Worlds[0].Camera.shift(frame, size)
	at := point{X: (float64(i%size+dx) + 0.5) / float64(size), Y: (float64(i/size+dy) + 0.5) / float64(size)}
	for _, target := range g.targets {
		if target != nil && distance(at, target.at(frame)) < target.Radius+3.0/float64(size) {
			return true
		}
	}
	return false
}

// Equal seeds give equal bytes, whatever the number of cores.
func TestGenerateIsDeterministic(t *testing.T) {
	hashes := func(cores int, seed uint64) map[string][32]byte {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
		dir := t.TempDir()
		generate(t, Options{Dir: dir, Clips: 5, Pairs: 5, Seed: seed, Size: 48, Frames: 20, FPS: 12.5, Difficulty: hard})
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
	s := generate(t, Options{Dir: dir, Pairs: 3, Seed: 1, Properties: []string{"shape"}})
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
		{func(o *Options) { o.Difficulty = "harder" }, `difficulty is "harder": must be one of easy, middle, hard`},
		{func(o *Options) { o.Properties = []string{"shape", "gravitas"} }, `properties[1] is "gravitas"`},
		{func(o *Options) { o.Properties = []string{"shape", "shape"} }, `properties[1] is "shape"`},
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
	for _, difficulty := range Difficulties() {
		b.Run(difficulty, func(b *testing.B) {
			for b.Loop() {
				o := Options{Dir: b.TempDir(), Clips: clips, Seed: 1, Difficulty: difficulty}
				if _, err := Generate(b.Context(), o, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(clips*b.N)/b.Elapsed().Seconds(), "clips/s")
		})
	}
}
