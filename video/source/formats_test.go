package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func FuzzReadShard(f *testing.F) {
	var seed bytes.Buffer
	archive := tar.NewWriter(&seed)
	for name, content := range map[string]string{"a.mp4": "x", "a.cls": "1"} {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			f.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			f.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, text []byte) {
		items, err := readShard(context.Background(), bytes.NewReader(text))
		for _, it := range items {
			if err != nil || it.Offset < 512 || it.Length < 1 || it.Offset+it.Length > int64(len(text)) {
				t.Errorf("%+v of %d bytes, error %v", it, len(text), err)
			}
		}
	})
}

// A file that tar wrote with its holes left out is no video, and those around it are found where they are.
func TestShardWithHoles(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("no tar on this machine")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"a.mp4": "first", "z.mp4": "last"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "b.mp4"))
	if err != nil {
		t.Fatal(err)
	}
	_, writeErr := f.WriteAt([]byte("x"), 1<<20)
	if err := errors.Join(writeErr, f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"pax", "gnu"} {
		out, err := exec.CommandContext(t.Context(), "tar", "--format="+format, "--sparse", "-C", dir, "-cf", "-", "a.mp4", "b.mp4", "z.mp4").Output()
		if err != nil {
			t.Skipf("this tar writes no files with holes: %v", err)
		}
		items, err := readShard(t.Context(), bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, it := range items {
			got = append(got, it.Member+" "+string(out[it.Offset:it.Offset+it.Length]))
		}
		if want := []string{"a.mp4 first", "z.mp4 last"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

func TestLabelsAreBounded(t *testing.T) {
	var shard bytes.Buffer
	archive := tar.NewWriter(&shard)
	label := strings.Repeat("x", maxLabelBytes+1)
	writeErr := archive.WriteHeader(&tar.Header{Name: "a.cls", Mode: 0o644, Size: int64(len(label))})
	_, textErr := archive.Write([]byte(label))
	if err := errors.Join(writeErr, textErr, archive.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := readShard(t.Context(), bytes.NewReader(shard.Bytes())); err == nil || !strings.Contains(err.Error(), `member "a.cls": a label of 1025 bytes`) {
		t.Errorf("got %v", err)
	}
}

func TestOtherIndexes(t *testing.T) {
	for _, c := range []struct {
		extension, text string
		want            []Item
	}{
		{".tsv", "path\tlabel\na b.mp4\t3\n", []Item{{Path: "a b.mp4", Label: "3"}}},
		{".tsv", "a, b.mp4\t3\nc.mp4\n", []Item{{Path: "a, b.mp4", Label: "3"}, {Path: "c.mp4"}}},
		{".jsonl", "{\"path\":\"a.mp4\",\"label\":3,\"x\":[]}\n\n{\"label\":\"dog\",\"path\":\"b.mp4\"}\n", []Item{{Path: "a.mp4", Label: "3"}, {Path: "b.mp4", Label: "dog"}}},
		{".csv", "s3://b/a.mp4,1\n", []Item{{Path: "s3://b/a.mp4", Label: "1"}}},
	} {
		got, err := parseIndexFile(strings.NewReader(c.text), c.extension)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: %+v, %v; want %+v", c.extension, c.text, got, err, c.want)
		}
	}
	for text, want := range map[string]string{"{\"path\":\"a\"}\n[1]\n": "line 2", "{\"label\":1}\n": "line 1: no path", "{\"path\":\"a\\u0000b\"}\n": "zero byte"} {
		if _, err := parseIndexFile(strings.NewReader(text), ".jsonl"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzOtherIndexes(f *testing.F) {
	f.Add("path\tlabel\na\t1\n", true)
	f.Add("{\"path\":\"a\",\"label\":1}\n", false)
	f.Fuzz(func(t *testing.T, text string, table bool) {
		extension := ".jsonl"
		if table {
			extension = ".tsv"
		}
		items, err := parseIndexFile(strings.NewReader(text), extension)
		for _, it := range items {
			if err != nil || it.Path == "" || strings.ContainsRune(it.Path, 0) || len(it.Path) > maxLineBytes {
				t.Errorf("%+v, error %v", it, err)
			}
		}
	})
}

// What is compared is cleaned: no host, folder or query is left through dots and escapes.
func TestBelowURI(t *testing.T) {
	for name, want := range map[string]bool{
		"s3://bucket/in/a.mp4": true, "s3://bucket/in/": true, "s3://bucket/in/../in/a.mp4": true, "https://host/v/a.mp4?sig=1": true,
		"s3://bucket/in/../out/a.mp4": false, "s3://bucket/in/%2e%2e/out/a.mp4": false, "s3://bucket/in-not/a.mp4": false, "s3://other/in/a.mp4": false,
		"s3://bucket/in/a.mp4?endpoint=http://elsewhere": false, "gs://bucket/in/a.mp4": false, "https://host.evil/v/a.mp4": false,
		"https://user@host/v/a.mp4": false, "http://host/v/a.mp4": false, "https://host/v/../w/a.mp4": false, "s3://bucket/in": false,
	} {
		_, err := BelowURI([]string{"/data", "s3://bucket/in", "https://host/v/"}, name)
		if (err == nil) != want {
			t.Errorf("%s: %v, want allowed %v", name, err, want)
		}
	}
}

// A header is no video that is missing.
func TestIndexHeaders(t *testing.T) {
	for text, want := range map[string]string{
		"path label\na.mp4 1\nb.mp4 0\n": "a.mp4 1, b.mp4 0",
		"PATH\tLabel\na.mp4\t1\n":        "a.mp4 1",
		"path,label\na.mp4,1\n":          "a.mp4 1",
		"frames 3\na.mp4 1\n":            `error: line 1 looks like a header: name the column of the files path, and that of labels label; if it is a folder of frames, put a header above it`,
		"video,class\na.mp4,1\nb.mp4,0":  `error: line 1 looks like a header: name the column of the files path, and that of labels label; if it is a folder of frames, put a header above it`,
		"folder,1\nother,0\n":            "folder 1, other 0", // of frames
		"path,label\nfolder,1\nb.mp4,0":  "folder 1, b.mp4 0",
		"label,path\n1,clip7\n0,b.mp4\n": "clip7 1, b.mp4 0",
		"path label\nfolder 1\nb.mp4 0":  "folder 1, b.mp4 0",
		"set/one,1\na.mp4,0\n":           "set/one 1, a.mp4 0",
		"a.mp4,1\nb.mp4,0\n":             "a.mp4 1, b.mp4 0",
		"video\n":                        "video ",
	} {
		items, err := parseIndex(strings.NewReader(text))
		var got []string
		for _, item := range items {
			got = append(got, item.Path+" "+item.Label)
		}
		said := strings.Join(got, ", ")
		if err != nil {
			said = "error: " + err.Error()
		}
		if said != want {
			t.Errorf("%q: %s, want %s", text, said, want)
		}
	}
}
