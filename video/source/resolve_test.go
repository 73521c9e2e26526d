package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseIndex(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []Item
	}{
		{"V-JEPA", "a.mp4 3\nb/c.mp4 12\n", []Item{{Path: "a.mp4", Label: "3"}, {Path: "b/c.mp4", Label: "12"}}},
		{"spaces in the path", "my clip.mp4 3\nother clip.mp4\n\n", []Item{{Path: "my clip.mp4", Label: "3"}, {Path: "other clip.mp4", Label: ""}}},
		{"tabs, CRLF, byte order mark", "\xef\xbb\xbfa.mp4\t3\r\nb.mp4\t4\r\n", []Item{{Path: "a.mp4", Label: "3"}, {Path: "b.mp4", Label: "4"}}},
		{"CSV", "a.mp4,3,x\nb.mp4,4,y\n", []Item{{Path: "a.mp4", Label: "3"}, {Path: "b.mp4", Label: "4"}}},
		{"CSV without labels", "a.mp4,\nb.mp4\n", []Item{{Path: "a.mp4", Label: ""}, {Path: "b.mp4", Label: ""}}},
		{"CSV with header", "path,label,group,property\na.mp4,1,g,p\n", []Item{{Path: "a.mp4", Label: "1"}}},
		{"header in another order", "group, Label, Path\ng,1,a.mp4\n", []Item{{Path: "a.mp4", Label: "1"}}},
		{"header without label", "path,group\na.mp4,g\n", []Item{{Path: "a.mp4", Label: ""}}},
		{"header alone", "path\na.mp4\n", []Item{{Path: "a.mp4", Label: ""}}},
		{"quotes", "\"a, b.mp4\",1\n", []Item{{Path: "a, b.mp4", Label: "1"}}},
		{"nothing", " \n\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseIndex(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	for text, want := range map[string]string{
		"path,label\n,1\n":                         "line 2: no path",
		"a\x00b 1\n":                               "zero byte",
		"a.mp4,1\n\"b.mp4,2\n":                     "line",
		strings.Repeat("x", maxLineBytes+1):        "limit",
		strings.Repeat("x", maxLineBytes+1) + ",1": "limit",
	} {
		if _, err := parseIndex(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	for _, text := range []string{"a.mp4 3\n", "path,label\na.mp4,1\n", "\"a,b\",1\n", "\xef\xbb\xbfa b c\n", ",\n", "path\n\"\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, err := parseIndex(strings.NewReader(text))
		if err != nil && items != nil {
			t.Errorf("items beside error %v", err)
		}
		if len(items) > 1+strings.Count(text, "\n")+strings.Count(text, "\r") {
			t.Errorf("%d items from %q", len(items), text)
		}
		for _, item := range items {
			if item.Path == "" || strings.TrimSpace(item.Path) != item.Path || strings.ContainsRune(item.Path, 0) {
				t.Errorf("path %q from %q", item.Path, text)
			}
		}
	})
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"set/b.mp4", "set/a.AVI", "set/deep/c.webm", "set/notes.md", "set/odd[1].mkv", "other/d.gif", "strange.bin"} {
		write(t, at(name), "x")
	}
	write(t, at("set.csv"), "path,label\nset/b.mp4,7\nmissing.mp4,8\n"+at("other/d.gif")+",9\n")
	write(t, at("empty.csv"), "path,label\n")
	if err := os.Mkdir(at("hollow"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []string
		want []string // relative to dir
	}{
		{"folder", []string{at("set")}, []string{"set/a.AVI", "set/b.mp4", "set/deep/c.webm", "set/odd[1].mkv"}},
		{"file of any name", []string{at("strange.bin")}, []string{"strange.bin"}},
		{"glob of files", []string{at("set/*.mp4")}, []string{"set/b.mp4"}},
		{"glob takes what looks like a video", []string{at("set/*")}, []string{"set/a.AVI", "set/b.mp4", "set/deep/c.webm", "set/odd[1].mkv"}},
		{"name with brackets", []string{at("set/odd[1].mkv")}, []string{"set/odd[1].mkv"}},
		{"index", []string{at("set.csv")}, []string{"set/b.mp4", "missing.mp4", "other/d.gif"}},
		{"named twice", []string{at("set/b.mp4"), at("set.csv"), at("set/b.mp4")}, []string{"set/b.mp4", "missing.mp4", "other/d.gif"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			items, err := Resolve(context.Background(), c.data, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, item := range items {
				name, _ := filepath.Rel(dir, item.Path)
				got = append(got, name)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	write(t, at("mixed/a.mp4"), "x")
	write(t, at("mixed/b.TS"), "x")
	write(t, at("mixed/c.flv"), "x")
	var said bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&said, nil)))
	items, err := Resolve(context.Background(), []string{at("mixed")}, nil, nil)
	slog.SetDefault(before)
	if err != nil || len(items) != 1 || !strings.Contains(said.String(), "map[.flv:1 .ts:1]") {
		t.Errorf("%d items, %v; said %s", len(items), err, &said)
	}
	for name, want := range map[string]string{
		at("nowhere.mp4"):   "no such file",
		at("hollow"):        "no video in it",
		at("hollow/*.mp4"):  "nothing matches",
		at("empty.csv"):     "no video in it",
		at("set/[a"):        "syntax error",
		"http://host/a.mp4": "a URI",
		"":                  "an empty name",
	} {
		_, err := Resolve(context.Background(), []string{at("set"), name}, nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Base(name)) && name != "" {
			t.Errorf("%q: error %v, want %q", name, err, want)
		}
	}
}

func TestRoots(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("in/a.mp4"), "x")
	write(t, at("in/sub/b.mp4"), "x")
	write(t, at("in-not/c.mp4"), "x")
	write(t, at("out/secret.mp4"), "x")
	write(t, at("in/escape.csv"), "../out/secret.mp4 1\n")
	write(t, at("out/list.csv"), "../in/a.mp4 1\n")
	link := func(to, name string) {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	link(at("out/secret.mp4"), "out/other.mp4")
	link(at("in"), "root")
	link(at("in/sub"), "good")

	for _, data := range []string{at("in/a.mp4"), at("root/a.mp4"), at("in/sub"), at("good"), at("in/*.mp4"), at("in/../in/a.mp4")} {
		items, err := Resolve(context.Background(), []string{data}, []string{at("root")}, nil)
		if err != nil {
			t.Errorf("%q refused: %v", data, err)
		}
		for _, item := range items {
			if !strings.HasPrefix(item.Path, at("in")+"/") {
				t.Errorf("%q gives %q", data, item.Path)
			}
		}
	}
	link(at("out/secret.mp4"), "in/sneaky.mp4")
	link(at("out"), "in/door") // a folder that may not be read is passed over; a video is refused
	for _, data := range []string{
		at("out/secret.mp4"), at("out/none.mp4"), at("out/*.mp4"), at("out"), at("in/../out/secret.mp4"), at("in-not/c.mp4"),
		at("in/sneaky.mp4"), at("in"), at("in/door/secret.mp4"), at("in/door/*"), at("in/escape.csv"), at("out/list.csv"), at("in/*/secret.mp4"), "/",
	} {
		items, err := Resolve(context.Background(), []string{data}, []string{at("in")}, nil)
		if err == nil || !strings.Contains(err.Error(), "outside the folders") {
			t.Errorf("%q: %+v, error %v; want it refused", data, items, err)
		}
	}
	link(at("out/gone.mp4"), "in/dangling.mp4")
	if _, err := Resolve(context.Background(), []string{at("in/dangling.mp4")}, []string{at("in")}, nil); err == nil {
		t.Error("a link that leads nowhere was accepted")
	}
}

// Paths and roots are often given relative, one without the other.
func TestBelowTakesRelativePaths(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	write(t, filepath.Join(dir, "in/a.mp4"), "x")
	for _, c := range []struct {
		root, path string
		below      bool
	}{
		{dir, "in/a.mp4", true},
		{".", filepath.Join(dir, "in/a.mp4"), true},
		{"in", "in/a.mp4", true},
		{"in", "in/missing.mp4", true},
		{"in", "a.mp4", false},
		{filepath.Join(dir, "in"), "../a.mp4", false},
	} {
		got, err := Below([]string{c.root}, c.path)
		if (err == nil) != c.below {
			t.Errorf("%q below %q: %q, error %v", c.path, c.root, got, err)
		}
		if err == nil && !filepath.IsAbs(got) {
			t.Errorf("%q below %q is to be opened as %q, want it absolute", c.path, c.root, got)
		}
	}
	if got, err := Below(nil, "in/../in/a.mp4"); err != nil || got != "in/../in/a.mp4" {
		t.Errorf("without roots: %q, %v", got, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A folder may be named by a link to it.
func TestALinkedFolder(t *testing.T) {
	dir := t.TempDir()
	folder, link := filepath.Join(dir, "clips"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "a.mp4"), nil, 0o644), os.Symlink(folder, link)); err != nil {
		t.Fatal(err)
	}
	for _, roots := range [][]string{nil, {dir}} {
		if items, err := Resolve(t.Context(), []string{link}, roots, nil); err != nil || len(items) != 1 {
			t.Errorf("roots %q: %v, %v", roots, items, err)
		}
	}
}

// Data sets on clusters are folders of links; each folder counts once, and a circle ends.
func TestLinksToFolders(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"data/a.mp4", "data/sub/b.mp4", "else/where/c.mp4", "else/d.mp4"} {
		write(t, at(name), "x")
	}
	for name, to := range map[string]string{
		"data/linked": "else", "data/again": "else/where", "data/circle": "data", "data/inner": "data/sub", "else/back": "data/sub", "data/nowhere": "gone",
	} {
		if err := os.Symlink(at(to), at(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, roots := range [][]string{nil, {dir}} {
		items, err := Resolve(t.Context(), []string{at("data")}, roots, nil)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, item := range items {
			found[filepath.Base(item.Path)]++
		}
		if !maps.Equal(found, map[string]int{"a.mp4": 1, "b.mp4": 1, "c.mp4": 1, "d.mp4": 1}) {
			t.Errorf("roots %q: %v", roots, items)
		}
	}
	// A folder that may not be read is passed over.
	if items, err := Resolve(t.Context(), []string{at("data")}, []string{at("data")}, nil); err != nil || len(items) != 2 {
		t.Errorf("%v, %v, want the two that lie below the root", items, err)
	}
	// A chain of links is followed to its end.
	const chain = 60
	for i := range chain {
		write(t, at(fmt.Sprintf("chain/%d/v.mp4", i)), "x")
		if err := os.Symlink(at(fmt.Sprintf("chain/%d", i+1)), at(fmt.Sprintf("chain/%d/next", i))); err != nil {
			t.Fatal(err)
		}
	}
	if items, err := Resolve(t.Context(), []string{at("chain/0")}, nil, nil); err != nil || len(items) != chain {
		t.Errorf("%d of %d videos, %v", len(items), chain, err)
	}
}
