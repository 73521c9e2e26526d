package sweep

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// step is one part of a path: a field, and with index ≥ 0 one element of it.
type step struct {
	field protoreflect.FieldDescriptor
	index int
}

// field is a field of a job's specification that a parameter sets.
type field struct {
	path  string
	steps []step                   // at least two: the kind of job, and a field below it
	in    protoreflect.MessageType // that has the last one
}

func (f field) leaf() step { return f.steps[len(f.steps)-1] }

// parsePath finds the field that a path names below spec. List elements that it names must be there in spec.
func parsePath(path string, spec *surmisev1.JobSpec) (field, error) {
	f := field{path: path}
	m := spec.ProtoReflect()
	parts := strings.Split(path, ".")
	for i, part := range parts {
		name, index, err := parsePart(part)
		if err != nil {
			return f, err
		}
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		switch {
		case fd == nil:
			return f, fmt.Errorf("%s has no field %q", m.Descriptor().Name(), name)
		case i == 0 && !m.Has(fd):
			return f, fmt.Errorf("the base job is no %q job", name)
		case index >= 0 && !fd.IsList():
			return f, fmt.Errorf("%q is no list, so %q names nothing", name, part)
		case index >= 0 && index >= m.Get(fd).List().Len():
			return f, fmt.Errorf("%q is beyond the base job's %d", part, m.Get(fd).List().Len())
		case fd.IsMap():
			return f, fmt.Errorf("%q is a map, which a sweep does not set", name)
		}
		f.steps, f.in = append(f.steps, step{fd, index}), m.Type()
		if i == len(parts)-1 {
			break
		}
		if fd.Message() == nil || fd.IsList() && index < 0 {
			return f, fmt.Errorf("%q has no fields below it", part)
		}
		if index >= 0 {
			m = m.Get(fd).List().Get(index).Message()
		} else {
			m = m.Get(fd).Message() // an empty one where it is not set
		}
	}
	if len(f.steps) < 2 {
		return f, fmt.Errorf("names the whole job; name one of its fields, such as %q", parts[0]+".seed")
	}
	return f, nil
}

// parsePart takes "name" or "name[index]" apart; index is −1 without one.
func parsePart(part string) (name string, index int, err error) {
	name, rest, indexed := strings.Cut(part, "[")
	if !indexed {
		return name, -1, nil
	}
	digits, closed := strings.CutSuffix(rest, "]")
	n, err := strconv.ParseUint(digits, 10, 31)
	if !closed || err != nil {
		return "", 0, fmt.Errorf("%q: want NAME or NAME[INDEX]", part)
	}
	return name, int(n), nil
}

// within reports whether f is the field g or a part of it.
func (f field) within(g field) bool {
	if len(f.steps) < len(g.steps) {
		return false
	}
	for i, s := range g.steps {
		if f.steps[i].field != s.field || s.index >= 0 && f.steps[i].index >= 0 && f.steps[i].index != s.index {
			return false
		}
	}
	return true
}

// setting is a value of a field, in a message that holds nothing else.
type setting struct {
	holder protoreflect.Message
	text   string // as JSON
}

// exactly is the number below which every whole number has a JSON number of its own.
const exactly = 1 << 53

// parse reads a value as the field is written in JSON.
func (f field) parse(v *structpb.Value) (setting, error) {
	if _, null := v.GetKind().(*structpb.Value_NullValue); null || v.GetKind() == nil {
		return setting{}, fmt.Errorf("null is no value of %s", f.path)
	}
	if n, number := v.GetKind().(*structpb.Value_NumberValue); number && math.Abs(n.NumberValue) >= exactly {
		if kind := f.leaf().field.Kind(); kind == protoreflect.Uint64Kind || kind == protoreflect.Int64Kind {
			return setting{}, fmt.Errorf("%s: %.0f as a JSON number may not be the number that was written; write it as a string", f.path, n.NumberValue)
		}
	}
	value := v
	if f.leaf().index >= 0 {
		value = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	text, err := protojson.Marshal(&structpb.Struct{Fields: map[string]*structpb.Value{string(f.leaf().field.Name()): value}})
	if err != nil {
		return setting{}, fmt.Errorf("%s: %w", f.path, err)
	}
	holder := f.in.New()
	if err := protojson.Unmarshal(text, holder.Interface()); err != nil {
		return setting{}, fmt.Errorf("%s: %s", f.path, plain(err))
	}
	shown, err := protojson.Marshal(v)
	if err != nil {
		return setting{}, fmt.Errorf("%s: %w", f.path, err)
	}
	return setting{holder, string(shown)}, nil
}

// plain takes protojson's prefix and its position in our own text off an error.
func plain(err error) string {
	text := strings.TrimSpace(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto:"))
	if strings.HasPrefix(text, "(line ") {
		if _, rest, ok := strings.Cut(text, "): "); ok {
			return rest
		}
	}
	return text
}

// number is a setting of a numeric field; v fits it.
func (f field) number(v float64) setting {
	holder := f.in.New()
	s := setting{holder, strconv.FormatFloat(v, 'g', -1, 64)}
	s.put(holder, f.leaf(), numberOf(f.leaf().field.Kind(), v))
	return s
}

// whole is number for a whole number, which may be larger than a float64 tells apart.
func (f field) whole(v int64) setting {
	holder := f.in.New()
	s := setting{holder, strconv.FormatInt(v, 10)}
	s.put(holder, f.leaf(), wholeOf(f.leaf().field.Kind(), v))
	return s
}

// put stores v in a holder: where the step has an index, as the only element.
func (setting) put(holder protoreflect.Message, at step, v protoreflect.Value) {
	if at.index >= 0 {
		holder.Mutable(at.field).List().Append(v)
		return
	}
	holder.Set(at.field, v)
}

// set sets the field in spec. The setting stays good for other jobs.
func (f field) set(spec *surmisev1.JobSpec, s setting) {
	m, at := f.parent(spec), f.leaf()
	holder := s.holder
	if at.field.IsList() || at.field.Message() != nil {
		holder = proto.Clone(holder.Interface()).ProtoReflect() // the job must not share it
	}
	if at.index >= 0 {
		m.Mutable(at.field).List().Set(at.index, holder.Get(at.field).List().Get(0))
		return
	}
	if !holder.Has(at.field) { // a zero without presence
		m.Clear(at.field)
		return
	}
	m.Set(at.field, holder.Get(at.field))
}

// parent is the message in spec that holds the field, made where it is absent.
func (f field) parent(spec *surmisev1.JobSpec) protoreflect.Message {
	m := spec.ProtoReflect()
	for _, s := range f.steps[:len(f.steps)-1] {
		if s.index >= 0 {
			m = m.Mutable(s.field).List().Get(s.index).Message()
		} else {
			m = m.Mutable(s.field).Message()
		}
	}
	return m
}

// element is the kind of a single number in the field; ok is false for what is no number, or a whole list.
func (f field) element() (kind protoreflect.Kind, ok bool) {
	at := f.leaf()
	if at.field.IsList() && at.index < 0 {
		return 0, false
	}
	kind = at.field.Kind()
	return kind, isFloat(kind) || isWhole(kind)
}

func isFloat(k protoreflect.Kind) bool {
	return k == protoreflect.FloatKind || k == protoreflect.DoubleKind
}

func isWhole(k protoreflect.Kind) bool {
	_, _, ok := bounds(k)
	return ok
}

// bounds are the whole numbers that a field of this kind holds, as far as an int64 goes; ok is false for other kinds.
func bounds(k protoreflect.Kind) (low, high int64, ok bool) {
	switch k {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return math.MinInt32, math.MaxInt32, true
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return math.MinInt64, math.MaxInt64, true
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return 0, math.MaxUint32, true
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return 0, math.MaxInt64, true
	}
	return 0, 0, false
}

func numberOf(k protoreflect.Kind, v float64) protoreflect.Value {
	if k == protoreflect.FloatKind {
		return protoreflect.ValueOfFloat32(float32(v))
	}
	return protoreflect.ValueOfFloat64(v)
}

func wholeOf(k protoreflect.Kind, v int64) protoreflect.Value {
	switch k {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(v))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(v))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(v))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return numberOf(k, float64(v))
	default:
		return protoreflect.ValueOfInt64(v)
	}
}
