package plausibility

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// readInfLevel reads InfLevel-Lab (Weihs et al., TMLR 2022): a folder for each property,
// whose files say in their names what they are.
//
//	continuity/center__continuity__darkbluecup__blueclover__vv__LR.mp4
//	           camera  category    cover        object      event direction
//
// Of continuity, the events vv and ii are possible, vi and iv impossible; of solidity and
// gravity ui and cv are possible, uv and ci impossible. Videos that differ in the event
// alone are a group, those whose event begins alike a pair (vv with vi), as published.
//
// The videos begin with priming, in which the objects are shown. The published evaluation
// leaves it out, with tables of frames that do not come with the videos: continuity.csv,
// gravity.csv and solidity.csv, with the columns vid1_path, vid1_end_priming_2, vid1_label
// and the same for vid2. Where a table lies beside the folders, what it lists is read, from
// the frame after the priming on; else whole videos, as in the published variant with
// priming. Either way the longer video of a pair loses frames at its start until both are
// as long, as published.
func readInfLevel(r *datasetReader) error {
	properties := []string{"continuity", "solidity", "gravity"}
	found := false
	for _, property := range properties {
		found = found || r.exists(property)
	}
	if !found {
		return otherFolder("folders " + strings.Join(properties, ", "))
	}
	for _, property := range properties {
		if !r.exists(property) {
			r.note("property %s is not there", property)
			continue
		}
		if err := r.infLevelProperty(property); err != nil {
			return err
		}
	}
	return nil
}

func (r *datasetReader) infLevelProperty(property string) error {
	names, err := r.list(property, false)
	if err != nil {
		return err
	}
	first, err := r.primingEnds(property)
	if err != nil {
		return err
	}
	if first == nil {
		r.note("no table %s.csv: videos of %s are taken from their first frame on, priming included", property, property)
	}
	type pairKey struct{ group, pair string }
	videos := map[pairKey][]Video{}
	var order []pairKey
	for _, file := range names {
		v, err := infLevelVideo(property, path.Join(property, file))
		if err != nil {
			return err
		}
		if first != nil {
			from, listed := first[v.Name]
			if !listed {
				r.note("%s is not in %s.csv and is left out", v.Name, property)
				continue
			}
			if from.label != v.Label {
				return fmt.Errorf("%s: possible by its name or by %s.csv, not by both", v.Name, property)
			}
			v.First = from.frame
			delete(first, v.Name)
		}
		key := pairKey{v.Group, v.Pair}
		if videos[key] == nil {
			order = append(order, key)
		}
		videos[key] = append(videos[key], v)
	}
	for _, name := range slices.Sorted(maps.Keys(first)) {
		r.note("%s is in %s.csv and not there", name, property)
	}
	for _, key := range order {
		pair := videos[key]
		if len(pair) != 2 {
			r.note("%s has no counterpart and is left out", pair[0].Name)
			continue
		}
		for _, v := range pair {
			if err := r.add(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// infLevelVideo reads a file's name.
func infLevelVideo(property, name string) (Video, error) {
	v := Video{Name: name, Property: property, EqualLength: true}
	parts := strings.Split(strings.TrimSuffix(path.Base(name), path.Ext(name)), "__")
	if len(parts) < 5 || len(parts) > 6 {
		return v, fmt.Errorf("%s: want camera__category__cover__object__event and, in the laboratory's continuity, __direction", name)
	}
	event := parts[4]
	switch property + " " + event {
	case "continuity vv", "continuity ii", "solidity ui", "solidity cv", "gravity ui", "gravity cv":
		v.Label = 1
	case "continuity vi", "continuity iv", "solidity uv", "solidity ci", "gravity uv", "gravity ci":
	default:
		return v, fmt.Errorf("%s: event %q is none of %s", name, event, property)
	}
	v.Pair = event[:1]
	parts[4] = "" // what is left tells one scene from another
	v.Group = path.Join(property, strings.Join(parts, "__"))
	return v, nil
}

const maxPriming = 1 << 16 // frames

// priming is what a table says of a video.
type priming struct {
	frame int // the first one after the priming
	label int
}

// primingEnds reads a property's table, if there is one, by video.
func (r *datasetReader) primingEnds(property string) (map[string]priming, error) {
	table := property + ".csv"
	if !r.exists(table) {
		return nil, nil
	}
	ends := map[string]priming{}
	columns := []string{"vid1_path", "vid1_end_priming_2", "vid1_label", "vid2_path", "vid2_end_priming_2", "vid2_label"}
	err := r.rows(table, columns, func(_ int, cell func(string) string) error {
		for _, of := range []string{"vid1", "vid2"} {
			name := path.Clean(cell(of + "_path"))
			if _, twice := ends[name]; twice || name == "." {
				return fmt.Errorf("%s_path: %q, want a path that no other row has", of, cell(of+"_path"))
			}
			end, err := strconv.Atoi(cell(of + "_end_priming_2"))
			if err != nil || end < 0 || end >= maxPriming {
				return fmt.Errorf("%s_end_priming_2: %q, want the number of a frame below %d", of, cell(of+"_end_priming_2"), maxPriming)
			}
			p := priming{frame: end + 1}
			switch cell(of + "_label") {
			case "possible":
				p.label = 1
			case "impossible":
			default:
				return fmt.Errorf("%s_label: %q, want possible or impossible", of, cell(of+"_label"))
			}
			ends[name] = p
		}
		return nil
	})
	return ends, err
}
