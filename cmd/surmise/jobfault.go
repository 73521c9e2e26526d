package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// jsonFault finds the first value of a JSON object that a message does not have or take, and says which: "train.optimizer: no
// field \"lr\"; it has …". It is "" where the fault is another, such as a number out of range, which protojson then names.
func jsonFault(text []byte, of protoreflect.MessageDescriptor) string {
	return objectFault("", text, of)
}

func objectFault(path string, text json.RawMessage, of protoreflect.MessageDescriptor) string {
	if strings.HasPrefix(string(of.FullName()), "google.protobuf.") { // times and the like have forms of their own
		return ""
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		if kind := kindOf(text); path != "" && kind != "an object" && kind != "null" {
			return fmt.Sprintf("%s: want an object, not %s", path, kind)
		}
		return ""
	}
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		field := of.Fields().ByJSONName(name)
		if field == nil {
			field = of.Fields().ByName(protoreflect.Name(name))
		}
		if field == nil {
			if path == "" { // what a request has besides its job is for those who call the API
				return ""
			}
			return fmt.Sprintf("%s: no field %q; it has %s", path, name, fieldNames(of))
		}
		if fault := valueFault(strings.TrimPrefix(path+"."+string(field.Name()), "."), members[name], field); fault != "" {
			return fault
		}
	}
	return ""
}

func valueFault(path string, text json.RawMessage, field protoreflect.FieldDescriptor) string {
	kind := kindOf(text)
	switch {
	case kind == "null":
		return ""
	case field.IsMap():
		return ""
	case field.IsList() && kind != "a list":
		return fmt.Sprintf("%s: want a list, as in [%s]", path, strings.TrimSpace(string(text)))
	case field.IsList() && field.Message() != nil:
		var elements []json.RawMessage
		_ = json.Unmarshal(text, &elements) // it is a list
		for i, element := range elements {
			if fault := objectFault(fmt.Sprintf("%s[%d]", path, i), element, field.Message()); fault != "" {
				return fault
			}
		}
		return ""
	case field.IsList():
		return ""
	case field.Message() != nil:
		return objectFault(path, text, field.Message())
	case kind == "a list" || kind == "an object":
		return fmt.Sprintf("%s: want a value, not %s", path, kind)
	case field.Kind() == protoreflect.StringKind && kind != "a text":
		return fmt.Sprintf("%s: want a text in quotes, not %s", path, strings.TrimSpace(string(text)))
	case field.Kind() == protoreflect.BoolKind && kind != "true or false":
		return fmt.Sprintf("%s: want true or false, not %s", path, strings.TrimSpace(string(text)))
	}
	return ""
}

func kindOf(text json.RawMessage) string {
	switch first := strings.TrimSpace(string(text)); {
	case first == "null":
		return "null"
	case strings.HasPrefix(first, "{"):
		return "an object"
	case strings.HasPrefix(first, "["):
		return "a list"
	case strings.HasPrefix(first, `"`):
		return "a text"
	case first == "true" || first == "false":
		return "true or false"
	}
	return "a number"
}

func fieldNames(of protoreflect.MessageDescriptor) string {
	var names []string
	for i := range of.Fields().Len() {
		names = append(names, string(of.Fields().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}
