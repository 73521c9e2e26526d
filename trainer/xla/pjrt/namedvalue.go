package pjrt

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"unsafe"
)

// Kinds of named values.
const (
	kindString int32 = iota
	kindInt64
	kindInt64s
	kindFloat
	kindBool
)

// Option is a setting of a client, by the name that the plugin knows it by.
type Option struct {
	Name  string
	Value any // string, int64, []int64, float32 or bool
}

// named brings options into the plugin's form. What they point to is pinned.
func named(options []Option, pins *runtime.Pinner) ([]namedValue, error) {
	out := make([]namedValue, len(options))
	for i, o := range options {
		v := &out[i]
		v.size = unsafe.Sizeof(*v)
		v.name = pinned(o.Name, pins)
		v.count = 1
		switch x := o.Value.(type) {
		case string:
			t := pinned(x, pins)
			v.kind, v.value, v.count = kindString, uint64(uintptr(unsafe.Pointer(t.at))), t.size
		case int64:
			v.kind, v.value = kindInt64, uint64(x)
		case []int64:
			v.kind, v.count = kindInt64s, uintptr(len(x))
			if len(x) > 0 {
				pins.Pin(&x[0])
				v.value = uint64(uintptr(unsafe.Pointer(&x[0])))
			}
		case float32:
			v.kind, v.value = kindFloat, uint64(math.Float32bits(x))
		case bool:
			v.kind = kindBool
			if x {
				v.value = 1
			}
		default:
			return nil, fmt.Errorf("option %s: a %T, want string, int64, []int64, float32 or bool", o.Name, o.Value)
		}
	}
	return out, nil
}

// pinned is a copy of s that stays where it is, ended by a zero, until pins are taken out.
func pinned(s string, pins *runtime.Pinner) text {
	b := append([]byte(s), 0)
	pins.Pin(&b[0])
	return text{&b[0], uintptr(len(s))}
}

// String shows a value that came from the plugin.
func (v *namedValue) String() string {
	switch v.kind {
	case kindString:
		return text{(*byte)(foreign(uintptr(v.value))), v.count}.String()
	case kindInt64:
		return fmt.Sprint(int64(v.value))
	case kindInt64s:
		if v.value == 0 {
			return ""
		}
		return joined(unsafe.Slice((*int64)(foreign(uintptr(v.value))), min(v.count, maxAttributes)))
	case kindFloat:
		return fmt.Sprint(math.Float32frombits(uint32(v.value)))
	case kindBool:
		return fmt.Sprint(byte(v.value) != 0)
	}
	return fmt.Sprintf("value of kind %d", v.kind)
}

// joined writes 1, 13, 0 as "1.13.0", which is how versions are given.
func joined(xs []int64) string {
	out := make([]string, len(xs))
	for i, x := range xs {
		out[i] = fmt.Sprint(x)
	}
	return strings.Join(out, ".")
}
