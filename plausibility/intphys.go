package plausibility

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// readIntPhys reads the dev set of IntPhys (Riochet et al., arXiv:1803.07616): blocks O1,
// O2 and O3, in each of which every scene is a quadruplet.
//
//	O1/01/1/scene/scene_001.png …   the frames; depth and masks beside them are passed over
//	O1/01/1/status.json             header.is_possible
//
// The block is the property, as published. The test set says nothing of what is possible
// and is refused.
func readIntPhys(r *datasetReader) error {
	found := false
	for _, block := range []string{"O1", "O2", "O3"} {
		if !r.exists(block) {
			continue
		}
		found = true
		scenes, err := r.list(block, true)
		if err != nil {
			return err
		}
		for _, scene := range scenes {
			group := path.Join(block, scene)
			for _, movie := range []string{"1", "2", "3", "4"} {
				name := path.Join(group, movie)
				label, err := r.intPhysLabel(path.Join(name, "status.json"))
				if err != nil {
					return err
				}
				if err := r.add(Video{Name: path.Join(name, "scene"), Label: label, Group: group, Property: block}); err != nil {
					return err
				}
			}
		}
	}
	if !found {
		return otherFolder("folders O1, O2, O3")
	}
	for _, block := range []string{"O1", "O2", "O3"} {
		if !r.exists(block) {
			r.note("block %s is not there", block)
		}
	}
	return nil
}

func (r *datasetReader) intPhysLabel(name string) (int, error) {
	f, err := r.open(name, maxStatusBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s: no such file; the test set has none, and so no labels", name)
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var status struct {
		Header struct {
			IsPossible *bool `json:"is_possible"`
		} `json:"header"`
	}
	if err := json.NewDecoder(f).Decode(&status); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	switch p := status.Header.IsPossible; {
	case p == nil:
		return 0, fmt.Errorf("%s: header.is_possible: absent", name)
	case *p:
		return 1, nil
	}
	return 0, nil
}
