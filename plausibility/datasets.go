package plausibility

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// Dataset is a published benchmark read from its folder: the videos in groups, as a
// pairs file would list them.
type Dataset struct {
	Name      string
	Folder    string // absolute; what names in Videos are relative to
	Videos    []Video
	FrameStep int      // that it was published with; for scoring without a protocol
	Notes     []string // what is missing or was left out, by name
}

// Bounds on what a dataset's folder may hold.
const (
	maxNotes         = 100
	maxEntries       = 1 << 17 // of one folder
	maxMetadataBytes = 64 << 20
	maxStatusBytes   = 16 << 20 // an IntPhys status.json lists every object in every frame
)

// datasets are the layouts that can be read, each by a reader of its own file.
var datasets = []struct {
	name      string
	frameStep int
	below     []string // folders that the root may be above of
	read      func(*datasetReader) error
}{
	{"intphys", 2, []string{"dev"}, readIntPhys},
	{"intphys2", 10, []string{"Main"}, readIntPhys2},
	{"grasp", 10, []string{"level2", "videos/level2"}, readGRASP},
	{"inflevel", 5, []string{"inflevel_lab"}, readInfLevel},
}

// DatasetNames lists the datasets that can be read.
func DatasetNames() []string {
	var names []string
	for _, d := range datasets {
		names = append(names, d.name)
	}
	return names
}

// ReadDataset lists the videos of a dataset below its root; with roots, only files below
// one of these folders are accepted (see source.Below). Whatever does not fit the layout
// is an error that names the file, or, where a video or a property is merely not there,
// a note.
func ReadDataset(name, root string, roots []string) (*Dataset, error) {
	for _, d := range datasets {
		if d.name != name {
			continue
		}
		folder, err := filepath.Abs(root)
		if err != nil {
			return nil, fmt.Errorf("dataset %s: %w", name, err)
		}
		r := &datasetReader{roots: roots, set: Dataset{Name: name, FrameStep: d.frameStep}}
		for _, candidate := range append([]string{"."}, d.below...) {
			r.set.Folder = filepath.Join(folder, candidate)
			if err = d.read(r); !errors.Is(err, errOtherFolder) {
				break
			}
		}
		if err == nil && len(r.set.Videos) == 0 {
			err = errors.New("holds no complete group of videos")
		}
		if err == nil {
			_, err = byGroup(r.set.Videos)
		}
		if err != nil {
			return nil, fmt.Errorf("dataset %s in %s: %w", name, root, err)
		}
		if r.dropped > 0 {
			r.set.Notes = append(r.set.Notes, fmt.Sprintf("and %d notes more", r.dropped))
		}
		return &r.set, nil
	}
	return nil, fmt.Errorf("dataset: %q, want one of %s", name, strings.Join(DatasetNames(), ", "))
}

// errOtherFolder says that a folder does not look like the dataset at all.
var errOtherFolder = errors.New("not laid out like it")

// otherFolder says what a folder should hold.
func otherFolder(want string) error { return fmt.Errorf("%w: want %s", errOtherFolder, want) }

type datasetReader struct {
	roots   []string
	set     Dataset
	dropped int // notes
}

// note records what is missing.
func (r *datasetReader) note(format string, args ...any) {
	if len(r.set.Notes) == maxNotes {
		r.dropped++
		return
	}
	r.set.Notes = append(r.set.Notes, fmt.Sprintf(format, args...))
}

// path is where a name relative to the dataset's folder lies; an error if that is outside the roots.
func (r *datasetReader) path(name string) (string, error) {
	return source.Below(r.roots, filepath.Join(r.set.Folder, filepath.FromSlash(name)))
}

// add takes a video whose name is relative to the dataset's folder.
func (r *datasetReader) add(v Video) error {
	if len(r.set.Videos) == maxPairsRows {
		return fmt.Errorf("more than %d videos", maxPairsRows)
	}
	path, err := r.path(v.Name)
	if err != nil {
		return err
	}
	v.Path = path
	r.set.Videos = append(r.set.Videos, v)
	return nil
}

// list returns the names in a folder in their order, numbers as numbers; folders or files, hidden ones left out.
// A folder that does not exist has none.
func (r *datasetReader) list(folder string, folders bool) ([]string, error) {
	path, err := r.path(folder)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxEntries + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case len(entries) > maxEntries:
		return nil, fmt.Errorf("%s: more than %d files", folder, maxEntries)
	}
	var names []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(path, e.Name())) // datasets are often linked together
		if err != nil {
			return nil, err
		}
		if info.IsDir() == folders && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, video.CompareNumbered)
	return names, nil
}

func (r *datasetReader) exists(name string) bool {
	path, err := r.path(name)
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// open opens a file of at most limit bytes.
func (r *datasetReader) open(name string, limit int64) (io.ReadCloser, error) {
	path, err := r.path(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, want a regular file of at most %d", name, info.Size(), limit)
	}
	return os.Open(path)
}

// rows reads a CSV file with a header, whose columns come in any order, and calls each
// with the line and the cell of a column, "" where there is none.
func (r *datasetReader) rows(name string, required []string, each func(line int, cell func(column string) string) error) error {
	f, err := r.open(name, maxMetadataBytes)
	if err != nil {
		return err
	}
	defer f.Close()
	return csvRows(f, name, required, each)
}

func csvRows(f io.Reader, name string, required []string, each func(line int, cell func(column string) string) error) error {
	in := csv.NewReader(f)
	header, err := in.Read()
	if err != nil {
		return fmt.Errorf("%s: header: %w", name, err)
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff")
	at := map[string]int{}
	for i, column := range header {
		at[column] = i
	}
	for _, column := range required {
		if _, ok := at[column]; !ok {
			return fmt.Errorf("%s: no column %q among %q", name, column, header)
		}
	}
	for {
		row, err := in.Read() // as many fields as the header, or an error that names the line
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		line, _ := in.FieldPos(0)
		for i, cell := range row {
			if err := checkField(cell); err != nil {
				return fmt.Errorf("%s: line %d: %s: %w", name, line, header[i], err)
			}
		}
		err = each(line, func(column string) string {
			if i, ok := at[column]; ok {
				return row[i]
			}
			return ""
		})
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", name, line, err)
		}
	}
}
