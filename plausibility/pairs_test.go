package plausibility

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writePairs(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pairs.csv")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadPairs(t *testing.T) {
	path := writePairs(t, "\ufeffpath,label,group,property\r\na.mp4,1,g,colour\r\n\"sub/b, c.mp4\",0,g,colour\r\n/abs/d.mp4,0,g,colour\r\n")
	videos, err := ReadPairs(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	want := []Video{
		{Path: filepath.Join(dir, "a.mp4"), Name: "a.mp4", Label: 1, Group: "g", Property: "colour"},
		{Path: filepath.Join(dir, "sub", "b, c.mp4"), Name: "sub/b, c.mp4", Label: 0, Group: "g", Property: "colour"},
		{Path: "/abs/d.mp4", Name: "/abs/d.mp4", Label: 0, Group: "g", Property: "colour"},
	}
	for i := range want {
		if videos[i] != want[i] {
			t.Errorf("video %d is %+v, want %+v", i, videos[i], want[i])
		}
	}
}

// People have columns of their own.
func TestReadPairsFindsItsColumns(t *testing.T) {
	got, err := parsePairs(strings.NewReader("\ufeffGroup, note, Property, Path, label\ng, x, p, a.mp4, 1\ng, , p, b.mp4, 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Video{{Path: "a.mp4", Name: "a.mp4", Label: 1, Group: "g", Property: "p"}, {Path: "b.mp4", Name: "b.mp4", Group: "g", Property: "p"}} {
		if got[i] != want {
			t.Errorf("%+v, want %+v", got[i], want)
		}
	}
}

func TestReadPairsNamesTheFault(t *testing.T) {
	const header = "path,label,group,property\n"
	for text, want := range map[string]string{
		"":                                       "empty",
		header:                                   "names no video",
		"path label\n":                           "line 1: a header of 1 columns without path",
		header + "a,1,g\n":                       "line 2: 3 fields, want 4",
		header + "a,1,g,p\nb,2,g,p\n":            `line 3: label: "2"`,
		header + "a,1,g,p\nb,possible,g,p\n":     `line 3: label: "possible"`,
		header + ",1,g,p\n":                      "line 2: path: empty",
		header + "a,1,,p\n":                      "line 2: group: empty",
		header + "a,1,g,p\nb,0,g,p\na,0,g,p\n":   `line 4: path: "a" is on line 2 already`,
		header + "a,1,g,p\n":                     `group "g": one video (a)`,
		header + "a,1,g,p\nb,1,g,p\n":            `group "g": no impossible video`,
		header + "a,0,g,p\nb,0,g,p\n":            `group "g": no possible video`,
		header + "a,1,g,p\nb,0,g,q\n":            `group "g": property "q" of b, but "p" of a`,
		header + "a,1,g,all\nb,0,g,all\n":        `line 2: property: "all"`,
		header + "a,1,g,\"p\n":                   "line",
		header + "a\x00,1,g,p\nb,0,g,p\n":        "line 2: path",
		header + "a,1,g,p\xfe\nb,0,g,p\xfe\n":    `line 2: property: "p\xfe" is not UTF-8`,
		header + "a,1,g,p\n\nb,0,g,p\nc,x,g,p\n": `line 5: label: "x"`,
	} {
		if _, err := ReadPairs(writePairs(t, text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
	if _, err := ReadPairs(filepath.Join(t.TempDir(), "absent.csv"), nil); err == nil || !strings.Contains(err.Error(), "absent.csv") {
		t.Errorf("missing file: %v", err)
	}
}

func TestReadPairsStaysBelowRoots(t *testing.T) {
	const rows = "path,label,group,property\nin.mp4,1,g,p\nOTHER,0,g,p\n"
	outside := filepath.Join(t.TempDir(), "secret.mp4")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]string{"dots": "../../secret.mp4", "absolute": outside, "link": "link.mp4", "inside": "out.mp4"} {
		path := writePairs(t, strings.Replace(rows, "OTHER", other, 1))
		root := filepath.Dir(path)
		if err := os.Symlink(outside, filepath.Join(root, "link.mp4")); err != nil {
			t.Fatal(err)
		}
		_, err := ReadPairs(path, []string{root})
		if name == "inside" {
			if err != nil {
				t.Errorf("inside: %v", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), "outside the folders that may be read") {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

// The pairs file and the roots as a person at a shell names them.
func TestReadPairsTakesARelativePath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(writePairs(t, "path,label,group,property\nsub/a.mp4,1,g,p\nb.mp4,0,g,p\n")))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, root := range []string{".", dir} {
		videos, err := ReadPairs("pairs.csv", []string{root})
		if err != nil {
			t.Errorf("root %q: %v", root, err)
		} else if got, want := videos[0].Path, filepath.Join(dir, "sub", "a.mp4"); got != want || videos[0].Name != "sub/a.mp4" {
			t.Errorf("root %q: %q is to be opened as %q, want %q", root, videos[0].Name, got, want)
		}
	}
	if _, err := ReadPairs("pairs.csv", []string{"sub"}); err == nil {
		t.Error("a video outside the root was accepted")
	}
}

func FuzzParsePairs(f *testing.F) {
	f.Add("path,label,group,property\na.mp4,1,g,p\nb.mp4,0,g,p\n")
	f.Fuzz(func(t *testing.T, text string) {
		videos, err := parsePairs(strings.NewReader(text))
		if err == nil && len(videos) < 2 {
			t.Errorf("%q gives %v", text, videos)
		}
	})
}
