package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/video/source"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
)

// open makes a Store that may reach the servers of tests, which are on loopback.
func open(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Rules.Networks == nil {
		o.Rules.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	s, err := Open(filepath.Join(t.TempDir(), "objects"), o)
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

func fetch(t *testing.T, s *Store, uri string) (path, content string) {
	t.Helper()
	path, release, err := s.Fetch(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, string(text)
}

func TestBucket(t *testing.T) {
	bucket := memblob.OpenBucket(nil)
	for _, key := range []string{"v/b.mp4", "v/a b.mp4", "w/c.mp4"} {
		if err := bucket.WriteAll(t.Context(), key, []byte(key), nil); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{MaxListing: 2})
	s.buckets = map[string]*blob.Bucket{"s3://bucket?": bucket}
	names, err := s.List(t.Context(), "s3://bucket/v/")
	if want := []string{"s3://bucket/v/a%20b.mp4", "s3://bucket/v/b.mp4"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("%q, %v; want %q", names, err, want)
	}
	if path, text := fetch(t, s, names[0]); text != "v/a b.mp4" || filepath.Ext(path) != ".mp4" {
		t.Errorf("%s holds %q", path, text)
	}
	if _, err := s.List(t.Context(), "s3://bucket/"); err == nil || !strings.Contains(err.Error(), "more than 2") {
		t.Errorf("a listing of three: %v", err)
	}
	if _, _, err := s.Fetch(t.Context(), "s3://bucket/none.mp4"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such object: %v", err)
	}
}

func TestWebServer(t *testing.T) {
	var asked atomic.Int64
	modified := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/a.mp4":
			w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
			fmt.Fprint(w, "video")
		case "/moved.mp4":
			http.Redirect(w, r, "/a.mp4", http.StatusFound)
		case "/away.mp4":
			http.Redirect(w, r, elsewhere.URL+"/a.mp4", http.StatusFound)
		case "/huge.mp4":
			w.Header().Set("Content-Length", "1000000000000")
		case "/endless.mp4":
			for range 100 {
				fmt.Fprint(w, strings.Repeat("x", 1000))
				w.(http.Flusher).Flush()
			}
		case "/short.mp4":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "abc")
		case "/broken.mp4":
			w.WriteHeader(http.StatusInternalServerError)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	s := open(t, Options{MaxBytes: 1 << 20, MaxObject: 50_000})
	path, text := fetch(t, s, server.URL+"/a.mp4")
	if info, err := os.Stat(path); text != "video" || err != nil || !info.ModTime().Equal(modified) {
		t.Errorf("%q, changed %v (%v); want the time of the object", text, info.ModTime(), err)
	}
	before := asked.Load()
	if again, _ := fetch(t, s, server.URL+"/a.mp4"); again != path || asked.Load() != before {
		t.Error("fetched again")
	}
	if _, text := fetch(t, s, server.URL+"/moved.mp4"); text != "video" {
		t.Errorf("moved: %q", text)
	}
	for name, c := range map[string]struct {
		says    string
		missing bool
	}{
		"/away.mp4": {"another host", false}, "/huge.mp4": {"limit 50000", false}, "/endless.mp4": {"more than 50000", false},
		"/short.mp4": {"EOF", false}, "/broken.mp4": {"500", false}, "/none.mp4": {"404", true},
	} {
		_, _, err := s.Fetch(t.Context(), server.URL+name)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), name) || errors.Is(err, fs.ErrNotExist) != c.missing {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	left, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), unfinished) {
			t.Errorf("%s was left", e.Name())
		}
	}
	for _, uri := range []string{"ftp://host/a", "file:///etc/passwd", "s3:///a", "https://user:word@host/a", "mem://x/a", "%zz://"} {
		if _, _, err := s.Fetch(t.Context(), uri); err == nil {
			t.Errorf("%s accepted", uri)
		}
	}
	if _, err := s.List(t.Context(), server.URL+"/"); err == nil {
		t.Error("a web server listed")
	}
}

// The folder stays within its bound; what is in use stays, what was not used for longest goes.
func TestBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 400))
	}))
	defer server.Close()
	s := open(t, Options{MaxBytes: 1000, MaxObject: 500})
	uri := func(i int) string { return fmt.Sprintf("%s/%d.used", server.URL, i) } // names tell nothing
	old := time.Now().Add(-time.Hour)
	first, releaseFirst, err := s.Fetch(t.Context(), uri(1))
	if err != nil {
		t.Fatal(err)
	}
	second, _ := fetch(t, s, uri(2))
	for _, path := range []string{first, second} {
		if err := os.Chtimes(path+usedSuffix, old, old); err != nil {
			t.Fatal(err)
		}
	}
	third, releaseThird, err := s.Fetch(t.Context(), uri(3))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{first: true, second: false, third: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
	if _, _, err := s.Fetch(t.Context(), uri(4)); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("all in use: %v", err)
	}
	releaseFirst()
	releaseFirst()
	releaseThird()
	fetch(t, s, uri(4))
}

// Objects that come at once leave room for one another.
func TestBoundedTogether(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	enough := make(chan struct{}) // have been refused
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "400")
		w.(http.Flusher).Flush()
		select {
		case <-enough:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, strings.Repeat("x", 400))
	}))
	defer server.Close()
	s := open(t, Options{MaxBytes: 1000, MaxObject: 500})
	var together sync.WaitGroup
	var refused atomic.Int32
	for i := range 4 {
		together.Go(func() {
			_, release, err := s.Fetch(ctx, fmt.Sprintf("%s/%d.mp4", server.URL, i))
			if err != nil {
				if refused.Add(1) == 2 {
					close(enough)
				}
				if !strings.Contains(err.Error(), "no room") {
					t.Error(err)
				}
				return
			}
			defer release()
		})
	}
	together.Wait()
	total := int64(0)
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasSuffix(e.Name(), usedSuffix) {
			total += info.Size()
		}
	}
	if total > 1000 || refused.Load() != 2 {
		t.Errorf("%d bytes are kept, %d objects were refused; want at most 1000, and 2", total, refused.Load())
	}
}

// Several workers of a machine share the folder: none takes from another what it reads.
func TestInUseByAnotherProcess(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 400)) }))
	defer server.Close()
	o := Options{MaxBytes: 1000, MaxObject: 500}
	ours := open(t, o)
	o.Rules = ours.o.Rules
	theirs, err := Open(ours.dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for _, how := range []string{"fetched", "found"} {
		path, release, err := ours.Fetch(t.Context(), server.URL+"/1.mp4")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			fetch(t, theirs, fmt.Sprintf("%s/%s-%d.mp4", server.URL, how, i))
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: a file in use is gone: %v", how, err)
		}
		release()
	}
	for i := range 3 {
		fetch(t, theirs, fmt.Sprintf("%s/after-%d.mp4", server.URL, i))
	}
	if len(ours.pinned) > 0 || len(theirs.pinned) > 0 {
		t.Errorf("still in use: %v, %v", ours.pinned, theirs.pinned)
	}
	entries, err := os.ReadDir(ours.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 4 { // two objects and the times of their use
		t.Errorf("%d files are left: %v", len(entries), entries)
	}
}

// What is not announced counts as well: with two of 400 bytes in use there is no room for a third.
func TestBoundedUnannounced(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // before the length is known
		fmt.Fprint(w, strings.Repeat("x", 400))
	}))
	defer server.Close()
	s := open(t, Options{MaxBytes: 1000, MaxObject: 500})
	for i := range 2 {
		_, release, err := s.Fetch(t.Context(), fmt.Sprintf("%s/%d.mp4", server.URL, i))
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
	if _, _, err := s.Fetch(t.Context(), server.URL+"/2.mp4"); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a third: %v", err)
	}
}

// Many who ask for one object at once cause one request, and one who gives up waits no longer.
func TestOneFetchForAll(t *testing.T) {
	var asked atomic.Int64
	gate := make(chan struct{})
	began := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		began <- struct{}{}
		<-gate
		fmt.Fprint(w, "x")
	}))
	defer server.Close()
	s := open(t, Options{})
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			_, release, err := s.Fetch(t.Context(), server.URL+"/a.mp4")
			if err != nil {
				t.Error(err)
				return
			}
			release()
		})
	}
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Fetch(ctx, server.URL+"/a.mp4"); !errors.Is(err, context.Canceled) {
		t.Errorf("one who gives up: %v", err)
	}
	close(gate)
	all.Wait()
	if asked.Load() != 1 {
		t.Errorf("%d requests, want 1", asked.Load())
	}
}

// What becomes of the folder here says nothing of an object: one in use that was removed from outside comes again, what is in
// use stays without locks too, and a folder that is gone is made again.
func TestFolderTamperedWith(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 400)) }))
	defer server.Close()
	s := open(t, Options{MaxBytes: 1000, MaxObject: 500})
	path, release, err := s.Fetch(t.Context(), server.URL+"/1.mp4")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again, releaseAgain, err := s.Fetch(t.Context(), server.URL+"/1.mp4")
	if err != nil || again != path {
		t.Fatal(again, err)
	}
	release()
	if err := syscall.Flock(int(s.pinned[path].f.Fd()), syscall.LOCK_UN); err != nil { // as where there are no locks
		t.Fatal(err)
	}
	for i := range 3 {
		fetch(t, s, fmt.Sprintf("%s/more-%d.mp4", server.URL, i))
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a file in use is gone: %v", err)
	}
	releaseAgain()
	if len(s.pinned) > 0 {
		t.Errorf("still in use: %v", s.pinned)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	fetch(t, s, server.URL+"/1.mp4")
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir, nil, 0o644); err != nil { // no folder can be made here
		t.Fatal(err)
	}
	var away *source.AwayError
	if _, _, err := s.Fetch(t.Context(), server.URL+"/1.mp4"); !errors.As(err, &away) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

// A server that is away, or full, or breaks off is no fault of who named the object; what is not there, or may not be had, is.
func TestAway(t *testing.T) {
	var status atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if status.Load() == 0 { // breaks off
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "x")
			return
		}
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	s := open(t, Options{MaxBytes: 1000, MaxObject: 500})
	for code, want := range map[int]bool{0: true, 408: true, 429: true, 500: true, 503: true, 401: false, 403: false, 404: false} {
		status.Store(int64(code))
		_, _, err := s.Fetch(t.Context(), server.URL+"/1.mp4")
		var away *source.AwayError
		if err == nil || errors.As(err, &away) != want || errors.Is(err, fs.ErrNotExist) == want {
			t.Errorf("%d: %v, away: %t", code, err, !want)
		}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	var away *source.AwayError
	if _, _, err := s.Fetch(t.Context(), gone.URL+"/1.mp4"); !errors.As(err, &away) {
		t.Errorf("nobody listens: %v", err)
	}
	strict, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer strict.Close()
	if _, _, err := strict.Fetch(t.Context(), server.URL+"/1.mp4"); err == nil || errors.As(err, &away) {
		t.Errorf("an address that the rules refuse: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := s.Fetch(ctx, server.URL+"/1.mp4"); !errors.Is(err, context.Canceled) || errors.As(err, &away) {
		t.Errorf("the caller has left: %v", err)
	}
}
