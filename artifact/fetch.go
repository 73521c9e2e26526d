package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"gocloud.dev/blob"

	"github.com/surmise-ml/surmise/internal/durable"
)

// readsOfDamaged is how often a part is read whose digest is wrong: the fault may be on the way.
const readsOfDamaged = 3

// Fetch brings files of a bundle below a folder, which it makes: those that want returns true for, nil wants all. Every
// byte is checked. After an error the folder holds a part of them.
func (s *Store) Fetch(ctx context.Context, ref Ref, folder string, want func(name string) bool) (Manifest, error) {
	m, err := s.Manifest(ctx, ref)
	if err != nil {
		return m, err
	}
	attempt, _, err := splitKey(ref.Path)
	if err != nil {
		return m, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return m, err
	}
	for _, f := range m.Files {
		if want != nil && !want(f.Name) {
			continue
		}
		if err := s.fetchFile(ctx, attempt, f, filepath.Join(folder, filepath.FromSlash(f.Name))); err != nil {
			return m, fmt.Errorf("fetching %s: file %s: %w", ref.Path, f.Name, err)
		}
	}
	return m, durable.Sync(folder)
}

func (s *Store) fetchFile(ctx context.Context, attempt string, f File, local string) (err error) {
	if err := os.MkdirAll(filepath.Dir(local), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(local, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	whole, at := sha256.New(), int64(0)
	for _, p := range f.Parts {
		if whole, err = s.fetchPart(ctx, attempt, p, out, at, whole); err != nil {
			return err
		}
		at += p.Bytes
	}
	if got := hex.EncodeToString(whole.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%w: its digest is %s, want %s", ErrDamaged, got, f.SHA256)
	}
	return out.Sync()
}

// fetchPart writes a part at its place in a file, and returns the digest of the file so far. It begins anew with the part,
// not with the file, when it fails.
func (s *Store) fetchPart(ctx context.Context, attempt string, p Part, out *os.File, at int64, before hash.Hash) (whole hash.Hash, err error) {
	damaged := 0
	err = s.try(ctx, "reading "+attempt+"/"+p.Object, func(ctx context.Context) error {
		if whole, err = cloned(before); err != nil {
			return err
		}
		r, err := s.bucket.NewReader(ctx, s.prefix+attempt+"/"+p.Object, &blob.ReaderOptions{})
		if err != nil {
			return err
		}
		defer r.Close()
		digest := sha256.New()
		n, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(out, at), digest, whole), io.LimitReader(r, p.Bytes+1))
		if err != nil {
			return err
		}
		if got := hex.EncodeToString(digest.Sum(nil)); n != p.Bytes || got != p.SHA256 {
			damaged++
			err := fmt.Errorf("%d bytes with digest %s, want %d with %s", n, got, p.Bytes, p.SHA256)
			if damaged == readsOfDamaged {
				err = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			return err
		}
		return nil
	})
	return whole, err
}

func cloned(h hash.Hash) (hash.Hash, error) {
	c, ok := h.(hash.Cloner)
	if !ok {
		return nil, fmt.Errorf("a %T cannot be cloned", h)
	}
	return c.Clone()
}

// Verify holds files below a folder against what a bundle holds: those that want returns true for, nil wants all.
func (m Manifest) Verify(folder string, want func(name string) bool) error {
	for _, f := range m.Files {
		if want != nil && !want(f.Name) {
			continue
		}
		local := filepath.Join(folder, filepath.FromSlash(f.Name))
		if err := verifyFile(local, f.Bytes, f.SHA256); err != nil {
			return err
		}
	}
	return nil
}

// VerifyFile holds a file against its digest.
func VerifyFile(local, digest string) error { return verifyFile(local, -1, digest) }

func verifyFile(local string, size int64, digest string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("reading %s: %w", local, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest || size >= 0 && n != size {
		return fmt.Errorf("%s: %w: %d bytes with digest %s, want digest %s", local, ErrDamaged, n, got, digest)
	}
	return nil
}

// Checkpoints are the paths of the checkpoints that attempts of a job published, the newest first.
func (s *Store) Checkpoints(ctx context.Context, id string) (paths []string, err error) {
	root := "jobs/" + id + "/attempts/"
	objects, err := s.list(ctx, root, maxObjects)
	if err != nil {
		return nil, err
	}
	units, _ := unitsOf(root, objects)
	newestFirst(units)
	for _, u := range units {
		if u.published {
			paths = append(paths, AttemptKey(id, u.epoch)+"/checkpoints/"+StepName(u.step))
		}
	}
	return paths, nil
}

// Resolve is the reference to what is published under a path now.
func (s *Store) Resolve(ctx context.Context, path string) (ref Ref, err error) {
	attempt, bundle, err := splitKey(path)
	if err != nil {
		return ref, err
	}
	key := manifestKey(attempt, bundle)
	err = s.try(ctx, "reading "+key, func(ctx context.Context) error {
		text, err := s.readAll(ctx, key, maxManifestBytes)
		ref = Ref{Path: path, SHA256: digestOf(text)}
		return err
	})
	return ref, err
}
