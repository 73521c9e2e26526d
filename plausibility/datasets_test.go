package plausibility

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video"
)

// write makes files below a root, folders included.
func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// listed is what a video of a dataset comes down to.
func listed(d *Dataset) []string {
	var out []string
	for _, v := range d.Videos {
		out = append(out, fmt.Sprintf("%s %d %s %s %q %d %t", v.Name, v.Label, v.Group, v.Property, v.Pair, v.First, v.EqualLength))
	}
	return out
}

func checkDataset(t *testing.T, d *Dataset, videos, notes []string) {
	t.Helper()
	if got := listed(d); !slices.Equal(got, videos) {
		t.Errorf("videos\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(videos, "\n"))
	}
	if !slices.Equal(d.Notes, notes) {
		t.Errorf("notes %q, want %q", d.Notes, notes)
	}
	for _, v := range d.Videos {
		if v.Path != filepath.Join(d.Folder, v.Name) {
			t.Errorf("%s lies at %s, want below %s", v.Name, v.Path, d.Folder)
		}
	}
}

// intPhys makes scenes of IntPhys: one world is bright by a single level of one pixel. 1
// and 2 are possible and stay in their world, 3 and 4 change to the other at frame 60.
func intPhys(t *testing.T, root string, scenes ...string) {
	t.Helper()
	for _, scene := range scenes {
		for movie, world := range []func(frame int) int{
			func(int) int { return 0 }, func(int) int { return 1 },
			func(frame int) int { return frame / 60 }, func(frame int) int { return 1 - frame/60 },
		} {
			folder := filepath.Join(root, scene, fmt.Sprint(movie+1), "scene")
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			for frame := range 100 {
				img := image.NewRGBA(image.Rect(0, 0, 16, 16))
				for i := range img.Pix {
					img.Pix[i] = uint8(100 + frame%2)
				}
				img.Set(3, 3, color.RGBA{uint8(100 + world(frame)), 100, 100, 255})
				f, err := os.Create(filepath.Join(folder, fmt.Sprintf("scene_%03d.png", frame+1)))
				if err != nil {
					t.Fatal(err)
				}
				if err := png.Encode(f, img); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			write(t, filepath.Dir(folder), map[string]string{"status.json": fmt.Sprintf(`{"header":{"is_possible":%t,"block_name":"x"},"frames":[{}]}`, movie < 2)})
		}
	}
}

// From folders of frames to scores, under the published protocol: 49 frames of 100, two
// apart, 17 windows, and pairs found from a difference that no thumbnail shows.
func TestScoreIntPhys(t *testing.T) {
	root := t.TempDir()
	intPhys(t, filepath.Join(root, "dev"), "O1/01", "O3/02")
	d, err := ReadDataset("intphys", root, []string{root})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, group := range []string{"O1/01", "O3/02"} {
		for movie, label := range []int{1, 1, 0, 0} {
			want = append(want, fmt.Sprintf(`%s/%d/scene %d %s %s "" 0 false`, group, movie+1, label, group, group[:2]))
		}
	}
	checkDataset(t, d, want, []string{"block O2 is not there"})

	protocol, err := compare.FindProtocol("intphys")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := protocol.For(16, 2, false)
	if err != nil {
		t.Fatal(err)
	}
	detector := &changeDetector{size: 16, patch: 4, tubelet: 2, window: 16}
	f, err := Score(t.Context(), Config{Videos: d.Videos, Folder: d.Folder, Dataset: &compare.Dataset{Name: d.Name, Notes: d.Notes},
		Spec: spec, Size: 16, Patch: 4, Tubelet: 2, Predictor: everyContext{detector, spec}, Model: compare.Model{Name: "change"}, Decoder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Videos) != 8 || len(f.Skipped) != 0 {
		t.Fatalf("%d videos, skipped %+v", len(f.Videos), f.Skipped)
	}
	for i, v := range f.Videos {
		if v.Frames != 49 || len(v.WindowStart) != 17 || v.SHA256 == "" {
			t.Errorf("%s: %d frames, %d windows, digest %q; want 49 and 17", v.Path, v.Frames, len(v.WindowStart), v.SHA256)
		}
		if pair := []string{"1", "2", "1", "2"}[i%4]; v.Pair != pair {
			t.Errorf("%s is of pair %q, want %q", v.Path, v.Pair, pair)
		}
	}
	if f.Dataset == nil || f.Spec.Protocol != "intphys" || f.Spec.ProtocolVersion != 1 {
		t.Errorf("the file says dataset %+v, protocol %q version %d", f.Dataset, f.Spec.Protocol, f.Spec.ProtocolVersion)
	}
	table, err := compare.Summarize(f, compare.Options{Resamples: 100})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(table.Warnings, "intphys: block O2 is not there") {
		t.Errorf("warnings %q say nothing of the block that is not there", table.Warnings)
	}
}

// everyContext answers for each context of a spec, or of a window's own.
type everyContext struct {
	*changeDetector
	spec Spec
}

func (e everyContext) Surprise(ctx context.Context, windows []Window) ([]WindowErrors, error) {
	errs, err := e.changeDetector.Surprise(ctx, windows)
	for i := range errs {
		all, contexts := errs[i][0], e.spec.Contexts
		if windows[i].Contexts != nil {
			contexts = windows[i].Contexts
		}
		errs[i] = nil
		for _, c := range contexts {
			from := (c/e.tubelet - 1) * (e.size / e.patch) * (e.size / e.patch) // the detector says nothing of the first tubelet
			errs[i] = append(errs[i], ContextErrors{Context: c, Tokens: all.Tokens[from:], Errors: all.Errors[from:]})
		}
	}
	return errs, err
}

func TestReadIntPhys2(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"Main/metadata.csv": "\ufeffSceneIndex,name,type,condition,Difficulty,file_name\n" +
			"7,a,1_Possible,permanence,Easy,Videos/a.mp4\n7,b,1_Impossible,permanence,Easy,Videos/b.mp4\n" +
			"9,c,2_Possible,continuity_swap,Hard,\n9,d,2_Impossible,continuity_swap,Hard,\n",
	})
	d, err := ReadDataset("intphys2", root, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkDataset(t, d, []string{
		`Videos/a.mp4 1 7 permanence "1" 0 false`, `Videos/b.mp4 0 7 permanence "1" 0 false`,
		`Videos/c.mp4 1 9 continuity "2" 0 false`, `Videos/d.mp4 0 9 continuity "2" 0 false`,
	}, nil)
	if d.FrameStep != 10 {
		t.Errorf("frame step %d, want 10", d.FrameStep)
	}
}

func TestReadGRASP(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"level2/P_Collision/000.mp4": "", "level2/IP_Collision/000.mp4": "", "level2/P_Collision/001.mp4": "", "level2/IP_Collision/001.mp4": "",
		"level2/P_Collision/002.mp4": "", "level2/IP_Gravity/000.mp4": "", "level2/P_Gravity/000.mp4": "", "level2/IP_Gravity/003.mp4": "",
		"level2/P_LocationMemory/000.mp4": "", "level1/Up/000.mp4": "", "level2/P_Collision/.hidden": "",
	})
	d, err := ReadDataset("grasp", root, nil)
	if err != nil {
		t.Fatal(err)
	}
	notes := []string{"P_LocationMemory is no property of the published evaluation and is left out",
		"P_Collision/002.mp4 has no counterpart in IP_Collision and is left out"}
	notes = append(notes, "IP_Gravity/003.mp4 has no counterpart in P_Gravity and is left out",
		"not there: Continuity, "+strings.Join(graspProperties[3:], ", "))
	checkDataset(t, d, []string{
		`IP_Collision/000.mp4 0 Collision/000 Collision "" 0 false`, `P_Collision/000.mp4 1 Collision/000 Collision "" 0 false`,
		`IP_Collision/001.mp4 0 Collision/001 Collision "" 0 false`, `P_Collision/001.mp4 1 Collision/001 Collision "" 0 false`,
		`IP_Gravity/000.mp4 0 Gravity/000 Gravity "" 0 false`, `P_Gravity/000.mp4 1 Gravity/000 Gravity "" 0 false`,
	}, notes)
}

const infLevelHeader = "vid1_path,vid1_start_priming_1,vid1_end_priming_1,vid1_start_priming_2,vid1_end_priming_2,vid1_label," +
	"vid2_path,vid2_start_priming_1,vid2_end_priming_1,vid2_start_priming_2,vid2_end_priming_2,vid2_label\n"

func TestReadInfLevel(t *testing.T) {
	root := t.TempDir()
	files := map[string]string{
		"gravity/center__gravity__cup__duck__ui.mp4": "", "gravity/center__gravity__cup__duck__uv.mp4": "", "gravity/center__gravity__cup__duck__cv.mp4": "",
		"continuity.csv": infLevelHeader +
			"continuity/left__continuity__cup__duck__vv__LR.mp4,1,2,3,14,possible,continuity/left__continuity__cup__duck__vi__LR.mp4,1,2,3,16,impossible\n" +
			"continuity/gone__continuity__cup__duck__vv__LR.mp4,1,2,3,14,possible,continuity/gone__continuity__cup__duck__vi__LR.mp4,1,2,3,16,impossible\n",
	}
	for _, event := range []string{"vv", "vi", "ii", "iv"} {
		files["continuity/left__continuity__cup__duck__"+event+"__LR.mp4"] = ""
	}
	write(t, root, files)
	d, err := ReadDataset("inflevel", root, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkDataset(t, d, []string{
		`continuity/left__continuity__cup__duck__vi__LR.mp4 0 continuity/left__continuity__cup__duck____LR continuity "v" 17 true`,
		`continuity/left__continuity__cup__duck__vv__LR.mp4 1 continuity/left__continuity__cup__duck____LR continuity "v" 15 true`,
		`gravity/center__gravity__cup__duck__ui.mp4 1 gravity/center__gravity__cup__duck__ gravity "u" 0 true`,
		`gravity/center__gravity__cup__duck__uv.mp4 0 gravity/center__gravity__cup__duck__ gravity "u" 0 true`,
	}, []string{
		"continuity/left__continuity__cup__duck__ii__LR.mp4 is not in continuity.csv and is left out",
		"continuity/left__continuity__cup__duck__iv__LR.mp4 is not in continuity.csv and is left out",
		"continuity/gone__continuity__cup__duck__vi__LR.mp4 is in continuity.csv and not there",
		"continuity/gone__continuity__cup__duck__vv__LR.mp4 is in continuity.csv and not there",
		"property solidity is not there",
		"no table gravity.csv: videos of gravity are taken from their first frame on, priming included",
		"gravity/center__gravity__cup__duck__cv.mp4 has no counterpart and is left out",
	})
}

// The longer video of a pair begins later, by what it has more of after its priming; other
// pairs of the group have lengths of their own; a video that cannot be counted is named.
func TestEqualLengthPerPair(t *testing.T) {
	v, videos := quadruplets(t, 2)
	c, _ := testConfig(v, videos)
	frames := map[string]int{"a0": 114, "a2": 110, "a1": 90, "a3": 90}
	for i := range c.Videos {
		c.Videos[i].EqualLength, c.Videos[i].Pair = true, []string{"x", "y", "x", "y"}[i%4]
		if i%4 == 2 {
			c.Videos[i].First = 3
		}
	}
	c.Count = func(_ context.Context, path string) (int, error) {
		if n, ok := frames[filepath.Base(path)]; ok {
			return n, nil
		}
		return 0, &video.FileError{Path: path, Reason: "truncated after frame 3"}
	}
	first := map[string]int{}
	c.Read = func(ctx context.Context, path string, o video.ReadOptions) (*video.Clip, error) {
		first[filepath.Base(path)] = o.First
		return v.read(ctx, path, o)
	}
	f, err := Score(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// a0 has 114 frames, a2 107 after its third: a0 loses seven.
	if want := map[string]int{"a0": 7, "a1": 0, "a2": 3, "a3": 0}; !reflect.DeepEqual(first, want) {
		t.Errorf("videos begin with frames %v, want %v", first, want)
	}
	for i, want := range []Video{{First: 7, Pair: "x"}, {Pair: "y"}, {First: 3, Pair: "x"}, {Pair: "y"}} {
		if got := f.Videos[i]; got.First != want.First || got.Pair != want.Pair {
			t.Errorf("%s is recorded from frame %d, pair %q; want %d and %q", got.Path, got.First, got.Pair, want.First, want.Pair)
		}
	}
	if len(f.Skipped) != 4 || !strings.Contains(f.Skipped[0].Reason, "truncated after frame 3") {
		t.Errorf("skipped %+v, want group b, which could not be counted", f.Skipped)
	}
}

func TestReadDatasetNamesTheFault(t *testing.T) {
	const status = `{"header":{"is_possible":true}}`
	for want, c := range map[string]struct {
		name  string
		files map[string]string
	}{
		`dataset: "intphis", want one of intphys, intphys2, grasp, inflevel`: {"intphis", nil},
		"not laid out like it: want folders O1, O2, O3":                      {"intphys", map[string]string{"O4/01/1/status.json": status}},
		"O1/01/2/status.json: no such file; the test set":                    {"intphys", map[string]string{"O1/01/1/status.json": status, "O1/01/1/scene/x.png": ""}},
		"O1/01/1/status.json: header.is_possible: absent":                    {"intphys", map[string]string{"O1/01/1/status.json": `{"header":{}}`}},
		"O1/01/1/status.json: json: cannot unmarshal string":                 {"intphys", map[string]string{"O1/01/1/status.json": `{"header":{"is_possible":"yes"}}`}},
		`group "O1/01": no impossible video`: {"intphys", map[string]string{
			"O1/01/1/status.json": status, "O1/01/2/status.json": status, "O1/01/3/status.json": status, "O1/01/4/status.json": status}},
		"want metadata.csv and Videos":                           {"intphys2", map[string]string{"HeldOut/Videos/a.mp4": ""}},
		`no column "type"`:                                       {"intphys2", map[string]string{"metadata.csv": "SceneIndex,condition\n"}},
		`metadata.csv: line 3: type: "3_Possible"`:               {"intphys2", map[string]string{"metadata.csv": "SceneIndex,type,condition,name\n1,1_Possible,p,a\n1,3_Possible,p,b\n"}},
		`metadata.csv: line 2: type: "1_possible"`:               {"intphys2", map[string]string{"metadata.csv": "SceneIndex,type,condition,name\n1,1_possible,p,a\n"}},
		"line 2: SceneIndex: empty":                              {"intphys2", map[string]string{"metadata.csv": "SceneIndex,type,condition,name\n,1_Possible,p,a\n"}},
		"file_name, name, filename: all empty":                   {"intphys2", map[string]string{"metadata.csv": "SceneIndex,type,condition\n1,1_Possible,p\n"}},
		"outside the folders that may be read":                   {"intphys2", map[string]string{"metadata.csv": "SceneIndex,type,condition,file_name\n1,1_Possible,p,../../../etc/passwd\n"}},
		"want folders P_Collision, IP_Collision":                 {"grasp", map[string]string{"P_Collision/000.mp4": ""}},
		"holds no complete group":                                {"grasp", map[string]string{"IP_Collision/000.mp4": ""}},
		"want folders continuity, solidity, gravity":             {"inflevel", map[string]string{"magic/a.mp4": ""}},
		"gravity/duck.mp4: want camera__category":                {"inflevel", map[string]string{"gravity/duck.mp4": ""}},
		`event "vv" is none of gravity`:                          {"inflevel", map[string]string{"gravity/c__gravity__cup__duck__vv.mp4": ""}},
		"possible by its name or by gravity.csv, not by both":    {"inflevel", infLevelTable("c__gravity__cup__duck__ui.mp4,0,0,1,2,impossible,gravity/x.mp4,0,0,1,2,possible")},
		`vid2_end_priming_2: "-1"`:                               {"inflevel", infLevelTable("c__gravity__cup__duck__ui.mp4,0,0,1,2,possible,gravity/x.mp4,0,0,1,-1,possible")},
		`vid1_label: "perhaps"`:                                  {"inflevel", infLevelTable("c__gravity__cup__duck__ui.mp4,0,0,1,2,perhaps,gravity/x.mp4,0,0,1,2,possible")},
		`vid2_path: "gravity/c__gravity__cup__duck__ui.mp4", wa`: {"inflevel", infLevelTable("c__gravity__cup__duck__ui.mp4,0,0,1,2,possible,gravity/c__gravity__cup__duck__ui.mp4,0,0,1,2,possible")},
	} {
		root := t.TempDir()
		write(t, root, c.files)
		if _, err := ReadDataset(c.name, root, []string{root}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func infLevelTable(row string) map[string]string {
	return map[string]string{"gravity.csv": infLevelHeader + "gravity/" + row + "\n", "gravity/c__gravity__cup__duck__ui.mp4": ""}
}

// Whatever a folder misses is named, up to a bound.
func TestNotesAreBounded(t *testing.T) {
	root := t.TempDir()
	files := map[string]string{"IP_Collision/x.mp4": "", "P_Collision/x.mp4": ""}
	for i := range 150 {
		files[fmt.Sprintf("P_Collision/%d.mp4", i)] = ""
	}
	write(t, root, files)
	d, err := ReadDataset("grasp", root, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(d.Notes); n != maxNotes+1 || d.Notes[n-1] != "and 51 notes more" {
		t.Errorf("%d notes, the last %q", len(d.Notes), d.Notes[len(d.Notes)-1])
	}
}

func FuzzCSVRows(f *testing.F) {
	f.Add("SceneIndex,type,condition\n1,1_Possible,permanence\n")
	f.Add("\ufeffa,\"b\nc\"\n\"d\",e\n")
	f.Fuzz(func(t *testing.T, text string) {
		_ = csvRows(strings.NewReader(text), "m.csv", []string{"type"}, func(line int, cell func(string) string) error {
			if line < 2 || len(cell("type")) > maxFieldBytes || cell("no such column") != "" {
				t.Errorf("%q: line %d has type %q", text, line, cell("type"))
			}
			return nil
		})
	})
}
