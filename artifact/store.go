// Package artifact keeps what attempts publish, in a folder or in an object store.
//
//	jobs/ID/attempts/EPOCH/                         one attempt's own: no other writes there
//	    checkpoints/step-00000400/…                 the files of a bundle; a large file is several objects
//	    curves/step-00000400/…                      another
//	    scores.json                                 a bundle that is one file
//	    manifests/checkpoints/step-00000400.json    what the bundle holds: objects, sizes, digests
//	    figures/step-00000400.json                  what was found out about a checkpoint later
//	deletions/ID                                    old bundles of this job are being removed
//
// A bundle is published by its manifest, which is written last, and only if there is none. What refers to a bundle names
// the digest of its manifest, which names those of the files: whoever reads checks them all, so that bytes which changed
// on the way, or in the store, are an error and never weights.
package artifact

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"

	"github.com/surmise-ml/surmise/internal/bounded"
	"github.com/surmise-ml/surmise/internal/durable"
)

// Options says how a Store works. The zero value of a field means its default.
type Options struct {
	PartBytes int64         // size of the objects that a large file becomes; default 8 MiB
	Timeout   time.Duration // of one operation on one object; default 2 min
	Patience  time.Duration // how long an operation that fails is tried again; default 10 min
	MinWait   time.Duration // before trying again, doubling with jitter; default 200 ms
	MaxWait   time.Duration // default 30 s
	Logger    *slog.Logger  // default slog.Default()
}

func (o Options) withDefaults() Options {
	o.PartBytes = cmp.Or(o.PartBytes, 8<<20)
	o.Timeout = cmp.Or(o.Timeout, 2*time.Minute)
	o.Patience = cmp.Or(o.Patience, 10*time.Minute)
	o.MinWait = cmp.Or(o.MinWait, 200*time.Millisecond)
	o.MaxWait = cmp.Or(o.MaxWait, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

var (
	// ErrExists: a conditional write found another object of that name. Nothing changed.
	ErrExists = errors.New("it exists already, with other content")
	// ErrDamaged: bytes are not those that were published.
	ErrDamaged = errors.New("damaged")
	// ErrNotFound: there is no such object. It is fs.ErrNotExist as well.
	ErrNotFound = fmt.Errorf("not in the artifact store: %w", fs.ErrNotExist)
)

// Store is a bucket. Safe for concurrent use, and for several processes.
type Store struct {
	bucket *blob.Bucket
	prefix string // of all keys: "", or ends in "/"
	folder string // where the objects lie as files, absolute; "" for an object store
	url    string
	o      Options
}

// Open opens file:///FOLDER, which is made if missing, or s3://BUCKET/PREFIX?OPTIONS with the options of gocloud.dev, if
// package stores is in the program. Credentials come from the environment, as the SDK of the store has it.
func Open(ctx context.Context, address string, o Options) (*Store, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("artifact store %q: %w", address, err)
	}
	if u.User != nil {
		return nil, fmt.Errorf("artifact store %s://…: holds a user name; credentials come from the environment", u.Scheme)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
			return nil, fmt.Errorf("artifact store %q: want file:///FOLDER", address)
		}
		return OpenFolder(filepath.Clean(u.Path), o)
	case "s3":
		if u.Host == "" {
			return nil, fmt.Errorf("artifact store %q: no bucket", address)
		}
		options := u.Query()
		if !options.Has("region") && !regionOfMachine(os.Getenv, os.UserHomeDir) {
			return nil, fmt.Errorf("artifact store %q: in which region? Add ?region=NAME, or set AWS_REGION; stores of others than AWS take any, such as us-east-1", address)
		}
		for _, sums := range []string{"request_checksum_calculation", "response_checksum_validation"} {
			if !options.Has(sums) { // we have our own, and many stores do not know these
				options.Set(sums, "when_required")
			}
		}
		bucket, err := blob.OpenBucket(ctx, (&url.URL{Scheme: u.Scheme, Host: u.Host, RawQuery: options.Encode()}).String())
		if err != nil {
			return nil, fmt.Errorf("artifact store %q: %w", address, err)
		}
		return NewStore(bucket, strings.Trim(u.Path, "/"), address, o), nil
	}
	return nil, fmt.Errorf("artifact store %q: scheme %q, want file or s3", address, u.Scheme)
}

// regionOfMachine tells whether the SDK will find a region where it looks: without one its requests fail, one by one, for what
// looks like a malformed address.
func regionOfMachine(getenv func(string) string, home func() (string, error)) bool {
	if getenv("AWS_REGION") != "" || getenv("AWS_DEFAULT_REGION") != "" {
		return true
	}
	files := []string{getenv("AWS_CONFIG_FILE"), getenv("AWS_SHARED_CREDENTIALS_FILE")}
	if dir, err := home(); err == nil {
		files = append(files, filepath.Join(dir, ".aws", "config"), filepath.Join(dir, ".aws", "credentials"))
	}
	return slices.ContainsFunc(files, func(file string) bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

// OpenFolder opens a folder, which is made if missing.
func OpenFolder(folder string, o Options) (*Store, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("artifact folder: %w", err)
	}
	bucket, err := fileblob.OpenBucket(folder, &fileblob.Options{CreateDir: true, DirFileMode: 0o755, NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
	if err != nil {
		return nil, fmt.Errorf("artifact folder: %w", err)
	}
	s := NewStore(bucket, "", (&url.URL{Scheme: "file", Path: filepath.ToSlash(folder)}).String(), o)
	s.folder = folder
	return s, nil
}

// NewStore makes a Store of a bucket, which it closes. Its keys begin with prefix; address is how others open it.
func NewStore(bucket *blob.Bucket, prefix, address string, o Options) *Store {
	if prefix != "" {
		prefix += "/"
	}
	return &Store{bucket: bucket, prefix: prefix, url: address, o: o.withDefaults()}
}

// URL is what others open the same store with.
func (s *Store) URL() string { return s.url }

// Close ends the connections.
func (s *Store) Close() error { return s.bucket.Close() }

// Path is where an object lies as a file; "" when the store is no folder.
func (s *Store) Path(key string) string {
	if s.folder == "" {
		return ""
	}
	return filepath.Join(s.folder, filepath.FromSlash(key))
}

// Key is the key of a file of the store; false for one elsewhere, or when the store is no folder.
func (s *Store) Key(path string) (string, bool) {
	if s.folder == "" {
		return "", false
	}
	below, err := filepath.Rel(s.folder, path)
	if err != nil || below == "." || !filepath.IsLocal(below) {
		return "", false
	}
	return filepath.ToSlash(below), true
}

// try does an operation until it succeeds, fails for good, or patience is at its end.
func (s *Store) try(ctx context.Context, what string, operation func(context.Context) error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = s.o.MinWait, s.o.MaxWait, 2
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if err := context.Cause(ctx); err != nil {
			return struct{}{}, err
		}
		ctx, stop := context.WithTimeout(ctx, s.o.Timeout)
		defer stop()
		err := named(operation(ctx))
		if err != nil && Final(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(s.o.Patience), backoff.WithNotify(func(err error, next time.Duration) {
		s.o.Logger.Warn("artifact store: trying again", "operation", what, "error", err, "retry_in", next)
	}))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// named gives errors of drivers our names.
func named(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrNotFound):
		return err
	case gcerrors.Code(err) == gcerrors.NotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case gcerrors.Code(err) == gcerrors.FailedPrecondition:
		return fmt.Errorf("%w: %w", ErrExists, err)
	}
	return err
}

// Final reports whether an error will be the same next time.
func Final(err error) bool {
	for _, e := range []error{ErrExists, ErrDamaged, ErrNotFound, errChanged, errManyFiles, fs.ErrNotExist, fs.ErrPermission, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	switch gcerrors.Code(err) {
	case gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.Unimplemented:
		return true
	}
	return false
}

// put writes an object whole or not at all.
func (s *Store) put(ctx context.Context, key string, data []byte) error {
	if s.folder != "" {
		return s.writeFile(key, data, os.Rename)
	}
	return s.bucket.Upload(ctx, s.prefix+key, bytes.NewReader(data), &blob.WriterOptions{ContentType: "application/octet-stream"})
}

// putOnce writes an object if there is none of that name. That the same bytes are there is as good: the answer to an
// earlier try may have been lost. Other bytes are ErrExists.
func (s *Store) putOnce(ctx context.Context, key string, data []byte) error {
	return s.try(ctx, "writing "+key, func(ctx context.Context) error {
		var err error
		if s.folder != "" {
			err = s.writeFile(key, data, linkOnce)
		} else {
			err = s.bucket.Upload(ctx, s.prefix+key, bytes.NewReader(data), &blob.WriterOptions{ContentType: "application/json", IfNotExist: true})
		}
		if err = named(err); !errors.Is(err, ErrExists) {
			return err
		}
		there, readErr := s.readAll(ctx, key, int64(len(data)))
		switch {
		case errors.Is(readErr, bounded.ErrTooLarge):
		case readErr != nil:
			return readErr
		case bytes.Equal(there, data):
			return nil
		}
		return err
	})
}

// writeFile writes an object of a folder, durably: fileblob syncs nothing, and two of its conditional writes at a time
// may both succeed. place brings the finished file to its name.
func (s *Store) writeFile(key string, data []byte, place func(from, to string) error) error {
	path := s.Path(key)
	dir := filepath.Dir(path)
	f, err := createTemp(dir)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) { // folders that are new
		if err := durable.Sync(dir); err != nil || dir == s.folder {
			return err
		}
	}
}

// createTemp makes a file in a folder, which it makes. Somebody may remove the folder, which is empty, at the same time.
func createTemp(dir string) (f *os.File, err error) {
	for range 10 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if f, err = os.CreateTemp(dir, durable.Unfinished+"*"); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return f, err
}

// linkOnce gives a file a second name that nobody has.
func linkOnce(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) {
		return copyOnce(from, to) // a file system without links
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrExists, err)
	}
	return err
}

// copyOnce is not whole at every moment, but whoever reads it half-way finds that its digest is wrong.
func copyOnce(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrExists, err)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// readAll reads an object of at most so many bytes.
func (s *Store) readAll(ctx context.Context, key string, most int64) ([]byte, error) {
	r, err := s.bucket.NewReader(ctx, s.prefix+key, nil)
	if err != nil {
		return nil, named(err)
	}
	defer r.Close()
	data, err := bounded.Read(r, most)
	if errors.Is(err, bounded.ErrTooLarge) {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return data, err
}

// object is one that a listing found.
type object struct {
	key   string
	bytes int64
}

// list returns the objects whose keys begin with prefix, sorted, at most so many.
func (s *Store) list(ctx context.Context, prefix string, most int) (objects []object, err error) {
	err = s.try(ctx, "listing "+prefix, func(ctx context.Context) error {
		objects = nil
		for found := s.bucket.List(&blob.ListOptions{Prefix: s.prefix + prefix}); ; {
			o, err := found.Next(ctx)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(objects) == most {
				return fmt.Errorf("%w: more than %d objects", bounded.ErrTooLarge, most)
			}
			objects = append(objects, object{strings.TrimPrefix(o.Key, s.prefix), o.Size})
		}
	})
	return objects, err
}

// remove deletes an object; that there is none is as good.
func (s *Store) remove(ctx context.Context, key string) error {
	return s.try(ctx, "deleting "+key, func(ctx context.Context) error {
		err := named(s.bucket.Delete(ctx, s.prefix+key))
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		if err == nil && s.folder != "" { // folders are objects of no store but this
			for dir := filepath.Dir(s.Path(key)); dir != s.folder && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
			}
		}
		return err
	})
}
