// Package artifacttest runs an S3 server in the process of a test, over HTTP, that can be told to fail.
package artifacttest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Bucket is the one that the server has.
const Bucket = "artifacts"

// S3 is a server.
type S3 struct {
	url string

	mu   sync.Mutex
	meet func(http.ResponseWriter, *http.Request, http.Handler) // guarded by mu; nil: all is well

	Received atomic.Int64 // bytes of bodies
}

// StartS3 starts a server that ends with the test.
func StartS3(t testing.TB) *S3 {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(Bucket); err != nil {
		t.Fatal(err)
	}
	store := gofakes3.New(backend, gofakes3.WithLogger(gofakes3.StdLog(log.New(io.Discard, "", 0)))).Server()
	s := &S3{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &counted{r.Body, &s.Received}
		s.mu.Lock()
		meet := s.meet
		s.mu.Unlock()
		if meet == nil {
			store.ServeHTTP(w, r)
			return
		}
		meet(w, r, store)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// Meet sets who answers requests instead of the server, which is handed on; nil gives that back.
func (s *S3) Meet(meet func(http.ResponseWriter, *http.Request, http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meet = meet
}

// URL is that of a prefix of the bucket, as package artifact opens it.
func (s *S3) URL(prefix string) string {
	options := url.Values{"endpoint": {s.url}, "region": {"us-east-1"}, "use_path_style": {"true"}, "anonymous": {"true"}}
	return (&url.URL{Scheme: "s3", Host: Bucket, Path: "/" + prefix, RawQuery: options.Encode()}).String()
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
