package trainer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// flatten lists a config's settings by path, such as model.patch, as JSON text.
func flatten(c Config) (map[string]string, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("compare configs: %w", err)
	}
	out := map[string]string{}
	flattenInto(out, "", raw)
	return out, nil
}

func flattenInto(out map[string]string, prefix string, raw json.RawMessage) {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil || object == nil {
		out[prefix] = string(raw)
		return
	}
	for name, value := range object {
		path := name
		if prefix != "" {
			path = prefix + "." + name
		}
		flattenInto(out, path, value)
	}
}

func sortedKeys(a, b map[string]string) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
