// Package source finds the videos of a dataset: names that people give, of files, folders, globs, indexes, tar shards and
// URIs, become the list of videos they stand for, within the folders and places that may be read.
//
// One source file each:
//
//	resolve.go  names -> items
//	indexes.go  CSV, TSV, JSONL and "path label" files -> rows
//	tar.go      tar shards -> the videos in them
//	uri.go      the same elsewhere, through a Remote
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Item is one video of a dataset: a file, a part of one, or an object elsewhere.
type Item struct {
	Path  string // absolute; with roots, after symbolic links are resolved; empty for an object elsewhere
	Label string // from an index or a tar shard, else empty

	Source int // which of the names it was found under

	URI            string // of an object elsewhere
	Member         string // name within the tar shard that Path or URI is
	Offset, Length int64  // bytes of that member in the shard
}

// Name is what an item is called in verdicts and errors: a path, a URI, or a shard and the member's name in it.
func (it Item) Name() string {
	name := it.Path
	if it.URI != "" {
		name = it.URI
	}
	if it.Member != "" {
		name += "/" + it.Member
	}
	return name
}

// Remote brings objects from elsewhere; *remote.Store is one.
type Remote interface {
	// Errors are *AwayError where the next call may succeed.

	// List returns the URIs below one that ends in "/", sorted.
	List(ctx context.Context, uri string) ([]string, error)
	// Fetch returns a file with the object's bytes, which stays until release is called.
	Fetch(ctx context.Context, uri string) (path string, release func(), err error)
}

// AwayError is an object that a Remote could not bring although it may well be there: a store or server that is down or slow, a
// connection that broke, no room on this machine. It is no fault of who named it, and may be gone the next time.
type AwayError struct{ Err error }

func (e *AwayError) Error() string { return e.Err.Error() }
func (e *AwayError) Unwrap() error { return e.Err }

// Extensions by which files are taken from folders and globs. A file that is named itself may have any.
var (
	videoExtensions = []string{".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif", ".m4v", ".3gp", ".mpg", ".mpeg"}
	indexExtensions = []string{".csv", ".tsv", ".txt", ".jsonl"}
	shardExtensions = []string{".tar"}
	// Videos that the decoder does not take. Who has a folder of them hears that they were passed over.
	otherExtensions = []string{".ts", ".mts", ".m2ts", ".flv", ".wmv", ".asf", ".ogv", ".ogg", ".vob", ".rm", ".rmvb", ".h264", ".hevc", ".y4m"}
)

// Bounds on what an index or folder may name.
const (
	maxIndexBytes = 256 << 20
	maxLineBytes  = 64 << 10
	maxItems      = 1 << 20
)

// Resolve turns names into files, in the order of the names; within a folder or glob, by path. A name is
//
//	a video file       taken whatever its extension
//	a folder           its files and those of folders below it, by extension; links to folders are not followed
//	a glob             *, ? and [..] as in filepath.Match; folders that match are searched
//	a .csv or .txt     an index: "path label" on each line, as V-JEPA writes it, or "path,label,…", with or
//	                   without a header that has a column "path"; paths are relative to the index's folder
//	a .tsv             the same with tabs
//	a .jsonl           an index of JSON objects with "path" and, if they have one, "label"
//	a .tar             a shard as WebDataset writes it: its members that are videos, labelled by the member of the
//	                   same name that ends in .cls, or by "label" of the one that ends in .json
//	s3:// gs:// http(s)://  any of these elsewhere, if remote is not nil; a folder ends in "/"
//
// A file named more than once counts once, with its first label. With roots, only files below one of these
// folders are read, indexes included, and symbolic links count for where they lead. A root may be the beginning of a
// URI; with roots, only what begins with one of them is fetched.
//
// A name that does not exist, holds no video, or lies outside the roots is a *NameError. A line of an index
// that names a missing file is none: such a file is unusable by its verdict, as a damaged one is.
func Resolve(ctx context.Context, data, roots []string, remote Remote) ([]Item, error) {
	r := resolver{roots: roots, remote: remote, seen: map[string]bool{}, passed: map[string]int{}}
	for i, name := range data {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("resolve %q: %w", name, context.Cause(ctx))
		}
		before := r.found
		r.source = i
		err := r.name(ctx, name)
		if err == nil && r.found == before {
			err = fmt.Errorf("no video in it (%s)", strings.Join(videoExtensions, " "))
		}
		if err != nil {
			return nil, &NameError{Index: i, Name: name, Err: err}
		}
	}
	if len(r.passed) > 0 {
		slog.WarnContext(ctx, "videos of kinds that are not decoded were passed over", "files", r.passed, "decoded", strings.Join(videoExtensions, " "))
	}
	return r.items, nil
}

// NameError is a name in a dataset that stands for no videos, and why.
type NameError struct {
	Index int // among the names given
	Name  string
	Err   error
}

func (e *NameError) Error() string {
	name, says := strconv.Quote(e.Name), e.Err.Error()
	if strings.HasPrefix(says, name) {
		return says
	}
	return name + ": " + strings.TrimSuffix(says, ": "+name) // it is said once
}
func (e *NameError) Unwrap() error { return e.Err }

type resolver struct {
	roots  []string
	remote Remote
	items  []Item
	seen   map[string]bool
	found  int            // files, those already seen included
	passed map[string]int // files of a folder that are other videos, by extension

	source int // the name that is being resolved
}

func (r *resolver) name(ctx context.Context, name string) error {
	if name == "" {
		return errors.New("an empty name")
	}
	if IsURI(name) {
		return r.uri(ctx, name)
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	if strings.ContainsAny(name, "*?[") {
		// A file may be called a[1].mp4: what exists is taken as it stands.
		if _, err := os.Lstat(path); err != nil {
			return r.glob(ctx, path)
		}
	}
	return r.path(ctx, path)
}

func (r *resolver) glob(ctx context.Context, pattern string) error {
	// The part before the first special character must lie below a root, or a pattern could ask what exists
	// elsewhere.
	base := filepath.Dir(pattern[:strings.IndexAny(pattern, "*?[")] + "x")
	if _, err := Below(r.roots, base); err != nil {
		return err
	}
	matches, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	if len(matches) == 0 {
		return errors.New("nothing matches")
	}
	slices.Sort(matches)
	for _, match := range matches {
		info, err := os.Stat(match)
		if err != nil {
			return err
		}
		if !info.IsDir() && !hasExtension(match, slices.Concat(videoExtensions, indexExtensions, shardExtensions)) {
			continue
		}
		if err := r.path(ctx, match); err != nil {
			return err
		}
	}
	return nil
}

// path adds a file, a folder's files, or an index's files. path is absolute.
func (r *resolver) path(ctx context.Context, path string) error {
	real, err := Below(r.roots, path)
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no such file or folder: %q", path)
	case err != nil:
		return err
	case info.IsDir():
		return r.folder(ctx, real)
	case hasExtension(path, indexExtensions):
		return r.index(ctx, real, "")
	case hasExtension(path, shardExtensions):
		return r.shard(ctx, real, Item{Path: real})
	}
	return r.add(Item{Path: real})
}

// folder adds what lies in a folder and in those below it, links to folders included; each folder once, wherever links lead.
func (r *resolver) folder(ctx context.Context, dir string) error {
	return r.walk(ctx, dir, map[string]bool{})
}

// walk is folder but for those walked through already, by where they really are.
func (r *resolver) walk(ctx context.Context, dir string, walked map[string]bool) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	// A separator at the end has a link at the root followed.
	root := strings.TrimSuffix(dir, string(filepath.Separator)) + string(filepath.Separator)
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if entry.IsDir() {
			at := filepath.Join(real, strings.TrimPrefix(path, root))
			if walked[at] {
				return fs.SkipDir
			}
			walked[at] = true
			return nil
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			to, err := r.linkedFolder(ctx, path)
			if err != nil {
				return err
			}
			if to != "" {
				return r.walk(ctx, to, walked)
			}
		}
		if hasExtension(path, otherExtensions) {
			r.passed[strings.ToLower(filepath.Ext(path))]++
		}
		if !hasExtension(path, slices.Concat(videoExtensions, shardExtensions)) {
			return nil
		}
		real, err := Below(r.roots, path)
		if err != nil {
			return err
		}
		if hasExtension(path, shardExtensions) {
			return r.shard(ctx, real, Item{Path: real})
		}
		return r.add(Item{Path: real})
	})
}

// linkedFolder is where a link to a folder leads; "" for any other link, and for a folder that may not be read, which is passed
// over with a word: it may well hold no videos.
func (r *resolver) linkedFolder(ctx context.Context, path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", nil
	}
	if _, err := Below(r.roots, path); err != nil {
		slog.WarnContext(ctx, "a link to a folder was not followed", "link", path, "reason", err)
		return "", nil
	}
	return filepath.EvalSymlinks(path)
}

// index adds what an index names. path is the file, which for an index elsewhere was fetched from uri.
func (r *resolver) index(ctx context.Context, path, uri string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxIndexBytes {
		return fmt.Errorf("index %q is %d bytes (limit %d)", path, info.Size(), maxIndexBytes)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	rows, err := parseIndexFile(io.LimitReader(f, maxIndexBytes), strings.ToLower(filepath.Ext(path)))
	if err != nil {
		return fmt.Errorf("index %q: %w", path, err)
	}
	for _, row := range rows {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if uri != "" || IsURI(row.Path) {
			if err := r.indexedURI(ctx, uri, row); err != nil {
				return fmt.Errorf("index %q: %w", path, err)
			}
			continue
		}
		file := row.Path
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		real, err := Below(r.roots, filepath.Clean(file))
		if err != nil {
			return fmt.Errorf("index %q: %w", path, err)
		}
		if hasExtension(real, shardExtensions) {
			if err := r.shard(ctx, real, Item{Path: real, Label: row.Label}); err != nil {
				return err
			}
			continue
		}
		if err := r.add(Item{Path: real, Label: row.Label}); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) add(item Item) error {
	r.found++
	if r.found > maxItems {
		return fmt.Errorf("more than %d files", maxItems)
	}
	if name := item.Name(); !r.seen[name] {
		r.seen[name] = true
		item.Source = r.source
		r.items = append(r.items, item)
	}
	return nil
}

// Below returns the path to open for a path from outside. With roots that is where its links lead, absolute, and it
// must lie below one of these folders; what does not exist is judged by where it would be. Without roots any path
// will do, as it is. Relative roots and paths are those of this process.
func Below(roots []string, path string) (string, error) {
	if len(roots) == 0 {
		return path, nil
	}
	real, err := realPath(path)
	if err != nil {
		return "", err
	}
	for _, root := range roots {
		if IsURI(root) {
			continue
		}
		realRoot, err := realPath(root)
		if err != nil {
			return "", fmt.Errorf("data root %q: %w", root, err)
		}
		if below, err := filepath.Rel(realRoot, real); err == nil && filepath.IsLocal(below) {
			return real, nil
		}
	}
	return "", fmt.Errorf("%q lies outside the folders that may be read (%s; --data-root of what reads it names more)", path, strings.Join(roots, ", "))
}

// realPath follows the links of a path as far as it exists and keeps the rest, so that what is missing can be
// judged by where it would be.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%q is a link that leads nowhere", path)
	}
	parent, err := realPath(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}

func hasExtension(path string, extensions []string) bool {
	return slices.Contains(extensions, strings.ToLower(filepath.Ext(path)))
}
