package video

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Item is one file of a dataset.
type Item struct {
	Path  string // absolute; with roots, after symbolic links are resolved
	Label string // from an index, else empty

	Source int // which of the names it was found under
}

// Extensions by which files are taken from folders and globs. A file that is named itself may have any.
var (
	videoExtensions = []string{".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif", ".m4v", ".mpg", ".mpeg"}
	indexExtensions = []string{".csv", ".txt"}
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
//
// A file named more than once counts once, with its first label. With roots, only files below one of these
// folders are read, indexes included, and symbolic links count for where they lead.
//
// A name that does not exist, holds no video, or lies outside the roots is a *NameError. A line of an index
// that names a missing file is none: such a file is unusable by its verdict, as a damaged one is.
func Resolve(ctx context.Context, data, roots []string) ([]Item, error) {
	r := resolver{roots: roots, seen: map[string]bool{}}
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
	return r.items, nil
}

// NameError is a name in a dataset that stands for no videos, and why.
type NameError struct {
	Index int // among the names given
	Name  string
	Err   error
}

func (e *NameError) Error() string { return fmt.Sprintf("data %q: %v", e.Name, e.Err) }
func (e *NameError) Unwrap() error { return e.Err }

type resolver struct {
	roots []string
	items []Item
	seen  map[string]bool
	found int // files, those already seen included

	source int // the name that is being resolved
}

func (r *resolver) name(ctx context.Context, name string) error {
	if name == "" {
		return errors.New("an empty name")
	}
	if strings.Contains(name, "://") {
		return errors.New("a URL; only files on this machine can be read")
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
		if !info.IsDir() && !hasExtension(match, videoExtensions) && !hasExtension(match, indexExtensions) {
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
		return r.index(ctx, real)
	}
	return r.add(real, "")
}

func (r *resolver) folder(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if entry.IsDir() || !hasExtension(path, videoExtensions) {
			return nil
		}
		real, err := Below(r.roots, path)
		if err != nil {
			return err
		}
		return r.add(real, "")
	})
}

func (r *resolver) index(ctx context.Context, path string) error {
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
	rows, err := parseIndex(io.LimitReader(f, maxIndexBytes))
	if err != nil {
		return fmt.Errorf("index %q: %w", path, err)
	}
	for _, row := range rows {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		file := row.Path
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		real, err := Below(r.roots, filepath.Clean(file))
		if err != nil {
			return fmt.Errorf("index %q: %w", path, err)
		}
		if err := r.add(real, row.Label); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) add(path, label string) error {
	r.found++
	if r.found > maxItems {
		return fmt.Errorf("more than %d files", maxItems)
	}
	if !r.seen[path] {
		r.seen[path] = true
		r.items = append(r.items, Item{path, label, r.source})
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
		realRoot, err := realPath(root)
		if err != nil {
			return "", fmt.Errorf("data root %q: %w", root, err)
		}
		if below, err := filepath.Rel(realRoot, real); err == nil && filepath.IsLocal(below) {
			return real, nil
		}
	}
	return "", fmt.Errorf("%q lies outside the folders that may be read (%s)", path, strings.Join(roots, ", "))
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

// parseIndex reads an index of either form; the first line tells which: with a comma it is CSV.
func parseIndex(in io.Reader) ([]Item, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // spreadsheets write a byte order mark
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("not a text file: it holds a zero byte")
	}
	text = bytes.TrimLeft(text, " \t\r\n")
	first, _, _ := bytes.Cut(text, []byte("\n"))
	if bytes.IndexByte(first, ',') >= 0 || strings.EqualFold(string(bytes.TrimSpace(first)), "path") {
		return parseCSV(text)
	}
	return parseSpaced(text)
}

// parseCSV reads "path,label,…". A first record with a field "path" is a header and says where the columns are.
func parseCSV(text []byte) ([]Item, error) {
	reader := csv.NewReader(bytes.NewReader(text))
	reader.FieldsPerRecord = -1
	reader.TrimLeadingSpace = true
	reader.ReuseRecord = true
	var items []Item
	pathColumn, labelColumn := 0, 1
	for first := true; ; first = false {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return nil, err // names line and column
		}
		if first {
			names := make([]string, len(record))
			for i, name := range record {
				names[i] = strings.ToLower(strings.TrimSpace(name))
			}
			if i := slices.Index(names, "path"); i >= 0 {
				pathColumn, labelColumn = i, slices.Index(names, "label")
				continue
			}
		}
		line, _ := reader.FieldPos(0)
		item := Item{Path: column(record, pathColumn), Label: column(record, labelColumn)}
		if items, err = appendItem(items, item, line); err != nil {
			return nil, err
		}
	}
}

func column(record []string, i int) string {
	if i < 0 || i >= len(record) {
		return ""
	}
	return strings.TrimSpace(record[i])
}

// parseSpaced reads "path label". Paths may hold spaces: the label is what follows the last one, unless that
// ends like a video's name, for then the line is a path alone.
func parseSpaced(text []byte) ([]Item, error) {
	var items []Item
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLineBytes)
	number := 0
	for lines.Scan() {
		number++
		item := Item{Path: strings.TrimSpace(lines.Text())}
		if item.Path == "" {
			continue
		}
		if i := strings.LastIndexAny(item.Path, " \t"); i >= 0 && !hasExtension(item.Path[i+1:], videoExtensions) {
			item.Path, item.Label = strings.TrimSpace(item.Path[:i]), item.Path[i+1:]
		}
		var err error
		if items, err = appendItem(items, item, number); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w (limit %d bytes)", number+1, err, maxLineBytes)
	}
	return items, nil
}

func appendItem(items []Item, item Item, line int) ([]Item, error) {
	switch {
	case item.Path == "":
		return nil, fmt.Errorf("line %d: no path", line)
	case len(item.Path) > maxLineBytes:
		return nil, fmt.Errorf("line %d: a path of %d bytes (limit %d)", line, len(item.Path), maxLineBytes)
	case strings.Contains(item.Path, "://"):
		return nil, fmt.Errorf("line %d: %q is a URL; only files on this machine can be read", line, item.Path)
	case len(items) == maxItems:
		return nil, fmt.Errorf("line %d: more than %d files", line, maxItems)
	}
	return append(items, item), nil
}
