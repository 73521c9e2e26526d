package plausibility

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video/source"
)

// Bounds on a pairs file.
const (
	maxPairsBytes = 64 << 20
	maxPairsRows  = 1_000_000
	maxFieldBytes = 4096
)

var pairsColumns = []string{"path", "label", "group", "property"}

// ReadPairs reads a pairs file: CSV with a header that names path, label, group and property, in any order and among others.
// Paths are relative to the file's folder, or URIs; with roots, only what lies below one of
// these is accepted, links resolved (see source.Below and source.BelowURI). Errors name the
// line and the field, or the group that has fewer than two videos, one label only,
// or two properties.
func ReadPairs(path string, roots []string) ([]Video, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening pairs file: %w", err)
	}
	defer f.Close()
	videos, err := parsePairs(f)
	if err != nil {
		return nil, fmt.Errorf("pairs file %s: %w", path, err)
	}
	for i := range videos {
		if v := &videos[i]; source.IsURI(v.Path) {
			v.Path, err = source.BelowURI(roots, v.Path)
		} else {
			if !filepath.IsAbs(v.Path) {
				v.Path = filepath.Join(filepath.Dir(path), v.Path)
			}
			v.Path, err = source.Below(roots, v.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("pairs file %s: path: %w", path, err)
		}
	}
	return videos, nil
}

func parsePairs(r io.Reader) ([]Video, error) {
	counted := &countingReader{r: io.LimitReader(r, maxPairsBytes+1)}
	in := csv.NewReader(counted)
	in.FieldsPerRecord = -1 // counted below, to name the line in our words
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("empty")
	}
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // spreadsheets write a byte order mark
	at := make([]int, len(pairsColumns))                // of each of our columns
	for i, name := range pairsColumns {
		named := func(h string) bool { return strings.EqualFold(strings.TrimSpace(h), name) }
		at[i] = slices.IndexFunc(header, named)
		if at[i] >= 0 && slices.ContainsFunc(header[at[i]+1:], named) {
			return nil, fmt.Errorf("line 1: the header has two columns %s", name)
		}
		if at[i] < 0 {
			// Of %d columns, and not which: the file may be any that this process can read, named by who may not.
			return nil, fmt.Errorf("line 1: a header of %d columns without %s, want %s", len(header), name, strings.Join(pairsColumns, ","))
		}
	}
	columns, spaced := len(header), slices.ContainsFunc(header, func(h string) bool { return h != strings.TrimSpace(h) })
	var videos []Video
	lineOf := map[string]int{}
	for {
		row, err := in.Read()
		if counted.n > maxPairsBytes {
			return nil, fmt.Errorf("larger than %d MiB", maxPairsBytes>>20)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err // names the line
		}
		line, _ := in.FieldPos(0)
		if len(row) != columns {
			return nil, fmt.Errorf("line %d: %d fields, want %d as in the header", line, len(row), columns)
		}
		row = []string{row[at[0]], row[at[1]], row[at[2]], row[at[3]]}
		if spaced { // "path, label", as people write it
			for i := range row {
				row[i] = strings.TrimSpace(row[i])
			}
		}
		for i, field := range row {
			if err := checkField(field); err != nil {
				return nil, fmt.Errorf("line %d: %s: %w", line, pairsColumns[i], err)
			}
		}
		v := Video{Path: row[0], Name: row[0], Group: row[2], Property: row[3]}
		if v.Path == "" {
			return nil, fmt.Errorf("line %d: path: empty", line)
		}
		switch row[1] {
		case "1":
			v.Label = 1
		case "0":
		default:
			return nil, fmt.Errorf("line %d: label: %q, want 1 (possible) or 0 (impossible)", line, row[1])
		}
		if v.Group == "" {
			return nil, fmt.Errorf("line %d: group: empty", line)
		}
		if v.Property == compare.All {
			return nil, fmt.Errorf("line %d: property: %q, which is what all properties together are called", line, v.Property)
		}
		if first, ok := lineOf[v.Path]; ok {
			return nil, fmt.Errorf("line %d: path: %q is on line %d already", line, v.Path, first)
		}
		lineOf[v.Path] = line
		if videos = append(videos, v); len(videos) > maxPairsRows {
			return nil, fmt.Errorf("line %d: more than %d videos", line, maxPairsRows)
		}
	}
	if len(videos) == 0 {
		return nil, errors.New("names no video")
	}
	_, err = byGroup(videos)
	return videos, err
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// unlabelled tells whether videos have no labels: all of them, or none.
func unlabelled(videos []Video) bool { return len(videos) > 0 && videos[0].Label == compare.NoLabel }

// together is how many videos without labels are scored as a group is: their windows fill batches, and their maps are in
// memory at once.
const together = 16

// byGroup sorts videos into groups in order of first appearance, and checks that
// each has both a possible and an impossible one, of one property. Videos without labels are in groups only so as to be
// scored together.
func byGroup(videos []Video) ([][]Video, error) {
	if unlabelled(videos) {
		for _, v := range videos {
			if v.Label != compare.NoLabel || v.Group != "" || v.Property != "" || v.Pair != "" {
				return nil, fmt.Errorf("video %s: label %d, group %q, property %q, pair %q; want %d and none of them, as of the first", v.Path, v.Label, v.Group, v.Property, v.Pair, compare.NoLabel)
			}
		}
		return slices.Collect(slices.Chunk(videos, together)), nil
	}
	index := map[string]int{}
	var groups [][]Video
	for _, v := range videos {
		i, ok := index[v.Group]
		if !ok {
			i = len(groups)
			index[v.Group] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], v)
	}
	for _, g := range groups {
		var labels [2]int
		for _, v := range g {
			if v.Label != 0 && v.Label != 1 {
				return nil, fmt.Errorf("group %q: label of %s: %d, want 1 (possible) or 0 (impossible)", v.Group, v.Path, v.Label)
			}
			if v.Property != g[0].Property {
				return nil, fmt.Errorf("group %q: property %q of %s, but %q of %s", v.Group, v.Property, v.Path, g[0].Property, g[0].Path)
			}
			labels[v.Label]++
		}
		name := g[0].Group
		switch {
		case len(g) > compare.MaxGroup:
			return nil, fmt.Errorf("group %q: %d videos, at most %d", name, len(g), compare.MaxGroup)
		case len(g) < 2:
			return nil, fmt.Errorf("group %q: one video (%s), want at least two", name, g[0].Path)
		case labels[1] == 0:
			return nil, fmt.Errorf("group %q: no possible video (label 1) among its %d", name, len(g))
		case labels[0] == 0:
			return nil, fmt.Errorf("group %q: no impossible video (label 0) among its %d", name, len(g))
		}
	}
	return groups, nil
}

// checkField refuses what a score file could not hold as it is: JSON and messages are UTF-8.
func checkField(field string) error {
	switch {
	case len(field) > maxFieldBytes:
		return fmt.Errorf("longer than %d bytes", maxFieldBytes)
	case strings.ContainsRune(field, 0):
		return errors.New("holds a zero byte")
	case !utf8.ValidString(field):
		return fmt.Errorf("%q is not UTF-8; a file of such a name has to be renamed", field)
	}
	return nil
}
