package video

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/video/source"
)

type member struct {
	name, content string
	kind          byte
}

func tarFile(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}
		if m.kind != 0 {
			h.Typeflag, h.Size, h.Linkname = m.kind, 0, "/etc/passwd"
			m.content = ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func content(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Videos in a tar shard are decoded where they lie, of every container, and are the ones that lie outside.
func TestTarShard(t *testing.T) {
	dir := t.TempDir()
	files := []string{
		pattern(t, "a.mp4", 96, 64, 15, 90, "-c:v", "libx264", "-g", "12"),
		pattern(t, "b.webm", 96, 64, 15, 90, "-c:v", "libvpx"),
		pattern(t, "c.avi", 96, 64, 15, 90, "-c:v", "mpeg4"),
		pattern(t, "d.gif", 96, 64, 10, 70),
	}
	long := strings.Repeat("folder/", 40) // beyond what a plain header holds
	shard := write(t, filepath.Join(dir, "with, comma : and %d.tar"), string(tarFile(t,
		member{name: "x/0001.mp4", content: content(t, files[0])}, member{name: "x/0001.cls", content: "7\n"},
		member{name: "x/0002.json", content: `{"label": 12, "other": [1]}`}, member{name: "x/0002.cam.webm", content: content(t, files[1])},
		member{name: long + "c.avi", content: content(t, files[2])}, member{name: "d.gif", content: content(t, files[3])},
		member{name: "link.mp4", kind: tar.TypeSymlink}, member{name: "empty.mp4"}, member{name: "notes.txt", content: "no video"},
	)))
	items, err := source.Resolve(t.Context(), []string{dir}, []string{dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != 4 || items[0].Label != "7" || items[1].Label != "12" || items[2].Label != "" || items[0].Name() != shard+"/x/0001.mp4" {
		t.Fatalf("%+v", items)
	}
	inside := mustOpen(t, Spec{Data: []string{shard}, Size: 16, Frames: 4, CacheMiB: -1, ClipsPerVideo: 6})
	outside := mustOpen(t, Spec{Data: files, Size: 16, Frames: 4, CacheMiB: -1, ClipsPerVideo: 6})
	for i := range int64(24) {
		_, want := sample(t, outside, i)
		if info, got := sample(t, inside, i); !slices.Equal(got, want) || !strings.HasPrefix(info.Path, shard+"/") {
			t.Errorf("clip %d of %s is another in the shard", i, info.Path)
		}
	}

	whole := content(t, shard)
	for name, text := range map[string]string{
		"cut off":   whole[:len(whole)/2],
		"no tar":    "hello world, no tar at all" + strings.Repeat("x", 2000),
		"no videos": string(tarFile(t, member{name: "a.txt", content: "x"})),
	} {
		path := write(t, filepath.Join(t.TempDir(), "bad.tar"), text)
		if items, err := source.Resolve(t.Context(), []string{path}, nil, nil); err == nil || !strings.Contains(err.Error(), "bad.tar") {
			t.Errorf("%s: %v, %v", name, items, err)
		}
	}
}

// folderRemote serves a folder as if it were a bucket, and counts what is in use.
type folderRemote struct {
	dir     string
	fetches int
	inUse   int
}

func (r *folderRemote) file(uri string) string {
	return filepath.Join(r.dir, strings.TrimPrefix(uri, "s3://bucket/"))
}

func (r *folderRemote) List(_ context.Context, uri string) (names []string, err error) {
	err = filepath.WalkDir(r.file(uri), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(r.dir, path)
			names = append(names, "s3://bucket/"+rel)
		}
		return err
	})
	return names, err
}

func (r *folderRemote) Fetch(_ context.Context, uri string) (string, func(), error) {
	r.fetches++
	if _, err := os.Stat(r.file(uri)); err != nil {
		return "", nil, err
	}
	r.inUse++
	return r.file(uri), func() { r.inUse-- }, nil
}

// A dataset elsewhere gives the clips of the same files here; an index there names nothing here, and roots hold.
func TestDatasetElsewhere(t *testing.T) {
	dir := threeFiles(t)
	write(t, filepath.Join(dir, "lists", "index.csv"), "path,label\n../0.mp4,5\ns3://bucket/1.mp4,6\n../gone.mp4,7\n")
	write(t, filepath.Join(dir, "shards", "s.tar"), string(tarFile(t, member{name: "v.mp4", content: content(t, filepath.Join(dir, "2.mp4"))})))
	remote := &folderRemote{dir: dir}
	p := NewPool(PoolOptions{Size: 1, Remote: remote})
	defer p.Close()
	spec := Spec{Data: []string{"s3://bucket/"}, Size: 16, Frames: 4, CacheMiB: -1}
	there := openWith(t, p, spec)
	if there.Len() != 4 || there.Verdicts()[0].Path != "s3://bucket/0.mp4" || there.Verdicts()[3].Path != "s3://bucket/shards/s.tar/v.mp4" {
		t.Fatalf("%+v", there.Verdicts())
	}
	spec.Data = []string{dir}
	here := mustOpen(t, spec)
	for i := range int64(4) {
		info, want := sample(t, here, i)
		gotInfo, got := sample(t, there, i)
		if !slices.Equal(got, want) || strings.TrimPrefix(gotInfo.Path, "s3://bucket") != strings.TrimPrefix(info.Path, dir) {
			t.Errorf("clip %d of %s is another than of %s", i, gotInfo.Path, info.Path)
		}
	}
	spec.Data, spec.MaxUnusable = []string{"s3://bucket/lists/index.csv"}, 0.5
	d := openWith(t, p, spec)
	if v := d.Verdicts(); d.Len() != 2 || len(v) != 3 || v[2].Kind != Unreadable || v[2].Path != "s3://bucket/gone.mp4" {
		t.Errorf("%+v", v)
	}
	if remote.inUse != 0 {
		t.Errorf("%d files are still in use", remote.inUse)
	}

	for _, data := range []string{"s3://bucket/0.mp4", dir} {
		if _, err := source.Resolve(t.Context(), []string{data}, []string{"s3://bucket/in"}, remote); err == nil || !strings.Contains(err.Error(), "outside the folders") {
			t.Errorf("%s: %v", data, err)
		}
	}
	outside := write(t, filepath.Join(t.TempDir(), "i.csv"), "/etc/passwd,1\n")
	copyFile(t, outside, filepath.Join(dir, "lists", "local.csv"), 0)
	items, err := source.Resolve(t.Context(), []string{"s3://bucket/lists/local.csv"}, nil, remote)
	if err != nil || len(items) != 1 || items[0].Path != "" || items[0].URI != "s3://bucket/lists/etc/passwd" {
		t.Errorf("an index elsewhere names %s, %v", fmt.Sprint(items), err)
	}
}
