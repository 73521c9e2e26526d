package plausibility

import (
	"path"
	"slices"
	"strings"
)

// graspProperties are those of level 2 that the published evaluation takes, in its order.
var graspProperties = []string{
	"Collision", "Continuity", "Gravity", "GravityContinuity", "GravityInertia", "GravityInertia2", "GravitySupport",
	"Inertia", "Inertia2", "ObjectPermanence", "ObjectPermanence2", "ObjectPermanence3", "SolidityContinuity",
	"SolidityContinuity2", "Unchangeableness", "Unchangeableness2",
}

// readGRASP reads level 2 of GRASP (Jassim et al., arXiv:2311.09048): for each property two
// folders, the possible videos and the impossible ones.
//
//	P_Collision/000.mp4 …
//	IP_Collision/000.mp4 …
//
// Videos of one file name are a pair, as published, and a group. Of properties, those of
// the published evaluation are read.
func readGRASP(r *datasetReader) error {
	folders, err := r.list(".", true)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(folders, func(name string) bool { return strings.HasPrefix(name, "IP_") }) {
		return otherFolder("folders P_Collision, IP_Collision and the like, as in level2")
	}
	for _, folder := range folders {
		_, property, isProperty := strings.Cut(folder, "P_") // of P_ or IP_
		if isProperty && !slices.Contains(graspProperties, property) {
			r.note("%s is no property of the published evaluation and is left out", folder)
		}
	}
	var missing []string
	for _, property := range graspProperties {
		possible, err := r.list("P_"+property, false)
		if err != nil {
			return err
		}
		impossible, err := r.list("IP_"+property, false)
		if err != nil {
			return err
		}
		if len(possible)+len(impossible) == 0 {
			missing = append(missing, property)
		}
		for _, name := range possible {
			if !slices.Contains(impossible, name) {
				r.note("P_%s/%s has no counterpart in IP_%s and is left out", property, name, property)
				continue
			}
			group := path.Join(property, strings.TrimSuffix(name, path.Ext(name)))
			for label, folder := range []string{"IP_" + property, "P_" + property} {
				if err := r.add(Video{Name: path.Join(folder, name), Label: label, Group: group, Property: property}); err != nil {
					return err
				}
			}
		}
		for _, name := range impossible {
			if !slices.Contains(possible, name) {
				r.note("IP_%s/%s has no counterpart in P_%s and is left out", property, name, property)
			}
		}
	}
	if len(missing) > 0 {
		r.note("not there: %s", strings.Join(missing, ", "))
	}
	return nil
}
