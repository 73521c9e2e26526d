// Package remote brings videos from object stores and web servers to this machine, into a folder of bounded size.
//
// s3:// and gs:// go through gocloud.dev/blob and find their credentials as the SDKs of these stores do. Commands import
// their drivers, gocloud.dev/blob/s3blob and gcsblob, for their effect. http:// and https:// are plain requests. Objects
// are hostile: their size is bounded before and while they are read, and a web server may not send the reader to another
// host. So are URIs: rules.go says which may be fetched.
package remote

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/video/source"
)

// Options bounds a Store. The zero value of a field means its default.
type Options struct {
	MaxBytes   int64         // of all objects kept; default 10 GiB
	MaxObject  int64         // of one; default a quarter of MaxBytes
	MaxListing int           // names below one prefix; default 1,048,576
	Timeout    time.Duration // to bring one object; default 15 min. An unfinished file as old belongs to nobody
	Rules      Rules         // what may be fetched
	Client     *http.Client  // default one that holds to Rules and follows no redirection to another host
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = 10 << 30
	}
	if o.MaxObject == 0 {
		o.MaxObject = o.MaxBytes / 4
	}
	if o.MaxListing == 0 {
		o.MaxListing = 1 << 20
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Minute
	}
	if o.Client == nil {
		o.Client = o.Rules.client()
	}
	return o
}

// sameHost keeps a server from sending the reader into a network that only this machine can see.
func sameHost(next *http.Request, before []*http.Request) error {
	if len(before) >= 10 {
		return &forbiddenError{"more than 10 redirections"}
	}
	if first := before[0].URL; next.URL.Host != first.Host || next.URL.Scheme != first.Scheme {
		return &forbiddenError{fmt.Sprintf("%s sends its reader to another host, %s", first.Host, next.URL.Host)}
	}
	return nil
}

// Store keeps objects in a folder. Safe for concurrent use, and for several processes.
type Store struct {
	dir string
	o   Options

	mu      sync.Mutex
	pinned  map[string]*pin          // guarded by mu; files in use, by path
	coming  map[*reservation]bool    // guarded by mu; objects on their way
	fetches map[string]chan struct{} // guarded by mu; closed when a fetch has ended
	buckets map[string]*blob.Bucket  // guarded by mu
}

// Open makes a Store of a folder, which is made if missing.
func Open(dir string, o Options) (*Store, error) {
	if err := o.Rules.Check(); err != nil {
		return nil, fmt.Errorf("what may be fetched: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the folder of remote videos: %w", err)
	}
	return &Store{dir: dir, o: o.withDefaults(), pinned: map[string]*pin{}, coming: map[*reservation]bool{}, fetches: map[string]chan struct{}{}, buckets: map[string]*blob.Bucket{}}, nil
}

// Close ends the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, b := range s.buckets {
		errs = append(errs, b.Close())
		delete(s.buckets, name)
	}
	s.o.Client.CloseIdleConnections()
	return errors.Join(errs...)
}

// parse takes a URI apart and refuses what may not be fetched.
func (s *Store) parse(uri string) (*url.URL, error) {
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		return nil, fmt.Errorf("a URI cannot be read: %w", withoutURL(err))
	case !slices.Contains(Schemes, u.Scheme):
		return nil, fmt.Errorf("%q: scheme %q, want s3, gs, http or https", shown(u), u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q: no host or bucket", shown(u))
	case u.User != nil:
		return nil, fmt.Errorf("%q: holds a user name; credentials come from the environment", shown(u))
	}
	return u, s.o.Rules.permit(u)
}

// List returns the URIs of the objects below one that ends in "/", sorted.
func (s *Store) List(ctx context.Context, uri string) ([]string, error) {
	u, err := s.parse(uri)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		return nil, fmt.Errorf("%q: a web server lists no folders; name an index or the videos", shown(u))
	}
	bucket, err := s.bucket(ctx, u)
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimPrefix(u.Path, "/")
	var names []string
	for objects := bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := objects.Next(ctx)
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("listing %q: %w", shown(u), context.Cause(ctx))
		}
		if err != nil {
			return nil, fmt.Errorf("listing %q: %w", shown(u), away(notFound(err)))
		}
		if len(names) == s.o.MaxListing {
			return nil, fmt.Errorf("listing %q: more than %d objects", shown(u), s.o.MaxListing)
		}
		names = append(names, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/" + object.Key, RawQuery: u.RawQuery}).String())
	}
}

func (s *Store) bucket(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := u.Scheme + "://" + u.Host + "?" + u.RawQuery
	if b := s.buckets[name]; b != nil {
		return b, nil
	}
	b, err := blob.OpenBucket(context.WithoutCancel(ctx), strings.TrimSuffix(name, "?")) // it is kept, and renews its tokens with this context
	if err != nil {
		// Of this machine's credentials or settings, and of no object.
		return nil, &source.AwayError{Err: fmt.Errorf("opening bucket %s://%s: %w", u.Scheme, u.Host, err)}
	}
	s.buckets[name] = b
	return b, nil
}

func notFound(err error) error {
	switch gcerrors.Code(err) {
	case gcerrors.NotFound, gcerrors.PermissionDenied:
		return fmt.Errorf("%w, or may not be read: %w", fs.ErrNotExist, err)
	}
	return err
}

// away marks an error of reaching a store or server as one that may be gone the next time, unless it says that the object is
// not there, the rules forbid it, no machine has that name, or its certificate is not good.
func away(err error) error {
	var refused *forbiddenError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &refused) || errors.As(err, &name) && name.IsNotFound || errors.As(err, &certificate) {
		return err
	}
	return &source.AwayError{Err: err}
}

// Fetch returns a file with the object's bytes. It stays until release is called. What is kept is not looked at again: an
// object that changes under its name stays what it was until it is forgotten. The error is fs.ErrNotExist for an object
// that is not there, or may not be read.
func (s *Store) Fetch(ctx context.Context, uri string) (string, func(), error) {
	u, err := s.parse(uri)
	if err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256([]byte(uri))
	// The extension stays, for those who read an index by it.
	file := filepath.Join(s.dir, hex.EncodeToString(sum[:16])+cleanExtension(u.Path))
	for {
		s.mu.Lock()
		other := s.fetches[file]
		if other == nil {
			break
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return "", nil, context.Cause(ctx)
		}
	}
	release := sync.OnceFunc(func() { s.unpin(file) })
	if s.pin(file) {
		s.mu.Unlock()
		markUsed(file)
		return file, release, nil
	}
	done := make(chan struct{})
	s.fetches[file] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.fetches, file)
		s.mu.Unlock()
		close(done)
	}()
	if err := s.download(ctx, u, uri, file); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", nil, fmt.Errorf("fetching %q: %w", shown(u), err)
	}
	return file, release, nil
}

// pin is a file in use. Its lock tells other processes so.
type pin struct {
	uses int
	f    *os.File
}

// pin notes that a file is in use, if it is there. s.mu is held.
func (s *Store) pin(file string) bool {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() { // opening a pipe would wait for ever
		return false
	}
	if p := s.pinned[file]; p != nil {
		p.uses++
		return true
	}
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	lockShared(f)
	// Another process may have forgotten it before it was locked.
	now, err := os.Stat(file)
	if opened, errOpened := f.Stat(); err != nil || errOpened != nil || !os.SameFile(now, opened) {
		_ = f.Close()
		return false
	}
	s.pinned[file] = &pin{1, f}
	return true
}

func (s *Store) unpin(file string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pinned[file]
	if p.uses--; p.uses == 0 {
		_ = p.f.Close()
		delete(s.pinned, file)
	}
}

// lockShared keeps other processes from forgetting a file until it is closed. A file system without locks leaves it to
// chance.
func lockShared(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_SH) }

// forget removes a file that no process uses; ok is false for one in use.
func forget(file string) (ok bool, err error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0) // NFS locks exclusively only what may be written to
	if errors.Is(err, fs.ErrPermission) {     // another user's
		f, err = os.Open(file)
	}
	switch {
	case err == nil:
		defer f.Close()
		if errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
			return false, nil
		}
		// Another process may have put another file in its place before it was locked.
		if now, err := os.Stat(file); err == nil {
			if opened, err := f.Stat(); err != nil || !os.SameFile(now, opened) {
				return false, nil
			}
		}
	case !errors.Is(err, fs.ErrNotExist): // whether it is in use cannot be known
		return false, nil
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	_ = os.Remove(file + usedSuffix)
	return true, nil
}

// cleanExtension is the extension of an object's name if it is a plain one.
func cleanExtension(name string) string {
	extension := strings.ToLower(path.Ext(name))
	if len(extension) > 8 || strings.ContainsFunc(strings.TrimPrefix(extension, "."), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		return ""
	}
	return extension
}

// usedSuffix marks a file that says when the one beside it was last used: the time of an object's own change is the
// time of the file.
const usedSuffix = "-used" // which no object ends in: its name is a sum and an extension of letters and digits

func markUsed(file string) {
	now := time.Now()
	if os.Chtimes(file+usedSuffix, now, now) != nil {
		if f, err := os.Create(file + usedSuffix); err == nil { // else the object is forgotten earlier
			_ = f.Close()
		}
	}
}

const unfinished = durable.Unfinished

// download brings an object to a file, which is in use then.
func (s *Store) download(ctx context.Context, u *url.URL, uri, file string) error {
	ctx, stop := context.WithTimeout(ctx, s.o.Timeout)
	defer stop()
	body, size, modified, err := s.open(ctx, u, uri)
	if err != nil {
		return err
	}
	defer body.Close()
	if size > s.o.MaxObject {
		return fmt.Errorf("%d bytes (limit %d)", size, s.o.MaxObject)
	}
	err = s.keep(body, size, modified, file)
	if larger := (*tooLargeError)(nil); err != nil && !errors.As(err, &larger) {
		// Of this machine's folder or of a connection that broke, and even "no such file" says nothing of the object.
		err = &source.AwayError{Err: errors.New(err.Error())}
	}
	return err
}

// tooLargeError is an object of more bytes than may be kept, which was not announced.
type tooLargeError struct{ limit int64 }

func (e *tooLargeError) Error() string { return fmt.Sprintf("more than %d bytes", e.limit) }

// keep writes an object to a file, which is in use then. size is -1 if it was not announced.
func (s *Store) keep(body io.Reader, size int64, modified time.Time, file string) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil { // it may have been tidied away
		return err
	}
	room, err := s.reserve(size)
	if err != nil {
		return err
	}
	defer room.release()
	f, err := os.CreateTemp(s.dir, unfinished)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed
	room.holds(f.Name())
	n, err := io.Copy(f, io.LimitReader(body, s.o.MaxObject+1))
	switch {
	case err != nil:
	case n > s.o.MaxObject:
		err = &tooLargeError{s.o.MaxObject}
	case size >= 0 && n != size:
		err = fmt.Errorf("%d bytes came, %d were announced", n, size)
	}
	if err = errors.Join(err, f.Chmod(0o644), f.Sync()); err != nil {
		_ = f.Close()
		return err
	}
	lockShared(f)
	inUse := false
	defer func() {
		if !inUse {
			_ = f.Close()
		}
	}()
	if size < 0 { // not announced: it counts with what has come of it, and had room made for nothing
		s.mu.Lock()
		err := s.makeRoom(0)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if !modified.IsZero() { // so that an object that comes again is the file it was
		if err := os.Chtimes(f.Name(), modified, modified); err != nil {
			return err
		}
	}
	markUsed(file)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pin(file) { // another process was faster, and may have it in use under this name
		return nil
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	if p := s.pinned[file]; p != nil { // what had the name was removed from outside; this one is locked from now on
		_ = p.f.Close()
		inUse, p.f = true, f
		p.uses++
		return nil
	}
	inUse = true
	s.pinned[file] = &pin{1, f}
	return nil
}

// open begins to read an object. Its size is -1 when it is not announced.
func (s *Store) open(ctx context.Context, u *url.URL, uri string) (io.ReadCloser, int64, time.Time, error) {
	if u.Scheme == "s3" || u.Scheme == "gs" {
		bucket, err := s.bucket(ctx, u)
		if err != nil {
			return nil, 0, time.Time{}, err
		}
		r, err := bucket.NewReader(ctx, strings.TrimPrefix(u.Path, "/"), nil)
		if err != nil {
			return nil, 0, time.Time{}, away(notFound(err))
		}
		return r, r.Size(), r.ModTime(), nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, 0, time.Time{}, err
	}
	response, err := s.o.Client.Do(request)
	if err != nil {
		return nil, 0, time.Time{}, away(withoutURL(err))
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		err := fmt.Errorf("the server answers %s", response.Status)
		if response.StatusCode >= 400 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusRequestTimeout {
			err = fmt.Errorf("%w, or may not be read: %w", fs.ErrNotExist, err)
		} else {
			err = &source.AwayError{Err: err}
		}
		return nil, 0, time.Time{}, err
	}
	modified, _ := http.ParseTime(response.Header.Get("Last-Modified")) // zero where the server does not say
	return response.Body, response.ContentLength, modified, nil
}

// reservation is room for an object that is on its way.
type reservation struct {
	s     *Store
	bytes int64  // -1: not known
	file  string // that it is written to; "": not begun
}

// reserve makes room for an object of so many bytes, -1 if that is not known, and keeps it until release.
func (s *Store) reserve(bytes int64) (*reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoom(max(bytes, 0)); err != nil {
		return nil, err
	}
	r := &reservation{s: s, bytes: bytes}
	s.coming[r] = true
	return r, nil
}

func (r *reservation) holds(file string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.file = file
}

// release is for when the object is there, or will not come.
func (r *reservation) release() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	delete(r.s.coming, r)
}

// makeRoom forgets objects that nobody uses, those first that were not used for longest, until so many bytes more are
// within the bound, beside what is on its way. s.mu is held.
func (s *Store) makeRoom(need int64) error {
	own := map[string]bool{} // files that are counted as reserved
	total := int64(0)
	for r := range s.coming {
		if r.bytes >= 0 { // else its file counts, as it grows
			own[r.file] = true
			total += r.bytes
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	type object struct {
		path string
		size int64
		used time.Time
	}
	var objects []object
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(e.Name(), usedSuffix) {
			continue
		}
		if err != nil {
			return err
		}
		o := object{filepath.Join(s.dir, e.Name()), info.Size(), info.ModTime()}
		if own[o.path] {
			continue
		}
		if strings.HasPrefix(e.Name(), unfinished) && time.Since(o.used) < s.o.Timeout {
			total += o.size
			continue // being written
		}
		if used, err := os.Stat(o.path + usedSuffix); err == nil {
			o.used = used.ModTime()
		}
		objects, total = append(objects, o), total+o.size
	}
	slices.SortFunc(objects, func(a, b object) int { return a.used.Compare(b.used) })
	for _, o := range objects {
		if total+need <= s.o.MaxBytes {
			return nil
		}
		if s.pinned[o.path] != nil { // known without locks, which not every file system has
			continue
		}
		gone, err := forget(o.path)
		if err != nil {
			return err
		}
		if gone {
			total -= o.size
		}
	}
	if total+need > s.o.MaxBytes {
		return fmt.Errorf("no room for %d bytes more: %d of %d are in use", need, total, s.o.MaxBytes)
	}
	return nil
}
