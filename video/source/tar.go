package source

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

const (
	maxMembers     = 1 << 20
	maxMemberLabel = 64 << 10 // bytes of a member that holds a label
	maxLabelBytes  = 1 << 10
	maxTextBytes   = 256 << 20 // of all names and labels of a shard
)

// shard adds the videos of a tar file, where they lie in it, so that nothing is unpacked. like is what they have in
// common.
func (r *resolver) shard(ctx context.Context, file string, like Item) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	members, err := readShard(ctx, f)
	if err != nil {
		return fmt.Errorf("tar shard %q: %w", like.Name(), err)
	}
	for _, m := range members {
		m.Path, m.URI = like.Path, like.URI
		if like.Label != "" {
			m.Label = like.Label
		}
		if err := r.add(m); err != nil {
			return err
		}
	}
	return nil
}

// readShard lists the videos of a tar file, with their labels. A sample is what shares a name up to the first dot
// after the last slash, as WebDataset has it.
func readShard(ctx context.Context, f io.ReadSeeker) ([]Item, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var videos []Item
	labels := map[string]string{} // by sample
	text := 0                     // bytes of names and labels
	archive := tar.NewReader(f)
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("after %d members: %w", n, err)
		}
		if n == maxMembers {
			return nil, fmt.Errorf("more than %d members", maxMembers)
		}
		if header.Typeflag != tar.TypeReg || header.Size == 0 || len(header.Name) > maxLineBytes || sparse(header) {
			continue // links and sparse files have no bytes of their own here, or not in one piece
		}
		switch extension := strings.ToLower(path.Ext(header.Name)); {
		case hasExtension(header.Name, videoExtensions):
			offset, err := f.Seek(0, io.SeekCurrent) // the reader takes headers in whole blocks and nothing ahead
			if err != nil {
				return nil, err
			}
			if offset+header.Size > size {
				return nil, fmt.Errorf("member %q is cut off: %d bytes at %d of %d", header.Name, header.Size, offset, size)
			}
			text += len(header.Name)
			videos = append(videos, Item{Member: header.Name, Offset: offset, Length: header.Size})
		case extension == ".cls" || extension == ".json":
			content, err := io.ReadAll(io.LimitReader(archive, maxMemberLabel))
			if err != nil {
				return nil, fmt.Errorf("member %q: %w", header.Name, err)
			}
			label := labelOf(extension, content)
			if len(label) > maxLabelBytes {
				return nil, fmt.Errorf("member %q: a label of %d bytes (limit %d)", header.Name, len(label), maxLabelBytes)
			}
			if label != "" {
				text += len(header.Name) + len(label)
				labels[sampleOf(header.Name)] = label
			}
		}
		if text > maxTextBytes {
			return nil, fmt.Errorf("names and labels of more than %d bytes", maxTextBytes)
		}
	}
	for i := range videos {
		videos[i].Label = labels[sampleOf(videos[i].Member)]
	}
	return videos, nil
}

// sparse tells a file with holes that were left out. Those of GNU's own format have a type of their own.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func sampleOf(name string) string {
	dir, base := path.Split(name)
	base, _, _ = strings.Cut(base, ".")
	return dir + base
}

func labelOf(extension string, text []byte) string {
	if extension == ".cls" {
		return strings.TrimSpace(string(text))
	}
	var object struct {
		Label any `json:"label"`
	}
	if json.Unmarshal(text, &object) != nil {
		return ""
	}
	return labelText(object.Label)
}

// labelText is a label as an index in JSON has it: a text or a number.
func labelText(label any) string {
	switch l := label.(type) {
	case string:
		return strings.TrimSpace(l)
	case float64, bool:
		return fmt.Sprint(l)
	}
	return ""
}
