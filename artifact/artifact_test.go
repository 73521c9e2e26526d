package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob"

	"github.com/surmise-ml/surmise/artifact/artifacttest"
	"github.com/surmise-ml/surmise/internal/durable"
)

const attempt1, attempt2 = "jobs/a/attempts/1", "jobs/a/attempts/2"

// quick tries again soon, and not for long.
func quick(t *testing.T) Options {
	return Options{PartBytes: 1000, Timeout: 10 * time.Second, Patience: 10 * time.Second, MinWait: time.Millisecond, MaxWait: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// conformance runs a test against every kind of store.
func conformance(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("memory", func(t *testing.T) {
		test(t, closing(t)(NewStore(memblob.OpenBucket(nil), "some/prefix", "mem://", quick(t)), nil))
	})
	t.Run("folder", func(t *testing.T) {
		test(t, closing(t)(Open(t.Context(), "file://"+t.TempDir(), quick(t))))
	})
	t.Run("s3", func(t *testing.T) {
		test(t, closing(t)(Open(t.Context(), artifacttest.StartS3(t).URL("some/prefix"), quick(t))))
	})
}

func closing(t *testing.T) func(*Store, error) *Store {
	return func(s *Store, err error) *Store {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}

// checkpointFolder makes a folder like a checkpoint's, with a file of several parts, one of a single byte and one of none.
func checkpointFolder(t *testing.T, seed uint64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "step-00000400")
	large := make([]byte, 4500)
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = rng.Read(large)
	for name, data := range map[string][]byte{"model.safetensors": large, "manifest.json": []byte("{"), "below/empty": nil, ".unfinished-x": large} {
		write(t, filepath.Join(dir, name), data)
	}
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func upload(t *testing.T, s *Store, attempt, bundle, local string, values map[string]float64) *Upload {
	t.Helper()
	u, err := s.NewUpload(t.Context(), attempt, bundle, Source{Path: local, Figures: values})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func publish(t *testing.T, s *Store, attempt, bundle, local string, values map[string]float64) Ref {
	t.Helper()
	ref, err := upload(t, s, attempt, bundle, local, values).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func wantSame(t *testing.T, got, want string, names ...string) {
	t.Helper()
	for _, name := range names {
		a, err := os.ReadFile(filepath.Join(got, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(want, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %d bytes came back that are not the %d published", name, len(a), len(b))
		}
	}
}

func keys(t *testing.T, s *Store) (out []string) {
	t.Helper()
	objects, err := s.list(t.Context(), "", maxObjects)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		out = append(out, o.key)
	}
	return out
}

func TestWhatIsPublishedComesBack(t *testing.T) {
	conformance(t, func(t *testing.T, s *Store) {
		local := checkpointFolder(t, 1)
		ref := publish(t, s, attempt1, "checkpoints/step-00000400", local, map[string]float64{"loss": 0.5})
		if ref.Path != attempt1+"/checkpoints/step-00000400" || ParseRef(ref.String()) != ref {
			t.Errorf("reference %s", ref)
		}
		if got := keys(t, s); len(got) != 8 || !slices.Contains(got, ref.Path+"/model.safetensors.part-00004") || !slices.Contains(got, attempt1+"/manifests/checkpoints/step-00000400.json") {
			t.Errorf("objects %v", got)
		}
		m, err := s.Check(t.Context(), ref)
		if err != nil || len(m.Files) != 3 || m.Size(nil) != 4501 || m.Figures["loss"] != 0.5 {
			t.Errorf("manifest %+v: %v", m, err)
		}
		dir := t.TempDir()
		if _, err := s.Fetch(t.Context(), ref, dir, nil); err != nil {
			t.Fatal(err)
		}
		wantSame(t, dir, local, "model.safetensors", "manifest.json", "below/empty")
		if err := m.Verify(dir, nil); err != nil {
			t.Error(err)
		}
		some := t.TempDir()
		if _, err := s.Fetch(t.Context(), ref, some, func(name string) bool { return name == "manifest.json" }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(some, "model.safetensors")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file came that nobody wanted: %v", err)
		}

		// A bundle that is a file goes by the digest of the file as well.
		scores := filepath.Join(t.TempDir(), "scores.json")
		write(t, scores, bytes.Repeat([]byte("x"), 2500))
		ref = publish(t, s, attempt1, "scores.json", scores, nil)
		if m, err = s.Manifest(t.Context(), ref); err != nil || !m.Single {
			t.Fatal(m, err)
		}
		ref.SHA256 = m.Files[0].SHA256
		if _, err := s.Fetch(t.Context(), ref, dir, nil); err != nil {
			t.Fatal(err)
		}
		wantSame(t, dir, filepath.Dir(scores), "scores.json")
		if err := VerifyFile(filepath.Join(dir, "scores.json"), ref.SHA256); err != nil {
			t.Error(err)
		}
	})
}

// A manifest is written once. Who writes the same again has published; who writes another has not, and changes nothing.
func TestAConditionalWriteIsLost(t *testing.T) {
	conformance(t, func(t *testing.T, s *Store) {
		local := checkpointFolder(t, 1)
		ref := publish(t, s, attempt1, "checkpoints/step-00000400", local, nil)
		if again := publish(t, s, attempt1, "checkpoints/step-00000400", local, nil); again != ref {
			t.Errorf("published again as %s, was %s", again, ref)
		}
		other := checkpointFolder(t, 2)
		if err := os.Remove(filepath.Join(other, "model.safetensors")); err != nil { // so that no object is overwritten
			t.Fatal(err)
		}
		if _, err := upload(t, s, attempt1, "checkpoints/step-00000400", other, nil).Run(t.Context()); !errors.Is(err, ErrExists) {
			t.Errorf("another checkpoint under the same name: %v, want ErrExists", err)
		}
		if _, err := s.Fetch(t.Context(), ref, t.TempDir(), nil); err != nil {
			t.Errorf("the first is no longer whole: %v", err)
		}
	})
}

// Of many writers at a time exactly one wins, and what is there is what it wrote.
func TestOneOfManyWritersWins(t *testing.T) {
	conformance(t, func(t *testing.T, s *Store) {
		var won atomic.Int64
		var winner atomic.Value
		var all sync.WaitGroup
		start := make(chan struct{})
		for i := range 16 {
			all.Go(func() {
				<-start
				text := fmt.Sprintf("writer %d", i)
				switch err := s.putOnce(t.Context(), "k", []byte(text)); {
				case err == nil:
					won.Add(1)
					winner.Store(text)
				case !errors.Is(err, ErrExists):
					t.Error(err)
				}
			})
		}
		close(start)
		all.Wait()
		text, err := s.readAll(t.Context(), "k", 100)
		if won.Load() != 1 || err != nil || string(text) != winner.Load() {
			t.Errorf("%d writers won, there is %q: %v", won.Load(), text, err)
		}
	})
}

// replaceObject puts other bytes in place of an object's.
func replaceObject(t *testing.T, s *Store, key string, change func([]byte) []byte) {
	t.Helper()
	data, err := s.readAll(t.Context(), key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.put(t.Context(), key, change(data)); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsFoundWhenReading(t *testing.T) {
	truncate := func(b []byte) []byte { return b[:len(b)-1] }
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	longer := func(b []byte) []byte { return append(b, 0) }
	for name, c := range map[string]struct {
		object   string
		change   func([]byte) []byte
		seenSoon bool // already when what is there is listed
	}{
		"an object is truncated":         {"checkpoints/step-00000400/model.safetensors.part-00002", truncate, true},
		"an object is longer":            {"checkpoints/step-00000400/model.safetensors.part-00002", longer, true},
		"a byte is flipped":              {"checkpoints/step-00000400/model.safetensors.part-00002", flip, false},
		"a byte is flipped in another":   {"checkpoints/step-00000400/manifest.json", flip, false},
		"a manifest is truncated":        {"manifests/checkpoints/step-00000400.json", truncate, true},
		"a byte is flipped in a digest":  {"manifests/checkpoints/step-00000400.json", func(b []byte) []byte { return bytes.Replace(b, []byte(`"sha256": "`), []byte(`"sha256": "0`), 1) }, true},
		"a manifest is that of another":  {"manifests/checkpoints/step-00000400.json", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("400"), []byte("401")) }, true},
		"a manifest has a figure more":   {"manifests/checkpoints/step-00000400.json", func(b []byte) []byte { return bytes.Replace(b, []byte(`"loss": 0.5`), []byte(`"loss": 0.1`), 1) }, true},
		"a manifest leads out of bounds": {"manifests/checkpoints/step-00000400.json", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("below/empty"), []byte("../../empty")) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			conformance(t, func(t *testing.T, s *Store) {
				ref := publish(t, s, attempt1, "checkpoints/step-00000400", checkpointFolder(t, 1), map[string]float64{"loss": 0.5})
				replaceObject(t, s, attempt1+"/"+c.object, c.change)
				if _, err := s.Fetch(t.Context(), ref, t.TempDir(), nil); !errors.Is(err, ErrDamaged) {
					t.Errorf("reading: %v, want ErrDamaged", err)
				}
				if _, err := s.Check(t.Context(), ref); errors.Is(err, ErrDamaged) != c.seenSoon {
					t.Errorf("checking: %v", err)
				}
			})
		})
	}
	t.Run("an object is gone", func(t *testing.T) {
		conformance(t, func(t *testing.T, s *Store) {
			ref := publish(t, s, attempt1, "checkpoints/step-00000400", checkpointFolder(t, 1), nil)
			if err := s.remove(t.Context(), ref.Path+"/manifest.json"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Check(t.Context(), ref); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("checking: %v, want ErrNotFound", err)
			}
		})
	})
}

// A fault on the way is gone when the part is read again.
func TestDamageOnTheWayIsReadAgain(t *testing.T) {
	server := artifacttest.StartS3(t)
	s := closing(t)(Open(t.Context(), server.URL(""), quick(t)))
	local := checkpointFolder(t, 1)
	ref := publish(t, s, attempt1, "checkpoints/step-00000400", local, nil)
	var once sync.Once
	server.Meet(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		damaged := false
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "part-00003") {
			once.Do(func() {
				damaged = true
				w.Header().Set("Content-Length", "1000")
				_, _ = w.Write(make([]byte, 1000))
			})
		}
		if !damaged {
			next.ServeHTTP(w, r)
		}
	})
	dir := t.TempDir()
	if _, err := s.Fetch(t.Context(), ref, dir, nil); err != nil {
		t.Fatal(err)
	}
	wantSame(t, dir, local, "model.safetensors")
}

// An upload that is cut goes on where it stopped: what has arrived is not sent again.
func TestAnUploadGoesOnWhereItStopped(t *testing.T) {
	server := artifacttest.StartS3(t)
	o := quick(t)
	o.PartBytes, o.Patience = 1<<16, 5*time.Millisecond
	s := closing(t)(Open(t.Context(), server.URL("p"), o))
	const size = 20 << 16
	local := filepath.Join(t.TempDir(), "large")
	write(t, local, bytes.Repeat([]byte("0123456789abcdef"), size/16))
	u := upload(t, s, attempt1, "large", local, nil)

	const cut = size * 2 / 3 // bytes after which the line is dead
	var passed atomic.Int64
	server.Meet(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodPut {
			next.ServeHTTP(w, r)
			return
		}
		if passed.Add(r.ContentLength) > cut {
			_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			panic(http.ErrAbortHandler) // in the middle of a body
		}
		next.ServeHTTP(w, r)
	})
	if _, err := u.Run(t.Context()); err == nil {
		t.Fatal("published over a dead line")
	}
	if _, err := s.Manifest(t.Context(), Ref{attempt1 + "/large", strings.Repeat("0", 64)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("half an upload is published: %v", err)
	}
	arrived := 0
	for i := range u.pieces {
		if u.arrived(i) {
			arrived++
		}
	}
	if arrived < 5 || arrived > 15 {
		t.Errorf("%d of 20 parts arrived before the line was cut", arrived)
	}
	server.Meet(nil)
	server.Received.Store(0)
	ref, err := u.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again := server.Received.Load(); again > int64(20-arrived)<<16+8000 { // and a manifest
		t.Errorf("%d bytes were sent after the cut, with %d of 20 parts to go", again, 20-arrived)
	}
	dir := t.TempDir()
	if _, err := s.Fetch(t.Context(), ref, dir, nil); err != nil {
		t.Fatal(err)
	}
	wantSame(t, dir, filepath.Dir(local), "large")
}

// A store that fails now and then is tried again, also when it did what was asked and only the answer was lost.
func TestAStoreThatFailsIsTriedAgain(t *testing.T) {
	server := artifacttest.StartS3(t)
	s := closing(t)(Open(t.Context(), server.URL("p"), quick(t)))
	var n atomic.Int64
	server.Meet(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch n.Add(1) % 4 {
		case 0:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		case 1:
			next.ServeHTTP(&deaf{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
	local := checkpointFolder(t, 1)
	ref := publish(t, s, attempt1, "checkpoints/step-00000400", local, nil)
	dir := t.TempDir()
	if _, err := s.Fetch(t.Context(), ref, dir, nil); err != nil {
		t.Fatal(err)
	}
	wantSame(t, dir, local, "model.safetensors", "manifest.json")
}

// deaf takes an answer and tells nobody.
type deaf struct{ header http.Header }

func (d *deaf) Header() http.Header         { return d.header }
func (d *deaf) Write(p []byte) (int, error) { return len(p), nil }
func (d *deaf) WriteHeader(int)             {}

// A writer that dies before the manifest has published nothing, and the next attempt is not in its way.
func TestAWriterDiesInTheMiddle(t *testing.T) {
	conformance(t, func(t *testing.T, s *Store) {
		local := checkpointFolder(t, 1)
		u := upload(t, s, attempt1, "checkpoints/step-00000400", local, nil)
		for _, p := range u.pieces[:3] {
			if err := u.send(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		dead := Ref{attempt1 + "/checkpoints/step-00000400", digestOf(u.text)}
		if _, err := s.Check(t.Context(), dead); !errors.Is(err, ErrNotFound) {
			t.Errorf("checking: %v, want ErrNotFound", err)
		}
		ref := publish(t, s, attempt2, "checkpoints/step-00000400", local, nil)
		removed, err := s.Tidy(t.Context(), Job{ID: "a", Ended: true, Recorded: ref.Path}, Retention{Last: 1})
		if err != nil || removed != 3 {
			t.Errorf("%d objects removed: %v; there are %v", removed, err, keys(t, s))
		}
		if _, err := s.Fetch(t.Context(), ref, t.TempDir(), nil); err != nil {
			t.Error(err)
		}
	})
}

// A file that changes while it is published is not published.
func TestAFileThatChanges(t *testing.T) {
	s := closing(t)(OpenFolder(t.TempDir(), quick(t)))
	local := filepath.Join(t.TempDir(), "f")
	write(t, local, []byte("before"))
	u := upload(t, s, attempt1, "f", local, nil)
	write(t, local, []byte("after."))
	if _, err := u.Run(t.Context()); !errors.Is(err, errChanged) {
		t.Errorf("publishing: %v, want %v", err, errChanged)
	}
}

// A folder that attempts work in keeps what they wrote where it is: nothing is copied.
func TestInPlace(t *testing.T) {
	root := t.TempDir()
	s := closing(t)(OpenFolder(root, quick(t)))
	local := filepath.Join(root, attempt1, "checkpoints", "step-00000400")
	write(t, filepath.Join(local, "model.safetensors"), make([]byte, 5000))
	ref := publish(t, s, attempt1, "checkpoints/step-00000400", local, nil)
	if got := keys(t, s); len(got) != 2 {
		t.Errorf("objects %v, want the file and a manifest", got)
	}
	if _, err := s.Check(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if key, ok := s.Key(local); !ok || key != ref.Path || s.Path(key) != local {
		t.Errorf("key %q, path %q", key, s.Path(ref.Path))
	}
	if _, ok := s.Key(filepath.Dir(root)); ok {
		t.Error("a folder outside has a key")
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	s := closing(t)(OpenFolder(t.TempDir(), quick(t)))
	local := filepath.Join(t.TempDir(), "f")
	write(t, local, []byte("x"))
	for _, c := range [][2]string{
		{"jobs/a/attempts/1/../2", "f"}, {"jobs/A/attempts/1", "f"}, {"jobs/a/attempts/0", "f"}, {"jobs/a", "f"}, {"", "f"},
		{attempt1, "../f"}, {attempt1, "/f"}, {attempt1, "a//b"}, {attempt1, ""}, {attempt1, "a/../../b"}, {attempt1, "sp ace"},
		{attempt1, "manifests/f"}, {attempt1, "figures/f"}, {attempt1, strings.Repeat("a", 2000)},
	} {
		if _, err := s.NewUpload(t.Context(), c[0], c[1], Source{Path: local}); err == nil {
			t.Errorf("bundle %q of attempt %q is taken", c[1], c[0])
		}
	}
	for _, address := range []string{"", "folder", "gs://b", "file://host/x", "file:x", "s3://", "s3://user:secret@bucket", "http://x", "file:///x?a=b"} {
		if _, err := Open(t.Context(), address, Options{}); err == nil {
			t.Errorf("store %q is opened", address)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

// A folder may be named by a link.
func TestBundleBehindALink(t *testing.T) {
	s := closing(t)(NewStore(memblob.OpenBucket(nil), "", "mem://", quick(t)), nil)
	local := checkpointFolder(t, 1)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(local, link); err != nil {
		t.Fatal(err)
	}
	ref := publish(t, s, AttemptKey("a", 1), "checkpoints/step-00000400", link, nil)
	back := t.TempDir()
	if _, err := s.Fetch(t.Context(), ref, back, nil); err != nil {
		t.Fatal(err)
	}
	wantSame(t, back, local, "model.safetensors", "manifest.json", "below/empty")
}

func TestCache(t *testing.T) {
	s := closing(t)(NewStore(memblob.OpenBucket(nil), "", "mem://", quick(t)), nil)
	now := time.Unix(1e9, 0)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, durable.Unfinished+"x", "y"), 0o755); err != nil {
		t.Fatal(err)
	}
	cache, err := OpenCache(dir, 10_000, func() time.Time { now = now.Add(time.Minute); return now })
	if err != nil {
		t.Fatal(err)
	}
	var refs []Ref
	var locals []string
	for i := range 3 {
		local := checkpointFolder(t, uint64(i))
		locals = append(locals, local)
		refs = append(refs, publish(t, s, AttemptKey("a", int64(i+1)), "checkpoints/step-00000400", local, nil))
	}
	get := func(i int) (string, func()) {
		t.Helper()
		path, release, err := cache.Get(t.Context(), s, refs[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, path, locals[i], "model.safetensors", "manifest.json", "below/empty")
		return path, release
	}
	first, release := get(0)
	if filepath.Base(first) != "step-00000400" {
		t.Errorf("the bundle is called %s", first)
	}
	release()

	// A byte that changes on the disk is found, and the file fetched again.
	write(t, filepath.Join(first, "manifest.json"), []byte("]"))
	again, release := get(0)
	if again != first {
		t.Errorf("the entry moved from %s to %s", first, again)
	}
	release()

	// The third has no room unless the one goes that was not used for longest. What is in use stays.
	_, release1 := get(1)
	release1()
	_, release0 := get(0)
	third, release2 := get(2)
	release0()
	release2()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%d entries: %v", len(entries), err)
	}
	for _, path := range []string{first, third} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	_, release0 = get(0)
	_, release2 = get(2)
	if _, _, err := cache.Get(t.Context(), s, refs[1], nil); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("with everything in use: %v, want no room", err)
	}
	release0()
	huge := filepath.Join(t.TempDir(), "step-00000500")
	write(t, filepath.Join(huge, "model.safetensors"), make([]byte, 20_000))
	ref := publish(t, s, AttemptKey("a", 9), "checkpoints/step-00000500", huge, nil)
	if _, _, err := cache.Get(t.Context(), s, ref, nil); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a bundle larger than the cache: %v, want no room", err)
	}
	if _, err := os.Stat(first); err != nil {
		t.Errorf("what is not in use was removed for a bundle that does not fit: %v", err)
	}
	release2()

	// Many who want the same are served by one fetch.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			path, release, err := cache.Get(t.Context(), s, refs[1], func(name string) bool { return name == "model.safetensors" })
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if _, err := os.Stat(filepath.Join(path, "manifest.json")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file came that nobody wanted: %v", err)
			}
		})
	}
	all.Wait()
	if left, _ := filepath.Glob(filepath.Join(dir, durable.Unfinished+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := cache.Get(ctx, s, refs[1], nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// A bucket without a region is refused at once: the SDK would take its name for a malformed one, at every request.
func TestABucketNeedsARegion(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE"} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	open := func(address string) error {
		s, err := Open(t.Context(), address, Options{})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	if err := open("s3://bucket/prefix"); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("without a region: %v", err)
	}
	if err := open("s3://bucket/prefix?region=eu-central-1"); err != nil {
		t.Errorf("with one in the address: %v", err)
	}
	write(t, filepath.Join(home, ".aws", "config"), []byte("[default]\nregion = eu-central-1\n"))
	if err := open("s3://bucket/prefix"); err != nil {
		t.Errorf("with one in the file of the user: %v", err)
	}
}
