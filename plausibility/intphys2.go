package plausibility

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// readIntPhys2 reads the Main or Debug split of IntPhys 2 (Bordes et al., arXiv:2506.09849):
//
//	metadata.csv     SceneIndex; type: 1_Possible, 1_Impossible, 2_Possible, 2_Impossible;
//	                 condition; and the file: file_name, or name or filename without .mp4
//	Videos/….mp4
//
// A scene is a group, the number of the type its pair; Debug has a scene several times
// over. Conditions are merged into the four principles, as the published notebook does:
// immutability_texture is immutability, continuity_swap continuity. The held-out split
// has no metadata.
func readIntPhys2(r *datasetReader) error {
	if !r.exists("metadata.csv") {
		return otherFolder("metadata.csv and Videos, as in Main or Debug")
	}
	return r.rows("metadata.csv", []string{"SceneIndex", "type", "condition"}, func(line int, cell func(string) string) error {
		name := cell("file_name")
		if name == "" {
			for _, column := range []string{"name", "filename"} {
				if name == "" && cell(column) != "" {
					name = path.Join("Videos", cell(column))
				}
			}
		}
		if name == "" {
			return errors.New("file_name, name, filename: all empty")
		}
		if path.Ext(name) == "" {
			name += ".mp4"
		}
		pair, kind, found := strings.Cut(cell("type"), "_")
		if pair != "1" && pair != "2" || !found {
			return fmt.Errorf("type: %q, want 1 or 2, then _Possible or _Impossible", cell("type"))
		}
		v := Video{Name: name, Pair: pair}
		switch kind {
		case "Possible":
			v.Label = 1
		case "Impossible":
		default:
			return fmt.Errorf("type: %q, want 1 or 2, then _Possible or _Impossible", cell("type"))
		}
		if v.Group = cell("SceneIndex"); v.Group == "" {
			return errors.New("SceneIndex: empty")
		}
		v.Property, _, _ = strings.Cut(cell("condition"), "_")
		return r.add(v)
	})
}
