package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/surmise-ml/surmise/internal/durable"
)

// uploadsAtOnce is how many parts of a bundle are on their way at a time; each takes PartBytes of memory.
const uploadsAtOnce = 4

// errChanged: a file is not what it was when its digest was taken.
var errChanged = errors.New("changed while it was being published")

// Upload brings a bundle into a store. Run may be called again after it failed: what has arrived is not sent again.
type Upload struct {
	s       *Store
	attempt string
	m       Manifest
	text    []byte // m
	inPlace bool   // the files lie in the store already
	pieces  []piece

	mu   sync.Mutex
	done []bool // guarded by mu; by piece
}

// piece is a part, and the bytes of a file here that it holds.
type piece struct {
	path   string
	offset int64
	Part
}

// Source is what a bundle is made of.
type Source struct {
	Path    string             // a file or folder here
	Only    []string           // folders of the folder; nil: all of it
	Figures map[string]float64 // what is known of it
}

// NewUpload reads what is to be published as a bundle of an attempt; it must not change until it is, but for files that
// grow. Names that begin with a dot are left out. A file that lies where the bundle belongs, in a store that is a folder,
// stays as it is.
func (s *Store) NewUpload(ctx context.Context, attempt, bundle string, from Source) (*Upload, error) {
	u := &Upload{s: s, attempt: attempt, m: Manifest{Version: manifestVersion, Bundle: bundle, Figures: maps.Clone(from.Figures)}}
	if err := u.read(ctx, from.Path, from.Only); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", from.Path, err)
	}
	return u, nil
}

func (u *Upload) read(ctx context.Context, local string, only []string) error {
	if _, _, err := splitKey(u.attempt + "/" + u.m.Bundle); err != nil {
		return err
	}
	local, err := filepath.Abs(local)
	if err != nil {
		return err
	}
	u.inPlace = u.s.folder != "" && local == u.s.Path(u.attempt+"/"+u.m.Bundle)
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	files := map[string]string{} // by name in the bundle
	if u.m.Single = !info.IsDir(); u.m.Single {
		files[path.Base(u.m.Bundle)] = local
	} else {
		folder, err := filepath.EvalSymlinks(local) // what is below a link to a folder is not walked
		if err == nil {
			files, err = filesBelow(folder, only)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := u.readFile(ctx, name, files[name]); err != nil {
			return err
		}
	}
	u.text, err = u.m.encode()
	u.done = make([]bool, len(u.pieces))
	return err
}

// errManyFiles is of a bundle that no manifest may list.
var errManyFiles = fmt.Errorf("more than %d files", maxFiles)

// filesBelow are the regular files below a folder, or below some folders in it, by their names there.
func filesBelow(folder string, only []string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := name != folder && strings.HasPrefix(d.Name(), ".")
		if d.IsDir() {
			other := only != nil && filepath.Dir(name) == folder && !slices.Contains(only, d.Name())
			if hidden || other {
				return filepath.SkipDir
			}
			return nil
		}
		if only != nil && filepath.Dir(name) == folder || hidden || !d.Type().IsRegular() {
			return nil
		}
		if len(files) == maxFiles {
			return errManyFiles
		}
		below, err := filepath.Rel(folder, name)
		files[filepath.ToSlash(below)] = name
		return err
	})
	return files, err
}

// readFile takes the digests of a file and of its parts.
func (u *Upload) readFile(ctx context.Context, name, local string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	object := path.Join(u.m.Bundle, name)
	if u.m.Single {
		object = u.m.Bundle
	}
	size := info.Size() // a file that grows is published as long as it is now
	several := size > u.s.o.PartBytes && !u.inPlace
	file := File{Name: name, Bytes: size}
	whole := sha256.New()
	for offset := int64(0); offset < size || len(file.Parts) == 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		part := Part{Object: object, Bytes: size}
		if several {
			part = Part{Object: partName(object, len(file.Parts)), Bytes: min(u.s.o.PartBytes, size-offset)}
		}
		digest := sha256.New()
		if n, err := io.Copy(io.MultiWriter(digest, whole), io.NewSectionReader(f, offset, part.Bytes)); err != nil {
			return err
		} else if n != part.Bytes {
			return fmt.Errorf("%s: %w: %d bytes, was %d", local, errChanged, offset+n, size)
		}
		part.SHA256 = hex.EncodeToString(digest.Sum(nil))
		file.Parts = append(file.Parts, part)
		u.pieces = append(u.pieces, piece{local, offset, part})
		offset += part.Bytes
	}
	file.SHA256 = hex.EncodeToString(whole.Sum(nil))
	u.m.Files = append(u.m.Files, file)
	return nil
}

// Manifest says what the bundle holds.
func (u *Upload) Manifest() Manifest { return u.m }

// Run sends what has not arrived, and then publishes the bundle. ErrExists means that something else was published in its
// place.
func (u *Upload) Run(ctx context.Context) (Ref, error) {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(uploadsAtOnce)
	for i, p := range u.pieces {
		if u.arrived(i) {
			continue
		}
		group.Go(func() error {
			if err := groupCtx.Err(); err != nil {
				return context.Cause(groupCtx)
			}
			if err := u.send(groupCtx, p); err != nil {
				return err
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			u.done[i] = true
			return nil
		})
	}
	ref := Ref{Path: u.attempt + "/" + u.m.Bundle, SHA256: digestOf(u.text)}
	err := group.Wait()
	if err == nil {
		err = u.s.putOnce(ctx, manifestKey(u.attempt, u.m.Bundle), u.text)
	}
	if err != nil {
		return ref, fmt.Errorf("publishing %s: %w", ref.Path, err)
	}
	return ref, nil
}

func (u *Upload) arrived(i int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.done[i]
}

func (u *Upload) send(ctx context.Context, p piece) error {
	if u.inPlace {
		if err := durable.Sync(p.path); err != nil {
			return err
		}
		return durable.Sync(filepath.Dir(p.path))
	}
	key := u.attempt + "/" + p.Object
	return u.s.try(ctx, "writing "+key, func(ctx context.Context) error {
		data, err := p.bytes()
		if err != nil {
			return err
		}
		return u.s.put(ctx, key, data)
	})
}

// bytes reads the piece, which must be what it was.
func (p piece) bytes() ([]byte, error) {
	f, err := os.Open(p.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, p.Bytes)
	if _, err := f.ReadAt(data, p.offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if digestOf(data) != p.SHA256 {
		return nil, fmt.Errorf("%s: %w", p.path, errChanged)
	}
	return data, nil
}
